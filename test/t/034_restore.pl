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
let_all_handle($source, $db);
$source->safe_psql($db, <<'EOS');
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
	"SELECT count(DISTINCT tableoid) > 2 AND count(*) FILTER (WHERE tableoid::regclass::text ~ 'event_(default|[0-9]+_[0-9]+)\$') > 500"
	  . ' FROM evinbox.event', 't',
	'events are in several partitions, and in one that was, or is, the default one');

# -- dumps ---------------------------------------------------------------------------------

# All that is to be the same there.
my %contents = (
	events => 'SELECT count(*), md5(string_agg(e::text, chr(10) ORDER BY id)) FROM evinbox.event e',
	rules => "SELECT string_agg((to_jsonb(i) - 'owner_id')::text, chr(10) ORDER BY name) FROM evinbox.inbox i",
	deliveries => 'SELECT string_agg(d::text, chr(10) ORDER BY inbox, event_id) FROM evinbox.delivery d',
	actions => 'SELECT string_agg(a::text, chr(10) ORDER BY subject_type, action) FROM evinbox.action a',
	handled => "SELECT count(*), md5(string_agg(h::text, chr(10) ORDER BY n)) FROM public.handled h",
	partitions => 'SELECT tableoid::regclass, count(*) FROM evinbox.event GROUP BY 1 ORDER BY max(id)',
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
dump_source('inserts', '--rows-per-insert=500');
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
	my ($node, $name, @not_the_same) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $line = qr/dispatch is quiet in database "$name"/;

	foreach my $what (sort keys %contents)
	{
		is_sql($node, $name, $contents{$what}, $expected{$what}, "$name: $what are the same")
		  unless grep { $_ eq $what } @not_the_same;
	}
	$node->wait_for_log($line);
	has_no_runner($node, $name, 'nobody works');
	is_sql($node, $name,
		'SELECT count(*) FROM evinbox.inbox i LEFT JOIN pg_roles r ON r.oid = i.owner_id'
		  . " WHERE r.rolname IS DISTINCT FROM i.owner AND i.owner <> 'gone'", '0',
		"$name: rules belong to the role of that name");
	ok(record($node, $name, 'quiet') > $last_event, "$name: events are recorded");
	$node->safe_psql($name, <<'EOS');
INSERT INTO evinbox.event (subject_type, subject_id, action)
	SELECT 'Thing', 'quiet', 'happened' FROM generate_series(1, 8);
COPY evinbox.event (subject_type, subject_id, action) FROM stdin;
Thing	quiet	happened
\.
EOS
	$node->safe_psql($name, "SELECT evinbox.resume('paused'), evinbox.pause('paused')");
	has_no_runner($node, $name, 'nobody comes to work');
	is_sql($node, $name, $contents{handled}, $expected{handled}, "$name: nothing was handled");
	my @lines = slurp_file($node->logfile) =~ /$line/g;
	is(@lines, 1, "$name: the log says it once");
}

restore($target, 'custom', 'custom');
is_quiet($target, 'custom');
is_refused($target, 'custom', "SELECT evinbox.run()", 'run() is refused');
is_refused($target, 'custom', "SELECT evinbox.run('daily')", 'and with a name');
is_refused($target, 'custom', "INSERT INTO evinbox.inbox (name, handler) VALUES ('new', 'public.handle')",
	'a new rule is refused');
is_refused($target, 'custom', "UPDATE evinbox.inbox SET shards = 2 WHERE name = 'sharded'", 'other shards, too');
is_refused($target, 'custom', "SELECT evinbox.replay('again', 1, 10)", 'and a replay');
isnt($target->psql('custom', "SELECT evinbox.record_event('Closed', '1', 'shut')"), 0, 'custom: what is recorded is checked');
is_sql($target, 'custom', "SELECT evinbox.record_event('Thing', 'quiet', 'happened', throttle => '1 day') IS NULL", 't',
	'custom: and throttled');

restore($target, 'jobs', 'custom', '-j', 2);
is_quiet($target, 'jobs');
restore($target, 'root', 'root');
is_quiet($target, 'root', 'partitions');
$target->safe_psql('postgres', 'CREATE DATABASE plain');
command_ok([ 'psql', '-X', '-q', '-v', 'ON_ERROR_STOP=1', '-d', $target->connstr('plain'), '-f', "$dumps/plain" ],
	'plain: restored');
is_quiet($target, 'plain');

# it does not matter that it is the same cluster
restore($source, 'near', 'custom');
is_quiet($source, 'near');

# From the first of a dump's rows on: the one that tells where they come from may
# come much later.  And without triggers: they are often switched off for a restore.
my ($list) = run_command([ 'pg_restore', '-l', "$dumps/custom" ]);
append_to_file("$dumps/list", join("\n", grep { !/TABLE DATA evinbox_internal incarnation/ } split /\n/, $list));
{
	local $ENV{PGOPTIONS} = '-c session_replication_role=replica';
	restore($target, 'partial', 'custom', '-L', "$dumps/list");
}
is_quiet($target, 'partial');
$target->safe_psql('postgres', 'DROP DATABASE partial');

# -- where and how a dump cannot be restored --------------------------------------------------------

# Into a database with rules of its own: these do not notice.  Its cursors have
# higher numbers than those of the dump.
$target->safe_psql('postgres', 'CREATE DATABASE used');
install_evinbox($target, 'used');
$target->safe_psql('used', "SELECT setval('evinbox_internal.cursor_seq', 1000000)");
add_inbox($target, 'used', 'mine');
record_many($target, 'used', 10);
wait_for_handled($target, 'used', 'mine', 10, 'used: a rule of its own');
command_fails_like([ 'pg_restore', '--data-only', '-d', $target->connstr('used'), "$dumps/custom" ],
	qr/ERROR:  cannot restore a dump into a database that has rules, endpoints or events/, 'used: a dump is refused');
is_exactly_once($target, 'used', 'mine', 'used: it goes on');
is_sql($target, 'used',
	'SELECT count(*), (SELECT count(*) FROM evinbox_internal.incarnation), (SELECT max(seq) > 1000000 FROM'
	  . ' (SELECT * FROM evinbox_internal.cursor_0 UNION ALL SELECT * FROM evinbox_internal.cursor_1) c) FROM evinbox.inbox',
	'1|1|t', 'used: nothing has come in');

# By INSERT: no rule comes, and so nothing is done.
$target->safe_psql('postgres', 'CREATE DATABASE inserts');
my ($out, $error) = run_command([ 'psql', '-X', '-q', '-d', $target->connstr('inserts'), '-f', "$dumps/inserts" ]);
like($error, qr/ERROR:  owner_id of an inbox cannot be given/, 'inserts: refused');
is_sql($target, 'inserts', 'SELECT count(*) FROM evinbox.inbox', '0', 'inserts: without rules');
is_sql($target, 'inserts', $contents{handled}, $expected{handled}, 'inserts: nothing was handled');
$target->safe_psql('postgres', "DROP DATABASE $_") foreach qw(used inserts);

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

$target->safe_psql('plain', "SELECT evinbox.resume_after_restore('discard')");
help($target, 'plain');
my $since = $target->safe_psql('plain', 'SELECT max(id) FROM evinbox.event');
record_many($target, 'plain', 10);
record($target, 'plain', 'later', 'fails');
foreach my $inbox (@all)
{
	$target->safe_psql('plain', "SELECT evinbox.run('$inbox')") if $inbox eq 'daily' || $inbox eq 'own';
	wait_for($target, 'plain',
		"SELECT count(*) = 11 FROM handled WHERE n > $last_handled AND inbox = '$inbox' AND event_id > $since",
		"plain, $inbox: what is recorded from now on is handled");
}
wait_for($target, 'plain', "SELECT count(*) = 2 FROM handled WHERE inbox IN ('fails', 'dead')", 'plain: also by others');
is_sql($target, 'plain',
	"SELECT count(*) FILTER (WHERE event_id <= $since), count(*), count(DISTINCT (inbox, event_id))"
	  . " FROM handled WHERE n > $last_handled",
	'0|112|112', 'plain: each once, and nothing of before');
is_sql($target, 'plain', 'SELECT inbox, state, last_error FROM evinbox.delivery ORDER BY inbox',
	"dead|dead|not on this server\nfails|skipped|discarded by resume_after_restore()",
	'plain: nor what had failed');
is_sql($target, 'plain', 'SELECT sum(backlog), sum(replay_left) FROM evinbox.inbox_status', '0|0', 'plain: nothing is left');

# -- a dump while there is much to do -----------------------------------------------------------------
#
# Writers that finish in another order than they have begun, and one inbox that
# is ever behind.

set_conf($source, 'evinbox.segment_xids', '1024');
$source->safe_psql('postgres', 'CREATE DATABASE busy');
$source->safe_psql('busy', 'CREATE TABLE public.first ()');
install_evinbox($source, 'busy');
$source->safe_psql('busy', <<'EOS');
CREATE FUNCTION public.work(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_sleep(0.004);
	PERFORM public.handle(e, config);
END $$;
EOS
add_inbox($source, 'busy', 'quick');
add_inbox($source, 'busy', 'sharded', shards => 3);
add_inbox($source, 'busy', 'slow', handler => 'public.work', batch_size => 50);
my @busy = qw(quick sharded slow);
$bench = start_pgbench($source, 'busy', <<'EOS', '-c', 3, '-T', 2, '-R', 150);
BEGIN;
SELECT evinbox.record_event('Thing', :client_id, 'first');
\sleep 4 ms
SELECT evinbox.record_event('Thing', :client_id, 'second');
COMMIT;
EOS
wait_for_handled($source, 'busy', 'slow', 100, 'busy: all are at work');
command_ok([ 'pg_dump', '-Fc', '-d', $source->connstr('busy'), '-f', "$dumps/busy" ], 'busy: dump');
ok(finish($bench), 'busy: writers');
restore($target, 'busy', 'busy');
is_sql($target, 'busy',
	"SELECT count(*) > 100 AND bool_or(NOT EXISTS (SELECT FROM handled h WHERE h.inbox = 'slow' AND h.event_id = e.id))"
	  . ' FROM evinbox.event e',
	't', 'busy: there is something left to do');
$target->safe_psql('busy', "SELECT evinbox.resume_after_restore('deliver')");
is_exactly_once($target, 'busy', $_, "busy, $_") foreach @busy;
is_exactly_once($source, 'busy', $_, "busy, $_, in the source") foreach @busy;

# -- a dump that has to wait ----------------------------------------------------------------------------
#
# A dump takes a snapshot first, and only then locks the tables.  What the
# snapshot shows as not handled must not be taken out of the outbox in between.

$source->safe_psql('busy', "SELECT evinbox.pause('quick')");
record_many($source, 'busy', 100);
wait_for($source, 'busy', "SELECT count(*) = 0 FROM evinbox.event e WHERE NOT EXISTS"
	  . " (SELECT FROM handled h WHERE h.inbox = 'slow' AND h.event_id = e.id)", 'waiting: others have handled all');
my $locker = $source->background_psql('busy');
$locker->query_safe('BEGIN; LOCK TABLE public.first');
my ($dump_out, $dump_error) = ('', '');
my $dump = IPC::Run::start([ 'pg_dump', '-Fc', '-d', $source->connstr('busy'), '-f', "$dumps/waiting" ],
	'>', \$dump_out, '2>', \$dump_error);
wait_for($source, 'busy', "SELECT count(*) = 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'LOCK TABLE%'",
	'waiting: a dump does');
$source->safe_psql('busy', "SELECT evinbox.resume('quick')");

# The outbox goes on to its next segment; all lanes have done with the former one;
# the coordinator looks.
$source->safe_psql('busy', 'DO $$ BEGIN FOR i IN 1 .. 1100 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$');
record_many($source, 'busy', 100);
is_exactly_once($source, 'busy', $_, "waiting: meanwhile, $_") foreach @busy;
foreach (1 .. 3)
{
	my $now = $source->safe_psql('busy', 'SELECT clock_timestamp()');
	$source->safe_psql('busy', 'UPDATE evinbox.inbox SET priority = priority');
	wait_for($source, 'busy',
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'evinbox coordinator' AND datname = 'busy'"
		  . " AND state = 'idle' AND state_change > '$now'",
		'waiting: the coordinator has looked');
}
$locker->query_safe('COMMIT');
$locker->quit;
ok(IPC::Run::finish($dump), 'waiting: the dump is made');
restore($target, 'waiting', 'waiting');
is_sql($target, 'waiting',
	"SELECT count(*) FROM evinbox.event e WHERE NOT EXISTS (SELECT FROM handled h WHERE h.inbox = 'quick' AND h.event_id = e.id)",
	'100', 'waiting: it has something to do');
$target->safe_psql('waiting', "SELECT evinbox.resume_after_restore('deliver'), evinbox.resume('quick')");
is_exactly_once($target, 'waiting', $_, "waiting, $_") foreach @busy;

is_healthy($source, 'the log of the source is clean');
is_healthy($target);
$_->stop foreach $source, $target;
done_testing();
