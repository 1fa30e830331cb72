# Events that another server has recorded come by logical replication: stored as
# they are, and dispatched only where somebody wants it, exactly once.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use EvinboxTest;

# The two divide their events into partitions of different sizes.
my $conf = <<'EOS';
wal_level = logical
wal_retrieve_retry_interval = 100ms
logical_decoding_work_mem = 64kB
log_min_messages = warning
evinbox.segment_xids = 16
EOS
my $db = 'app';
my $publisher = evinbox_node('publisher', "$conf\nevinbox.partition_size = 1000", allows_streaming => 'logical');
my $subscriber = evinbox_node('subscriber', "$conf\nevinbox.partition_size = 1500", allows_streaming => 'logical');
my $connection = $publisher->connstr . " dbname=$db";
my $digest = "SELECT count(*), md5(string_agg(e::text, E'\\n' ORDER BY e.id)) FROM evinbox.event e";

foreach my $node ($publisher, $subscriber)
{
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	install_evinbox($node, $db);
}

# Waits until the subscriber has stored all that the publisher has recorded.
sub catch_up
{
	$publisher->wait_for_catchup('events');
}

# The ids are those of the publisher, so the whole rows can be compared.
sub is_same
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	catch_up();
	is_sql($subscriber, $db, "$digest WHERE e.id < 1000000000", $publisher->safe_psql($db, $digest), $name);
}

# Has the subscriber handled these events of the publisher, each of them once? One
# more event at the end gives a second handling the time to show.
sub is_once
{
	my ($inbox, $where, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $last = record($publisher, $db, 'last');

	wait_for_handled($subscriber, $db, "$inbox' AND event_id = '$last", 1, "$name: it goes on");
	is_sql(
		$subscriber, $db,
		"SELECT count(*), count(DISTINCT event_id), coalesce(min(event_id), 0) FROM handled"
		  . " WHERE inbox = '$inbox' AND event_id < 1000000000",
		$publisher->safe_psql($db, "SELECT count(*), count(*), min(id) FROM evinbox.event WHERE $where"),
		"$name: each event once");
}

sub kill_apply_worker
{
	$subscriber->safe_psql($db,
		"SELECT pg_terminate_backend(pid) FROM pg_stat_subscription WHERE subname = 'events' AND pid IS NOT NULL");
}

# -- the first copy -----------------------------------------------------------------
#
# The subscriber has a rule for whatever is dispatched, and closes a type that is
# open where its events are recorded.

add_inbox($_, $db, 'all') foreach ($publisher, $subscriber);
$subscriber->safe_psql($db, "INSERT INTO evinbox.action VALUES ('Thing', 'other')");
$publisher->safe_psql($db, <<'EOS');
INSERT INTO evinbox.event (subject_type, subject_id, action, actor, scope, metadata, snapshot, occurred_at)
VALUES (E'Odd \'"type"', E'\\N\t\n', 'x', E'\\.', ' ', E'{"a": [null, 1.50, "\303\244"]}', '[]', '-infinity');
EOS
record_many($publisher, $db, 799);
$publisher->safe_psql($db, 'CREATE PUBLICATION events FOR TABLE evinbox.event'
	  . " WITH (publish = 'insert', publish_via_partition_root = true)");
my $stored_at = $publisher->safe_psql($db, 'SELECT clock_timestamp()');
$subscriber->safe_psql($db, "CREATE SUBSCRIPTION events CONNECTION '$connection' PUBLICATION events");
$subscriber->wait_for_subscription_sync($publisher, 'events', $db);
is_same('past events are copied as they are');
is_sql($subscriber, $db, "SELECT count(*) FROM evinbox.event WHERE recorded_at >= '$stored_at'", '0',
	'with the time of their recording');
isnt($subscriber->psql($db, "SELECT evinbox.record_event('Thing', 1, 'happened')"), 0,
	'what the subscriber itself would refuse');

# -- streaming, without dispatch ----------------------------------------------------
#
# In steps, so that the coordinators can follow on a slow machine, too.

my $room = <<'EOS';
SELECT (SELECT pg_get_expr(c.relpartbound, c.oid) FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid
	WHERE i.inhparent = 'evinbox.event'::regclass AND c.relname <> 'event_default'
		AND substring(pg_get_expr(c.relpartbound, c.oid) FROM 'TO \(''(\d+)''\)')::bigint
			> (SELECT max(id) + 300 FROM evinbox.event WHERE id < 1000000000) LIMIT 1) IS NOT NULL
EOS

sub record_in_steps
{
	my ($steps) = @_;

	foreach (1 .. $steps)
	{
		$publisher->safe_psql($db, <<'EOS');
DO $$ BEGIN FOR i IN 1 .. 20 LOOP
	INSERT INTO evinbox.event (subject_type, subject_id, action)
	SELECT 'Thing', g::text, 'happened' FROM generate_series(1, 10) g;
	COMMIT;
END LOOP; END $$;
EOS
		catch_up();
		foreach my $node ($publisher, $subscriber)
		{
			$node->poll_query_until($db, $room) or return fail($node->name . ': there is room');
		}
	}
	return pass('there is always room in the partitions on both sides');
}

wait_for($subscriber, $db, $room, 'there is room for what comes after the copy');
record_in_steps(12);
is_same('events are streamed as they are');
foreach my $node ($publisher, $subscriber)
{
	is_sql($node, $db,
		"SELECT count(*) FROM evinbox_internal.event_default", '0',
		$node->name . ': the default partition stays empty');
}
is_sql($subscriber, $db, 'SELECT count(DISTINCT tableoid) > 2 FROM evinbox.event', 't',
	'the subscriber makes partitions of its own');
is_sql($subscriber, $db,
	"SELECT (SELECT count(*) FROM handled), (SELECT count(*) FROM evinbox_internal.waiting),"
	  . ' (SELECT count(*) FROM evinbox_internal.outbox_0) + (SELECT count(*) FROM evinbox_internal.outbox_1) +'
	  . ' (SELECT count(*) FROM evinbox_internal.outbox_2) + (SELECT count(*) FROM evinbox_internal.outbox_3),'
	  . " (SELECT string_agg(state || ' ' || lag_events, ',') FROM evinbox.inbox_status)",
	'0|0|0|running 0', 'nothing of it is dispatched, or waits for it');
is_exactly_once($publisher, $db, 'all', 'the publisher dispatches as ever');

# -- dispatching what comes ---------------------------------------------------------
#
# One inbox stands still from the start. Handlers record, too, with ids that are
# far from the publisher's.

is($subscriber->psql($db, 'SET ROLE pg_monitor; SELECT evinbox.dispatch_replicated(true)'), 3,
	'only a superuser may have it dispatched');
$subscriber->safe_psql($db, <<'EOS');
CREATE FUNCTION public.follow(e evinbox.event) RETURNS void LANGUAGE sql
	AS $$ SELECT evinbox.record_event('Follower', e.id, 'happened') $$;
ALTER TABLE evinbox.event ALTER id RESTART WITH 1000000000001;
SELECT evinbox.dispatch_replicated(true);
EOS
add_inbox($subscriber, $db, 'late');
add_inbox($subscriber, $db, 'follower', handler => 'public.follow', config => '{}', actions => '{origin}');
$subscriber->safe_psql($db, "SELECT evinbox.pause('late')");
my $first = record($publisher, $db, 'first', 'origin');
record_many($publisher, $db, 100);
is_once('all', "id >= $first", 'dispatch');
wait_for($subscriber, $db, "SELECT count(*) = 1 FROM evinbox.event WHERE subject_type = 'Follower'"
	  . " AND caused_by = $first AND depth = 1 AND id = 1000000000001", 'one of them causes an event here');
wait_for_handled($subscriber, $db, 'all\' AND event_id = \'1000000000001', 1, 'which is dispatched as well');

my $bench = start_pgbench($publisher, $db, <<'EOS', '-c', 2, '-R', 200, '-T', 6);
BEGIN;
SELECT evinbox.record_event('Thing', 'bench ' || :client_id, 'happened');
SELECT evinbox.record_event('Thing', 'bench ' || :client_id, 'happened');
COMMIT;
EOS

# at work, not just started again
sub goes_on
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $reached = $publisher->safe_psql($db, 'SELECT max(id) FROM evinbox.event');

	return wait_for($subscriber, $db,
		"SELECT count(*) > 0 FROM handled WHERE inbox = 'all' AND event_id BETWEEN $reached AND 1000000000", $name);
}
goes_on('events come');
kill_apply_worker();
goes_on('after the end of the apply worker');
$subscriber->kill9;
ok(poll_start($subscriber), 'the subscriber starts after kill -9');
goes_on('after kill -9');
$subscriber->safe_psql($db, 'ALTER SUBSCRIPTION events DISABLE');
$subscriber->safe_psql($db, 'ALTER SUBSCRIPTION events ENABLE');
goes_on('after a pause of the subscription');
$publisher->restart;
$subscriber->kill9;
ok(poll_start($subscriber), 'it starts again');
finish($bench);
record_many($publisher, $db, 10);
goes_on('after a restart of the publisher');
is_once('all', "id >= $first", 'in spite of all that');
is_same('and all is stored');

# -- one large transaction, in pieces ------------------------------------------------

foreach my $streaming ('on', $subscriber->pg_version >= 16 ? 'parallel' : ())
{
	$subscriber->safe_psql($db, "ALTER SUBSCRIPTION events SET (streaming = $streaming)");
	$publisher->safe_psql($db, <<'EOS');
BEGIN;
INSERT INTO evinbox.event (subject_type, subject_id, action) SELECT 'Thing', g::text, 'large' FROM generate_series(1, 2000) g;
SAVEPOINT one;
INSERT INTO evinbox.event (subject_type, subject_id, action) SELECT 'Thing', g::text, 'undone' FROM generate_series(1, 2000) g;
ROLLBACK TO one;
INSERT INTO evinbox.event (subject_type, subject_id, action) SELECT 'Thing', g::text, 'large' FROM generate_series(1, 2000) g;
COMMIT;
EOS
	is_once('all', "id >= $first", "streaming = $streaming");
}
wait_for($publisher, $db, "SELECT stream_txns > 0 FROM pg_stat_replication_slots WHERE slot_name = 'events'",
	'it was streamed indeed');

# -- not dispatching any more --------------------------------------------------------

$subscriber->safe_psql($db, 'SELECT evinbox.dispatch_replicated(false)');
my $unwanted = record($publisher, $db, 'unwanted');
record_many($publisher, $db, 100);
is_same('what is not dispatched is stored');
$subscriber->safe_psql($db, 'SELECT evinbox.dispatch_replicated(true)');
my $wanted = record($publisher, $db, 'wanted');
is_once('all', "id >= $first AND id NOT BETWEEN $unwanted AND $wanted - 1", 'off and on');

# The one that stood still finds in its backlog what was dispatched, and no more.
$subscriber->safe_psql($db, 'SELECT evinbox.dispatch_replicated(false)');
record($publisher, $db, "unwanted $_") foreach 1 .. 20;
catch_up();
$subscriber->safe_psql($db, 'SELECT evinbox.dispatch_replicated(true)');
my $dispatched = "id >= $first AND id NOT BETWEEN $unwanted AND $wanted - 1 AND subject_id NOT LIKE 'unwanted %'";
my $has_backlog = 0;
foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
{
	record($publisher, $db, 'more') foreach 1 .. 5;
	$has_backlog = $subscriber->safe_psql($db, "SELECT backlog > 5000 FROM evinbox.inbox_status WHERE name = 'late'") eq 't';
	last if $has_backlog;
}
ok($has_backlog, 'the outbox does not wait for one that stands still');
$subscriber->safe_psql($db, "SELECT evinbox.resume('late')");
is_once('late', $dispatched, 'one that stood still');

# -- a new one with a past ----------------------------------------------------------
#
# While events come; it is given all that are stored, dispatched or not.

$bench = start_pgbench($publisher, $db,
	"SELECT evinbox.record_event('Thing', 'bench ' || :client_id, 'happened')", '-c', 2, '-t', 200);
add_inbox($subscriber, $db, 'past', start_at => 'beginning');
ok(finish($bench), 'events come meanwhile');
is_once('past', 'true', 'one that begins with the past');

# -- moving an inbox ----------------------------------------------------------------
#
# From the publisher to the subscriber, from an id on that is still to come.

my $turn = 500 + record($publisher, $db, 'now');
$bench = start_pgbench($publisher, $db,
	"SELECT evinbox.record_event('Thing', 'bench ' || :client_id, 'happened')", '-c', 2, '-R', 400, '-t', 600);
add_inbox($subscriber, $db, 'moved', condition => "e.id >= $turn");
add_inbox($publisher, $db, 'moved', condition => "e.id < $turn");
my $start = record($publisher, $db, 'moving');
cmp_ok($start, '<', $turn, 'the rules are there in time');
ok(finish($bench), 'events come meanwhile');
is_once('moved', "id >= $turn", 'what is moved');
wait_for_handled($publisher, $db, 'moved', $turn - $start, 'what was before is done at the publisher');
is_sql($publisher, $db,
	"SELECT count(*) = count(DISTINCT event_id), max(event_id) < $turn FROM handled WHERE inbox = 'moved'",
	't|t', 'and nothing else');

# -- a subscriber that is a copy of another ------------------------------------------

$subscriber->safe_psql($db, 'UPDATE evinbox_internal.incarnation SET database_id = 0');
wait_for($subscriber, $db, "SELECT bool_and(state = 'quiet') FROM evinbox.inbox_status", 'the subscriber is quiet');
my $quiet = record($publisher, $db, 'quiet');
catch_up();
is_sql($subscriber, $db, "SELECT count(*) FROM handled WHERE event_id = $quiet", '0', 'events wait there');
$subscriber->safe_psql($db, "SELECT evinbox.resume_after_restore('deliver')");
is_once('all', $dispatched, 'once that is over');

# -- whose subscription it is --------------------------------------------------------

$subscriber->safe_psql($db, <<'EOS');
CREATE ROLE replicator LOGIN SUPERUSER;
ALTER SUBSCRIPTION events OWNER TO replicator;
EOS
record($publisher, $db, 'before');
catch_up();
my $offset = -s $subscriber->logfile;
$subscriber->safe_psql($db, 'ALTER ROLE replicator NOSUPERUSER');
kill_apply_worker();
my $refused = record($publisher, $db, 'refused');
ok($subscriber->wait_for_log(qr/permission denied for (?:schema evinbox|table event)|cannot SET ROLE to/, $offset),
	'an owner who is no superuser cannot store events');
is_sql($subscriber, $db, "SELECT count(*) FROM evinbox.event WHERE id = $refused", '0', 'and does not');
$subscriber->safe_psql($db, 'ALTER ROLE replicator SUPERUSER');
is_once('all', $dispatched, 'they come when that is mended');
is_same('all of them');

# -- publications that are not for this ----------------------------------------------

# partition by partition
$publisher->safe_psql($db, "CREATE PUBLICATION parts FOR TABLE evinbox.event WITH (publish = 'insert')");
my ($ret, $stdout, $stderr) = $subscriber->psql($db,
	"CREATE SUBSCRIPTION parts CONNECTION '$connection' PUBLICATION parts");
like($stderr, qr/relation "evinbox_internal\.event_\d+" does not exist/,
	'without the root, both sides would have to have the same partitions');

# Of all tables: the publisher works on, and the engine's own tables stay at home.
my $other = 'other';
foreach my $node ($publisher, $subscriber)
{
	$node->safe_psql('postgres', "CREATE DATABASE $other");
	install_evinbox($node, $other);
	$node->safe_psql($other, 'ALTER TABLE handled ADD PRIMARY KEY (n)');
}
record_many($publisher, $other, 10);
$publisher->safe_psql($other,
	'CREATE PUBLICATION every FOR ALL TABLES WITH (publish_via_partition_root = true)');
add_inbox($publisher, $other, 'all', start_at => 'beginning');
is_exactly_once($publisher, $other, 'all', 'a publication of all tables');
$publisher->safe_psql($other, 'SELECT evinbox.dispatch_replicated(false)');
wait_for($publisher, $other, 'SELECT count(*) = 0 FROM evinbox_internal.backlog', 'housekeeping goes on');
$offset = -s $subscriber->logfile;
$subscriber->safe_psql($other, "CREATE SUBSCRIPTION every CONNECTION '" . $publisher->connstr . " dbname=$other'"
	  . ' PUBLICATION every WITH (copy_data = false)');
record($publisher, $other, 'one');
ok($subscriber->wait_for_log(qr/cannot replicate table "\w+" of evinbox/, $offset),
	'what is of one server alone is refused by another');
is_sql($subscriber, $other,
	'SELECT (SELECT count(*) FROM evinbox.event), (SELECT count(*) FROM evinbox.inbox),'
	  . ' (SELECT count(*) FROM evinbox_internal.cursor_0), (SELECT count(*) FROM evinbox_internal.incarnation)',
	'0|0|0|1', 'nothing of it is stored');
$subscriber->safe_psql($other, 'DROP SUBSCRIPTION every');

is_healthy($publisher, 'the log of the publisher is clean');
is_healthy($subscriber, 'the log of the subscriber is clean');
$subscriber->safe_psql($db, 'DROP SUBSCRIPTION events');
$subscriber->stop;
$publisher->stop;
done_testing();
