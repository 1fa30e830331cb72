-- What cannot work is refused, and what can does not grow without end.
\set SHOW_CONTEXT never
SET client_min_messages = error;
CREATE EXTENSION evinbox;
RESET client_min_messages;
CREATE TABLE seen (n serial, inbox text, subject text);
CREATE FUNCTION note(e evinbox.event, config jsonb) RETURNS void LANGUAGE sql
	AS $$ INSERT INTO public.seen (inbox, subject) VALUES (config ->> 'as', e.subject_id) $$;

-- events that are too large, by each of the ways; compressible or not is no matter
\set VERBOSITY terse
SELECT evinbox.record_event('T', 1, 'done', metadata => jsonb_build_object('a', repeat('x', 33 * 1024 * 1024)));
SELECT evinbox.record_event('T', 1, 'done', snapshot => to_jsonb(repeat('x', 33 * 1024 * 1024)));
SELECT evinbox.record_event('T', 1, 'done', metadata => jsonb_build_object('a', repeat('x', 17 * 1024 * 1024)),
	snapshot => to_jsonb(repeat('x', 17 * 1024 * 1024)));
INSERT INTO evinbox.event (subject_type, subject_id, action, metadata)
	VALUES ('T', '1', 'done', jsonb_build_object('a', repeat('x', 33 * 1024 * 1024)));
\set VERBOSITY sqlstate
SELECT evinbox.record_event('T', 1, 'done', metadata => jsonb_build_object('a', repeat('x', 33 * 1024 * 1024)));
\set VERBOSITY default
DO $$
DECLARE
	detail text;
	hint text;
BEGIN
	PERFORM evinbox.record_event('T', 1, 'done', snapshot => to_jsonb(repeat('x', 33 * 1024 * 1024)));
EXCEPTION WHEN program_limit_exceeded THEN
	GET STACKED DIAGNOSTICS detail = pg_exception_detail, hint = pg_exception_hint;
	RAISE NOTICE '% %', detail, hint;
END $$;
SELECT count(*) FROM evinbox.event;

-- large ones that are not go all the way
INSERT INTO evinbox.inbox (name, handler, dispatch, config) VALUES ('large', 'note', 'scheduled', '{"as": "large"}');
INSERT INTO evinbox.inbox (name, statement, dispatch)
	VALUES ('statement', 'INSERT INTO seen (inbox, subject) SELECT ''statement'', length(metadata ->> ''a'') FROM events', 'scheduled');
SELECT count(evinbox.record_event('T', n, 'done', metadata => jsonb_build_object('a', repeat('x', 10 * 1024 * 1024)),
	snapshot => to_jsonb(repeat('y', 10 * 1024 * 1024)))) FROM generate_series(1, 3) n;
SELECT evinbox.run('large'), evinbox.run('statement');
SELECT inbox, subject FROM seen ORDER BY n;
-- but not a rule, which every runner of its owner has in memory
INSERT INTO evinbox.inbox (name, handler, config)
	VALUES ('huge', 'note', jsonb_build_object('a', repeat('x', 1100000)));
UPDATE evinbox.inbox SET config = jsonb_build_object('a', repeat('x', 1000000)) WHERE name = 'large';
UPDATE evinbox.inbox SET condition = 'true OR ' || repeat('true OR ', 10000) || 'false' WHERE name = 'large';
DELETE FROM evinbox.inbox;
TRUNCATE seen;
-- names of any length, and thousands of keys
SELECT evinbox.record_event(repeat('T', 1000), repeat('i', 1000), repeat('a', 500)) > 0 AS recorded;
SELECT evinbox.record_event('T', 1, 'done', metadata => (SELECT jsonb_object_agg(n, n) FROM generate_series(1, 10000) n)) > 0 AS recorded;
SELECT evinbox.record_event('T', 1, 'done', metadata => ('{"a": ' || repeat('[', 1000) || repeat(']', 1000) || '}')::jsonb) > 0 AS recorded;

-- there are no strings with NULs
SELECT evinbox.record_event('T', 1, 'done', metadata => '{"a": "\u0000"}');
SELECT evinbox.record_event('T', E'a\000b', 'done');
SELECT evinbox.record_event('T', 'a' || chr(0), 'done');
SELECT evinbox.record_event('T', 1, 'done', metadata => '{"a": "\\u0000"}') > 0 AS recorded;
SELECT metadata FROM evinbox.event ORDER BY id DESC LIMIT 1;

-- a rule whose events all fail is halted, instead of filling the dead letters
SHOW evinbox.max_failures_in_a_row;
CREATE TABLE guilty (first bigint, last bigint);
CREATE FUNCTION work(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.seen (inbox, subject) VALUES (config ->> 'as', e.subject_id);
	IF EXISTS (SELECT FROM public.guilty WHERE e.subject_id::bigint BETWEEN first AND last) THEN
		RAISE 'no';
	END IF;
END $$;
-- run() until there is nothing left that it would do
CREATE PROCEDURE run_on(inbox text) LANGUAGE plpgsql AS $$
DECLARE
	failed bigint = -1;
	former bigint;
BEGIN
	SET LOCAL client_min_messages = error;
	LOOP
		former := failed;
		IF evinbox.run(inbox) = 0 THEN
			SELECT count(*) INTO failed FROM evinbox.delivery d WHERE d.inbox = run_on.inbox;
			EXIT WHEN failed = former;
		END IF;
		COMMIT;
		SET LOCAL client_min_messages = error;
	END LOOP;
END $$;
CREATE VIEW status AS
	SELECT name, state, lag_events, retrying, dead, last_error, next_look_at IS NOT NULL AS looks_again
	FROM evinbox.inbox_status ORDER BY name;
INSERT INTO evinbox.inbox (name, handler, dispatch, config, max_attempts) VALUES ('w', 'work', 'scheduled', '{"as": "w"}', 1);
INSERT INTO guilty VALUES (1, 1000);
SELECT count(evinbox.record_event('T', n, 'done')) FROM generate_series(1, 49) n;
CALL run_on('w');
TABLE status;
-- they count from one call to the next, unless somebody has them forgotten
SELECT evinbox.resume('w');
DELETE FROM evinbox.delivery;
SELECT count(evinbox.record_event('T', n, 'done')) FROM generate_series(1, 70) n;
CALL run_on('w');
TABLE status;
-- it looks again at the first that waits, and records nothing more
CALL run_on('w');
TABLE status;
-- it goes on by itself when that one does not fail
UPDATE guilty SET last = 50;
INSERT INTO guilty VALUES (52, 1000);
CALL run_on('w');
TABLE status;
SELECT count(*), min(subject::int), max(subject::int) FROM seen;
-- resume() forgets the failures: so many more may fail
SELECT count(evinbox.record_event('T', n, 'done')) FROM generate_series(71, 130) n;
CALL run_on('w');
TABLE status;
SELECT evinbox.resume('w');
TABLE status;
CALL run_on('w');
TABLE status;
-- what is skipped is no failure
CREATE OR REPLACE FUNCTION work(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql
	AS $$ BEGIN PERFORM evinbox.skip('no'); END $$;
SELECT count(evinbox.record_event('T', n, 'done')) FROM generate_series(1, 70) n;
CALL run_on('w');
SELECT name, state, lag_events, (SELECT count(*) FROM evinbox.delivery WHERE state = 'skipped') AS skipped FROM status;
DELETE FROM evinbox.inbox;
DROP PROCEDURE run_on;

-- rules are many, but not any number: each commit with events looks at all
BEGIN;
INSERT INTO evinbox.inbox (name, handler, dispatch) SELECT n, 'note', 'scheduled' FROM generate_series(1, 10000) n;
SAVEPOINT all_taken;
INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES ('one too many', 'note', 'scheduled');
ROLLBACK TO all_taken;
DELETE FROM evinbox.inbox WHERE name = '77';
INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES ('no more than that', 'note', 'scheduled');
SELECT count(*) FROM evinbox.inbox;
ROLLBACK;

SET client_min_messages = warning;
DROP EXTENSION evinbox CASCADE;
DROP TABLE seen, guilty;
