# A dump brings everything to another cluster: events, rules, and what they have
# yet to handle.  There, nothing goes out before somebody says so.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);
use EvinboxTest;

my $conf = <<'EOS';
evinbox.partition_size = 1000
evinbox.segment_xids = 16
evinbox.max_runners = 16
evinbox.max_workers = 80
max_worker_processes = 100
EOS
my $db = 'app';
my $source = evinbox_node('source', "$conf\ncluster_name = 'source'");
my $target = evinbox_node('target', $conf);
my $dumps = PostgreSQL::Test::Utils::tempdir;

$source->safe_psql('postgres', "CREATE DATABASE $db");
$source->safe_psql('postgres', "CREATE ROLE $_ LOGIN") foreach qw(clerk keeper gone);
$target->safe_psql('postgres', "CREATE ROLE $_ LOGIN") foreach qw(keeper clerk);

# -- a database with everything in it ---------------------------------------------------
#
# Each inbox has something left to do when the dump is taken, each in another way.

install_evinbox($source, $db);
$source->safe_psql($db, <<'EOS');
GRANT USAGE ON SCHEMA evinbox TO PUBLIC;
GRANT INSERT ON public.handled TO PUBLIC;
GRANT USAGE ON SEQUENCE public.handled_n_seq TO PUBLIC;
GRANT EXECUTE ON FUNCTION
	evinbox.record_event(text, text, text, text, jsonb, interval, text, jsonb, text, timestamptz) TO PUBLIC;
INSERT INTO evinbox.action VALUES ('Closed', 'opened', '{}'), ('Closed', 'shut', '{by}');
CREATE FUNCTION public.work(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF e.action = 'gate' THEN
		PERFORM pg_advisory_xact_lock_shared(42);
	ELSIF e.action = 'fails' AND config ? 'fails_on' AND config->>'fails_on' = current_setting('cluster_name') THEN
		RAISE EXCEPTION 'not on this server';
	END IF;
	PERFORM public.handle(e, config);
END $$;
CREATE FUNCTION public.follow(e evinbox.event) RETURNS void LANGUAGE sql
	AS $$ SELECT evinbox.record_event('Thing', 'follower', 'happened') $$;
CREATE FUNCTION public.broken(e evinbox.event, config jsonb) RETURNS void LANGUAGE sql
	AS 'SELECT public.handle(e, config)';
EOS
add_inbox($source, $db, 'live');
add_inbox($source, $db, 'clerk', owner => 'clerk');
add_inbox($source, $db, 'gone', owner => 'gone');
add_inbox($source, $db, 'daily', dispatch => 'scheduled');
add_inbox($source, $db, 'own', dispatch => 'scheduled');
add_inbox($source, $db, 'paused', owner => 'clerk');
add_inbox($source, $db, 'sharded', owner => 'clerk', shards => 4);
add_inbox($source, $db, 'halted', owner => 'clerk', handler => 'public.broken');
add_inbox($source, $db, 'again', owner => 'keeper', handler => 'public.work', replayable => 'true',
	batch_size => 100, timeout => '0');
add_inbox($source, $db, 'fails', owner => 'clerk', handler => 'public.work', actions => '{fails}',
	config => '{"inbox": "fails", "fails_on": "source"}', backoff => '1 hour');
add_inbox($source, $db, 'dead', owner => 'gone', handler => 'public.work', actions => '{fails}',
	config => '{"inbox": "dead", "fails_on": "source"}', max_attempts => 1);
add_inbox($source, $db, 'follower', handler => 'public.follow', actions => '{origin}',
	subject_types => '{"Odd \"type\"", Thing}', condition => "e.scope = E'a\\tb\\\\'");
my @all = qw(live clerk gone daily own paused sharded halted again history);

# It looks when something happens, or after a pause; a change of a rule makes it
# look now.
sub wait_for_coordinator
{
	my ($sql, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		$source->safe_psql($db, "UPDATE evinbox.inbox SET priority = priority WHERE name = 'live'");
		return pass($name) if $source->safe_psql($db, $sql) eq 't';
		usleep(100_000);
	}
	return fail($name);
}

# Beyond the first partition: nobody makes another one while one looks at the default one.
my $reader = $source->background_psql($db);
$reader->query_safe('BEGIN; LOCK TABLE evinbox_internal.event_default IN ACCESS SHARE MODE');
record_many($source, $db, 1500);
$reader->query_safe('COMMIT');
$reader->quit;
record($source, $db, 'gate', 'gate');
wait_for_coordinator("SELECT count(*) = 3 FROM pg_inherits WHERE inhparent = 'evinbox.event'::regclass",
	'the default partition is used, and there is another one');
record_many($source, $db, 100) foreach 1 .. 15;
record($source, $db, 'gate', 'gate');
record_many($source, $db, 1500);
wait_for_handled($source, $db, $_, 3001, "$_: events are handled")
  foreach qw(live clerk gone paused sharded halted again);
is_sql($source, $db, "SELECT evinbox.run('daily', 500)", '500', 'a scheduled one stops in the midst');
$source->safe_psql($db, <<'EOS');
BEGIN;
SELECT evinbox.record_event('Thing', 'own', 'happened');
SELECT evinbox.run('own');
SELECT evinbox.record_event('Thing', 'own', 'happened');
COMMIT;
SELECT evinbox.pause('paused'), evinbox.pause('sharded');
ALTER FUNCTION public.broken RENAME TO elsewhere;
SELECT evinbox.record_event('Thing', '1', 'fails');
SELECT evinbox.record_event(E'Odd "type"', E'\\N\t\n', 'origin', E'User:\\.', E'{"a": [null, 1.50, "\303\244"]}',
	snapshot => '[]', scope => E'a\tb\\', occurred_at => '-infinity');
SELECT evinbox.record_event('Closed', '1', 'shut', metadata => '{"by": 1}');
EOS
wait_for($source, $db,
	"SELECT (SELECT count(*) FROM evinbox.delivery) = 2 AND (SELECT state FROM evinbox.inbox_status"
	  . " WHERE name = 'halted') = 'halted' AND EXISTS (SELECT FROM evinbox.event WHERE depth = 1)",
	'others fail, and one causes another event');

# all segments are used, so those that stand still get a backlog
my $bench = start_pgbench($source, $db, <<'EOS', '-c', 3, '-t', 40);
BEGIN;
SELECT evinbox.record_event('Thing', 'bench ' || :client_id, 'happened');
SELECT evinbox.record_event('Thing', 'bench ' || :client_id, 'happened');
COMMIT;
EOS
ok(finish($bench), 'writers');
wait_for_coordinator(
	"SELECT bool_and(backlog > 100) FROM evinbox.inbox_status WHERE name IN ('paused', 'sharded', 'halted')",
	'backlogs are made');
is_sql($source, $db,
	"SELECT count(*) FROM evinbox.inbox_status WHERE backlog > 100 AND name IN ('paused', 'sharded', 'halted')", '3',
	'what some have to do is in their backlog');

# a replay, and a new inbox's past, both under way
my $keeper = $source->background_psql($db);
$keeper->query_safe('SELECT pg_advisory_lock(42)');
$source->safe_psql($db, "SELECT evinbox.replay('again', 101, 3000)");
add_inbox($source, $db, 'history', owner => 'keeper', handler => 'public.work', start_at => 'beginning',
	batch_size => 100, timeout => '0');
wait_for($source, $db,
	"SELECT count(*) = 2 FROM pg_stat_activity WHERE backend_type = 'evinbox runner' AND wait_event = 'advisory'",
	'a replay and a past are at the gate');
wait_for_handled($source, $db, $_, $source->safe_psql($db, 'SELECT count(*) FROM evinbox.event'), "$_ has done all")
  foreach qw(live clerk gone);
set_conf($source, 'evinbox.enabled', 'off');
wait_for_workers($source, '', 'nobody is at work');
$keeper->quit;

# what all have yet to do, in another order than that of its ids
my @open = map { $source->background_psql($db) } 1 .. 3;
foreach my $session (@open)
{
	$session->query_safe('BEGIN');
	$session->query_safe("SELECT evinbox.record_event('Thing', 'open', 'happened')");
}
record_many($source, $db, 20);
$open[1]->query_safe("SELECT evinbox.record_event('Thing', 'open', 'late')");
$open[1]->query_safe('COMMIT');
record_many($source, $db, 20);
$open[2]->query_safe('ROLLBACK');
is_sql($source, $db,
	"SELECT count(DISTINCT tableoid) > 2 AND count(*) FILTER (WHERE tableoid = 'evinbox_internal.event_default'::regclass) > 500"
	  . ' FROM evinbox.event', 't',
	'events are in several partitions, and in the default one');

# -- dumps ---------------------------------------------------------------------------------

# All that is to be the same there.
my %contents = (
	events => 'SELECT count(*), md5(string_agg(e::text, chr(10) ORDER BY id)) FROM evinbox.event e',
	rules => "SELECT string_agg((to_jsonb(i) - 'owner_id')::text, chr(10) ORDER BY name) FROM evinbox.inbox i",
	deliveries => 'SELECT string_agg(d::text, chr(10) ORDER BY inbox, event_id) FROM evinbox.delivery d',
	actions => 'SELECT string_agg(a::text, chr(10) ORDER BY subject_type, action) FROM evinbox.action a',
	handled => "SELECT count(*), md5(string_agg(h::text, chr(10) ORDER BY n)) FROM public.handled h",
	sequences => 'SELECT last_value FROM evinbox.event_id_seq UNION ALL SELECT last_value FROM evinbox.inbox_id_seq');
my %expected = map { $_ => $source->safe_psql($db, $contents{$_}) } keys %contents;
my $last_handled = $source->safe_psql($db, 'SELECT max(n) FROM handled');
my $last_event = $source->safe_psql($db, 'SELECT max(id) FROM evinbox.event');

sub dump_source
{
	my ($name, @options) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	command_ok([ 'pg_dump', '-d', $source->connstr($db), '-f', "$dumps/$name", @options ], "dump: $name");
}

sub restore
{
	my ($node, $name, $dump, @options) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$node->safe_psql('postgres', "CREATE DATABASE $name");
	command_ok([ 'pg_restore', '--exit-on-error', '-d', $node->connstr($name), @options, "$dumps/$dump" ],
		"$name: restored");
}

dump_source('custom', '-Fc');
dump_source('root', '-Fc', '--load-via-partition-root');
dump_source('plain');
$open[0]->query_safe('COMMIT');
$_->quit foreach @open;

# -- the source goes on -----------------------------------------------------------------------

set_conf($source, 'evinbox.enabled', 'on');
is_exactly_once($source, $db, $_, "source, $_") foreach qw(live clerk gone);

# -- restored, and quiet ------------------------------------------------------------------------

# Refused, with 55000.
sub is_refused
{
	my ($node, $name, $sql, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($status, $out, $error) = $node->psql($name, $sql, extra_params => [ '-v', 'VERBOSITY=verbose' ]);

	like($error, qr/ERROR:  55000: dispatch is quiet in this database/, "$name: $what");
}

sub has_no_runner
{
	my ($node, $name, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is_sql($node, $name, <<EOS, '0|0|', "$name: $what");
SELECT (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'evinbox runner' AND datname = '$name'),
	(SELECT count(*) FROM evinbox.worker_status WHERE kind = 'runner' AND database = '$name'),
	(SELECT string_agg(DISTINCT state, ',') FROM evinbox.inbox_status WHERE state <> 'quiet')
EOS
}

# Sees that all is there, and that nothing is done with it.  Records ten events.
sub is_quiet
{
	my ($node, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $line = qr/dispatch is quiet in database "$name"/;

	is_sql($node, $name, $contents{$_}, $expected{$_}, "$name: $_ are the same") foreach sort keys %contents;
	$node->wait_for_log($line);
	has_no_runner($node, $name, 'nobody works');
	is_refused($node, $name, "SELECT evinbox.run()", 'run() is refused');
	is_refused($node, $name, "SELECT evinbox.run('daily')", 'and with a name');
	is_refused($node, $name, "INSERT INTO evinbox.inbox (name, handler) VALUES ('new', 'public.handle')",
		'a new rule is refused');
	is_refused($node, $name, "UPDATE evinbox.inbox SET shards = 2 WHERE name = 'sharded'", 'other shards, too');
	is_refused($node, $name, "SELECT evinbox.replay('again', 1, 10)", 'and a replay');

	ok(record($node, $name, 'quiet') > $last_event, "$name: events are recorded");
	$node->safe_psql($name, <<'EOS');
INSERT INTO evinbox.event (subject_type, subject_id, action)
	SELECT 'Thing', 'quiet', 'happened' FROM generate_series(1, 8);
COPY evinbox.event (subject_type, subject_id, action) FROM stdin;
Thing	quiet	happened
\.
EOS
	isnt($node->psql($name, "SELECT evinbox.record_event('Closed', '1', 'shut')"), 0, "$name: and checked");
	is_sql($node, $name, "SELECT evinbox.record_event('Thing', 'quiet', 'happened', throttle => '1 day') IS NULL", 't',
		"$name: and throttled");
	$node->safe_psql($name, "SELECT evinbox.resume('paused'), evinbox.pause('paused')");
	has_no_runner($node, $name, 'nobody comes to work');
	is_sql($node, $name, $contents{handled}, $expected{handled}, "$name: nothing was handled");
	my @lines = slurp_file($node->logfile) =~ /$line/g;
	is(@lines, 1, "$name: the log says it once");
}

restore($target, 'custom', 'custom');
is_quiet($target, 'custom');
restore($target, 'jobs', 'custom', '-j', 2);
is_quiet($target, 'jobs');
restore($target, 'root', 'root');
is_quiet($target, 'root');
$target->safe_psql('postgres', 'CREATE DATABASE plain');
command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $target->connstr('plain'), '-f', "$dumps/plain" ],
	'plain: restored');
is_quiet($target, 'plain');

# it does not matter that it is the same cluster
restore($source, 'near', 'custom');
is_quiet($source, 'near');

# -- what resume_after_restore() wants ------------------------------------------------------------

foreach (
	[ $target, 'custom', "'delivered'", '22023', 'unrecognized value for mode: "delivered"' ],
	[ $target, 'custom', "''", '22023', 'unrecognized value for mode: ""' ],
	[ $source, $db, "'deliver'", '55000', 'dispatch is not quiet in this database' ],
	[ $source, $db, "'discard'", '55000', 'dispatch is not quiet in this database' ])
{
	my ($node, $name, $mode, $code, $message) = @$_;
	my ($status, $out, $error) = $node->psql($name, "SELECT evinbox.resume_after_restore($mode)",
		extra_params => [ '-v', 'VERBOSITY=verbose' ]);

	like($error, qr/ERROR:  $code: \Q$message\E/, "$name: $mode");
}
is_sql($target, 'custom', 'SELECT evinbox.resume_after_restore(NULL) IS NULL', 't', 'a null does nothing');
isnt($target->psql('custom', "SET ROLE clerk; SELECT evinbox.resume_after_restore('deliver')"), 0,
	'not everybody may');
$target->safe_psql('custom', "BEGIN; SELECT evinbox.resume_after_restore('discard'); ROLLBACK");
has_no_runner($target, 'custom', 'it is as quiet as before');

# -- deliver ---------------------------------------------------------------------------------------

# Each event once, and twice what was to be replayed.  "again" is the only one
# that handles an event twice.
sub is_handled
{
	my ($node, $name, @inboxes) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	foreach my $inbox (@inboxes)
	{
		my $times = $inbox eq 'again' ? 'CASE WHEN e.id BETWEEN 101 AND 3000 THEN 2 ELSE 1 END' : '1';
		my $not_done = "SELECT count(*) FROM evinbox.event e WHERE"
		  . " (SELECT count(*) FROM handled h WHERE h.inbox = '$inbox' AND h.event_id = e.id) %s $times";

		wait_for($node, $name, sprintf("SELECT count(*) = 0 FROM ($not_done) s WHERE count > 0", '<'),
			"$name, $inbox: what was left is handled");
		is_sql($node, $name, sprintf($not_done, '<>'), '0', "$name, $inbox: nothing else is");
	}
}

# What cannot go on by itself.
sub help
{
	my ($node, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$node->safe_psql($name, <<'EOS');
ALTER FUNCTION public.elsewhere RENAME TO broken;
SELECT evinbox.resume('paused'), evinbox.resume('sharded'), evinbox.resume('halted');
SELECT evinbox.run('daily'), evinbox.run('own');
EOS
}

my @rest = grep { $_ ne 'gone' } @all;
$target->safe_psql('custom', "SELECT evinbox.resume_after_restore('deliver')");
wait_for($target, 'custom', "SELECT state = 'halted' FROM evinbox.inbox_status WHERE name = 'halted'",
	'custom: what cannot work is halted');
help($target, 'custom');
is_handled($target, 'custom', @rest);
is_sql($target, 'custom', "SELECT state, last_error FROM evinbox.inbox_status WHERE name IN ('gone', 'dead')",
	"halted|role \"gone\" does not exist\nhalted|role \"gone\" does not exist",
	'custom: rules of a role that is missing are halted');
$target->safe_psql('custom', "SELECT evinbox.retry('fails')");
wait_for_handled($target, 'custom', 'fails', 1, 'custom: a retry');

# in between, somebody else's rules
record($target, 'custom', 'later');
is_handled($target, 'custom', 'live', 'again');
is_sql($target, 'custom', "SELECT count(*) FROM handled WHERE n > $last_handled AND inbox IN ('gone', 'dead')", '0',
	'custom: they stay so');
$target->safe_psql('custom', <<'EOS');
CREATE ROLE gone LOGIN;
UPDATE evinbox.inbox SET owner = 'gone' WHERE owner = 'gone';
SELECT evinbox.run('daily'), evinbox.run('own');
EOS
is_handled($target, 'custom', @all);
$target->safe_psql('custom', "SELECT evinbox.retry('dead')");
wait_for_handled($target, 'custom', 'dead', 1, 'custom: a dead letter is tried again');
is_sql($target, 'custom', 'SELECT count(*) FROM evinbox.delivery', '0', 'custom: no failure is left');
is_exactly_once($target, 'custom', 'live', 'custom, at last');
is_sql($target, 'custom', "SELECT DISTINCT state FROM evinbox.inbox_status ORDER BY 1", "running\nscheduled",
	'custom: and all is well');
foreach my $mode ('deliver', 'discard')
{
	isnt($target->psql('custom', "SELECT evinbox.resume_after_restore('$mode')"), 0, "custom: not a second time: $mode");
}

# here the role has come before
$target->safe_psql('jobs', "SELECT evinbox.resume_after_restore('deliver')");
help($target, 'jobs');
is_handled($target, 'jobs', @all);
$source->safe_psql('near', "SELECT evinbox.resume_after_restore('deliver')");
help($source, 'near');
is_handled($source, 'near', @all);

# -- discard -----------------------------------------------------------------------------------------

foreach my $name ('plain', 'root')
{
	$target->safe_psql($name, "SELECT evinbox.resume_after_restore('discard')");
	help($target, $name);
	my $since = $target->safe_psql($name, 'SELECT max(id) FROM evinbox.event');
	record_many($target, $name, 10);
	record($target, $name, 'later', 'fails');
	foreach my $inbox (@all)
	{
		$target->safe_psql($name, "SELECT evinbox.run('$inbox')") if $inbox eq 'daily' || $inbox eq 'own';
		wait_for($target, $name,
			"SELECT count(*) = 11 FROM handled WHERE n > $last_handled AND inbox = '$inbox' AND event_id > $since",
			"$name, $inbox: what is recorded from now on is handled");
	}
	wait_for($target, $name, "SELECT count(*) = 2 FROM handled WHERE inbox IN ('fails', 'dead')", "$name: also by others");
	is_sql($target, $name,
		"SELECT count(*) FILTER (WHERE event_id <= $since), count(*), count(DISTINCT (inbox, event_id))"
		  . " FROM handled WHERE n > $last_handled",
		'0|112|112', "$name: each once, and nothing of before");
	is_sql($target, $name, 'SELECT inbox, state, last_error FROM evinbox.delivery ORDER BY inbox',
		"dead|dead|not on this server\nfails|skipped|discarded by resume_after_restore()",
		"$name: nor what had failed");
	is_sql($target, $name, 'SELECT sum(backlog), sum(replay_left) FROM evinbox.inbox_status', '0|0', "$name: nothing is left");
}

is_healthy($source, 'the log of the source is clean');
is_healthy($target);
$_->stop foreach $source, $target;
done_testing();
