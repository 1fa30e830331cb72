# A million events by one COPY: all or nothing, beyond the partitions that were made
# ahead, and each handled once.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use EvinboxTest;

my $events = 1_000_000;
my $node = evinbox_node('main', <<'EOS');
evinbox.partition_size = 300000
max_wal_size = '4GB'
EOS
my $db = 'postgres';
my $file = PostgreSQL::Test::Utils::tempdir() . '/events';

install_evinbox($node, $db);
$node->safe_psql($db, <<'EOS');
INSERT INTO evinbox.action (subject_type, action) VALUES ('Thing', 'happened');
INSERT INTO evinbox.inbox (name, batch_size, statement)
	VALUES ('all', 50000, $$INSERT INTO public.handled (inbox, event_id) SELECT 'all', id FROM events$$);
EOS

# usage: write_events($count, $action_of_the_last)
sub write_events
{
	my ($count, $last) = @_;

	open(my $handle, '>', $file) or die "$file: $!";
	print $handle "Thing\t$_\t" . ($_ < $count ? 'happened' : $last) . "\n" foreach 1 .. $count;
	close($handle) or die "$file: $!";
}

sub copy
{
	return $node->psql($db, "\\copy evinbox.event (subject_type, subject_id, action) FROM '$file'",
		stderr => $_[0]);
}

# -- the last one is wrong ------------------------------------------------------------

my $error;
write_events(100_000, 'burst');
isnt(copy(\$error), 0, 'one wrong event, and the COPY fails');
like($error, qr/ERROR: +subject type "Thing" has no action "burst".*line 100000/s, 'with the reason and the line');
is_sql($node, $db, 'SELECT count(*) FROM evinbox.event', '0', 'nothing is stored');

# -- all are right --------------------------------------------------------------------

write_events($events, 'happened');
is(copy(\$error), 0, 'a million events') or diag $error;
is_sql($node, $db, 'SELECT count(*), count(DISTINCT subject_id) FROM evinbox.event', "$events|$events", 'all are there');
is_exactly_once($node, $db, 'all', 'dispatch');
is_sql($node, $db, 'SELECT count(*) FROM evinbox.delivery', '0', 'none has failed');

# what no partition was there for became one
wait_for($node, $db, 'SELECT count(*) = 0 FROM evinbox_internal.event_default', 'the default partition is empty again');
is_exactly_once($node, $db, 'all', 'and then');

is_healthy($node);
$node->stop;
done_testing();
