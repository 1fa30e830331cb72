# Handlers that fail: retries, dead letters, timeouts, halted rules.

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
CREATE SEQUENCE public.tries;
-- Fails until it was tried three times.  A sequence remembers what is undone.
CREATE FUNCTION public.flaky(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM public.handle(e, config);
	IF nextval('public.tries') < 3 THEN
		RAISE EXCEPTION 'not yet' USING ERRCODE = 'EV001';
	END IF;
END $$;
CREATE FUNCTION public.picky(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM public.handle(e, config);
	IF e.subject_id LIKE 'bad%' THEN
		RAISE EXCEPTION 'no % here', e.subject_id USING ERRCODE = 'EV002';
	END IF;
END $$;
CREATE FUNCTION public.slow(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM public.handle(e, config);
	IF e.subject_id = 'slow' THEN
		PERFORM pg_sleep(1000);
	END IF;
END $$;
CREATE TABLE public.once (subject text UNIQUE DEFERRABLE INITIALLY DEFERRED);
CREATE FUNCTION public.deferred(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM public.handle(e, config);
	INSERT INTO public.once VALUES (e.subject_id);
END $$;
EOS
add_inbox($node, $db, 'witness');

# -- a retry that succeeds ------------------------------------------------------

add_inbox($node, $db, 'flaky', handler => 'public.flaky', subject_types => '{Flaky}',
	backoff => '10 ms');
$node->safe_psql($db, "SELECT evinbox.record_event('Flaky', 1, 'x')");
wait_for_handled($node, $db, 'flaky', 1, 'the worker retries until it succeeds');
is_sql($node, $db, "SELECT count(*) FROM handled WHERE inbox = 'flaky'", '1',
	'with the effects of the one that did');
is_sql($node, $db, "SELECT nextval('tries')", '4', 'after three attempts');
is_sql($node, $db, "SELECT count(*) FROM evinbox.delivery", '0', 'success leaves no row');

# -- retries that do not, and the log ----------------------------------------------

my $failures = sub {
	my @lines = grep { /inbox "picky" could not handle event/ } split /\n/,
	  slurp_file($node->logfile);
	return scalar @lines;
};
add_inbox($node, $db, 'picky', handler => 'public.picky', subject_types => '{Picky}',
	backoff => '10 ms', max_attempts => 3);
$node->safe_psql($db, "INSERT INTO evinbox.event (subject_type, subject_id, action)"
	  . " SELECT 'Picky', 'bad ' || g, 'x' FROM generate_series(1, 5) g");
wait_for($node, $db, "SELECT count(*) = 5 FROM evinbox.dead_letter WHERE inbox = 'picky'",
	'after max_attempts an event is a dead letter');
is($failures->(), 1, 'a streak of failures is one line in the log');
is_sql($node, $db, <<'EOS', 'bad 1|x|3|no bad 1 here|EV002|t|t', 'a dead letter tells what and why');
SELECT subject_id, action, attempts, last_error, last_sqlstate,
	error_context LIKE '%function picky(evinbox.event,jsonb) line 5 at RAISE%',
	died_at > first_failed_at
FROM evinbox.dead_letter ORDER BY event_id LIMIT 1
EOS
is_sql($node, $db, "SELECT count(*) FROM handled WHERE inbox = 'picky'", '0',
	'no effects are left of it');
is_sql($node, $db, "SELECT state, retrying, dead, last_error LIKE 'no bad % here' FROM evinbox.inbox_status"
	  . " WHERE name = 'picky'", 'running|0|5|t', 'inbox_status knows');

# among good ones, in one transaction, and again when those are through
$node->safe_psql($db, "UPDATE evinbox.inbox SET backoff = '1 s' WHERE name = 'picky'");
$node->safe_psql($db, "INSERT INTO evinbox.event (subject_type, subject_id, action)"
	  . " SELECT 'Picky', CASE g % 50 WHEN 7 THEN 'bad ' ELSE 'good ' END || g, 'y'"
	  . " FROM generate_series(1, 200) g");
wait_for($node, $db, "SELECT count(*) = 9 FROM evinbox.dead_letter WHERE inbox = 'picky'",
	'some of many events fail');
wait_for_handled($node, $db, 'picky', 196, 'the others go through');
is_sql($node, $db,
	"SELECT count(*), count(DISTINCT event_id), count(*) FILTER (WHERE subject LIKE 'bad%')"
	  . " FROM handled WHERE inbox = 'picky'", '196|196|0', 'each once');
cmp_ok($failures->(), '>=', 2, 'another streak is another line');
cmp_ok($failures->(), '<=', 9, 'and not one for each attempt');
is_exactly_once($node, $db, 'witness', 'meanwhile the other inbox');

# -- a constraint that is checked at commit ---------------------------------------------

add_inbox($node, $db, 'deferred', handler => 'public.deferred', subject_types => '{Deferred}',
	max_attempts => 1);
$node->safe_psql($db, "INSERT INTO evinbox.event (subject_type, subject_id, action)"
	  . " SELECT 'Deferred', CASE WHEN g IN (3, 8) THEN 1 ELSE g END, 'x' FROM generate_series(1, 10) g");
wait_for($node, $db, "SELECT count(*) = 2 FROM evinbox.dead_letter WHERE inbox = 'deferred'",
	'errors at commit are found as well');
wait_for_handled($node, $db, 'deferred', 8, 'and separated from the others');
is_sql($node, $db,
	"SELECT string_agg(last_sqlstate || ' ' || subject_id, ', ' ORDER BY event_id) FROM evinbox.dead_letter"
	  . " WHERE inbox = 'deferred'", '23505 1, 23505 1', 'by what they did');

# -- a handler that takes too long --------------------------------------------------

add_inbox($node, $db, 'slow', handler => 'public.slow', subject_types => '{Slow}',
	timeout => '100 ms', max_attempts => 1);
$node->safe_psql($db, "INSERT INTO evinbox.event (subject_type, subject_id, action)"
	  . " VALUES ('Slow', 'a', 'x'), ('Slow', 'slow', 'x'), ('Slow', 'b', 'x')");
wait_for($node, $db, "SELECT count(*) = 1 FROM evinbox.dead_letter WHERE inbox = 'slow'",
	'a handler that takes too long is aborted');
is_sql($node, $db, "SELECT subject_id, last_sqlstate FROM evinbox.dead_letter WHERE inbox = 'slow'",
	'slow|57014', 'and the event is to blame');
wait_for_handled($node, $db, 'slow', 2, 'the others go through');

# -- a failure that the backoff keeps for later survives a restart -------------------

add_inbox($node, $db, 'later', handler => 'public.picky', subject_types => '{Later}',
	backoff => '1 hour');
$node->safe_psql($db, "SELECT evinbox.record_event('Later', 'bad', 'x')");
wait_for($node, $db, "SELECT retrying = 1 FROM evinbox.inbox_status WHERE name = 'later'",
	'an event waits for its next attempt');
is_sql($node, $db, "SELECT state, attempts, next_at - updated_at BETWEEN '45 min' AND '75 min'"
	  . " FROM evinbox.delivery WHERE inbox = 'later'", 'retry|1|t', 'about as long as the rule says');
$node->stop('immediate');
$node->start;
$node->safe_psql($db, "CREATE OR REPLACE FUNCTION public.picky(e evinbox.event, config jsonb)"
	  . " RETURNS void LANGUAGE sql AS 'SELECT public.handle(e, config)'");
$node->safe_psql($db, "UPDATE evinbox.delivery SET next_at = now() WHERE inbox = 'later';"
	  . " UPDATE evinbox.inbox SET priority = priority WHERE name = 'later'");
wait_for_handled($node, $db, 'later', 1, 'after a crash, too, it is retried');
is_sql($node, $db, "SELECT count(*) FROM evinbox.delivery WHERE inbox = 'later'", '0',
	'and is no delivery any more');

# -- a rule that stops working -------------------------------------------------------------

$node->safe_psql($db, "CREATE FUNCTION public.fleeting(e evinbox.event, config jsonb) RETURNS void"
	  . " LANGUAGE sql AS 'SELECT public.handle(e, config)'");
add_inbox($node, $db, 'fleeting', handler => 'public.fleeting', subject_types => '{Fleeting}');
$node->safe_psql($db, "ALTER FUNCTION public.fleeting RENAME TO gone");
$node->safe_psql($db, "SELECT evinbox.record_event('Fleeting', g, 'x') FROM generate_series(1, 3) g");
wait_for($node, $db, "SELECT state = 'halted' AND last_error LIKE '%fleeting%does not exist'"
	  . " FROM evinbox.inbox_status WHERE name = 'fleeting'", 'a rule that does not work is halted, with the reason');
is_sql($node, $db, "SELECT lag_events, retrying, dead FROM evinbox.inbox_status WHERE name = 'fleeting'",
	'3|0|0', 'its events wait, and are not to blame');
is_exactly_once($node, $db, 'witness', 'no other inbox notices');
$node->safe_psql($db, "ALTER FUNCTION public.gone RENAME TO fleeting");
wait_for_handled($node, $db, 'fleeting', 3, 'it goes on by itself');
is_sql($node, $db, "SELECT state, last_error IS NULL FROM evinbox.inbox_status WHERE name = 'fleeting'",
	'running|t', 'and is not halted any more');

is_exactly_once($node, $db, 'witness', 'the other inbox, at the end');
is_healthy($node);
$node->stop;
done_testing();
