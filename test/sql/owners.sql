-- Whose rules: owners, and what they may.
\set SHOW_CONTEXT never
SET client_min_messages = error;
CREATE EXTENSION evinbox;
RESET client_min_messages;
SET client_min_messages = warning;
CREATE ROLE regress_evinbox_writer LOGIN;
CREATE ROLE regress_evinbox_other LOGIN;
CREATE ROLE regress_evinbox_group;
GRANT regress_evinbox_group TO regress_evinbox_writer;
GRANT USAGE ON SCHEMA evinbox TO regress_evinbox_writer, regress_evinbox_other;
GRANT SELECT, INSERT, UPDATE, DELETE ON evinbox.inbox TO regress_evinbox_writer, regress_evinbox_other;
GRANT EXECUTE ON FUNCTION evinbox.run, evinbox.schedule TO regress_evinbox_writer, regress_evinbox_other;
GRANT CREATE ON SCHEMA public TO regress_evinbox_writer;
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
UPDATE evinbox.inbox SET priority = 1 WHERE name = 'own';
RESET ROLE;
SELECT name, owner FROM evinbox.inbox ORDER BY name;

-- a worker has to log in as the owner
INSERT INTO evinbox.inbox (name, handler, owner) VALUES ('i', 'handle', 'regress_evinbox_group');
UPDATE evinbox.inbox SET dispatch = 'live' WHERE name = 'group';

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
SET ROLE regress_evinbox_writer;
SELECT evinbox.run('own');
SELECT evinbox.run('group');
SELECT evinbox.schedule('group', '* * * * *');
SET ROLE regress_evinbox_group;
SELECT evinbox.run('group');
RESET ROLE;
GRANT USAGE ON SCHEMA evinbox TO regress_evinbox_group;
GRANT EXECUTE ON FUNCTION evinbox.run TO regress_evinbox_group;

-- with the owner's rights, and no others
CREATE FUNCTION peep(e evinbox.event) RETURNS void LANGUAGE plpgsql
	AS $$ BEGIN RAISE NOTICE '% of %, secrets: %', current_user, session_user = current_user, (SELECT count(*) FROM secret); END $$;
UPDATE evinbox.inbox SET handler = 'peep' WHERE name = 'group';
SELECT evinbox.record_event('T', 1, 'done');
SET ROLE regress_evinbox_group;
SELECT evinbox.run('group');
RESET ROLE;
SELECT state, lag_events, last_error FROM evinbox.inbox_status WHERE name = 'group';
SELECT count(*) FROM evinbox.delivery;
GRANT SELECT ON secret TO regress_evinbox_group;
SELECT evinbox.record_event('T', 2, 'done');
SET ROLE regress_evinbox_group;
SELECT evinbox.run('group');
RESET ROLE;
SELECT state, lag_events, last_error FROM evinbox.inbox_status WHERE name = 'group';

-- a handler needs no rights in evinbox but may not have what it was not given
SELECT evinbox.record_event('T', 3, 'done');
CREATE OR REPLACE FUNCTION handle(e evinbox.event) RETURNS void LANGUAGE plpgsql
	AS $$ BEGIN PERFORM 1 FROM evinbox_internal.outbox_0; END $$;
UPDATE evinbox.inbox SET owner = 'regress_evinbox_writer' WHERE name = 'own';
SET ROLE regress_evinbox_writer;
SELECT evinbox.run('own');
RESET ROLE;
SELECT state, lag_events, last_error FROM evinbox.inbox_status WHERE name = 'own';
CREATE OR REPLACE FUNCTION handle(e evinbox.event) RETURNS void LANGUAGE sql AS '';
SET ROLE regress_evinbox_writer;
SELECT evinbox.run('own');
RESET ROLE;
SELECT state, lag_events, last_error FROM evinbox.inbox_status WHERE name = 'own';
SELECT count(*) FROM evinbox.delivery;

-- run() without a name: one's own and live ones only, each as its turn comes
BEGIN;
CREATE OR REPLACE FUNCTION handle(e evinbox.event) RETURNS void LANGUAGE plpgsql
	AS $$ BEGIN RAISE NOTICE 'handled as %', current_user; END $$;
UPDATE evinbox.inbox SET dispatch = 'live', condition = 'e.subject_id = ''4''' WHERE name = 'own';
SELECT evinbox.record_event('T', 4, 'done');
SET LOCAL ROLE regress_evinbox_other;
SELECT evinbox.run();
SET LOCAL ROLE regress_evinbox_writer;
SELECT evinbox.run();
ROLLBACK;

-- an owner that is gone halts its inbox, which can be paused and given to another
UPDATE evinbox.inbox SET owner = 'regress_evinbox_other' WHERE name = 'own';
REVOKE ALL ON evinbox.inbox FROM regress_evinbox_other;
REVOKE ALL ON SCHEMA evinbox FROM regress_evinbox_other;
REVOKE ALL ON FUNCTION evinbox.run, evinbox.schedule FROM regress_evinbox_other;
DROP ROLE regress_evinbox_other;
\set VERBOSITY terse
SELECT evinbox.run('own');
\set VERBOSITY default
SELECT state FROM evinbox.inbox_status WHERE name = 'own';
UPDATE evinbox.inbox SET enabled = false WHERE name = 'own' RETURNING name, enabled;
UPDATE evinbox.inbox SET enabled = true, owner = 'regress_evinbox_writer' WHERE name = 'own' RETURNING name, owner;

SET client_min_messages = warning;
DROP EXTENSION evinbox CASCADE;
DROP TABLE secret;
DROP SCHEMA closed CASCADE;
DROP OWNED BY regress_evinbox_writer, regress_evinbox_group;
DROP ROLE regress_evinbox_writer, regress_evinbox_group;
