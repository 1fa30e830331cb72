# schedule() has pg_cron call run(), as the inbox's owner.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

# A job may have to wait for the next full minute.
BEGIN { $ENV{PG_TEST_TIMEOUT_DEFAULT} = 90 if ($ENV{PG_TEST_TIMEOUT_DEFAULT} || 0) < 90 }
use EvinboxTest;

my $node = PostgreSQL::Test::Cluster->new('main');
plan skip_all => 'pg_cron is not installed'
  unless -f $node->config_data('--sharedir') . '/extension/pg_cron.control';

$node = evinbox_node('cron', <<'EOS');
shared_preload_libraries = 'evinbox,pg_cron'
cron.database_name = 'app'
cron.host = ''
EOS
my ($stdout, $stderr);

# Jobs connect by libpq, as their user: without password, by cron.host.
set_conf($node, 'cron.host', "'" . $node->host . "'") if 0;
