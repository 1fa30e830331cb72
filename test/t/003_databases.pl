# Databases: each with the extension has workers of its own, none without has
# any, and no worker is in the way of what is done to a database.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use EvinboxTest;

my $node = evinbox_node('main');

# -- two with, one without -----------------------------------------------------

$node->safe_psql('postgres', "CREATE DATABASE $_") for qw(one two plain);
foreach my $db (qw(one two))
{
	install_evinbox($node, $db);
	add_inbox($node, $db, 'all');
}
wait_for_workers($node, 'coordinator@one coordinator@two runner@one runner@two',
	'each database with the extension has workers, others have none');
record_many($node, 'one', 3);
record_many($node, 'two', 5);
is_exactly_once($node, 'one', 'all', 'database one');
is_exactly_once($node, 'two', 'all', 'database two');
is_sql($node, 'one', "SELECT count(*) FROM handled", '4', 'only its own events in one');
is_sql($node, 'two', "SELECT count(*) FROM handled", '6', 'and in two');
is_sql($node, 'plain',
	"SELECT count(*) FROM pg_stat_activity WHERE datname = 'plain' AND pid <> pg_backend_pid()",
	'0', 'nobody is in a database without the extension');

# -- things that want a database for themselves ----------------------------------

# The commands wait for other sessions for five seconds and then fail; with our
# workers out of the way, they need not wait at all.
sub succeeds_soon
{
	my ($sql, $name) = @_;
	my $started = time;
	my $result = $node->psql('postgres', $sql);

	is($result, 0, "$name succeeds");
	cmp_ok(time - $started, '<', 30, "$name does not take long");
}

$node->safe_psql('two', "CREATE FUNCTION public.sleep_long(e evinbox.event) RETURNS void"
	  . " LANGUAGE sql AS 'SELECT pg_sleep(1000)'");
add_inbox($node, 'two', 'slow', handler => 'public.sleep_long',
	timeout => '0', actions => '{slow}');
record($node, 'two', 'sleeper', 'slow');
wait_for($node, 'postgres',
	"SELECT count(*) = 1 FROM pg_stat_activity"
	  . " WHERE datname = 'two' AND wait_event = 'PgSleep'",
	'a handler takes its time');
succeeds_soon('CREATE DATABASE copy TEMPLATE two', 'copying a database');
wait_for_workers($node, 'coordinator@copy coordinator@one coordinator@two runner@one runner@two',
	'the template\'s workers come back, nobody runs rules in the copy');
is_sql($node, 'copy', "SELECT DISTINCT state FROM evinbox.inbox_status", 'quiet',
	'the copy is quiet');
succeeds_soon('DROP DATABASE copy', 'dropping the copy');
$node->safe_psql('two', "DELETE FROM evinbox.inbox WHERE name = 'slow'");
$node->safe_psql('two', "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
	  . " WHERE datname = 'two' AND wait_event = 'PgSleep'");
record($node, 'two', 'more');
is_exactly_once($node, 'two', 'all', 'after it was a template');

succeeds_soon('ALTER DATABASE two RENAME TO deux', 'renaming a database');
wait_for_workers($node, 'coordinator@deux coordinator@one runner@deux runner@one',
	'the workers come back to the new name');
record($node, 'deux', 'renamed');
is_exactly_once($node, 'deux', 'all', 'after it was renamed');

succeeds_soon('ALTER DATABASE deux WITH ALLOW_CONNECTIONS false', 'closing a database');
wait_for_workers($node, 'coordinator@one runner@one', 'its workers leave');
record($node, 'one', 'more');
is_exactly_once($node, 'one', 'all', 'meanwhile the other database');
succeeds_soon('ALTER DATABASE deux WITH ALLOW_CONNECTIONS true', 'opening it again');
wait_for_workers($node, 'coordinator@deux coordinator@one runner@deux runner@one',
	'its workers come back');
record($node, 'deux', 'open');
is_exactly_once($node, 'deux', 'all', 'after it was closed');

# a command that fails lets the workers back in
isnt($node->psql('postgres', 'ALTER DATABASE deux RENAME TO one'), 0,
	'a name that is taken is refused');
wait_for_workers($node, 'coordinator@deux coordinator@one runner@deux runner@one',
	'the workers come back after a failure');
record($node, 'deux', 'failed');
is_exactly_once($node, 'deux', 'all', 'after a command that failed');

# -- DROP DATABASE under load ------------------------------------------------------

my $bench = start_pgbench($node, 'deux',
	"SELECT evinbox.record_event('Thing', :client_id, 'happened')", '-c', 2, '-t', 1000);
my $other = start_pgbench($node, 'one',
	"SELECT evinbox.record_event('Thing', :client_id, 'happened')", '-c', 1, '-t', 2000);
ok(finish($bench), 'events were being recorded until now');
succeeds_soon('DROP DATABASE deux', 'dropping a database');
ok(finish($other), 'writers of another database go on');
is_exactly_once($node, 'one', 'all', 'and so do its workers');
wait_for_workers($node, 'coordinator@one runner@one', 'nobody is left for the dropped one');
is_sql($node, 'one',
	"SELECT count(*) FROM evinbox.worker_status WHERE database IS DISTINCT FROM 'one' AND kind <> 'launcher'",
	'0', 'nor in worker_status');

# -- the extension in a template ----------------------------------------------------

install_evinbox($node, 'template1');
add_inbox($node, 'template1', 'all');
record($node, 'template1', 'first');
succeeds_soon('CREATE DATABASE three', 'creating a database from a template with the extension');
wait_for_workers($node, 'coordinator@one coordinator@three runner@one',
	'a template has no workers; what is made of it is quiet');
succeeds_soon('DROP DATABASE three', 'dropping that one');
$node->safe_psql('postgres', 'ALTER DATABASE template1 IS_TEMPLATE false');
wait_for_workers($node,
	'coordinator@one coordinator@template1 runner@one runner@template1',
	'when it is no template any more, it has workers');
is_exactly_once($node, 'template1', 'all', 'once a template');
$node->safe_psql('postgres', 'ALTER DATABASE template1 IS_TEMPLATE true');
wait_for_workers($node, 'coordinator@one runner@one', 'and they leave again');
$node->safe_psql('template1', 'DROP EXTENSION evinbox CASCADE; DROP TABLE handled');
wait_for_workers($node, 'coordinator@one runner@one', 'the extension is dropped there');

# the database that scouts prefer need not exist
succeeds_soon('CREATE DATABASE four', 'one more');
is($node->psql('four', 'DROP DATABASE postgres'), 0, 'dropping "postgres"');
install_evinbox($node, 'four');
add_inbox($node, 'four', 'all');
record($node, 'four', 'first');
is_exactly_once($node, 'four', 'all', 'without "postgres"');

is_healthy($node);
$node->stop;
done_testing();
