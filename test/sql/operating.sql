-- Operating inboxes: pausing them, and what becomes of events that have failed.
\set SHOW_CONTEXT never
SET client_min_messages = error;
CREATE EXTENSION evinbox;
RESET client_min_messages;
CREATE TABLE seen (n serial, inbox text, subject text);
CREATE TABLE guilty (id text);
CREATE FUNCTION work(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.seen (inbox, subject) VALUES (config ->> 'as', e.subject_id);
	IF EXISTS (SELECT FROM public.guilty g WHERE g.id = e.subject_id) THEN
		RAISE EXCEPTION 'cannot handle %', e.subject_id USING errcode = 'EV001', detail = 'guilty', hint = 'Acquit it.';
	END IF;
END $$;
CREATE VIEW result AS SELECT inbox, string_agg(subject, ' ' ORDER BY n) AS handled FROM seen GROUP BY inbox ORDER BY inbox;
CREATE VIEW failed AS
	SELECT d.inbox, d.event_id, d.state, d.attempts, d.next_at <= now() AS due, d.last_error
	FROM evinbox.delivery d ORDER BY d.inbox, d.event_id;
CREATE VIEW status AS
	SELECT name, state, lag_events, retrying, dead, last_error, next_look_at IS NOT NULL AS looks_again
	FROM evinbox.inbox_status ORDER BY name;
INSERT INTO evinbox.inbox (name, handler, dispatch, config) VALUES
	('a', 'work', 'scheduled', '{"as": "a"}'), ('b', 'work', 'scheduled', '{"as": "b"}');

-- pausing and resuming, also twice
SELECT evinbox.pause('a');
SELECT count(evinbox.record_event('T', n, 'done')) FROM generate_series(1, 3) n;
SELECT evinbox.run('a'), evinbox.run('b');
TABLE status;
SELECT evinbox.pause('a');
SELECT name, enabled FROM evinbox.inbox ORDER BY name;
SELECT evinbox.resume('a');
SELECT evinbox.resume('a');
SELECT name, enabled FROM evinbox.inbox ORDER BY name;
SELECT evinbox.run('a'), evinbox.run('b');
TABLE result;
TABLE status;
BEGIN;
SELECT evinbox.pause('b');
ROLLBACK;
SELECT enabled FROM evinbox.inbox WHERE name = 'b';

-- resuming forgets why it was halted
CREATE FUNCTION mortal(e evinbox.event) RETURNS void LANGUAGE sql AS '';
UPDATE evinbox.inbox SET handler = 'mortal' WHERE name = 'a';
DROP FUNCTION mortal;
SELECT count(evinbox.record_event('T', 4, 'done'));
SELECT evinbox.run('a');
SELECT * FROM status WHERE name = 'a';
SELECT evinbox.resume('a');
SELECT * FROM status WHERE name = 'a';
SELECT evinbox.run('a');
SELECT evinbox.pause('a');
SELECT * FROM status WHERE name = 'a';
UPDATE evinbox.inbox SET handler = 'work' WHERE name = 'a';
SELECT evinbox.resume('a');
SELECT evinbox.run('a');
SELECT * FROM status WHERE name = 'a';
TRUNCATE seen;

-- failed events: one that is to be retried, dead ones, and one discarded
INSERT INTO guilty VALUES ('1'), ('2'), ('3');
UPDATE evinbox.inbox SET max_attempts = 1;
UPDATE evinbox.inbox SET max_attempts = 2 WHERE name = 'b';
SELECT evinbox.record_event('T', n, 'done') FROM generate_series(1, 4) n;
SET client_min_messages = error;
SELECT evinbox.run('a'), evinbox.run('b');
RESET client_min_messages;
TABLE failed;
SELECT event_id, error_context FROM evinbox.dead_letter ORDER BY event_id LIMIT 1;
SELECT evinbox.discard('a', 6);
SELECT evinbox.discard('b', 6);
TABLE failed;
SELECT * FROM status;
SELECT event_id FROM evinbox.dead_letter ORDER BY event_id;

-- one is tried again; it fails, and then it does not
SELECT evinbox.retry('a', 5);
TABLE failed;
\set VERBOSITY terse
SELECT evinbox.run('a');
\set VERBOSITY default
TABLE failed;
DELETE FROM guilty WHERE id = '1';
SELECT evinbox.retry('a', 5);
SELECT evinbox.run('a');
TABLE failed;
TABLE result;
-- a discarded one only if it is named
SELECT evinbox.retry('a');
SELECT evinbox.retry('a', 6);
TABLE failed;
-- none, and one that has not failed
SELECT evinbox.retry('a', 8);
SELECT evinbox.retry('a', -1);
SELECT evinbox.retry('a', 1000);
-- in all inboxes: one event, or all
SELECT evinbox.retry(event_id => 7);
SELECT evinbox.retry();
TABLE failed;
TRUNCATE guilty;
SELECT evinbox.run('a'), evinbox.run('b');
TABLE failed;
TABLE result;
SELECT evinbox.retry();
-- undone with its transaction
INSERT INTO guilty VALUES ('5');
SELECT evinbox.record_event('T', 5, 'done');
SET client_min_messages = error;
SELECT evinbox.run('a'), evinbox.run('b');
RESET client_min_messages;
BEGIN;
SELECT evinbox.retry('a');
SELECT evinbox.discard('b', 9);
ROLLBACK;
SELECT inbox, state FROM failed;
-- of a paused one, nothing is tried
SELECT evinbox.pause('a');
SELECT evinbox.retry('a');
TRUNCATE guilty;
SELECT evinbox.run('a');
SELECT evinbox.resume('a');
SELECT evinbox.run('a');
SELECT inbox, state FROM failed;

-- errors
SELECT evinbox.pause('missing');
SELECT evinbox.resume('missing');
SELECT evinbox.retry('missing');
SELECT evinbox.retry('missing', 1);
SELECT evinbox.discard('missing', 1);
SELECT evinbox.discard('a', 1);
SELECT evinbox.discard('a', 1000);
SELECT evinbox.discard('b', 9);
SELECT evinbox.discard('b', 9);
-- nothing happens without a name
SELECT evinbox.pause(NULL), evinbox.resume(NULL), evinbox.discard(NULL, 9), evinbox.discard('b', NULL);

-- others' inboxes are not one's own to operate, and retry() leaves them out
CREATE ROLE regress_evinbox_owner;
CREATE ROLE regress_evinbox_member IN ROLE regress_evinbox_owner;
CREATE ROLE regress_evinbox_stranger;
GRANT USAGE ON SCHEMA evinbox TO regress_evinbox_owner, regress_evinbox_stranger;
GRANT EXECUTE ON FUNCTION evinbox.pause, evinbox.resume, evinbox.retry, evinbox.discard TO regress_evinbox_owner, regress_evinbox_stranger;
INSERT INTO guilty VALUES ('6');
SELECT evinbox.record_event('T', 6, 'done');
SET client_min_messages = error;
SELECT evinbox.run('a'), evinbox.run('b');
RESET client_min_messages;
UPDATE evinbox.inbox SET owner = 'regress_evinbox_owner' WHERE name = 'a';
SET ROLE regress_evinbox_stranger;
SELECT evinbox.pause('a');
SELECT evinbox.resume('a');
SELECT evinbox.retry('a');
SELECT evinbox.discard('a', 10);
SELECT evinbox.pause('b');
SELECT evinbox.retry();
RESET ROLE;
SET ROLE regress_evinbox_member;
SELECT evinbox.pause('b');
SELECT evinbox.retry('b', 10);
SELECT evinbox.pause('a');
RESET ROLE;
TABLE status;
SET ROLE regress_evinbox_owner;
SELECT evinbox.resume('a');
SELECT evinbox.retry();
SELECT evinbox.retry('a', 10);
SELECT evinbox.discard('a', 10);
RESET ROLE;
TABLE failed;

-- that of a role that is gone, as if it had been restored without it
SET session_replication_role = replica;
UPDATE evinbox.inbox SET owner_id = 0 WHERE name = 'a';
RESET session_replication_role;
SET ROLE regress_evinbox_stranger;
SELECT evinbox.pause('a');
RESET ROLE;
-- not even a role of that name
SET ROLE regress_evinbox_owner;
SELECT evinbox.pause('a');
SELECT evinbox.retry();
RESET ROLE;
SELECT evinbox.pause('a');
SELECT state FROM status WHERE name = 'a';
SELECT evinbox.resume('a');
SELECT state FROM status WHERE name = 'a';

SET client_min_messages = warning;
DROP EXTENSION evinbox CASCADE;
DROP ROLE regress_evinbox_member, regress_evinbox_owner, regress_evinbox_stranger;
DROP TABLE seen, guilty CASCADE;
