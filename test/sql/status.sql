-- The status views, as far as no clock and no worker matter.
\set SHOW_CONTEXT never
SET client_min_messages = error;
CREATE EXTENSION evinbox;
RESET client_min_messages;
CREATE TABLE seen (n serial, inbox text, id bigint);
CREATE FUNCTION note(e evinbox.event, config jsonb) RETURNS void LANGUAGE sql
	AS $$ INSERT INTO public.seen (inbox, id) VALUES (config ->> 'as', e.id) $$;
TABLE evinbox.inbox_status;
TABLE evinbox.dead_letter;
SELECT count(*) FROM evinbox.worker_status WHERE kind NOT IN ('launcher', 'scout', 'coordinator', 'runner');
-- nobody runs anything here: there is no live rule
SELECT count(*) FROM evinbox.worker_status WHERE kind = 'runner' AND database = current_database();
\d evinbox.inbox_status
\d evinbox.dead_letter
\d evinbox.worker_status

INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES ('scheduled', 'note', 'scheduled');
INSERT INTO evinbox.inbox (name, handler, enabled) VALUES ('paused', 'note', false);
INSERT INTO evinbox.inbox (name, handler, dispatch, enabled) VALUES ('both', 'note', 'scheduled', false);
CREATE VIEW status AS
	SELECT name, owner = current_user AS mine, state, lag_events, lag > '0' AS lags, lag < '1 hour' AS not_long,
		last_dispatch IS NOT NULL AS dispatched, retrying, dead, last_error,
		next_look_at > last_error_at AS looks_again, backlog, replay_left
	FROM evinbox.inbox_status ORDER BY name;
TABLE status;

-- events that wait, until they are looked at
SELECT evinbox.record_event('T', n, 'done') FROM generate_series(1, 3) n;
TABLE status;
SELECT evinbox.run('scheduled', 1);
TABLE status;
SELECT evinbox.run('scheduled');
TABLE status;
SELECT last_dispatch BETWEEN now() - interval '1 hour' AND now() AS lately FROM evinbox.inbox_status WHERE name = 'scheduled';
-- one's own are not committed yet
BEGIN;
SELECT evinbox.record_event('T', 4, 'done');
SELECT name, lag_events FROM status;
SELECT evinbox.run('scheduled');
SELECT name, lag_events FROM status;
SELECT evinbox.record_event('T', 5, 'done');
COMMIT;
SELECT name, lag_events FROM status;
SELECT evinbox.run('scheduled');
SELECT name, lag_events FROM status;

-- events that are not for it do not last
UPDATE evinbox.inbox SET subject_types = '{U}' WHERE name = 'scheduled';
SELECT last_dispatch AS before FROM evinbox.inbox_status WHERE name = 'scheduled' \gset
SELECT evinbox.record_event('T', 6, 'done');
SELECT name, lag_events FROM status;
SELECT evinbox.run('scheduled');
SELECT name, lag_events FROM status;
SELECT last_dispatch = :'before' AS nothing_dispatched FROM evinbox.inbox_status WHERE name = 'scheduled';

-- failures
CREATE FUNCTION fail(e evinbox.event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE 'failed at %', e.id; END $$;
UPDATE evinbox.inbox SET subject_types = NULL, handler = 'fail', max_attempts = 1 WHERE name = 'scheduled';
SELECT evinbox.record_event('T', 7, 'done');
SELECT evinbox.run('scheduled');
UPDATE evinbox.inbox SET max_attempts = 5 WHERE name = 'scheduled';
SELECT evinbox.record_event('T', n, 'done') FROM generate_series(8, 9) n;
SELECT evinbox.run('scheduled');
SELECT name, retrying, dead, last_error FROM status;
SELECT inbox, event_id, subject_type, subject_id, action, actor, metadata, attempts, last_error, last_sqlstate
	FROM evinbox.dead_letter;
-- a pause hides what is wrong otherwise, but for the reason
DROP FUNCTION fail;
SELECT evinbox.record_event('T', 10, 'done');
SELECT evinbox.run('scheduled');
SELECT name, state, last_error, looks_again FROM status;
UPDATE evinbox.inbox SET enabled = false WHERE name = 'scheduled';
SELECT name, state, last_error FROM status;

-- a live rule is run by a worker or by nobody; this one never commits
BEGIN;
INSERT INTO evinbox.inbox (name, handler) VALUES ('live', 'note');
SELECT name, state IN ('running', 'no worker') AS live FROM status WHERE name = 'live';
ROLLBACK;

-- many events that wait are not counted one by one
INSERT INTO evinbox.event (subject_type, subject_id, action) SELECT 'T', n::text, 'done' FROM generate_series(1, 12000) n;
SELECT name, lag_events >= 10000 AS many FROM status;

DROP VIEW status;

SET client_min_messages = warning;
DROP EXTENSION evinbox CASCADE;
DROP TABLE seen;
