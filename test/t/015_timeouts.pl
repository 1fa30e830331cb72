# Rules that take too long are cancelled, whatever they catch; and workers that
# are told to go do so, whatever they are at.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use EvinboxTest;

my $node = evinbox_node('main');
my $db = 'postgres';

install_evinbox($node, $db);
$node->safe_psql($db, <<'EOS');
-- Whoever is slow, is so for ever.
CREATE FUNCTION public.dawdle(subject text) RETURNS boolean LANGUAGE sql VOLATILE AS $$
	SELECT pg_sleep(CASE subject WHEN 'slow' THEN 1000 ELSE 0 END) IS NOT NULL
$$;
CREATE FUNCTION public.slow(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM public.handle(e, config);
	PERFORM public.dawdle(e.subject_id);
END $$;

-- Catches the cancellation, and goes on.
CREATE FUNCTION public.stubborn(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM public.handle(e, config);
	WHILE e.subject_id = 'slow' LOOP
		BEGIN
			PERFORM pg_sleep(1000);
		EXCEPTION WHEN query_canceled THEN
		END;
	END LOOP;
END $$;

-- The same inside of itself, and busy when it is caught.
CREATE FUNCTION public.nested(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM public.handle(e, config);
	WHILE e.subject_id = 'slow' LOOP
		BEGIN
			LOOP
				BEGIN
					LOOP
						BEGIN
							PERFORM pg_sleep(1000);
						EXCEPTION WHEN OTHERS OR query_canceled THEN
							PERFORM pg_sleep(1000);
						END;
					END LOOP;
				EXCEPTION WHEN OTHERS OR query_canceled THEN
					PERFORM public.stubborn(e, config);
				END;
			END LOOP;
		EXCEPTION WHEN OTHERS OR query_canceled THEN
			RAISE WARNING 'never mind: %', SQLERRM;
		END;
	END LOOP;
END $$;

-- Each level of it catches what the one below has not.
CREATE FUNCTION public.dive(depth integer) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF depth = 0 THEN
		PERFORM pg_sleep(1000);
	END IF;
	PERFORM public.dive(depth - 1);
EXCEPTION WHEN OTHERS OR query_canceled THEN
	PERFORM public.dive(depth - 1);
END $$;
CREATE FUNCTION public.deep(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM public.handle(e, config);
	IF e.subject_id = 'slow' THEN
		PERFORM public.dive(40);
	END IF;
END $$;

-- Never sleeps, and has an error of its own all the time.
CREATE FUNCTION public.busy(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM public.handle(e, config);
	WHILE e.subject_id = 'slow' LOOP
		BEGIN
			PERFORM 1 / 0;
		EXCEPTION WHEN OTHERS OR query_canceled THEN
		END;
	END LOOP;
END $$;

-- Ends as if nothing had happened.
CREATE FUNCTION public.innocent(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM public.handle(e, config);
	PERFORM public.dawdle(e.subject_id);
EXCEPTION WHEN query_canceled THEN
END $$;

-- Has an error of its own when it is caught.
CREATE FUNCTION public.angry(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM public.handle(e, config);
	PERFORM public.dawdle(e.subject_id);
EXCEPTION WHEN query_canceled THEN
	RAISE EXCEPTION 'not now' USING ERRCODE = 'EV001';
END $$;

-- Is slow when it commits.
CREATE TABLE public.commits (subject text);
CREATE FUNCTION public.slow_commit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	PERFORM public.dawdle(NEW.subject);
	RETURN NULL;
END $$;
CREATE FUNCTION public.stubborn_commit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	WHILE NEW.subject = 'slow' LOOP
		BEGIN
			PERFORM pg_sleep(1000);
		EXCEPTION WHEN OTHERS OR query_canceled THEN
		END;
	END LOOP;
	RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON public.commits DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION public.slow_commit();
CREATE FUNCTION public.late(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM public.handle(e, config);
	INSERT INTO public.commits VALUES (e.subject_id);
END $$;
EOS
add_inbox($node, $db, 'witness');

# -- too slow -------------------------------------------------------------------

# One of three events is slow. It is a dead letter soon after the timeout; where
# nobody can tell which one it was, halves of the batch have to take it in vain
# before that. The others go through.
sub times_out
{
	my ($name, %rule) = @_;

	add_inbox($node, $db, $name,
		subject_types => "{$name}",
		timeout => '300 ms',
		max_attempts => 1,
		%rule);
	$node->safe_psql($db,
		"INSERT INTO evinbox.event (subject_type, subject_id, action)"
		  . " VALUES ('$name', 'a', 'x'), ('$name', 'slow', 'x'), ('$name', 'b', 'x')");
	wait_for($node, $db, "SELECT count(*) = 1 FROM evinbox.dead_letter WHERE inbox = '$name'",
		"$name: it ends");
	is_sql($node, $db, <<EOQ, 'slow|57014|canceled after the inbox\'s timeout of 300 ms|t|t', "$name: soon after its timeout");
SELECT subject_id, last_sqlstate, last_error,
	first_failed_at - recorded_at >= '300 ms', first_failed_at - recorded_at < '2.3 s'
FROM evinbox.dead_letter WHERE inbox = '$name'
EOQ
	note $node->safe_psql($db,
		"SELECT first_failed_at - recorded_at FROM evinbox.dead_letter WHERE inbox = '$name'");
	wait_for_handled($node, $db, $name, 2, "$name: the others go through");
	is_sql($node, $db, "SELECT string_agg(subject, ' ' ORDER BY n) FROM handled WHERE inbox = '$name'",
		'a b', "$name: once, and in order");
}

times_out('slow', handler => 'public.slow');
times_out('stubborn', handler => 'public.stubborn');
times_out('nested', handler => 'public.nested');
times_out('deep', handler => 'public.deep');
times_out('busy', handler => 'public.busy');
times_out('innocent', handler => 'public.innocent');
times_out('condition', condition => 'public.dawdle(e.subject_id)');
times_out('deferred', handler => 'public.late');
$node->safe_psql($db, <<'EOS');
DROP TRIGGER slow ON public.commits;
CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON public.commits DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION public.stubborn_commit();
EOS
times_out('late', handler => 'public.late');

# a rule has either a handler or a statement
$node->safe_psql($db, <<'EOS');
INSERT INTO evinbox.inbox (name, subject_types, timeout, max_attempts, statement)
VALUES ('statement', '{statement}', '300 ms', 1, $$
	INSERT INTO public.handled (inbox, event_id, subject, action)
	SELECT 'statement', id, subject_id, action FROM events WHERE public.dawdle(subject_id)
$$);
INSERT INTO evinbox.event (subject_type, subject_id, action)
VALUES ('statement', 'a', 'x'), ('statement', 'slow', 'x'), ('statement', 'b', 'x');
EOS
wait_for($node, $db, "SELECT count(*) = 1 FROM evinbox.dead_letter WHERE inbox = 'statement'",
	'a statement that takes too long ends');
is_sql($node, $db,
	"SELECT subject_id, last_sqlstate, first_failed_at - recorded_at < '2.9 s'"
	  . " FROM evinbox.dead_letter WHERE inbox = 'statement'",
	'slow|57014|t', 'soon, and its event is found');
wait_for_handled($node, $db, 'statement', 2, 'its other events go through');
is_sql($node, $db, "SELECT string_agg(subject, ' ' ORDER BY n) FROM handled WHERE inbox = 'statement'",
	'a b', 'once, and in order');

# whatever it would say about that
add_inbox($node, $db, 'angry', handler => 'public.angry', subject_types => '{angry}',
	timeout => '300 ms', max_attempts => 1);
$node->safe_psql($db, "SELECT evinbox.record_event('angry', 'slow', 'x')");
wait_for($node, $db, "SELECT count(*) = 1 FROM evinbox.dead_letter WHERE inbox = 'angry'",
	'one that would raise something else ends');
is_sql($node, $db, "SELECT last_sqlstate FROM evinbox.dead_letter WHERE inbox = 'angry'", '57014',
	'and does not come to that');

is_exactly_once($node, $db, 'witness', 'meanwhile the other inbox');
is_sql($node, $db, "SELECT count(*) FROM evinbox.worker_status WHERE kind = 'runner' AND starts > 1",
	'0', 'no runner had to end for that');
is_sql($node, $db, "SELECT count(*) FROM evinbox.dead_letter WHERE last_sqlstate <> '57014'", '0',
	'nothing else has failed');

# no timeout, and one that is not reached
add_inbox($node, $db, 'patient', subject_types => '{patient}', timeout => '0',
	condition => 'pg_sleep(0.5) IS NOT NULL');
add_inbox($node, $db, 'calm', subject_types => '{patient}', timeout => '1 year',
	condition => 'pg_sleep(0.5) IS NOT NULL');
$node->safe_psql($db, "SELECT evinbox.record_event('patient', 1, 'x')");
wait_for_handled($node, $db, 'patient', 1, 'a timeout of 0 is none');
wait_for_handled($node, $db, 'calm', 1, 'a timeout of a year does not overflow');

# -- told to go -------------------------------------------------------------------

# They sleep as long as the gate is there when they begin.
$node->safe_psql($db, <<'EOS');
DELETE FROM evinbox.inbox WHERE name <> 'witness';
CREATE TABLE public.gate ();
INSERT INTO public.gate DEFAULT VALUES;
CREATE FUNCTION public.sleep_at_gate(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM public.handle(e, config);
	IF EXISTS (SELECT FROM public.gate) THEN
		PERFORM pg_sleep(1000);
	END IF;
END $$;
CREATE FUNCTION public.stay_at_gate(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM public.handle(e, config);
	WHILE EXISTS (SELECT FROM public.gate) LOOP
		BEGIN
			PERFORM pg_sleep(1000);
		EXCEPTION WHEN OTHERS OR query_canceled THEN
		END;
	END LOOP;
END $$;
EOS
my $at_gate = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'evinbox runner' AND wait_event = 'PgSleep'";

sub ends_by_term
{
	my ($name, $handler) = @_;

	add_inbox($node, $db, $name, handler => $handler, subject_types => "{$name}", timeout => '0');
	$node->safe_psql($db, 'INSERT INTO public.gate DEFAULT VALUES');
	$node->safe_psql($db, "SELECT evinbox.record_event('$name', g, 'x') FROM generate_series(1, 3) g");
	wait_for($node, $db, "SELECT count(*) = 1 FROM ($at_gate) s", "$name: a runner is in a handler");
	my $pid = $node->safe_psql($db, $at_gate);
	my $since = time;
	is_sql($node, $db, "DELETE FROM public.gate; SELECT pg_terminate_backend($pid, 5000)", 't',
		"$name: it goes when it is told to");
	note sprintf('%.0f ms', 1000 * (time - $since));
	wait_for_handled($node, $db, $name, 3, "$name: another one comes, and handles what it had");
	is_sql($node, $db, "SELECT string_agg(subject, ' ' ORDER BY n) FROM handled WHERE inbox = '$name'",
		'1 2 3', "$name: once, and in order");
	is_sql($node, $db, "SELECT count(*) FROM evinbox.delivery WHERE inbox = '$name'", '0',
		"$name: the event is not to blame");
}

ends_by_term('sleeper', 'public.sleep_at_gate');
ends_by_term('stayer', 'public.stay_at_gate');

# cancelled by hand, without a timeout: that is a failure as any other
add_inbox($node, $db, 'by hand', handler => 'public.sleep_at_gate', subject_types => '{by hand}',
	timeout => '0', backoff => '10 ms');
$node->safe_psql($db, 'INSERT INTO public.gate DEFAULT VALUES');
$node->safe_psql($db, "SELECT evinbox.record_event('by hand', 1, 'x')");
wait_for($node, $db, "SELECT count(*) = 1 FROM ($at_gate) s", 'a runner is in a handler');
$node->safe_psql($db, "DELETE FROM public.gate; SELECT pg_cancel_backend(pid) FROM ($at_gate) s");
wait_for_handled($node, $db, 'by hand', 1, 'pg_cancel_backend() makes it try again');

# -- a fast shutdown ------------------------------------------------------------------

$node->safe_psql($db, 'INSERT INTO public.gate DEFAULT VALUES');
foreach my $n (1 .. 4)
{
	add_inbox($node, $db, "down $n", subject_types => '{down}', timeout => '0',
		handler => $n % 2 ? 'public.sleep_at_gate' : 'public.stay_at_gate');
}
$node->safe_psql($db, "SELECT evinbox.record_event('down', g, 'x') FROM generate_series(1, 3) g");
wait_for($node, $db, "SELECT count(*) = 4 FROM ($at_gate) s", 'four runners are in handlers');
$node->restart;
wait_for($node, $db, "SELECT count(*) = 4 FROM ($at_gate) s",
	'and again after a restart: none waits for the first batch of another');
$node->safe_psql($db, 'DELETE FROM public.gate');
my $since = time;
$node->stop('fast');
my $took = time - $since;
note sprintf('%.0f ms', 1000 * $took);
cmp_ok($took, '<', 5, 'a fast shutdown does not wait for them');

$node->start;
foreach my $n (1 .. 4)
{
	wait_for_handled($node, $db, "down $n", 3, "after the start, inbox $n goes on");
}
is_sql($node, $db,
	"SELECT bool_and(a = '1 2 3') FROM (SELECT string_agg(subject, ' ' ORDER BY n) AS a"
	  . " FROM handled WHERE inbox LIKE 'down %' GROUP BY inbox) s",
	't', 'each event once, and in order');
is_sql($node, $db, "SELECT count(*) FROM evinbox.delivery WHERE inbox LIKE 'down %'", '0',
	'no event is to blame');
is_exactly_once($node, $db, 'witness', 'the other inbox, at the end');

is_healthy($node);
$node->stop;
done_testing();
