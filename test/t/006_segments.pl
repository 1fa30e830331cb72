# The outbox stays small: segments are emptied when every cursor is past them,
# and nothing is lost by that, whoever is slow.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);
use EvinboxTest;

# 16 transactions a segment
my $node = evinbox_node('main', <<'EOS');
evinbox.segment_xids = 16
autovacuum = off
EOS
my $db = 'postgres';

install_evinbox($node, $db);
add_inbox($node, $db, 'all');
add_inbox($node, $db, 'none', subject_types => '{Nothing}');

my $outbox = "(SELECT sum(pg_relation_size(oid)) / 8192 FROM pg_class"
  . " WHERE relname ~ '^outbox_\\d\$')";
my $used = "(SELECT sum(pg_relation_size(oid) / nullif(pg_relation_size(oid), 0))"
  . " FROM pg_class WHERE relname ~ '^outbox_\\d\$')";

$node->safe_psql($db, <<'EOS');
CREATE PROCEDURE public.record_each(count int, subject text) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. count LOOP
		PERFORM evinbox.record_event('Thing', subject, 'happened');
		COMMIT;
	END LOOP;
END $$;
EOS

# Goes through all segments a few times, and lets the coordinator catch up.
sub turn_around
{
	$node->safe_psql($db, "CALL record_each(100, 'turn')") foreach 1 .. 3;
}

# Waits until all segments but the newest are empty.  The coordinator looks when
# something happens, or after a pause of up to a minute; a change of a rule makes
# it look now.
sub segments_get_emptied
{
	my ($name) = @_;

	foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		$node->safe_psql($db, "UPDATE evinbox.inbox SET priority = priority WHERE name = 'none'");
		return pass($name) if $node->safe_psql($db, "SELECT $used <= 2 AND $outbox <= 10") eq 't';
		usleep(100_000);
	}
	return fail($name);
}

# -- bounded -------------------------------------------------------------------------

# Each row takes 40 bytes: kept for good, these would fill more than 20 pages.
foreach my $round (1 .. 5)
{
	$node->safe_psql($db, "CALL record_each(1000, 'load')");
	is_exactly_once($node, $db, 'all', "load $round");
}
turn_around();
segments_get_emptied('all segments but the newest get emptied');
is_sql($node, $db,
	"SELECT sum(n_dead_tup) FROM pg_stat_user_tables WHERE schemaname LIKE 'evinbox%'"
	  . " AND relname <> 'inbox'",
	'0', 'there are no dead tuples');
cmp_ok($node->safe_psql($db, "SELECT sum(n_tup_ins) FROM pg_stat_user_tables WHERE relname LIKE 'outbox%'"),
	'>', 5000, 'and the statistics are there to tell');

# -- slow ones -------------------------------------------------------------------------

# a reader with an old snapshot, which also has read the segments
my $reader = $node->background_psql($db);
my $everything = "SELECT count(*) FROM (TABLE evinbox_internal.outbox_0 UNION ALL"
  . " TABLE evinbox_internal.outbox_1 UNION ALL TABLE evinbox_internal.outbox_2 UNION ALL"
  . " TABLE evinbox_internal.outbox_3) s";
$reader->query_safe("BEGIN ISOLATION LEVEL REPEATABLE READ");
$reader->query_safe("SELECT count(*) FROM evinbox.event");
turn_around();
is_exactly_once($node, $db, 'all', 'beside an old snapshot');
segments_get_emptied('an old snapshot does not keep segments');
$reader->query_safe($everything);
turn_around();
is_exactly_once($node, $db, 'all', 'beside a lock on the segments');
cmp_ok($node->safe_psql($db, "SELECT $used"), '>', 2, 'a lock on the segments does keep them');
$reader->query_safe("COMMIT");
turn_around();
segments_get_emptied('until it is gone');

# a writer with an old snapshot, and one with an old id
foreach my $what ('pg_current_snapshot', 'pg_current_xact_id')
{
	my $writer = $node->background_psql($db);
	$writer->query_safe("BEGIN ISOLATION LEVEL REPEATABLE READ");
	$writer->query_safe("SELECT $what()");
	turn_around();
	is_exactly_once($node, $db, 'all', "while a writer with an old $what sleeps");
	segments_get_emptied('it keeps no segments');
	$writer->query_safe("SELECT evinbox.record_event('Thing', 'late $what', 'happened')");
	turn_around();
	$writer->query_safe("COMMIT");
	turn_around();
	is_exactly_once($node, $db, 'all', 'after its commit');
	is_sql($node, $db, "SELECT count(*) FROM handled WHERE subject = 'late $what'", '1',
		'its event was handled');
	segments_get_emptied('and its segment emptied');
	$writer->quit;
}

# a writer that has written, and stays
my $writer = $node->background_psql($db);
$writer->query_safe("BEGIN");
$writer->query_safe("SELECT evinbox.record_event('Thing', 'long', 'happened')");
turn_around();
is_exactly_once($node, $db, 'all', 'beside a long transaction');
$writer->query_safe("SELECT evinbox.record_event('Thing', 'long', 'happened')");
turn_around();
$writer->query_safe("COMMIT");
is_exactly_once($node, $db, 'all', 'after a long transaction');
is_sql($node, $db, "SELECT count(*) FROM handled WHERE subject = 'long'", '2',
	'its events were handled');

# a prepared one, which even a restart does not end
$node->safe_psql($db, "BEGIN; SELECT evinbox.record_event('Thing', 'prepared', 'happened');"
	  . " PREPARE TRANSACTION 'p'");
turn_around();
$_->quit foreach $reader, $writer;
$node->restart;
turn_around();
is_exactly_once($node, $db, 'all', 'beside a prepared transaction');
$node->safe_psql($db, "COMMIT PREPARED 'p'");
is_exactly_once($node, $db, 'all', 'after a prepared transaction');
is_sql($node, $db, "SELECT count(*) FROM handled WHERE subject = 'prepared'", '1',
	'its event was handled');

# a paused inbox, and one that nobody runs
add_inbox($node, $db, 'paused', enabled => 'false');
add_inbox($node, $db, 'scheduled', dispatch => 'scheduled');
my $before = $node->safe_psql($db, "SELECT count(*) FROM evinbox.event");
turn_around();
is_exactly_once($node, $db, 'all', 'beside a paused inbox');
$node->safe_psql($db, "UPDATE evinbox.inbox SET enabled = true WHERE name = 'paused'");
wait_for($node, $db,
	"SELECT count(*) = (SELECT count(*) - $before FROM evinbox.event) FROM handled WHERE inbox = 'paused'",
	'when it goes on, it has lost nothing');
$node->safe_psql($db, "SELECT evinbox.run('scheduled')");
is_sql($node, $db,
	"SELECT count(*) = (SELECT count(*) - $before FROM evinbox.event) FROM handled WHERE inbox = 'scheduled'",
	't', 'nor has a scheduled one');
$node->safe_psql($db, "DELETE FROM evinbox.inbox WHERE name IN ('paused', 'scheduled')");
turn_around();
segments_get_emptied('without them, the segments are emptied');

# an inbox that is being created keeps what it may need
$writer = $node->background_psql($db);
$writer->query_safe("BEGIN");
$writer->query_safe("INSERT INTO evinbox.inbox (name, handler, config)"
	  . " VALUES ('new', 'public.handle', '{\"inbox\": \"new\"}')");
$before = $node->safe_psql($db, "SELECT count(*) FROM evinbox.event");
turn_around();
is_exactly_once($node, $db, 'all', 'beside an inbox that is being created');
$writer->query_safe("COMMIT");
record($node, $db, 'for the new one');
wait_for($node, $db,
	"SELECT count(*) = (SELECT count(*) - $before FROM evinbox.event) FROM handled WHERE inbox = 'new'",
	'it sees all that came since');

# another size, at any time
set_conf($node, 'evinbox.segment_xids', '100');
turn_around();
set_conf($node, 'evinbox.segment_xids', '16');
turn_around();
is_exactly_once($node, $db, 'all', 'with changes of the size');

# -- cursors ------------------------------------------------------------------------------

# Each table takes 16384 rows in turn.
foreach my $round (1 .. 3)
{
	my $next = $node->safe_psql($db,
		"SELECT setval('evinbox_internal.cursor_seq', (last_value / 16384 + 1) * 16384 - 3)"
		  . " / 16384 FROM evinbox_internal.cursor_seq") + 1;
	record($node, $db, 'turn of the cursors') foreach 1 .. 5;
	is_exactly_once($node, $db, 'all', "turn $round of the cursors");
	turn_around();
	$node->safe_psql($db, "UPDATE evinbox.inbox SET priority = priority WHERE name = 'none'");
	wait_for($node, $db,
		"SELECT pg_relation_size('evinbox_internal.cursor_' || " . (1 - $next % 2) . ") = 0"
		  . " AND pg_relation_size('evinbox_internal.cursor_' || " . ($next % 2) . ") > 0",
		"turn $round: the other table is emptied");
	is_sql($node, $db,
		"SELECT count(*) FROM evinbox.inbox i WHERE NOT EXISTS (SELECT FROM"
		  . " (TABLE evinbox_internal.cursor_0 UNION ALL TABLE evinbox_internal.cursor_1) c WHERE c.inbox_id = i.id)",
		'0', "turn $round: every inbox has a cursor");
}
is_exactly_once($node, $db, 'all', 'after three turns of the cursors');
wait_for($node, $db,
	"SELECT count(*) = (SELECT count(*) - $before FROM evinbox.event) FROM handled WHERE inbox = 'new'",
	'for the other inbox, too');

is_sql($node, $db,
	"SELECT sum(n_dead_tup) FROM pg_stat_user_tables WHERE schemaname LIKE 'evinbox%'"
	  . " AND relname <> 'inbox'",
	'0', 'there are no dead tuples after all of this');
is_healthy($node);
$node->stop;
done_testing();
