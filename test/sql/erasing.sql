-- erase() and erase_actor(): the one exception to append-only.
\set SHOW_CONTEXT never
SET client_min_messages = error;
CREATE EXTENSION evinbox;
RESET client_min_messages;
CREATE FUNCTION note(e evinbox.event) RETURNS void LANGUAGE plpgsql
	AS $$ BEGIN RAISE EXCEPTION 'cannot cope with %', e.metadata; END $$;
CREATE TABLE seen (id bigint, actor text, metadata jsonb, snapshot jsonb);
CREATE FUNCTION see(e evinbox.event) RETURNS void LANGUAGE sql
	AS $$ INSERT INTO public.seen VALUES (e.id, e.actor, e.metadata, e.snapshot) $$;
INSERT INTO evinbox.inbox (name, handler, dispatch, max_attempts) VALUES ('failing', 'note', 'scheduled', 1), ('seeing', 'see', 'scheduled', 1);
CREATE VIEW events AS SELECT id, subject_type, subject_id, action, actor, scope, metadata, snapshot, caused_by, depth
	FROM evinbox.event;

SELECT evinbox.record_event('Person', 7, 'moved', actor => 'User:1', metadata => '{"to": "Elm Street"}', scope => 'tenant 1');
SELECT evinbox.record_event('Person', 7, 'renamed', actor => 'User:7', snapshot => '{"name": "Jane"}');
SELECT evinbox.record_event('Person', 70, 'moved', actor => 'User:1', metadata => '{"to": "Oak Street"}');
SELECT evinbox.record_event('Issue', 1, 'opened', actor => 'User:7', metadata => '{"ip": "10.0.0.7"}', snapshot => '{"title": "Help"}');
SELECT evinbox.record_event('Issue', 2, 'opened', actor => 'User:70', metadata => '{"ip": "10.0.0.70"}');
SELECT evinbox.record_event('Person', 7, 'idle');
-- in the default partition
INSERT INTO evinbox.event (id, subject_type, subject_id, action, actor, metadata) OVERRIDING SYSTEM VALUE
	VALUES (1000000000000, 'Person', '7', 'far away', 'User:1', '{"at": "the moon"}');
SET client_min_messages = error;
SELECT evinbox.run('failing', 3);
RESET client_min_messages;
SELECT event_id, state, last_error, last_sqlstate, error_context IS NOT NULL AS has_context FROM evinbox.delivery ORDER BY event_id;

CREATE TABLE before AS SELECT * FROM evinbox.event;
SELECT evinbox.erase('Person', '7');
SELECT * FROM events ORDER BY id;
-- all the rest is what it was
SELECT count(*) FROM evinbox.event e JOIN before b USING (id, subject_type, subject_id, action, depth, occurred_at, recorded_at)
	WHERE (e.scope, e.caused_by, e.batch_id) IS NOT DISTINCT FROM (b.scope, b.caused_by, b.batch_id);
-- an error could have quoted the event; those of others stay
SELECT event_id, state, last_error, last_sqlstate, error_context IS NOT NULL AS has_context FROM evinbox.delivery ORDER BY event_id;
SELECT inbox, event_id, actor, metadata, last_error FROM evinbox.dead_letter ORDER BY event_id;
-- handlers see what is left
SELECT evinbox.run('seeing');
SELECT seen.* FROM seen JOIN evinbox.event USING (id) WHERE subject_type = 'Person' ORDER BY id;
-- once more: there is nothing left to erase, and nothing to tell
SELECT evinbox.erase('Person', '7');
SELECT count(*) FROM evinbox.event WHERE action = 'erased';
SELECT evinbox.erase('Person', 'nobody');
SELECT evinbox.record_event('Person', 7, 'moved', metadata => '{"to": "Ash Street"}') > 0 AS recorded;
SELECT evinbox.erase('Person', '7');
SELECT action, metadata FROM events WHERE subject_id = '7' AND action = 'erased' ORDER BY id;

-- of an actor; nobody's name stands in the event that tells of it
SET evinbox.actor = 'User:2';
SELECT evinbox.erase_actor('User:7');
SELECT subject_type, subject_id = encode(sha256('User:7'), 'hex') AS is_digest, actor, metadata FROM events WHERE subject_type = 'evinbox.actor';
SELECT evinbox.erase_actor('User:7');
SELECT id, actor, metadata, snapshot FROM events WHERE subject_type = 'Issue' ORDER BY id;
-- batches
SET evinbox.actor = 'User:3';
SELECT evinbox.begin_batch('what Jane did') > 0 AS begun;
SELECT evinbox.erase_actor('User:3');
SELECT description, actor FROM evinbox.batch;
SET evinbox.actor = 'User:2';
-- of whoever has erased
SELECT evinbox.erase_actor('User:2');
SELECT actor, metadata FROM events WHERE subject_type = 'evinbox.actor' ORDER BY id;
RESET evinbox.actor;

-- what looks like an erasure is erased, if it says more than one
SELECT evinbox.record_event('Person', 8, 'erased', metadata => '{"events": "Jane"}') > 0,
	evinbox.record_event('Person', 8, 'erased', metadata => '{"events": 1, "name": "Jane"}') > 0,
	evinbox.record_event('Person', 8, 'erased', metadata => '{"events": 1}', snapshot => '{"name": "Jane"}') > 0,
	evinbox.record_event('Person', 8, 'erased', metadata => '{"events": 1}') > 0;
SELECT evinbox.erase('Person', '8');
SELECT metadata, snapshot FROM events WHERE subject_id = '8' ORDER BY id;

-- a closed type takes it
INSERT INTO evinbox.action VALUES ('Closed', 'done');
SELECT evinbox.record_event('Closed', 1, 'done', metadata => '{"name": "Jane"}') > 0 AS recorded;
SELECT evinbox.erase('Closed', '1');
SELECT action FROM events WHERE subject_type = 'Closed' ORDER BY id;
SELECT evinbox.record_event('Closed', 1, 'erased');

-- it is rolled back like everything else
BEGIN;
SELECT evinbox.record_event('Person', 9, 'moved', metadata => '{"to": "Elm Street"}') > 0 AS recorded;
SAVEPOINT a;
SELECT evinbox.erase('Person', '9');
SELECT metadata FROM events WHERE subject_id = '9' AND action = 'moved';
ROLLBACK TO a;
SELECT metadata FROM events WHERE subject_id = '9' AND action = 'moved';
ROLLBACK;

-- events that wait are dispatched once, as they are now
SELECT evinbox.run('seeing') > 0 AS handled;
TRUNCATE seen;
SELECT evinbox.record_event('Waiting', g, 'done', metadata => '{"name": "Jane"}') > 0 AS recorded FROM generate_series(1, 3) g;
SELECT evinbox.erase('Waiting', '2');
SELECT evinbox.run('seeing');
SELECT metadata FROM seen ORDER BY id;

-- throttles by subject know of it all the same
SELECT evinbox.record_event('Waiting', 2, 'done', throttle => '1 hour');

-- all indexes find an erased event
SELECT count(*) FROM evinbox.event WHERE subject_type = 'Person' AND subject_id = '7';
SET enable_seqscan = off;
SELECT count(*) FROM evinbox.event WHERE subject_type = 'Person' AND subject_id = '7';
SELECT count(*) FROM evinbox.event WHERE id = 1;
SELECT count(*) FROM evinbox.event WHERE actor IS NULL AND subject_type = 'Person' AND subject_id = '7' AND action = 'renamed';
SELECT count(*) FROM evinbox.event WHERE actor = 'User:7';
RESET enable_seqscan;

-- only for those who were granted it, who need no more than that; and everybody else is still refused
CREATE ROLE evinbox_test_eraser;
CREATE ROLE evinbox_test_other;
GRANT USAGE ON SCHEMA evinbox TO evinbox_test_eraser, evinbox_test_other;
GRANT EXECUTE ON FUNCTION evinbox.erase(text, text) TO evinbox_test_eraser;
SELECT evinbox.record_event('Person', 10, 'moved', metadata => '{"to": "Elm Street"}') > 0 AS recorded;
SET ROLE evinbox_test_eraser;
SELECT evinbox.erase('Person', '10');
SELECT evinbox.erase_actor('User:1');
SELECT * FROM evinbox.event;
SET ROLE evinbox_test_other;
SELECT evinbox.erase('Person', '70');
RESET ROLE;
UPDATE evinbox.event SET metadata = '{}', actor = NULL, snapshot = NULL WHERE id = 3;
SET session_replication_role = replica;
UPDATE evinbox.event SET metadata = '{}', actor = NULL, snapshot = NULL WHERE id = 3;
RESET session_replication_role;

-- what others have added is heeded: a constraint, an index on an expression
ALTER TABLE evinbox.event ADD CONSTRAINT has_actor CHECK (actor IS NOT NULL) NOT VALID;
SELECT evinbox.record_event('Person', 11, 'moved', actor => 'User:11', metadata => '{"to": "Elm Street"}') > 0 AS recorded;
\set VERBOSITY terse
SELECT evinbox.erase('Person', '11');
\set VERBOSITY default
ALTER TABLE evinbox.event DROP CONSTRAINT has_actor;
CREATE INDEX event_to_idx ON evinbox.event ((metadata ->> 'to')) WHERE metadata ? 'to';
SELECT evinbox.erase('Person', '11');
SET enable_seqscan = off;
SELECT count(*) FROM evinbox.event WHERE metadata ->> 'to' = 'Elm Street' AND metadata ? 'to';
RESET enable_seqscan;

-- an index asks for no right
SELECT evinbox.record_event('Person', 13, 'moved', metadata => '{"to": "Elm Street"}') > 0 AS recorded;
SET ROLE evinbox_test_eraser;
SELECT evinbox.erase('Person', '13');
RESET ROLE;

DROP INDEX evinbox.event_to_idx;
-- so is an index that only summarizes, which from 16 on does not keep an update on its page
CREATE TABLE far (LIKE evinbox.event);
ALTER TABLE evinbox.event ATTACH PARTITION far FOR VALUES FROM (2000000000000) TO (3000000000000);
INSERT INTO evinbox.event (id, subject_type, subject_id, action, metadata) OVERRIDING SYSTEM VALUE
	SELECT 2000000000000 + g, 'Far', g::text, 'moved', '{"to": "Elm Street"}' FROM generate_series(1, 2) g;
CREATE INDEX far_to_idx ON far USING brin ((metadata ->> 'to'));
SELECT evinbox.erase('Far', '1');
SET enable_seqscan = off;
SET enable_indexscan = off;
SELECT subject_id FROM far WHERE metadata ->> 'to' IS NULL;
RESET enable_seqscan;
RESET enable_indexscan;
ALTER TABLE evinbox.event DETACH PARTITION far;
DROP TABLE far;

-- columns are generated anew
ALTER TABLE evinbox.event ADD COLUMN destination text GENERATED ALWAYS AS (metadata ->> 'to') STORED;
CREATE INDEX event_destination_idx ON evinbox.event (destination);
SELECT evinbox.record_event('Person', 12, 'moved', metadata => '{"to": "Elm Street"}') > 0 AS recorded;
SELECT destination FROM evinbox.event WHERE subject_id = '12';
SELECT evinbox.erase('Person', '12');
SELECT action, destination FROM evinbox.event WHERE subject_id = '12' ORDER BY id;
SET enable_seqscan = off;
SELECT count(*) FROM evinbox.event WHERE destination = 'Elm Street';
RESET enable_seqscan;
-- for a further column, recording asks for one, and so does the event that tells of it
SELECT evinbox.record_event('Person', 15, 'moved', metadata => '{"to": "Elm Street"}') > 0 AS recorded;
SET ROLE evinbox_test_eraser;
SELECT evinbox.erase('Person', '15');
RESET ROLE;
ALTER TABLE evinbox.event DROP COLUMN destination;

-- what is said of all events of a transaction is not said of these
BEGIN;
SELECT evinbox.set_context('{"name": "Jane"}');
SELECT evinbox.record_event('Person', 14, 'moved') > 0 AS recorded;
SELECT evinbox.erase('Person', '14');
SELECT evinbox.erase('Person', '14');
SELECT action, metadata FROM evinbox.event WHERE subject_id = '14' ORDER BY id;
COMMIT;

-- what is wrong
SELECT evinbox.erase(NULL, '7');
SELECT evinbox.erase('Person', NULL);
SELECT evinbox.erase('', '7');
SELECT evinbox.erase('Person', '');
SELECT evinbox.erase_actor(NULL);
BEGIN READ ONLY;
SELECT evinbox.erase('Person', '70');
ROLLBACK;
BEGIN READ ONLY;
SELECT evinbox.erase_actor('User:1');
ROLLBACK;

-- many at once, by the index: a subject's, among those of others
INSERT INTO evinbox.event (subject_type, subject_id, action, actor, metadata)
	SELECT 'Many', (g % 2)::text, 'done', 'User:' || g, '{"name": "Jane"}' FROM generate_series(1, 200000) g;
BEGIN;
SELECT evinbox.erase('Many', '0');
SELECT coalesce(sum(seq_scan), 0) AS scans, sum(n_tup_upd) FROM pg_stat_xact_all_tables WHERE schemaname = 'evinbox_internal' AND relname ~ '^event_';
COMMIT;
SELECT count(*) FILTER (WHERE metadata <> '{}' OR actor IS NOT NULL) FROM evinbox.event WHERE subject_type = 'Many' AND subject_id = '0' AND action = 'done';
SELECT count(*) FILTER (WHERE metadata <> '{}' AND actor IS NOT NULL) FROM evinbox.event WHERE subject_type = 'Many' AND subject_id = '1';
SELECT evinbox.erase_actor('User:1');

REVOKE ALL ON SCHEMA evinbox FROM evinbox_test_eraser, evinbox_test_other;
REVOKE ALL ON FUNCTION evinbox.erase(text, text) FROM evinbox_test_eraser;
DROP ROLE evinbox_test_eraser, evinbox_test_other;
DROP VIEW events;
DROP TABLE before, seen;
SET client_min_messages = warning;
DROP EXTENSION evinbox CASCADE;
