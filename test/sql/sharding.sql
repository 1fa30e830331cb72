-- Several lanes of one inbox: events of a subject stay together and in order.
\set SHOW_CONTEXT never
SET client_min_messages = error;
CREATE EXTENSION evinbox;
RESET client_min_messages;
CREATE TABLE seen (n serial, inbox text, id bigint, subject text);
CREATE FUNCTION note(e evinbox.event, config jsonb) RETURNS void LANGUAGE sql
	AS $$ INSERT INTO public.seen (inbox, id, subject) VALUES (config ->> 'as', e.id, e.subject_type || e.subject_id) $$;
-- how many, how many of them once, and how many not in the order of their subject
CREATE VIEW result AS
	SELECT inbox, count(*) AS handled, count(DISTINCT id) AS events, count(*) FILTER (WHERE id < former) AS disordered
	FROM (SELECT *, lag(id) OVER (PARTITION BY inbox, subject ORDER BY n) AS former FROM seen) s
	GROUP BY inbox ORDER BY inbox;
CREATE VIEW status AS SELECT name, state, lag_events, backlog FROM evinbox.inbox_status ORDER BY name;
-- each n is a round of one event for each of ten subjects
CREATE FUNCTION record_some(rounds int) RETURNS bigint LANGUAGE sql AS $$
	SELECT count(evinbox.record_event(t, s, 'done'))
	FROM generate_series(1, rounds), unnest('{T,U}'::text[]) t, generate_series(1, 5) s $$;

-- every event once, in as many lanes as there are
INSERT INTO evinbox.inbox (name, handler, dispatch, config, shards)
	SELECT n::text, 'note', 'scheduled', jsonb_build_object('as', n), n FROM unnest('{1,2,3,4,64}'::int[]) n;
SELECT record_some(3);
SELECT evinbox.run(name) FROM evinbox.inbox ORDER BY shards;
TABLE result;
SELECT record_some(2);
SELECT evinbox.run(name, 7) FROM evinbox.inbox ORDER BY shards;
SELECT evinbox.run(name) FROM evinbox.inbox ORDER BY shards;
SELECT evinbox.run(name) FROM evinbox.inbox ORDER BY shards;
TABLE result;
TABLE status;
-- lanes are not one: with several, the order of events is not that of their ids
SELECT inbox, count(*) FILTER (WHERE id < former) > 0 AS mixed
	FROM (SELECT *, lag(id) OVER (PARTITION BY inbox ORDER BY n) AS former FROM seen) s GROUP BY inbox ORDER BY inbox;
DELETE FROM evinbox.inbox;
TRUNCATE seen;

-- a statement is run for a lane's share
INSERT INTO evinbox.inbox (name, statement, dispatch, shards)
	VALUES ('s', 'INSERT INTO seen (inbox, id, subject) SELECT ''s'', id, subject_type || subject_id FROM events ORDER BY id', 'scheduled', 3);
SELECT record_some(3);
SELECT evinbox.run('s');
TABLE result;
DELETE FROM evinbox.inbox;
TRUNCATE seen;

-- a failing event, and its retry, keep no lane
CREATE FUNCTION fail(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
	IF e.subject_type = 'U' THEN
		RAISE 'no';
	END IF;
	PERFORM public.note(e, config);
END $$;
INSERT INTO evinbox.inbox (name, handler, dispatch, config, shards, backoff) VALUES ('f', 'fail', 'scheduled', '{"as": "f"}', 4, '0');
SELECT record_some(2);
SET client_min_messages = error;
SELECT evinbox.run('f');
RESET client_min_messages;
TABLE result;
SELECT count(*) FROM evinbox.delivery;
UPDATE evinbox.inbox SET handler = 'note', shards = 2;
SELECT evinbox.run('f');
TABLE result;
SELECT count(*) FROM evinbox.delivery;
DELETE FROM evinbox.inbox;
TRUNCATE seen;

-- halted as a whole
CREATE FUNCTION mortal(e evinbox.event, config jsonb) RETURNS void LANGUAGE sql AS '';
INSERT INTO evinbox.inbox (name, handler, dispatch, config, shards) VALUES ('h', 'mortal', 'scheduled', '{"as": "h"}', 3);
DROP FUNCTION mortal;
SELECT record_some(2);
SELECT evinbox.run('h');
SELECT evinbox.run('h');
TABLE status;
SELECT count(*) FROM evinbox_internal.halt;
UPDATE evinbox.inbox SET handler = 'note';
SELECT evinbox.run('h');
TABLE result;
TABLE status;
SELECT count(*) FROM evinbox_internal.halt;
DELETE FROM evinbox.inbox;
TRUNCATE seen;

-- another number of lanes, with events that wait
INSERT INTO evinbox.inbox (name, handler, dispatch, config) VALUES ('a', 'note', 'scheduled', '{"as": "a"}');
SELECT record_some(2);
UPDATE evinbox.inbox SET shards = 4;
TABLE status;
SELECT record_some(2);
SELECT evinbox.run('a');
TABLE result;
TABLE status;
SELECT record_some(2);
UPDATE evinbox.inbox SET shards = 2;
SELECT record_some(2);
SELECT evinbox.run('a');
TABLE result;
TABLE status;
SELECT record_some(1);
UPDATE evinbox.inbox SET shards = 1;
SELECT evinbox.run('a');
TABLE result;
TRUNCATE seen;
-- in the middle of a batch, of a backlog, and of each lane's
SELECT record_some(4);
SELECT evinbox.run('a', 13);
UPDATE evinbox.inbox SET shards = 3;
SELECT record_some(2);
SELECT evinbox.run('a', 5);
SELECT evinbox.run('a', 9);
UPDATE evinbox.inbox SET shards = 4;
SELECT evinbox.run('a', 5);
SELECT evinbox.run('a', 5);
SELECT record_some(1);
SELECT evinbox.run('a');
TABLE result;
TABLE status;
TRUNCATE seen;
-- each lane knows only two divisions: the next change waits for the last one
SELECT record_some(2);
UPDATE evinbox.inbox SET shards = 2;
SELECT backlog > 0 AS busy FROM status;
UPDATE evinbox.inbox SET shards = 3;
UPDATE evinbox.inbox SET shards = 1;
UPDATE evinbox.inbox SET shards = 2, priority = 7 RETURNING shards, priority;
SELECT evinbox.run('a', 3);
UPDATE evinbox.inbox SET shards = 3;
SELECT shards FROM evinbox.inbox;
SELECT evinbox.run('a');
UPDATE evinbox.inbox SET shards = 3;
SELECT record_some(1);
SELECT evinbox.run('a');
TABLE result;
TRUNCATE seen;
-- from one lane on, it need not wait
UPDATE evinbox.inbox SET shards = 1;
SELECT record_some(2);
UPDATE evinbox.inbox SET shards = 4;
SELECT record_some(1);
UPDATE evinbox.inbox SET shards = 3;
SELECT record_some(1);
SELECT evinbox.run('a');
TABLE result;
TRUNCATE seen;

-- with events of the same transaction
BEGIN;
SELECT record_some(1);
UPDATE evinbox.inbox SET shards = 2;
SELECT record_some(1);
SELECT evinbox.run('a');
SELECT record_some(1);
SELECT evinbox.run('a');
COMMIT;
SELECT evinbox.run('a');
TABLE result;
-- but not after they have been dispatched
BEGIN;
SELECT record_some(1);
SELECT evinbox.run('a');
UPDATE evinbox.inbox SET shards = 4;
ROLLBACK;
BEGIN;
SELECT record_some(1);
SAVEPOINT s;
SELECT evinbox.run('a');
ROLLBACK TO s;
UPDATE evinbox.inbox SET shards = 4;
COMMIT;
SELECT evinbox.run('a');
TABLE result;
TRUNCATE seen;
-- undone
SELECT record_some(2);
BEGIN;
UPDATE evinbox.inbox SET shards = 1;
SELECT evinbox.run('a');
ROLLBACK;
SELECT shards FROM evinbox.inbox;
SELECT evinbox.run('a');
TABLE result;
TRUNCATE seen;

-- paused, with a past that was not looked at yet
INSERT INTO evinbox.inbox (name, handler, dispatch, config, start_at, enabled)
	VALUES ('b', 'note', 'scheduled', '{"as": "b"}', 'beginning', false);
SELECT count(*) AS past FROM evinbox.event \gset
SELECT record_some(1);
UPDATE evinbox.inbox SET shards = 3 WHERE name = 'b';
SELECT record_some(1);
UPDATE evinbox.inbox SET shards = 2 WHERE name = 'b';
SELECT record_some(1);
SELECT evinbox.resume('b');
SELECT evinbox.run('b') - :past AS more_than_past;
SELECT inbox, handled - :past AS more_than_past, events - :past AS new_events, disordered FROM result;

SET client_min_messages = warning;
DROP EXTENSION evinbox CASCADE;
DROP TABLE seen CASCADE;
DROP FUNCTION record_some;
