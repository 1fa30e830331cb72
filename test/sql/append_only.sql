-- Events are append-only, for everyone and in every way.
\set SHOW_CONTEXT never
SET client_min_messages = error;
CREATE EXTENSION evinbox;
RESET client_min_messages;
CREATE FUNCTION ignore(e evinbox.event) RETURNS void LANGUAGE sql AS '';
INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES ('waiting', 'ignore', 'scheduled');
SELECT evinbox.record_event('T', n, 'done') FROM generate_series(1, 3) n;

UPDATE evinbox.event SET actor = 'User:1' WHERE id = 1;
UPDATE evinbox.event SET actor = 'User:1' WHERE false;
DELETE FROM evinbox.event WHERE id = 1;
DELETE FROM evinbox.event WHERE false;
TRUNCATE evinbox.event;
TRUNCATE evinbox.event CASCADE;
WITH gone AS (DELETE FROM evinbox.event RETURNING *) SELECT count(*) FROM gone;

MERGE INTO evinbox.event e USING (VALUES (1)) v (id) ON e.id = v.id
	WHEN MATCHED THEN UPDATE SET actor = 'User:1';
MERGE INTO evinbox.event e USING (VALUES (1)) v (id) ON e.id = v.id
	WHEN MATCHED THEN DELETE;
MERGE INTO evinbox.event e USING (VALUES (1000)) v (id) ON e.id = v.id
	WHEN MATCHED THEN DELETE
	WHEN NOT MATCHED THEN INSERT (subject_type, subject_id, action) VALUES ('T', 'merged', 'done');

INSERT INTO evinbox.event (id, subject_type, subject_id, action)
	OVERRIDING SYSTEM VALUE VALUES (1, 'T', 'other', 'done')
	ON CONFLICT (id) DO UPDATE SET subject_id = excluded.subject_id;
INSERT INTO evinbox.event (subject_type, subject_id, action) VALUES ('T', 'new', 'done')
	ON CONFLICT (id) DO UPDATE SET subject_id = excluded.subject_id;
-- this changes no row, and an event that was not recorded must not be dispatched
INSERT INTO evinbox.event (id, subject_type, subject_id, action)
	OVERRIDING SYSTEM VALUE VALUES (1, 'T', 'other', 'done')
	ON CONFLICT (id) DO NOTHING;
SELECT evinbox.run('waiting');

-- in a partition
SELECT tableoid::regclass FROM evinbox.event WHERE id = 1;
UPDATE evinbox_internal.event_1 SET actor = 'User:1' WHERE id = 1;
DELETE FROM evinbox_internal.event_1 WHERE id = 1;
TRUNCATE evinbox_internal.event_1;
TRUNCATE evinbox_internal.event_default;
DELETE FROM ONLY evinbox_internal.event_1 WHERE id = 1;

-- where ordinary triggers do not fire
SET session_replication_role = replica;
UPDATE evinbox.event SET actor = 'User:1' WHERE id = 1;
DELETE FROM evinbox.event WHERE id = 1;
DELETE FROM evinbox.event WHERE false;
TRUNCATE evinbox.event;
UPDATE evinbox_internal.event_1 SET actor = 'User:1' WHERE id = 1;
DELETE FROM evinbox_internal.event_1 WHERE id = 1;
TRUNCATE evinbox_internal.event_1;
RESET session_replication_role;

-- through a view, and by a foreign key
CREATE VIEW event_view AS SELECT id, actor FROM evinbox.event;
UPDATE event_view SET actor = 'User:1';
DELETE FROM event_view;
CREATE TABLE comment (event_id bigint REFERENCES evinbox.event ON DELETE CASCADE);
INSERT INTO comment VALUES (1);
DELETE FROM comment;
SELECT * FROM comment;

-- it is what it was
SELECT id, subject_type, subject_id, action, actor FROM evinbox.event ORDER BY id;

DROP TABLE comment;
DROP VIEW event_view;
SET client_min_messages = warning;
DROP EXTENSION evinbox CASCADE;
