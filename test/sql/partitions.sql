-- Partitions of evinbox.event.
\set SHOW_CONTEXT never
SET client_min_messages = error;
CREATE EXTENSION evinbox;
RESET client_min_messages;
CREATE TABLE seen (n serial, inbox text, id bigint);
CREATE FUNCTION note(e evinbox.event, config jsonb) RETURNS void LANGUAGE sql
	AS $$ INSERT INTO public.seen (inbox, id) VALUES (config ->> 'as', e.id) $$;
SELECT inhrelid::regclass, pg_get_expr(relpartbound, inhrelid)
	FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid WHERE inhparent = 'evinbox.event'::regclass
	ORDER BY inhrelid::regclass::text COLLATE "C";
-- the indexes of every partition are those of the table
SELECT i.indrelid::regclass, count(*)
	FROM pg_inherits h JOIN pg_index i ON i.indrelid = h.inhrelid WHERE h.inhparent = 'evinbox.event'::regclass
	GROUP BY i.indrelid ORDER BY i.indrelid::regclass::text COLLATE "C";
-- all of them belong to the extension
SELECT count(*) FROM pg_inherits h WHERE h.inhparent = 'evinbox.event'::regclass
	AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = h.inhrelid AND d.classid = 'pg_class'::regclass AND d.deptype = 'e');

INSERT INTO evinbox.inbox (name, handler, dispatch, config) VALUES ('s', 'note', 'scheduled', '{"as": "s"}');
SELECT evinbox.record_event('T', 1, 'done');
-- an id beyond all ranges, and below them
INSERT INTO evinbox.event (id, subject_type, subject_id, action) OVERRIDING SYSTEM VALUE
	VALUES (1000000000000, 'T', 'far', 'done'), (10000001, 'T', 'just beyond', 'done'), (10000000, 'T', 'just within', 'done'),
		(0, 'T', 'zero', 'done'), (-5, 'T', 'below', 'done');
SELECT tableoid::regclass, id, subject_id FROM evinbox.event ORDER BY id;
SELECT evinbox.run('s');
SELECT id FROM seen ORDER BY id;
SELECT evinbox.run('s');

-- it is as append-only as the others
UPDATE evinbox.event SET actor = 'User:1' WHERE id = 1000000000000;
DELETE FROM evinbox.event WHERE id = 1000000000000;
UPDATE evinbox_internal.event_default SET actor = 'User:1';
DELETE FROM evinbox_internal.event_default;
TRUNCATE evinbox_internal.event_default;
SET session_replication_role = replica;
UPDATE evinbox_internal.event_default SET actor = 'User:1';
DELETE FROM evinbox_internal.event_default;
TRUNCATE evinbox_internal.event_default;
RESET session_replication_role;

-- written to directly, it makes the same checks
INSERT INTO evinbox_internal.event_default (id, subject_type, subject_id, action, metadata, recorded_at, occurred_at, depth)
	OVERRIDING SYSTEM VALUE VALUES (2000000000000, '', '1', 'done', '{}', now(), now(), 0);
INSERT INTO evinbox_internal.event_default (id, subject_type, subject_id, action, metadata, recorded_at, occurred_at, depth)
	OVERRIDING SYSTEM VALUE VALUES (5, 'T', '1', 'done', '{}', now(), now(), 0);
INSERT INTO evinbox_internal.event_default (id, subject_type, subject_id, action, metadata, recorded_at, occurred_at, depth)
	OVERRIDING SYSTEM VALUE VALUES (2000000000000, 'T', 'direct', 'done', NULL, '2001-01-01', NULL, 9) RETURNING metadata, recorded_at > now() AS recorded_now, depth;
SELECT evinbox.run('s');
SELECT id FROM seen ORDER BY n DESC LIMIT 1;

-- an event there throttles as well, and an id exists only once
SELECT evinbox.record_event('T', 'far', 'done', throttle => '1 hour');
SELECT evinbox.record_event('T', 'zero', 'done', throttle => '1 hour', throttle_by => 'actor');
INSERT INTO evinbox.event (id, subject_type, subject_id, action) OVERRIDING SYSTEM VALUE VALUES (1000000000000, 'T', 'twice', 'done');

-- when the numbers have got there
SELECT setval('evinbox.event_id_seq', 3000000000000);
SELECT evinbox.record_event('T', 'late', 'done');
SELECT tableoid::regclass, id FROM evinbox.event WHERE subject_id = 'late';
SELECT evinbox.run('s');

-- dispatch and throttling know of a partition as soon as it is there
BEGIN;
CREATE TABLE event_later (LIKE evinbox.event INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES);
ALTER TABLE evinbox.event ATTACH PARTITION event_later FOR VALUES FROM (4000000000000) TO (5000000000000);
SELECT setval('evinbox.event_id_seq', 4000000000000);
SELECT evinbox.record_event('T', 'later', 'done');
SELECT evinbox.record_event('T', 'later', 'done', throttle => '1 hour');
SELECT tableoid::regclass, id FROM evinbox.event WHERE subject_id = 'later';
SELECT evinbox.run('s');
SELECT id FROM seen ORDER BY n DESC LIMIT 1;
SAVEPOINT a;
UPDATE event_later SET actor = 'User:1';
ROLLBACK TO a;
DELETE FROM event_later WHERE false;
ROLLBACK;
SELECT evinbox.record_event('T', 'after', 'done') > 0 AS recorded;
SELECT evinbox.run('s');

-- one with its columns in another order is refused by all that would read or write it
BEGIN;
CREATE TABLE event_mixed (LIKE evinbox.event INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES);
ALTER TABLE event_mixed DROP COLUMN metadata, ADD COLUMN metadata jsonb NOT NULL DEFAULT '{}';
ALTER TABLE evinbox.event ATTACH PARTITION event_mixed FOR VALUES FROM (5000000000000) TO (6000000000000);
SAVEPOINT attached;
INSERT INTO evinbox.event (id, subject_type, subject_id, action) OVERRIDING SYSTEM VALUE VALUES (5000000000000, 'T', 'mixed', 'done');
ROLLBACK TO attached;
SELECT evinbox.record_event('T', 'mixed', 'done');
ROLLBACK TO attached;
SELECT evinbox.run('s');
ROLLBACK TO attached;
SELECT * FROM evinbox.subject_feed('T', 'after');
ROLLBACK;
SELECT evinbox.record_event('T', 'after', 'done') > 0 AS recorded;

SET client_min_messages = warning;
DROP EXTENSION evinbox CASCADE;
DROP TABLE seen;
