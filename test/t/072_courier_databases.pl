# Calls under way, and databases that come, go, are copied, or change their server;
# and a courier that has nothing to do.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep time);
use EvinboxReceiver;
use EvinboxTest;

my $conf = <<'EOS';
autovacuum = off
checkpoint_timeout = '1d'
log_min_messages = warning
evinbox.webhook_allow = '127.0.0.0/8'
evinbox.webhook_allow_http = on
EOS
my $node = evinbox_node('main', $conf, allows_streaming => 1);
my $db = 'app';
my $receiver = EvinboxReceiver->new($node->basedir);

$node->safe_psql('postgres', "CREATE DATABASE $db");
install_evinbox($node, $db);
$node->safe_psql($db, <<"EOS");
INSERT INTO evinbox.endpoint (name, url, timeout, retries)
VALUES ('hanging', '@{[ $receiver->url('/hang') ]}', '10 min', '{1 h}'),
	('switched', '@{[ $receiver->url('/switch') ]}', '5 s', '{50 ms}'),
	('fine', '@{[ $receiver->url('/fine') ]}', '5 s', '{50 ms}');
EOS

sub request
{
	my ($server, $base, $target) = @_;

	return $server->safe_psql($base, "SELECT evinbox.http_request('$target', 'x'::text)");
}

# -- idle --------------------------------------------------------------------------------

request($node, $db, 'fine');
$receiver->wait_for('/fine', 1, 'a request is sent');
my $looking = <<'EOS';
SELECT pg_current_wal_insert_lsn(), pg_snapshot_xmax(pg_current_snapshot()),
	string_agg(concat_ws(' ', backend_type, pid, state_change), ', ' ORDER BY pid)
FROM pg_stat_activity WHERE backend_type LIKE 'evinbox%'
EOS
my ($before, $after) = ('', '');
foreach my $round (1 .. 6)
{
	$before = $node->safe_psql('postgres', $looking);
	sleep 2;
	$after = $node->safe_psql('postgres', $looking);
	last if $before eq $after;
}
is($after, $before, 'then the courier sleeps: no transaction, no WAL, no transaction id');

# -- databases that are dropped, and copied ----------------------------------------------------

request($node, $db, 'hanging') foreach 1 .. 5;
$receiver->wait_for('/hang', 5, 'calls are under way');
$node->safe_psql('postgres', "CREATE DATABASE copy TEMPLATE $db");
ok(1, 'a database can be copied meanwhile');
$receiver->wait_for('/hang', 10, 'after which the courier begins again');
request($node, 'copy', 'fine');
wait_for_workers($node, "coordinator\@$db coordinator\@copy courier\@$db", 'the copy has none');
is(scalar $receiver->received('/hang'), 10, 'and sends nothing');
is(scalar $receiver->received('/fine'), 1, 'neither old nor new');

# a copy that is made the original
$node->safe_psql('copy', "DELETE FROM evinbox.endpoint WHERE name = 'hanging'; SELECT evinbox.resume_after_restore('discard')");
my $fine = scalar $receiver->received('/fine');
request($node, 'copy', 'fine');
$receiver->wait_for('/fine', $fine + 1, 'until it is resumed');

my $start = time;
$node->safe_psql('postgres', 'DROP DATABASE copy');
cmp_ok(time - $start, '<', 5, 'it can be dropped');
$start = time;
$node->safe_psql('postgres', "ALTER DATABASE $db RENAME TO other; ALTER DATABASE other RENAME TO $db")
  foreach 1 .. 2;
cmp_ok(time - $start, '<', 10, 'a database with calls under way can be renamed');

# The courier may hear of a setting later than others.
sub is_dead_at_once
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $outcome = '';

	foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		my $request = request($node, $db, 'fine');

		$node->poll_query_until($db, "SELECT EXISTS (SELECT FROM evinbox_internal.webhook_attempt WHERE request_id = $request)");
		$outcome = $node->safe_psql($db, "SELECT outcome FROM evinbox_internal.webhook_attempt WHERE request_id = $request");
		last if $outcome eq 'dead';
	}
	return is($outcome, 'dead', $name);
}

# -- settings ------------------------------------------------------------------------------

set_conf($node, 'evinbox.webhook_allow_http', 'off');
wait_for_workers($node, "coordinator\@$db courier\@$db", 'the courier is there');
is_dead_at_once('http is not called if it is not allowed any more');
set_conf($node, 'evinbox.webhook_allow_http', 'on');
$node->safe_psql('postgres', "ALTER SYSTEM SET evinbox.webhook_allow = ''");
$node->reload;
wait_for($node, 'postgres', "SELECT current_setting('evinbox.webhook_allow') = ''", 'the setting is another one');
is_dead_at_once('nor is an address that is not allowed any more');
$node->safe_psql('postgres', "ALTER SYSTEM SET evinbox.webhook_allow = '127.0.0.0/8'");
$node->reload;

my ($courier) = pids_of($node, 'courier', $db);
$node->safe_psql('postgres', "ALTER SYSTEM SET evinbox.webhook_ca_file = '/nowhere'");
$node->reload;
wait_for($node, 'postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'evinbox courier' AND pid <> $courier",
	'another file of certificates takes another courier');
$node->safe_psql('postgres', "ALTER SYSTEM RESET evinbox.webhook_ca_file");
$node->reload;

my $others = scalar $receiver->received('/fine');
my $later = $node->safe_psql($db, "BEGIN; SELECT evinbox.http_request('fine', 'x'::text);"
	  . " UPDATE evinbox.endpoint SET enabled = false WHERE name = 'fine'; COMMIT");
request($node, $db, $receiver->url('/other'));
$receiver->wait_for('/other', 1, 'others are sent');
is(scalar $receiver->received('/fine'), $others, 'nothing is sent to an endpoint that is off');
$node->safe_psql($db, "UPDATE evinbox.endpoint SET enabled = true WHERE name = 'fine'");
wait_for($node, $db, "SELECT outcome = 'delivered' FROM evinbox_internal.webhook_attempt WHERE request_id = $later",
	'what waits is sent when it is on again');

$receiver->switch(500);
my $orphan = request($node, $db, 'switched');
$receiver->wait_for('/switch', 2, 'a request that is tried again');
$node->safe_psql($db, "DELETE FROM evinbox.endpoint WHERE name = 'switched'");
wait_for($node, $db, "SELECT EXISTS (SELECT FROM evinbox_internal.webhook_attempt WHERE request_id = $orphan"
	  . " AND outcome = 'dead' AND error LIKE '%does not exist any more')", 'is given up when its endpoint is deleted');
$receiver->switch(200);

# -- another server takes over ---------------------------------------------------------------

$node->backup('b');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'b', has_streaming => 1);
$standby->start;
$node->safe_psql('postgres', "ALTER SYSTEM SET synchronous_standby_names = 'standby'");
$node->reload;
my $hanging = scalar $receiver->received('/hang');
my $delivered = request($node, $db, 'fine');
my $under_way = request($node, $db, 'hanging');
$receiver->wait_for('/hang', $hanging + 1, 'a call is under way');
wait_for($node, $db, "SELECT outcome = 'delivered' FROM evinbox_internal.webhook_attempt WHERE request_id = $delivered",
	'another is delivered');
$node->wait_for_catchup($standby);
$others = scalar $receiver->received('/fine');
$hanging = scalar $receiver->received('/hang');
is(join(' ', pids_of($standby, 'courier')), '', 'a standby has no courier');
$node->stop('immediate');
$standby->promote;
$receiver->wait_for('/hang', $hanging + 1, 'the new primary sends what was under way');
wait_for($standby, $db, 'SELECT true', 'and works');
request($standby, $db, 'fine');
$receiver->wait_for('/fine', $others + 1, 'and what is new');
is(scalar $receiver->received('/fine'), $others + 1, 'but not what was delivered');

$start = time;
$standby->stop('fast');
cmp_ok(time - $start, '<', 5, 'a server stops at once, whatever is under way');
is_healthy($standby);
done_testing();
