# The extension under load: dropped and created again, updated, and with objects
# missing, as after an update of the library alone.  Recorders get clear errors
# at most, workers wait, and nothing is lost or handled twice.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use EvinboxTest;

my $node = evinbox_node('main', <<'EOS');
evinbox.max_runners = 8
deadlock_timeout = '200ms'
log_min_messages = warning
log_line_prefix = '%m [%b] '
EOS
my $db = 'app';
my @owners = qw(quick slow sleepy);

$node->safe_psql('postgres', "CREATE DATABASE $db");
$node->safe_psql('postgres', "CREATE ROLE $_ LOGIN") foreach @owners;

# Writers that go on after an error, and note it; until told to stop.
$node->safe_psql($db, <<'EOS');
CREATE TABLE public.refused (sqlstate text, message text);
CREATE TABLE public.stop ();
CREATE TABLE public.way (call text);
INSERT INTO public.way VALUES
	($$SELECT evinbox.record_event('Thing', 1, 'happened')$$),
	($$SELECT evinbox.record_event('Thing', 1, 'happened', throttle => '1 millisecond')$$),
	($$INSERT INTO evinbox.event (subject_type, subject_id, action) VALUES ('Thing', 1, 'happened')$$);
CREATE PROCEDURE public.write() LANGUAGE plpgsql AS $$
DECLARE
	w record;
BEGIN
	LOOP
		FOR w IN SELECT call FROM public.way LOOP
			BEGIN
				EXECUTE w.call;
			EXCEPTION WHEN OTHERS THEN
				INSERT INTO public.refused VALUES (SQLSTATE, SQLERRM);
			END;
			COMMIT;
		END LOOP;
		EXIT WHEN EXISTS (SELECT FROM public.stop);
		PERFORM pg_sleep(0.01);
	END LOOP;
END $$;
EOS

sub start_load
{
	$node->safe_psql($db, 'TRUNCATE public.refused, public.stop');
	return start_pgbench($node, $db, 'CALL public.write()', '-c', 2, '-t', 1);
}

# Writers have met no errors but of some kinds.
sub end_load
{
	my ($load, $states, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$node->safe_psql($db, 'INSERT INTO public.stop DEFAULT VALUES');
	ok(finish($load), "$name: writers go on");
	is_sql($node, $db,
		"SELECT DISTINCT sqlstate, message FROM public.refused WHERE sqlstate <> ALL ('{$states}') LIMIT 5",
		'', "$name: their errors are clear");
}

sub install
{
	$node->safe_psql($db, 'DROP TABLE IF EXISTS public.handled');
	install_evinbox($node, $db);
	$node->safe_psql($db, <<'EOS');
GRANT USAGE ON SCHEMA evinbox TO PUBLIC;
GRANT INSERT ON public.handled TO PUBLIC;
GRANT USAGE ON SEQUENCE public.handled_n_seq TO PUBLIC;
CREATE FUNCTION public.work(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_sleep((config->>'seconds')::float8);
	PERFORM public.handle(e, config);
END $$;
EOS
	my %seconds = (quick => 0, slow => 0.002, sleepy => 0.3);
	add_inbox($node, $db, $_, owner => $_, handler => 'public.work', backoff => '0.1 s',
		config => qq({"inbox": "$_", "seconds": $seconds{$_}}),
		start_at => 'beginning', $_ eq 'sleepy' ? (actions => '{long}') : ())
	  foreach @owners;
}

# waits until all of them are
sub keep_busy
{
	my $id = record($node, $db, 'next', 'long');

	wait_for($node, $db,
		"SELECT EXISTS (SELECT FROM handled WHERE inbox = 'quick' AND event_id = $id)"
		  . " AND EXISTS (SELECT FROM pg_stat_activity WHERE datname = '$db'"
		  . "  AND backend_type = 'evinbox runner' AND wait_event = 'PgSleep')",
		'workers are busy');
}

sub each_is_handled
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is_exactly_once($node, $db, $_, "$name, $_") foreach qw(quick slow);
	wait_for($node, $db,
		"SELECT (SELECT count(*) FROM handled WHERE inbox = 'sleepy') ="
		  . " (SELECT count(*) FROM evinbox.event WHERE action = 'long')",
		"$name: no long one is lost, or handled twice");
	is_sql($node, $db, 'SELECT count(*) FROM evinbox.delivery', '0', "$name: none has failed");
}

# What our processes have said since a place in the log.  Those that were asked to
# leave say so, as those of the server do.
sub said
{
	my ($from, $pattern) = @_;
	my @lines = grep { /\[evinbox.*\] [A-Z]+:/ && !/CONTEXT:|HINT:|due to administrator command/ }
	  split /\n/, slurp_file($node->logfile, $from);

	note $_ foreach @lines;
	return scalar(grep { !defined $pattern || /$pattern/ } @lines);
}

# no such schema, function, table or extension
my $not_there = '3F000,42883,42P01,55000';

# -- dropped and created again ---------------------------------------------------------

install();
my $since = -s $node->logfile;
my $load = start_load();
foreach my $round (1 .. 3)
{
	keep_busy();
	my $start = time;
	is($node->psql($db, 'DROP EXTENSION evinbox CASCADE'), 0, "round $round: dropped");
	cmp_ok(time - $start, '<', 5, "round $round: that does not wait for long");
	install();
}
foreach my $round (1 .. 3)
{
	keep_busy();
	is($node->psql($db,
			'BEGIN; DROP EXTENSION evinbox CASCADE; DROP TABLE handled; CREATE EXTENSION evinbox; COMMIT'),
		0, "round $round: dropped and created at once");
	$node->safe_psql($db, 'DROP EXTENSION evinbox');
	install();
}
keep_busy();
end_load($load, $not_there, 'dropped and created');
is_sql($node, $db, 'SELECT count(*) > 0 FROM refused', 't', 'they did meet some');
each_is_handled('dropped and created');
is(said($since), 0, 'nothing was said');

# -- updated -----------------------------------------------------------------------------------

# Newer and older scripts, which test/run installs for this; else there is nothing
# to see.
my $can_update = $node->safe_psql($db, "SELECT count(*) = 2 FROM pg_available_extension_versions"
	  . " WHERE name = 'evinbox' AND version IN ('0.9test', '1.1test')") eq 't';

sub update_to
{
	my ($version, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $start = time;

	is($node->psql($db, 'ALTER EXTENSION evinbox UPDATE' . ($version ? " TO '$version'" : '')), 0, $name);
	cmp_ok(time - $start, '<', 5, "$name: that does not wait for long");
}

# a newer script, while the library stays the same
SKIP:
{
	skip 'there is no newer script', 1 if !$can_update;

	$since = -s $node->logfile;
	$load = start_load();
	foreach my $round (1 .. 3)
	{
		foreach my $version ('1.1test', '1.0')
		{
			keep_busy();
			update_to($version, "round $round: updated to $version");
		}
	}
	keep_busy();
	is($node->psql($db, "BEGIN; ALTER EXTENSION evinbox UPDATE TO '1.1test'; ROLLBACK"), 0, 'rolled back');
	keep_busy();
	update_to('1.1test', 'updated for good');
	$node->safe_psql($db, "UPDATE evinbox.inbox SET note = 'noted' WHERE name = 'slow'");
	is_sql($node, $db, "SELECT evinbox.note_of('slow')", 'noted', 'what is new is there');
	keep_busy();
	end_load($load, '', 'updated');
	each_is_handled('updated');
	$node->restart;
	each_is_handled('updated, and restarted');
	is_sql($node, $db, "SELECT evinbox.note_of('slow')", 'noted', 'and stays');
	update_to('1.0', 'taken back');
	is(said($since), 0, 'nothing was said');
}

# a newer library, which an older script does not suit
SKIP:
{
	skip 'there is no older script', 1 if !$can_update;

	keep_busy();
	record_many($node, $db, 200);
	update_to('0.9test', 'what the library needs is gone');
	$node->stop;
	$since = -s $node->logfile;
	$node->start;
	$load = start_load();
	wait_for($node, $db, 'SELECT count(*) >= 3 FROM public.refused', 'nobody can record');
	is_sql($node, $db, 'SELECT DISTINCT sqlstate, message FROM public.refused',
		'55000|extension "evinbox" in this database does not fit its library', 'and all are told why');
	wait_for_workers($node, "coordinator\@$db", 'the coordinator waits');

	# each of these makes it look again
	foreach my $round (1 .. 10)
	{
		$node->safe_psql('postgres', 'CREATE ROLE other');
		$node->safe_psql('postgres', 'DROP ROLE other');
	}
	is_sql($node, 'postgres',
		"SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'evinbox coordinator' AND backend_start <"
		  . " (SELECT max(backend_start) FROM pg_stat_activity WHERE backend_type = 'client backend')",
		'1', 'and is not started again and again');
	update_to(undef, 'updated as told');
	wait_for_workers($node, "coordinator\@$db runner\@$db", 'the workers come back');
	keep_busy();
	end_load($load, '55000', 'with an older script');
	each_is_handled('with the right script again');
	is(said($since), 1, 'one thing was said');
	is(said($since, qr/extension "evinbox" in database "app" does not fit its library/), 1, 'that it does not fit');
}

# -- by somebody who may not ---------------------------------------------------------------------

my $workers = "SELECT string_agg(pid::text, ' ' ORDER BY pid) FROM pg_stat_activity"
  . " WHERE datname = '$db' AND backend_type LIKE 'evinbox%'";
$load = start_load();
keep_busy();
my $pids = $node->safe_psql($db, $workers);
foreach my $command ('ALTER EXTENSION evinbox UPDATE', 'DROP EXTENSION evinbox CASCADE')
{
	isnt($node->psql($db, "SET ROLE quick; $command"), 0, "$command: refused");
}
is_sql($node, $db, $workers, $pids, 'the workers do not even notice');
end_load($load, '', 'refused');
each_is_handled('refused');

# -- what the library needs is missing --------------------------------------------------------

# In the middle, and at the start: a table that recording needs, one for bad days, and
# one that is needed at the start.
foreach my $name (qw(outbox_0 halt attempt))
{
	$since = -s $node->logfile;
	$load = start_load();
	keep_busy();
	$node->safe_psql($db, <<EOS);
BEGIN;
ALTER EXTENSION evinbox DROP TABLE evinbox_internal.$name;
ALTER TABLE evinbox_internal.$name RENAME TO gone;
COMMIT;
EOS
	wait_for($node, $db,
		"SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE backend_type = 'evinbox runner')",
		"without $name: runners leave");
	my $pid = join ' ', pids_of($node, 'coordinator');
	$node->safe_psql($db, "SELECT pg_terminate_backend($pid)");

	# a loop would show in this time
	wait_for($node, $db, 'SELECT pg_sleep(2) IS NOT NULL', "without $name: another coordinator starts");
	isnt(join(' ', pids_of($node, 'coordinator')), $pid, "without $name: it is another");
	cmp_ok(said($since, qr/coordinator\]/), '<=', 2, "without $name: each says one thing");
	cmp_ok(said($since, qr/runner\]/), '<=', @owners, "without $name: and so does each runner");
	$node->safe_psql($db, <<EOS);
BEGIN;
ALTER TABLE evinbox_internal.gone RENAME TO $name;
ALTER EXTENSION evinbox ADD TABLE evinbox_internal.$name;
COMMIT;
EOS
	my $start = time;
	wait_for_workers($node, "coordinator\@$db runner\@$db", "with $name again: the workers come back");
	cmp_ok(time - $start, '<', 10, "with $name again: soon");
	end_load($load, '55000', "without $name");
	each_is_handled("with $name again");
}

is_healthy($node);
$node->stop;
done_testing();
