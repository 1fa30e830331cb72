# After an outage there is much to do, and it is done in small steps.  What an
# inbox waits with for long is not kept in the outbox.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);
use EvinboxTest;

# 16 transactions a segment
my $node = evinbox_node('main', <<'EOS');
evinbox.segment_xids = 16
autovacuum = off
fsync = on
EOS
my $db = 'postgres';

install_evinbox($node, $db);
$node->safe_psql($db, <<'EOS');
ALTER TABLE public.handled ADD xid xid8 DEFAULT pg_current_xact_id();
CREATE FUNCTION public.handle_gate(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF e.action = 'gate' THEN
		PERFORM pg_advisory_xact_lock_shared(42);
	END IF;
	PERFORM public.handle(e, config);
END $$;
CREATE FUNCTION public.broken(e evinbox.event, config jsonb) RETURNS void LANGUAGE sql
	AS 'SELECT public.handle(e, config)';
CREATE PROCEDURE public.record_often(times int, each int, subject text) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. times LOOP
		INSERT INTO evinbox.event (subject_type, subject_id, action)
			SELECT 'Thing', subject, 'happened' FROM generate_series(1, each);
		COMMIT;
	END LOOP;
END $$;
EOS

# -- inboxes that stand still ------------------------------------------------------------
#
# One for each reason there is.  What they have yet to handle becomes a backlog
# after a while, again and again, and the outbox is emptied.

add_inbox($node, $db, 'all');
add_inbox($node, $db, 'paused');
add_inbox($node, $db, 'sharded', shards => 3, config => '{"inbox": "sharded"}');
add_inbox($node, $db, 'scheduled', dispatch => 'scheduled');
add_inbox($node, $db, 'halted', handler => 'public.broken', config => '{"inbox": "halted"}');
my @slow = qw(paused sharded scheduled halted);

record_many($node, $db, 100);
is_exactly_once($node, $db, $_, "$_, before it stops") foreach qw(paused sharded halted);
is_sql($node, $db, "SELECT evinbox.run('scheduled', 50)", '50', 'a scheduled one stops in the midst');
$node->safe_psql($db, <<'EOS');
SELECT evinbox.pause('paused'), evinbox.pause('sharded');
ALTER FUNCTION public.broken RENAME TO gone;
EOS

# Goes through all segments, with events of several sessions that overlap.
sub turn_around
{
	my ($subject) = @_;
	my $bench = start_pgbench($node, $db, <<"EOS", '-c', 3, '-t', 40);
BEGIN;
SELECT evinbox.record_event('Thing', '$subject ' || :client_id, 'happened');
SELECT evinbox.record_event('Thing', '$subject ' || :client_id, 'happened');
COMMIT;
EOS
	finish($bench) or die 'pgbench failed';
}

# The coordinator looks when something happens, or after a pause; a change of a
# rule makes it look now.
sub wait_for_coordinator
{
	my ($sql, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	foreach (1 .. 5 * $PostgreSQL::Test::Utils::timeout_default)
	{
		$node->safe_psql($db, "UPDATE evinbox.inbox SET priority = priority WHERE name = 'all'");
		return pass($name) if $node->safe_psql($db, $sql) eq 't';
		usleep(200_000);
	}
	return fail($name);
}

my $absorbed = "SELECT bool_and(backlog > 0) FROM evinbox.inbox_status WHERE name IN ("
  . join(', ', map { "'$_'" } @slow) . ')';
my $emptied = "SELECT count(*) FILTER (WHERE pg_relation_size(oid) > 0) <= 1"
  . " AND sum(pg_relation_size(oid)) <= 5 * 8192 FROM pg_class WHERE relname ~ '^outbox_\\d\$'";

# transactions that have begun, and some that have recorded, before the backlog
# is made, and go on and commit afterwards
my @open = map { $node->background_psql($db, on_error_stop => 0) } 1 .. 3;
$_->set_query_timer_restart foreach @open;
$_->query_safe('BEGIN') foreach @open;
$open[0]->query_safe('SELECT pg_current_xact_id()');
$open[1]->query_safe("SELECT evinbox.record_event('Thing', 'open', 'happened')");
$open[2]->query_safe("SELECT evinbox.record_event('Thing', 'undone', 'happened')");
$node->safe_psql($db,
	"BEGIN; SELECT evinbox.record_event('Thing', 'prepared', 'happened'); PREPARE TRANSACTION 'p'");

turn_around('first');
wait_for($node, $db, "SELECT state = 'halted' FROM evinbox.inbox_status WHERE name = 'halted'",
	'a rule does not work');
wait_for_coordinator($absorbed, 'what they wait with becomes a backlog');
is_sql($node, $db,
	"SELECT count(DISTINCT lag_events), min(lag_events) > 200 FROM evinbox.inbox_status"
	  . " WHERE name IN ('paused', 'halted')", '1|t', 'inbox_status counts it all the same');

$open[0]->query_safe("SELECT evinbox.record_event('Thing', 'open', 'late')");
turn_around('second');
$open[0]->query_safe('COMMIT');
$open[1]->query_safe("SELECT evinbox.record_event('Thing', 'open', 'late')");
$open[1]->query_safe('COMMIT');
$open[2]->query_safe('ROLLBACK');
$_->quit foreach @open;
$node->safe_psql($db, "COMMIT PREPARED 'p'");

# What the coordinator has stored is on disk, or is done once more.
$node->stop('immediate');
$node->start;
is_exactly_once($node, $db, 'all', 'the one that works');
turn_around('third');
wait_for_coordinator("$emptied AND ($absorbed)", 'it grows, and the outbox is emptied');
record_many($node, $db, 30);

is_sql($node, $db, "SELECT count(*) FROM handled WHERE inbox = 'paused' AND subject LIKE 'first%'", '0',
	'all of it is still to be done');
$node->safe_psql($db, <<'EOS');
SELECT evinbox.resume('paused'), evinbox.resume('sharded');
ALTER FUNCTION public.gone RENAME TO broken;
SELECT evinbox.run('scheduled');
EOS
foreach my $inbox (@slow)
{
	$node->safe_psql($db, "UPDATE evinbox.inbox SET dispatch = 'live' WHERE name = 'scheduled'")
	  if $inbox eq 'scheduled';
	is_exactly_once($node, $db, $inbox, "$inbox, when it goes on");
}
is_sql($node, $db, <<'EOS', '0', 'in the order in which each session has committed');
SELECT count(*) FROM (
	SELECT event_id, lag(event_id) OVER (PARTITION BY inbox, subject ORDER BY n) AS former
	FROM handled WHERE subject ~ '^(first|second|third)') s
WHERE event_id < former
EOS
is_sql($node, $db, "SELECT count(*) FROM handled WHERE subject = 'undone'", '0',
	'nothing of what was rolled back');
is_sql($node, $db, 'SELECT count(*) FROM evinbox.delivery', '0', 'nothing has failed');
wait_for_coordinator('SELECT NOT EXISTS (SELECT FROM evinbox_internal.backlog)',
	'what was their backlog is gone');
wait_for_coordinator($emptied, 'and the outbox is emptied once more');
$node->safe_psql($db, 'DELETE FROM evinbox.inbox; TRUNCATE handled');

# -- an outage ---------------------------------------------------------------------------------
#
# In the midst of what has gathered there is a gate, so that we can look around.

my $max_rss_kb = 0;

sub look_at_rss
{
	foreach my $pid (pids_of($node, 'runner'))
	{
		my ($kb) = (eval { slurp_file("/proc/$pid/status") } // '') =~ /^VmRSS:\s+(\d+) kB/m;

		$max_rss_kb = $kb if defined $kb && $kb > $max_rss_kb;
	}
}

# Lets it begin, and come to its end, and sees that it was done as it should.
sub drains
{
	my ($name, $count, $half, $begin) = @_;
	my $keeper = $node->background_psql($db);
	my ($lag, $former, $is_falling) = (0, $count + 1, 1);

	$keeper->query_safe('SELECT pg_advisory_lock(42)');
	$begin->();
	wait_for($node, $db,
		"SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'evinbox runner' AND wait_event = 'advisory'",
		"$name: it comes to the gate");
	is_sql($node, $db, "SELECT count(*) BETWEEN $half - 1000 AND $half FROM handled", 't',
		"$name: and what is before the gate is done");
	is_sql($node, $db,
		"SELECT lag_events BETWEEN ($count - $half) * 0.9 AND ($count - $half) * 1.1 + 1000, lag > '0'"
		  . " FROM evinbox.inbox_status", 't|t', "$name: inbox_status shows what is left");
	$keeper->quit;

	foreach (1 .. 50 * $PostgreSQL::Test::Utils::timeout_default)
	{
		look_at_rss();
		$lag = $node->safe_psql($db, 'SELECT lag_events FROM evinbox.inbox_status');
		$is_falling = 0 if $lag > $former;
		$former = $lag;
		last if $lag == 0;
		usleep(20_000);
	}
	is($lag, 0, "$name: it comes to its end");
	ok($is_falling, "$name: and ever nearer to it");
	is_sql($node, $db, 'SELECT count(*), count(DISTINCT event_id) FROM handled', "$count|$count",
		"$name: each event is handled once");
	is_sql($node, $db, 'SELECT max(c) <= 500 FROM (SELECT count(*) AS c FROM handled GROUP BY xid) s', 't',
		"$name: no transaction has more than batch_size of them");
	is_sql($node, $db, <<'EOS', '0', "$name: in the order in which each session has committed");
SELECT count(*) FROM (
	SELECT event_id, lag(event_id) OVER (PARTITION BY subject ORDER BY n) AS former FROM handled) s
WHERE event_id < former
EOS
	note "$name: at most $max_rss_kb kB";
	cmp_ok($max_rss_kb, '<', 200 * 1024, "$name: the runner stays small");
	$node->safe_psql($db, 'TRUNCATE handled');
}

set_conf($node, 'evinbox.segment_xids', '65536');
add_inbox($node, $db, 'many', handler => 'public.handle_gate', batch_size => 500);
set_conf($node, 'evinbox.enabled', 'off');
wait_for_workers($node, '', 'nobody is at work');
foreach my $half (1, 2)
{
	my @benches = map { start_pgbench($node, $db, "CALL record_often(2500, 20, 'w$_');", '-t', 1) } 1, 2;
	is((grep { finish($_) } @benches), 2, "events gather, $half");
	record($node, $db, 'gate', 'gate') if $half == 1;
}
drains('an outage', 200001, 100000, sub { set_conf($node, 'evinbox.enabled', 'on') });

# -- one large transaction ---------------------------------------------------------------------

drains('one transaction', 200001, 100000, sub { $node->safe_psql($db, <<'EOS'); });
INSERT INTO evinbox.event (subject_type, subject_id, action)
	SELECT 'Thing', 'w1', CASE g WHEN 100001 THEN 'gate' ELSE 'happened' END
	FROM generate_series(1, 200001) g
EOS

is_healthy($node);
$node->stop;
done_testing();
