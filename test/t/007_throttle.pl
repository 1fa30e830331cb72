# Fifty sessions record the same throttled event at the same moment.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use EvinboxTest;

my $node = evinbox_node('main', "deadlock_timeout = '10s'\nautovacuum = off");
my $db = 'postgres';

install_evinbox($node, $db);
add_inbox($node, $db, 'all');

foreach my $level ('read committed', 'repeatable read', 'serializable')
{
	foreach my $by ('subject', 'actor')
	{
		my $what = "$level, by $by";

		# All of them wait at the gate, each with its snapshot taken.
		my $gate = $node->background_psql($db);
		$gate->query_safe('SELECT pg_advisory_lock(42)');
		my $bench = start_pgbench($node, $db, <<EOS, '-c', 50, '-j', 2, '-t', 1);
BEGIN ISOLATION LEVEL $level;
SELECT count(*) FROM evinbox.event;
SELECT pg_advisory_xact_lock_shared(42);
SELECT evinbox.record_event('Door', '$what', 'opened', 'User:1',
	throttle => '1 hour', throttle_by => '$by');
COMMIT;
EOS
		wait_for($node, $db,
			"SELECT count(*) = 50 FROM pg_locks"
			  . " WHERE locktype = 'advisory' AND objid = 42 AND NOT granted",
			"$what: 50 sessions are at the gate");
		$gate->query_safe('SELECT pg_advisory_unlock(42)');
		my $went_well = finish($bench);
		if ($level eq 'serializable')
		{
			unlike($bench->{err}, qr/ERROR:(?!  could not serialize)/,
				"$what: a serialization failure is the only error");
		}
		else
		{
			ok($went_well, "$what: no session fails");
		}
		is_sql($node, $db, "SELECT count(*) FROM evinbox.event WHERE subject_id = '$what'", '1',
			"$what: one event is left");
		$gate->quit;
	}
}

# The first ones roll back, and suppress nobody.
my $bench = start_pgbench($node, $db, <<'EOS', '-c', 10, '-j', 2, '-t', 1);
BEGIN;
SELECT evinbox.record_event('Door', 'rolled back', 'opened', throttle => '1 hour');
ROLLBACK;
BEGIN;
SELECT evinbox.record_event('Door', 'rolled back', 'opened', throttle => '1 hour');
COMMIT;
EOS
ok(finish($bench), 'ten sessions, each rolls back first');
is_sql($node, $db, "SELECT count(*) FROM evinbox.event WHERE subject_id = 'rolled back'", '1',
	'one event is left');

# A prepared transaction holds up the others, and decides when it ends.
foreach my $end ('COMMIT', 'ROLLBACK')
{
	$node->safe_psql($db, "BEGIN; SELECT evinbox.record_event('Door', '$end', 'opened', throttle => '1 hour');"
		  . " PREPARE TRANSACTION 'p'");
	my $waiting = start_pgbench($node, $db,
		"SELECT evinbox.record_event('Door', '$end', 'opened', throttle => '1 hour')", '-c', 3, '-t', 1);
	wait_for($node, $db,
		"SELECT count(*) = 3 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND wait_event = 'advisory'",
		"three sessions wait for a prepared transaction");
	$node->safe_psql($db, "$end PREPARED 'p'");
	ok(finish($waiting), "$end PREPARED lets them go");
	is_sql($node, $db, "SELECT count(*) FROM evinbox.event WHERE subject_id = '$end'", '1',
		'one event is left');
}

# What is suppressed writes nothing.  Snapshots of running transactions are
# logged now and then, but only after something else was.  And who reads a page
# may find something to prune in it, if nobody did before.
is_exactly_once($node, $db, 'all', 'what was recorded');
$node->safe_psql($db, "SELECT evinbox.record_event('Door', 'quiet', 'opened', throttle => '1 hour')");
is_exactly_once($node, $db, 'all', 'and one more');
$node->safe_psql($db, 'VACUUM');
$node->safe_psql($db, 'CHECKPOINT');
my $state = 'SELECT pg_snapshot_xmax(pg_current_snapshot()), pg_current_wal_insert_lsn()';
$node->poll_query_until($db, "SELECT (SELECT s FROM (SELECT pg_current_wal_insert_lsn() AS s) x)"
	  . " = (SELECT pg_current_wal_insert_lsn() FROM pg_sleep(0.5))");
my $session = $node->background_psql($db);
$session->query_safe("SELECT evinbox.record_event('Door', 'quiet', 'opened', throttle => '1 hour') IS NULL");
my $before = $node->safe_psql($db, $state);
is($session->query_safe(
		"SELECT count(*) FROM generate_series(1, 1000) g"
		  . " WHERE evinbox.record_event('Door', 'quiet', 'opened', throttle => '1 hour') IS NULL"
		  . " AND pg_current_xact_id_if_assigned() IS NULL"),
	'1000', 'a thousand calls are suppressed, without a transaction id');
is($node->safe_psql($db, $state), $before, 'and write no WAL');

is_healthy($node);
$node->stop;
done_testing();
