-- What must not harm the server, the session or an event, whatever is done.
SET client_min_messages = error;
CREATE EXTENSION evinbox;
RESET client_min_messages;
\set VERBOSITY terse

CREATE TABLE handled (n serial, subject text);
CREATE FUNCTION handle(e evinbox.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF e.action = 'fails' THEN
		RAISE 'no';
	ELSIF e.action = 'sleeps' THEN
		PERFORM pg_sleep(60);
	END IF;
	INSERT INTO handled (subject) VALUES (e.subject_id);
END $$;
INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES ('a', 'handle', 'scheduled');

-- trigger functions are nothing else
SELECT evinbox_internal.event_before_insert();
SELECT evinbox_internal.inbox_check();
SELECT evinbox_internal.inbox_changed();

-- a failure in run() leaves the caller's statement_timeout in force
SELECT evinbox.record_event('T', 'one', 'fails') IS NOT NULL AS recorded;
SELECT evinbox.record_event('T', 'two', 'sleeps') IS NOT NULL AS recorded;
SET statement_timeout = '500ms';
SELECT evinbox.run('a');
RESET statement_timeout;
SELECT count(*) FROM evinbox.delivery;
DELETE FROM evinbox.inbox;
INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES ('a', 'handle', 'scheduled');

-- an id below those that the transaction has dispatched would never be seen
BEGIN;
SELECT evinbox.record_event('T', 'own', 'x') IS NOT NULL AS recorded;
SELECT evinbox.run('a');
SAVEPOINT s;
\set VERBOSITY sqlstate
INSERT INTO evinbox.event (id, subject_type, subject_id, action) OVERRIDING SYSTEM VALUE
VALUES (-7, 'T', 'low', 'x');
\set VERBOSITY terse
ROLLBACK TO s;
SELECT evinbox.record_event('T', 'own again', 'x') IS NOT NULL AS recorded;
SELECT evinbox.run('a');
COMMIT;
SELECT evinbox.run('a');
SELECT subject FROM handled ORDER BY n;

-- ids that run ahead in the session's own cache of the sequence
BEGIN;
ALTER TABLE evinbox.event ALTER id SET CACHE 50;
SELECT evinbox.record_event('T', 'cached', 'x') IS NOT NULL AS recorded;
SELECT evinbox.run('a');
SELECT evinbox.record_event('T', 'cached again', 'x') IS NOT NULL AS recorded;
SELECT evinbox.run('a');
ALTER TABLE evinbox.event ALTER id SET CACHE 1;
COMMIT;

-- as many indexes as there were, but others
BEGIN;
DROP INDEX evinbox.event_actor_subject_action_idx;
CREATE INDEX ON evinbox.event ((metadata->>'size'));
SELECT evinbox.record_event('T', 'indexed', 'x', metadata => '{"size": 1}') IS NOT NULL AS recorded;
SET LOCAL enable_seqscan = off;
SELECT subject_id FROM evinbox.event WHERE metadata->>'size' = '1';
ROLLBACK;

-- rules of the old kind, and triggers that are off, are respected
BEGIN;
ALTER TABLE evinbox.event DISABLE TRIGGER event_after_insert;
SELECT evinbox.record_event('T', 'silent', 'x') IS NOT NULL AS recorded;
SELECT evinbox.run('a');
ROLLBACK;
BEGIN;
CREATE RULE also AS ON INSERT TO evinbox.event DO ALSO INSERT INTO handled (subject) VALUES ('by a rule');
SELECT evinbox.record_event('T', 'ruled', 'x') IS NOT NULL AS recorded;
SELECT subject FROM handled WHERE subject = 'by a rule';
ROLLBACK;

-- code that others have added runs as the caller
CREATE ROLE regress_evinbox_app;
GRANT USAGE ON SCHEMA evinbox TO regress_evinbox_app;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA evinbox TO regress_evinbox_app;
CREATE FUNCTION whoami() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RAISE WARNING 'I am %', current_user;
	RETURN NEW;
END $$;
CREATE TRIGGER whoami BEFORE INSERT ON evinbox.event FOR EACH STATEMENT EXECUTE FUNCTION whoami();
SET ROLE regress_evinbox_app;
SELECT evinbox.record_event('T', 'x', 'x');
RESET ROLE;
GRANT INSERT, SELECT (id) ON evinbox.event TO regress_evinbox_app;
SET ROLE regress_evinbox_app;
SELECT evinbox.record_event('T', 'x', 'x') IS NOT NULL AS recorded;
RESET ROLE;

\set VERBOSITY default
SET client_min_messages = warning;
DROP EXTENSION evinbox CASCADE;
DROP TABLE handled;
DROP FUNCTION whoami;
DROP ROLE regress_evinbox_app;
