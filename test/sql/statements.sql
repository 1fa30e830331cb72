-- Rules with a statement: one query for a batch of events.
\set SHOW_CONTEXT never
SET client_min_messages = error;
CREATE EXTENSION evinbox;
RESET client_min_messages;
SELECT current_user AS superuser \gset
CREATE TABLE daily_count (action text, day date, n bigint, PRIMARY KEY (action, day));
CREATE TABLE batch (n serial, inbox text, ids bigint[], subjects text[]);
CREATE FUNCTION note(inbox text, ids bigint[], subjects text[]) RETURNS void LANGUAGE sql
	AS $$ INSERT INTO public.batch (inbox, ids, subjects) VALUES (inbox, ids, subjects) $$;
CREATE VIEW batches AS SELECT inbox, array_to_string(subjects, ' ') AS subjects FROM batch ORDER BY n;
CREATE VIEW failed AS
	SELECT d.inbox, e.subject_id, d.state, d.attempts, d.last_error, d.last_sqlstate
	FROM evinbox.delivery d JOIN evinbox.event e ON e.id = d.event_id ORDER BY d.inbox, e.id;
CREATE FUNCTION record_some(first int, last int, action text = 'done') RETURNS bigint LANGUAGE sql
	AS $$ SELECT count(evinbox.record_event('T', n, action)) FROM generate_series(first, last) n $$;

-- an aggregate, once a batch
INSERT INTO evinbox.inbox (name, statement, dispatch) VALUES ('count', $$
	INSERT INTO daily_count
		SELECT action, recorded_at::date, count(*) FROM events GROUP BY 1, 2
		ON CONFLICT (action, day) DO UPDATE SET n = daily_count.n + excluded.n
	$$, 'scheduled');
SELECT handler, statement, search_path FROM evinbox.inbox;
SELECT record_some(1, 3), record_some(4, 5, 'undone');
SELECT evinbox.run('count');
SELECT action, n FROM daily_count ORDER BY action;
SELECT record_some(6, 10);
SELECT evinbox.run('count');
SELECT evinbox.run('count');
SELECT action, n FROM daily_count ORDER BY action;
-- in the transaction of the events, and undone with it
BEGIN;
SELECT record_some(11, 12, 'undone');
SELECT evinbox.run('count');
SELECT action, n FROM daily_count ORDER BY action;
ROLLBACK;
SELECT action, n FROM daily_count ORDER BY action;
DELETE FROM evinbox.inbox;

-- rows of evinbox.event, all columns and in the order of ids
CREATE TABLE copy (LIKE evinbox.event);
INSERT INTO evinbox.inbox (name, statement, dispatch) VALUES ('copy', 'INSERT INTO copy SELECT * FROM events', 'scheduled');
SELECT evinbox.record_event('T', 'full', 'done', 'User:1', '{"a": [1, null]}', snapshot => '{"b": 2}', scope => 's', occurred_at => '2001-02-03') > 0 AS recorded;
SELECT record_some(1, 2);
SELECT evinbox.run('copy');
TABLE copy EXCEPT ALL TABLE evinbox.event;
SELECT array_agg(subject_id) FROM copy;
DELETE FROM evinbox.inbox;
DROP TABLE copy;

-- the other kinds
INSERT INTO evinbox.inbox (name, statement, dispatch) VALUES
	('merge', $$
		MERGE INTO daily_count c USING (SELECT action, count(*) AS more FROM events GROUP BY action) e ON c.action = e.action
			WHEN MATCHED THEN UPDATE SET n = c.n + e.more
			WHEN NOT MATCHED THEN INSERT VALUES (e.action, '2001-02-03', e.more) $$, 'scheduled'),
	('update', 'UPDATE daily_count c SET n = c.n + 100 FROM events e WHERE e.action = c.action', 'scheduled'),
	('delete', 'DELETE FROM daily_count c USING events e WHERE e.action = c.action RETURNING c.action', 'scheduled'),
	('select', 'SELECT note(''select'', array_agg(id ORDER BY id), array_agg(subject_id ORDER BY id)) FROM events', 'scheduled'),
	('with', $$
		WITH counted AS (SELECT action, count(*) AS more FROM events GROUP BY action),
			updated AS (UPDATE daily_count c SET n = more FROM counted u WHERE u.action = c.action)
		SELECT note('with', NULL, array_agg(action ORDER BY action)) FROM counted $$, 'scheduled'),
	('rows', 'SELECT * FROM events', 'scheduled'),
	('values', 'TABLE events', 'scheduled');
SELECT record_some(21, 21, 'merged'), record_some(22, 23), record_some(24, 24, 'undone');
SELECT evinbox.run('merge');
SELECT action, n FROM daily_count ORDER BY action;
SELECT evinbox.run('update');
SELECT action, n FROM daily_count ORDER BY action;
SELECT evinbox.run('with');
SELECT action, n FROM daily_count ORDER BY action;
SELECT evinbox.run('delete');
SELECT count(*) FROM daily_count;
SELECT evinbox.run('select'), evinbox.run('rows'), evinbox.run('values');
TABLE batches;
DELETE FROM evinbox.inbox;
TRUNCATE batch;

-- those that the lists and the condition leave, in batches
INSERT INTO evinbox.inbox (name, statement, dispatch, actions, condition, batch_size)
	SELECT 'select ' || size,
		format('SELECT note(''%s'', array_agg(id ORDER BY id), array_agg(subject_id ORDER BY id)) FROM events', size),
		'scheduled', '{done}', 'e.subject_id::int % 3 <> 0', size
	FROM unnest('{1,4,1000}'::int[]) size;
SELECT record_some(1, 5), record_some(6, 7, 'undone'), record_some(8, 12);
SELECT evinbox.run(name) FROM evinbox.inbox ORDER BY name;
TABLE batches;
TRUNCATE batch;
-- nothing is run for no events
SELECT record_some(3, 3), record_some(4, 4, 'undone');
SELECT evinbox.run(name) FROM evinbox.inbox ORDER BY name;
TABLE batches;
-- and no more than asked for
SELECT record_some(13, 17);
SELECT evinbox.run('select 1000', 2);
SELECT evinbox.run('select 1000', 2);
SELECT evinbox.run('select 1000');
TABLE batches;
DELETE FROM evinbox.inbox;
TRUNCATE batch;

-- what its plan was made for changes: a plan is good for any number of events
INSERT INTO evinbox.inbox (name, statement, dispatch, batch_size)
	VALUES ('many', 'SELECT note(''many'', NULL, ARRAY[count(*)::text]) FROM events', 'scheduled', 10000);
SELECT record_some(1, 1);
SELECT evinbox.run('many');
SELECT record_some(1, 3000);
SELECT evinbox.run('many');
SELECT record_some(1, 2);
SELECT evinbox.run('many');
TABLE batches;
DELETE FROM evinbox.inbox;
TRUNCATE batch;

-- an event that fails stands alone, the innocent ones take effect once
CREATE TABLE guilty (id text);
CREATE TABLE taken (id text PRIMARY KEY, times int);
INSERT INTO evinbox.inbox (name, statement, dispatch, backoff) VALUES ('s', $$
	INSERT INTO taken SELECT subject_id, 1 / (g.id IS NULL)::int
		FROM events e LEFT JOIN guilty g ON g.id = e.subject_id
		ON CONFLICT (id) DO UPDATE SET times = taken.times + 1 $$, 'scheduled', '0');
INSERT INTO guilty VALUES ('1'), ('7'), ('8'), ('20');
SELECT record_some(1, 20);
SET client_min_messages = error;
SELECT evinbox.run('s');
RESET client_min_messages;
SELECT string_agg(id, ' ' ORDER BY id::int) AS taken, max(times) FROM taken;
TABLE failed;
SELECT DISTINCT error_context FROM evinbox.delivery;
-- the second time, one is guilty still
DELETE FROM guilty WHERE id <> '7';
\set VERBOSITY sqlstate
SELECT evinbox.run('s');
\set VERBOSITY default
SELECT string_agg(id, ' ' ORDER BY id::int) AS taken, max(times) FROM taken;
TABLE failed;
DELETE FROM evinbox.inbox;
-- in batches, too
TRUNCATE taken;
INSERT INTO evinbox.inbox (name, statement, dispatch, batch_size) VALUES ('s', $$
	INSERT INTO taken SELECT subject_id, 1 / (g.id IS NULL)::int
		FROM events e LEFT JOIN guilty g ON g.id = e.subject_id
		ON CONFLICT (id) DO UPDATE SET times = taken.times + 1 $$, 'scheduled', 6);
SELECT record_some(1, 20);
\set VERBOSITY sqlstate
SELECT evinbox.run('s');
\set VERBOSITY default
SELECT string_agg(id, ' ' ORDER BY id::int) AS taken, max(times) FROM taken;
TABLE failed;
DELETE FROM evinbox.inbox;
-- a condition that fails, before a statement
TRUNCATE taken;
INSERT INTO evinbox.inbox (name, statement, dispatch, condition)
	VALUES ('s', 'INSERT INTO taken SELECT subject_id, 1 FROM events', 'scheduled', '10 / (e.subject_id::int - 4) > -3');
SELECT record_some(1, 8);
\set VERBOSITY sqlstate
SELECT evinbox.run('s');
\set VERBOSITY default
SELECT string_agg(id, ' ' ORDER BY id::int) AS taken FROM taken;
TABLE failed;
DELETE FROM evinbox.inbox;
DROP TABLE taken;

-- refused when it is written
CREATE FUNCTION one(e evinbox.event) RETURNS void LANGUAGE sql AS '';
INSERT INTO evinbox.inbox (name, statement) VALUES ('i', '');
INSERT INTO evinbox.inbox (name, statement) VALUES ('i', '-- nothing');
INSERT INTO evinbox.inbox (name, statement) VALUES ('i', 'INSERT INTO guilty SELECT FORM events');
INSERT INTO evinbox.inbox (name, statement) VALUES ('i', 'SELECT 1; SELECT 2');
INSERT INTO evinbox.inbox (name, statement) VALUES ('i', 'SELECT * FROM missing');
INSERT INTO evinbox.inbox (name, statement) VALUES ('i', 'INSERT INTO guilty SELECT missing FROM events');
INSERT INTO evinbox.inbox (name, statement) VALUES ('i', 'SELECT missing(id) FROM events');
INSERT INTO evinbox.inbox (name, statement) VALUES ('i', 'SELECT e.id');
INSERT INTO evinbox.inbox (name, statement) VALUES ('i', 'SELECT $1 FROM events');
INSERT INTO evinbox.inbox (name, statement) VALUES ('i', 'TRUNCATE guilty');
INSERT INTO evinbox.inbox (name, statement) VALUES ('i', 'CALL nothing()');
INSERT INTO evinbox.inbox (name, statement) VALUES ('i', 'COMMIT');
INSERT INTO evinbox.inbox (name, statement) VALUES ('i', 'COPY guilty TO STDOUT');
INSERT INTO evinbox.inbox (name, statement) VALUES ('i', 'EXPLAIN SELECT 1');
INSERT INTO evinbox.inbox (name, statement) VALUES ('i', 'SELECT * INTO made FROM events');
INSERT INTO evinbox.inbox (name, statement) VALUES ('i', 'CREATE TABLE made AS SELECT * FROM events');
INSERT INTO evinbox.inbox (name, statement) VALUES ('i', 'DO ''BEGIN END''');
INSERT INTO evinbox.inbox (name, statement) VALUES ('i', 'INSERT INTO events SELECT * FROM events');
INSERT INTO evinbox.inbox (name, statement) VALUES ('i', 'DELETE FROM events');
INSERT INTO evinbox.inbox (name, statement, dispatch) VALUES ('i', 'DELETE FROM guilty USING events;', 'scheduled');
UPDATE evinbox.inbox SET statement = 'SELECT * FROM missing';
UPDATE evinbox.inbox SET handler = 'one';
UPDATE evinbox.inbox SET handler = 'one', statement = NULL RETURNING handler, statement;
UPDATE evinbox.inbox SET handler = NULL, statement = '  TABLE events -- all' RETURNING handler, statement;
SELECT record_some(1, 2);
SELECT evinbox.run('i');
DELETE FROM evinbox.inbox;
-- nothing of it is run by that
CREATE FUNCTION tell(id bigint) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $$ BEGIN RAISE NOTICE 'ran for %', id; RETURN 1; END $$;
INSERT INTO evinbox.inbox (name, statement, dispatch) VALUES ('i', 'SELECT tell(NULL) FROM events', 'scheduled');
DELETE FROM evinbox.inbox;

-- the relation is the rule's: nobody else sees it, and no table hides it
SELECT * FROM events;
CREATE TABLE events (id bigint);
INSERT INTO events VALUES (-1), (-2), (-3);
CREATE FUNCTION see() RETURNS text LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT count(*) FROM events); END $$;
INSERT INTO evinbox.inbox (name, statement, dispatch)
	VALUES ('i', 'SELECT note(''i'', NULL, ARRAY[count(*)::text, see(), (SELECT count(*) FROM public.events)::text]) FROM events', 'scheduled');
SELECT record_some(1, 2);
SELECT evinbox.run('i');
TABLE batches;
DROP TABLE events;
-- a function that the statement calls has no such relation
SELECT record_some(1, 1);
SELECT evinbox.run('i');
SELECT state, last_error FROM evinbox.inbox_status;
DELETE FROM evinbox.inbox;
TRUNCATE batch;
DROP FUNCTION see;

-- a table that is dropped later halts it, as long as there is none
CREATE TABLE mortal (id bigint);
INSERT INTO evinbox.inbox (name, statement, dispatch) VALUES ('i', 'INSERT INTO mortal SELECT id FROM events', 'scheduled');
SELECT record_some(1, 2);
SELECT evinbox.run('i');
DROP TABLE mortal;
SELECT record_some(3, 5);
SELECT evinbox.run('i');
SELECT evinbox.run('i');
SELECT state, lag_events, last_error, next_look_at IS NOT NULL AS looks_again FROM evinbox.inbox_status;
SELECT count(*) FROM evinbox.delivery;
CREATE TABLE mortal (id int, more text DEFAULT 'new');
SELECT evinbox.run('i');
SELECT count(*), min(more) FROM mortal;
SELECT state, lag_events, last_error FROM evinbox.inbox_status;
-- a column, and a right
ALTER TABLE mortal RENAME TO renamed;
CREATE TABLE mortal ();
SELECT record_some(6, 6);
SELECT evinbox.run('i');
DROP TABLE mortal;
ALTER TABLE renamed RENAME TO mortal;
SELECT evinbox.run('i');
CREATE ROLE regress_evinbox_statement LOGIN;
GRANT USAGE ON SCHEMA evinbox TO regress_evinbox_statement;
GRANT EXECUTE ON FUNCTION evinbox.run TO regress_evinbox_statement;
UPDATE evinbox.inbox SET owner = 'regress_evinbox_statement';
SELECT record_some(7, 7);
\c - regress_evinbox_statement
SELECT evinbox.run('i');
\c - :superuser
GRANT INSERT ON mortal TO regress_evinbox_statement;
\c - regress_evinbox_statement
SELECT evinbox.run('i');
\c - :superuser
SELECT count(*) FROM mortal;
DELETE FROM evinbox.inbox;
DROP OWNED BY regress_evinbox_statement;
DROP ROLE regress_evinbox_statement;
DROP TABLE mortal;

-- what it records has one event as its cause only where there is one, and is
-- deeper than all of them
INSERT INTO evinbox.inbox (name, statement, dispatch, actions, batch_size) VALUES
	('one', 'SELECT evinbox.record_event(''T'', subject_id, ''by one'') FROM events', 'scheduled', '{cause}', 1),
	('all', 'INSERT INTO evinbox.event (subject_type, subject_id, action) SELECT ''T'', ''all'', ''by all'' FROM (SELECT FROM events LIMIT 1) e',
		'scheduled', '{cause,"by one"}', 1000);
SELECT record_some(1, 2, 'cause');
SELECT evinbox.run('one');
SELECT evinbox.run('all');
SELECT e.action, e.subject_id, c.action AS cause, c.subject_id AS cause_id, e.depth
	FROM evinbox.event e LEFT JOIN evinbox.event c ON c.id = e.caused_by WHERE e.action LIKE 'by %' OR e.action = 'cause' ORDER BY e.id;
DELETE FROM evinbox.inbox;
SELECT evinbox.record_event('T', 'outside', 'later') > 0 AS recorded;
SELECT caused_by, depth FROM evinbox.event WHERE action = 'later';

SET client_min_messages = warning;
DROP EXTENSION evinbox CASCADE;
DROP FUNCTION note, record_some, tell;
DROP TABLE batch, daily_count, guilty CASCADE;
