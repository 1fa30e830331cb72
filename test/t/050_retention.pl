# Partitions of events that have expired are dropped, when nobody needs them, and
# nobody waits for that.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use EvinboxTest;

# what a writer may wait for the lock on evinbox.event, and for anything
my $longest_wait_ms = 100 * ($ENV{EVINBOX_LONGEST_S} // 1);
my $longest_ms = 10 * $longest_wait_ms;
my $node = evinbox_node('main', <<"EOS");
evinbox.partition_size = 1000
evinbox.segment_xids = 256
log_lock_waits = on
deadlock_timeout = ${longest_wait_ms}ms
EOS
my $db = 'postgres';
my $partitions = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'evinbox.event'::regclass";
my $oldest = 'SELECT coalesce(min(id), 0) FROM evinbox.event';
my $writer = "SELECT evinbox.record_event('Thing', 'w' || random(), 'happened');";

# Nothing of the extension refers to a table that is gone, and none is left over.
sub is_tidy
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	wait_for_look(<<'EOS', "$name: no table is left over");
SELECT NOT EXISTS (SELECT FROM pg_class c WHERE relnamespace = 'evinbox_internal'::regnamespace AND relname ~ '^event_' AND relkind = 'r' AND NOT relispartition)
EOS
	return is_sql($node, $db, <<'EOS', '0|0', "$name: the extension knows what it has");
SELECT (SELECT count(*) FROM pg_extension e, unnest(extconfig) o WHERE extname = 'evinbox' AND NOT EXISTS (SELECT FROM pg_class WHERE oid = o)),
	(SELECT count(*) FROM pg_inherits h JOIN pg_class c ON c.oid = h.inhrelid, pg_extension e
		WHERE h.inhparent = 'evinbox.event'::regclass AND e.extname = 'evinbox' AND NOT (c.oid = ANY (e.extconfig)
			AND EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.refobjid = e.oid AND d.deptype = 'e')))
EOS
}

# Polls; a reload of the configuration has the coordinator look at once.
sub wait_for_look
{
	my ($sql, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return wait_for($node, $db, "SELECT pg_reload_conf() AND ($sql)", $name);
}

# Moves ids on by a few partitions.
sub fill
{
	my ($count) = @_;

	$node->safe_psql($db,
		"DO \$\$ BEGIN FOR i IN 1 .. $count / 10 LOOP"
		  . " INSERT INTO evinbox.event (subject_type, subject_id, action)"
		  . " SELECT 'Thing', g::text, 'happened' FROM generate_series(1, 10) g;"
		  . " COMMIT; END LOOP; END \$\$");
}

install_evinbox($node, $db);
add_inbox($node, $db, 'all');
add_inbox($node, $db, 'asleep', dispatch => 'scheduled');

# without retention, everything stays
fill(2500);
is_exactly_once($node, $db, 'all', 'before');
is_sql($node, $db, $oldest, '1', 'nothing is dropped without retention');

# an inbox that lags keeps what it needs
$node->safe_psql($db, "ALTER SYSTEM SET evinbox.retention = '1s'");
$node->reload;
fill(2500);
is_exactly_once($node, $db, 'all', 'while another inbox lags');
is_sql($node, $db, $oldest, '1', 'an inbox that has not run keeps all events');

# a paused one, as well
$node->safe_psql($db, "UPDATE evinbox.inbox SET dispatch = 'live' WHERE name = 'asleep'");
wait_for_handled($node, $db, 'asleep', 5000, 'it comes after');
$node->safe_psql($db, "SELECT evinbox.pause('asleep')");
my $paused_at = record($node, $db, 'paused');
wait_for_look("SELECT ($oldest) > 1", 'what both have handled is dropped');
fill(3000);
my $is_oldest = "SELECT (SELECT tableoid FROM evinbox.event ORDER BY id LIMIT 1) = (SELECT tableoid FROM evinbox.event WHERE id = ";
wait_for_look("$is_oldest $paused_at)", 'up to where the inbox was paused');
fill(1000);
is_sql($node, $db, "$is_oldest $paused_at)", 't', 'and no further');
$node->safe_psql($db, "SELECT evinbox.resume('asleep')");
wait_for_look("SELECT ($oldest) > $paused_at", 'until it is resumed');
is_sql($node, $db, "SELECT count(*) = count(DISTINCT event_id) AND count(*) = (SELECT count(*) FROM handled WHERE inbox = 'all') FROM handled WHERE inbox = 'asleep'",
	't', 'it has had them all, once');
is_tidy('so far');
is_sql($node, $db, "SELECT count(*) FROM evinbox_internal.event_default", '0', 'the default partition is not used');

# what waits for a retry, and a dead letter
$node->safe_psql($db, <<'EOS');
CREATE FUNCTION public.fail(e evinbox.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF e.subject_id LIKE 'fail%' THEN RAISE EXCEPTION 'cannot'; END IF;
END $$;
INSERT INTO evinbox.inbox (name, handler, max_attempts, backoff) VALUES ('dead', 'public.fail', 1, '1 hour'), ('retrying', 'public.fail', 2, '1 hour');
EOS
my $failed = record($node, $db, 'fail');
wait_for($node, $db, "SELECT count(*) = 2 FROM evinbox.delivery", 'deliveries');
fill(3000);
wait_for_look("$is_oldest $failed)", 'partitions before it go');
fill(1000);
is_sql($node, $db, "$is_oldest $failed)", 't', 'that of a retry does not');
is_sql($node, $db, "SELECT subject_id FROM evinbox.dead_letter", 'fail', 'nor the dead letter');
$node->safe_psql($db, "SELECT evinbox.discard('retrying', $failed)");
wait_for_look("SELECT ($oldest) > $failed", 'when nobody will try it again, it goes');
wait_for($node, $db, "SELECT count(*) = 0 FROM evinbox.delivery", 'and what is known of it');
is_tidy('with deliveries');

# a dead letter that somebody is at does not hold up the coordinator
$node->safe_psql($db, "SELECT evinbox.resume('dead')");
$failed = record($node, $db, 'fail');
wait_for($node, $db, "SELECT count(*) = 2 FROM evinbox.delivery", 'deliveries');
$node->safe_psql($db, "SELECT evinbox.discard('retrying', $failed)");
my $operator = $node->background_psql($db);
$operator->query_safe("BEGIN; SELECT FROM evinbox.delivery WHERE event_id = $failed FOR UPDATE;");
fill(3000);
wait_for_look("SELECT ($oldest) > $failed", 'its partition is detached');
fill(3000);
wait_for_look("SELECT count(*) = 0 FROM evinbox_internal.event_default", 'partitions are made all the same');
is_sql($node, $db, "SELECT count(*) FROM evinbox.delivery WHERE event_id = $failed AND state = 'dead'", '1', 'the dead letter is there');
$operator->query_safe('COMMIT;');
$operator->quit;
is_tidy('when he has finished');
is_sql($node, $db, "SELECT count(*) FROM evinbox.delivery", '0', 'so is what is known of it');
$node->safe_psql($db, "DELETE FROM evinbox.inbox WHERE name IN ('dead', 'retrying', 'asleep')");

# an inbox that begins in the past and is not committed yet
my $maker = $node->background_psql($db);
$maker->query_safe("BEGIN; INSERT INTO evinbox.inbox (name, handler, config, start_at) VALUES ('late', 'public.handle', '{\"inbox\": \"late\"}', 'beginning');");
my $start = $node->safe_psql($db, $oldest);
foreach (1 .. 4)
{
	fill(1000);
	$node->reload;
}
is_sql($node, $db, $oldest, $start, 'a new inbox that is to get past events keeps them');
$maker->query_safe('COMMIT;');
$maker->quit;
wait_for_look("SELECT ($oldest) > $start", 'until it has handled them');
is_sql($node, $db, "SELECT count(*) = 1 FROM handled WHERE inbox = 'late' AND event_id = $start", 't', 'which it has');
$node->safe_psql($db, "DELETE FROM evinbox.inbox WHERE name = 'late'");

# a foreign key keeps everything
$node->safe_psql($db, "CREATE TABLE mention (event_id bigint REFERENCES evinbox.event)");
my $mentioned = record($node, $db, 'mentioned');
fill(3000);
is_sql($node, $db, "SELECT count(*) FROM evinbox.event WHERE id = $mentioned", '1', 'a foreign key keeps events');
$node->safe_psql($db, "DROP TABLE mention");
wait_for_look("SELECT ($oldest) > $mentioned", 'until it is gone');

# A reader, then a writer, that is open for long: the lock is not free. Meanwhile
# nobody waits for long.
$node->safe_psql($db, "TRUNCATE handled");
foreach my $holder ('SELECT count(*) FROM evinbox.event', "SELECT evinbox.record_event('Thing', 'held', 'happened')")
{
	my $session = $node->background_psql($db);
	$session->query_safe("BEGIN; $holder;");
	my $before = $node->safe_psql($db, $oldest);
	my $bench = start_pgbench($node, $db, $writer, '-c', '4', '-T', '6', '--log', "--log-prefix=@{[ $node->basedir ]}/held");
	ok(finish($bench), 'writers beside a transaction that holds the lock');
	is_sql($node, $db, $oldest, $before, 'nothing can be dropped meanwhile');
	$session->query_safe('COMMIT;');
	$session->quit;

	# the default partition has been used, and was given room, which is to be filled first
	fill(2000);
	wait_for_look("SELECT ($oldest) > $before", 'later it is');
}

# Writers all the time, and a snapshot that is held.
my $session = $node->background_psql($db);
$session->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1;');
my $first = $node->safe_psql($db, $oldest);
my $bench = start_pgbench($node, $db, $writer, '-c', '4', '-T', '8', '--log', "--log-prefix=@{[ $node->basedir ]}/free");
ok(finish($bench), 'writers beside a held snapshot');
wait_for_look("SELECT ($oldest) > $first + 2000", 'partitions are dropped all the same');
$session->query_safe('COMMIT;');
$session->quit;

# third column: microseconds of a transaction
my $longest = 0;
my $count = 0;
foreach my $file (glob($node->basedir . '/held* ' . $node->basedir . '/free*'))
{
	foreach (split /\n/, slurp_file($file))
	{
		my $ms = (split ' ')[2] / 1000;
		$longest = $ms if $ms > $longest;
		$count++;
	}
}
note "longest of $count transactions: $longest ms";
cmp_ok($longest, '<', $longest_ms, 'no writer has waited for long');
my $event = $node->safe_psql($db, "SELECT 'evinbox.event'::regclass::oid");
my @waited = grep { /still waiting for \w+ on relation $event of database/ } split /\n/, slurp_file($node->logfile);
is("@waited", '', "nobody has waited $longest_wait_ms ms for the lock on evinbox.event");

wait_for($node, $db, "SELECT count(*) = 0 FROM evinbox.event e WHERE NOT EXISTS (SELECT FROM handled h WHERE inbox = 'all' AND event_id = e.id)", 'all are handled');
is_sql($node, $db, "SELECT count(*) - count(DISTINCT event_id), count(*) >= $count FROM handled WHERE inbox = 'all'", '0|t', 'each event is handled once');
is_tidy('at the end');
is_sql($node, $db, "SELECT count(*) FROM evinbox_internal.event_default", '0', 'the default partition is not used');

# what somebody detaches is his; a table that is left over after a crash is dropped
$node->safe_psql($db, "ALTER SYSTEM RESET evinbox.retention");
$node->reload;
fill(3000);
my ($his, $left) = split /\n/, $node->safe_psql($db, "SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'evinbox.event'::regclass AND inhrelid::regclass::text ~ 'event_[0-9_]+\$' ORDER BY substring(inhrelid::regclass::text, 'event_([0-9]+)')::bigint LIMIT 2");
$node->safe_psql($db, "ALTER TABLE evinbox.event DETACH PARTITION $_") foreach ($his, $left);
$node->safe_psql($db, "COMMENT ON TABLE $left IS 'expired: evinbox drops it'");
$node->restart;
wait_for_look("SELECT to_regclass('$left') IS NULL", 'what was left over is dropped after a restart');
is_sql($node, $db, "SELECT count(*) > 0 FROM $his", 't', 'what somebody has detached is not');
my $kept = $node->safe_psql($db, $oldest);
$node->safe_psql($db, "ALTER SYSTEM SET evinbox.retention = '1s'");
fill(3000);
wait_for_look("SELECT ($oldest) > $kept", 'nor when others are dropped');
is_sql($node, $db, "SELECT count(*) > 0 FROM $his", 't', 'it is still there');
$node->safe_psql($db, "ALTER EXTENSION evinbox DROP TABLE $his");
$node->safe_psql($db, "DROP TABLE $his");
is_tidy('without it');

is_sql($node, $db, 'DROP EXTENSION evinbox CASCADE', '', 'the extension can be dropped');
is_healthy($node);
$node->stop;
done_testing();
