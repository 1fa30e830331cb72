# Several runners for one owner: a slow rule keeps no other waiting, no two
# runners are at one inbox, and none of them is a must.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);
use EvinboxTest;

my $node = evinbox_node('main', <<'EOS');
restart_after_crash = on
fsync = on
EOS
my $db = 'postgres';

install_evinbox($node, $db);

# The lock on the inbox's name is the session's, and held no longer than the
# handler works: whoever does not get it is the second one in there.  With
# max_attempts = 1, that leaves a dead letter.
$node->safe_psql($db, <<'EOS');
CREATE FUNCTION public.work(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	inbox int := hashtext(config->>'inbox');
	gate int := config->'gate';
	ms float := e.metadata->'ms';
BEGIN
	IF NOT pg_try_advisory_lock(1, inbox) THEN
		RAISE EXCEPTION 'two at once';
	END IF;
	IF e.action = 'waits' THEN
		PERFORM pg_advisory_xact_lock_shared(2, gate);
	ELSIF e.action IN ('sleeps', 'is busy') THEN
		WHILE NOT pg_try_advisory_xact_lock_shared(2, gate) LOOP
			PERFORM pg_sleep(CASE WHEN e.action = 'sleeps' THEN 0.01 ELSE 0 END);
		END LOOP;
	ELSIF ms IS NOT NULL THEN
		PERFORM pg_sleep(ms / 1000);
	END IF;
	PERFORM public.handle(e, config);
	PERFORM pg_advisory_unlock(1, inbox);
END $$;
CREATE VIEW public.in_handler AS
	SELECT pid, objid::int AS gate FROM pg_locks
	WHERE locktype = 'advisory' AND classid = 2 AND mode = 'ShareLock' AND NOT granted;
EOS

# An inbox that handles what its lists say, and behind a gate what is to wait.
sub add_worker
{
	my ($name, $gate, %column) = @_;

	add_inbox($node, $db, $name,
		handler => 'public.work', max_attempts => 1,
		config => qq({"inbox": "$name", "gate": $gate}), %column);
}

my $keeper = $node->background_psql($db);
$keeper->set_query_timer_restart;

sub shut { $keeper->query_safe("SELECT pg_advisory_lock(2, $_)") foreach @_; }
sub open_gate { $keeper->query_safe("SELECT pg_advisory_unlock(2, $_)") foreach @_; }

my $since = 0;

sub remove_inboxes
{
	$node->safe_psql($db, 'DELETE FROM evinbox.inbox; TRUNCATE handled');
	$since = $node->safe_psql($db, 'SELECT max(id) FROM evinbox.event');
}

# Waits until the first so many of w1, w2 ... have handled all events since then.
sub are_each_once
{
	my ($count, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	foreach my $inbox (map { "w$_" } 1 .. $count)
	{
		wait_for($node, $db,
			"SELECT NOT EXISTS (SELECT FROM evinbox.event e WHERE id > $since AND NOT EXISTS"
			  . " (SELECT FROM handled h WHERE h.inbox = '$inbox' AND h.event_id = e.id))",
			"$name: $inbox has handled all");
		is_sql($node, $db,
			"SELECT count(*) - count(DISTINCT event_id) FROM handled WHERE inbox = '$inbox'", '0',
			"$name: and none of them twice");
	}
}

# -- a slow handler is in nobody's way -------------------------------------------
#
# Whatever it does for so long, the others handle what comes while it is at it:
# it cannot be over, for its gate is shut.

add_worker('slow', 1, subject_types => '{Slow}', priority => 1);
add_worker('quick', 0, subject_types => '{Quick}', priority => 2);
add_worker('both', 0, priority => 3);

foreach my $action ('waits', 'sleeps', 'is busy')
{
	shut(1);
	my $slow = $node->safe_psql($db, "SELECT evinbox.record_event('Slow', 1, '$action')");
	wait_for_handled($node, $db, 'both', 1, "$action: another inbox handles the same event");
	foreach my $subject (1 .. 3)
	{
		my $id = $node->safe_psql($db, "SELECT evinbox.record_event('Quick', $subject, 'happened')");
		wait_for($node, $db,
			"SELECT count(*) = 2 FROM handled WHERE event_id = $id AND inbox IN ('quick', 'both')",
			"$action: and event $subject that comes meanwhile");
	}
	is_sql($node, $db, "SELECT count(*) FROM handled WHERE inbox = 'slow'", '0',
		"$action: the slow one is still at it");
	$node->safe_psql($db, "SELECT evinbox.record_event('Slow', 2, 'happened')");
	wait_for_handled($node, $db, 'both', 5, "$action: also of what waits for the slow one");
	open_gate(1);
	wait_for($node, $db,
		"SELECT string_agg(subject, ' ' ORDER BY n) = '1 2' FROM handled WHERE inbox = 'slow'",
		"$action: which goes on when it is free");
	$node->safe_psql($db, 'TRUNCATE handled');
}

# The slow one is paused, while it is at it: with one inbox less, there is less
# to do, but the runner that has nothing else to do is the one that stays.
$node->safe_psql($db, "DELETE FROM evinbox.inbox WHERE name = 'both'");
shut(1);
$node->safe_psql($db, "SELECT evinbox.record_event('Slow', 3, 'waits')");
wait_for($node, $db, 'SELECT count(*) = 1 FROM in_handler', 'a slow handler');
my $paused_at = $node->safe_psql($db, "SELECT clock_timestamp() FROM evinbox.pause('slow')");
wait_for($node, $db,
	"SELECT state = 'idle' AND state_change > '$paused_at' FROM pg_stat_activity"
	  . " WHERE backend_type = 'evinbox coordinator'", 'whose inbox is paused');
foreach my $subject (1 .. 3)
{
	my $id = $node->safe_psql($db, "SELECT evinbox.record_event('Quick', $subject, 'happened')");
	wait_for($node, $db, "SELECT count(*) = 1 FROM handled WHERE event_id = $id AND inbox = 'quick'",
		"event $subject is handled all the same");
	usleep(100_000);
}
is_sql($node, $db, 'SELECT count(*) FROM in_handler', '1', 'and the slow handler is still at it');
open_gate(1);

# -- four places -----------------------------------------------------------------------

remove_inboxes();
add_worker("w$_", $_, priority => $_) foreach 1 .. 5;
shut(1 .. 5);
my $id = record($node, $db, 'for all', 'waits');
wait_for($node, $db, 'SELECT count(*) = 4 FROM in_handler', 'four inboxes are handled at once');
is_sql($node, $db, 'SELECT count(DISTINCT pid), count(DISTINCT gate) FROM in_handler', '4|4',
	'by a runner each');
is_sql($node, $db,
	"SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'evinbox runner'", '4',
	'there are no more runners');
my $fifth = $node->safe_psql($db,
	'SELECT g FROM generate_series(1, 5) g WHERE g NOT IN (SELECT gate FROM in_handler)');
is_sql($node, $db, "SELECT lag_events FROM evinbox.inbox_status WHERE name = 'w$fifth'", '1',
	'the fifth waits for its turn');
my $first = $fifth == 1 ? 2 : 1;
open_gate($first);
wait_for($node, $db, "SELECT count(*) = 1 FROM in_handler WHERE gate = $fifth",
	'which comes when one is done');
is_sql($node, $db, 'SELECT count(DISTINCT pid) FROM in_handler', '4', 'all are at work again');
open_gate(grep { $_ != $first } 1 .. 5);
are_each_once(5, 'five inboxes');

# -- their number can be changed at any time ----------------------------------------

sub runners_are
{
	my ($count, $name) = @_;

	wait_for($node, $db,
		"SELECT count(*) = $count FROM pg_stat_activity WHERE backend_type = 'evinbox runner'", $name);
}

my $bench = start_pgbench($node, $db, <<'EOS', '-c', 2, '-T', 2, '-R', 200);
SELECT evinbox.record_event('Thing', :client_id, 'happened', metadata => '{"ms": 2}');
EOS
foreach my $count (1, 5, 2, 4)
{
	set_conf($node, 'evinbox.max_runners', $count);
	runners_are($count, "max_runners = $count");
}
ok(finish($bench), 'writers meanwhile');
are_each_once(5, 'more and less runners');

# A runner that has to go finishes what it is at.
shut(1 .. 4);
record($node, $db, 'for all', 'waits');
wait_for($node, $db, 'SELECT count(*) = 4 FROM in_handler', 'four are in their handlers');
my $pids = $node->safe_psql($db, 'SELECT string_agg(DISTINCT pid::text, \',\') FROM in_handler');
set_conf($node, 'evinbox.max_runners', 1);
wait_for($node, $db,
	"SELECT count(*) = 3 FROM evinbox.worker_status WHERE kind = 'runner' AND state = 'stopping'",
	'three are told to go');
is_sql($node, $db, "SELECT count(*) FROM in_handler WHERE pid IN ($pids)", '4', 'nobody is interrupted');
open_gate(1 .. 4);
runners_are(1, 'one stays');
are_each_once(5, 'one runner');
set_conf($node, 'evinbox.max_runners', 4);
runners_are(4, 'and all are back');

# -- what one of them knows, the others know -------------------------------------------
#
# The first runner gets stuck, and the second one with an event that will
# fail. The first one is through and asleep before it does. It is the one that
# cares for what is due later.

remove_inboxes();
$node->safe_psql($db, <<'EOS');
CREATE TABLE public.works (yes boolean);
INSERT INTO public.works VALUES (false);
CREATE FUNCTION public.try(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF e.action <> 'waits' THEN
		RETURN;
	END IF;
	PERFORM pg_advisory_xact_lock_shared(2, 2);
	IF (SELECT yes FROM public.works) THEN
		PERFORM public.handle(e, config);
	ELSE
		RAISE EXCEPTION USING MESSAGE = 'not yet', ERRCODE = config->>'error';
	END IF;
END $$;
EOS
foreach my $kind ('P0001', '42P01')
{
	my $what = $kind eq 'P0001' ? 'a retry' : 'a halt';

	add_worker('slow', 1, priority => 1);
	add_inbox($node, $db, 'fails', handler => 'public.try', priority => 2,
		backoff => '1 ms', max_attempts => 1000,
		config => qq({"inbox": "fails", "error": "$kind"}));
	runners_are(2, "$what: two runners");
	shut(1, 2);
	$id = record($node, $db, 'for both', 'waits');
	wait_for($node, $db, 'SELECT count(*) = 2 FROM in_handler', "$what: both are in their handlers");
	open_gate(1);
	wait_for($node, $db,
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'evinbox runner' AND state = 'idle'",
		"$what: one of them is done");
	open_gate(2);
	wait_for($node, $db,
		"SELECT retrying > 0 OR state = 'halted' FROM evinbox.inbox_status WHERE name = 'fails'",
		"$what: the other one fails");
	$node->safe_psql($db, 'UPDATE public.works SET yes = true');
	wait_for_handled($node, $db, 'fails', 1, "$what: comes in time");
	remove_inboxes();
	$node->safe_psql($db, 'UPDATE public.works SET yes = false');
}

# -- nothing waits while all sleep --------------------------------------------------------
#
# Handlers that take about as long as it takes until another runner goes on
# duty, and a few events at about such distances: then silence, so that
# nothing but their own wake-ups could have them handled.

$node->safe_psql($db, <<'EOS');
CREATE PROCEDURE public.bursts(rounds int, INOUT stalls int) LANGUAGE plpgsql AS $$
DECLARE
	expected bigint := (SELECT count(*) FROM handled);
	last timestamptz;
	stalled boolean;
BEGIN
	FOR r IN 1 .. rounds LOOP
		FOR i IN 1 .. 4 LOOP
			PERFORM evinbox.record_event('Thing', r, 'for ' || 1 + (random() * 3)::int,
				metadata => jsonb_build_object('ms', 3 + random() * 4));
			COMMIT;
			last := clock_timestamp();
			expected := expected + 1;
			PERFORM pg_sleep(random() * 0.008);
		END LOOP;
		stalled := false;
		WHILE (SELECT count(*) FROM handled) < expected LOOP
			COMMIT;
			stalled := stalled OR NOT EXISTS (SELECT FROM pg_stat_activity
				WHERE backend_type = 'evinbox runner'
				AND (state <> 'idle' OR greatest(state_change, last) > clock_timestamp() - interval '0.5 s'));
			PERFORM pg_sleep(0.001);
		END LOOP;
		stalls := stalls + stalled::int;
	END LOOP;
END $$;
EOS
add_worker("w$_", 0, actions => "{for $_}") foreach 1 .. 4;
runners_are(4, 'four runners');
is_sql($node, $db, 'CALL bursts(100, 0)', '0', 'no event waits while all runners sleep');

# -- beside run() ------------------------------------------------------------------------

remove_inboxes();
add_worker("w$_", $_, priority => $_) foreach 1 .. 4;
my @benches = (
	start_pgbench($node, $db, <<'EOS', '-c', 2, '-t', 150),
SELECT evinbox.record_event('Thing', :client_id, 'happened', metadata => jsonb_build_object('ms', random() * 8));
EOS
	start_pgbench($node, $db, <<'EOS', '-c', 2, '-t', 60));
\set n random(1, 4)
BEGIN;
SELECT evinbox.record_event('Thing', :client_id, 'own');
SELECT evinbox.run('w:n');
COMMIT;
EOS
is((grep { finish($_) } @benches), 2, 'four runners, and sessions that call run()');
are_each_once(4, 'beside run()');

# -- runners that are ended ------------------------------------------------------------------

# Again and again, in the handler.  When its start is put off, for it fails so
# often, another one does its work.
shut(1);
record($node, $db, 'for all', 'waits');
my $taken_over = 0;
foreach my $round (1 .. 6)
{
	my $pid = 0;

	wait_for($node, $db, 'SELECT count(*) = 1 FROM in_handler', "round $round: a runner is in its handler");
	$pid = $node->safe_psql($db, 'SELECT pid FROM in_handler WHERE pg_terminate_backend(pid)');
	wait_for($node, $db, "SELECT count(*) = 1 FROM in_handler WHERE pid <> $pid",
		"round $round: and ended, and its work begun anew");
	$taken_over += $node->safe_psql($db,
		"SELECT count(*) > 0 FROM evinbox.worker_status WHERE kind = 'runner' AND state = 'waiting'") eq 't';
}
cmp_ok($taken_over, '>', 0, 'not only by the one that was ended');
open_gate(1);
are_each_once(4, 'after six ends in a handler');

# The one that would have been woken.
foreach my $round (1, 2)
{
	$node->safe_psql($db,
		"SELECT pg_terminate_backend(pid) FROM evinbox.worker_status WHERE kind = 'runner' AND pid IS NOT NULL"
		  . " ORDER BY started_at LIMIT 1");
	record($node, $db, "after end $round");
	are_each_once(4, "idle runner ended, $round");
}

# The server starts anew; what was half done is done again.
shut(1, 2);
record($node, $db, 'for all', 'waits');
wait_for($node, $db, 'SELECT count(*) = 2 FROM in_handler', 'two are in their handlers');
kill 'KILL', $node->safe_psql($db, 'SELECT pid FROM in_handler WHERE gate = 2');
eval { $keeper->{run}->kill_kill; };
$node->poll_query_until($db, 'SELECT true') or die 'the server did not come back';
are_each_once(4, 'kill -9 of a runner');

is_sql($node, $db, 'SELECT count(*) FROM evinbox.delivery', '0', 'nothing has failed');
unlike(slurp_file($node->logfile), qr/two at once/, 'no two runners were at one inbox');
$node->stop;
done_testing();
