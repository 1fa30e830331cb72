-- Who did it: the actor by setting, and what nobody says of an event himself.
-- evinbox.actor_source, a setting of the server, has a test of its own.
\set SHOW_CONTEXT never
SET client_min_messages = error;
CREATE EXTENSION evinbox;
RESET client_min_messages;
SELECT current_user AS superuser \gset
CREATE VIEW recorded AS SELECT id, subject_id, actor FROM evinbox.event ORDER BY id;

-- nobody, unless somebody says so
SELECT evinbox.record_event('T', 1, 'done');
SHOW evinbox.actor;
SET evinbox.actor = 'User:7';
SELECT evinbox.record_event('T', 2, 'done');
SELECT evinbox.record_event('T', 3, 'done', NULL);
SELECT evinbox.record_event('T', 4, 'done', 'User:8');
SELECT evinbox.record_event('T', '00000000-0000-0000-0000-000000000005'::uuid, 'done');
INSERT INTO evinbox.event (subject_type, subject_id, action) VALUES ('T', '6', 'done') RETURNING actor;
INSERT INTO evinbox.event (subject_type, subject_id, action, actor) VALUES ('T', '7', 'done', NULL), ('T', '8', 'done', 'User:8')
	RETURNING actor;
COPY evinbox.event (subject_type, subject_id, action) FROM STDIN;
T	9	done
\.
COPY evinbox.event (subject_type, subject_id, action, actor) FROM STDIN;
T	10	done	\N
T	11	done	User:8
\.
TABLE recorded;
-- within a transaction, a function, and not any more
BEGIN;
SET LOCAL evinbox.actor = 'Übermut:∞';
SELECT evinbox.record_event('T', 12, 'done');
COMMIT;
SELECT evinbox.record_event('T', 13, 'done');
BEGIN;
SAVEPOINT s;
SET LOCAL evinbox.actor = 'undone';
ROLLBACK TO s;
SELECT evinbox.record_event('T', 14, 'done');
COMMIT;
CREATE FUNCTION record_as_clerk(id int) RETURNS bigint LANGUAGE sql SET evinbox.actor = 'clerk'
	AS $$ SELECT evinbox.record_event('T', $1, 'done') $$;
SELECT record_as_clerk(15), evinbox.record_event('T', 16, 'done');
SET evinbox.actor = '';
SELECT evinbox.record_event('T', 17, 'done');
RESET evinbox.actor;
SELECT evinbox.record_event('T', 18, 'done');
SELECT subject_id, actor FROM recorded WHERE id > 11;

-- a throttle goes by it
SET evinbox.actor = 'User:1';
SELECT evinbox.record_event('Throttled', 1, 'done', throttle => '1 hour', throttle_by => 'actor') IS NOT NULL AS recorded;
SELECT evinbox.record_event('Throttled', 1, 'done', throttle => '1 hour', throttle_by => 'actor') IS NOT NULL AS recorded;
SELECT evinbox.record_event('Throttled', 1, 'done', 'User:1', throttle => '1 hour', throttle_by => 'actor') IS NOT NULL AS recorded;
SELECT evinbox.record_event('Throttled', 1, 'done', 'User:2', throttle => '1 hour', throttle_by => 'actor') IS NOT NULL AS recorded;
SET evinbox.actor = 'User:3';
SELECT evinbox.record_event('Throttled', 1, 'done', throttle => '1 hour', throttle_by => 'actor') IS NOT NULL AS recorded;
SELECT evinbox.record_event('Throttled', 1, 'done', throttle => '1 hour') IS NOT NULL AS recorded;
RESET evinbox.actor;
SELECT evinbox.record_event('Throttled', 1, 'done', throttle => '1 hour', throttle_by => 'actor') IS NOT NULL AS recorded;
SELECT evinbox.record_event('Throttled', 1, 'done', throttle => '1 hour', throttle_by => 'actor') IS NOT NULL AS recorded;
SELECT actor FROM evinbox.event WHERE subject_type = 'Throttled' ORDER BY id;

-- run() records as its caller, or as whom the handler says, who is the caller again afterwards
CREATE FUNCTION follow(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF config ? 'actor' THEN
		PERFORM set_config('evinbox.actor', config ->> 'actor', false);
	END IF;
	PERFORM evinbox.record_event('Followed', e.subject_id, 'by ' || current_setting('evinbox.actor'));
END $$;
INSERT INTO evinbox.inbox (name, handler, dispatch, subject_types, config) VALUES
	('caller', 'follow', 'scheduled', '{Run}', '{}'), ('handler', 'follow', 'scheduled', '{Run}', '{"actor": "handler"}');
SET evinbox.actor = 'caller';
SELECT evinbox.record_event('Run', 1, 'done', 'User:1') > 0 AS recorded;
SELECT evinbox.run('handler'), evinbox.run('caller');
SHOW evinbox.actor;
SELECT action, actor FROM evinbox.event WHERE subject_type = 'Followed' ORDER BY id;
RESET evinbox.actor;

-- who says who the actor is is not for a session to say
SHOW evinbox.actor_source;
SET evinbox.actor_source = 'session_user';
SELECT set_config('evinbox.actor_source', 'context', true);
ALTER ROLE CURRENT_USER SET evinbox.actor_source = 'context';
CREATE FUNCTION record_any() RETURNS void LANGUAGE sql SET evinbox.actor_source = 'any' AS '';

-- what a role that may insert cannot say of an event: its id, in a session without
-- another one, too
CREATE ROLE regress_evinbox_recorder LOGIN;
GRANT USAGE ON SCHEMA evinbox TO regress_evinbox_recorder;
GRANT SELECT, INSERT ON evinbox.event TO regress_evinbox_recorder;
GRANT EXECUTE ON FUNCTION evinbox.record_event(text, text, text, text, jsonb, interval, text, jsonb, text, timestamptz)
	TO regress_evinbox_recorder;
SELECT max(id) + 1000 AS free, max(id) + 1 AS next FROM evinbox.event \gset
\c - regress_evinbox_recorder
INSERT INTO evinbox.event (id, subject_type, subject_id, action) OVERRIDING SYSTEM VALUE VALUES (:free, 'Id', '1', 'done');
\c -
COPY evinbox.event (id, subject_type, subject_id, action) FROM STDIN;
100000	Id	2	done
\.
INSERT INTO evinbox.event (subject_type, subject_id, action) VALUES ('Id', '3', 'done') RETURNING id = :next AS as_given;
INSERT INTO evinbox.event (id, subject_type, subject_id, action) OVERRIDING SYSTEM VALUE VALUES (:free, 'Id', '4', 'done');
INSERT INTO evinbox.event (id, subject_type, subject_id, action) OVERRIDING SYSTEM VALUE VALUES (:next + 1, 'Id', '4', 'done');
INSERT INTO evinbox.event (id, subject_type, subject_id, action) OVERRIDING SYSTEM VALUE VALUES (-1, 'Id', '4', 'done');
INSERT INTO evinbox.event (id, subject_type, subject_id, action) VALUES (:free, 'Id', '4', 'done');
COPY evinbox.event (id, subject_type, subject_id, action) FROM STDIN;
100000	Id	5	done
\.
MERGE INTO evinbox.event e USING (VALUES (:free)) v (id) ON e.id = v.id
	WHEN NOT MATCHED THEN INSERT (id, subject_type, subject_id, action) OVERRIDING SYSTEM VALUE VALUES (v.id, 'Id', '4', 'done');
-- without one, as many as there are
INSERT INTO evinbox.event (id, subject_type, subject_id, action) OVERRIDING USER VALUE VALUES (:free, 'Id', '6', 'done')
	RETURNING id < :free AS as_given;
INSERT INTO evinbox.event (subject_type, subject_id, action) SELECT 'Id', n, 'done' FROM generate_series(7, 9) n ORDER BY n DESC;
INSERT INTO evinbox.event (subject_type, subject_id, action) VALUES ('Id', '10', 'done'), ('Id', '11', 'done');
COPY evinbox.event (subject_type, subject_id, action) FROM STDIN;
Id	12	done
Id	13	done
\.
SELECT evinbox.record_event('Id', '14', 'done') IS NOT NULL AS recorded;
SELECT id - :next AS nth, subject_id FROM evinbox.event WHERE subject_type = 'Id' ORDER BY id;

-- and when it was recorded, and why
INSERT INTO evinbox.event (subject_type, subject_id, action, recorded_at, caused_by, depth, occurred_at)
	VALUES ('Forged', '1', 'done', '2000-01-01', 1, 7, '2000-01-01');
COPY evinbox.event (subject_type, subject_id, action, recorded_at, caused_by, depth) FROM STDIN;
Forged	2	done	2000-01-01	1	7
\.
SELECT recorded_at > '2001-01-01' AS new, caused_by, depth, occurred_at > '2001-01-01' AS occurred_now
	FROM evinbox.event WHERE subject_type = 'Forged' ORDER BY id;
\c - :superuser

SET client_min_messages = error;
DROP EXTENSION evinbox CASCADE;
DROP FUNCTION record_as_clerk;
DROP ROLE regress_evinbox_recorder;
