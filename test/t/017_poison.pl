# Events whose handler ends the server, or never ends: found, and given up, with
# no harm to any other event.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);
use EvinboxTest;

# The operating system lives on, so nothing need be on its disks.
my $node = evinbox_node('main', <<'EOS');
restart_after_crash = on
EOS
my $db = 'postgres';

# A command that is run by COPY has the session that runs it for its parent.
install_evinbox($node, $db);
$node->safe_psql($db, <<'EOS');
CREATE FUNCTION public.die_here() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	COPY (SELECT 1) TO PROGRAM 'kill -KILL $PPID; sleep 60';
END $$;
CREATE FUNCTION public.deadly(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM public.handle(e, config);
	IF e.subject_id LIKE 'poison%' THEN
		PERFORM public.die_here();
	END IF;
END $$;

-- Fails first, and is deadly when it is tried again.
CREATE FUNCTION public.deadly_later(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM public.handle(e, config);
	IF e.subject_id = 'poison' THEN
		IF EXISTS (SELECT FROM evinbox.delivery d WHERE d.inbox = config->>'inbox' AND d.event_id = e.id) THEN
			PERFORM public.die_here();
		END IF;
		RAISE EXCEPTION 'not yet';
	END IF;
END $$;

-- Waits for a program that cannot be interrupted.
CREATE FUNCTION public.deaf(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM public.handle(e, config);
	IF e.subject_id = 'poison' THEN
		COPY (SELECT 1) TO PROGRAM 'trap "" INT; sleep 1.3';
	END IF;
END $$;
EOS
add_inbox($node, $db, 'witness');

# How often the server has started anew.
sub crashes
{
	my @lines = grep { /all server processes terminated; reinitializing/ } split /\n/,
	  slurp_file($node->logfile);

	return scalar @lines;
}

# Polls a server that is not always there.
sub wait_through
{
	my ($sql, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		my $answer;

		eval { $node->psql($db, $sql, stdout => \$answer, stderr => \my $error); };
		return ok(1, $name) if defined $answer && $answer eq 't';
		usleep(100_000);
	}
	return ok(0, $name);
}

# The server may end before it has said that this is committed.
sub record_deadly
{
	my ($sql) = @_;

	eval { $node->psql($db, $sql); };
}

# in one transaction: as many before it as after it
sub record_poison
{
	my ($type, $around) = @_;

	record_deadly(
		"INSERT INTO evinbox.event (subject_type, subject_id, action)"
		  . " SELECT '$type', CASE g WHEN $around + 1 THEN 'poison' ELSE g::text END, 'x'"
		  . " FROM generate_series(1, 2 * $around + 1) g");
}

sub is_given_up
{
	my ($name, $count, $attempts) = @_;

	wait_through("SELECT count(*) = 1 FROM evinbox.dead_letter WHERE inbox = '$name'",
		"$name: the event is given up");
	is_sql($node, $db,
		"SELECT subject_id, attempts, last_sqlstate, last_error FROM evinbox.dead_letter WHERE inbox = '$name'",
		"poison|$attempts|57P02|the server or its worker has ended whenever this event was handled",
		"$name: it is the right one, and says why");
	wait_for_handled($node, $db, $name, $count, "$name: the others are handled");
	is_sql($node, $db, <<EOQ, "$count|$count|t|0", "$name: each once, and in order");
SELECT count(*), count(DISTINCT event_id), bool_and(in_order), count(*) FILTER (WHERE subject = 'poison')
FROM (SELECT *, event_id > lag(event_id, 1, 0) OVER (ORDER BY n) AS in_order
	FROM handled WHERE inbox = '$name') s
EOQ
	is_sql($node, $db,
		"SELECT count(*) FROM evinbox_internal.attempt a JOIN evinbox.inbox i ON i.id = a.inbox_id WHERE i.name = '$name'",
		'0', "$name: nothing is left of the attempts");
}

# -- as long as nothing ends, nothing is written about it ------------------------------

add_inbox($node, $db, 'fine', subject_types => '{fine}', handler => 'public.deadly');
$node->safe_psql($db, "SELECT evinbox.record_event('fine', g, 'x') FROM generate_series(1, 500) g");
is(finish(start_pgbench($node, $db, "SELECT evinbox.record_event('fine', :client_id, 'x');", '-c', 2, '-t', 100)),
	1, 'some load');
wait_for_handled($node, $db, 'fine', 700, 'it is handled');
is_exactly_once($node, $db, 'witness', 'before anything has ended');

# What a worker has done is in the statistics a second later at most, or when it ends.
$node->restart;
my $attempts = "SELECT n_tup_ins FROM pg_stat_all_tables WHERE relid = 'evinbox_internal.attempt'::regclass";
is_sql($node, $db, $attempts, '0', 'no attempt is recorded');
is_sql($node, $db, "SELECT n_tup_ins >= 700 FROM pg_stat_all_tables WHERE relid = 'public.handled'::regclass",
	't', 'as the statistics would tell');

# -- a server that ends ----------------------------------------------------------------

add_inbox($node, $db, 'deadly', subject_types => '{deadly}', handler => 'public.deadly');
record_poison('deadly', 300);
is_given_up('deadly', 600, 3);
is(crashes(), 4, 'it was tried three times after the first crash');
is_exactly_once($node, $db, 'witness', 'after that');

# two of them in one batch, each to be found by itself
add_inbox($node, $db, 'two', subject_types => '{two}', handler => 'public.deadly');
record_deadly(
	"INSERT INTO evinbox.event (subject_type, subject_id, action) SELECT 'two',"
	  . " CASE WHEN g IN (3, 5) THEN 'poison ' ELSE '' END || g, 'x' FROM generate_series(1, 9) g");
wait_through("SELECT count(*) = 2 FROM evinbox.dead_letter WHERE inbox = 'two'",
	'two deadly events are given up');
is_sql($node, $db, "SELECT string_agg(subject_id || ' ' || last_sqlstate, ', ' ORDER BY event_id)"
	  . " FROM evinbox.dead_letter WHERE inbox = 'two'", 'poison 3 57P02, poison 5 57P02', 'these two');
wait_for_handled($node, $db, 'two', 7, 'the others are handled');
is_sql($node, $db, "SELECT string_agg(subject, ' ' ORDER BY n) FROM handled WHERE inbox = 'two'",
	'1 2 4 6 7 8 9', 'each once, and in order');

# a retry, which is soon enough not to be on disk when it ends the server
add_inbox($node, $db, 'later', subject_types => '{later}', handler => 'public.deadly_later',
	backoff => '1 ms', max_attempts => 10);
record_poison('later', 3);
is_given_up('later', 6, 4);

# -- slow ones beside it --------------------------------------------------------------------

# Whenever the server ends, each of the others is in the middle of an event.
$node->safe_psql($db, <<'EOS');
CREATE FUNCTION public.slow(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM public.handle(e, config);
	PERFORM pg_sleep(0.3);
END $$;
EOS
add_inbox($node, $db, "slow $_", subject_types => '{crowd}', handler => 'public.slow') foreach 1 .. 2;
add_inbox($node, $db, 'crowd', subject_types => '{crowd}', handler => 'public.deadly', priority => 20);
record_poison('crowd', 1);
is_given_up('crowd', 2, 3);
foreach my $n (1 .. 2)
{
	wait_for_handled($node, $db, "slow $n", 3, "slow $n: its events are handled");
	is_sql($node, $db, "SELECT string_agg(subject, ' ' ORDER BY n) FROM handled WHERE inbox = 'slow $n'",
		'1 poison 3', "slow $n: each once, and in order");
	is_sql($node, $db, "SELECT count(*) FROM evinbox.delivery WHERE inbox = 'slow $n'", '0',
		"slow $n: none is to blame for what others did");
}

# -- a server that ends for another reason ------------------------------------------------

# In the middle of a handler, which is not to blame: less than three times.
$node->safe_psql($db, <<'EOS');
CREATE TABLE public.gate ();
CREATE FUNCTION public.sleep_at_gate(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM public.handle(e, config);
	IF EXISTS (SELECT FROM public.gate) AND e.subject_id = '100' THEN
		PERFORM pg_sleep(1000);
	END IF;
END $$;
EOS
add_inbox($node, $db, 'innocent', subject_types => '{innocent}', handler => 'public.sleep_at_gate',
	timeout => '0');
$node->safe_psql($db, 'INSERT INTO public.gate DEFAULT VALUES');
$node->safe_psql($db, "SELECT evinbox.record_event('innocent', g, 'x') FROM generate_series(1, 200) g");
my $former = crashes();
foreach my $round (1 .. 2)
{
	wait_for($node, $db, "SELECT count(*) = 1 FROM pg_stat_activity"
		  . " WHERE backend_type = 'evinbox runner' AND wait_event = 'PgSleep'",
		"innocent, round $round: a runner is in a handler");
	my $session = $node->background_psql($db, on_error_stop => 0);
	my $pid = $session->query('SELECT pg_backend_pid()');
	kill 'KILL', $pid;
	eval { $session->{run}->kill_kill; };
	wait_through("SELECT true",
		"innocent, round $round: the server is back");
}
wait_for($node, $db, "SELECT attempts = 2 FROM evinbox_internal.attempt",
	'innocent: it is tried again, on record');
$node->safe_psql($db, "DELETE FROM public.gate; SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
	  . " WHERE backend_type = 'evinbox runner' AND wait_event = 'PgSleep'");
wait_for_handled($node, $db, 'innocent', 200, 'innocent: all events are handled');
is_sql($node, $db, "SELECT count(*), count(DISTINCT event_id) FROM handled WHERE inbox = 'innocent'",
	'200|200', 'innocent: each once');
is_sql($node, $db, "SELECT count(*) FROM evinbox.delivery WHERE inbox = 'innocent'", '0',
	'innocent: none is to blame');
is(crashes(), $former + 2, 'innocent: there were two crashes');
is_sql($node, $db, 'SELECT count(*) FROM evinbox_internal.attempt', '0', 'innocent: nothing is left of the attempts');

# -- what may happen to others meanwhile -------------------------------------------------

# They were there when the server ended, so each of their attempts is on record; but
# nothing ends in any of these.
$node->safe_psql($db, <<'EOS');
CREATE SEQUENCE public.tries;
CREATE FUNCTION public.clumsy(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM public.handle(e, config);
	IF nextval('public.tries') <= 5 THEN
		RAISE EXCEPTION 'in the way of somebody' USING ERRCODE = 'deadlock_detected';
	END IF;
END $$;
CREATE FUNCTION public.fleeting(e evinbox.event, config jsonb) RETURNS void
	LANGUAGE sql AS 'SELECT public.handle(e, config)';
EOS
add_inbox($node, $db, 'clumsy', subject_types => '{clumsy}', handler => 'public.clumsy', enabled => 'false');
add_inbox($node, $db, 'fleeting', subject_types => '{fleeting}', handler => 'public.fleeting', enabled => 'false');
$node->safe_psql($db, "SELECT evinbox.record_event(t, g, 'x') FROM unnest('{clumsy, fleeting}'::text[]) t, generate_series(1, 3) g");
$node->safe_psql($db, 'ALTER FUNCTION public.fleeting RENAME TO gone');
$node->stop('immediate');
$node->start;
foreach my $look (1 .. 5)
{
	$node->safe_psql($db, "SELECT evinbox.resume('fleeting')");
	wait_for($node, $db, "SELECT state = 'halted' FROM evinbox.inbox_status WHERE name = 'fleeting'",
		"fleeting, look $look: its handler is gone");
}
$node->safe_psql($db, 'ALTER FUNCTION public.gone RENAME TO fleeting');
$node->safe_psql($db, "SELECT evinbox.resume('fleeting'), evinbox.resume('clumsy')");
foreach my $name ('fleeting', 'clumsy')
{
	wait_for_handled($node, $db, $name, 3, "$name: its events are handled");
	is_sql($node, $db, "SELECT string_agg(subject, ' ' ORDER BY n) FROM handled WHERE inbox = '$name'",
		'1 2 3', "$name: each once, and in order");
	is_sql($node, $db, "SELECT count(*) FROM evinbox.delivery WHERE inbox = '$name'", '0',
		"$name: none is to blame");
}
is_sql($node, $db, 'SELECT count(*) FROM evinbox_internal.attempt', '0', 'nothing is left of the attempts');

# -- a worker that has to be ended ----------------------------------------------------------

$former = crashes();
add_inbox($node, $db, 'deaf', subject_types => '{deaf}', handler => 'public.deaf', timeout => '50 ms');
record_poison('deaf', 2);
is_given_up('deaf', 4, 3);
is(crashes(), $former, 'deaf: the server did not end for that');

is_exactly_once($node, $db, 'witness', 'the other inbox, at the end');

# crashes are the topic here, but nothing else
my @bad = grep { /PANIC:|TRAP:|terminated by signal (?!9)|XX000|cache lookup failed/ } split /\n/,
  slurp_file($node->logfile);
is("@bad", '', 'the log is clean');
$node->stop;
done_testing();
