# Whatever dies, each committed event is handled exactly once, in order, and
# nothing else is.
#
# Each round has two writers going on while a process is killed in the middle
# of a handler, or the server is stopped without a checkpoint.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use EvinboxTest;

# The effects count that are on disk: hence fsync, and commits that wait.
my $node = evinbox_node('main', <<'EOS');
restart_after_crash = on
fsync = on
evinbox.batch_size = 50
EOS
my $db = 'postgres';

install_evinbox($node, $db);
install_gate($node, $db);
add_inbox($node, $db, 'all', handler => 'public.handle_gate');
add_inbox($node, $db, 'odd', condition => 'e.id % 2 = 1');

# Writer and number tell the order of each writer's commits.
my $writer = <<'EOS';
BEGIN;
SELECT evinbox.record_event('Writer', :client_id, 'undone');
ROLLBACK;
BEGIN;
SELECT evinbox.record_event('Writer', :client_id, 'wrote');
SAVEPOINT a;
SELECT evinbox.record_event('Writer', :client_id, 'undone');
ROLLBACK TO a;
SELECT evinbox.record_event('Writer', :client_id, 'wrote again');
COMMIT;
EOS

# Has the runner in the handler of an event "gate", writers at work, and calls
# the killer.
sub crash
{
	my ($what, $killer) = @_;
	my $gate = $node->background_psql($db, on_error_stop => 0);
	my $before = $node->safe_psql($db, "SELECT count(*) FROM evinbox.event");

	$gate->query_safe("SELECT pg_advisory_lock(42)");
	my $bench = start_pgbench($node, $db, $writer, '-c', 2, '-t', 1000000);
	wait_for($node, $db, "SELECT count(*) >= $before + 100 FROM evinbox.event",
		"$what: writers are at work");
	record($node, $db, 'gate', 'gate');
	wait_for($node, $db,
		"SELECT count(*) = 1 FROM pg_stat_activity"
		  . " WHERE backend_type = 'evinbox runner' AND wait_event = 'advisory'",
		"$what: the runner is in a handler");

	$killer->();

	# both have lost their server
	IPC::Run::finish($bench->{handle});
	isnt($bench->{handle}->result(0), 0, "$what: the writers were cut off");
	eval { $gate->{run}->kill_kill; };

	# a server that has just crashed may close the pipe in which psql is to find the query
	eval { $node->poll_query_until($db, 'SELECT true') }
	  or $node->poll_query_until($db, 'SELECT true')
	  or die 'the server did not come back';

	is_exactly_once($node, $db, 'all', $what);
	is_sql($node, $db, "SELECT count(*) FROM handled WHERE action = 'undone'", '0',
		"$what: nothing of what was rolled back");
	is_sql($node, $db,
		"SELECT count(*) FROM (SELECT event_id, lag(event_id) OVER (PARTITION BY subject ORDER BY n) AS former"
		  . " FROM handled WHERE inbox = 'all' AND action LIKE 'wrote%') s WHERE event_id < former",
		'0', "$what: in each writer's order");
	wait_for($node, $db,
		"SELECT (SELECT count(*) FROM handled WHERE inbox = 'odd')"
		  . " = (SELECT count(*) FROM evinbox.event WHERE id % 2 = 1)",
		"$what: the other inbox too");
	is_sql($node, $db,
		"SELECT count(*) - count(DISTINCT event_id) FROM handled WHERE inbox = 'odd'", '0',
		"$what: once there as well");
}

crash('kill -9 of the runner', sub { kill 'KILL', pids_of($node, 'runner') });
crash('kill -9 of the launcher', sub { kill 'KILL', pids_of($node, 'launcher') });
crash('kill -9 of the coordinator', sub { kill 'KILL', pids_of($node, 'coordinator') });
crash('immediate shutdown', sub { $node->stop('immediate'); $node->start; });
crash('kill -9 of the postmaster', sub {
		$node->kill9;
		ok(poll_start($node), 'the server starts again');
	});

wait_for_workers($node, 'coordinator@postgres runner@postgres', 'the workers are back');
$node->stop;
done_testing();
