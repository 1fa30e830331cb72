# No wake-up is lost, whatever a handler does; and inboxes that stand at the
# same place do not take over what another has handled.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use EvinboxTest;

my $node = evinbox_node('main');
my $db = 'postgres';

install_evinbox($node, $db);

# -- a handler that waits resets the latch that a commit has set ---------------
#
# The worker gets to a handler that waits for a lock; meanwhile another event
# is committed, whose wake-up comes while the handler waits. Statistics that
# are due would bring the worker back after ten seconds, hence the bound.

$node->safe_psql($db, <<'EOS');
CREATE FUNCTION public.wait_and_handle(e evinbox.event, config jsonb) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
	IF e.action = 'waits' THEN
		PERFORM pg_advisory_xact_lock(1);
	END IF;
	PERFORM public.handle(e, config);
END $$;
EOS
add_inbox($node, $db, 'waits', handler => 'public.wait_and_handle');

foreach my $round (1 .. 3)
{
	my $holder = $node->background_psql($db);
	$holder->query_safe('SELECT pg_advisory_lock(1)');
	my $first = record($node, $db, "round $round", 'waits');
	wait_for($node, $db,
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'evinbox runner' AND wait_event = 'advisory'",
		"round $round: the handler waits");
	my $second = record($node, $db, "round $round", 'happened');
	$holder->query_safe('SELECT pg_advisory_unlock(1)');
	$holder->quit;
	my $since = time;
	wait_for($node, $db,
		"SELECT count(*) = 2 FROM handled WHERE inbox = 'waits' AND event_id IN ($first, $second)",
		"round $round: both are handled");
	cmp_ok(time - $since, '<', 8, "round $round: without waiting for something else");
}
$node->safe_psql($db, "DELETE FROM evinbox.inbox; TRUNCATE handled");

# -- a window is not shared with whoever has handled some of it already --------
#
# "a" and "b" pass an event of another session, which is for neither, and
# stand at the same place. A transaction dispatches an event of its own to "a"
# and commits: the worker looks from that place on for both.

add_inbox($node, $db, 'a', actions => '{a}');
add_inbox($node, $db, 'b', actions => '{never}', priority => 20);
add_inbox($node, $db, 'witness', actions => '{witness}', priority => 30);

foreach my $round (1 .. 3)
{
	my $session = $node->background_psql($db);
	$session->query_safe('BEGIN');
	my $own = $session->query_safe("SELECT evinbox.record_event('T', 'own', 'a')");
	my $before = $node->safe_psql($db,
		"SELECT clock_timestamp() FROM evinbox.record_event('T', 'other', 'for nobody')");
	wait_for($node, $db,
		"SELECT bool_or(state = 'idle' AND state_change > '$before') FROM pg_stat_activity WHERE backend_type = 'evinbox runner'",
		"round $round: the worker has passed");
	is($session->query_safe("SELECT evinbox.run('a')"), '1', "round $round: run() handles the event");
	$session->query_safe('COMMIT');
	$session->quit;
	my $witness = record($node, $db, 'witness', 'witness');
	wait_for($node, $db,
		"SELECT count(*) = 1 FROM handled WHERE inbox = 'witness' AND event_id = $witness",
		"round $round: the worker has looked again");
	is_sql($node, $db, "SELECT count(*) FROM handled WHERE inbox = 'a' AND event_id = $own", '1',
		"round $round: the event was handled once");
}

# -- a halt that is over before the turn of another inbox is --------------------
#
# The rule is halted for a second; the other one's handler takes longer. Nothing
# tells the worker when the rule works again.

$node->safe_psql($db, <<'EOS');
DELETE FROM evinbox.inbox;
TRUNCATE handled;
CREATE ROLE worker LOGIN;
GRANT USAGE, CREATE ON SCHEMA public TO worker;
CREATE FUNCTION public.none_yet(e evinbox.event) RETURNS void LANGUAGE sql AS $$ $$;
CREATE TABLE public.slow (event_id bigint);
GRANT ALL ON public.slow TO worker;
CREATE FUNCTION public.take_time(e evinbox.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_sleep(2);
	INSERT INTO public.slow VALUES (e.id);
END $$;
GRANT USAGE ON SCHEMA evinbox TO worker;
INSERT INTO evinbox.inbox (name, owner, handler, priority) VALUES
	('halts', 'worker', 'none_yet', 1), ('is slow', 'worker', 'take_time', 2);
REVOKE EXECUTE ON FUNCTION public.none_yet FROM PUBLIC;
EOS
my $halted = record($node, $db, 'halted');
wait_for($node, $db, "SELECT count(*) = 1 FROM public.slow WHERE event_id = $halted",
	'the slow one is done');
is_sql($node, $db, "SELECT state FROM evinbox.inbox_status WHERE name = 'halts'", 'halted',
	'the other one is halted');
$node->safe_psql($db, 'GRANT EXECUTE ON FUNCTION public.none_yet TO PUBLIC');
my $since_repair = time;
wait_for($node, $db,
	"SELECT state = 'running' AND lag_events = 0 FROM evinbox.inbox_status WHERE name = 'halts'",
	'and goes on when it is repaired');
cmp_ok(time - $since_repair, '<', 7, 'which is not long');

# -- a handler that notices its timeout too late fails, and no more ------------
#
# This one is a function of the server that looks for no interrupts.

$node->safe_psql($db, <<'EOS');
DELETE FROM evinbox.inbox;
CREATE FUNCTION public.be_late(e evinbox.event) RETURNS cstring LANGUAGE internal AS 'record_out';
INSERT INTO evinbox.inbox (name, handler, timeout, max_attempts, backoff)
	VALUES ('late', 'be_late', '5 ms', 2, '10 ms');
EOS
my $pid = 0;
$node->poll_query_until($db,
	"SELECT count(*) = 1 FROM evinbox.worker_status WHERE kind = 'runner' AND owner = 'postgres' AND state = 'running'");
$pid = $node->safe_psql($db,
	"SELECT pid FROM evinbox.worker_status WHERE kind = 'runner' AND owner = 'postgres'");
$node->safe_psql($db,
	"SELECT evinbox.record_event('Thing', 'large', 'happened', metadata => jsonb_build_object('n', (SELECT jsonb_agg(i) FROM generate_series(1, 1500000) i)))");
wait_for($node, $db, "SELECT count(*) = 1 FROM evinbox.dead_letter WHERE inbox = 'late'",
	'an overrun that is noticed afterwards is a failure, and a retry of it too');
is_sql($node, $db, "SELECT last_sqlstate FROM evinbox.dead_letter", '57014', 'a cancelled one');
is_sql($node, $db,
	"SELECT pid FROM evinbox.worker_status WHERE kind = 'runner' AND owner = 'postgres'", $pid,
	'and the worker is still the same');

is_healthy($node);
$node->stop;
done_testing();
