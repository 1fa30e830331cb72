# The worker handles events right after they commit.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use EvinboxTest;

my $node = evinbox_node('main');
my $db = 'postgres';

install_evinbox($node, $db);
is_sql($node, $db,
	"SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'evinbox launcher'",
	'1', 'there is a launcher');

# -- who is there ---------------------------------------------------------------

wait_for_workers($node, 'coordinator@postgres',
	'a database with the extension has a coordinator; without rules, no more');
add_inbox($node, $db, 'all');
wait_for_workers($node, 'coordinator@postgres runner@postgres',
	'the owner of a live rule has a runner');
wait_for($node, $db, <<'EOS', 'worker_status shows them');
SELECT string_agg(concat_ws(' ', kind, database, owner, state, starts), ', ' ORDER BY kind)
	= format('coordinator postgres running 1, launcher running 0, runner postgres %s running 1',
		current_user)
	AND bool_and(pid IN (SELECT pid FROM pg_stat_activity WHERE backend_type = 'evinbox ' || kind))
FROM evinbox.worker_status
EOS
is_sql($node, $db,
	"SELECT bool_and(starts_with(application_name, backend_type)) FROM pg_stat_activity"
	  . " WHERE backend_type LIKE 'evinbox %'",
	't', 'they have telling application names');
is_sql($node, $db, "SELECT state FROM evinbox.inbox_status WHERE name = 'all'",
	'running', 'inbox_status knows of the runner');

# -- committed or not -------------------------------------------------------------

my $notify = "SELECT sum(blks_zeroed + blks_hit + blks_read + blks_written)"
  . " FROM pg_stat_slru WHERE name = 'Notify'";
my $notified = $node->safe_psql($db, $notify);

record($node, $db, 'first');
wait_for_handled($node, $db, 'all', 1, 'an event is handled');

my $session = $node->background_psql($db);
$session->query_safe("BEGIN");
$session->query_safe("SELECT evinbox.record_event('Thing', 'open', 'happened')");
record($node, $db, 'second');
wait_for_handled($node, $db, 'all', 2, 'so is one beside an open transaction');
is_sql($node, $db, "SELECT string_agg(subject, ' ' ORDER BY n) FROM handled",
	'first second', 'what has not committed is not handled');
$session->query_safe("COMMIT");
wait_for_handled($node, $db, 'all', 3, 'after its commit it is');
$session->query_safe("BEGIN");
$session->query_safe("SELECT evinbox.record_event('Thing', 'undone', 'happened')");
$session->query_safe("ROLLBACK");
record($node, $db, 'third');
wait_for_handled($node, $db, 'all', 4, 'the next one is handled');
is_sql($node, $db, "SELECT string_agg(subject, ' ' ORDER BY n) FROM handled",
	'first second open third', 'what was rolled back never is');

# The last thing to happen is the commit, so nothing else can wake the runner.
$session->query_safe("BEGIN");
$session->query_safe("SELECT evinbox.record_event('Thing', 'prepared', 'happened')");
$session->query_safe("PREPARE TRANSACTION 'p'");
record($node, $db, 'fourth');
wait_for_handled($node, $db, 'all', 5, 'an event after a PREPARE is handled');
is_sql($node, $db, "SELECT count(*) FROM handled WHERE subject = 'prepared'",
	'0', 'what is prepared is not');
$node->safe_psql($db, "COMMIT PREPARED 'p'");
wait_for_handled($node, $db, 'all', 6, 'COMMIT PREPARED wakes the runner');
is_sql($node, $db, "SELECT subject FROM handled ORDER BY n DESC LIMIT 1",
	'prepared', 'and it finds the event');

record_many($node, $db, 2500);
is_exactly_once($node, $db, 'all', 'many events in one transaction');
is_sql($node, $db,
	"SELECT bool_and(later) FROM (SELECT event_id > lag(event_id) OVER (ORDER BY n) AS later"
	  . " FROM handled WHERE event_id > (SELECT event_id FROM handled WHERE subject = 'prepared')) s",
	't', 'in the order of their ids');
is_sql($node, $db, $notify, $notified, 'nothing was sent by NOTIFY');

# -- several inboxes, conditions, cascades ----------------------------------------

$node->safe_psql($db, <<'EOS');
CREATE FUNCTION public.order_tea(e evinbox.event, config jsonb) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
	PERFORM evinbox.record_event('Tea', e.subject_id, 'ordered');
	PERFORM public.handle(e, config);
END $$;
EOS
add_inbox($node, $db, 'urgent', condition => q(e.metadata->>'urgent' = 'yes'));
add_inbox($node, $db, 'guests', actions => '{arrived}', handler => 'public.order_tea');
add_inbox($node, $db, 'tea', subject_types => '{Tea}');
$node->safe_psql($db, <<'EOS');
SELECT evinbox.record_event('Mail', 1, 'came', metadata => '{"urgent": "no"}');
SELECT evinbox.record_event('Mail', 2, 'came', metadata => '{"urgent": "yes"}');
SELECT evinbox.record_event('Mail', 3, 'came');
SELECT evinbox.record_event('Guest', 4, 'arrived');
EOS
wait_for_handled($node, $db, 'tea', 1, 'an event that a handler records is handled');
wait_for_handled($node, $db, 'urgent', 1, 'a condition is true of an event');
is_exactly_once($node, $db, 'all', 'an inbox without condition');
is_sql($node, $db,
	"SELECT string_agg(inbox || ' ' || subject, ', ' ORDER BY inbox, n)"
	  . " FROM handled WHERE inbox <> 'all'",
	'guests 4, tea 4, urgent 2', 'each inbox gets what it asks for, once');
is_sql($node, $db,
	"SELECT t.depth, t.caused_by = g.id FROM evinbox.event t, evinbox.event g"
	  . " WHERE t.subject_type = 'Tea' AND g.subject_type = 'Guest'",
	'1|t', 'the event knows its cause');

# -- rules change ------------------------------------------------------------------

# "all" is the witness: what it has handled, its neighbours had their chance at.
$node->safe_psql($db, "DELETE FROM evinbox.inbox WHERE name IN ('urgent', 'guests', 'tea')");
add_inbox($node, $db, 'z', priority => 1);
record($node, $db, 'r1');
wait_for_handled($node, $db, 'z', 1, 'a rule takes effect when it commits');

$session->query_safe("BEGIN");
$session->query_safe("UPDATE evinbox.inbox SET config = '{\"inbox\": \"changed\"}' WHERE name = 'z'");
record($node, $db, 'r2');
wait_for_handled($node, $db, 'z', 2, 'a change does not before it commits');
$session->query_safe("COMMIT");
record($node, $db, 'r3');
wait_for_handled($node, $db, 'changed', 1, 'and does when it commits');

$node->safe_psql($db,
	"UPDATE evinbox.inbox SET enabled = false, config = '{\"inbox\": \"z\"}' WHERE name = 'z'");
record($node, $db, 'r4');
record($node, $db, 'r5');
is_exactly_once($node, $db, 'all', 'while another inbox is paused');
is_sql($node, $db, "SELECT string_agg(subject, ' ' ORDER BY n) FROM handled WHERE inbox = 'z'",
	'r1 r2', 'a paused inbox handles nothing');
is_sql($node, $db, "SELECT state, lag_events, lag > '0' FROM evinbox.inbox_status WHERE name = 'z'",
	'paused|3|t', 'its events wait');
$node->safe_psql($db, "UPDATE evinbox.inbox SET enabled = true WHERE name = 'z'");
wait_for_handled($node, $db, 'z', 5, 'when it goes on, it handles them');
is_sql($node, $db, "SELECT string_agg(subject, ' ' ORDER BY n) FROM handled WHERE inbox = 'z'",
	'r1 r2 r4 r5 last', 'in their order');

$node->safe_psql($db, "UPDATE evinbox.inbox SET dispatch = 'scheduled' WHERE name = 'z'");
record($node, $db, 'r6');
is_exactly_once($node, $db, 'all', 'while another inbox is scheduled');
is_sql($node, $db, "SELECT count(*) FROM handled WHERE inbox = 'z'", '5',
	'the worker leaves a scheduled inbox alone');
is_sql($node, $db, "SELECT evinbox.run('z')", '2', 'run() dispatches it');

$node->safe_psql($db, "UPDATE evinbox.inbox SET dispatch = 'live' WHERE name = 'z'");
record($node, $db, 'r7');
wait_for_handled($node, $db, 'z', 8, 'it is live again');
$node->safe_psql($db, "DELETE FROM evinbox.inbox WHERE name = 'z'");
record($node, $db, 'r8');
is_exactly_once($node, $db, 'all', 'after another inbox was deleted');
is_sql($node, $db, "SELECT count(*) FROM handled WHERE inbox = 'z'", '8',
	'a deleted inbox handles nothing');

# -- whose rights, whose settings ---------------------------------------------------

$node->safe_psql($db, <<'EOS');
CREATE ROLE alice LOGIN;
CREATE TABLE public.seen (who text, subject text, path text, note text);
GRANT INSERT, SELECT ON public.seen TO alice;
CREATE FUNCTION public.look(e evinbox.event) RETURNS void LANGUAGE sql AS $$
	INSERT INTO public.seen
	VALUES (session_user || '/' || current_user, e.subject_id,
		current_setting('search_path'), current_setting('app.note', true))
$$;
CREATE FUNCTION public.leave_traces(e evinbox.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	SET app.note = 'left behind';
	SET search_path = pg_temp;
	SET statement_timeout = 1;
	PERFORM pg_catalog.set_config('role', 'alice', false);
END $$;
INSERT INTO evinbox.inbox (name, handler, priority, subject_types) VALUES
	('1 traces', 'leave_traces', 1, '{Own}'),
	('2 look', 'look', 2, '{Own}');
INSERT INTO evinbox.inbox (name, owner, handler, subject_types) VALUES ('alice', 'alice', 'look', '{Hers}');
EOS
$node->safe_psql($db, "SELECT evinbox.record_event('Own', 'one', 'x')");
wait_for($node, $db, "SELECT count(*) = 1 FROM seen WHERE subject = 'one'", 'handlers with SET run');
$node->safe_psql($db, "SELECT evinbox.record_event('Own', 'two', 'x')");
wait_for($node, $db, "SELECT count(*) = 1 FROM seen WHERE subject = 'two'", 'and run again');
is_sql($node, $db,
	"SELECT DISTINCT who = format('%1\$s/%1\$s', current_user), path, note FROM seen",
	't|"$user", public|', 'what a handler sets is undone after it');
$node->safe_psql($db, "SELECT evinbox.record_event('Hers', 'three', 'x')");
wait_for($node, $db, "SELECT count(*) = 1 FROM seen WHERE subject = 'three'",
	'a rule of another role has a runner');
is_sql($node, $db, "SELECT who FROM seen WHERE subject = 'three'", 'alice/alice',
	'which runs as that role');
is_sql($node, $db,
	"SELECT string_agg(DISTINCT usename, ' ' ORDER BY usename)"
	  . " = format('alice %s', current_user) FROM pg_stat_activity WHERE backend_type = 'evinbox runner'",
	't', 'each owner has runners, and nobody else');
$node->safe_psql($db, "DELETE FROM evinbox.inbox WHERE name <> 'all'");
wait_for_workers($node, 'coordinator@postgres runner@postgres',
	'a runner whose owner has no rules any more leaves');

# -- on and off ----------------------------------------------------------------------

set_conf($node, 'evinbox.enabled', 'off');
wait_for_workers($node, '', 'evinbox.enabled = off ends the workers');
record($node, $db, 'while off');
is_sql($node, $db, "SELECT state, lag_events FROM evinbox.inbox_status",
	'no worker|1', 'recording goes on without them');
is_sql($node, $db, "SELECT evinbox.run()", '1', 'so does run()');
record($node, $db, 'while off');
set_conf($node, 'evinbox.enabled', 'on');
wait_for_workers($node, 'coordinator@postgres runner@postgres',
	'evinbox.enabled = on brings them back');
is_exactly_once($node, $db, 'all', 'off and on');

$node->safe_psql($db, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
	  . " WHERE backend_type LIKE 'evinbox %'");
record($node, $db, 'orphan');
is_exactly_once($node, $db, 'all', 'after all workers were terminated');

$node->restart;
record($node, $db, 'after');
is_exactly_once($node, $db, 'all', 'after a restart');

is_healthy($node);
$node->stop;
done_testing();
