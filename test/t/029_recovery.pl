# What a server is taken back to, by a crash that loses commits or by recovery to
# a point in time, has each of its events handled once, and nothing of the others.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use EvinboxTest;

my $db = 'app';

# Nothing but the WAL writer, and whoever waits for it, writes WAL.
my $node = evinbox_node('main', <<'EOC', allows_streaming => 1, has_archiving => 1);
shared_buffers = 64MB
wal_buffers = 16MB
synchronous_commit = off
bgwriter_lru_maxpages = 0
checkpoint_timeout = 1d
max_wal_size = 10GB
autovacuum = off
EOC
$node->safe_psql('postgres', "CREATE DATABASE $db");
install_evinbox($node, $db);
$node->safe_psql($db, <<'EOS');
ALTER TABLE public.handled ADD at timestamptz DEFAULT clock_timestamp();
EOS
install_gate($node, $db);
install_elsewhere($node, $db);
add_inbox($node, $db, 'all', handler => 'public.handle_gate');
add_inbox($node, $db, 'odd', owner => 'clerk', condition => 'e.id % 2 = 1');
add_inbox($node, $db, 'daily', dispatch => 'scheduled');
add_inbox($node, $db, 'later', handler => 'public.handle_elsewhere', actions => '{fails}',
	max_attempts => 100, backoff => '2 s');

# An id may be given twice, if the first event is lost; a subject is not.
my $writer = <<'EOS';
\set subject random(1, 1000000000000)
SELECT evinbox.record_event('Thing', :subject, 'wrote');
EOS

sub all_is_well
{
	my ($server, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is_exactly_once($server, $db, 'all', $name);
	wait_for($server, $db,
		"SELECT (SELECT count(*) FROM handled WHERE inbox = 'odd') = (SELECT count(*) FROM evinbox.event WHERE id % 2 = 1)",
		"$name: the other runner's inbox too");
	is_sql($server, $db, "SELECT count(*) - count(DISTINCT event_id) FROM handled WHERE inbox = 'odd'", '0',
		"$name: once there as well");
	1 while $server->safe_psql($db, "SELECT evinbox.run('daily', 1000)") > 0;
	is_sql($server, $db,
		"SELECT count(*) = (SELECT count(*) FROM evinbox.event), count(*) - count(DISTINCT event_id) FROM handled WHERE inbox = 'daily'",
		't|0', "$name: and the scheduled one");
	is_sql($server, $db,
		"SELECT count(*) FROM handled h JOIN evinbox.event e ON e.id = h.event_id WHERE h.subject <> e.subject_id",
		'0', "$name: no effect of an event that there is not");
}

# -- lost commits -----------------------------------------------------------------------
#
# Without the WAL writer, commits that do not wait for the disk are not written at
# all for a while, and a crash loses them.

my $lost = 0;
my $reused = 0;

foreach my $round ('crash', 'another crash')
{
	my @bench = (
		start_pgbench($node, $db, $writer, '-c', 2, '-R', 2000, '-t', 1000000),
		start_pgbench($node, $db, "SELECT evinbox.run('daily', 100);", '-c', 1, '-t', 1000000));
	my $start = $node->safe_psql($db, 'SELECT count(*) FROM evinbox.event');
	wait_for($node, $db, "SELECT count(*) > $start + 200 FROM evinbox.event", "$round: writers are at work");
	my $wal_writer = $node->safe_psql($db, "SELECT pid FROM pg_stat_activity WHERE backend_type = 'walwriter'");
	kill 'STOP', $wal_writer;

	# a commit that waits for the disk takes along all that was committed before
	my ($before, $durable) = split /\|/, $node->safe_psql($db,
		"SET synchronous_commit = on; SELECT (SELECT count(*) FROM evinbox.event), evinbox.record_event('Thing', 'durable', 'happened')");
	wait_for($node, $db, "SELECT max(event_id) > $durable + 200 FROM handled WHERE inbox = 'all'",
		"$round: and handlers");
	my ($seen, $last) = split /\|/, $node->safe_psql($db, 'SELECT count(*), max(id) FROM evinbox.event');

	$node->kill9;
	kill 'KILL', $wal_writer;
	IPC::Run::finish($_->{handle}) foreach @bench;
	ok(poll_start($node), "$round: the server starts again");

	my $left = $node->safe_psql($db, 'SELECT count(*) FROM evinbox.event');
	my $next = record($node, $db, 'next');
	note "$round: $seen events were seen, $left are left";
	$lost += $seen - $left if $left < $seen;
	$reused++ if $next <= $last;
	cmp_ok($left, '>', $before, "$round: what was before a durable commit is there");
	is_sql($node, $db, "SELECT subject_id FROM evinbox.event WHERE id = $durable", 'durable', "$round: and so is that commit");
	all_is_well($node, $round);
}
cmp_ok($lost, '>', 0, 'commits were lost indeed');
cmp_ok($reused, '>', 0, 'and their ids were given again');

# -- a point in time --------------------------------------------------------------------
#
# The backup is taken while events are recorded and handled.  So are the places
# where some of the recoveries end.

my $bench = start_pgbench($node, $db, $writer, '-c', 2, '-R', 2000, '-t', 1000000);
my $moved = "SELECT count(*) > %d FROM handled WHERE inbox = 'all'";
my $handled = $node->safe_psql($db, "SELECT count(*) FROM handled WHERE inbox = 'all'");
wait_for($node, $db, sprintf($moved, $handled + 100), 'writers and handlers are at work');
$node->backup('base');
my @targets;
foreach (1 .. $ENV{EVINBOX_ROUNDS} // 2)
{
	$handled = $node->safe_psql($db, "SELECT count(*) FROM handled WHERE inbox = 'all'");
	$node->poll_query_until($db, sprintf($moved, $handled + 100)) or die 'nothing is handled';
	push @targets, $node->safe_psql($db, 'SELECT pg_current_wal_insert_lsn()');
}
$bench->{handle}->kill_kill;
all_is_well($node, 'a backup under load');

# What is under way at the point.
my $open = $node->background_psql($db);
my $gate = $node->background_psql($db);
$open->query_safe("BEGIN; SELECT evinbox.record_event('Thing', 'open', 'happened')");
$gate->query_safe('SELECT pg_advisory_lock(42)');
my $prepared = $node->safe_psql($db, <<'EOS');
BEGIN;
SELECT evinbox.record_event('Thing', 'prepared', 'happened');
PREPARE TRANSACTION 'prepared';
EOS
my $bad = record($node, $db, 'bad', 'fails');
wait_for($node, $db, 'SELECT count(*) = 1 FROM evinbox.delivery', 'an event is to be tried again');
record($node, $db, 'gate', 'gate');
wait_for($node, $db,
	"SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'evinbox runner' AND wait_event = 'advisory'",
	'the runner is in a handler');
record_many($node, $db, 100);
wait_for($node, $db,
	"SELECT (SELECT count(*) FROM handled WHERE inbox = 'odd') = (SELECT count(*) FROM evinbox.event WHERE id % 2 = 1)",
	'the other one has handled all');
# Other cursors may move on by themselves, past what they do not want.
my $state = "SELECT (SELECT count(*) || ' ' || max(id) FROM evinbox.event), (SELECT count(*) || ' ' || max(n) FROM handled),"
  . " (SELECT string_agg(name || ' ' || lag_events, ' ' ORDER BY name) FROM evinbox.inbox_status WHERE name IN ('all', 'daily')),"
  . " (SELECT string_agg(inbox || ' ' || event_id || ' ' || state, ' ') FROM evinbox.delivery)";
my $at_point = $node->safe_psql($db, $state);
$node->safe_psql($db, "SELECT pg_create_restore_point('point')");

# What comes after it.
record_many($node, $db, 100, 'later');
$open->query_safe('COMMIT');
$gate->query_safe('SELECT pg_advisory_unlock(42)');
$_->quit foreach $open, $gate;
$node->safe_psql($db, "COMMIT PREPARED 'prepared'");
is_exactly_once($node, $db, 'all', 'after the point');
my $segment = $node->safe_psql($db, 'SELECT pg_walfile_name(pg_switch_wal())');
wait_for($node, $db, "SELECT last_archived_wal >= '$segment' FROM pg_stat_archiver", 'all is archived');
is_healthy($node);
$node->stop;

# Starts a server that recovers up to a target, and then does what is said.
sub recover
{
	my ($name, $target, $action) = @_;
	my $server = PostgreSQL::Test::Cluster->new($name);

	$server->init_from_backup($node, 'base', has_restoring => 1, standby => 0);
	$server->append_conf('postgresql.conf', <<"EOC");
archive_mode = off
$target
recovery_target_action = $action
EOC
	$server->start;
	return $server;
}

my $restored = recover('restored', "recovery_target_name = 'point'", 'pause');
wait_for($restored, 'postgres', "SELECT pg_get_wal_replay_pause_state() = 'paused'", 'the point is reached');
is_sql($restored, $db, $state, $at_point, 'all is as it was then');
is_sql($restored, $db, "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'evinbox%'", '0',
	'and nothing goes on yet');
my $start = time();
$restored->safe_psql('postgres', 'SELECT pg_wal_replay_resume()');
wait_for($restored, $db, "SELECT count(*) > 0 FROM handled WHERE inbox = 'all' AND action = 'gate'", 'it goes on from there');
my $seconds = $restored->safe_psql($db,
	"SELECT round(extract(epoch FROM min(at)) - $start, 3) FROM handled WHERE at > to_timestamp($start)");
note "first event handled $seconds s after the end of recovery was called for";
cmp_ok($seconds, '<', 3, 'within 3 seconds');
wait_for($restored, $db, "SELECT count(*) = 1 FROM handled WHERE inbox = 'later' AND event_id = $bad", 'retries go on');
$restored->safe_psql($db, "COMMIT PREPARED 'prepared'");
wait_for($restored, $db, "SELECT count(*) = 1 FROM handled WHERE inbox = 'all' AND event_id = $prepared",
	'a prepared transaction goes on');
all_is_well($restored, 'restored');
is_sql($restored, $db, "SELECT count(*) FROM handled WHERE action = 'later' OR subject = 'open'", '0',
	'nothing of what came after the point');
is_healthy($restored);
$restored->stop;

foreach (1 .. @targets)
{
	my $server = recover("point$_", "recovery_target_lsn = '$targets[$_ - 1]'", 'promote');

	wait_for($server, 'postgres', 'SELECT NOT pg_is_in_recovery()', "some point $_: recovered");
	all_is_well($server, "some point $_");
	is_healthy($server);
	$server->stop;
}
done_testing();
