# A standby runs nothing, shows everything, and goes on where its primary was:
# streaming, cascading, promotion while there is work, pg_rewind and back again.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use EvinboxTest;

my $db = 'app';
my $primary = evinbox_node('primary', 'wal_keep_size = 128MB', allows_streaming => 1);
my $standby = PostgreSQL::Test::Cluster->new('standby');
my $cascade = PostgreSQL::Test::Cluster->new('cascade');

$primary->safe_psql('postgres', "CREATE DATABASE $db");
install_evinbox($primary, $db);

# The cluster's name tells who has handled an event.
$primary->safe_psql($db, <<'EOS');
ALTER TABLE public.handled
	ADD node text DEFAULT current_setting('cluster_name'),
	ADD at timestamptz DEFAULT clock_timestamp();
EOS
install_gate($primary, $db);
install_elsewhere($primary, $db);
add_inbox($primary, $db, 'all', handler => 'public.handle_gate', replayable => 'true');
add_inbox($primary, $db, 'odd', owner => 'clerk', condition => 'e.id % 2 = 1');
add_inbox($primary, $db, 'paused');
add_inbox($primary, $db, 'daily', dispatch => 'scheduled');
add_inbox($primary, $db, 'later', handler => 'public.handle_elsewhere', actions => '{fails}',
	max_attempts => 100, backoff => '2 s');
add_inbox($primary, $db, 'dead', handler => 'public.handle_elsewhere', actions => '{fails}',
	max_attempts => 1);

# Not even a launcher.
sub runs_nothing
{
	my ($node, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is_sql($node, 'postgres',
		"SELECT pg_is_in_recovery(), (SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'evinbox%')",
		't|0', "$name: nothing of evinbox runs there");
}

sub has_caught_up
{
	my ($node, $from, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $lsn = $from->safe_psql('postgres', 'SELECT pg_current_wal_lsn()');

	return wait_for($node, 'postgres', "SELECT pg_last_wal_replay_lsn() >= '$lsn'", $name);
}

# -- following ----------------------------------------------------------------------

record_many($primary, $db, 100);
$primary->backup('base');
foreach ([ $standby, $primary ], [ $cascade, $standby ])
{
	my ($node, $from) = @$_;

	$node->init_from_backup($primary, 'base', has_streaming => 1);
	$node->append_conf('postgresql.conf', "primary_conninfo = '@{[ $from->connstr ]}'");
	$node->start;
}
$primary->safe_psql($db, "SELECT evinbox.pause('paused')");
record_many($primary, $db, 100);
my $bad = record($primary, $db, 'bad', 'fails');
wait_for($primary, $db, "SELECT count(*) = 2 FROM evinbox.delivery", 'the primary fails at an event');
wait_for_handled($primary, $db, 'all', 201, 'and handles the others');
wait_for_handled($primary, $db, 'odd', 101, 'for another owner, too');

foreach my $node ($standby, $cascade)
{
	my $name = $node->name;

	has_caught_up($node, $primary, "$name: catches up");
	runs_nothing($node, $name);
	is_sql($node, $db, "SELECT (SELECT count(*) FROM evinbox.event), count(*) FROM handled WHERE inbox = 'all'",
		'201|201', "$name: events and effects arrive");

	# the paused one has handled what was there before it was paused, or not yet
	is_sql($node, $db,
		"SELECT string_agg(concat_ws(' ', name, state, CASE WHEN name <> 'paused' THEN lag_events END,"
		  . " retrying, dead, backlog, replay_left), E'\\n' ORDER BY name) FROM evinbox.inbox_status",
		"all no worker 0 0 0 0 0\ndaily scheduled 201 0 0 0 0\ndead no worker 0 0 1 0 0\n"
		  . "later no worker 0 1 0 0 0\nodd no worker 0 0 0 0 0\npaused paused 0 0 0 0",
		"$name: inbox_status");
	is_sql($node, $db, "SELECT inbox, event_id, attempts, last_error FROM evinbox.dead_letter",
		"dead|$bad|1|not on this server", "$name: dead_letter");
	is_sql($node, $db, "SELECT count(*) FROM evinbox.worker_status", '0', "$name: worker_status");
}

# -- what cannot be done there ------------------------------------------------------

foreach (
	[ "SELECT evinbox.record_event('Thing', 1, 'happened')", 'record_event()' ],
	[ "SELECT evinbox.record_event('Thing', 1, 'unseen', throttle => '1 min')", 'record_event()' ],
	[ "INSERT INTO evinbox.event (subject_type, subject_id, action) VALUES ('Thing', '1', 'x')", 'INSERT' ],
	[ "COPY evinbox.event (subject_type, subject_id, action) FROM PROGRAM 'true'", 'COPY' ],
	[ "INSERT INTO evinbox.inbox (name, handler) VALUES ('new', 'public.handle')", 'INSERT' ],
	[ "UPDATE evinbox.inbox SET enabled = false", 'UPDATE' ],
	[ "DELETE FROM evinbox.inbox", 'DELETE' ],
	[ "SELECT evinbox.run()", 'run()' ],
	[ "SELECT evinbox.run('daily')", 'run()' ],
	[ "SELECT evinbox.pause('all')", 'pause()' ],
	[ "SELECT evinbox.resume('paused')", 'resume()' ],
	[ "SELECT evinbox.retry()", 'retry()' ],
	[ "SELECT evinbox.retry('dead', $bad)", 'retry()' ],
	[ "SELECT evinbox.discard('dead', $bad)", 'discard()' ],
	[ "SELECT evinbox.replay('all', 1, 10)", 'replay()' ],
	[ "SELECT evinbox.schedule('daily', '0 8 * * *')", 'schedule()' ],
	[ "SELECT evinbox.unschedule('daily')", 'unschedule()' ],
	[ "SELECT evinbox.resume_after_restore('deliver')", 'resume_after_restore()' ],
	[ "SELECT evinbox.dispatch_replicated(true)", 'dispatch_replicated()' ],
	[ "DROP EXTENSION evinbox", 'DROP EXTENSION' ],
	[ "DROP OWNED BY clerk", 'DROP OWNED' ],
	[ "ALTER ROLE clerk RENAME TO other", 'ALTER ROLE' ],
	[ "DROP DATABASE $db", 'DROP DATABASE' ],
	[ "CREATE DATABASE other TEMPLATE $db", 'CREATE DATABASE' ])
{
	my ($sql, $command) = @$_;
	my ($status, $out, $error) = $standby->psql($sql =~ /DATABASE/ ? 'postgres' : $db, $sql,
		extra_params => [ '-v', 'VERBOSITY=verbose' ]);

	like($error, qr/ERROR:  25006: cannot execute \Q$command\E (in a read-only transaction|during recovery)$/m, $sql);
}
is_sql($standby, $db, "SELECT evinbox.record_event('Thing', 1, 'happened', throttle => '1 hour') IS NULL",
	't', 'a call that is suppressed changes nothing, and so may be there');

# -- a commit that waits for a standby ------------------------------------------------
#
# It is on the primary's disk, but nobody sees it yet: so nobody handles it
# before the standby has it.  And it keeps nobody waiting.

set_conf($primary, 'synchronous_standby_names', 'standby');
wait_for($primary, $db, "SELECT sync_state = 'sync' FROM pg_stat_replication", 'the standby is synchronous');
$standby->safe_psql('postgres', 'SELECT pg_wal_replay_pause()');
wait_for($standby, 'postgres', "SELECT pg_get_wal_replay_pause_state() = 'paused'", 'it stands still');
my $writer = $primary->background_psql($db);
$writer->query_safe('SET synchronous_commit = remote_apply');
$writer->query_until(qr/sent/, "\\echo sent\nSELECT evinbox.record_event('Thing', 'waits', 'happened');\n");
wait_for($primary, $db, "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event = 'SyncRep'", 'a commit waits for it');
my $other = record($primary, $db, 'does not wait');
wait_for($primary, $db, "SELECT count(*) = 1 FROM handled WHERE inbox = 'all' AND event_id = $other",
	'events of others are handled');
is_sql($primary, $db, "SELECT count(*) FROM handled WHERE inbox = 'all' AND subject = 'waits'", '0',
	'that one is not');
$standby->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
$writer->quit;
wait_for($primary, $db, "SELECT count(*) = 1 FROM handled WHERE inbox = 'all' AND subject = 'waits'",
	'until the standby has it');
$primary->safe_psql('postgres', 'ALTER SYSTEM RESET synchronous_standby_names');
$primary->reload;

# -- failover -------------------------------------------------------------------------
#
# The primary is lost while writers are at work and a handler is under way.  There
# are a retry that is due later, a dead letter, a paused inbox, and a prepared
# transaction as well.

my $bench_script = <<'EOS';
BEGIN;
SELECT evinbox.record_event('Writer', :client_id, 'wrote');
SELECT evinbox.record_event('Writer', :client_id, 'wrote again');
COMMIT;
EOS

# Has the runner in a handler and writers at work.  Returns both, to be ended.
sub make_busy
{
	my ($node, $reader, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $gate = $node->background_psql($db, on_error_stop => 0);

	$gate->query_safe('SELECT pg_advisory_lock(42)');
	my $bench = start_pgbench($node, $db, $bench_script, '-c', 2, '-R', 1000, '-t', 1000000);
	my $id = record($node, $db, 'gate', 'gate');
	wait_for($node, $db,
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'evinbox runner' AND wait_event = 'advisory'",
		"$name: the runner is in a handler");
	wait_for($reader, $db, "SELECT count(*) > 200 FROM evinbox.event WHERE id > $id",
		"$name: what is recorded meanwhile arrives");
	return ($gate, $bench);
}

# Promotes a standby, gives it writers, and sees that it goes on soon.
sub promote
{
	my ($node, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $me = $node->name;
	my $waiting = $node->safe_psql($db,
		"SELECT count(*) FROM evinbox.event e WHERE NOT EXISTS (SELECT FROM handled h WHERE h.inbox = 'all' AND h.event_id = e.id)");

	cmp_ok($waiting, '>', 200, "$name: events are waiting");
	my $start = time();
	$node->promote;
	my $bench = start_pgbench($node, $db, $bench_script, '-c', 2, '-t', 200);
	wait_for($node, $db, "SELECT count(*) > 0 FROM handled WHERE at > to_timestamp($start) AND inbox = '$_'",
		"$name: dispatch goes on: $_") foreach qw(all odd);
	my ($all, $odd) = map {
		$node->safe_psql($db,
			"SELECT round(extract(epoch FROM min(at)) - $start, 3) FROM handled WHERE at > to_timestamp($start) AND inbox = '$_'")
	} qw(all odd);
	note "$name: first events handled $all s and $odd s after the call for promotion";
	cmp_ok($all, '<', 3, "$name: within 3 seconds");
	cmp_ok($odd, '<', 3, "$name: by each runner");
	ok(finish($bench), "$name: while others record");
	is_exactly_once($node, $db, 'all', $name);
	wait_for($node, $db,
		"SELECT (SELECT count(*) FROM handled WHERE inbox = 'odd') = (SELECT count(*) FROM evinbox.event WHERE id % 2 = 1)",
		"$name: the other runner's inbox too");
	is_sql($node, $db, "SELECT count(*) - count(DISTINCT event_id) FROM handled WHERE inbox = 'odd'", '0',
		"$name: once there as well");
	is_sql($node, $db,
		"SELECT count(*) FROM (SELECT event_id, lag(event_id) OVER (PARTITION BY subject ORDER BY n) AS former"
		  . " FROM handled WHERE inbox = 'all' AND action LIKE 'wrote%') s WHERE event_id < former",
		'0', "$name: in each writer's order");
}

my $prepared = $primary->safe_psql($db, <<'EOS');
BEGIN;
SELECT evinbox.record_event('Thing', 'prepared', 'happened');
PREPARE TRANSACTION 'prepared';
EOS
record($primary, $db, 'bad', 'fails');
wait_for($primary, $db, "SELECT count(*) = 4 FROM evinbox.delivery", 'there is more to be tried again');
my ($gate, $bench) = make_busy($primary, $standby, 'failover');

$primary->stop('immediate');
IPC::Run::finish($bench->{handle});
eval { $gate->{run}->kill_kill; };

my $due = $standby->safe_psql($db,
	"SELECT max(next_at) FROM evinbox.delivery WHERE inbox = 'later' AND state = 'retry'");
promote($standby, 'failover');
wait_for_workers($standby, "coordinator\@$db runner\@$db", 'failover: its own workers are there');
wait_for($standby, $db, "SELECT count(*) = 2 FROM handled WHERE inbox = 'later'", 'failover: retries go on');
is_sql($standby, $db, "SELECT max(at) >= '$due' FROM handled WHERE inbox = 'later'", 't', 'failover: when they are due');
$standby->safe_psql($db, "SELECT evinbox.retry('dead')");
wait_for($standby, $db, "SELECT count(*) = 2 FROM handled WHERE inbox = 'dead'", 'failover: dead letters can be tried again');
is_sql($standby, $db, "SELECT count(*) FROM evinbox.delivery", '0', 'failover: and nothing of them is left');
$standby->safe_psql($db, "COMMIT PREPARED 'prepared'");
wait_for($standby, $db, "SELECT count(*) = 1 FROM handled WHERE inbox = 'all' AND event_id = $prepared",
	'failover: a prepared transaction is handled when it commits');
$standby->safe_psql($db, "SELECT evinbox.resume('paused')");
is_exactly_once($standby, $db, 'paused', 'failover, a paused inbox');
is_sql($standby, $db, "SELECT evinbox.run('daily') = (SELECT count(*) FROM evinbox.event)", 't',
	'failover: a scheduled inbox has kept all for its run');

has_caught_up($cascade, $standby, 'the standby\'s standby follows');
runs_nothing($cascade, 'cascade');
is_sql($cascade, $db, "SELECT count(*) FROM handled WHERE event_id = $prepared AND inbox = 'all'", '1',
	'and has what the new primary has done');
$cascade->stop;

# -- the old primary ----------------------------------------------------------------------
#
# Nobody has told it: it handles what it had, and more.  Whatever that was, it is
# not so when it follows the new one.

$primary->start;
record($primary, $db, 'astray');
wait_for($primary, $db, "SELECT count(*) = 1 FROM handled WHERE inbox = 'all' AND subject = 'astray'",
	'the old primary goes on by itself');
is_exactly_once($primary, $db, 'all', 'the old primary');
is_healthy($primary, 'its log is clean');
$primary->stop('immediate');

# It looks for the source's timeline in its last checkpoint.
$standby->safe_psql('postgres', 'CHECKPOINT');
my $conf = slurp_file($primary->data_dir . '/postgresql.conf');
command_ok([ 'pg_rewind', '--no-sync', '-D', $primary->data_dir, '--source-server', $standby->connstr('postgres') ],
	'pg_rewind');
unlink $primary->data_dir . '/postgresql.conf';
$primary->append_conf('postgresql.conf', $conf);
$primary->append_conf('postgresql.conf', "primary_conninfo = '@{[ $standby->connstr ]}'");
$primary->set_standby_mode;
$primary->rotate_logfile;
$primary->start;
record_many($standby, $db, 10);
is_exactly_once($standby, $db, 'all', 'the new primary');
has_caught_up($primary, $standby, 'the old primary follows');
runs_nothing($primary, 'the old primary');
is_sql($primary, $db,
	"SELECT count(*) FILTER (WHERE subject = 'astray'), count(*) = (SELECT count(*) FROM evinbox.event), max(node) FILTER (WHERE subject = 'gate')"
	  . " FROM handled WHERE inbox = 'all'",
	'0|t|standby', 'and has forgotten what it did');

# -- and back ---------------------------------------------------------------------------

($gate, $bench) = make_busy($standby, $primary, 'back');
$standby->stop('fast');
IPC::Run::finish($bench->{handle});
eval { $gate->{run}->kill_kill; };
promote($primary, 'back');

is_healthy($_, $_->name . "'s log is clean") foreach $primary, $standby, $cascade;
$primary->stop;
done_testing();
