# More owners than runners: they take turns, nobody is left out, and nobody is
# interrupted.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);
use EvinboxTest;

# The rest of the server is kept quiet, for the last part.
my $node = evinbox_node('main', <<'EOS');
evinbox.max_runners = 2
autovacuum = off
checkpoint_timeout = '1d'
max_wal_size = '10GB'
EOS
my $db = 'app';

$node->safe_psql('postgres', "CREATE DATABASE $db");
install_evinbox($node, $db);
let_all_handle($node, $db);
$node->safe_psql($db, <<'EOS');
ALTER TABLE public.handled ADD at timestamptz DEFAULT clock_timestamp();
CREATE FUNCTION public.work(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF e.action = 'waits' THEN
		PERFORM pg_advisory_xact_lock_shared(42);
	ELSIF e.action = 'takes long' THEN
		PERFORM pg_sleep(0.005);
	END IF;
	PERFORM public.handle(e, config);
END $$;
EOS
my @owners = map { "o$_" } 1 .. 5;
foreach my $owner (@owners)
{
	$node->safe_psql($db, "CREATE ROLE $owner LOGIN");
	add_inbox($node, $db, $owner, owner => $owner, handler => 'public.work', max_attempts => 1,
		subject_types => "{Thing,$owner}");
}

# Of those with a place: pg_stat_activity also shows those that have given it up
# and are about to exit.
my $runners = "(SELECT count(*) FROM evinbox.worker_status WHERE kind = 'runner' AND pid IS NOT NULL)";
my $most = 0;

# Polls until a query says true, and watches the number of runners.
sub wait_and_count
{
	my ($sql, $name) = @_;

	foreach (1 .. 50 * $PostgreSQL::Test::Utils::timeout_default)
	{
		my ($done, $count) =
		  split /\|/, $node->safe_psql($db, "SELECT ($sql), $runners");

		$most = $count if $count > $most;
		return pass($name) if $done eq 't';
		sleep 0.02;
	}
	return fail($name);
}

sub all_are_handled
{
	my ($name) = @_;

	foreach my $owner (@owners)
	{
		wait_and_count(
			"SELECT count(*) = 0 FROM evinbox.event e WHERE subject_type IN ('Thing', '$owner')"
			  . " AND NOT EXISTS (SELECT FROM handled h WHERE inbox = '$owner' AND event_id = e.id)",
			"$name: $owner has handled all");
		is_sql($node, $db,
			"SELECT count(*) - count(DISTINCT event_id) FROM handled WHERE inbox = '$owner'", '0',
			"$name: and each once");
	}
	cmp_ok($most, '<=', 2, "$name: by two runners");
}

# -- turns ------------------------------------------------------------------------------

wait_and_count("SELECT $runners = 2", 'there are two runners');
record($node, $db, 'for all');
all_are_handled('one event');
foreach my $owner (reverse @owners)
{
	my $id = $node->safe_psql($db, "SELECT evinbox.record_event('$owner', 1, 'happened')");
	wait_and_count("SELECT count(*) = 1 FROM handled WHERE inbox = '$owner' AND event_id = $id",
		"an event for $owner alone");
}
record_many($node, $db, 300);
all_are_handled('many events');

# -- under load -----------------------------------------------------------------------------
#
# Each one has more to do than it gets done in its turn. All are served all the
# same: in the end of the load's time, each has come on since its middle.

my $bench = start_pgbench($node, $db, <<'EOS', '-c', 2, '-T', 4, '-R', 100);
SELECT evinbox.record_event('Thing', :client_id, 'takes long');
EOS
my $start = $node->safe_psql($db, 'SELECT max(id) FROM evinbox.event');
foreach my $owner (@owners)
{
	wait_and_count("SELECT count(*) >= 10 FROM handled WHERE inbox = '$owner' AND event_id > $start",
		"$owner has its turn under load");
}
my $middle = $node->safe_psql($db, 'SELECT clock_timestamp()');
foreach my $owner (@owners)
{
	wait_and_count("SELECT count(*) >= 10 FROM handled WHERE inbox = '$owner' AND at > '$middle'",
		"$owner has another one");
}
ok(finish($bench), 'writers meanwhile');
all_are_handled('load');

# -- nobody is interrupted --------------------------------------------------------------------

my $keeper = $node->background_psql($db);
$keeper->set_query_timer_restart;
$keeper->query_safe('SELECT pg_advisory_lock(42)');
my $waits = $node->safe_psql($db, "SELECT evinbox.record_event('o3', 1, 'waits')");
my $in_handler = "SELECT pid FROM pg_stat_activity WHERE backend_type = 'evinbox runner' AND wait_event = 'advisory'";
wait_and_count("SELECT EXISTS ($in_handler)", 'a runner is in a long handler');
my $pid = $node->safe_psql($db, $in_handler);
wait_and_count("SELECT clock_timestamp() > started_at + interval '1.5 s' FROM evinbox.worker_status WHERE pid = $pid",
	'for longer than a turn');
foreach my $round (1 .. 2)
{
	foreach my $owner (grep { $_ ne 'o3' } @owners)
	{
		my $id = $node->safe_psql($db, "SELECT evinbox.record_event('$owner', 2, 'happened')");
		wait_and_count("SELECT count(*) = 1 FROM handled WHERE inbox = '$owner' AND event_id = $id",
			"round $round: the others share the second place, $owner as well");
	}
}
is_sql($node, $db, $in_handler, $pid, 'the long handler was not interrupted');
$keeper->query_safe('SELECT pg_advisory_unlock(42)');
wait_and_count("SELECT count(*) = 1 FROM handled WHERE event_id = $waits", 'it comes to its end');
$keeper->quit;
all_are_handled('beside a long handler');

# -- what is due later ------------------------------------------------------------------------

# A retry brings its owner back, who has given its place to others meanwhile.
$node->safe_psql($db, <<'EOS');
CREATE SEQUENCE public.tries;
GRANT USAGE ON SEQUENCE public.tries TO PUBLIC;
CREATE FUNCTION public.fail_first(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF nextval('public.tries') = 1 THEN
		RAISE EXCEPTION 'not yet';
	END IF;
	PERFORM public.handle(e, config);
END $$;
EOS
add_inbox($node, $db, 'fails', owner => 'o1', handler => 'public.fail_first', backoff => '2 s',
	subject_types => '{Bad}');
my $bad = $node->safe_psql($db, "SELECT evinbox.record_event('Bad', 1, 'happened')");
wait_and_count("SELECT retrying = 1 FROM evinbox.inbox_status WHERE name = 'fails'", 'an event fails');
foreach my $owner (grep { $_ ne 'o1' } @owners)
{
	my $id = $node->safe_psql($db, "SELECT evinbox.record_event('$owner', 3, 'happened')");
	wait_and_count("SELECT count(*) = 1 FROM handled WHERE inbox = '$owner' AND event_id = $id",
		"$owner takes a place");
}
wait_and_count("SELECT count(*) = 1 FROM handled WHERE inbox = 'fails' AND event_id = $bad",
	'the event is tried again in time');

# -- places for all ------------------------------------------------------------------------------

set_conf($node, 'evinbox.max_runners', 5);
wait_for($node, $db, "SELECT $runners = 5", 'with a place for each, all have one');
record($node, $db, 'for all');
foreach my $owner (@owners)
{
	wait_for($node, $db,
		"SELECT NOT EXISTS (SELECT FROM evinbox.event e WHERE subject_type = 'Thing'"
		  . " AND NOT EXISTS (SELECT FROM handled h WHERE inbox = '$owner' AND event_id = e.id))",
		"$owner handles it");
}
set_conf($node, 'evinbox.max_runners', 2);
wait_for($node, $db, "SELECT $runners = 2", 'with less places, some leave');
record($node, $db, 'for all');
all_are_handled('places were taken away');
is_sql($node, $db, 'SELECT count(*) FROM evinbox.delivery', '0', 'nothing has failed');

# -- idle -------------------------------------------------------------------------------------------

# Looks from another database, so that looking does not count.  A worker that
# looks, in a transaction or not, changes its state.  See 008_idle.pl for the wait.
my $looking = <<'EOS';
SELECT pg_current_wal_insert_lsn(), pg_snapshot_xmax(pg_current_snapshot()),
	string_agg(concat_ws(' ', backend_type, pid, state_change), ', ' ORDER BY pid)
FROM pg_stat_activity WHERE backend_type LIKE 'evinbox%'
EOS
my ($before, $after) = ('', '');
foreach my $round (1 .. 5)
{
	$before = $node->safe_psql('postgres', $looking);
	sleep 3;
	$after = $node->safe_psql('postgres', $looking);
	note "$before\n$after";
	last if $before eq $after;
}
is($after, $before, 'the server gets quiet: no transaction, no WAL, no transaction id');
record($node, $db, 'awake');
all_are_handled('the next event');

is_healthy($node);
$node->stop;
done_testing();
