-- run(): what it handles, when, and how often.
\set SHOW_CONTEXT never
SET client_min_messages = error;
CREATE EXTENSION evinbox;
RESET client_min_messages;
CREATE TABLE seen (n serial, inbox text, id bigint);
CREATE FUNCTION note(e evinbox.event, config jsonb) RETURNS void LANGUAGE sql
	AS $$ INSERT INTO public.seen (inbox, id) VALUES (config ->> 'as', e.id) $$;
-- before the inbox is there, nothing is for it; what its own transaction has
-- recorded before is
SELECT evinbox.record_event('T', 'before', 'done');
BEGIN;
SELECT evinbox.record_event('T', 'same transaction', 'done');
INSERT INTO evinbox.inbox (name, handler, dispatch, config) VALUES ('s', 'note', 'scheduled', '{"as": "s"}');
SELECT evinbox.record_event('T', 'after', 'done');
COMMIT;
SELECT evinbox.run('s');
SELECT e.id, e.subject_id FROM seen s JOIN evinbox.event e USING (id) ORDER BY s.n;
TRUNCATE seen;

-- once
SELECT evinbox.run('s');
SELECT evinbox.record_event('T', 1, 'done');
SELECT evinbox.run('s');
SELECT evinbox.run('s');

-- in a test: all of it goes away again
BEGIN;
SELECT evinbox.record_event('T', 2, 'done');
SELECT evinbox.run('s');
SELECT inbox, id FROM seen ORDER BY n;
ROLLBACK;
SELECT inbox, id FROM seen ORDER BY n;
SELECT evinbox.run('s');

-- the same handled for good: before, between and after the events
BEGIN;
SELECT evinbox.run('s');
SELECT evinbox.record_event('T', 3, 'done');
SELECT evinbox.run('s');
SELECT evinbox.run('s');
SELECT evinbox.record_event('T', n, 'done') FROM generate_series(4, 5) n;
SELECT evinbox.run('s');
SELECT evinbox.record_event('T', 6, 'done');
COMMIT;
SELECT evinbox.run('s');
SELECT evinbox.run('s');
SELECT string_agg(e.subject_id, ' ' ORDER BY s.n) AS handled FROM seen s JOIN evinbox.event e USING (id);
TRUNCATE seen;

-- the same with events of others before it
SELECT evinbox.record_event('T', 7, 'done');
BEGIN;
SELECT evinbox.record_event('T', 8, 'done');
SELECT evinbox.run('s');
SELECT evinbox.record_event('T', 9, 'done');
SELECT evinbox.run('s');
COMMIT;
SELECT evinbox.record_event('T', 10, 'done');
BEGIN;
SELECT evinbox.run('s');
SELECT evinbox.record_event('T', 11, 'done');
COMMIT;
SELECT evinbox.run('s');
SELECT evinbox.run('s');
SELECT string_agg(e.subject_id, ' ' ORDER BY s.n) AS handled FROM seen s JOIN evinbox.event e USING (id);
TRUNCATE seen;

-- savepoints: what is undone is not handled, and a run that is undone was none
BEGIN;
SAVEPOINT a;
SELECT evinbox.record_event('T', 12, 'done');
SELECT evinbox.run('s');
ROLLBACK TO a;
SELECT evinbox.run('s');
SELECT evinbox.record_event('T', 13, 'done');
SAVEPOINT a;
SELECT evinbox.run('s');
ROLLBACK TO a;
SELECT evinbox.run('s');
SAVEPOINT a;
SELECT evinbox.record_event('T', 14, 'done');
RELEASE a;
SELECT evinbox.run('s');
COMMIT;
SELECT evinbox.run('s');
SELECT string_agg(e.subject_id, ' ' ORDER BY s.n) AS handled FROM seen s JOIN evinbox.event e USING (id);
TRUNCATE seen;

-- in PL/pgSQL, and within one statement
DO $$
BEGIN
	FOR i IN 15..17 LOOP
		PERFORM evinbox.record_event('T', i, 'done');
		RAISE NOTICE 'handled: %', evinbox.run('s');
	END LOOP;
	BEGIN
		PERFORM evinbox.record_event('T', 18, 'done');
		PERFORM evinbox.run('s');
		RAISE EXCEPTION 'undo';
	EXCEPTION WHEN raise_exception THEN NULL;
	END;
	RAISE NOTICE 'handled: %', evinbox.run('s');
END $$;
SELECT evinbox.run('s');
SELECT string_agg(e.subject_id, ' ' ORDER BY s.n) AS handled FROM seen s JOIN evinbox.event e USING (id);
TRUNCATE seen;

-- at the other isolation levels
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT evinbox.record_event('T', 20, 'done') > 0 AS recorded;
SELECT evinbox.run('s');
SELECT evinbox.record_event('T', 21, 'done') > 0 AS recorded;
SELECT evinbox.run('s');
SELECT evinbox.run('s');
SELECT count(*) FROM seen;
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT evinbox.run('s');
SELECT evinbox.record_event('T', 22, 'done') > 0 AS recorded;
SELECT evinbox.run('s');
SELECT evinbox.run('s');
COMMIT;
SELECT evinbox.run('s');
SELECT string_agg(e.subject_id, ' ' ORDER BY s.n) AS handled FROM seen s JOIN evinbox.event e USING (id);
TRUNCATE seen;

-- no more than max_events, from where the former one has stopped
SELECT evinbox.record_event('T', n, 'done') > 0 AS recorded FROM generate_series(30, 34) n;
SELECT evinbox.run('s', 2);
SELECT evinbox.run('s', max_events => 1);
BEGIN;
SELECT evinbox.run('s', 1);
ROLLBACK;
SELECT evinbox.run('s', 1);
SELECT evinbox.run('s', 10);
SELECT evinbox.run('s', 10);
SELECT string_agg(e.subject_id, ' ' ORDER BY s.n) AS handled FROM seen s JOIN evinbox.event e USING (id);
TRUNCATE seen;
-- in a transaction that has events itself
SELECT evinbox.record_event('T', n, 'done') > 0 AS recorded FROM generate_series(40, 42) n;
BEGIN;
SELECT evinbox.record_event('T', n, 'done') > 0 AS recorded FROM generate_series(43, 45) n;
SELECT evinbox.run('s', 2);
SELECT evinbox.run('s', 2);
SELECT evinbox.record_event('T', 46, 'done') > 0 AS recorded;
SELECT evinbox.run('s', 1);
COMMIT;
SELECT evinbox.run('s', 1);
SELECT evinbox.run('s');
SELECT string_agg(e.subject_id, ' ' ORDER BY s.n) AS handled FROM seen s JOIN evinbox.event e USING (id);
TRUNCATE seen;
SELECT evinbox.run('s', 0);
SELECT evinbox.run('s', -1);
SELECT evinbox.run(max_events => 0);

-- what it does not do
SELECT evinbox.run('missing');
SELECT evinbox.run('');
UPDATE evinbox.inbox SET enabled = false;
SELECT evinbox.record_event('T', 50, 'done') > 0 AS recorded;
SELECT evinbox.run('s');
UPDATE evinbox.inbox SET enabled = true;
SELECT evinbox.run('s');
TRUNCATE seen;

-- without a name: all live ones, in the order of priority and name. Here they
-- are never visible to a worker.
BEGIN;
INSERT INTO evinbox.inbox (name, handler, config, priority)
	VALUES ('last', 'note', '{"as": "last"}', 20), ('b', 'note', '{"as": "b"}', 10), ('a', 'note', '{"as": "a"}', 10),
		('first', 'note', '{"as": "first"}', -1);
INSERT INTO evinbox.inbox (name, handler, config, enabled) VALUES ('paused', 'note', '{"as": "paused"}', false);
SELECT evinbox.record_event('T', n, 'done') > 0 AS recorded FROM generate_series(60, 61) n;
SELECT evinbox.run();
SELECT inbox, e.subject_id FROM seen s JOIN evinbox.event e USING (id) ORDER BY s.n;
SELECT evinbox.run();
-- of all of them together
SELECT evinbox.record_event('T', 62, 'done') > 0 AS recorded;
SELECT evinbox.run(NULL, 3);
SELECT evinbox.run(max_events => 3);
SELECT inbox, e.subject_id FROM seen s JOIN evinbox.event e USING (id) WHERE e.subject_id = '62' ORDER BY s.n;
SELECT evinbox.run('s');
ROLLBACK;
SELECT evinbox.run();

-- renaming and changing a rule does not change where it stands
SELECT evinbox.record_event('T', 70, 'done') > 0 AS recorded;
SELECT evinbox.run('s');
SELECT evinbox.record_event('T', 71, 'done') > 0 AS recorded;
UPDATE evinbox.inbox SET name = 'renamed', config = '{"as": "renamed"}';
SELECT evinbox.run('s');
SELECT evinbox.run('renamed');
SELECT inbox, e.subject_id FROM seen s JOIN evinbox.event e USING (id) ORDER BY s.n;
TRUNCATE seen;
-- but a new one of the same name is new
SELECT evinbox.record_event('T', 72, 'done') > 0 AS recorded;
DELETE FROM evinbox.inbox;
INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES ('renamed', 'note', 'scheduled');
SELECT evinbox.run('renamed');
BEGIN;
DELETE FROM evinbox.inbox;
SELECT evinbox.run('renamed');
ROLLBACK;

-- nothing to do, nothing to write
SELECT evinbox.run('renamed');
BEGIN;
SELECT evinbox.run('renamed');
SELECT pg_current_xact_id_if_assigned() IS NULL AS no_xid;
COMMIT;
-- but not where nothing may be written
BEGIN READ ONLY;
SELECT evinbox.run('renamed');
ROLLBACK;

-- not from within a handler
CREATE FUNCTION nested(e evinbox.event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM evinbox.run('renamed'); END $$;
UPDATE evinbox.inbox SET handler = 'nested', max_attempts = 1;
SELECT evinbox.record_event('T', 80, 'done') > 0 AS recorded;
SET client_min_messages = error;	-- a warning would tell the event's id
SELECT evinbox.run('renamed');
RESET client_min_messages;
SELECT last_error, last_sqlstate FROM evinbox.delivery;
-- nor from within a condition
CREATE FUNCTION nested(inbox text) RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM evinbox.run(inbox); RETURN true; END $$;
UPDATE evinbox.inbox SET handler = 'note', condition = 'nested(''renamed'')';
SELECT evinbox.record_event('T', 81, 'done') > 0 AS recorded;
SET client_min_messages = error;
SELECT evinbox.run('renamed');
RESET client_min_messages;
SELECT state, last_sqlstate FROM evinbox.delivery d JOIN evinbox.event e ON e.id = d.event_id WHERE subject_id = '81';
-- and it is possible again afterwards
UPDATE evinbox.inbox SET condition = NULL;
SELECT evinbox.record_event('T', 82, 'done') > 0 AS recorded;
SELECT evinbox.run('renamed');

-- in a prepared statement, and for every caller of a plan
PREPARE run AS SELECT evinbox.run('renamed');
EXECUTE run;
SELECT evinbox.record_event('T', 83, 'done') > 0 AS recorded;
EXECUTE run;
EXECUTE run;

SET client_min_messages = warning;
DROP EXTENSION evinbox CASCADE;
DROP TABLE seen;
