# Partitions of evinbox.event are made ahead of need.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use EvinboxTest;

# The coordinator looks when the outbox goes on to another segment.
my $node = evinbox_node('main', <<'EOS');
evinbox.partition_size = 1000
evinbox.segment_xids = 16
EOS
my $db = 'postgres';
my $default = 'SELECT count(*) FROM evinbox_internal.event_default';
my $partitions = "SELECT count(*) FROM pg_inherits WHERE inhparent = 'evinbox.event'::regclass";

install_evinbox($node, $db);
add_inbox($node, $db, 'all');
is_sql($node, $db, $partitions, '2', 'a first partition and the default one');

# In steps, so that the coordinator can follow on a slow machine, too: what is
# tested is that it looks, not how quickly.
foreach my $step (1 .. 25)
{
	$node->safe_psql($db,
		"DO \$\$ BEGIN FOR i IN 1 .. 20 LOOP"
		  . " INSERT INTO evinbox.event (subject_type, subject_id, action)"
		  . " SELECT 'Thing', g::text, 'happened' FROM generate_series(1, 10) g;"
		  . " COMMIT; END LOOP; END \$\$");
	$node->poll_query_until($db, <<'EOS') or last;
SELECT max(substring(pg_get_expr(c.relpartbound, c.oid) FROM 'TO \(''(\d+)''\)')::bigint)
	- (SELECT max(id) FROM evinbox.event) > 400
FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid
WHERE i.inhparent = 'evinbox.event'::regclass
EOS
}
is_sql($node, $db, 'SELECT count(*) FROM evinbox.event', '5000', 'the next partition is always there in time');
is_sql($node, $db, $default, '0', 'the default partition stays empty');
is_sql($node, $db, 'SELECT count(DISTINCT tableoid) FROM evinbox.event', '5',
	'each partition takes as many ids as it should');
is_sql($node, $db,
	"SELECT count(*) FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid"
	  . " WHERE i.inhparent = 'evinbox.event'::regclass AND NOT EXISTS (SELECT FROM pg_depend d"
	  . " WHERE d.objid = c.oid AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e')",
	'0', 'all of them belong to the extension');
is_exactly_once($node, $db, 'all', 'events in several partitions');
is($node->psql($db, 'TRUNCATE evinbox_internal.event_1'), 3, 'no partition can be truncated');
my $newest = $node->safe_psql($db,
	"SELECT tableoid::regclass FROM evinbox.event ORDER BY id DESC LIMIT 1");
is($node->psql($db, "TRUNCATE $newest"), 3, 'nor the newest one');
is($node->psql($db, "DELETE FROM $newest"), 3, 'nor deleted from');
is_sql($node, $db,
	"SELECT evinbox.record_event('Thing', '1', 'happened', throttle => '1 hour') IS NULL",
	't', 'a throttle sees events of all partitions');

# A statement of very many events may fail when a partition is attached while it
# runs (see README's limits), so there must be none to be made.
sub wait_until_made
{
	wait_for($node, $db, <<'EOS', 'there is no partition to be made');
SELECT max(substring(pg_get_expr(c.relpartbound, c.oid) FROM 'TO \(''(\d+)''\)')::bigint)
	> pg_sequence_last_value('evinbox.event_id_seq') + 500
FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid
WHERE i.inhparent = 'evinbox.event'::regclass
EOS
}

# One transaction takes more than there is room for.
wait_until_made();
my $many = $node->safe_psql($db, $partitions);
record_many($node, $db, 3000);
is_exactly_once($node, $db, 'all', 'what is too much for all partitions');
wait_for($node, $db, "SELECT pg_reload_conf() AND ($default) = 0", 'what the default partition had to take is in one of its own');
record($node, $db, 'more') foreach 1 .. 20;
wait_for($node, $db, "SELECT ($partitions) > $many", 'and partitions go on behind it');
wait_for($node, $db, <<'EOS', 'for the ids to come');
WITH one AS (SELECT evinbox.record_event('Thing', 'one', 'happened') AS id),
	two AS (SELECT pg_sequence_last_value('evinbox.event_id_seq') AS id)
SELECT max(substring(pg_get_expr(c.relpartbound, c.oid) FROM 'TO \(''(\d+)''\)')::bigint) > (SELECT id FROM two)
	AND (SELECT id FROM one) > 0
FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid
WHERE i.inhparent = 'evinbox.event'::regclass
EOS
$node->safe_psql($db,
	"DO \$\$ BEGIN FOR i IN 1 .. 600 LOOP PERFORM evinbox.record_event('Thing', i, 'later'); COMMIT; END LOOP; END \$\$");
isnt($node->safe_psql($db,
		"SELECT tableoid::regclass FROM evinbox.event ORDER BY id DESC LIMIT 1"),
	'evinbox_internal.event_default', 'the newest events are in one of them');
is_exactly_once($node, $db, 'all', 'events behind the default partition');

# The default partition is in two pieces, with others in between, and one batch
# is of all of them.
$node->safe_psql($db, "UPDATE evinbox.inbox SET batch_size = 100000");
wait_until_made();
record_many($node, $db, 2500);
is_exactly_once($node, $db, 'all', 'a batch on both sides of a partition');
$node->safe_psql($db, "UPDATE evinbox.inbox SET priority = 11");
wait_until_made();
record_many($node, $db, 4500);
is_exactly_once($node, $db, 'all', 'and once more');

is_healthy($node);
$node->stop;
done_testing();
