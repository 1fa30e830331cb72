-- What is said once for all events of a transaction.
\set SHOW_CONTEXT never
SET client_min_messages = error;
CREATE EXTENSION evinbox;
RESET client_min_messages;
CREATE VIEW events AS SELECT action, actor, scope, metadata FROM evinbox.event ORDER BY id;

-- context goes over metadata, without its nulls; the actor given wins over the setting
BEGIN;
SELECT evinbox.set_context('{"request": "r1", "ip": null, "deep": {"a": 1, "b": null}}', 'User:7');
SELECT count(evinbox.record_event('Issue', 1, 'opened'));
SELECT count(evinbox.record_event('Issue', 1, 'forged', metadata => '{"request": "mine", "ip": "here", "more": null}'));
SELECT count(evinbox.record_event('Issue', 1, 'closed', actor => 'User:8'));
INSERT INTO evinbox.event (subject_type, subject_id, action, metadata) VALUES ('Issue', '1', 'inserted', '{"request": 1}');
COPY evinbox.event (subject_type, subject_id, action) FROM STDIN;
Issue	1	copied
\.
-- another one takes its place; the actor stays
SELECT evinbox.set_context('{"request": "r2"}');
SELECT count(evinbox.record_event('Issue', 1, 'seen'));
SAVEPOINT a;
SELECT evinbox.set_context('{"request": "r3"}', 'User:9');
ROLLBACK TO a;
SELECT count(evinbox.record_event('Issue', 1, 'seen again'));
SELECT evinbox.set_context(NULL, '');
SELECT count(evinbox.record_event('Issue', 1, 'left'));
COMMIT;
TABLE events;
-- nothing of it is left for who gets the connection next
SELECT current_setting('evinbox.context') AS context, current_setting('evinbox.actor') AS actor;
BEGIN;
SELECT evinbox.set_context('{"request": "r4"}', 'User:7');
ROLLBACK;
SELECT current_setting('evinbox.context') AS context, current_setting('evinbox.actor') AS actor;

-- the settings may be set by themselves, for a session or a role
BEGIN;
SET LOCAL evinbox.scope = 'Team:1';
SET LOCAL evinbox.context = '{"job": "nightly"}';
SELECT count(evinbox.record_event('Report', 1, 'made'));
SELECT count(evinbox.record_event('Report', 1, 'sent', scope => 'Team:2'));
SELECT * FROM events WHERE scope IS NOT NULL;
ROLLBACK;

-- what an action requires may come from the context
INSERT INTO evinbox.action VALUES ('Page', 'viewed', '{request}');
SELECT evinbox.record_event('Page', 1, 'viewed');
BEGIN;
SELECT evinbox.set_context('{"request": "r5"}');
SELECT count(evinbox.record_event('Page', 1, 'viewed'));
ROLLBACK;

-- what is no context
SELECT evinbox.set_context('[]');
SELECT evinbox.set_context('"a"');
\set VERBOSITY terse
\set SHOW_CONTEXT always
SET evinbox.context = '{"a"';
SELECT evinbox.record_event('Issue', 1, 'opened');
SET evinbox.context = '[1]';
SELECT evinbox.record_event('Issue', 1, 'opened');
\set VERBOSITY default
SELECT evinbox.record_event('Issue', 1, 'opened');
\set SHOW_CONTEXT never
RESET evinbox.context;
-- with it, an event can be too large, too
DO $$
BEGIN
	PERFORM evinbox.set_context(jsonb_build_object('a', repeat('x', 20000000)));
	PERFORM evinbox.record_event('Issue', 1, 'opened', metadata => jsonb_build_object('b', repeat('x', 20000000)));
EXCEPTION WHEN program_limit_exceeded THEN
	RAISE NOTICE '%', sqlerrm;
END $$;

-- batches
CREATE VIEW batches AS SELECT e.action, b.description, b.actor FROM evinbox.event e
	LEFT JOIN evinbox.batch b ON b.id = e.batch_id WHERE e.subject_type = 'Row' ORDER BY e.id;
BEGIN;
SELECT evinbox.set_context(NULL, 'User:7');
SELECT count(evinbox.record_event('Row', 1, 'alone'));
SELECT evinbox.begin_batch('import') > 0 AS begun;
SELECT count(evinbox.record_event('Row', 1, 'first'));
SELECT evinbox.begin_batch('part') > 0 AS begun;
INSERT INTO evinbox.event (subject_type, subject_id, action) VALUES ('Row', '2', 'inner');
-- what is rolled back has not begun, nor ended
SAVEPOINT a;
SELECT evinbox.end_batch();
SELECT evinbox.begin_batch('gone') > 0 AS begun;
SELECT count(evinbox.record_event('Row', 1, 'gone'));
ROLLBACK TO a;
SELECT count(evinbox.record_event('Row', 1, 'still inner'));
DO $$
BEGIN
	PERFORM evinbox.begin_batch('failed');
	RAISE division_by_zero;
EXCEPTION WHEN division_by_zero THEN
	PERFORM evinbox.record_event('Row', 1, 'inner to the end');
END $$;
SELECT evinbox.end_batch();
SELECT count(evinbox.record_event('Row', 1, 'last'));
SELECT evinbox.end_batch();
SELECT count(evinbox.record_event('Row', 1, 'alone again'));
SELECT evinbox.end_batch();
ROLLBACK;
TABLE batches;
BEGIN;
SELECT evinbox.begin_batch(NULL) > 0 AS begun;
SELECT count(evinbox.record_event('Row', 1, 'in a batch'));
SELECT count(evinbox.record_event('Row', 1, 'in it, too')) FROM generate_series(1, 2);
COMMIT;
-- it has ended with the transaction
SELECT count(evinbox.record_event('Row', 1, 'outside'));
SELECT evinbox.end_batch();
TABLE batches;
SELECT count(*) FROM evinbox.batch;
-- nobody else says what batch it is
SET evinbox.batch = '1 ';
SELECT set_config('evinbox.batch', '1 ', true);

-- a function that sets something of its own may begin and end one
CREATE FUNCTION import() RETURNS void LANGUAGE plpgsql SET search_path = pg_catalog AS $$
BEGIN
	PERFORM evinbox.begin_batch('by a function');
	PERFORM evinbox.record_event('Row', 3, 'in a function');
	PERFORM evinbox.end_batch();
	PERFORM evinbox.record_event('Row', 3, 'behind it');
	PERFORM evinbox.begin_batch('left open');
END $$;
BEGIN;
SELECT import();
SELECT count(evinbox.record_event('Row', 3, 'after it'));
COMMIT;
SELECT * FROM batches WHERE action IN ('in a function', 'behind it', 'after it');

BEGIN READ ONLY;
SELECT evinbox.begin_batch('none');
ROLLBACK;
DROP VIEW events, batches;
DROP FUNCTION import;
DROP EXTENSION evinbox;
