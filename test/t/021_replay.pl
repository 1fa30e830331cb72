# Past events: replays beside live events, and inboxes that are given history
# first, while others record.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use EvinboxTest;

my $node = evinbox_node('main');
my $db = 'postgres';

install_evinbox($node, $db);
$node->safe_psql($db, <<'EOS');
CREATE FUNCTION public.work(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF e.action = 'gate' THEN
		PERFORM pg_advisory_xact_lock_shared(42);
	END IF;
	PERFORM public.handle(e, config);
END $$;
EOS
my $load = "SELECT evinbox.record_event('Thing', :client_id, 'happened');";

# How often has an inbox handled the events of a range of ids?
sub times_are
{
	my ($inbox, $from, $to, $times, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is_sql($node, $db,
		"SELECT DISTINCT (SELECT count(*) FROM handled h WHERE h.inbox = '$inbox' AND h.event_id = e.id)"
		  . " FROM evinbox.event e WHERE id BETWEEN $from AND $to", $times, $name);
}

sub wait_for_replay
{
	my ($inbox, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	wait_for($node, $db, "SELECT replay_left = 0 FROM evinbox.inbox_status WHERE name = '$inbox'", $name);
}

# -- a replay, beside live events ------------------------------------------------------
#
# In the middle of what is replayed there is an event that waits at a gate: the
# replay is stopped there as long as we like.

add_inbox($node, $db, 'again', handler => 'public.work', replayable => 'true', batch_size => 100);
record_many($node, $db, 2000);
my $gate = record($node, $db, 'the gate', 'gate');
record_many($node, $db, 2000);
wait_for_handled($node, $db, 'again', 4001, 'events are handled');
my $last = $node->safe_psql($db, 'SELECT max(id) FROM evinbox.event');

my $keeper = $node->background_psql($db);
$keeper->set_query_timer_restart;
$keeper->query_safe('SELECT pg_advisory_lock(42)');
$node->safe_psql($db, "SELECT evinbox.replay('again', 101, $last)");
my $at_gate = "SELECT count(*) = 1 FROM pg_stat_activity"
  . " WHERE backend_type = 'evinbox runner' AND wait_event = 'advisory'";
wait_for($node, $db, $at_gate, 'the replay comes to the gate');
is_sql($node, $db,
	"SELECT replay_left BETWEEN 2000 AND 2100, lag_events, backlog FROM evinbox.inbox_status WHERE name = 'again'",
	't|0|0', 'inbox_status shows how much is left of it; it is no lag');
my $live = record($node, $db, 'live');
wait_for($node, $db, "SELECT count(*) = 1 FROM handled WHERE inbox = 'again' AND event_id = $live",
	'a live event does not wait for it');
my $bench = start_pgbench($node, $db, $load, '-c', 2, '-t', 500);
$keeper->query_safe('SELECT pg_advisory_unlock(42)');
wait_for_replay('again', 'it comes to its end');
ok(finish($bench), 'writers meanwhile');
is_sql($node, $db, "SELECT count(*) FROM evinbox.delivery", '0', 'nothing has failed');
times_are('again', 101, $last, '2', 'what was replayed was handled once more');
times_are('again', 1, 100, '1', 'what was not, was not');
wait_for($node, $db,
	"SELECT count(DISTINCT event_id) = (SELECT count(*) FROM evinbox.event WHERE id > $last)"
	  . " FROM handled WHERE inbox = 'again' AND event_id > $last",
	'live events are all handled');
times_are('again', $last + 1, $last + 100000, '1', 'and once');
is_sql($node, $db, <<"EOS", 't', 'a replay goes in the order of ids');
SELECT bool_and(later) FROM (
	SELECT event_id > lag(event_id) OVER (ORDER BY n) AS later
	FROM (SELECT n, event_id, row_number() OVER (PARTITION BY event_id ORDER BY n) AS time
		FROM handled WHERE event_id BETWEEN 101 AND $last) s
	WHERE time = 2) s
EOS

# -- pauses, a refusal, restarts ---------------------------------------------------------

$node->safe_psql($db, 'TRUNCATE handled');
$keeper->query_safe('SELECT pg_advisory_lock(42)');
$node->safe_psql($db, "SELECT evinbox.replay('again', 1, $last)");
wait_for($node, $db, $at_gate, 'another replay comes to the gate');
$node->safe_psql($db, "SELECT evinbox.pause('again')");
$keeper->query_safe('SELECT pg_advisory_unlock(42)');
wait_for($node, $db,
	"SELECT count(*) = 0 FROM pg_stat_activity WHERE backend_type = 'evinbox runner' AND state <> 'idle'",
	'when it is paused, its runner stops');
is_sql($node, $db, "SELECT state FROM evinbox.inbox_status WHERE name = 'again'", 'paused',
	'inbox_status says so');
my $left = $node->safe_psql($db, "SELECT replay_left FROM evinbox.inbox_status WHERE name = 'again'");
cmp_ok($left, '>', 1500, 'with much left');

# "witness" has handled an event, so the runner has had the chance to go on.
sub stands_still
{
	my ($name) = @_;

	add_inbox($node, $db, 'witness', priority => 99);
	my $id = record($node, $db, 'witness');
	wait_for($node, $db, "SELECT count(*) = 1 FROM handled WHERE inbox = 'witness' AND event_id = $id",
		"$name: the runner has looked");
	is_sql($node, $db, "SELECT replay_left FROM evinbox.inbox_status WHERE name = 'again'", $left,
		"$name: the replay stands still");
	$node->safe_psql($db, "DELETE FROM evinbox.inbox WHERE name = 'witness'");
}

stands_still('paused');
$node->restart;
stands_still('after a restart');
$node->safe_psql($db, "UPDATE evinbox.inbox SET enabled = true, replayable = false WHERE name = 'again'");
stands_still('not replayable any more');
my ($code, $out, $err) = $node->psql($db, "\\set VERBOSITY verbose\nSELECT evinbox.replay('again', 1, 2)");
like($err, qr/ERROR:  55000: inbox "again" is not replayable/, 'and no other replay is begun');
$node->safe_psql($db, "UPDATE evinbox.inbox SET replayable = true WHERE name = 'again'");
wait_for_replay('again', 'it goes on');
times_are('again', 1, $last, '1', 'it has left out nothing, and begun nothing anew');

# in the midst of a batch, and in the midst of live events
$node->safe_psql($db, 'TRUNCATE handled');
foreach my $how ('fast', 'immediate')
{
	$keeper = $node->background_psql($db, on_error_stop => 0);
	$keeper->query_safe('SELECT pg_advisory_lock(42)');
	$node->safe_psql($db, "SELECT evinbox.replay('again', 1, $last)");
	wait_for($node, $db, $at_gate, "$how restart: the replay is at the gate");
	record($node, $db, 'live');
	$node->stop($how);
	eval { $keeper->{run}->kill_kill; };
	$node->start;
	record($node, $db, 'live');
	wait_for_replay('again', "$how restart: it goes on");
	times_are('again', 1, $last, $how eq 'fast' ? 1 : 2, "$how restart: each once more");
}

# -- two replays, and two that overlap -------------------------------------------------------

$node->safe_psql($db, 'TRUNCATE handled');
$node->safe_psql($db,
	"SELECT evinbox.replay('again', 1, 500); SELECT evinbox.replay('again', 401, 1000)");
wait_for_replay('again', 'two replays');
times_are('again', 1, 400, '1', 'what is in the first one');
times_are('again', 401, 500, '2', 'what is in both');
times_are('again', 501, 1000, '1', 'what is in the second one');

# events that fail in a replay are retried as others are
$node->safe_psql($db, <<'EOS');
CREATE SEQUENCE public.tries;
CREATE FUNCTION public.fail_first(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF nextval('public.tries') <= 5 THEN
		RAISE EXCEPTION 'not yet';
	END IF;
	PERFORM public.handle(e, config);
END $$;
EOS
add_inbox($node, $db, 'fails', handler => 'public.fail_first', replayable => 'true', backoff => '1 ms',
	subject_types => '{Thing}', max_attempts => 10);
$node->safe_psql($db, "SELECT evinbox.replay('fails', 1, 50)");
wait_for_handled($node, $db, 'fails', 50, 'events that fail in a replay are retried');
times_are('fails', 1, 50, '1', 'and handled once');
is_sql($node, $db, 'SELECT count(*) FROM evinbox.delivery', '0', 'no failure is left');
$node->safe_psql($db, "DELETE FROM evinbox.inbox WHERE name = 'fails'");

# -- history first ----------------------------------------------------------------------------
#
# Writers are at work while inboxes are made: transactions that are open at that
# moment, some with events of before in them.

$node->safe_psql($db, 'TRUNCATE handled');
my @benches = (
	start_pgbench($node, $db, $load, '-c', 2, '-T', 3, '-R', 200),
	start_pgbench($node, $db, <<'EOS', '-c', 4, '-T', 3, '-R', 200));
BEGIN;
SELECT evinbox.record_event('Thing', 100 + :client_id, 'first of several');
\sleep 5 ms
SELECT evinbox.record_event('Thing', 100 + :client_id, 'second');
\sleep 5 ms
SELECT evinbox.record_event('Thing', 100 + :client_id, 'third');
COMMIT;
EOS
my $open = $node->background_psql($db);
$open->query_safe('BEGIN');
$open->query_safe("SELECT evinbox.record_event('Thing', 'open', 'early')");
my $undone = $node->background_psql($db);
$undone->query_safe('BEGIN');
$undone->query_safe("SELECT evinbox.record_event('Thing', 'undone', 'early')");
$node->safe_psql($db,
	"BEGIN; SELECT evinbox.record_event('Thing', 'prepared', 'early'); PREPARE TRANSACTION 'p'");

my $time = $node->safe_psql($db, 'SELECT recorded_at FROM evinbox.event WHERE id = 2000');
foreach my $round (1 .. 3)
{
	add_inbox($node, $db, "begin$round", start_at => 'beginning');
	add_inbox($node, $db, "shards$round", start_at => 'beginning', shards => 3);
	add_inbox($node, $db, "time$round", start_at => $time);
	add_inbox($node, $db, "now$round", start_at => $node->safe_psql($db, 'SELECT clock_timestamp()'));
	record_many($node, $db, 100);
}
$open->query_safe("SELECT evinbox.record_event('Thing', 'open', 'late')");
$open->query_safe('COMMIT');
$undone->query_safe('ROLLBACK');
$node->safe_psql($db, "COMMIT PREPARED 'p'");
is((grep { finish($_) } @benches), 2, 'writers while inboxes are made');
$_->quit foreach $open, $undone;

foreach my $round (1 .. 3)
{
	is_exactly_once($node, $db, "begin$round", "begin$round");
	is_exactly_once($node, $db, "shards$round", "shards$round");
	wait_for($node, $db,
		"SELECT lag_events = 0 AND backlog = 0 FROM evinbox.inbox_status WHERE name = '$_$round'",
		"$_$round is through")
	  foreach 'time', 'now';
	is_sql($node, $db,
		"SELECT count(*) FROM evinbox.event e WHERE recorded_at >= '$time' AND"
		  . " (SELECT count(*) FROM handled h WHERE inbox = 'time$round' AND event_id = e.id) <> 1",
		'0', "time$round: each since then once");
	is_sql($node, $db,
		"SELECT count(*) FROM handled JOIN evinbox.event e ON e.id = event_id WHERE inbox = 'time$round'"
		  . " AND recorded_at < '$time'",
		'0', "time$round: and nothing of before");
	is_sql($node, $db,
		"SELECT count(*) - count(DISTINCT event_id) FROM handled WHERE inbox = 'now$round'", '0',
		"now$round: nothing twice");
	is_sql($node, $db,
		"SELECT count(*) FROM handled WHERE inbox = 'now$round' AND subject IN ('open', 'prepared')",
		'3', "now$round: what was open then is new to it");
}
is_sql($node, $db, "SELECT count(*) FROM handled WHERE subject = 'undone'", '0', 'nothing of what was rolled back');

# In the order of ids: what was there when the inbox was made, and only then
# what came later.
$node->safe_psql($db, 'TRUNCATE handled');
$node->safe_psql($db, 'DELETE FROM evinbox.inbox');
my $before = $node->safe_psql($db, 'SELECT max(id) FROM evinbox.event');
add_inbox($node, $db, 'history', start_at => 'beginning', batch_size => 10);
$bench = start_pgbench($node, $db, $load, '-c', 2, '-t', 300);
ok(finish($bench), 'writers');
is_exactly_once($node, $db, 'history', 'history first');
is_sql($node, $db,
	"SELECT max(n) FILTER (WHERE event_id <= $before) < min(n) FILTER (WHERE event_id > $before)"
	  . " FROM handled WHERE inbox = 'history'", 't', 'history comes first');

is_healthy($node);
$node->stop;
done_testing();
