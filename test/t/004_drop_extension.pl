# DROP EXTENSION works while workers and sessions are at work, leaves nothing
# behind, and can be taken back.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use EvinboxTest;

my $node = evinbox_node('main', "deadlock_timeout = '200ms'");
my $db = 'app';

$node->safe_psql('postgres', "CREATE DATABASE $db");

sub install
{
	install_evinbox($node, $db);
	add_inbox($node, $db, 'all');
	record($node, $db, 'first');
	is_exactly_once($node, $db, 'all', shift);
}

sub is_gone
{
	my ($name) = @_;

	wait_for_workers($node, '', "$name: the workers leave");
	is_sql($node, $db,
		"SELECT (SELECT count(*) FROM pg_db_role_setting),"
		  . " (SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'evinbox%'),"
		  . " (SELECT count(*) FROM pg_event_trigger),"
		  . " (SELECT count(*) FROM pg_extension WHERE extname = 'evinbox'),"
		  . " (SELECT count(*) FROM pg_proc WHERE probin LIKE '%evinbox%')",
		'0|0|0|0|0', "$name: nothing is left");
	$node->safe_psql($db, 'DROP TABLE IF EXISTS handled');
}

# -- under load --------------------------------------------------------------------

install('at first');

foreach my $round (1 .. 3)
{
	my $writers = start_pgbench($node, $db, <<'EOS', '-c', 4, '-t', 1000000);
SELECT evinbox.record_event('Thing', :client_id, 'happened', throttle => '1 millisecond')
EOS
	my $count = $node->safe_psql($db, 'SELECT count(*) FROM evinbox.event');
	wait_for($node, $db, "SELECT count(*) > $count + 100 FROM evinbox.event",
		"round $round: writers are at work");
	my ($stdout, $stderr) = ('', '');
	is( $node->psql($db, 'DROP EXTENSION evinbox CASCADE', stderr => \$stderr), 0,
		"round $round: DROP EXTENSION succeeds under load")
	  or diag $stderr;
	ok(!finish($writers), "round $round: the writers get errors");
	is_gone("round $round");
	install("round $round: created again");
}

# -- other ways ---------------------------------------------------------------------

is($node->psql($db, 'DROP SCHEMA evinbox CASCADE'), 3, 'its schema cannot be dropped alone');
is($node->psql($db, "BEGIN; DROP EXTENSION evinbox CASCADE; ROLLBACK"), 0,
	'DROP EXTENSION is rolled back');
wait_for_workers($node, "coordinator\@$db runner\@$db", 'the workers come back');
record($node, $db, 'back');
is_exactly_once($node, $db, 'all', 'after the rollback');

# the transaction takes its time
my $session = $node->background_psql($db);
$session->query_safe('BEGIN');
$session->query_safe('SAVEPOINT a');
$session->query_safe('SET LOCAL client_min_messages = error');
$session->query_safe('DROP EXTENSION evinbox CASCADE');
wait_for_workers($node, '', 'the workers keep out until the transaction ends');
$session->query_safe('ROLLBACK TO a');
$session->query_safe('COMMIT');
wait_for_workers($node, "coordinator\@$db runner\@$db", 'and come back then');
record($node, $db, 'back');
is_exactly_once($node, $db, 'all', 'after a rollback to a savepoint');

# the session goes away in the middle
$session->query_safe('BEGIN');
$session->query_safe('SET LOCAL client_min_messages = error');
$session->query_safe('DROP EXTENSION evinbox CASCADE');
$session->quit;
wait_for_workers($node, "coordinator\@$db runner\@$db", 'or when the session is gone');
record($node, $db, 'back');
is_exactly_once($node, $db, 'all', 'after a session has gone');

is($node->psql($db, 'DROP EXTENSION evinbox CASCADE; CREATE EXTENSION evinbox'), 0,
	'dropped and created at once');
$node->safe_psql($db, 'DROP EXTENSION evinbox; DROP TABLE handled');
is_gone('dropped again');
install('created after all that');

is($node->psql($db, 'BEGIN; DROP EXTENSION evinbox CASCADE; DROP TABLE handled; CREATE EXTENSION evinbox; COMMIT'), 0,
	'dropped and created in one transaction');
$node->safe_psql($db, 'DROP EXTENSION evinbox');
install('created after that');

# by its owner's end
$node->safe_psql($db, <<'EOS');
DROP EXTENSION evinbox CASCADE;
DROP TABLE handled;
CREATE ROLE root2 SUPERUSER;
SET ROLE root2;
CREATE EXTENSION evinbox;
RESET ROLE;
EOS
wait_for_workers($node, "coordinator\@$db", 'the extension of another superuser');
is($node->psql($db, 'DROP OWNED BY root2 CASCADE'), 0, 'DROP OWNED drops it');
is_gone('DROP OWNED');
is($node->psql($db, 'DROP ROLE root2'), 0, 'and the role has nothing left');

# with a rule at work, dropped by a session that has never called us
install('before a rule is at work');
$node->safe_psql($db, <<'EOS');
CREATE FUNCTION public.sleep_long(e evinbox.event) RETURNS void
	LANGUAGE sql AS 'SELECT pg_sleep(1000)';
EOS
add_inbox($node, $db, 'slow', handler => 'public.sleep_long', timeout => '0', actions => '{slow}');
record($node, $db, 'sleeper', 'slow');
wait_for($node, 'postgres',
	"SELECT count(*) = 1 FROM pg_stat_activity WHERE datname = '$db' AND wait_event = 'PgSleep'",
	'a handler takes its time');
is($node->psql($db, 'DROP EXTENSION evinbox CASCADE'), 0, 'DROP EXTENSION does not wait for it');
is_gone('at work');

is_healthy($node);
$node->stop;
done_testing();
