# The default partition of evinbox.event becomes a partition of its own when it was
# used: no event is moved, lost, or dispatched twice, and no statement fails.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use EvinboxTest;

my $node = evinbox_node('main', <<'EOS');
evinbox.partition_size = 1000
evinbox.segment_xids = 256
EOS
my $db = 'postgres';
my $default = 'SELECT count(*) FROM evinbox_internal.event_default';
my $partitions = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'evinbox.event'::regclass";
my $places = "SELECT md5(string_agg(format('%s %s %s', id, xmin, ctid), ',' ORDER BY id)) FROM evinbox.event";

sub wait_for_look
{
	my ($sql, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return wait_for($node, $db, "SELECT pg_reload_conf() AND ($sql)", $name);
}

install_evinbox($node, $db);
add_inbox($node, $db, 'all');
add_inbox($node, $db, 'paused');
$node->safe_psql($db, "SELECT evinbox.pause('paused')");

# One transaction takes more than there is room for, while somebody looks.
my $session = $node->background_psql($db);
record_many($node, $db, 500);
$session->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM evinbox.event;');
record_many($node, $db, 4500);
cmp_ok($node->safe_psql($db, $default), '>', 1000, 'the default partition is used');
my $before = $node->safe_psql($db, $places);
is_exactly_once($node, $db, 'all', 'from the default partition');
cmp_ok($node->safe_psql($db, $default), '>', 1000, 'while somebody reads, it stays as it is');
is($session->query_safe('SELECT count(*) FROM evinbox.event;'), '500', 'that one sees what was');
$session->query_safe('COMMIT;');
$session->quit;

wait_for_look("($default) = 0", 'then it is empty');
is_sql($node, $db, "SELECT count(*), count(DISTINCT id), min(id), max(id) FROM evinbox.event WHERE id <= 5000", '5000|5000|1|5000',
	'all events are there, once');
is_sql($node, $db, "SELECT md5(string_agg(format('%s %s %s', id, xmin, ctid), ',' ORDER BY id)) FROM evinbox.event WHERE id <= 5000",
	$before, 'and where they were');
is_sql($node, $db, "SELECT DISTINCT tableoid::regclass = 'evinbox_internal.event_default'::regclass FROM evinbox.event", 'f',
	'none in the default partition');
is_sql($node, $db, "SELECT evinbox.record_event('Thing', '4000', 'happened', throttle => '1 hour') IS NULL", 't', 'a throttle sees them');
$node->safe_psql($db, "SELECT evinbox.resume('paused')");
is_exactly_once($node, $db, 'paused', 'an inbox that comes later');
record_many($node, $db, 100);
is_sql($node, $db, $default, '0', 'new events have a place');

# it is like any other partition
is_sql($node, $db, <<'EOS', '0', 'each has the indexes, the trigger, and no constraint of its own; and belongs to the extension and a dump');
SELECT count(*) FROM pg_inherits h WHERE inhparent = 'evinbox.event'::regclass AND NOT (
	(SELECT count(*) FROM pg_index WHERE indrelid = inhrelid AND indisvalid) = (SELECT count(*) FROM pg_index WHERE indrelid = inhparent)
	AND (SELECT count(*) FROM pg_trigger WHERE tgrelid = inhrelid AND tgname = 'event_refuse_truncate' AND tgenabled = 'A') = 1
	AND (SELECT count(*) FROM pg_trigger WHERE tgrelid = inhrelid) = (SELECT count(*) - 1 FROM pg_trigger WHERE tgrelid = inhparent) + 1
	AND NOT EXISTS (SELECT FROM pg_constraint WHERE conrelid = inhrelid AND contype = 'c')
	AND EXISTS (SELECT FROM pg_depend WHERE objid = inhrelid AND refclassid = 'pg_extension'::regclass AND deptype = 'e')
	AND (SELECT inhrelid = ANY (extconfig) FROM pg_extension WHERE extname = 'evinbox'))
EOS
is($node->psql($db, 'TRUNCATE evinbox_internal.event_default'), 3, 'the new default partition cannot be truncated');

# A dump has all tables locked; writers go on, for several partitions.
$session = $node->background_psql($db);
$session->query_safe('BEGIN; LOCK TABLE evinbox.event IN ACCESS SHARE MODE;');
my $bench = start_pgbench($node, $db, "INSERT INTO evinbox.event (subject_type, subject_id, action) SELECT 'Thing', g::text, 'happened' FROM generate_series(1, 7) g;",
	'-c', '4', '-t', '250');
ok(finish($bench), 'writers beside a dump');
cmp_ok($node->safe_psql($db, $default), '>', 1000, 'use the default partition');
$session->query_safe('COMMIT;');
$session->quit;

# Writers of several rows all the time, and of one statement over several partitions.
$bench = start_pgbench($node, $db, <<'EOS', '-c', '4', '-T', '6');
\set n random(1, 30)
INSERT INTO evinbox.event (subject_type, subject_id, action) SELECT 'Thing', g::text, 'happened' FROM generate_series(1, :n) g;
SELECT evinbox.record_event('Thing', :n, 'happened');
EOS
foreach (1 .. 3)
{
	ok($node->psql($db, "INSERT INTO evinbox.event (subject_type, subject_id, action) SELECT 'Thing', g::text, 'happened' FROM generate_series(1, 5000) g") == 0,
		'a statement larger than partitions');
	$node->reload;
}
ok(finish($bench), 'no statement fails');
wait_for_look("($default) = 0", 'the default partition is empty in the end');
is_exactly_once($node, $db, $_, 'all the time') foreach ('all', 'paused');
is_sql($node, $db, "SELECT count(*) - count(DISTINCT id) FROM evinbox.event", '0', 'ids are there once');

# A foreign key, and an id that nobody was given: partitions go on without it.
$node->safe_psql($db, 'CREATE TABLE mention (event_id bigint REFERENCES evinbox.event)');
record_many($node, $db, 4000);
wait_for_look("SELECT ($default) > 0 AND (SELECT count(*) > 0 FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid WHERE i.inhparent = 'evinbox.event'::regclass"
	. " AND substring(pg_get_expr(c.relpartbound, c.oid) FROM 'FROM \\(''(\\d+)''\\)')::bigint > (SELECT max(id) FROM evinbox.event))",
	'with a foreign key, partitions are made behind the default one');
$node->safe_psql($db, 'DROP TABLE mention');
$node->safe_psql($db,
	"INSERT INTO evinbox.event (id, subject_type, subject_id, action) OVERRIDING SYSTEM VALUE VALUES (1000000000000, 'Thing', 'far', 'happened')");
record_many($node, $db, 4000);
my $many = $node->safe_psql($db, $partitions);
record($node, $db, 'more');
wait_for_look("($partitions) > $many OR (SELECT max(id) < pg_sequence_last_value('evinbox.event_id_seq') FROM evinbox_internal.event_default WHERE id < 1000000000000)",
	'the same with an id that nobody was given');
is_sql($node, $db, 'SELECT tableoid::regclass FROM evinbox.event WHERE id = 1000000000000', 'evinbox_internal.event_default', 'which stays there');
is_exactly_once($node, $db, 'all', 'in the end');

is_sql($node, $db, 'DROP EXTENSION evinbox CASCADE', '', 'the extension can be dropped');
is_healthy($node);
$node->stop;
done_testing();
