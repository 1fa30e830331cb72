# Lanes that a session has locked, by run() in a transaction that goes on: all
# runners sleep meanwhile, whoever of them is on duty.
use strict;
use warnings;

use EvinboxTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $db = 'postgres';
my $node = evinbox_node('main');
install_evinbox($node, $db);
$node->safe_psql($db, <<'EOS');
CREATE FUNCTION public.slow(e evinbox.event) RETURNS void LANGUAGE sql AS 'SELECT pg_sleep(0.05)';

-- how often a runner was found at work, of 300 looks in three seconds
CREATE FUNCTION public.looks_at_work() RETURNS int LANGUAGE plpgsql AS $$
DECLARE
	result int := 0;
BEGIN
	FOR i IN 1 .. 300 LOOP
		PERFORM pg_sleep(0.01), pg_stat_clear_snapshot();
		result := result + (SELECT bool_or(state = 'active')::int FROM pg_stat_activity
			WHERE backend_type = 'evinbox runner');
	END LOOP;
	RETURN result;
END $$;
EOS
add_inbox($node, $db, 'slow', handler => 'public.slow', config => '{}');
add_inbox($node, $db, "held $_") foreach 1 .. 6;

my $session = $node->background_psql($db);
$session->query_safe('BEGIN');
$session->query_safe("SELECT evinbox.record_event('Thing', 'own', 'happened')");
$session->query_safe("SELECT evinbox.run('held ' || g) FROM generate_series(1, 6) g");

# The slow one keeps the runner on duty, so that others look at the rest.  They
# look again once a second.
record_many($node, $db, 3);
wait_for($node, $db, "SELECT lag_events = 0 FROM evinbox.inbox_status WHERE name = 'slow'",
	'what is not locked is handled');
my $looks = $node->safe_psql($db, 'SELECT public.looks_at_work()');
cmp_ok($looks, '<', 100, 'runners sleep while lanes are locked');
note "at work in $looks of 300 looks";

$session->query_safe('COMMIT');
$session->quit;
wait_for_handled($node, $db, "held $_", 4, "held $_ goes on") foreach 1 .. 6;
is_healthy($node);
done_testing();
