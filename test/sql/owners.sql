-- Whose rules: owners, and what they may.
\set SHOW_CONTEXT never
SET client_min_messages = error;
CREATE EXTENSION evinbox;
SELECT current_user AS superuser \gset
SET client_min_messages = warning;
CREATE ROLE regress_evinbox_writer LOGIN;
CREATE ROLE regress_evinbox_other LOGIN;
CREATE ROLE regress_evinbox_group LOGIN;
CREATE ROLE regress_evinbox_superuser LOGIN SUPERUSER;
GRANT regress_evinbox_group TO regress_evinbox_writer;
GRANT USAGE ON SCHEMA evinbox TO regress_evinbox_writer, regress_evinbox_other;
GRANT SELECT, INSERT, UPDATE, DELETE ON evinbox.inbox TO regress_evinbox_writer, regress_evinbox_other;
GRANT EXECUTE ON FUNCTION evinbox.run, evinbox.schedule TO regress_evinbox_writer, regress_evinbox_other;
GRANT EXECUTE ON FUNCTION evinbox.record_event(text, text, text, text, jsonb, interval, text, jsonb, text, timestamptz)
	TO regress_evinbox_writer, regress_evinbox_other;
RESET client_min_messages;
CREATE FUNCTION handle(e evinbox.event) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION guarded(e evinbox.event) RETURNS void LANGUAGE sql AS '';
REVOKE EXECUTE ON FUNCTION guarded FROM PUBLIC;
CREATE TABLE secret (id int);

-- one's own, by default, or that of a group
SET ROLE regress_evinbox_writer;
INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES ('own', 'handle', 'scheduled') RETURNING owner;
INSERT INTO evinbox.inbox (name, handler, dispatch, owner)
	VALUES ('group', 'handle', 'scheduled', 'regress_evinbox_group') RETURNING owner;

-- but nobody else's
INSERT INTO evinbox.inbox (name, handler, dispatch, owner) VALUES ('i', 'handle', 'scheduled', 'regress_evinbox_other');
UPDATE evinbox.inbox SET owner = 'regress_evinbox_other' WHERE name = 'own';
INSERT INTO evinbox.inbox (name, handler, dispatch, owner) VALUES ('i', 'handle', 'scheduled', 'regress_evinbox_nobody');
INSERT INTO evinbox.inbox (name, handler, dispatch, owner) VALUES ('i', 'handle', 'scheduled', NULL);
RESET ROLE;
SET ROLE regress_evinbox_other;
UPDATE evinbox.inbox SET priority = 1 WHERE name = 'own' RETURNING name;
RESET ROLE;
SELECT name, owner FROM evinbox.inbox ORDER BY name;

-- what counts is what the owner may, not the writer
INSERT INTO evinbox.inbox (name, handler, dispatch, owner) VALUES ('i', 'guarded', 'scheduled', 'regress_evinbox_writer');
INSERT INTO evinbox.inbox (name, handler, dispatch, owner, condition)
	VALUES ('i', 'handle', 'scheduled', 'regress_evinbox_writer', 'EXISTS (SELECT FROM nowhere.at_all)');
CREATE SCHEMA closed;
CREATE FUNCTION closed.handle(e evinbox.event) RETURNS void LANGUAGE sql AS '';
INSERT INTO evinbox.inbox (name, handler, dispatch, owner) VALUES ('i', 'closed.handle', 'scheduled', 'regress_evinbox_writer');

-- a rule is written without any of its code being run
CREATE FUNCTION tell(e evinbox.event) RETURNS boolean LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RAISE NOTICE ''ran''; RETURN true; END';
INSERT INTO evinbox.inbox (name, handler, dispatch, condition) VALUES ('i', 'tell', 'scheduled', 'tell(e)');
INSERT INTO evinbox.inbox (name, handler, dispatch, condition) VALUES ('j', 'tell', 'scheduled', 'tell(NULL)');
DELETE FROM evinbox.inbox WHERE name IN ('i', 'j');

-- rules run only as their owner
SELECT evinbox.run('own');
SELECT evinbox.schedule('own', '* * * * *');
\c - regress_evinbox_writer
SELECT evinbox.run('own');
SELECT evinbox.run('group');
SELECT evinbox.schedule('group', '* * * * *');
\c - regress_evinbox_group
SELECT evinbox.run('group');
\c - :superuser
GRANT USAGE ON SCHEMA evinbox TO regress_evinbox_group;
GRANT EXECUTE ON FUNCTION evinbox.run TO regress_evinbox_group;

-- with the owner's rights, and no others
CREATE FUNCTION peep(e evinbox.event) RETURNS void LANGUAGE plpgsql
	AS $$ BEGIN RAISE NOTICE '% of %, secrets: %', current_user, session_user = current_user, (SELECT count(*) FROM secret); END $$;
UPDATE evinbox.inbox SET handler = 'peep' WHERE name = 'group';
SELECT evinbox.record_event('T', 1, 'done');
\c - regress_evinbox_group
SELECT evinbox.run('group');
\c - :superuser
SELECT state, lag_events, last_error FROM evinbox.inbox_status WHERE name = 'group';
SELECT count(*) FROM evinbox.delivery;
GRANT SELECT ON secret TO regress_evinbox_group;
SELECT evinbox.record_event('T', 2, 'done');
\c - regress_evinbox_group
SELECT evinbox.run('group');
\c - :superuser
SELECT state, lag_events, last_error FROM evinbox.inbox_status WHERE name = 'group';

-- a handler needs no rights in evinbox but may not have what it was not given
SELECT evinbox.record_event('T', 3, 'done');
CREATE OR REPLACE FUNCTION handle(e evinbox.event) RETURNS void LANGUAGE plpgsql
	AS $$ BEGIN PERFORM 1 FROM evinbox_internal.outbox_0; END $$;
UPDATE evinbox.inbox SET owner = 'regress_evinbox_writer' WHERE name = 'own';
\c - regress_evinbox_writer
SELECT evinbox.run('own');
\c - :superuser
SELECT state, lag_events, last_error FROM evinbox.inbox_status WHERE name = 'own';
CREATE OR REPLACE FUNCTION handle(e evinbox.event) RETURNS void LANGUAGE sql AS '';
\c - regress_evinbox_writer
SELECT evinbox.run('own');
\c - :superuser
SELECT state, lag_events, last_error FROM evinbox.inbox_status WHERE name = 'own';
SELECT count(*) FROM evinbox.delivery;

-- in a session of their owner: not by SET ROLE, whose end their code could bring about
CREATE FUNCTION escape(e evinbox.event) RETURNS void LANGUAGE plpgsql AS 'BEGIN RESET ROLE; INSERT INTO secret VALUES (1); END';
UPDATE evinbox.inbox SET handler = 'escape' WHERE name = 'own';
SELECT evinbox.record_event('T', 4, 'done');
\c - regress_evinbox_superuser
SET ROLE regress_evinbox_writer;
SELECT evinbox.run('own');
SELECT evinbox.run();
RESET ROLE;
SET SESSION AUTHORIZATION regress_evinbox_writer;
SELECT evinbox.run('own');
SELECT evinbox.run();
RESET SESSION AUTHORIZATION;
-- nor as whoever a function is defined by
CREATE FUNCTION run_for_all(inbox text) RETURNS bigint LANGUAGE sql SECURITY DEFINER AS 'SELECT evinbox.run(inbox)';
INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES ('superuser''s', 'handle', 'scheduled');
\c - regress_evinbox_writer
SELECT run_for_all('own');
SELECT run_for_all('superuser''s');
SELECT run_for_all(NULL);
SET ROLE regress_evinbox_group;
SELECT evinbox.run('group');
RESET ROLE;
-- there is nobody else to become
SELECT evinbox.run('own');
\c - regress_evinbox_superuser
SELECT run_for_all('superuser''s');
\c - :superuser
SELECT state, lag_events, last_error FROM evinbox.inbox_status WHERE name = 'own';
SELECT count(*) FROM secret;
DELETE FROM evinbox.inbox WHERE name = 'superuser''s';

-- run() without a name: one's own and live ones only, each as its turn comes. Here
-- they are never visible to a worker.
CREATE FUNCTION tell_user(e evinbox.event) RETURNS void LANGUAGE plpgsql
	AS $$ BEGIN RAISE NOTICE 'handled as %', current_user; END $$;
GRANT regress_evinbox_writer TO regress_evinbox_other;
\c - regress_evinbox_other
BEGIN;
UPDATE evinbox.inbox SET handler = 'tell_user', dispatch = 'live', condition = 'e.subject_id = ''5''' WHERE name = 'own';
SELECT evinbox.record_event('T', '5', 'done') > 0 AS recorded;
SELECT evinbox.run();
ROLLBACK;
\c - regress_evinbox_writer
BEGIN;
UPDATE evinbox.inbox SET handler = 'tell_user', dispatch = 'live', condition = 'e.subject_id = ''5''' WHERE name = 'own';
SELECT evinbox.record_event('T', '5', 'done') > 0 AS recorded;
SELECT evinbox.run();
ROLLBACK;
\c - :superuser

-- an owner that is gone halts its inbox, which can be paused and given to another;
-- a role of its name is another one
SET session_replication_role = replica;
UPDATE evinbox.inbox SET owner = 'regress_evinbox_other', owner_id = 0 WHERE name = 'own';
RESET session_replication_role;
\c - regress_evinbox_other
SELECT evinbox.run('own');
UPDATE evinbox.inbox SET enabled = false WHERE name = 'own' RETURNING name, enabled;
\c - :superuser
SELECT evinbox.run('own');
SELECT state FROM evinbox.inbox_status WHERE name = 'own';
UPDATE evinbox.inbox SET enabled = false, handler = 'handle' WHERE name = 'own' RETURNING name, enabled;
UPDATE evinbox.inbox SET enabled = true, owner = 'regress_evinbox_writer' WHERE name = 'own' RETURNING name, owner;

SET client_min_messages = warning;
DROP EXTENSION evinbox CASCADE;
DROP TABLE secret;
DROP SCHEMA closed CASCADE;
DROP FUNCTION run_for_all;
DROP ROLE regress_evinbox_writer, regress_evinbox_other, regress_evinbox_superuser;
DROP OWNED BY regress_evinbox_group;
DROP ROLE regress_evinbox_group;
