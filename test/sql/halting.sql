-- Halting: a rule that cannot work any more stands still, and loses nothing.
\set SHOW_CONTEXT never
SET client_min_messages = error;
CREATE EXTENSION evinbox;
RESET client_min_messages;
SELECT current_user AS superuser \gset
CREATE TABLE seen (n serial, inbox text, id bigint);
CREATE FUNCTION note(e evinbox.event, config jsonb) RETURNS void LANGUAGE sql
	AS $$ INSERT INTO public.seen (inbox, id) VALUES (config ->> 'as', e.id) $$;
INSERT INTO evinbox.inbox (name, handler, dispatch, config) VALUES
	('s', 'note', 'scheduled', '{"as": "s"}'), ('other', 'note', 'scheduled', '{"as": "other"}');
CREATE VIEW status AS
	SELECT name, state, lag_events, retrying, dead, last_error, last_error_at IS NOT NULL AS has_time
	FROM evinbox.inbox_status ORDER BY name;

-- no function
CREATE FUNCTION mortal(e evinbox.event, config jsonb) RETURNS void LANGUAGE sql
	AS $$ INSERT INTO public.seen (inbox, id) VALUES ('s', e.id) $$;
UPDATE evinbox.inbox SET handler = 'mortal' WHERE name = 's';
SELECT evinbox.record_event('T', 1, 'done');
SELECT evinbox.run('s');
SELECT evinbox.record_event('T', n, 'done') FROM generate_series(2, 3) n;
DROP FUNCTION mortal;
SELECT evinbox.run('s');
TABLE status;
-- it says so once, and stays where it is; others do not notice
SELECT evinbox.run('s');
SELECT evinbox.run('other');
TABLE status;
SELECT inbox, id FROM seen ORDER BY n;
SELECT count(*) FROM evinbox.delivery;
-- it goes on when there is one
SELECT evinbox.record_event('T', 4, 'done');
CREATE FUNCTION mortal(e evinbox.event) RETURNS void LANGUAGE sql
	AS $$ INSERT INTO public.seen (inbox, id) VALUES ('s', e.id) $$;
SELECT evinbox.run('s');
TABLE status;
SELECT id FROM seen WHERE inbox = 's' ORDER BY n;
SELECT evinbox.run('s');

-- within the transaction of the events
BEGIN;
SELECT evinbox.record_event('T', 5, 'done');
DROP FUNCTION mortal;
SELECT evinbox.run('s');
SELECT state FROM status WHERE name = 's';
CREATE FUNCTION mortal(e evinbox.event) RETURNS void LANGUAGE sql
	AS $$ INSERT INTO public.seen (inbox, id) VALUES ('s', e.id) $$;
SELECT evinbox.run('s');
SELECT state FROM status WHERE name = 's';
COMMIT;
SELECT evinbox.run('s');
SELECT id FROM seen WHERE inbox = 's' ORDER BY n;

-- no table for the condition, and then a different reason
CREATE TABLE open (id text);
INSERT INTO open VALUES ('6');
UPDATE evinbox.inbox SET condition = 'EXISTS (SELECT FROM open o WHERE o.id = e.subject_id)' WHERE name = 's';
SELECT evinbox.record_event('T', n, 'done') FROM generate_series(6, 7) n;
ALTER TABLE open RENAME id TO key;
SELECT evinbox.run('s');
SELECT state, last_error FROM status WHERE name = 's';
DROP TABLE open;
SELECT evinbox.run('s');
SELECT state, last_error FROM status WHERE name = 's';
UPDATE evinbox.inbox SET condition = 'e.subject_id = ''7''' WHERE name = 's';
SELECT evinbox.run('s');
SELECT state, lag_events, last_error FROM status WHERE name = 's';
SELECT id FROM seen WHERE inbox = 's' ORDER BY n;
UPDATE evinbox.inbox SET condition = NULL WHERE name = 's';

-- a handler that has become something else
CREATE TABLE kept AS SELECT * FROM seen;
DROP FUNCTION mortal;
CREATE PROCEDURE mortal(e evinbox.event) LANGUAGE sql AS '';
SELECT evinbox.record_event('T', 8, 'done');
SELECT evinbox.run('s');
DROP PROCEDURE mortal;
CREATE FUNCTION mortal(e evinbox.event) RETURNS void LANGUAGE sql AS '';
SELECT evinbox.run('s');
SELECT state FROM status WHERE name = 's';
DROP TABLE kept;

-- a handler that its owner may not execute any more
CREATE ROLE regress_evinbox_halted LOGIN;
GRANT USAGE ON SCHEMA evinbox TO regress_evinbox_halted;
GRANT EXECUTE ON FUNCTION evinbox.run TO regress_evinbox_halted;
UPDATE evinbox.inbox SET owner = 'regress_evinbox_halted' WHERE name = 's';
REVOKE EXECUTE ON FUNCTION mortal FROM PUBLIC;
SELECT evinbox.record_event('T', 9, 'done');
\c - regress_evinbox_halted
SELECT evinbox.run('s');
\c - :superuser
SELECT state, lag_events, last_error FROM status WHERE name = 's';
GRANT EXECUTE ON FUNCTION mortal TO regress_evinbox_halted;
\c - regress_evinbox_halted
SELECT evinbox.run('s');
\c - :superuser
SELECT state, lag_events, last_error FROM status WHERE name = 's';
UPDATE evinbox.inbox SET owner = current_user WHERE name = 's';
REVOKE ALL ON SCHEMA evinbox FROM regress_evinbox_halted;
REVOKE ALL ON FUNCTION evinbox.run FROM regress_evinbox_halted;
REVOKE ALL ON FUNCTION mortal FROM regress_evinbox_halted;
DROP ROLE regress_evinbox_halted;

-- a handler that meets what is wrong only as it runs: what came before it stays
-- done, and the event is not to blame
CREATE FUNCTION meet(e evinbox.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.seen (inbox, id) VALUES ('meeting', e.id);
	CASE e.subject_id
		WHEN 'table' THEN PERFORM * FROM missing;
		WHEN 'column' THEN PERFORM missing FROM public.seen;
		WHEN 'syntax' THEN EXECUTE 'SELEC';
		WHEN 'schema' THEN EXECUTE 'CREATE TABLE nowhere.at_all ()';
		WHEN 'right' THEN RAISE 'not allowed' USING errcode = 'insufficient_privilege';
		ELSE
	END CASE;
END $$;
INSERT INTO evinbox.inbox (name, handler, dispatch, subject_types, max_attempts)
	VALUES ('meeting', 'meet', 'scheduled', '{M}', 1);
SELECT count(evinbox.record_event('M', id, 'done')) FROM unnest('{a,b,table,c,column,syntax,schema,right,d}'::text[]) id;
SELECT evinbox.run('meeting');
SELECT state, lag_events, last_error FROM status WHERE name = 'meeting';
SELECT subject_id FROM seen s JOIN evinbox.event e USING (id) WHERE inbox = 'meeting' ORDER BY n;
-- it says so once
SELECT evinbox.run('meeting');
CREATE TABLE missing ();
SELECT evinbox.run('meeting');
SELECT state, lag_events, last_error FROM status WHERE name = 'meeting';
-- one after the other, each in its turn
CREATE OR REPLACE FUNCTION meet(e evinbox.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.seen (inbox, id) VALUES ('meeting', e.id);
	CASE e.subject_id
		WHEN 'syntax' THEN EXECUTE 'SELEC';
		WHEN 'schema' THEN EXECUTE 'CREATE TABLE nowhere.at_all ()';
		WHEN 'right' THEN RAISE 'not allowed' USING errcode = 'insufficient_privilege';
		ELSE
	END CASE;
END $$;
SELECT evinbox.run('meeting');
CREATE OR REPLACE FUNCTION meet(e evinbox.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.seen (inbox, id) VALUES ('meeting', e.id);
	CASE e.subject_id
		WHEN 'schema' THEN EXECUTE 'CREATE TABLE nowhere.at_all ()';
		WHEN 'right' THEN RAISE 'not allowed' USING errcode = 'insufficient_privilege';
		ELSE
	END CASE;
END $$;
SELECT evinbox.run('meeting');
CREATE OR REPLACE FUNCTION meet(e evinbox.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.seen (inbox, id) VALUES ('meeting', e.id);
	CASE e.subject_id
		WHEN 'right' THEN RAISE 'not allowed' USING errcode = 'insufficient_privilege';
		ELSE
	END CASE;
END $$;
SELECT evinbox.run('meeting');
CREATE OR REPLACE FUNCTION meet(e evinbox.event) RETURNS void LANGUAGE sql
	AS $$ INSERT INTO public.seen (inbox, id) VALUES ('meeting', e.id) $$;
SELECT evinbox.run('meeting');
SELECT state, lag_events, last_error FROM status WHERE name = 'meeting';
SELECT string_agg(subject_id, ' ' ORDER BY n) FROM seen s JOIN evinbox.event e USING (id) WHERE inbox = 'meeting';
SELECT count(*) FROM evinbox.delivery;
DELETE FROM evinbox.inbox WHERE name = 'meeting';
DROP FUNCTION meet;
DROP TABLE missing;

-- a retry that meets it stays due, and is not counted
CREATE FUNCTION meet(e evinbox.event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
INSERT INTO evinbox.inbox (name, handler, dispatch, subject_types, backoff) VALUES ('meeting', 'meet', 'scheduled', '{M}', '0');
SELECT count(evinbox.record_event('M', n, 'done')) FROM generate_series(1, 2) n;
\set VERBOSITY sqlstate
SELECT evinbox.run('meeting');
\set VERBOSITY default
CREATE OR REPLACE FUNCTION meet(e evinbox.event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN PERFORM * FROM missing; END $$;
SELECT evinbox.run('meeting');
SELECT state, lag_events, retrying, last_error FROM status WHERE name = 'meeting';
SELECT state, attempts, last_error FROM evinbox.delivery WHERE inbox = 'meeting';
CREATE TABLE missing ();
SELECT evinbox.run('meeting');
SELECT state, lag_events, retrying, last_error FROM status WHERE name = 'meeting';
DELETE FROM evinbox.inbox WHERE name = 'meeting';
DROP FUNCTION meet;
DROP TABLE missing;

-- halted at a retry, with no other event behind it
CREATE FUNCTION fail(e evinbox.event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
INSERT INTO evinbox.inbox (name, handler, dispatch, backoff) VALUES ('retrying', 'fail', 'scheduled', '0');
SELECT evinbox.record_event('T', 10, 'done');
SELECT evinbox.run('retrying');
DROP FUNCTION fail;
SELECT evinbox.run('retrying');
SELECT state, lag_events, retrying, last_error FROM status WHERE name = 'retrying';
SELECT attempts FROM evinbox.delivery;
CREATE FUNCTION fail(e evinbox.event) RETURNS void LANGUAGE sql AS '';
SELECT evinbox.run('retrying');
SELECT state, lag_events, retrying, last_error FROM status WHERE name = 'retrying';

-- a rule that is renamed, paused and deleted while it is halted
SELECT evinbox.record_event('T', 11, 'done');
DROP FUNCTION fail;
SELECT evinbox.run('retrying');
UPDATE evinbox.inbox SET name = 'retrying still', enabled = false WHERE name = 'retrying';
SELECT name, state FROM status WHERE name LIKE 'retrying%';
DELETE FROM evinbox.inbox WHERE name LIKE 'retrying%';
SELECT count(*) FROM evinbox_internal.halt;

-- one of several live ones, in one run
BEGIN;
CREATE FUNCTION fail(e evinbox.event) RETURNS void LANGUAGE sql AS '';
INSERT INTO evinbox.inbox (name, handler, priority, config) VALUES ('l1', 'fail', 1, '{}'), ('l2', 'note', 2, '{"as": "l2"}');
DROP FUNCTION fail;
SELECT evinbox.record_event('T', 12, 'done');
SELECT evinbox.run();
SELECT name, state FROM status WHERE name = 'l1';
SELECT id FROM seen WHERE inbox = 'l2';
ROLLBACK;

-- a condition that fails whatever the event is, at an event that is not for it
CREATE FUNCTION mortal_too(e evinbox.event) RETURNS void LANGUAGE sql AS '';
INSERT INTO evinbox.inbox (name, handler, dispatch, subject_types, condition, batch_size, max_attempts)
	VALUES ('constant', 'mortal_too', 'scheduled', '{A}', '1 / 0 = 1', 1, 1);
SELECT evinbox.record_event('B', 13, 'done');
SELECT evinbox.record_event('A', 14, 'done');
DROP FUNCTION mortal_too;
SELECT evinbox.run('constant');
CREATE FUNCTION mortal_too(e evinbox.event) RETURNS void LANGUAGE sql AS '';
SELECT evinbox.run('constant');
SELECT inbox, subject_id, last_error FROM evinbox.dead_letter;
SELECT state, lag_events, last_error FROM status WHERE name = 'constant';

DROP VIEW status;

SET client_min_messages = warning;
DROP EXTENSION evinbox CASCADE;
DROP TABLE seen;
