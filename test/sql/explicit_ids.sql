-- Ids that were given by hand, rolled back, and given again: each event once.
\set SHOW_CONTEXT never
SET client_min_messages = error;
CREATE EXTENSION evinbox;
RESET client_min_messages;
CREATE TABLE seen (n serial, id bigint);
CREATE FUNCTION note(e evinbox.event) RETURNS void LANGUAGE sql AS $$ INSERT INTO public.seen (id) VALUES (e.id) $$;
CREATE FUNCTION record_again() RETURNS void LANGUAGE sql AS $$
	INSERT INTO evinbox.event (id, subject_type, subject_id, action) OVERRIDING SYSTEM VALUE
		SELECT n, 'T', n, 'done' FROM generate_series(1001, 1004) n $$;

-- batches that end between
INSERT INTO evinbox.inbox (name, handler, dispatch, batch_size) VALUES ('s', 'note', 'scheduled', 1);
BEGIN;
SELECT record_again();
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT record_again();
ROLLBACK TO s;
SELECT record_again();
COMMIT;
SELECT evinbox.run('s');
SELECT string_agg(id::text, ' ' ORDER BY n) FROM seen;
SELECT evinbox.run('s');

-- as a backlog, of which a part is used again only later
TRUNCATE seen;
DELETE FROM evinbox.inbox;
CREATE OR REPLACE FUNCTION record_again() RETURNS void LANGUAGE sql AS $$
	INSERT INTO evinbox.event (id, subject_type, subject_id, action) OVERRIDING SYSTEM VALUE
		SELECT n, 'T', n, 'done' FROM generate_series(2002, 2003) n $$;
INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES ('s', 'note', 'scheduled');
INSERT INTO evinbox.event (id, subject_type, subject_id, action) OVERRIDING SYSTEM VALUE VALUES (2001, 'T', 1, 'done');
BEGIN;
SELECT record_again();
ROLLBACK;
INSERT INTO evinbox.event (id, subject_type, subject_id, action) OVERRIDING SYSTEM VALUE VALUES (2004, 'T', 4, 'done');
UPDATE evinbox.inbox SET shards = 2;
SELECT record_again();
SELECT evinbox.run('s');
SELECT string_agg(id::text, ' ' ORDER BY id) FROM seen;
SELECT evinbox.run('s');

SET client_min_messages = warning;
DROP EXTENSION evinbox CASCADE;
DROP TABLE seen;
DROP FUNCTION record_again;
