# run() and the worker at the same inbox: never twice, and neither is forgotten.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use EvinboxTest;

my $node = evinbox_node('main');
my $db = 'postgres';

install_evinbox($node, $db);
add_inbox($node, $db, 'all');
# It has its turn after "all": when it has handled an event, the worker has had
# the chance to handle it for "all".
add_inbox($node, $db, 'witness', priority => 20);

$node->safe_psql($db,
	"ALTER TABLE handled ADD handled_at timestamptz NOT NULL DEFAULT clock_timestamp()");

# A worker that is not told looks all the same, ten seconds after its last turn,
# when its statistics are due.
sub is_soon
{
	my ($event, $since, $name) = @_;

	is_sql($node, $db,
		"SELECT handled_at - '$since' < '7 seconds' FROM handled WHERE inbox = 'all' AND event_id = $event",
		't', "$name: and does so at once");
}

# While a session holds the inbox by run(), the worker turns away from it.  When
# that session ends in any way, the worker comes back by itself: nothing else is
# recorded that could wake it.
sub comes_back
{
	my ($name, @end) = @_;
	my $session = $node->background_psql($db, on_error_stop => 0);
	my $count = $node->safe_psql($db, "SELECT count(*) FROM handled WHERE inbox = 'all'");

	$session->query_safe('BEGIN');
	$session->query_safe("SELECT evinbox.run('all')");
	my $id = record($node, $db, $name);
	wait_for($node, $db,
		"SELECT count(*) = 1 FROM handled WHERE inbox = 'witness' AND event_id = $id",
		"$name: the worker has looked");
	is_sql($node, $db, "SELECT count(*) FROM handled WHERE inbox = 'all'", $count,
		"$name: and turned away from the inbox");
	my $ended_at = $node->safe_psql($db, 'SELECT clock_timestamp()');
	$session->query($_) foreach @end;
	$session->quit;
	wait_for($node, $db,
		"SELECT count(*) = 1 FROM handled WHERE inbox = 'all' AND event_id = $id",
		"$name: it comes back");
	is_soon($id, $ended_at, $name);
}

comes_back('COMMIT', 'COMMIT');
comes_back('ROLLBACK', 'ROLLBACK');
comes_back('an error', 'SELECT 1/0', 'COMMIT');
comes_back('ROLLBACK TO a savepoint and COMMIT', 'SAVEPOINT a', 'ROLLBACK TO a', 'COMMIT');
comes_back('the session ends');
comes_back('COMMIT PREPARED', "PREPARE TRANSACTION 'p'", "COMMIT PREPARED 'p'");
comes_back('ROLLBACK PREPARED', "PREPARE TRANSACTION 'p'", "ROLLBACK PREPARED 'p'");

# the same where only a subtransaction had the inbox
my $session = $node->background_psql($db);
$session->query_safe('BEGIN');
$session->query_safe('SAVEPOINT a');
$session->query_safe("SELECT evinbox.run('all')");
my $id = record($node, $db, 'savepoint');
wait_for($node, $db, "SELECT count(*) = 1 FROM handled WHERE inbox = 'witness' AND event_id = $id",
	'the worker has looked');
my $ended_at = $node->safe_psql($db, 'SELECT clock_timestamp()');
$session->query_safe('ROLLBACK TO a');
$session->query_safe('COMMIT');
wait_for($node, $db, "SELECT count(*) = 1 FROM handled WHERE inbox = 'all' AND event_id = $id",
	'ROLLBACK TO a savepoint lets the worker back in');
is_soon($id, $ended_at, 'ROLLBACK TO a savepoint');
$session->quit;

# a snapshot that is older than what the worker has done
$session = $node->background_psql($db, on_error_stop => 0);
$session->query_safe('\\set VERBOSITY verbose');
$session->query_safe('BEGIN ISOLATION LEVEL REPEATABLE READ');
$session->query_safe('SELECT 1');
is_exactly_once($node, $db, 'all', 'one at a time');
$session->query("SELECT evinbox.run('all')");
like($session->{stderr}, qr/ERROR:  40001: could not serialize access/,
	'run() does not trust an old snapshot');
$session->quit;

# -- all at once ---------------------------------------------------------------------

# Recorders, sessions that dispatch, some of which roll back, and the worker.
my @benches = (
	start_pgbench($node, $db, <<'EOS', '-c', 2, '-t', 500),
SELECT evinbox.record_event('Thing', :client_id, 'happened');
EOS
	start_pgbench($node, $db, <<'EOS', '-c', 2, '-t', 100),
BEGIN;
SELECT evinbox.record_event('Thing', :client_id, 'own');
SELECT evinbox.run('all');
SELECT evinbox.record_event('Thing', :client_id, 'own, later');
COMMIT;
EOS
	start_pgbench($node, $db, <<'EOS', '-c', 1, '-t', 100),
BEGIN;
SELECT evinbox.record_event('Thing', :client_id, 'undone');
SELECT evinbox.run('all');
ROLLBACK;
SELECT evinbox.run('all', 7);
EOS
	start_pgbench($node, $db, <<'EOS', '-c', 1, '-t', 100));
UPDATE evinbox.inbox SET enabled = NOT enabled WHERE name = 'all';
UPDATE evinbox.inbox SET enabled = NOT enabled WHERE name = 'all';
EOS
is((grep { finish($_) } @benches), 4, 'recorders, run(), the worker and changes of the rule at once');
is_sql($node, $db, "SELECT enabled FROM evinbox.inbox WHERE name = 'all'", 't', 'the rule is enabled in the end');
is_exactly_once($node, $db, 'all', 'all at once');
is_exactly_once($node, $db, 'witness', 'all at once, the other inbox');
is_sql($node, $db, "SELECT count(*) FROM handled WHERE action = 'undone'", '0',
	'nothing of what was rolled back');

is_healthy($node);
$node->stop;
done_testing();
