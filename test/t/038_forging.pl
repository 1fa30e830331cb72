# Attempts to forge, to read and to spoil: rows of rules and events, what others'
# rules have in them, functions in the place of handlers, objects of evinbox; and
# names and payloads that are not what they seem.
#
# Alice has a rule with a secret in it, and events that have failed with another.
# Mallory may write and operate rules, recorder may record in all ways. Others have
# rights of a kind that goes far, but not so far as to be Alice.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use EvinboxTest;

my $node = evinbox_node('main', 'evinbox.max_runners = 20');
my $db = 'app';

$node->safe_psql('postgres', "CREATE DATABASE $db");
my $root = $node->safe_psql('postgres', 'SELECT current_user');
install_evinbox($node, $db);
$node->safe_psql($db, <<'EOS');
CREATE ROLE alice LOGIN;
CREATE ROLE mallory LOGIN;
CREATE ROLE recorder LOGIN;
CREATE ROLE sees_all LOGIN IN ROLE pg_read_all_data;
CREATE ROLE writes_all LOGIN IN ROLE pg_read_all_data, pg_write_all_data;
CREATE ROLE bypasses LOGIN BYPASSRLS;
CREATE ROLE replicates LOGIN;
GRANT SET ON PARAMETER session_replication_role TO replicates;
GRANT USAGE ON SCHEMA evinbox TO alice, mallory, recorder, bypasses, replicates;
GRANT SELECT, INSERT, UPDATE, DELETE ON evinbox.inbox TO alice, mallory, bypasses, replicates;
GRANT INSERT, SELECT (id, subject_id) ON evinbox.event TO recorder;
GRANT SELECT ON evinbox.inbox_status, evinbox.dead_letter TO alice, mallory, sees_all;
GRANT EXECUTE ON FUNCTION evinbox_internal.inbox_progress, evinbox_internal.workers TO alice, mallory, sees_all;
GRANT EXECUTE ON FUNCTION evinbox.run, evinbox.pause, evinbox.resume, evinbox.retry, evinbox.discard, evinbox.replay,
	evinbox.schedule, evinbox.unschedule TO alice, mallory, bypasses;
GRANT EXECUTE ON FUNCTION evinbox.record_event(text, text, text, text, jsonb, interval, text, jsonb, text, timestamptz) TO recorder, mallory;
CREATE SCHEMA alice AUTHORIZATION alice;
CREATE SCHEMA mallory AUTHORIZATION mallory;
GRANT CREATE ON DATABASE app TO mallory;
GRANT USAGE ON SCHEMA mallory TO PUBLIC;
GRANT INSERT ON public.handled TO PUBLIC;
GRANT USAGE ON SEQUENCE public.handled_n_seq TO PUBLIC;
ALTER TABLE public.handled ADD who name DEFAULT current_user;

SET SESSION AUTHORIZATION alice;
CREATE FUNCTION alice.fail(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql
	AS $$ BEGIN RAISE EXCEPTION 'failed with s3cret'; END $$;
INSERT INTO evinbox.inbox (name, handler, config) VALUES ('alice''s', 'public.handle', '{"inbox": "alice''s", "password": "s3cret"}');
INSERT INTO evinbox.inbox (name, handler, subject_types, max_attempts) VALUES ('alice''s other', 'alice.fail', '{Bad}', 1);
SET SESSION AUTHORIZATION mallory;
CREATE FUNCTION mallory.leak(t text) RETURNS boolean LANGUAGE plpgsql COST 0.0001
	AS $$ BEGIN RAISE NOTICE 'leaked: %', t; RETURN true; END $$;
CREATE FUNCTION mallory.handle(e evinbox.event, config jsonb) RETURNS void LANGUAGE sql AS $$ SELECT public.handle(e, config) $$;
CREATE VIEW mallory.rules AS SELECT * FROM evinbox.inbox;
CREATE VIEW mallory.rules_of_invoker WITH (security_invoker) AS SELECT * FROM evinbox.inbox;
GRANT SELECT ON ALL TABLES IN SCHEMA mallory TO PUBLIC;
INSERT INTO evinbox.inbox (name, handler, config, replayable) VALUES ('mallory''s', 'mallory.handle', '{"inbox": "mallory''s"}', true);
RESET SESSION AUTHORIZATION;
EOS
add_inbox($node, $db, 'root');
$node->safe_psql($db, "SELECT evinbox.record_event('Bad', 1, 'happened', NULL, '{\"password\": \"s3cret\"}')");
wait_for($node, $db, "SELECT dead = 1 FROM evinbox.inbox_status WHERE name = 'alice''s other'", 'an event of hers has failed');

# all that is said; an error by its code, too
sub as
{
	my ($role, $sql) = @_;
	my ($code, $out, $err) = $node->psql($db, "\\set VERBOSITY verbose\n$sql", extra_params => [ '-U', $role ], on_error_stop => 0);

	return "$out\n$err";
}

# what belongs to others than mallory: their rules, and what has failed in them
my $others = "SELECT (SELECT md5(string_agg(i::text, ' ' ORDER BY id)) FROM evinbox.inbox i WHERE owner <> 'mallory')"
  . " || (SELECT string_agg(concat_ws(' ', inbox, event_id, state, attempts), ' ') FROM evinbox.delivery)";
my $untouched = $node->safe_psql($db, $others);

# Something has no effect on any of that, and says so or not.
sub is_refused
{
	my ($role, $sql, $error, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $said = as($role, $sql);
	my $now = $node->safe_psql($db, $others);

	ok($said =~ $error && $now eq $untouched, $name) or diag "$said\n$now, was $untouched";
}

# -- others' rules: reading --------------------------------------------------------------

my @reads = (
	[ 'TABLE', 'TABLE evinbox.inbox' ],
	[ 'COPY of the table', 'COPY evinbox.inbox TO STDOUT' ],
	[ 'COPY of a query', 'COPY (SELECT config FROM ONLY evinbox.inbox) TO STDOUT' ],
	[ 'TABLESAMPLE', 'SELECT config FROM evinbox.inbox TABLESAMPLE BERNOULLI (100)' ],
	[ 'a cursor', 'BEGIN; DECLARE c CURSOR FOR SELECT i FROM evinbox.inbox i; FETCH ALL c; COMMIT' ],
	[ 'an error that shows a value', "SELECT FROM evinbox.inbox WHERE config ? 'password' AND config::text::int = 1" ],
	[ 'a leaky function', 'SELECT count(*) FROM evinbox.inbox WHERE mallory.leak(config::text)' ],
	[ 'XML of the table', "SELECT table_to_xml('evinbox.inbox', true, false, '')" ],
	[ 'text search statistics', "SELECT word FROM ts_stat('SELECT to_tsvector(config::text) FROM evinbox.inbox')" ],
	[ "a view of mallory's", 'TABLE mallory.rules' ],
	[ 'a view of the invoker', 'TABLE mallory.rules_of_invoker' ],
	[ 'row_security', "SET row_security = off; TABLE evinbox.inbox; SET row_security = on; TABLE evinbox.inbox" ],
	[ 'inbox_status, behind a leaky function', 'SELECT FROM evinbox.inbox_status WHERE mallory.leak(last_error)' ],
	[ 'dead_letter, behind a leaky function', 'SELECT FROM evinbox.dead_letter WHERE mallory.leak(metadata::text || last_error)' ],);
my @writes = (
	[ 'UPDATE RETURNING', 'BEGIN; UPDATE evinbox.inbox SET priority = 7 RETURNING config; ROLLBACK' ],
	[ 'UPDATE behind a leaky function', 'BEGIN; UPDATE evinbox.inbox SET priority = 7 WHERE mallory.leak(config::text); ROLLBACK' ],
	[ 'DELETE RETURNING', 'BEGIN; DELETE FROM evinbox.inbox RETURNING config; ROLLBACK' ],
	[ 'FOR UPDATE', 'BEGIN; SELECT config FROM evinbox.inbox FOR UPDATE; ROLLBACK' ],
	[ 'a subquery', 'BEGIN; UPDATE evinbox.inbox SET priority = 7 RETURNING (SELECT string_agg(config::text, $$ $$) FROM evinbox.inbox);
		ROLLBACK' ],
	[ 'ON CONFLICT', "BEGIN; INSERT INTO evinbox.inbox (name, handler) VALUES ('alice''s', 'public.handle') ON CONFLICT (name) DO UPDATE
		SET priority = 7 RETURNING config; ROLLBACK" ],);

foreach my $read (@reads, @writes)
{
	my ($what, $sql) = @$read;

	like(as('alice', $sql), qr/s3cret/, "reading one's own: $what");
	is_refused('mallory', $sql, qr/\A(?!.*s3cret)/s, "reading another's: $what");
}
foreach my $read (@reads)
{
	unlike(as($_, $read->[1]), qr/s3cret/, "reading another's as $_: $read->[0]") foreach 'sees_all', 'writes_all';
}
$node->safe_psql($db, 'ANALYZE evinbox.inbox');
my $statistics = "SELECT histogram_bounds, most_common_vals FROM pg_stats WHERE schemaname = 'evinbox' AND tablename = 'inbox' AND attname = 'config'";
like($node->safe_psql($db, $statistics), qr/s3cret/, 'the statistics of the table have it');
unlike(as($_, $statistics), qr/s3cret/, "statistics as $_") foreach 'mallory', 'sees_all';
unlike($node->safe_psql($db, "PREPARE q AS TABLE evinbox.inbox; \\o /dev/null\nEXECUTE q; \\o\nSET ROLE mallory; EXECUTE q"),
	qr/s3cret/, 'a plan that was made for the superuser');

# -- others' rules: writing -----------------------------------------------------------------

my $insert = "INSERT INTO evinbox.inbox (name, handler, dispatch";
my $member = qr/ERROR:  42501: must be member of role/;
my $policy = qr/ERROR:  42501: new row violates row-level security policy/;
foreach my $write (
	[ 'mallory', "$insert, owner) VALUES ('i', 'public.handle', 'scheduled', '$root')", $member, 'a rule for the superuser' ],
	[ 'mallory', "$insert, owner) SELECT 'i', 'public.handle', 'scheduled', 'Alice '", qr/42704: role "Alice " does not exist/,
		'a rule for a name that is nearly hers' ],
	[ 'mallory', "$insert, owner) VALUES ('i', 'public.handle', 'scheduled', 'alice'::regrole::oid::text)", qr/42704: role/,
		'a rule for her number' ],
	[ 'mallory', "$insert, owner) VALUES ('i', 'public.handle', 'scheduled', 'pg_database_owner')", $member, 'a rule for whoever owns the database' ],
	[ 'mallory', "$insert, owner_id) VALUES ('i', 'public.handle', 'scheduled', 'alice'::regrole)",
		qr/0A000: owner_id of an inbox cannot be given/, 'her number in its place' ],
	[ 'mallory', "$insert, owner) VALUES ('i', 'public.handle', 'scheduled', 'alice') ON CONFLICT DO NOTHING", $member, 'ON CONFLICT' ],
	[ 'mallory', "MERGE INTO evinbox.inbox i USING (VALUES ('i')) v (n) ON i.name = v.n WHEN NOT MATCHED THEN
		INSERT (name, handler, owner) VALUES (n, 'public.handle', 'alice')", $member, 'MERGE' ],
	[ 'mallory', "COPY evinbox.inbox (name, handler, id, owner, owner_id) FROM STDIN;\ni\tpublic.handle\t1\talice\t1\n\\.\n",
		qr/0A000: COPY FROM not supported with row-level security/, 'COPY, like that of a dump' ],
	[ 'mallory', "INSERT INTO mallory.rules (name, handler, owner) VALUES ('i', 'public.handle', 'alice')", $member, 'a view' ],
	[ 'mallory', "INSERT INTO evinbox.inbox (name, handler, id) OVERRIDING SYSTEM VALUE SELECT 'i', 'public.handle', max(id) + 1
		FROM evinbox.inbox", qr/42501: only superusers may choose the id/, 'an id' ],
	[ 'mallory', "UPDATE evinbox.inbox SET owner = 'alice'", $member, 'giving her a rule' ],
	[ 'mallory', "UPDATE evinbox.inbox SET name = 'alice''s', handler = 'mallory.handle'", qr/23505/, 'taking her name' ],
	[ 'replicates', "SET session_replication_role = replica; INSERT INTO evinbox.inbox (name, handler, owner_id)
		VALUES ('i', 'mallory.handle', 'alice'::regrole)", $policy, 'without triggers, for her' ],
	[ 'replicates', "SET session_replication_role = replica; INSERT INTO evinbox.inbox (name, handler, owner, owner_id)
		VALUES ('i', 'mallory.handle', 'alice', 0)", $policy, 'without triggers, for nobody' ],
	[ 'replicates', "SET session_replication_role = replica; UPDATE evinbox.inbox SET handler = 'mallory.handle' RETURNING 'changed'",
		qr/\A(?!.*changed)(?!.*ERROR)/s, 'without triggers, hers' ],
	[ 'bypasses', "UPDATE evinbox.inbox SET handler = 'mallory.handle' WHERE name LIKE 'alice%'", $member, 'BYPASSRLS' ],
	[ 'bypasses', "UPDATE evinbox.inbox SET owner = 'bypasses' WHERE name LIKE 'alice%'", $member, 'BYPASSRLS, taking it' ],
	[ 'bypasses', "DELETE FROM evinbox.inbox WHERE name LIKE 'alice%'", $member, 'BYPASSRLS, deleting it' ],
	[ 'bypasses', "$insert, owner) VALUES ('i', 'public.handle', 'scheduled', 'alice')", $member, 'BYPASSRLS, for her' ],
	[ 'bypasses', "SELECT evinbox.pause('alice''s')", qr/42501: must be member of the owner/, 'BYPASSRLS, pause()' ],
	[ 'writes_all', "UPDATE evinbox.inbox SET handler = 'mallory.handle' RETURNING 'changed'", qr/\A(?!.*changed)(?!.*ERROR)/s, 'pg_write_all_data' ],
	[ 'writes_all', "DELETE FROM evinbox.inbox RETURNING 'deleted'", qr/\A(?!.*deleted)(?!.*ERROR)/s, 'pg_write_all_data, deleting' ],
	[ 'writes_all', "$insert, owner) VALUES ('i', 'mallory.handle', 'scheduled', 'alice')", $member, 'pg_write_all_data, for her' ],
	[ 'writes_all', 'SELECT evinbox_internal.make_partition()', qr/42501: permission denied for function/, 'pg_write_all_data, a function' ],
	[ 'recorder', "$insert) VALUES ('i', 'public.handle', 'scheduled')", qr/42501: permission denied for table inbox/, 'a recorder' ],

	# operating
	(map { [ 'mallory', "SELECT evinbox.$_", qr/42501: must be member of the owner of inbox/, $_ ] } "pause('alice''s')",
		"resume('alice''s other')", "retry('alice''s other')", "retry('alice''s other', 1)", "discard('alice''s other', 1)",
		"replay('alice''s', 1, 10)"),
	[ 'mallory', 'SELECT evinbox.retry()', qr/\A0\n/, 'retry() of all' ],
	[ 'mallory', 'SELECT evinbox.retry(NULL, 1)', qr/\A0\n/, 'retry() of an event in all' ],
	(map { [ 'mallory', "SELECT evinbox.$_", qr/42501: inbox "alice's" belongs to another role/, $_ ] } "run('alice''s')",
		"schedule('alice''s', '* * * * *')"),
	[ 'mallory', 'SELECT evinbox.run()', qr/\A0\n/, 'run() of all' ],
	(map { [ 'mallory', "SELECT evinbox.$_", qr/42501: permission denied for function/, $_ ] } "resume_after_restore('deliver')",
		"dispatch_replicated(true)"),

	# the tables, the extension and the role itself
	(map { [ 'mallory', $_, qr/ERROR:  42501: (must be|permission denied)/, $_ ] } 'TRUNCATE evinbox.inbox', 'TRUNCATE evinbox.event',
		'DELETE FROM evinbox.delivery', 'BEGIN; LOCK TABLE evinbox.event', 'BEGIN; LOCK TABLE evinbox_internal.outbox_0',
		'DELETE FROM evinbox_internal.halt', "SELECT nextval('evinbox_internal.cursor_seq')", "SELECT setval('evinbox.event_id_seq', 1)",
		"SELECT setval('evinbox.inbox_id_seq', 1)", 'ALTER TABLE evinbox.inbox DISABLE TRIGGER ALL',
		'ALTER TABLE evinbox.inbox NO FORCE ROW LEVEL SECURITY', 'CREATE POLICY p ON evinbox.inbox USING (true)',
		'CREATE TRIGGER t BEFORE INSERT ON evinbox.inbox FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()',
		'CREATE TRIGGER t BEFORE INSERT ON evinbox.event FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger()',
		'CREATE RULE r AS ON INSERT TO evinbox.event DO ALSO SELECT mallory.leak(NEW.actor)',
		'CREATE INDEX ON evinbox.inbox (mallory.leak(name))', 'CREATE STATISTICS mallory.s ON name, owner FROM evinbox.inbox',
		'CREATE TABLE mallory.child () INHERITS (evinbox.inbox)',
		'CREATE TABLE mallory.part PARTITION OF evinbox.event FOR VALUES FROM (900000000000) TO (900000000001)',
		'CREATE TABLE mallory.fk (n text REFERENCES evinbox.inbox)', 'ALTER TABLE evinbox.inbox ALTER config SET STATISTICS 0',
		'CREATE PUBLICATION p FOR TABLE evinbox.inbox', 'CREATE FUNCTION evinbox.f() RETURNS int LANGUAGE sql AS $$ SELECT 1 $$',
		'ALTER FUNCTION evinbox.skip(text) SECURITY DEFINER', 'DROP FUNCTION evinbox.skip(text)', 'ALTER SCHEMA evinbox RENAME TO e',
		'DROP SCHEMA evinbox_internal', 'ALTER EXTENSION evinbox DROP TABLE evinbox.inbox', 'DROP EXTENSION evinbox CASCADE',
		'ALTER EVENT TRIGGER evinbox_before_drop DISABLE', 'CREATE EVENT TRIGGER e ON ddl_command_start EXECUTE FUNCTION mallory.leak()',
		'SELECT evinbox_internal.inbox_progress(1, 10), evinbox_internal.register_database()',
		'DROP OWNED BY alice', 'REASSIGN OWNED BY alice TO mallory', 'ALTER ROLE alice NOLOGIN', "ALTER DATABASE $db RENAME TO d",
		'ALTER DEFAULT PRIVILEGES FOR ROLE alice GRANT ALL ON TABLES TO mallory', 'CREATE OR REPLACE VIEW evinbox.dead_letter AS SELECT 1',
		'CREATE OR REPLACE FUNCTION alice.fail(e evinbox.event, config jsonb) RETURNS void LANGUAGE sql AS $$$$'))
{
	my ($role, $sql, $error, $name) = @$write;

	is_refused($role, $sql, $error, "$role: $name");
}

# -- events -----------------------------------------------------------------------------------
#
# What evinbox says of an event is not whoever records it to say, in no way.

my $forged = "subject_type, subject_id, action, recorded_at, caused_by, depth";
my $values = "'T', '%s', 'forged', '2000-01-01', 1, 7";
foreach my $forge (
	[ 'INSERT', "INSERT INTO evinbox.event ($forged) VALUES ($values)" ],
	[ 'INSERT ... SELECT', "INSERT INTO evinbox.event ($forged) SELECT $values FROM generate_series(1, 2) ORDER BY 1" ],
	[ 'COPY', "COPY evinbox.event ($forged) FROM STDIN;\nT\t%s\tforged\t2000-01-01\t1\t7\n\\.\n" ],
	[ 'MERGE', "MERGE INTO evinbox.event e USING (VALUES (0::bigint)) v (id) ON e.id = v.id WHEN NOT MATCHED THEN INSERT ($forged)
		VALUES ($values)" ],
	[ 'a prepared statement', "PREPARE p AS INSERT INTO evinbox.event ($forged) VALUES ($values); EXECUTE p" ],
	[ 'a function', "DO \$\$ BEGIN INSERT INTO evinbox.event ($forged) VALUES ($values); END \$\$" ])
{
	my ($what, $sql) = @$forge;

	as('recorder', $sql =~ s/%s/$what/r);
	is_sql($node, $db, "SELECT DISTINCT recorded_at > '2001-01-01', caused_by, depth FROM evinbox.event WHERE subject_id = '$what'",
		't||0', "forging by $what");
}
my $id_refused = qr/42501: only superusers may choose the id of an event/;
my $event = 'evinbox.event (id, subject_type, subject_id, action)';
foreach my $forge (
	[ 'the next one', "INSERT INTO $event OVERRIDING SYSTEM VALUE SELECT max(id) + 1, 'T', 'id', 'forged' FROM evinbox.event", $id_refused ],
	[ 'one far ahead', "INSERT INTO $event OVERRIDING SYSTEM VALUE VALUES (9000000000, 'T', 'id', 'forged')", $id_refused ],
	[ 'one below', "INSERT INTO $event OVERRIDING SYSTEM VALUE VALUES (-1, 'T', 'id', 'forged')", $id_refused ],
	[ 'one that is there, if it is', "INSERT INTO $event OVERRIDING SYSTEM VALUE VALUES (1, 'T', 'id', 'forged') ON CONFLICT DO NOTHING",
		$id_refused ],
	[ 'COPY', "COPY $event FROM STDIN;\n9000000000\tT\tid\tforged\n\\.\n", $id_refused ],
	[ 'its own last one again', "INSERT INTO evinbox.event (subject_type, subject_id, action) VALUES ('T', 'own', 'recorded');
		INSERT INTO $event OVERRIDING SYSTEM VALUE SELECT max(id), 'T', 'id', 'forged' FROM evinbox.event WHERE subject_id = 'own'", qr/23505/ ],
	[ 'COPY like that of a dump', "COPY evinbox.event (id, subject_type, subject_id, action, occurred_at, recorded_at) FROM STDIN;\n"
		  . "9000000000\tT\tid\tforged\t2000-01-01\t2000-01-01\n\\.\n", $id_refused ],
	[ 'into a partition', "INSERT INTO evinbox_internal.event_default VALUES (1)", qr/42501: permission denied for schema/ ],
	[ 'COPY into a partition', "COPY evinbox_internal.event_1 FROM STDIN;\n\\.\n", qr/42501: permission denied for schema/ ],
	[ 'an UPDATE', "UPDATE evinbox.event SET actor = 'forged'", qr/42501: permission denied for table/ ],
	[ 'ON CONFLICT DO UPDATE', "INSERT INTO evinbox.event (subject_type, subject_id, action) VALUES ('T', 'id', 'forged')
		ON CONFLICT (id) DO UPDATE SET actor = 'forged'", qr/42501: permission denied for table/ ],
	[ 'reading back what it is not to read', "INSERT INTO evinbox.event (subject_type, subject_id, action) VALUES ('T', 'id', 'forged')
		RETURNING recorded_at", qr/42501: permission denied for table/ ])
{
	my ($what, $sql, $error) = @$forge;

	like(as('recorder', $sql), $error, "forging an id: $what");
}
is_sql($node, $db, "SELECT count(*) FROM evinbox.event WHERE subject_id = 'id'", '0', 'nothing of that is there');
like(as($root, "BEGIN; INSERT INTO $event OVERRIDING SYSTEM VALUE VALUES (9000000000, 'T', 'id', 'forged') RETURNING id; ROLLBACK"),
	qr/9000000000/, 'a superuser may');

# -- calls to the outside ---------------------------------------------------------------------
#
# Secrets are nobody's to read, nor are calls anybody's to forge.

$node->safe_psql($db, <<'EOS');
INSERT INTO evinbox.endpoint (name, url, enabled, owner) VALUES ('alice''s', 'https://localhost/', false, 'alice');
SELECT evinbox.set_endpoint_secret('alice''s', 'whsec_' || encode('s3cret', 'base64'));
EOS
wait_for($node, $db, "SELECT count(*) > 0 FROM pg_class WHERE relname ~ '^request_[0-9]+\$' AND relkind = 'r'", 'calls have days');
my @calls = split /\n/,
  $node->safe_psql($db, "SELECT 'evinbox_internal.request' UNION ALL SELECT inhrelid::regclass::text FROM pg_inherits
	WHERE inhparent = 'evinbox_internal.request'::regclass");
is_sql($node, $db, 'SELECT count(*) FROM evinbox_internal.endpoint_secret', '1', 'there is a secret');
is(as($_, 'SELECT count(*) FROM evinbox_internal.endpoint_secret'), "0\n", "secrets as $_") foreach 'sees_all', 'writes_all';
foreach my $forge (
	[ 'endpoint_secret', "evinbox_internal.endpoint_secret (endpoint_id, kind, secret) VALUES (1, 'v1', 'forged')" ],
	map { [ $_, "$_ (id, created_at, kind, owner_id, message_id, method, is_signed) OVERRIDING SYSTEM VALUE
		VALUES (1, '@{[ m/_(\d+)$/ ? $1 : 20000101 ]} 12:00:00+00', 'http', 'alice'::regrole, 'msg_1', 'POST', true)" ] } @calls)
{
	my ($what, $row) = @$forge;

	like(as('writes_all', "INSERT INTO $row"), $policy, "pg_write_all_data: $what");
}

# -- functions in the place of handlers -----------------------------------------------------------
#
# A schema of mallory's has handlers of others. She can drop them there, and put
# what she likes in their place; but that is not theirs, and their rules wait.

$node->safe_psql($db, <<'EOS');
CREATE FUNCTION mallory.of_root(e evinbox.event, config jsonb) RETURNS void LANGUAGE sql AS $$ SELECT public.handle(e, config) $$;
CREATE FUNCTION mallory.of_alice(e evinbox.event, config jsonb) RETURNS void LANGUAGE sql AS $$ SELECT public.handle(e, config) $$;
CREATE FUNCTION mallory.of_one(e evinbox.event) RETURNS void LANGUAGE sql
	AS $$ SELECT public.handle(e, '{"inbox": "overloaded"}') $$;
ALTER FUNCTION mallory.of_alice OWNER TO alice;
ALTER FUNCTION mallory.of_one OWNER TO alice;
CREATE FUNCTION mallory.of_another(e evinbox.event, config jsonb) RETURNS void LANGUAGE sql AS $$ SELECT public.handle(e, config) $$;
ALTER FUNCTION mallory.of_another OWNER TO alice;
CREATE TABLE public.stolen (who name DEFAULT current_user);
GRANT INSERT ON public.stolen TO PUBLIC;
EOS
add_inbox($node, $db, $_->[0], subject_types => "{$_->[0]}", handler => "mallory.$_->[1]", owner => $_->[2])
  foreach [ 'dropped', 'of_alice', 'alice' ], [ 'of a superuser', 'of_root', 'alice' ], [ 'for a superuser', 'of_root', $root ],
  [ 'overloaded', 'of_one', 'alice' ], [ 'in another schema', 'of_another', 'alice' ], [ 'polymorphic', 'of_alice', 'alice' ];

sub record_for
{
	my ($inbox) = @_;

	return $node->safe_psql($db, "SELECT evinbox.record_event('$inbox', 1, 'happened')");
}

sub is_halted
{
	my ($inbox, $error, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	record_for($inbox);
	wait_for($node, $db, "SELECT state = 'halted' AND last_error ~ '$error' FROM evinbox.inbox_status WHERE name = '$inbox'", $name);
}

my $theft = "(e evinbox.event, config jsonb) RETURNS void LANGUAGE sql AS 'INSERT INTO public.stolen DEFAULT VALUES'";
foreach my $inbox ('dropped', 'for a superuser', 'overloaded')
{
	record_for($inbox);
	wait_for_handled($node, $db, $inbox, 1, "before, the inbox goes: $inbox");
}
like(as('mallory', "CREATE OR REPLACE FUNCTION mallory.of_alice $theft"), qr/42501: must be owner/, 'she replaces no function of hers');
like(as('mallory', 'ALTER FUNCTION mallory.of_alice OWNER TO mallory'), qr/42501: must be owner/, 'nor does she get it');

like(as('mallory', "CREATE FUNCTION mallory.of_one $theft"), qr/\A\n\z/, 'she puts another one beside it');
record_for('overloaded');
wait_for_handled($node, $db, 'overloaded', 2, 'which does not count');
as('mallory', 'DROP FUNCTION mallory.of_one(evinbox.event)');
is_halted('overloaded', 'belongs to role "mallory"', 'nor does it when it is the only one');

as('mallory', "DROP FUNCTION mallory.of_alice; CREATE FUNCTION mallory.of_alice(e anyelement, config jsonb) RETURNS void LANGUAGE sql
	AS 'INSERT INTO public.stolen DEFAULT VALUES'");
is_halted('polymorphic', 'does not exist', 'one that takes anything is none');
as('mallory', "DROP FUNCTION mallory.of_alice; CREATE FUNCTION mallory.of_alice $theft; DROP FUNCTION mallory.of_root;
	CREATE FUNCTION mallory.of_root $theft");
is_halted('dropped', 'belongs to role "mallory"', "one in the place of hers is not hers");
is_halted('of a superuser', 'belongs to role "mallory"', "nor is one in the place of a superuser's");
is_halted('for a superuser', 'belongs to role "mallory"', "nor a superuser's");
as('mallory', "SET client_min_messages = error; ALTER SCHEMA mallory RENAME TO former; CREATE SCHEMA mallory AUTHORIZATION mallory;
	GRANT USAGE ON SCHEMA mallory TO PUBLIC; CREATE FUNCTION mallory.of_another $theft");
is_halted('in another schema', 'belongs to role "mallory"', 'nor is one in a schema in the place of the former');
is_sql($node, $db, 'SELECT count(*) FROM public.stolen', '0', 'nothing of that was called');
as('mallory', "UPDATE evinbox.inbox SET handler = 'former.of_root' WHERE name = 'mallory''s'");
record_for('hers');
wait_for($node, $db, "SELECT DISTINCT who = 'mallory' FROM public.stolen", 'but it would have been, as it is by a rule of hers');
$node->safe_psql($db, "DELETE FROM evinbox.inbox WHERE name NOT LIKE 'alice%' AND name <> 'root'");

# -- a superuser who is one no more ---------------------------------------------------------------------
#
# Its session could go on becoming anybody. So the runner's does not go on.

$node->safe_psql($db, <<"EOS");
CREATE ROLE former LOGIN SUPERUSER;
CREATE FUNCTION public.become(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	BEGIN
		SET SESSION AUTHORIZATION $root;
		INSERT INTO public.stolen DEFAULT VALUES;
		RESET SESSION AUTHORIZATION;
	EXCEPTION WHEN insufficient_privilege THEN
		NULL;
	END;
	PERFORM public.handle(e, config);
END \$\$;
EOS
add_inbox($node, $db, 'former', owner => 'former', handler => 'public.become', subject_types => '{former}');
record_for('former');
wait_for_handled($node, $db, 'former', 1, 'a superuser has a rule');
is_sql($node, $db, "DELETE FROM public.stolen WHERE who = '$root' RETURNING 'became'", 'became', 'which can become another superuser');
$node->safe_psql($db, 'ALTER ROLE former NOSUPERUSER; GRANT SELECT ON handled TO former');
record_for('former');
wait_for_handled($node, $db, 'former', 2, 'then it is none');
is_sql($node, $db, "SELECT count(*) FROM public.stolen WHERE who = '$root'", '0', 'nor is its rule');
$node->safe_psql($db, "DELETE FROM evinbox.inbox WHERE name = 'former'");

# -- in others' way -------------------------------------------------------------------------------------

# All locks that she can think of, rows of her own, a throttle's key, and an old snapshot.
my $holder = $node->background_psql($db, extra_params => [ '-U', 'mallory' ]);
$holder->set_query_timer_restart;
$holder->query_safe($_) foreach 'BEGIN ISOLATION LEVEL REPEATABLE READ',
  "SELECT pg_advisory_lock('evinbox.inbox'::regclass::oid::int, g), pg_advisory_lock(g) FROM generate_series(0, 50) g",
  "SELECT pg_advisory_xact_lock_shared(d.oid::int, g) FROM pg_database d, generate_series(0, 50) g",
  "INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES ('hers', 'public.handle', 'scheduled')",
  "INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES ('new', 'public.handle', 'scheduled')",
  "SELECT evinbox.record_event('T', 'held', 'happened', throttle => '1 hour')";
$node->safe_psql($db, "SELECT evinbox.record_event('T', 'meanwhile', 'happened')");
wait_for($node, $db, "SELECT count(*) = 2 FROM handled WHERE subject = 'meanwhile' AND inbox IN ('alice''s', 'root')",
	"what she holds is in nobody's way");
unlike(as('alice', "SET lock_timeout = '5s'; UPDATE evinbox.inbox SET priority = 3 WHERE name = 'alice''s'; UPDATE evinbox.inbox SET priority = 10"),
	qr/ERROR/, 'nor in that of those who write rules');
$holder->query_safe('ROLLBACK');
$holder->quit;

# -- names ----------------------------------------------------------------------------------------------
#
# A rule, an owner, a subject, an action and a message of each name. None is taken
# for anything else, wherever it is shown, logged, or handed on.

my @names = ("'; DROP TABLE handled; --", q{"; DROP TABLE handled; --}, q{%s%n%d%m%1$s}, q{$1}, q{\\}, q{\\'; SELECT 1; --}, "a\nLOG:  b",
	'NULL', 'public', '*', '{"a": 1}', q{$e$ $$f$$}, "\x{c3}\x{84}\x{e2}\x{82}\x{ac}", 'x' x 2000);

$node->safe_psql($db, <<'EOS');
CREATE TABLE public.names (n serial, name text);
CREATE FUNCTION public.fail_by_name(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF e.action = config->>'inbox' THEN
		RAISE EXCEPTION '%', e.action USING DETAIL = e.subject_id, HINT = e.subject_type;
	END IF;
	PERFORM public.handle(e, config);
END $$;
EOS
$node->safe_psql($db, "INSERT INTO names (name) VALUES (\$value\$$_\$value\$)") foreach @names;
$node->safe_psql($db, <<'EOS');
DO $$
DECLARE
	owner text;
BEGIN
	FOR owner IN SELECT 'r' || name FROM public.names LOOP
		EXECUTE format('CREATE ROLE %I LOGIN', owner);
	END LOOP;
END $$;
INSERT INTO evinbox.inbox (name, owner, handler, config, subject_types, actions, max_attempts, replayable)
	SELECT name, 'r' || name, 'public.fail_by_name', jsonb_build_object('inbox', name), ARRAY[name], ARRAY[name, 'happened'], 1, true FROM names;
SELECT evinbox.record_event(name, name, action, name, jsonb_build_object(name, name)) FROM names, unnest(ARRAY[name, 'happened']) action ORDER BY n;
EOS
wait_for($node, $db, "SELECT bool_and(dead = 1 AND lag_events = 0) FROM evinbox.inbox_status JOIN names USING (name)", 'rules of all names have worked');
$node->safe_psql($db, <<'EOS');
SELECT evinbox.pause(name), evinbox.resume(name), evinbox.retry(name, event_id) FROM names JOIN evinbox.dead_letter ON inbox = name;
EOS
wait_for($node, $db, "SELECT count(*) = 14 FROM evinbox.dead_letter JOIN names ON inbox = name WHERE died_at > first_failed_at", 'and again');
foreach my $n (1 .. @names)
{
	is_sql($node, $db, <<"EOQ", 't|t|t|t|t', 'a name: ' . substr($names[$n - 1], 0, 40) =~ s/\n/ /gr);
SELECT (SELECT count(*) = 1 AND bool_and(action = 'happened' AND who = ('r' || name)::name) FROM handled WHERE inbox = name AND subject = name),
	(SELECT count(*) = 1 AND bool_and(action = name AND actor = name AND metadata->>name = name AND last_error = name
		AND error_context LIKE 'DETAIL:  ' || replace(name, '\\', '\\\\') || '%') FROM evinbox.dead_letter WHERE inbox = name),
	(SELECT owner = ('r' || name)::name AND state = 'running' FROM evinbox.inbox_status s WHERE s.name = names.name),
	(SELECT count(*) > 0 FROM pg_stat_activity WHERE usename = ('r' || name)::name AND backend_type = 'evinbox runner'),
	(SELECT count(*) > 0 FROM evinbox.worker_status WHERE owner = ('r' || name)::name AND kind = 'runner')
FROM names WHERE n = $n
EOQ
}
unlike(slurp_file($node->logfile), qr/^LOG:  b/m, 'no name makes a line of the log');
$node->safe_psql($db, <<'EOS');
UPDATE evinbox.inbox i SET name = i.name || '!' FROM names n WHERE i.name = n.name;
DELETE FROM evinbox.inbox i USING names n WHERE i.name = n.name || '!';
EOS
is_sql($node, $db, 'SELECT count(*) FROM evinbox.inbox', '3', 'they can be renamed and deleted');

# -- payloads ---------------------------------------------------------------------------------------------

$node->safe_psql($db, 'CREATE TABLE public.payload (subject text, metadata text, found text)');
add_inbox($node, $db, 'payload', handler => 'public.handle', subject_types => '{Payload}', condition => "e.metadata->>'x' IS DISTINCT FROM 'y'");
$node->safe_psql($db, "INSERT INTO evinbox.inbox (name, subject_types, statement) VALUES ('stored', '{Payload}',
	'INSERT INTO public.payload SELECT subject_id, metadata::text, metadata #>> ''{a}'' FROM events')");
my %payloads = (
	'quotes' => q({"a": "'; DROP TABLE handled; --"}),
	'formats' => q({"a": "%s%n%d", "%s": 1}),
	'depth' => '{"a": ' . '[' x 3000 . ']' x 3000 . '}',
	'many keys' => '{' . join(', ', map { qq("k$_": $_) } 1 .. 5000) . '}',
	'a long key' => '{"' . 'k' x 100_000 . '": 1}',
	'a large number' => '{"a": 1' . '0' x 1000 . '}',
	'controls' => '{"a": "\u0001\u001b\r\n"}',
	'names of ours' => '{"inbox": "alice\'s", "id": -1, "depth": 9, "__proto__": null}');
foreach my $what (sort keys %payloads)
{
	as('recorder', "SELECT evinbox.record_event('Payload', '$what', 'happened', metadata => \$value\$$payloads{$what}\$value\$)");
	wait_for($node, $db, "SELECT (SELECT count(*) FROM handled WHERE inbox = 'payload' AND subject = '$what') = 1 AND"
		  . " (SELECT count(*) FROM payload WHERE subject = '$what' AND metadata::jsonb = \$value\$$payloads{$what}\$value\$::jsonb) = 1",
		"a payload: $what");
}
foreach my $bad ([ 'a zero byte', '{"a": "\u0000"}' ], [ 'half of a character', '{"a": "\ud800"}' ], [ 'too much depth', '{"a": ' . '[' x 100_000 . ']' x 100_000 . '}' ],
	[ 'no object', '[1]' ])
{
	like(as('recorder', "SELECT evinbox.record_event('Payload', 'bad', 'happened', metadata => \$value\$$bad->[1]\$value\$)"),
		qr/ERROR:  (22P05|22P02|54001|22023)/, "no payload: $bad->[0]");
}

# -- in the end -------------------------------------------------------------------------------------------

wait_for($node, $db, "SELECT bool_and(lag_events = 0) FROM evinbox.inbox_status", 'all is handled');
is_sql($node, $db, "SELECT count(*) - count(DISTINCT event_id), count(*) - (SELECT count(*) FROM evinbox.event), bool_and(who = 'alice')
	FROM handled WHERE inbox = 'alice''s'", '0|0|t', "alice's rule has handled each event once, as she");
is_sql($node, $db, "SELECT count(*) FROM pg_roles WHERE rolname IN ('mallory', 'recorder', 'bypasses') AND (rolsuper OR rolcreaterole)", '0',
	'nobody has become more');

is_healthy($node);
$node->stop;
done_testing();
