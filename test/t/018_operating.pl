# Operating inboxes while workers are at them: pause, resume, retry, discard, and
# what handlers say about their events.

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
CREATE TABLE public.trouble ();
CREATE FUNCTION public.picky(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM public.handle(e, config);
	IF e.subject_id LIKE 'bad%' AND EXISTS (SELECT FROM public.trouble) THEN
		RAISE EXCEPTION 'no % here', e.subject_id USING ERRCODE = 'EV001';
	END IF;
END $$;

-- Stops at an event "gate" while somebody keeps the gate shut.
CREATE FUNCTION public.handle_gate(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM public.handle(e, config);
	IF e.subject_id = 'gate' THEN
		PERFORM pg_advisory_xact_lock_shared(42);
	END IF;
END $$;
EOS
add_inbox($node, $db, 'witness');

# -- pause and resume -----------------------------------------------------------------

add_inbox($node, $db, 'paused', subject_types => '{paused}');
record_many($node, $db, 3);
$node->safe_psql($db, "SELECT evinbox.record_event('paused', g, 'x') FROM generate_series(1, 3) g");
wait_for_handled($node, $db, 'paused', 3, 'a live inbox');
$node->safe_psql($db, "SELECT evinbox.pause('paused')");
$node->safe_psql($db, "SELECT evinbox.record_event('paused', g, 'x') FROM generate_series(4, 6) g");
is_exactly_once($node, $db, 'witness', 'beside a paused one');
is_sql($node, $db, "SELECT count(*) FROM handled WHERE inbox = 'paused'", '3', 'a paused one does nothing');
is_sql($node, $db, "SELECT state, lag_events >= 3 FROM evinbox.inbox_status WHERE name = 'paused'", 'paused|t',
	'its events wait');
$node->restart;
is_exactly_once($node, $db, 'witness', 'after a restart');
is_sql($node, $db, "SELECT count(*) FROM handled WHERE inbox = 'paused'", '3', 'it is still paused');
$node->safe_psql($db, "SELECT evinbox.resume('paused')");
wait_for_handled($node, $db, 'paused', 6, 'resume() lets it go on at once');
is_sql($node, $db, "SELECT string_agg(subject, ' ' ORDER BY n) FROM handled WHERE inbox = 'paused'",
	'1 2 3 4 5 6', 'each event once, and in order');

# neither counts before it is committed
my $session = $node->background_psql($db);
$session->query_safe('BEGIN');
$session->query_safe("SELECT evinbox.pause('paused')");
$node->safe_psql($db, "SELECT evinbox.record_event('paused', 7, 'x')");
wait_for_handled($node, $db, 'paused', 7, 'a pause that is not committed is none');
$session->query_safe('ROLLBACK');
$node->safe_psql($db, "SELECT evinbox.record_event('paused', 8, 'x')");
wait_for_handled($node, $db, 'paused', 8, 'nor is one that was rolled back');

# -- a pause in the middle of a batch --------------------------------------------------------

# The batch is finished, and the next one waits; nobody waits for the handler. What
# is recorded while the inbox is in the middle of a window is found as well.
add_inbox($node, $db, 'gate', subject_types => '{gate}', handler => 'public.handle_gate', batch_size => 3,
	timeout => '0');
$session->query_safe('SELECT pg_advisory_lock(42)');
$node->safe_psql($db, "INSERT INTO evinbox.event (subject_type, subject_id, action)"
	  . " SELECT 'gate', CASE g WHEN 2 THEN 'gate' ELSE g::text END, 'x' FROM generate_series(1, 8) g");
wait_for($node, $db, "SELECT count(*) = 1 FROM pg_stat_activity"
	  . " WHERE backend_type = 'evinbox runner' AND wait_event = 'advisory'", 'a runner is in a handler');
$node->safe_psql($db, "SET statement_timeout = '5s'; SELECT evinbox.pause('gate')");
is_sql($node, $db, "SELECT state FROM evinbox.inbox_status WHERE name = 'gate'", 'paused', 'it is paused at once');
$session->query_safe('SELECT pg_advisory_unlock(42)');
wait_for_handled($node, $db, 'gate', 3, 'the batch that had begun is finished');
$node->safe_psql($db, "SELECT evinbox.record_event('gate', 9, 'x')");
is_exactly_once($node, $db, 'witness', 'beside that');
is_sql($node, $db, "SELECT count(*) FROM handled WHERE inbox = 'gate'", '3', 'the next one is not begun');
$node->safe_psql($db, "SELECT evinbox.resume('gate')");
wait_for_handled($node, $db, 'gate', 9, 'after resume() it goes on');
is_sql($node, $db, "SELECT string_agg(subject, ' ' ORDER BY n) FROM handled WHERE inbox = 'gate'",
	'1 gate 3 4 5 6 7 8 9', 'each event once, and in order');

# -- dead letters ----------------------------------------------------------------------------

$node->safe_psql($db, 'INSERT INTO public.trouble DEFAULT VALUES');
foreach my $n (1 .. 2)
{
	add_inbox($node, $db, "picky $n", subject_types => '{picky}', handler => 'public.picky',
		max_attempts => 2, backoff => '10 ms');
}
$node->safe_psql($db, "INSERT INTO evinbox.event (subject_type, subject_id, action)"
	  . " SELECT 'picky', CASE WHEN g % 3 = 0 THEN 'bad ' ELSE 'good ' END || g, 'x' FROM generate_series(1, 9) g");
foreach my $n (1 .. 2)
{
	wait_for($node, $db, "SELECT dead = 3 AND retrying = 0 AND lag_events = 0 FROM evinbox.inbox_status"
		  . " WHERE name = 'picky $n'", "picky $n: three dead letters");
	wait_for_handled($node, $db, "picky $n", 6, "picky $n: the others are handled");
}
my $bad = $node->safe_psql($db, "SELECT min(event_id) FROM evinbox.dead_letter");
is_sql($node, $db, "SELECT evinbox.retry('picky 1', $bad)", '1', 'retry() of one');
wait_for($node, $db, "SELECT dead = 3 AND retrying = 0 FROM evinbox.inbox_status WHERE name = 'picky 1'",
	'has it fail again');
is_sql($node, $db, "SELECT attempts FROM evinbox.delivery WHERE inbox = 'picky 1' AND event_id = $bad", '2',
	'after as many attempts as before');

$node->safe_psql($db, 'DELETE FROM public.trouble');
is_sql($node, $db, "SELECT evinbox.retry('picky 1', $bad)", '1', 'its handler works now');
wait_for_handled($node, $db, 'picky 1', 7, 'retry() of one has it handled');
is_sql($node, $db, "SELECT state, retrying, dead FROM evinbox.inbox_status WHERE name = 'picky 1'", 'running|0|2',
	'the others are dead still');
$node->safe_psql($db, "SELECT evinbox.discard('picky 2', $bad)");
is_sql($node, $db, "SELECT evinbox.retry()", '4', 'retry() of all');
wait_for_handled($node, $db, 'picky 1', 9, 'has all handled');
wait_for_handled($node, $db, 'picky 2', 8, 'in all inboxes');
is_sql($node, $db, "SELECT inbox, state, event_id = $bad FROM evinbox.delivery", 'picky 2|skipped|t',
	'but not what was discarded');
is_sql($node, $db, "SELECT evinbox.retry('picky 2', $bad)", '1', 'unless it is named');
wait_for_handled($node, $db, 'picky 2', 9, 'which has it handled, too');
is_sql($node, $db, "SELECT count(*) FROM evinbox.delivery", '0', 'nothing is left of the failures');
is_sql($node, $db,
	"SELECT DISTINCT count(*), count(DISTINCT event_id) FROM handled WHERE inbox LIKE 'picky%' GROUP BY inbox",
	'9|9', 'each event was handled once');

# -- discard ---------------------------------------------------------------------------------

# The witness of the same failure tells that the time for a retry has come and gone.
$node->safe_psql($db, <<'EOS');
CREATE SEQUENCE public.tries;
CREATE SEQUENCE public.other_tries;
CREATE FUNCTION public.failing(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM nextval(config->>'count');
	RAISE EXCEPTION 'as always' USING ERRCODE = 'EV001';
END $$;
EOS
add_inbox($node, $db, 'discarded', subject_types => '{failing}', handler => 'public.failing',
	config => '{"count": "public.tries"}', max_attempts => 1000, backoff => '1 hour');
add_inbox($node, $db, 'failing', subject_types => '{failing}', handler => 'public.failing',
	config => '{"count": "public.other_tries"}', max_attempts => 1000, backoff => '1 hour');
my $failing = $node->safe_psql($db, "SELECT evinbox.record_event('failing', 1, 'x')");
wait_for($node, $db, "SELECT count(*) = 2 FROM evinbox.delivery WHERE state = 'retry'", 'two failures');
$node->safe_psql($db, "SELECT evinbox.discard('discarded', $failing)");
is_sql($node, $db, "SELECT state, attempts, next_at IS NULL, last_error FROM evinbox.delivery WHERE inbox = 'discarded'",
	'skipped|1|t|as always', 'discard() gives one up');
foreach my $n (2 .. 4)
{
	$node->safe_psql($db, "SELECT evinbox.retry('failing')");
	wait_for($node, $db, "SELECT last_value = $n FROM public.other_tries", "the other one is tried again ($n)");
}
is_sql($node, $db, "SELECT last_value FROM public.tries", '1', 'it is not');
$node->restart;
is_exactly_once($node, $db, 'witness', 'after a restart');
is_sql($node, $db, "SELECT last_value FROM public.tries", '1', 'nor after a restart');
is_sql($node, $db, "SELECT retrying, dead FROM evinbox.inbox_status WHERE name = 'discarded'", '0|0',
	'and nothing is left to do');

# A paused inbox does not retry either; and a retry() that does not see the pause
# yet does not take it back.
$node->safe_psql($db, "SELECT evinbox.pause('failing'), evinbox.retry('failing')");
is_exactly_once($node, $db, 'witness', 'beside a paused one');
is_sql($node, $db, "SELECT last_value FROM public.other_tries", '4', 'retries of a paused inbox wait');
$node->safe_psql($db, "SELECT evinbox.resume('failing')");
wait_for($node, $db, "SELECT last_value = 5 FROM public.other_tries", 'until it is resumed');

# -- what a handler says -----------------------------------------------------------------------

$node->safe_psql($db, <<'EOS');
CREATE SEQUENCE public.asked;
CREATE FUNCTION public.opinion(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM public.handle(e, config);
	CASE e.subject_id
		WHEN 'later' THEN PERFORM evinbox.retry_in('1 hour');
		WHEN 'at once' THEN
			-- more often than it might fail
			IF nextval('public.asked') <= 5 THEN
				PERFORM evinbox.retry_in('1 ms');
			END IF;
		WHEN 'by code' THEN RAISE EXCEPTION 'by its code' USING ERRCODE = 'VE001';
		WHEN 'skip' THEN PERFORM evinbox.skip('not for me');
		WHEN 'give up' THEN PERFORM evinbox.give_up('hopeless');
		ELSE NULL;
	END CASE;
END $$;
EOS
add_inbox($node, $db, 'opinion', subject_types => '{opinion}', handler => 'public.opinion', max_attempts => 2,
	backoff => '2 hours');
$node->safe_psql($db, "INSERT INTO evinbox.event (subject_type, subject_id, action) SELECT 'opinion', s, 'x'"
	  . " FROM unnest('{a, later, at once, b, by code, skip, give up, c}'::text[]) s");
wait_for_handled($node, $db, 'opinion', 4, 'four of eight are handled');
is_sql($node, $db, "SELECT string_agg(subject, ', ' ORDER BY subject) FROM handled WHERE inbox = 'opinion'",
	'a, at once, b, c', 'of the others nothing is left');
is_sql($node, $db, "SELECT last_value FROM public.asked", '6', 'one asked for five retries, and got them');
is_sql($node, $db, <<'EOS', <<'EOT' =~ s/\n\z//r, 'each is what its handler wants');
SELECT e.subject_id, d.state, d.attempts, d.last_sqlstate, d.last_error,
	d.next_at - d.updated_at BETWEEN '59 min' AND '61 min', d.next_at - d.updated_at BETWEEN '90 min' AND '150 min'
FROM evinbox.delivery d JOIN evinbox.event e ON e.id = d.event_id WHERE d.inbox = 'opinion' ORDER BY e.id
EOS
later|retry|0|VE001|to be tried again in 01:00:00|t|f
by code|retry|0|VE001|by its code|f|t
skip|skipped|0|VE002|not for me||
give up|dead|1|VE003|hopeless||
EOT
is_sql($node, $db, "SELECT state, retrying, dead FROM evinbox.inbox_status WHERE name = 'opinion'", 'running|2|1',
	'inbox_status counts them');

is_exactly_once($node, $db, 'witness', 'the other inbox, at the end');
$session->quit;
is_healthy($node);
$node->stop;
done_testing();
