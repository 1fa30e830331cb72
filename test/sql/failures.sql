-- Failures: the guilty event stands alone, the others go through.
\set SHOW_CONTEXT never
SET client_min_messages = error;
CREATE EXTENSION evinbox;
RESET client_min_messages;
CREATE TABLE seen (n serial, inbox text, id bigint);
CREATE FUNCTION note(e evinbox.event, config jsonb) RETURNS void LANGUAGE sql
	AS $$ INSERT INTO public.seen (inbox, id) VALUES (config ->> 'as', e.id) $$;
CREATE TABLE guilty (id text, problem text);
CREATE FUNCTION work(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.seen (inbox, id) VALUES (config ->> 'as', e.id);
	IF EXISTS (SELECT FROM public.guilty g WHERE g.id = e.subject_id) THEN
		RAISE EXCEPTION USING message = 'cannot handle ' || e.subject_id, errcode = 'EV001';
	END IF;
END $$;
CREATE VIEW result AS
	SELECT s.inbox, string_agg(e.subject_id, ' ' ORDER BY s.n) AS handled
	FROM seen s JOIN evinbox.event e ON e.id = s.id GROUP BY s.inbox;
CREATE VIEW failed AS
	SELECT d.inbox, e.subject_id, d.state, d.attempts, d.last_error, d.last_sqlstate, d.next_at IS NOT NULL AS due
	FROM evinbox.delivery d JOIN evinbox.event e ON e.id = d.event_id ORDER BY d.inbox, e.id;
CREATE FUNCTION record_ten() RETURNS bigint LANGUAGE sql
	AS $$ SELECT count(evinbox.record_event('T', n, 'done')) FROM generate_series(1, 10) n $$;

-- one, in the middle
INSERT INTO evinbox.inbox (name, handler, dispatch, config) VALUES ('s', 'work', 'scheduled', '{"as": "s"}');
INSERT INTO guilty VALUES ('5');
SELECT record_ten();
SELECT evinbox.run('s');
TABLE result;
TABLE failed;
SELECT error_context, created_at = updated_at AS once, next_at BETWEEN updated_at + interval '12 seconds' AND updated_at + interval '18 seconds' AS in_15_seconds_or_so
	FROM evinbox.delivery;
-- it is not due yet
SELECT evinbox.run('s');
DELETE FROM evinbox.inbox;
TABLE failed;
TRUNCATE seen, guilty;

-- the first, the last, several, all but one, all: in batches of all sizes.
-- Warnings tell ids, of which there are many here.
CREATE TABLE trial (name text, batch_size int, guilty text[]);
INSERT INTO trial SELECT format('%s by %s', name, batch_size), batch_size, guilty::text[]
	FROM (VALUES (1), (2), (3), (1000)) AS b (batch_size),
		(VALUES ('first', '{1}'), ('last', '{10}'), ('two together', '{4,5}'), ('two apart', '{3,8}'),
			('ends', '{1,10}'), ('all but one', '{1,2,3,4,5,7,8,9,10}'), ('all', '{1,2,3,4,5,6,7,8,9,10}')) AS g (name, guilty);
INSERT INTO evinbox.inbox (name, handler, dispatch, config, batch_size)
	SELECT name, 'work', 'scheduled', jsonb_build_object('as', name), batch_size FROM trial;
SELECT record_ten();
SET client_min_messages = error;
DO $$
DECLARE
	t record;
BEGIN
	FOR t IN SELECT * FROM trial LOOP
		TRUNCATE public.guilty;
		INSERT INTO public.guilty SELECT unnest(t.guilty);
		PERFORM evinbox.run(t.name);
		COMMIT;
	END LOOP;
END $$;
RESET client_min_messages;
SELECT t.name, r.handled,
		(SELECT string_agg(f.subject_id, ' ' ORDER BY f.subject_id::int) FROM failed f WHERE f.inbox = t.name) AS failed
	FROM trial t LEFT JOIN result r ON r.inbox = t.name
	ORDER BY t.name COLLATE "C";
SELECT name, lag_events FROM evinbox.inbox_status WHERE lag_events <> 0;
DELETE FROM evinbox.inbox;
TRUNCATE seen, guilty, trial;

-- a transaction has only so many subtransactions for that: run() stops, and
-- goes on in another one
INSERT INTO evinbox.inbox (name, handler, dispatch, config) VALUES ('s', 'work', 'scheduled', '{"as": "s"}');
INSERT INTO guilty SELECT n FROM generate_series(2, 80, 2) n;
SELECT count(evinbox.record_event('T', n, 'done')) FROM generate_series(1, 80) n;
SET client_min_messages = error;
BEGIN;
SELECT evinbox.run('s') > 0 AS some;
SELECT lag_events BETWEEN 1 AND 79 AS some_left FROM evinbox.inbox_status;
SET LOCAL client_min_messages = notice;
SELECT evinbox.run('s');
COMMIT;
SELECT evinbox.run('s') > 0 AS some_more;
SELECT evinbox.run('s') >= 0 AS the_rest;
SELECT evinbox.run('s');
RESET client_min_messages;
SELECT lag_events, retrying FROM evinbox.inbox_status;
SELECT count(*), count(DISTINCT id), bool_and(e.subject_id::int % 2 = 1) AS innocent
	FROM seen s JOIN evinbox.event e USING (id);
SELECT count(*), bool_and(subject_id::int % 2 = 0) AS guilty, bool_and(attempts = 1) AS once FROM failed;
DELETE FROM evinbox.inbox;
TRUNCATE seen, guilty;

-- in the transaction of the events, and undone with it
INSERT INTO evinbox.inbox (name, handler, dispatch, config) VALUES ('s', 'work', 'scheduled', '{"as": "s"}');
INSERT INTO guilty VALUES ('2');
BEGIN;
SELECT count(evinbox.record_event('T', n, 'done')) FROM generate_series(1, 3) n;
SET LOCAL client_min_messages = error;
SELECT evinbox.run('s');
SELECT evinbox.run('s');
TABLE result;
TABLE failed;
ROLLBACK;
TABLE failed;
TABLE result;

-- retries: due at once, counted, and forgotten when one succeeds
UPDATE evinbox.inbox SET backoff = '0', max_attempts = 4;
SET client_min_messages = error;
SELECT count(evinbox.record_event('T', n, 'done')) FROM generate_series(1, 3) n;
SELECT evinbox.run('s');
TABLE failed;
SELECT evinbox.run('s');
TABLE failed;
SELECT evinbox.run('s');
TABLE failed;
TRUNCATE guilty;
SELECT evinbox.run('s');
TABLE failed;
TABLE result;
SELECT evinbox.run('s');
TRUNCATE seen;

-- until max_attempts
INSERT INTO guilty VALUES ('1');
UPDATE evinbox.inbox SET max_attempts = 2;
SELECT count(evinbox.record_event('T', n, 'done', 'User:1', metadata => '{"a": 1}')) FROM generate_series(1, 3) n;
SELECT evinbox.run('s');
SELECT evinbox.run('s');
TABLE failed;
SELECT evinbox.run('s');
SELECT inbox, subject_type, subject_id, action, actor, metadata, attempts, last_error, last_sqlstate,
		error_context, first_failed_at < died_at AS died_later, recorded_at < died_at AS recorded_before
	FROM evinbox.dead_letter;
-- a dead letter is not tried again
TRUNCATE guilty;
SELECT evinbox.run('s');
TABLE result;
SELECT state, retrying, dead, last_error FROM evinbox.inbox_status;
-- at once, if it may be tried only once
UPDATE evinbox.inbox SET max_attempts = 1;
INSERT INTO guilty VALUES ('9');
SELECT count(evinbox.record_event('T', 9, 'done'));
SELECT evinbox.run('s');
TABLE failed;
RESET client_min_messages;

-- deliveries go with their inbox, and keep to it when it is renamed
UPDATE evinbox.inbox SET name = 'renamed';
TABLE failed;
DELETE FROM evinbox.inbox;
TABLE failed;
TRUNCATE guilty, seen;

-- retries of several events, with one that the rule does not want any more
INSERT INTO evinbox.inbox (name, handler, dispatch, config, backoff) VALUES ('s', 'work', 'scheduled', '{"as": "s"}', '0');
INSERT INTO guilty SELECT n FROM generate_series(1, 4) n;
SELECT count(evinbox.record_event(CASE n WHEN 3 THEN 'U' ELSE 'T' END, n, 'done')) FROM generate_series(1, 4) n;
SET client_min_messages = error;
SELECT evinbox.run('s');
TABLE failed;
UPDATE evinbox.inbox SET subject_types = '{T}', condition = 'e.subject_id <> ''4''';
DELETE FROM guilty WHERE id <> '2';
SELECT evinbox.run('s');
TABLE failed;
TABLE result;
DELETE FROM evinbox.inbox;
TRUNCATE guilty, seen;
RESET client_min_messages;

-- a condition that fails for some of the events
INSERT INTO evinbox.inbox (name, handler, dispatch, config, condition)
	VALUES ('s', 'work', 'scheduled', '{"as": "s"}', '(e.metadata ->> ''size'')::int > 3');
SELECT count(evinbox.record_event('T', n, 'done', metadata => jsonb_build_object('size', CASE n WHEN 5 THEN 'large' WHEN 9 THEN '' ELSE n::text END)))
	FROM generate_series(1, 10) n;
SET client_min_messages = error;
SELECT evinbox.run('s');
TABLE result;
TABLE failed;
DELETE FROM evinbox.inbox;
TRUNCATE seen;
RESET client_min_messages;

-- what fails only at commit is the caller's transaction, so run() fails as a
-- whole, and nothing is lost; unless the caller asks to know it earlier
CREATE TABLE part (id int PRIMARY KEY);
INSERT INTO part SELECT n FROM generate_series(1, 10) n WHERE n NOT IN (3, 7, 8);
CREATE TABLE use (id int REFERENCES part DEFERRABLE INITIALLY DEFERRED);
CREATE FUNCTION use(e evinbox.event) RETURNS void LANGUAGE sql AS $$ INSERT INTO public.use VALUES (e.subject_id::int) $$;
INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES ('deferred', 'use', 'scheduled');
SELECT record_ten();
SELECT evinbox.run('deferred');
SELECT count(*) FROM use;
TABLE failed;
BEGIN;
SET CONSTRAINTS ALL IMMEDIATE;
SET LOCAL client_min_messages = error;
SELECT evinbox.run('deferred');
COMMIT;
SELECT string_agg(id::text, ' ' ORDER BY id) FROM use;
TABLE failed;
DELETE FROM evinbox.inbox;
DROP FUNCTION use;
DROP TABLE use, part;

-- errors of all kinds; those that are the rule's own fault halt the inbox
CREATE TABLE once (id int PRIMARY KEY);
CREATE FUNCTION err(e evinbox.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	CASE e.subject_id
		WHEN '1' THEN PERFORM 1 / 0;
		WHEN '2' THEN PERFORM evinbox.run();
		WHEN '3' THEN INSERT INTO public.once VALUES (3), (3);
		WHEN '4' THEN INSERT INTO public.guilty VALUES ('4', 5::text::date);
		WHEN '5' THEN PERFORM evinbox.record_event('', 1, 'done');
		WHEN '6' THEN UPDATE evinbox.event SET actor = NULL;
		WHEN '7' THEN RAISE 'a message of %', E'two\nlines';
		WHEN '8' THEN ASSERT false, 'asserted';
		WHEN '9' THEN COMMIT;
		WHEN '10' THEN PERFORM err(e);
	END CASE;
END $$;
INSERT INTO evinbox.inbox (name, handler, dispatch, max_attempts) VALUES ('err', 'err', 'scheduled', 1);
SET max_stack_depth = '100kB';
SELECT record_ten();
SET client_min_messages = error;
SELECT evinbox.run('err');
RESET client_min_messages;
RESET max_stack_depth;
SELECT subject_id, attempts, last_error, last_sqlstate FROM evinbox.dead_letter ORDER BY event_id;
SELECT subject_id, error_context FROM evinbox.dead_letter WHERE subject_id IN ('1', '3', '5') ORDER BY event_id;
DELETE FROM evinbox.inbox;
DROP TABLE once;

-- what run() tells its caller; another inbox does not notice
INSERT INTO guilty VALUES ('2');
BEGIN;
INSERT INTO evinbox.inbox (name, handler, config, priority) VALUES ('failing', 'work', '{"as": "failing"}', 1);
INSERT INTO evinbox.inbox (name, handler, config, priority) VALUES ('other', 'note', '{"as": "other"}', 2);
SELECT count(evinbox.record_event('T', n, 'done')) FROM generate_series(1, 3) n;
\set VERBOSITY sqlstate
SELECT evinbox.run();
\set VERBOSITY default
TABLE result;
ROLLBACK;
-- the whole message, where ids are known
SET client_min_messages = error;
DROP EXTENSION evinbox CASCADE;
CREATE EXTENSION evinbox;
RESET client_min_messages;
CREATE FUNCTION fail(e evinbox.event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE 'no' USING detail = 'never', hint = 'none'; END $$;
INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES ('s', 'fail', 'scheduled');
SELECT evinbox.record_event('T', n, 'done') FROM generate_series(1, 2) n;
SELECT evinbox.run('s');

-- a cancelled query and a failure of isolation are not the events' fault
CREATE OR REPLACE FUNCTION fail(e evinbox.event) RETURNS void LANGUAGE plpgsql
	AS $$ BEGIN RAISE 'cannot serialize' USING errcode = 'serialization_failure'; END $$;
SELECT evinbox.record_event('T', 3, 'done');
SELECT evinbox.run('s');
CREATE OR REPLACE FUNCTION fail(e evinbox.event) RETURNS void LANGUAGE plpgsql
	AS $$ BEGIN RAISE 'cancelled' USING errcode = 'query_canceled'; END $$;
SELECT evinbox.run('s');
SELECT event_id, attempts FROM evinbox.delivery ORDER BY event_id;
CREATE OR REPLACE FUNCTION fail(e evinbox.event) RETURNS void LANGUAGE sql AS '';
SELECT evinbox.run('s');
DROP TABLE guilty, trial;

SET client_min_messages = warning;
DROP EXTENSION evinbox CASCADE;
DROP TABLE seen;
