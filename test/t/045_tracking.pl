# Tracked tables: what is written to them goes out like any event, also after a
# dump, whatever has happened to their columns before.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use EvinboxTest;

my $node = evinbox_node('tracking');
my $db = 'app';
my $dumps = PostgreSQL::Test::Utils::tempdir;

$node->safe_psql('postgres', "CREATE DATABASE $db");
$node->safe_psql('postgres', "CREATE ROLE $_ LOGIN") foreach qw(keeper clerk);
install_evinbox($node, $db);
add_inbox($node, $db, 'all');

# -- dispatch -------------------------------------------------------------------------

$node->safe_psql($db, <<'EOS');
CREATE SCHEMA shop AUTHORIZATION keeper;
GRANT USAGE ON SCHEMA shop TO clerk;
GRANT USAGE ON SCHEMA evinbox TO keeper;
GRANT EXECUTE ON FUNCTION evinbox.track, evinbox.untrack TO keeper;
SET ROLE keeper;
CREATE TABLE shop.orders (id int, dropped int, state text, region text NOT NULL, PRIMARY KEY (id, region))
	PARTITION BY LIST (region);
CREATE TABLE shop.orders_north PARTITION OF shop.orders FOR VALUES IN ('north');
CREATE TABLE shop.orders_south (region text NOT NULL, state text, extra int, id int NOT NULL);
ALTER TABLE shop.orders DROP dropped;
ALTER TABLE shop.orders_south DROP extra;
ALTER TABLE shop.orders ATTACH PARTITION shop.orders_south FOR VALUES IN ('south');
CREATE TABLE shop."Odd table" (dropped int, number int PRIMARY KEY, "old name" text, team text, j json);
ALTER TABLE shop."Odd table" DROP dropped;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA shop TO clerk;
SELECT evinbox.track('shop.orders', '{state}', action => 'state_changed', id_column => 'id', events => '{update,delete}', snapshot => true);
SELECT evinbox.track('shop."Odd table"', '{"old name",j}', action => E'it''s "odd" \\ é', subject_type => 'Odd',
	scope_column => 'team', events => '{insert,update}');
ALTER TABLE shop."Odd table" RENAME "old name" TO "New ""name""";
EOS

# what a clerk, who has no right to anything of evinbox, writes
my $write = <<'EOS';
INSERT INTO shop.orders (id, state, region) SELECT n, 'new', CASE WHEN n % 2 = 0 THEN 'north' ELSE 'south' END FROM generate_series(1, 10) n;
UPDATE shop.orders SET state = 'paid';
UPDATE shop.orders SET region = 'south', state = 'sent' WHERE id = 2;
DELETE FROM shop.orders_south WHERE id = 1;
INSERT INTO shop."Odd table" VALUES (1, 'x', 'red', '[1]');
UPDATE shop."Odd table" SET j = '[1 ]';
BEGIN;
UPDATE shop.orders SET state = 'lost';
ROLLBACK;
DELETE FROM shop.orders;
DELETE FROM shop."Odd table";
EOS
my $events = "SELECT subject_type, subject_id, action, scope, metadata, snapshot FROM evinbox.event"
  . " WHERE subject_type <> 'Thing' AND id > %s ORDER BY id";
$node->safe_psql($db, $write, extra_params => [ '-U', 'clerk' ]);
my $expected = $node->safe_psql($db, sprintf($events, 0));
is(scalar(split /\n/, $expected), 10 + 1 + 1 + 2 + 9, 'each change is an event');
is_exactly_once($node, $db, 'all', 'tracked events');

# -- partitions that come later, made by the owner ------------------------------------------

$node->safe_psql($db, <<'EOS');
SET ROLE keeper;
CREATE TABLE shop.orders_east PARTITION OF shop.orders FOR VALUES IN ('east');
CREATE TABLE shop.orders_west (LIKE shop.orders);
ALTER TABLE shop.orders ATTACH PARTITION shop.orders_west FOR VALUES IN ('west');
EOS
is_sql($node, $db, "SELECT count(*) FROM pg_trigger WHERE tgname LIKE 'evinbox_track%'"
	  . " AND tgrelid IN ('shop.orders_east'::regclass, 'shop.orders_west'::regclass)", '4', 'they have their triggers');
like(($node->psql($db, "SET ROLE keeper; CREATE TRIGGER own AFTER DELETE ON shop.orders FOR EACH ROW"
		  . " EXECUTE FUNCTION evinbox_internal.record_change('changed', 'Order', 'delete', '1', '', '', '')"))[2],
	qr/permission denied for schema evinbox_internal/, 'nobody makes one of his own');

# -- columns that are never computed for triggers ------------------------------------------

SKIP:
{
	skip 'no virtual generated columns', 4 if $node->pg_version < 18;
	$node->safe_psql($db, 'CREATE TABLE computed (id int PRIMARY KEY, a int, stored int GENERATED ALWAYS AS (a + 1) STORED,'
		  . ' virtual int GENERATED ALWAYS AS (a + 1) VIRTUAL)');
	like(($node->psql($db, "SELECT evinbox.track('computed', '$_->[0]', $_->[1])"))[2],
		qr/virtual generated column "virtual" cannot be tracked/, "no virtual column: $_->[0], $_->[1]")
	  foreach [ '{virtual}', "id_column => 'id'" ], [ '{a}', "id_column => 'virtual'" ], [ '{a}', "scope_column => 'virtual'" ];
	$node->safe_psql($db, "SELECT evinbox.track('computed', '{stored}'); INSERT INTO computed VALUES (1, 1); UPDATE computed SET a = 2");
	is_sql($node, $db, "SELECT metadata FROM evinbox.event WHERE subject_type = 'computed'", '{"to": 3, "from": 2}', 'but a stored one');
}

# -- who says who does it ----------------------------------------------------------------

# its values are words that SQL has other uses for
sub set_source
{
	my ($source) = @_;

	$node->safe_psql($db, "ALTER SYSTEM SET evinbox.actor_source = '$source'");
	$node->reload;
	$node->poll_query_until($db, "SELECT current_setting('evinbox.actor_source') = '$source'")
	  or die 'evinbox.actor_source did not change';
}

set_source('session_user');
$node->safe_psql($db, "INSERT INTO shop.\"Odd table\" VALUES (2)", extra_params => [ '-U', 'clerk' ]);
is_sql($node, $db, "SELECT actor FROM evinbox.event WHERE subject_type = 'Odd' ORDER BY id DESC LIMIT 1",
	'clerk', 'the actor is the writer');
set_source('any');

# -- 100,000 rows in one statement --------------------------------------------------------

$node->safe_psql($db, <<'EOS');
CREATE TABLE many (id int PRIMARY KEY, v int);
INSERT INTO many SELECT n, 0 FROM generate_series(1, 100000) n;
SELECT evinbox.track('many', '{v}');
UPDATE many SET v = 1;
EOS
is_exactly_once($node, $db, 'all', 'a bulk update');

# -- a dump ------------------------------------------------------------------------------------

# By whoever owns the database, in one piece; and with the owners as sessions.
sub restore
{
	my ($target, $name, @options) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $target");
	command_ok([ 'pg_restore', '-e', '-h', $node->host, '-p', $node->port, '-d', $target, @options, "$dumps/app" ],
		"$name is restored");
	is_sql($node, $target, "SELECT string_agg(pg_get_triggerdef(oid), E'\\n' ORDER BY tgrelid::regclass::text, tgname) FROM pg_trigger"
		  . " WHERE tgname LIKE 'evinbox_track%'",
		$node->safe_psql($db, "SELECT string_agg(pg_get_triggerdef(oid), E'\\n' ORDER BY tgrelid::regclass::text, tgname) FROM pg_trigger"
			  . " WHERE tgname LIKE 'evinbox_track%'"), "$name: the tables are tracked as before");
	is_sql($node, $target, 'SELECT count(*) FROM evinbox.event', $node->safe_psql($db, 'SELECT count(*) FROM evinbox.event'),
		"$name: to restore rows is no event");
	$node->safe_psql($target, "SELECT evinbox.resume_after_restore('discard'); TRUNCATE handled; DELETE FROM shop.\"Odd table\"");
	my $last = $node->safe_psql($target, 'SELECT max(id) FROM evinbox.event');
	$node->safe_psql($target, $write, extra_params => [ '-U', 'clerk' ]);
	is_sql($node, $target, sprintf($events, $last), $expected, "$name: the same changes are the same events");
	wait_for($node, $target, "SELECT count(*) = 23 FROM handled WHERE inbox = 'all'", "$name: and go out");
}

$node->command_ok([ 'pg_dump', '-h', $node->host, '-p', $node->port, '-Fc', '-f', "$dumps/app", $db ], 'a dump');
restore('copy', 'a copy');
restore('parallel', 'a copy by three', '-j', 3);

# -- drops go on there, too ---------------------------------------------------------------------

my ($ret, $out, $err) = $node->psql('copy', 'DROP EXTENSION evinbox');
like($err, qr/trigger evinbox_track_\w+_changed on table many depends on/, 'what tracks stands in the way of DROP EXTENSION');
$node->safe_psql('copy', 'ALTER TABLE many DROP v CASCADE; ALTER TABLE many ADD v int; UPDATE many SET v = 2 WHERE id = 1');
is_sql($node, 'copy', "SELECT count(*) FROM evinbox.event WHERE subject_type = 'many' AND metadata->>'to' = '2'", '0',
	'a column that is dropped with CASCADE is not tracked any more');
$node->safe_psql('copy', "SELECT evinbox.track('many', '{v}'); UPDATE many SET v = 3 WHERE id = 1");
is_sql($node, 'copy', "SELECT count(*) FROM evinbox.event WHERE subject_type = 'many' AND metadata->>'to' = '3'", '1',
	'and may be tracked again');

is_healthy($node);
$node->stop;
done_testing();
