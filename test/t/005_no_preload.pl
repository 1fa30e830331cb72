# Without shared_preload_libraries, events are recorded, and run() dispatches
# them; with it, later, the worker takes over where that has stopped.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use EvinboxTest;

my $node = evinbox_node('main', "shared_preload_libraries = ''");
my $db = 'postgres';
my $stderr;

$node->psql($db, 'CREATE EXTENSION evinbox; DROP EXTENSION evinbox', stderr => \$stderr);
like($stderr, qr/(NOTICE|WARNING):.*not preloaded.*\n.*HINT:.*shared_preload_libraries/,
	'CREATE EXTENSION says that there is no worker, and what to do');
is_sql($node, $db, "SELECT count(*) FROM pg_db_role_setting", '0',
	'DROP EXTENSION leaves nothing, from a session that has not loaded us either');
install_evinbox($node, $db);
add_inbox($node, $db, 'all');
record_many($node, $db, 3);
is_sql($node, $db, "SELECT state, lag_events FROM evinbox.inbox_status", 'no worker|3',
	'inbox_status says the same');
is_sql($node, $db, "SELECT count(*) FROM evinbox.worker_status", '0', 'so does worker_status');
is_sql($node, $db, "SELECT evinbox.run()", '3', 'run() dispatches');
is_sql($node, $db,
	"SELECT count(*) FROM evinbox.event WHERE evinbox.record_event('a', 'b', 'c', throttle => '1 h') IS NULL",
	'2', 'throttling works');
is_sql($node, $db, "SELECT evinbox.run()", '1', 'so does run() after it');
$node->safe_psql($db, <<'EOS');
BEGIN;
SELECT evinbox.record_event('Thing', 'prepared', 'happened');
PREPARE TRANSACTION 'p';
EOS
record_many($node, $db, 2);
is_sql($node, $db, "SELECT count(*) FROM pg_stat_activity WHERE backend_type LIKE 'evinbox%'",
	'0', 'there is no worker');

$node->append_conf('postgresql.conf', "shared_preload_libraries = 'evinbox'");
$node->restart;
wait_for_workers($node, 'coordinator@postgres runner@postgres', 'after a restart with it, there are');
is_exactly_once($node, $db, 'all', 'the backlog');
$node->safe_psql($db, "COMMIT PREPARED 'p'");
is_exactly_once($node, $db, 'all', 'what was prepared before');

# and back
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->restart;
record($node, $db, 'again');
is_sql($node, $db, "SELECT evinbox.run()", '1', 'without it again, run() goes on where the worker was');
is_sql($node, $db, "SELECT count(*) = count(DISTINCT event_id) FROM handled", 't', 'nothing twice');

is_healthy($node);
$node->stop;
done_testing();
