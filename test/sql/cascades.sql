-- Events that handlers record.
\set SHOW_CONTEXT never
SET client_min_messages = error;
CREATE EXTENSION evinbox;
RESET client_min_messages;
CREATE TABLE seen (n serial, inbox text, id bigint);
CREATE FUNCTION note(e evinbox.event, config jsonb) RETURNS void LANGUAGE sql
	AS $$ INSERT INTO public.seen (inbox, id) VALUES (config ->> 'as', e.id) $$;
CREATE FUNCTION follow(e evinbox.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.seen (inbox, id) VALUES ('follow', e.id);
	IF (e.metadata ->> 'more')::int > 0 THEN
		PERFORM evinbox.record_event(e.subject_type, e.subject_id, 'followed',
			metadata => jsonb_build_object('more', (e.metadata ->> 'more')::int - 1));
	END IF;
END $$;
INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES ('s', 'follow', 'scheduled');

-- one run handles all that comes of an event
SELECT evinbox.record_event('T', 1, 'began', metadata => '{"more": 3}');
SELECT evinbox.run('s');
SELECT id, action, metadata, caused_by, depth FROM evinbox.event ORDER BY id;
SELECT id FROM seen ORDER BY n;
SELECT evinbox.run('s');

-- in the transaction of the first one
BEGIN;
SELECT evinbox.record_event('T', 2, 'began', metadata => '{"more": 2}');
SELECT evinbox.run('s');
SELECT evinbox.record_event('T', 3, 'began', metadata => '{"more": 1}');
SELECT evinbox.run('s');
COMMIT;
SELECT evinbox.run('s');
SELECT id, subject_id, caused_by, depth FROM evinbox.event WHERE id > 4 ORDER BY id;
SELECT string_agg(id::text, ' ' ORDER BY n) FROM seen;

-- several at a time, in batches of one and of many
TRUNCATE seen;
SELECT evinbox.record_event('T', n, 'began', metadata => '{"more": 2}') FROM generate_series(10, 12) n;
SELECT evinbox.run('s');
SELECT string_agg(format('%s<%s', id, caused_by), ' ' ORDER BY id) FROM evinbox.event WHERE id > 9;
UPDATE evinbox.inbox SET batch_size = 1;
SELECT evinbox.record_event('T', n, 'began', metadata => '{"more": 2}') FROM generate_series(20, 22) n;
SELECT evinbox.run('s');
SELECT string_agg(format('%s<%s', id, caused_by), ' ' ORDER BY id) FROM evinbox.event WHERE id > 18;
SELECT count(*), count(DISTINCT id) FROM seen;

-- max_events stops also what would never stop
CREATE FUNCTION for_ever(e evinbox.event) RETURNS void LANGUAGE sql
	AS $$ SELECT evinbox.record_event(e.subject_type, e.subject_id, 'again') $$;
INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES ('for ever', 'for_ever', 'scheduled');
SELECT evinbox.record_event('T', 30, 'began');
SELECT evinbox.run('for ever', 5);
SELECT evinbox.run('for ever', 5);
SELECT max(depth) FROM evinbox.event WHERE subject_id = '30';

-- which comes to an end of its own: the handler that goes too far is undone, and its event skipped
SHOW evinbox.max_depth;
SELECT evinbox.run('for ever');
SELECT evinbox.run('for ever');
SELECT max(depth) FROM evinbox.event WHERE subject_id = '30';
SELECT d.inbox, d.state, e.depth, d.attempts, d.last_error FROM evinbox.delivery d JOIN evinbox.event e ON e.id = d.event_id;
-- also in a statement; an event of somebody else in the same batch goes through
UPDATE evinbox.inbox SET handler = NULL, statement =
	'SELECT evinbox.record_event(e.subject_type, e.subject_id, ''again'') FROM events e' WHERE name = 'for ever';
SELECT evinbox.record_event('T', 31, 'began');
SELECT evinbox.run('for ever', 8);
SELECT evinbox.record_event('T', 32, 'began');
SELECT evinbox.run('for ever');
SELECT subject_id, max(depth), count(*) FROM evinbox.event WHERE subject_id IN ('31', '32') GROUP BY 1 ORDER BY 1;
SELECT e.subject_id, e.depth, d.state FROM evinbox.delivery d JOIN evinbox.event e ON e.id = d.event_id ORDER BY 1;
-- and by two rules in turns; a handler that catches the error goes on without the event
CREATE FUNCTION catches(e evinbox.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM evinbox.record_event(e.subject_type, e.subject_id, 'caught');
EXCEPTION WHEN OTHERS THEN
	INSERT INTO public.seen (inbox, id) VALUES ('caught ' || sqlstate || ': ' || sqlerrm, e.id);
END $$;
UPDATE evinbox.inbox SET statement = NULL, handler = 'for_ever', actions = '{caught}' WHERE name = 'for ever';
INSERT INTO evinbox.inbox (name, handler, dispatch, actions) VALUES ('catches', 'catches', 'scheduled', '{again}');
SELECT evinbox.record_event('T', 33, 'again');
SELECT evinbox.run('for ever'), evinbox.run('catches') FROM generate_series(1, 6);
SELECT action, depth FROM evinbox.event WHERE subject_id = '33' ORDER BY id;
SELECT inbox FROM seen WHERE inbox LIKE 'caught%';
SELECT e.subject_id, e.depth, d.inbox, d.state FROM evinbox.delivery d JOIN evinbox.event e ON e.id = d.event_id ORDER BY 1, 3;
DELETE FROM evinbox.delivery;
DELETE FROM evinbox.inbox WHERE name = 'catches';
DELETE FROM evinbox.inbox WHERE name = 'for ever';

-- what a handler has recorded before it fails was never recorded
CREATE OR REPLACE FUNCTION follow(e evinbox.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM evinbox.record_event('U', e.subject_id, 'followed');
	RAISE 'no';
END $$;
SET client_min_messages = error;
SELECT evinbox.run('s');
RESET client_min_messages;
SELECT count(*) FROM evinbox.event WHERE subject_type = 'U';
SELECT count(*) FROM evinbox.delivery;
-- and the cause of the next one is not left over
SELECT evinbox.record_event('T', 40, 'began') > 0 AS recorded;
SELECT caused_by, depth FROM evinbox.event WHERE subject_id = '40';
DELETE FROM evinbox.inbox;

-- an INSERT and a COPY in a handler have the same cause; so have savepoints
CREATE OR REPLACE FUNCTION follow(e evinbox.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	BEGIN
		INSERT INTO evinbox.event (subject_type, subject_id, action, caused_by) VALUES ('V', 'undone', 'inserted', 1);
		RAISE 'undo';
	EXCEPTION WHEN raise_exception THEN
		INSERT INTO evinbox.event (subject_type, subject_id, action, caused_by) VALUES ('V', 'done', 'inserted', 1);
	END;
END $$;
INSERT INTO evinbox.inbox (name, handler, dispatch, subject_types) VALUES ('s', 'follow', 'scheduled', '{T}');
SELECT evinbox.record_event('T', 50, 'began') > 0 AS recorded;
SELECT evinbox.run('s');
SELECT f.subject_id, e.subject_id AS caused_by, f.depth
	FROM evinbox.event f JOIN evinbox.event e ON e.id = f.caused_by WHERE f.subject_type = 'V';

-- one inbox's events for another that had its turn already
BEGIN;
INSERT INTO evinbox.inbox (name, handler, subject_types, priority, config)
	VALUES ('early', 'note', '{W}', 1, '{"as": "early"}'), ('late', 'note', '{W}', 3, '{"as": "late"}');
CREATE FUNCTION make_w(e evinbox.event) RETURNS void LANGUAGE sql AS $$ SELECT evinbox.record_event('W', e.subject_id, 'came') $$;
INSERT INTO evinbox.inbox (name, handler, subject_types, priority) VALUES ('maker', 'make_w', '{T}', 2);
TRUNCATE seen;
SELECT evinbox.record_event('T', 60, 'began') > 0 AS recorded;
SELECT evinbox.run();
SELECT inbox, subject_type, subject_id FROM seen JOIN evinbox.event USING (id) ORDER BY inbox;
ROLLBACK;

-- a handler's throttled calls
CREATE FUNCTION throttled(e evinbox.event) RETURNS void LANGUAGE sql
	AS $$ SELECT evinbox.record_event('X', 1, 'summed_up', throttle => '1 hour') $$;
INSERT INTO evinbox.inbox (name, handler, dispatch, subject_types) VALUES ('t', 'throttled', 'scheduled', '{T}');
SELECT evinbox.record_event('T', n, 'began') > 0 AS recorded FROM generate_series(70, 72) n;
SELECT evinbox.run('t');
SELECT count(*) FROM evinbox.event WHERE subject_type = 'X';

SET client_min_messages = warning;
DROP EXTENSION evinbox CASCADE;
DROP TABLE seen;
