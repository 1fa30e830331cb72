-- Past events for a new inbox, and again for one that may see them twice.
\set SHOW_CONTEXT never
SET client_min_messages = error;
CREATE EXTENSION evinbox;
RESET client_min_messages;
CREATE TABLE seen (n serial, inbox text, subject text);
CREATE FUNCTION note(e evinbox.event, config jsonb) RETURNS void LANGUAGE sql
	AS $$ INSERT INTO public.seen (inbox, subject) VALUES (config ->> 'as', e.subject_id) $$;
CREATE VIEW result AS SELECT inbox, string_agg(subject, ' ' ORDER BY n) AS handled FROM seen GROUP BY inbox ORDER BY inbox;
CREATE VIEW status AS SELECT name, state, lag_events, backlog, replay_left FROM evinbox.inbox_status ORDER BY name;
CREATE FUNCTION record_some(first int, last int, action text = 'done') RETURNS bigint LANGUAGE sql
	AS $$ SELECT count(evinbox.record_event('T', n, action)) FROM generate_series(first, last) n $$;
INSERT INTO evinbox.inbox (name, handler, dispatch, config) VALUES ('a', 'note', 'scheduled', '{"as": "a"}');
SELECT record_some(1, 10);
SELECT evinbox.run('a');

-- only one that allows it
SELECT evinbox.replay('a', 1, 10);
UPDATE evinbox.inbox SET replayable = true;
SELECT evinbox.replay('a', 4, 3);
SELECT evinbox.replay('missing', 1, 10);
SELECT evinbox.replay('a', 1, NULL), evinbox.replay('a', NULL, 1), evinbox.replay(NULL, 1, 1);
TABLE status;

-- a range, with what lies outside of all ids
TRUNCATE seen;
SELECT evinbox.replay('a', 3, 5);
TABLE status;
SELECT evinbox.run('a');
SELECT evinbox.run('a');
TABLE result;
TABLE status;
TRUNCATE seen;
SELECT evinbox.replay('a', -5, 2);
SELECT evinbox.replay('a', 9, 9223372036854775807);
SELECT evinbox.replay('a', 1000, 2000);
SELECT evinbox.replay('a', -5, 0);
TABLE status;
SELECT evinbox.run('a');
TABLE result;
TRUNCATE seen;

-- as the rule is by now
UPDATE evinbox.inbox SET condition = 'e.subject_id::int % 2 = 0';
SELECT evinbox.replay('a', 1, 10);
SELECT evinbox.run('a');
TABLE result;
UPDATE evinbox.inbox SET condition = NULL;
TRUNCATE seen;

-- twice the same, and overlapping: once for each time
SELECT evinbox.replay('a', 1, 3);
SELECT evinbox.replay('a', 1, 3);
SELECT evinbox.replay('a', 2, 4);
TABLE status;
SELECT evinbox.run('a');
TABLE result;
TRUNCATE seen;

-- beside what is new, which does not wait for it
SELECT evinbox.replay('a', 1, 6);
SELECT record_some(11, 13);
SELECT evinbox.run('a', 2);
TABLE status;
SELECT evinbox.run('a', 3);
TABLE status;
SELECT record_some(14, 15);
SELECT evinbox.run('a', 3);
TABLE status;
SELECT evinbox.run('a');
TABLE result;
TABLE status;
TRUNCATE seen;

-- paused, and undone
SELECT evinbox.replay('a', 1, 4);
SELECT evinbox.run('a', 2);
SELECT evinbox.pause('a');
SELECT evinbox.run('a');
TABLE status;
SELECT evinbox.resume('a');
BEGIN;
SELECT evinbox.run('a');
SELECT evinbox.replay('a', 1, 1);
SELECT evinbox.run('a');
TABLE result;
ROLLBACK;
TABLE status;
SELECT evinbox.run('a');
TABLE result;
TRUNCATE seen;

-- not allowed any more: what is left waits
SELECT evinbox.replay('a', 1, 4);
SELECT evinbox.run('a', 2);
UPDATE evinbox.inbox SET replayable = false;
SELECT evinbox.run('a');
TABLE result;
UPDATE evinbox.inbox SET replayable = true;
SELECT evinbox.run('a');
TABLE result;
TRUNCATE seen;

-- a failing event is a delivery, as ever
CREATE FUNCTION fail(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
	INSERT INTO public.seen (inbox, subject) VALUES (config ->> 'as', e.subject_id);
	IF e.subject_id = '2' THEN
		RAISE 'no';
	END IF;
END $$;
UPDATE evinbox.inbox SET handler = 'fail', backoff = '0';
SELECT evinbox.replay('a', 1, 3);
SELECT evinbox.run('a');
TABLE result;
SELECT event_id, state, attempts FROM evinbox.delivery;
-- also one that is a delivery already
SELECT evinbox.replay('a', 1, 3);
\set VERBOSITY terse
SELECT evinbox.run('a');
\set VERBOSITY default
SELECT event_id, state, attempts FROM evinbox.delivery;
DELETE FROM evinbox.inbox;
TRUNCATE seen;

-- several lanes share what is new; a replay is one lane
INSERT INTO evinbox.inbox (name, handler, dispatch, config, shards, replayable) VALUES ('a', 'note', 'scheduled', '{"as": "a"}', 4, true);
SELECT record_some(16, 20);
SELECT evinbox.replay('a', 1, 20);
SELECT evinbox.run('a');
SELECT count(*), count(DISTINCT subject) FROM seen;
SELECT string_agg(subject, ' ' ORDER BY n) AS replayed FROM (SELECT * FROM seen ORDER BY n DESC LIMIT 20) s;
UPDATE evinbox.inbox SET shards = 2;
SELECT evinbox.replay('a', 5, 7);
UPDATE evinbox.inbox SET shards = 3;
TRUNCATE seen;
SELECT evinbox.run('a');
TABLE result;
TABLE status;
DELETE FROM evinbox.inbox;
TRUNCATE seen;

-- a statement
INSERT INTO evinbox.inbox (name, statement, dispatch, replayable, batch_size)
	VALUES ('s', 'INSERT INTO seen (inbox, subject) SELECT ''s'', string_agg(subject_id, '','' ORDER BY id) FROM events', 'scheduled', true, 3);
SELECT evinbox.replay('s', 2, 9);
SELECT evinbox.run('s');
TABLE result;
DELETE FROM evinbox.inbox;
TRUNCATE seen;

-- a new inbox that begins in the past
INSERT INTO evinbox.inbox (name, handler, dispatch, config, start_at) VALUES ('new', 'note', 'scheduled', '{"as": "new"}', 'beginning');
TABLE status;
SELECT record_some(21, 22);
TABLE status;
SELECT evinbox.run('new', 18);
TABLE status;
SELECT evinbox.run('new');
SELECT evinbox.run('new');
TABLE result;
TABLE status;
TRUNCATE seen;
-- one that does not is given nothing of it
INSERT INTO evinbox.inbox (name, handler, dispatch, config) VALUES ('newer', 'note', 'scheduled', '{"as": "newer"}');
TABLE status;
SELECT evinbox.run('newer');
-- in several lanes, and with lists
INSERT INTO evinbox.inbox (name, handler, dispatch, config, start_at, shards, actions)
	VALUES ('lanes', 'note', 'scheduled', '{"as": "lanes"}', 'beginning', 3, '{done}');
SELECT record_some(23, 24), record_some(25, 25, 'undone');
SELECT evinbox.run('lanes');
SELECT count(*), count(DISTINCT subject), max(subject::int) FROM seen;
DELETE FROM evinbox.inbox;
TRUNCATE seen;
-- from a time on
SELECT clock_timestamp() AS now \gset
SELECT record_some(31, 33);
INSERT INTO evinbox.inbox (name, handler, dispatch, config, start_at) VALUES
	('past', 'note', 'scheduled', '{"as": "past"}', :'now'), ('all', 'note', 'scheduled', '{"as": "all"}', '2001-02-03 04:05'),
	('none', 'note', 'scheduled', '{"as": "none"}', '2999-01-01'), ('today', 'note', 'scheduled', '{"as": "today"}', 'tomorrow');
SELECT record_some(34, 35);
SELECT evinbox.run('past'), evinbox.run('all'), evinbox.run('none'), evinbox.run('today');
SELECT inbox, handled FROM result WHERE inbox <> 'all';
SELECT count(*), count(DISTINCT subject) FROM seen WHERE inbox = 'all';
DELETE FROM evinbox.inbox;
TRUNCATE seen;
-- with events of its own transaction, before and after
BEGIN;
SELECT record_some(41, 42);
INSERT INTO evinbox.inbox (name, handler, dispatch, config, start_at, condition)
	VALUES ('own', 'note', 'scheduled', '{"as": "own"}', 'beginning', 'e.subject_id::int > 30');
SELECT record_some(43, 44);
SELECT evinbox.run('own');
SELECT record_some(45, 46);
COMMIT;
SELECT evinbox.run('own');
TABLE result;
-- what is not a time, and what cannot be changed
INSERT INTO evinbox.inbox (name, handler, dispatch, start_at) VALUES ('i', 'note', 'scheduled', 'Beginning');
INSERT INTO evinbox.inbox (name, handler, dispatch, start_at) VALUES ('i', 'note', 'scheduled', '');
INSERT INTO evinbox.inbox (name, handler, dispatch, start_at) VALUES ('i', 'note', 'scheduled', '2001-02-31');
UPDATE evinbox.inbox SET start_at = NULL;
UPDATE evinbox.inbox SET start_at = '2001-02-03';
UPDATE evinbox.inbox SET start_at = 'beginning', priority = 3 RETURNING priority, start_at;
SELECT evinbox.run('own');
DELETE FROM evinbox.inbox;

-- privileges
CREATE ROLE regress_evinbox_replayer;
GRANT USAGE ON SCHEMA evinbox TO regress_evinbox_replayer;
GRANT EXECUTE ON FUNCTION evinbox.replay TO regress_evinbox_replayer;
INSERT INTO evinbox.inbox (name, handler, dispatch, config, replayable) VALUES ('mine', 'note', 'scheduled', '{"as": "mine"}', true);
INSERT INTO evinbox.inbox (name, handler, dispatch, owner, replayable) VALUES ('theirs', 'note', 'scheduled', 'regress_evinbox_replayer', true);
SET ROLE regress_evinbox_replayer;
SELECT evinbox.replay('mine', 1, 2);
SELECT evinbox.replay('theirs', 1, 2);
RESET ROLE;
TABLE status;

-- an inbox that is deleted takes what was left along
DELETE FROM evinbox.inbox;
INSERT INTO evinbox.inbox (name, handler, dispatch, config, replayable) VALUES ('theirs', 'note', 'scheduled', '{"as": "theirs"}', true);
SELECT evinbox.run('theirs');

SET client_min_messages = warning;
DROP EXTENSION evinbox CASCADE;
DROP ROLE regress_evinbox_replayer;
DROP TABLE seen CASCADE;
DROP FUNCTION record_some;
