# A lane that stays in one window for long keeps the outbox from being emptied:
# its own runner makes a backlog of the rest, in order.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use EvinboxTest;

# 16 transactions a segment
my $node = evinbox_node('main', "evinbox.segment_xids = 16\n");
my $db = 'postgres';

install_evinbox($node, $db);
$node->safe_psql($db, <<'EOS');
CREATE FUNCTION public.handle_gate(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF e.action = 'gate' THEN
		PERFORM pg_advisory_xact_lock_shared(42);
	END IF;
	PERFORM public.handle(e, config);
END $$;
CREATE PROCEDURE public.record_each(count int) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. count LOOP
		PERFORM evinbox.record_event('Thing', 'small', 'happened');
		COMMIT;
	END LOOP;
END $$;
EOS
add_inbox($node, $db, 'gated', handler => 'public.handle_gate');

# The window is read in parts of 8,192 events, and the lane stops in the second.
my $gate = $node->background_psql($db);
$gate->query_safe('SELECT pg_advisory_lock(42)');
$node->safe_psql($db,
	"INSERT INTO evinbox.event (subject_type, subject_id, action)"
	  . " SELECT 'Thing', 'large', CASE g WHEN 9000 THEN 'gate' ELSE 'happened' END FROM generate_series(1, 20000) g");
wait_for($node, $db,
	"SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'evinbox runner' AND wait_event = 'advisory'",
	'the lane stands in the midst of a large window');
my $since = $node->safe_psql($db, 'SELECT clock_timestamp()');
$node->safe_psql($db, 'CALL record_each(100)');
wait_for($node, $db, "SELECT clock_timestamp() > '$since'::timestamptz + interval '6 seconds'",
	'for so long that it is in the way');
$gate->query_safe('SELECT pg_advisory_unlock(42)');
$gate->quit;

# Nothing else wakes the worker until all is done.
wait_for($node, $db, "SELECT count(*) = 20100 FROM handled", 'it goes on by itself');
is_sql($node, $db,
	"SELECT count(*), count(DISTINCT event_id), bool_and(event_id > former) FROM"
	  . " (SELECT event_id, lag(event_id, 1, 0::bigint) OVER (ORDER BY n) AS former FROM handled) h",
	'20100|20100|t', 'each event once, in order');
is_sql($node, $db, "SELECT last_value > 1 FROM evinbox_internal.backlog_seq_seq", 't', 'with a backlog');
is_sql($node, $db, "SELECT lag_events, backlog FROM evinbox.inbox_status", '0|0', 'of which nothing is left');
is_exactly_once($node, $db, 'gated', 'afterwards');

is_healthy($node);
$node->stop;
done_testing();
