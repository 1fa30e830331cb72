# Workers under load: no room for them, switched off and on, ended one by one or
# with the server.  They come back, say little, and miss nothing.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use EvinboxTest;

# of the places for workers, the server takes one, and our launcher
my $node = evinbox_node('main', <<'EOS');
max_worker_processes = 8
max_parallel_workers = 8
evinbox.max_workers = 6
evinbox.max_runners = 8
log_min_messages = warning
log_line_prefix = '%m [%b] '
EOS
my $db = 'app';
my @owners = map { "o$_" } 1 .. 8;

$node->safe_psql('postgres', "CREATE DATABASE $db");
install_evinbox($node, $db);
let_all_handle($node, $db);

# Each owner's handler has its own way to spend time on a long event, as long as
# the gate is shut; who is in there can be seen by a lock.
$node->safe_psql($db, <<'EOS');
CREATE TABLE public.gate (is_shut boolean);
CREATE TABLE public.locked ();
GRANT ALL ON public.gate, public.locked TO PUBLIC;
CREATE FUNCTION public.work(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM public.handle(e, config);
	IF e.action <> 'long' THEN
		PERFORM pg_sleep(0.001);
	ELSIF EXISTS (SELECT FROM public.gate) THEN
		PERFORM pg_advisory_xact_lock_shared(42);
		CASE config->>'way'
			WHEN 'sleep' THEN
				PERFORM pg_sleep(1000);
			WHEN 'burn' THEN
				LOOP
				END LOOP;
			WHEN 'query' THEN
				PERFORM count(*) FROM generate_series(1, 1000000000000);
			WHEN 'lock' THEN
				LOCK TABLE public.locked;
			WHEN 'catch' THEN
				LOOP
					BEGIN
						PERFORM pg_sleep(1000);
					EXCEPTION WHEN OTHERS OR query_canceled THEN
						NULL;
					END;
				END LOOP;
		END CASE;
	END IF;
END $$;
EOS
my @ways = qw(sleep sleep catch lock lock query burn burn);
foreach my $i (0 .. $#owners)
{
	$node->safe_psql('postgres', "CREATE ROLE $owners[$i] LOGIN");
	add_inbox($node, $db, $owners[$i], owner => $owners[$i], handler => 'public.work', timeout => '0',
		enabled => $i < 3 ? 'true' : 'false',
		config => qq({"inbox": "$owners[$i]", "way": "$ways[$i]"}));
}

sub each_is_handled
{
	my ($name, @inboxes) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is_exactly_once($node, $db, $_, "$name: $_") foreach @inboxes;
	is_sql($node, $db,
		'SELECT (SELECT count(*) FROM evinbox.delivery), (SELECT count(*) FROM evinbox_internal.attempt)',
		'0|0', "$name: no event was blamed");
}

sub restart_with
{
	$node->append_conf('postgresql.conf', join("\n", @_));
	$node->restart;
}

my $since;
my $writing = "SELECT evinbox.record_event('Thing', :client_id, 'happened')";

# -- no room, because of others ------------------------------------------------------------

# Sessions that have a parallel worker, and keep it.
sub take_places
{
	my ($count) = @_;
	my $force = $node->pg_version >= 16 ? 'debug_parallel_query' : 'force_parallel_mode';
	my $hogs = start_pgbench($node, 'postgres',
		"SET $force = on;\nSELECT pg_sleep(1000);", '-c', $count, '-t', 1);

	wait_for($node, 'postgres',
		"SELECT count(*) = $count FROM pg_stat_activity WHERE backend_type = 'parallel worker'",
		"others have $count places");
	return $hogs;
}

sub leave_places
{
	my ($count) = @_;

	$node->safe_psql('postgres', "SELECT pg_terminate_backend(leader_pid) FROM pg_stat_activity"
		  . " WHERE backend_type = 'parallel worker' LIMIT $count");
}

set_conf($node, 'evinbox.enabled', 'off');
wait_for_workers($node, '', 'switched off');
my $hogs = take_places(6);
$since = -s $node->logfile;
my $bench = start_pgbench($node, $db, $writing, '-c', 2, '-R', 100, '-t', 200);
set_conf($node, 'evinbox.enabled', 'on');
wait_for($node, $db, "SELECT starts >= 3 FROM evinbox.worker_status WHERE kind = 'scout'",
	'without room, it is tried again and again');
is(said($node, $since, 'could not start a background worker'), 1, 'but said once');
is_sql($node, $db, "SELECT DISTINCT state FROM evinbox.inbox_status WHERE name IN ('o1', 'o2', 'o3')",
	'no worker', 'and shown');
leave_places(2);
wait_for_workers($node, "coordinator\@$db runner\@$db", 'with some room, some start');
leave_places(6);
wait_for($node, $db, "SELECT count(*) = 3 FROM evinbox.worker_status WHERE kind = 'runner' AND state = 'running'",
	'with more, all do');
ok(finish($bench), 'writers noticed nothing');
each_is_handled('there was no room', @owners[ 0 .. 2 ]);
is(said($node, $since), 1, 'nothing else was said');
ok(!finish($hogs), 'the others are gone');

# -- no room, because of our own limit -------------------------------------------------------

# One place for runners. Others have to wait until there are more.
$since = -s $node->logfile;
restart_with('evinbox.max_workers = 2');
$node->safe_psql('postgres', "CREATE DATABASE $_") for qw(two three);
$bench = start_pgbench($node, $db, $writing, '-c', 2, '-R', 100, '-t', 100);
wait_for($node, $db,
	"SELECT string_agg(state, ' ' ORDER BY state) = 'no worker no worker running'"
	  . " FROM evinbox.inbox_status WHERE name IN ('o1', 'o2', 'o3')",
	'one runner has a place, the others are shown to have none');
ok(finish($bench), 'writers noticed nothing');
my ($served) = split /\n/,
  $node->safe_psql($db, "SELECT name FROM evinbox.inbox_status WHERE state = 'running'");
each_is_handled('with a place for one', $served);
is(said($node, $since, 'wants more runners than it may have workers'), 1, 'the limit is mentioned once');

# no place at all for another database, and every command makes us look again
install_evinbox($node, 'two');
install_evinbox($node, 'three');
foreach my $round (1 .. 5)
{
	$node->safe_psql('postgres', 'CREATE DATABASE other');
	$node->safe_psql('postgres', 'DROP DATABASE other');
	record($node, $db, 'more');
	wait_for($node, $db, "SELECT NOT EXISTS (SELECT FROM evinbox.worker_status WHERE kind = 'scout')",
		"round $round: somebody has looked");
}
is(said($node, $since, 'more databases than it may have workers'), 1, 'that is mentioned once as well');
is(said($node, $since), 2, 'nothing else was said');
$node->safe_psql($_, 'DROP EXTENSION evinbox CASCADE') for qw(two three);

restart_with('max_worker_processes = 40', 'evinbox.max_workers = 20');
each_is_handled('with more places', @owners[ 0 .. 2 ]);

# -- switched off and on ------------------------------------------------------------------------

$since = -s $node->logfile;
$bench = start_pgbench($node, $db, $writing, '-c', 2, '-R', 100, '-t', 200);
foreach my $round (1 .. 5)
{
	set_conf($node, 'evinbox.enabled', 'off');
	wait_for_workers($node, '', "round $round: switched off, all leave") if $round < 4;
	set_conf($node, 'evinbox.enabled', 'on');
	wait_for_workers($node, "coordinator\@$db runner\@$db", "round $round: switched on, they come")
	  if $round < 4;
}
ok(finish($bench), 'writers noticed nothing');
each_is_handled('off and on', @owners[ 0 .. 2 ]);
is(said($node, $since), 0, 'nothing was said');

# -- ended one by one ------------------------------------------------------------------------------

$node->safe_psql($db, 'UPDATE evinbox.inbox SET enabled = true');
wait_for($node, $db, "SELECT count(*) = 8 FROM evinbox.worker_status WHERE kind = 'runner' AND state = 'running'",
	'eight runners');
$since = -s $node->logfile;
$bench = start_pgbench($node, $db, $writing, '-c', 2, '-R', 100, '-t', 150);
my $ended = 0;
foreach my $round (1 .. 40)
{
	$ended += $node->safe_psql('postgres',
		"SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity"
		  . " WHERE backend_type LIKE 'evinbox%' ORDER BY random() LIMIT 1) x");
}
ok(finish($bench), 'writers noticed nothing');
each_is_handled("$ended were ended", @owners);
is(said($node, $since), 0, 'nothing but that was said');

# -- with the server --------------------------------------------------------------------------------

foreach my $mode (qw(fast smart immediate))
{
	$node->safe_psql($db, 'INSERT INTO public.gate VALUES (true)');
	my $keeper = $node->background_psql($db);
	$keeper->query_safe('BEGIN');
	$keeper->query_safe('LOCK TABLE public.locked');
	record_many($node, $db, 20);
	record($node, $db, 'long', 'long');
	wait_for($node, $db,
		"SELECT count(*) = 8 FROM pg_locks WHERE locktype = 'advisory' AND objid = 42 AND granted",
		"$mode: eight runners are in handlers");
	$node->safe_psql($db, 'DELETE FROM public.gate');
	$since = -s $node->logfile;
	my $start = time;

	# who waits for nobody to be connected would wait for the session
	$keeper->quit if $mode eq 'smart';
	$node->stop($mode);
	cmp_ok(time - $start, '<', 5, "$mode: the server does not wait for them");
	$keeper->{run}->kill_kill if $mode ne 'smart';
	$node->start;
	each_is_handled("after $mode shutdown", @owners);
}

is_healthy($node);
$node->stop;
done_testing();
