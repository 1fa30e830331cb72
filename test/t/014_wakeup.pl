# No wake-up is lost, whatever a handler does; and inboxes that stand at the
# same place do not take over what another has handled.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use EvinboxTest;

my $node = evinbox_node('main');
my $db = 'postgres';

install_evinbox($node, $db);

# -- a handler that waits resets the latch that a commit has set ---------------
#
# The worker gets to a handler that waits for a lock; meanwhile another event
# is committed, whose wake-up comes while the handler waits. Statistics that
# are due would bring the worker back after ten seconds, hence the bound.

$node->safe_psql($db, <<'EOS');
CREATE FUNCTION public.wait_and_handle(e evinbox.event, config jsonb) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
	IF e.action = 'waits' THEN
		PERFORM pg_advisory_xact_lock(1);
	END IF;
	PERFORM public.handle(e, config);
END $$;
EOS
add_inbox($node, $db, 'waits', handler => 'public.wait_and_handle');

foreach my $round (1 .. 3)
{
	my $holder = $node->background_psql($db);
	$holder->query_safe('SELECT pg_advisory_lock(1)');
	my $first = record($node, $db, "round $round", 'waits');
	wait_for($node, $db,
		"SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'evinbox runner' AND wait_event = 'advisory'",
		"round $round: the handler waits");
	my $second = record($node, $db, "round $round", 'happened');
	$holder->query_safe('SELECT pg_advisory_unlock(1)');
	$holder->quit;
	my $since = time;
	wait_for($node, $db,
		"SELECT count(*) = 2 FROM handled WHERE inbox = 'waits' AND event_id IN ($first, $second)",
		"round $round: both are handled");
	cmp_ok(time - $since, '<', 8, "round $round: without waiting for something else");
}
$node->safe_psql($db, "DELETE FROM evinbox.inbox; TRUNCATE handled");

# -- a window is not shared with whoever has handled some of it already --------
#
# "a" and "b" pass an event of another session, which is for neither, and
# stand at the same place. A transaction dispatches an event of its own to "a"
# and commits: the worker looks from that place on for both.

add_inbox($node, $db, 'a', actions => '{a}');
add_inbox($node, $db, 'b', actions => '{never}', priority => 20);
add_inbox($node, $db, 'witness', actions => '{witness}', priority => 30);

foreach my $round (1 .. 3)
{
	my $session = $node->background_psql($db);
	$session->query_safe('BEGIN');
	my $own = $session->query_safe("SELECT evinbox.record_event('T', 'own', 'a')");
	my $before = $node->safe_psql($db,
		"SELECT clock_timestamp() FROM evinbox.record_event('T', 'other', 'for nobody')");
	wait_for($node, $db,
		"SELECT state = 'idle' AND state_change > '$before' FROM pg_stat_activity WHERE backend_type = 'evinbox runner'",
		"round $round: the worker has passed");
	is($session->query_safe("SELECT evinbox.run('a')"), '1', "round $round: run() handles the event");
	$session->query_safe('COMMIT');
	$session->quit;
	my $witness = record($node, $db, 'witness', 'witness');
	wait_for($node, $db,
		"SELECT count(*) = 1 FROM handled WHERE inbox = 'witness' AND event_id = $witness",
		"round $round: the worker has looked again");
	is_sql($node, $db, "SELECT count(*) FROM handled WHERE inbox = 'a' AND event_id = $own", '1',
		"round $round: the event was handled once");
}

is_healthy($node);
$node->stop;
done_testing();
