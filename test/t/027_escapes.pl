# Attempts to escape by way of rules' code: from a runner into another role, from
# one rule's session state into the next rule, and into the sessions of those who
# write, operate and run rules.
#
# Mallory writes rules, and owns the database. Alice writes rules, too, and has a
# secret. The superuser has rules of his own, and operates those of all.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use EvinboxTest;

# One runner for each of them: what a rule leaves behind is there for the next.
my $node = evinbox_node('main', 'evinbox.max_runners = 3');
my $db = 'app';

$node->safe_psql('postgres', <<"EOS");
CREATE ROLE alice LOGIN;
CREATE ROLE mallory LOGIN;
CREATE ROLE crew;
GRANT crew TO mallory;
CREATE DATABASE $db OWNER mallory;
EOS
my $root = $node->safe_psql('postgres', 'SELECT current_user');

# Whatever mallory wants to have run calls mallory.trap(), which notes who has run
# it, and takes what there is to be had. It does so from code that must not write.
$node->safe_psql($db, <<'EOS');
CREATE EXTENSION evinbox;
GRANT USAGE ON SCHEMA evinbox TO alice, mallory;
GRANT SELECT, INSERT, UPDATE, DELETE ON evinbox.inbox TO alice, mallory;
GRANT EXECUTE ON FUNCTION evinbox.run TO alice, mallory;
CREATE SCHEMA alice AUTHORIZATION alice;
CREATE SCHEMA mallory AUTHORIZATION mallory;
GRANT USAGE ON SCHEMA mallory TO PUBLIC;
CREATE SCHEMA log;
GRANT USAGE ON SCHEMA log TO PUBLIC;
CREATE TABLE log.trapped (n serial, what text, who name DEFAULT current_user, session name DEFAULT session_user);
CREATE TABLE log.loot (secret text);
CREATE TABLE log.handled (n serial, inbox text, subject text, pid int DEFAULT pg_backend_pid(),
	who name DEFAULT current_user, session name DEFAULT session_user, state jsonb);
GRANT INSERT ON ALL TABLES IN SCHEMA log TO PUBLIC;
GRANT USAGE ON ALL SEQUENCES IN SCHEMA log TO PUBLIC;
CREATE FUNCTION log.handle(e evinbox.event, config jsonb) RETURNS void LANGUAGE sql
	AS $$ INSERT INTO log.handled (inbox, subject) VALUES (config->>'inbox', e.subject_id) $$;

SET SESSION AUTHORIZATION alice;
CREATE TABLE alice.secret (secret text);
INSERT INTO alice.secret VALUES ('hunter2');
SET search_path = alice;
INSERT INTO evinbox.inbox (name, handler, config) VALUES ('alice''s', 'log.handle', '{"inbox": "alice''s"}');

SET SESSION AUTHORIZATION mallory;
CREATE FUNCTION mallory.trap(what text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO log.trapped (what) VALUES (what);
	BEGIN
		INSERT INTO log.loot SELECT secret FROM alice.secret;
	EXCEPTION WHEN OTHERS THEN
		NULL;
	END;
	RETURN what;
END $$;
CREATE FUNCTION mallory.quiet_trap(what text) RETURNS text LANGUAGE plpgsql IMMUTABLE
	AS 'BEGIN PERFORM mallory.trap(what); RETURN what; END';
CREATE FUNCTION mallory.trap_row() RETURNS trigger LANGUAGE plpgsql
	AS 'BEGIN PERFORM mallory.trap(TG_ARGV[0]); RETURN NEW; END';
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA mallory TO PUBLIC;
EOS
add_inbox($node, $db, 'root', handler => 'log.handle', condition => "e.subject_id <> 'nobody'");

sub as
{
	my ($role, $sql) = @_;

	return $node->safe_psql($db, $sql, extra_params => [ '-U', $role ]);
}

# who has run the trap of an attempt, each as current user/session user
sub trapped
{
	my ($what) = @_;

	return $node->safe_psql($db,
		"SELECT string_agg(DISTINCT who || '/' || session, ' ') FROM log.trapped WHERE what = '$what'");
}

# What the superuser does himself is a way for her to take what she wants.
sub does_harm
{
	my ($what, $sql, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$node->safe_psql($db, 'DELETE FROM log.trapped; DELETE FROM log.loot');
	$node->psql($db, $sql);
	like(trapped($what) . ', ' . $node->safe_psql($db, 'SELECT DISTINCT secret FROM log.loot'), qr{\b$root/$root, hunter2$},
		"by the superuser himself, that does harm: $name");
	$node->safe_psql($db, 'DELETE FROM log.trapped; DELETE FROM log.loot');
}

# -- in a runner ----------------------------------------------------------------------
#
# Each attempt is a rule of mallory's. A body is that of its handler. With "trap"
# it is to get to run, as mallory; or else it ends with an error. Those that would
# do harm in a session of somebody else show that in the end: with "role" after a
# SET ROLE, with "definer" in a function that is SECURITY DEFINER, or where that
# somebody does the "same" as the rule.

my @attempts = (
	# back to, or on to, another role
	[ 'RESET ROLE', body => "RESET ROLE; PERFORM mallory.trap('%s')", trap => 1, control => 'role' ],
	[ 'SET ROLE NONE', body => "PERFORM set_config('role', 'none', false); PERFORM mallory.trap('%s')", trap => 1,
		control => 'role' ],
	[ 'RESET SESSION AUTHORIZATION', body => "RESET SESSION AUTHORIZATION; PERFORM mallory.trap('%s')", trap => 1,
		control => 'role' ],
	[ 'SET SESSION AUTHORIZATION', body => "SET SESSION AUTHORIZATION $root; PERFORM mallory.trap('%s')",
		error => qr/permission denied to set session authorization/ ],
	[ 'SET ROLE', body => "SET ROLE $root; PERFORM mallory.trap('%s')", error => qr/permission denied to set role/ ],
	[ 'SET ROLE to alice', body => "PERFORM set_config('role', 'alice', true); PERFORM mallory.trap('%s')",
		error => qr/permission denied to set role/ ],
	[ 'SET in a function', with => "CREATE FUNCTION mallory.set() RETURNS void LANGUAGE sql AS 'SELECT mallory.trap(''%s'')';
		ALTER FUNCTION mallory.set() SET role = $root",
		body => 'PERFORM mallory.set()', error => qr/permission denied to set role/ ],
	[ 'a function that is SECURITY DEFINER', with => "CREATE FUNCTION mallory.definer() RETURNS void LANGUAGE sql SECURITY DEFINER
		AS 'SELECT mallory.trap(''%s'')'", body => 'PERFORM mallory.definer()', trap => 1 ],

	# what runs at the end of the transaction, when a function is over; since 18 as
	# the role that there was then
	[ 'a deferred constraint trigger', with => "CREATE TABLE mallory.deferred (i int);
		CREATE CONSTRAINT TRIGGER t AFTER INSERT ON mallory.deferred DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION mallory.trap_row('%s')",
		body => 'INSERT INTO mallory.deferred VALUES (1)', trap => 1,
		control => $node->pg_version < 18 ? 'definer' : undef ],
	[ 'RESET ROLE in a deferred trigger', with => "CREATE TABLE mallory.resets (i int);
		CREATE FUNCTION mallory.reset_row() RETURNS trigger LANGUAGE plpgsql
		AS 'BEGIN RESET ROLE; PERFORM mallory.trap(''%s''); RETURN NULL; END';
		CREATE CONSTRAINT TRIGGER t AFTER INSERT ON mallory.resets DEFERRABLE INITIALLY DEFERRED
		FOR EACH ROW EXECUTE FUNCTION mallory.reset_row()",
		body => 'INSERT INTO mallory.resets VALUES (1)', trap => 1, control => 'role' ],
	[ 'a deferred check of uniqueness', with => "CREATE FUNCTION mallory.unique_trap(i int) RETURNS int LANGUAGE plpgsql IMMUTABLE
		AS 'BEGIN PERFORM mallory.trap(''%s''); RETURN i; END'; CREATE TABLE mallory.uniques (i int,
		EXCLUDE ((mallory.unique_trap(i)) WITH =) DEFERRABLE INITIALLY DEFERRED)",
		body => 'INSERT INTO mallory.uniques VALUES (1)', trap => 1, control => 'same',
		same => 'INSERT INTO mallory.uniques VALUES (2)' ],
	[ 'a cursor WITH HOLD', body => "EXECUTE 'DECLARE c CURSOR WITH HOLD FOR SELECT mallory.trap(''%s'')'", trap => 1,
		control => 'definer' ],

	# code in what a rule reads and writes
	[ 'a condition', condition => "mallory.trap('%s') = '%s'", trap => 1 ],
	[ 'a condition with a subquery', condition => "EXISTS (SELECT FROM mallory.trap('%s') OFFSET 0)", trap => 1 ],
	[ 'a statement', statement => "SELECT mallory.trap('%s') FROM events", trap => 1 ],
	[ 'a statement that changes rows', with => 'CREATE TABLE mallory.rows (t text)',
		statement => "WITH w AS (INSERT INTO mallory.rows SELECT subject_id FROM events RETURNING *) SELECT mallory.trap('%s') FROM w",
		trap => 1 ],
	[ 'a default, a trigger, a rule', with => "CREATE TABLE mallory.also (t text, d text DEFAULT mallory.trap('%s'));
		CREATE TRIGGER t BEFORE INSERT ON mallory.also FOR EACH ROW EXECUTE FUNCTION mallory.trap_row('%s');
		CREATE RULE r AS ON INSERT TO mallory.also DO ALSO SELECT mallory.trap('%s')",
		body => "INSERT INTO mallory.also VALUES ('a')", trap => 1, control => 'same',
		same => "INSERT INTO mallory.also VALUES ('a')" ],
	[ 'an index on an expression, a domain, a generated column', with => "CREATE DOMAIN mallory.checked AS text CHECK
		(mallory.quiet_trap('%s') = '%s'); CREATE TABLE mallory.indexed (t mallory.checked, g text GENERATED ALWAYS AS
		(mallory.quiet_trap('%s')) STORED); CREATE INDEX ON mallory.indexed (mallory.quiet_trap(t))",
		body => "INSERT INTO mallory.indexed VALUES ('%s')", trap => 1, control => 'same',
		same => "INSERT INTO mallory.indexed VALUES ('%s')" ],
	[ 'a view with a policy behind it', with => "CREATE TABLE mallory.guarded (t text); INSERT INTO mallory.guarded VALUES ('a');
		ALTER TABLE mallory.guarded ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
		CREATE POLICY p ON mallory.guarded USING (mallory.trap('%s') = '%s');
		CREATE VIEW mallory.guards AS SELECT * FROM mallory.guarded",
		body => 'PERFORM FROM mallory.guards', trap => 1 ],

	# what is not for everybody, in a process that has once been more
	[ 'the secret', body => 'INSERT INTO log.loot SELECT secret FROM alice.secret', error => qr/permission denied/ ],
	[ 'evinbox_internal', body => 'PERFORM FROM evinbox_internal.outbox_0', error => qr/permission denied for schema evinbox_internal/ ],
	[ 'evinbox.delivery', statement => 'DELETE FROM evinbox.delivery', error => qr/permission denied for table delivery/ ],
	[ 'evinbox.event', condition => 'EXISTS (SELECT FROM evinbox.event)', error => qr/permission denied for table event/ ],
	[ 'the rights to a file', body => "PERFORM pg_read_file('postgresql.conf')", error => qr/permission denied for function pg_read_file/ ],
	[ 'a program', body => "EXECUTE 'COPY (SELECT 1) TO PROGRAM ''cat'''", error => qr/COPY to or from an external program/ ],
	[ 'a library', body => "LOAD 'auto_explain'", error => qr/access to library "auto_explain" is not allowed/ ],
	[ 'session_replication_role', body => "SET session_replication_role = replica", error => qr/permission denied to set parameter/ ],
	[ 'evinbox.actor_source', body => "SET evinbox.actor_source = 'any'", error => qr/cannot be changed now/ ],
	[ 'the coordinator', body => "PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '$db' AND usesysid = 10",
		error => qr/superuser|permission denied to terminate process/ ],
	[ "alice's runner", body => "PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '$db' AND usename = 'alice'",
		error => qr/must be a member of the role|permission denied to terminate process/ ],
	[ "alice's rule", body => "UPDATE evinbox.inbox SET handler = 'mallory.a1' WHERE name LIKE 'alice%%';
		IF FOUND THEN PERFORM mallory.trap('%s'); END IF" ],
	[ 'the own rule, for alice', body => "UPDATE evinbox.inbox SET owner = 'alice' WHERE name = '%s'",
		error => qr/must be member of role "alice"/ ],

	# out of the transaction
	[ 'COMMIT in a procedure', with => "CREATE PROCEDURE mallory.commits() LANGUAGE plpgsql
		AS 'BEGIN COMMIT; PERFORM mallory.trap(''%s''); END'", body => 'CALL mallory.commits()',
		error => qr/invalid transaction termination/ ],
	[ 'ROLLBACK in a DO block', body => "EXECUTE 'DO ''BEGIN ROLLBACK; END'''", error => qr/invalid transaction termination/ ],
	[ 'PREPARE TRANSACTION', body => "EXECUTE 'PREPARE TRANSACTION ''x'''",
		error => qr/transaction commands is not implemented/ ],
	[ 'run()', body => "PERFORM evinbox.run('%s')", error => qr/run\(\) cannot be called by a rule/ ],
	[ 'run() behind an exception block', body => "BEGIN PERFORM evinbox.run(); EXCEPTION WHEN OTHERS THEN PERFORM mallory.trap('%s'); END",
		trap => 1 ],
	[ 'LISTEN', body => 'LISTEN x', error => qr/cannot execute LISTEN within a background process/ ],
	[ 'DISCARD ALL', body => 'DISCARD ALL', error => qr/cannot be executed from a function/ ],

	# one statement for whoever writes it, two for whoever runs it
	[ 'a text that is read in two ways', set => 'SET standard_conforming_strings = off; SET escape_string_warning = off; SET backslash_quote = on',
		statement => q{SELECT '\'; SELECT mallory.trap($$%s$$); --'}, error => qr/exactly one statement/ ],
);

my $n = 0;
foreach my $attempt (@attempts)
{
	my ($what, %a) = @$attempt;
	my $name = 'a' . ++$n;
	my %code = map { $_ => defined $a{$_} ? $a{$_} =~ s/%s/$name/gr =~ s/%%/%/gr : '' } qw(with body condition statement same set);
	my $handler = $a{statement} ? 'NULL' : "'mallory.$name'";

	$code{body} ||= 'NULL';
	$attempt->[0] = $name;
	push @$attempt, what => $what, code => \%code;
	as('mallory', "SET client_min_messages = error; $code{with};
		CREATE FUNCTION mallory.$name(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql
		AS \$body\$ BEGIN $code{body}; END \$body\$; SET check_function_bodies = off; $code{set};
		INSERT INTO evinbox.inbox (name, subject_types, max_attempts, handler, condition, statement) VALUES ('$name',
		'{$name}', 1, $handler, nullif(\$code\$$code{condition}\$code\$, ''), nullif(\$code\$$code{statement}\$code\$, ''))");
}
$node->safe_psql($db, "INSERT INTO evinbox.event (subject_type, subject_id, action)
	SELECT 'a' || g, 'attempt', 'happened' FROM generate_series(1, $n) g");
wait_for($node, $db,
	"SELECT bool_and(lag_events = 0 OR state = 'halted') FROM evinbox.inbox_status", 'all has been attempted');

foreach my $attempt (@attempts)
{
	my ($name, %a) = @$attempt;
	my $got = $node->safe_psql($db, "SELECT coalesce(last_error, 'handled') FROM evinbox.inbox_status WHERE name = '$name'")
	  . ', ' . (trapped($name) || 'not trapped');

	like($got, $a{error} ? qr/^[^,]*$a{error}.*, not trapped$/ : $a{trap} ? qr{^handled, mallory/mallory$} : qr/^handled, not trapped$/,
		"in a runner: $a{what}");
}
is_sql($node, $db, 'SELECT count(*) FROM log.loot', '0', 'in a runner: nothing was taken');
as('mallory', 'DELETE FROM evinbox.inbox');

# In a session of the superuser who has just become mallory, or who calls a
# function that runs as her, some of that gets it all.
foreach my $attempt (@attempts)
{
	my ($name, %a) = @$attempt;

	next unless $a{control};
	as('mallory', "CREATE FUNCTION mallory.call_$name() RETURNS void LANGUAGE sql SECURITY DEFINER AS 'SELECT mallory.$name(NULL, NULL)'");
	does_harm($name, {
			role => "BEGIN; SET ROLE mallory; SELECT mallory.$name(NULL, NULL); COMMIT",
			definer => "SELECT mallory.call_$name()",
			same => $a{code}{same} }->{ $a{control} }, $a{what});
}

# -- from one rule to the next --------------------------------------------------------

# What is left by a batch, by its handler and at its commit; and what the next
# one finds. The functions that do so are in a plain session as well.
as('mallory', <<'EOS');
CREATE SEQUENCE mallory.numbers;
CREATE FUNCTION mallory.leave() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE 'PREPARE left_behind AS SELECT 1';
	CREATE TEMP TABLE left_behind (i int);
	CREATE FUNCTION pg_temp.left_behind() RETURNS int LANGUAGE sql AS 'SELECT 1';
	PERFORM pg_advisory_lock(4711);
	PERFORM nextval('mallory.numbers');
	EXECUTE 'DECLARE left_behind CURSOR WITH HOLD FOR SELECT 1';
END $$;
CREATE FUNCTION mallory.leave_at_commit() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	SET kept.behind = 'this';
	SET search_path = mallory;
	SET default_transaction_read_only = on;
	SET evinbox.actor = 'left behind';
	SET ROLE crew;
	RETURN NULL;
END $$;
CREATE TABLE mallory.commits (i int);
CREATE CONSTRAINT TRIGGER t AFTER INSERT ON mallory.commits DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION mallory.leave_at_commit();
CREATE FUNCTION mallory.look() RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
	number bigint;
BEGIN
	BEGIN
		number := currval('mallory.numbers');
	EXCEPTION WHEN object_not_in_prerequisite_state OR insufficient_privilege THEN
		NULL;
	END;
	RETURN jsonb_build_object(
		'prepared statement', EXISTS (SELECT FROM pg_prepared_statements),
		'temporary objects', pg_my_temp_schema() <> 0 AND EXISTS (SELECT FROM pg_class WHERE relnamespace = pg_my_temp_schema()
			UNION ALL SELECT FROM pg_proc WHERE pronamespace = pg_my_temp_schema()),
		'advisory lock', EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 4711 AND pid = pg_backend_pid()),
		'last value of a sequence', number IS NOT NULL,
		'cursor WITH HOLD', EXISTS (SELECT FROM pg_cursors WHERE is_holdable),
		'setting of its own', coalesce(current_setting('kept.behind', true), '') <> '',
		'search_path', current_setting('search_path') = 'mallory',
		'read-only transactions', current_setting('default_transaction_read_only')::bool,
		'actor', current_setting('evinbox.actor') <> '',
		'role', current_user <> 'mallory');
END $$;
GRANT USAGE ON SEQUENCE mallory.numbers TO crew;

CREATE FUNCTION mallory.leaver(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM mallory.leave();
	INSERT INTO mallory.commits VALUES (1);
	PERFORM log.handle(e, config);
END $$;
CREATE FUNCTION mallory.failer(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM mallory.leave();
	RAISE EXCEPTION 'no';
END $$;
CREATE FUNCTION mallory.looker(e evinbox.event, config jsonb) RETURNS void LANGUAGE sql
	AS $$ INSERT INTO log.handled (inbox, subject, state) VALUES ('looker', e.subject_id, mallory.look()) $$;
INSERT INTO evinbox.inbox (name, subject_types, handler, config, max_attempts) VALUES
	('leaver', '{Leave}', 'mallory.leaver', '{"inbox": "leaver"}', 1),
	('failer', '{Fail}', 'mallory.failer', '{}', 1),
	('looker', '{Look}', 'mallory.looker', '{}', 1);
EOS

$node->safe_psql($db, "SELECT evinbox.record_event('Look', 'before', 'happened')");
wait_for($node, $db, "SELECT count(*) = 1 FROM log.handled WHERE inbox = 'looker' AND subject = 'before'", 'a rule looks around');
$node->safe_psql($db, "SELECT evinbox.record_event('Leave', 'x', 'happened')");
wait_for($node, $db, "SELECT count(*) = 1 FROM log.handled WHERE inbox = 'leaver'", 'another one leaves things behind');
$node->safe_psql($db, "SELECT evinbox.record_event('Look', 'after', 'happened')");
wait_for($node, $db, "SELECT count(*) = 1 FROM log.handled WHERE inbox = 'looker' AND subject = 'after'", 'the first one looks around again');
is_sql($node, $db, "SELECT count(*), count(DISTINCT pid), min(who), min(session) FROM log.handled WHERE inbox IN ('leaver', 'looker')",
	'3|1|mallory|mallory', 'all in one process');
my $plain = as('mallory', <<'EOS');
\o /dev/null
BEGIN; SELECT mallory.leave(); INSERT INTO mallory.commits VALUES (1); COMMIT;
\o
BEGIN READ WRITE; SELECT key FROM jsonb_each(mallory.look()) WHERE value = 'true' ORDER BY 1; COMMIT;
EOS
my @left = split /\n/, $plain;
is(scalar @left, 10, 'in a plain session, all of that stays');
foreach my $what (@left)
{
	is_sql($node, $db, "SELECT state->>'$what' FROM log.handled WHERE inbox = 'looker' AND subject = 'after'", 'false', "from rule to rule: $what");
}

# an error undoes the rest
$node->safe_psql($db, "SELECT evinbox.record_event('Fail', 'x', 'happened')");
wait_for($node, $db, "SELECT dead = 1 FROM evinbox.inbox_status WHERE name = 'failer'", 'one fails');
$node->safe_psql($db, "SELECT evinbox.record_event('Look', 'failed', 'happened')");
wait_for($node, $db, "SELECT count(*) = 1 FROM log.handled WHERE inbox = 'looker' AND subject = 'failed'", 'and another one looks around');
is_sql($node, $db, "SELECT string_agg(key, ', ') FROM log.handled, jsonb_each(state) WHERE inbox = 'looker' AND subject = 'failed' AND value <> 'false'", '',
	'from a rule that fails: nothing');
is_sql($node, $db, "SELECT count(DISTINCT pid) FROM log.handled WHERE inbox IN ('leaver', 'looker')", '1', 'in the same process');
as('mallory', 'DELETE FROM evinbox.inbox');

# -- in sessions of those who operate ---------------------------------------------------
#
# A rule's code may run when a rule is written, where a constant has to be checked;
# then it is her code, which cannot become anybody else's. At any other time there
# is none to run.

as('mallory', <<'EOS');
CREATE TABLE mallory.later (i int);
CREATE CONSTRAINT TRIGGER t AFTER INSERT ON mallory.later DEFERRABLE INITIALLY DEFERRED
	FOR EACH ROW EXECUTE FUNCTION mallory.trap_row('later');
CREATE FUNCTION mallory.try_all() RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	command text;
BEGIN
	PERFORM mallory.trap('tried');
	FOREACH command IN ARRAY ARRAY['RESET ROLE', 'SET ROLE NONE', 'RESET SESSION AUTHORIZATION', 'SET search_path = mallory',
		'PREPARE planted AS SELECT 666', 'CREATE TEMP TABLE planted (i int)', 'LISTEN planted',
		'DECLARE planted CURSOR WITH HOLD FOR SELECT mallory.trap(''held'')', 'INSERT INTO mallory.later VALUES (1)',
		'SELECT evinbox.run()', 'SELECT evinbox.run(''root'')', 'UPDATE evinbox.inbox SET enabled = false WHERE name <> ''hostile''']
	LOOP
		BEGIN
			EXECUTE command;
		EXCEPTION WHEN OTHERS THEN
			NULL;
		END;
		PERFORM mallory.trap('tried');
	END LOOP;
	RETURN true;
END $$;
CREATE DOMAIN mallory.hostile AS text CHECK (mallory.try_all());
SET search_path = mallory;
INSERT INTO evinbox.inbox (name, handler, condition, dispatch, max_attempts, replayable) VALUES ('hostile', 'log.handle',
	$$ '{x}'::hostile[] IS NOT NULL $$, 'scheduled', 1, true);
EOS
my $hostile = "WHERE name = 'hostile'";

# what a session has now that it had not before, and what has run in it
sub session_is_clean
{
	my ($sql, $who, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$node->safe_psql($db, 'DELETE FROM log.trapped');
	my $out = $node->safe_psql($db, <<"EOQ");
\\o /dev/null
$sql;
\\o
SELECT current_setting('search_path'), current_user, session_user, (SELECT count(*) FROM pg_prepared_statements),
	(SELECT count(*) FROM pg_cursors WHERE is_holdable), (SELECT count(*) FROM pg_listening_channels()), pg_my_temp_schema()
EOQ
	is("$out " . $node->safe_psql($db, "SELECT string_agg(DISTINCT who, ' ') FROM log.trapped"),
		qq{"\$user", public|$root|$root|0|0|0|0 $who}, "in the superuser's session: $name");
}

session_is_clean("SELECT evinbox.pause('hostile')", '', 'pause()');
session_is_clean("SELECT evinbox.resume('hostile')", '', 'resume()');
session_is_clean("SELECT evinbox.retry('hostile'), evinbox.retry()", '', 'retry()');
session_is_clean("SELECT evinbox.replay('hostile', 1, 1000)", '', 'replay()');
session_is_clean("SELECT * FROM evinbox.inbox_status; SELECT * FROM evinbox.dead_letter", '', 'the views');
session_is_clean('TABLE evinbox.inbox; COPY evinbox.inbox TO STDOUT', '', 'reading rules');
session_is_clean("UPDATE evinbox.inbox SET priority = 5, enabled = true, name = 'hostile' $hostile", '', 'changing what is no code');
session_is_clean("UPDATE evinbox.inbox SET shards = 2 $hostile", '', 'changing the number of shards');
session_is_clean('SELECT evinbox.run()', '', "run() of one's own");
session_is_clean("DO 'BEGIN PERFORM evinbox.run(''hostile''); EXCEPTION WHEN insufficient_privilege THEN NULL; END'", '', "run() of another's");
session_is_clean("SET search_path = mallory; UPDATE evinbox.inbox SET condition = condition || '' $hostile; RESET search_path", '',
	'a change that is none');
session_is_clean("SET search_path = mallory; UPDATE evinbox.inbox SET condition = condition || ' AND true' $hostile; RESET search_path",
	'mallory', 'changing the condition, which is checked as hers');
session_is_clean("SET search_path = mallory; INSERT INTO evinbox.inbox (name, owner, handler, condition) SELECT 'copy', 'mallory', handler,"
	  . " condition FROM evinbox.inbox $hostile; RESET search_path", 'mallory', 'writing one for her, likewise');
$node->safe_psql($db, "SET session_replication_role = replica; UPDATE evinbox.inbox SET owner_id = 0 $hostile");
session_is_clean("SET search_path = mallory; UPDATE evinbox.inbox SET condition = condition || ' AND true' $hostile; RESET search_path",
	'', 'changing it when its owner is gone, as in a restored dump');
session_is_clean("DELETE FROM evinbox.inbox $hostile", '', 'deleting it');
is_sql($node, $db, "SELECT string_agg(name, ', ') FROM evinbox.inbox WHERE NOT enabled", '', 'no rule was paused by it');
is_sql($node, $db, 'SELECT count(*) FROM log.loot', '0', 'in sessions of those who operate: nothing was taken');
$node->safe_psql($db, "DELETE FROM evinbox.inbox WHERE name = 'copy'");
does_harm('tried', "SELECT '{x}'::mallory.hostile[]", 'her check of a constant');
$node->safe_psql($db, 'UPDATE evinbox.inbox SET enabled = true WHERE NOT enabled');

# REASSIGN OWNED, to the superuser
$node->safe_psql($db, <<'EOS');
CREATE ROLE accomplice LOGIN;
GRANT USAGE ON SCHEMA evinbox TO accomplice;
GRANT INSERT ON evinbox.inbox TO accomplice;
EOS
as('accomplice', "SET search_path = mallory; INSERT INTO evinbox.inbox (name, handler, condition) VALUES ('given', 'log.handle',
	\$\$ '{x}'::hostile[] IS NOT NULL OR trap('given') IS NULL \$\$)");
session_is_clean("REASSIGN OWNED BY accomplice TO $root; SELECT evinbox.record_event('T', 'reassigned', 'happened')", '', 'REASSIGN OWNED');
is_sql($node, $db, "SELECT owner, enabled FROM evinbox.inbox WHERE name = 'given'", "$root|f", 'what was given is paused');
$node->safe_psql($db, "DELETE FROM evinbox.inbox WHERE name = 'given'");

# -- a hostile search_path ------------------------------------------------------------------
#
# Operators and functions that fit better than those of the system, or come first;
# and temporary tables called like ours and like the system's, with triggers.

as('mallory', <<'EOS');
DO $$
DECLARE
	op text;
	type text;
BEGIN
	FOREACH type IN ARRAY ARRAY['text', 'name', 'integer', 'bigint', 'oid', 'boolean', 'jsonb', 'timestamptz', 'interval', 'xid8'] LOOP
		EXECUTE format('CREATE FUNCTION mallory.compare(%1$s, %1$s) RETURNS boolean LANGUAGE plpgsql'
			' AS ''BEGIN PERFORM mallory.trap(''''planted''''); RETURN true; END''', type);
		FOREACH op IN ARRAY ARRAY['=', '<>', '<', '>', '<=', '>='] LOOP
			EXECUTE format('CREATE OPERATOR mallory.%1$s (LEFTARG = %2$s, RIGHTARG = %2$s, FUNCTION = mallory.compare)', op, type);
		END LOOP;
	END LOOP;
	FOR type, op IN VALUES ('now()', 'timestamptz'), ('count(anyelement)', 'bigint'), ('nextval(regclass)', 'bigint'),
		('currval(regclass)', 'bigint'), ('format(text, text)', 'text'), ('pg_has_role(oid, text)', 'boolean'),
		('pg_has_role(text, text)', 'boolean'), ('current_database()', 'name'), ('bool_or(boolean)', 'boolean'),
		('jsonb_exists(jsonb, text)', 'boolean')
	LOOP
		EXECUTE format('CREATE FUNCTION mallory.%s RETURNS %s LANGUAGE plpgsql'
			' AS ''BEGIN PERFORM mallory.trap(''''planted''''); RETURN NULL; END''', type, op);
	END LOOP;
END $$;
EOS
my $planted = 'SET search_path = mallory, pg_catalog, public';
my $shadowed = "SET client_min_messages = error; SET search_path = pg_temp, pg_catalog;"
  . join(' ', map { "CREATE TEMP TABLE $_ (id bigint, name text, oid oid, rolname name, datname name, extname name, owner_id oid, event_id bigint);
	CREATE TRIGGER t BEFORE INSERT OR UPDATE OR DELETE ON $_ FOR EACH ROW EXECUTE FUNCTION mallory.trap_row('planted');" }
	qw(event inbox delivery action halt attempt incarnation pg_class pg_authid pg_roles pg_database pg_namespace pg_proc pg_extension));
my $recorded = "SELECT evinbox.record_event('T', %s, 'planted', 'me', '{}', '1 hour', 'actor')";

my @calls = (
	[ 'record_event(), text', sprintf($recorded, "'a'") ],
	[ 'record_event(), bigint', sprintf($recorded, '1::bigint') ],
	[ 'record_event(), uuid', sprintf($recorded, "'00000000-0000-0000-0000-000000000001'::uuid") ],
	[ 'INSERT of an event', "INSERT INTO evinbox.event (subject_type, subject_id, action) VALUES ('Closed', 'a', 'planted')" ],
	[ 'COPY of events', "COPY evinbox.event (subject_type, subject_id, action) FROM STDIN;\nT\tcopied\tplanted\n\\.\n" ],
	[ 'INSERT of a rule', "INSERT INTO evinbox.inbox (name, handler, condition, replayable) VALUES ('planted', 'log.handle',
		'e.depth OPERATOR(pg_catalog.=) 0', true)" ],
	[ 'UPDATE of a rule', "UPDATE evinbox.inbox SET shards = 2, subject_types = '{T}' WHERE name OPERATOR(pg_catalog.=) 'planted'" ],
	[ 'pause()', "SELECT evinbox.pause('planted')" ],
	[ 'resume()', "SELECT evinbox.resume('planted')" ],
	[ 'replay()', "SELECT evinbox.replay('planted', 1, 1000)" ],
	[ 'retry()', "SELECT evinbox.retry('planted', 1), evinbox.retry()" ],
	[ 'run() of a rule that was written before', "SELECT evinbox.run('pinned')" ],
	[ 'run() of all', 'SELECT evinbox.run()' ],
	[ 'inbox_status', 'TABLE evinbox.inbox_status' ],
	[ 'dead_letter', 'TABLE evinbox.dead_letter' ],
	[ 'worker_status', 'TABLE evinbox.worker_status' ],
	[ 'dispatch_replicated()', 'SELECT evinbox.dispatch_replicated(false)' ],
	[ 'REASSIGN OWNED', 'REASSIGN OWNED BY accomplice TO alice' ],
	[ 'DROP OWNED', 'DROP OWNED BY accomplice' ],
	[ 'DELETE of a rule', "DELETE FROM evinbox.inbox WHERE name OPERATOR(pg_catalog.=) 'planted'" ],);

add_inbox($node, $db, 'pinned', handler => 'log.handle', dispatch => 'scheduled', condition => "e.subject_id <> 'nobody' AND e.depth = 0");
$node->safe_psql($db, "INSERT INTO evinbox.action VALUES ('Closed', 'planted')");
foreach my $way ([ 'search_path', $planted, "SELECT 'a'::text = 'b'::text" ],
	[ 'temporary tables', $shadowed, 'INSERT INTO inbox DEFAULT VALUES' ])
{
	my ($where, $before, $control) = @$way;

	$node->safe_psql($db, "INSERT INTO evinbox.inbox (name, owner, handler) VALUES ('accomplice''s', 'accomplice', 'log.handle')");
	$node->safe_psql($db, 'DELETE FROM log.trapped');
	foreach my $call (@calls)
	{
		my ($what, $sql) = @$call;
		my ($code, $out, $err) = $node->psql($db, "$before;\n$sql", on_error_stop => 1);

		is("$code $err" . (trapped('planted') || ''), '0 ', "hostile $where: $what");
	}
	does_harm('planted', "$before; $control", "hostile $where");
	is_sql($node, $db, "SELECT string_agg(name || ' ' || owner, ', ' ORDER BY name) FROM evinbox.inbox WHERE name NOT IN ('root', 'pinned')",
		"accomplice's alice, alice's alice", "hostile $where: all has been done");
	$node->safe_psql($db, "DELETE FROM evinbox.inbox WHERE name = 'accomplice''s'");
}

# without their schema, a rule's names are looked up where the writer says
my ($code, $out, $err) = $node->psql($db, "CREATE FUNCTION public.work(e evinbox.event) RETURNS void LANGUAGE sql AS '';
	SET SESSION AUTHORIZATION mallory; CREATE FUNCTION mallory.work(e evinbox.event) RETURNS void LANGUAGE sql AS '';
	RESET SESSION AUTHORIZATION; SET search_path = mallory, public;
	INSERT INTO evinbox.inbox (name, handler) VALUES ('i', 'work')");
like($err, qr/handler function "work" belongs to role "mallory"/, 'hostile search_path: her function is no handler of a superuser');

# -- hostile settings --------------------------------------------------------------------------

foreach my $setting ('session_replication_role = replica', "session_preload_libraries = 'auto_explain'", 'evinbox.installed = off',
	"evinbox.actor_source = 'any'", "log_statement = 'all'")
{
	foreach my $where ("DATABASE $db", 'ROLE mallory')
	{
		($code, $out, $err) =
		  $node->psql($db, "ALTER $where SET $setting", extra_params => [ '-U', 'mallory' ]);
		like($err, qr/permission denied to set parameter|cannot be changed now/, "not to be set: $setting for $where");
	}
}
my @hostile = ('search_path = mallory, pg_catalog', 'role = mallory', 'default_transaction_read_only = on',
	"default_transaction_isolation = 'serializable'", 'default_transaction_deferrable = on', 'lock_timeout = 1',
	'statement_timeout = 1', 'idle_in_transaction_session_timeout = 1', 'row_security = off', 'enable_indexscan = off',
	'standard_conforming_strings = off', "datestyle = 'SQL, DMY'", "local_preload_libraries = 'nothing'",
	'check_function_bodies = off');
as('mallory', join(';', map { "ALTER DATABASE $db SET $_; ALTER ROLE mallory SET $_" } @hostile));
{
	local $ENV{PGOPTIONS} = join ' ', map { "-c $_" } 'role=none', 'search_path=public', 'default_transaction_read_only=off',
	  'default_transaction_isolation=read\ committed', 'default_transaction_deferrable=off', 'statement_timeout=0', 'lock_timeout=0',
	  'row_security=on', 'idle_in_transaction_session_timeout=0', 'local_preload_libraries=';

	as('mallory', "INSERT INTO evinbox.inbox (name, handler, config) VALUES ('mallory''s', 'log.handle', '{\"inbox\": \"mallory''s\"}')");
	$node->safe_psql('postgres', "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE backend_type ~ 'evinbox (coordinator|runner)'");
	my $last = $node->safe_psql($db, "DELETE FROM log.trapped; SELECT evinbox.record_event('T', 'settings', 'happened')");
	foreach my $owner ('alice', 'mallory')
	{
		wait_for($node, $db, "SELECT count(*) = 1 FROM log.handled WHERE inbox = '$owner''s' AND subject = 'settings'"
			  . " AND who = '$owner' AND session = '$owner'", "hostile settings: ${owner}'s rule goes on");
	}
	wait_for($node, $db, "SELECT lag_events = 0 AND last_error IS NULL FROM evinbox.inbox_status WHERE name = 'root'",
		"hostile settings: and the superuser's");
	is(trapped('planted') || '', '', 'hostile settings: none brings anything of hers');
	as('mallory', "ALTER DATABASE $db RESET ALL");
	is_sql($node, $db, "SELECT setconfig FROM pg_db_role_setting JOIN pg_database d ON d.oid = setdatabase WHERE datname = '$db'",
		'{evinbox.installed=on}', 'what says that evinbox is here cannot be reset by the owner of the database');
}

# -- in the end ------------------------------------------------------------------------------------

wait_for($node, $db, "SELECT bool_and(lag_events = 0) FROM evinbox.inbox_status WHERE name <> 'pinned'", 'all is handled');
is_sql($node, $db, "SELECT DISTINCT who, session FROM log.handled WHERE inbox = 'alice''s'", 'alice|alice', "alice's rule has always been her");
is_sql($node, $db,
	"SELECT count(*) - (SELECT count(*) FROM evinbox.event) FROM log.handled WHERE inbox = 'alice''s'", '0', 'and has handled each event once');
is_sql($node, $db, 'SELECT count(*) FROM log.loot', '0', 'nobody has taken her secret');
does_harm('x', "SELECT mallory.trap('x')", 'the trap');

is_healthy($node);
$node->stop;
done_testing();
