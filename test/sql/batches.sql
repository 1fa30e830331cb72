-- Batches: their sizes change nothing but how many events share a transaction.
\set SHOW_CONTEXT never
SET client_min_messages = error;
CREATE EXTENSION evinbox;
RESET client_min_messages;
CREATE TABLE seen (n serial, inbox text, id bigint);
CREATE FUNCTION note(e evinbox.event, config jsonb) RETURNS void LANGUAGE sql
	AS $$ INSERT INTO public.seen (inbox, id) VALUES (config ->> 'as', e.id) $$;
INSERT INTO evinbox.inbox (name, handler, dispatch, config, batch_size)
	SELECT 'by ' || n, 'note', 'scheduled', jsonb_build_object('as', 'by ' || n), n FROM unnest('{1,3,10,1000}'::int[]) n;
CREATE VIEW result AS
	SELECT inbox, count(*), count(DISTINCT id) AS once, string_agg(id::text, ' ' ORDER BY n) AS ids FROM seen GROUP BY inbox
	ORDER BY inbox COLLATE "C";

-- one transaction
INSERT INTO evinbox.event (subject_type, subject_id, action) SELECT 'T', n::text, 'done' FROM generate_series(1, 10) n;
SELECT name, evinbox.run(name) FROM (SELECT name FROM evinbox.inbox ORDER BY id OFFSET 0) i;
TABLE result;
TRUNCATE seen;

-- ten transactions, one of which did not happen, one of which had savepoints
SELECT evinbox.record_event('T', 11, 'done');
SELECT evinbox.record_event('T', 12, 'done');
SELECT evinbox.record_event('T', 13, 'done');
BEGIN;
SELECT evinbox.record_event('T', 14, 'done');
ROLLBACK;
BEGIN;
SELECT evinbox.record_event('T', 15, 'done');
SAVEPOINT a;
SELECT evinbox.record_event('T', 16, 'done');
ROLLBACK TO a;
SELECT evinbox.record_event('T', 17, 'done');
COMMIT;
SELECT evinbox.record_event('T', 18, 'done');
SELECT name, evinbox.run(name) FROM (SELECT name FROM evinbox.inbox ORDER BY id OFFSET 0) i;
TABLE result;
TRUNCATE seen;

-- max_events, which is no multiple of anything
SELECT count(evinbox.record_event('T', n, 'done')) FROM generate_series(1, 10) n;
SELECT name, evinbox.run(name, 4) FROM (SELECT name FROM evinbox.inbox ORDER BY id OFFSET 0) i;
SELECT name, evinbox.run(name, 4) FROM (SELECT name FROM evinbox.inbox ORDER BY id OFFSET 0) i;
SELECT count(evinbox.record_event('T', n, 'done')) FROM generate_series(11, 12) n;
SELECT name, evinbox.run(name) FROM (SELECT name FROM evinbox.inbox ORDER BY id OFFSET 0) i;
TABLE result;
TRUNCATE seen;

-- in the transaction of the events, run by run
BEGIN;
SELECT count(evinbox.record_event('T', n, 'done')) FROM generate_series(1, 5) n;
SELECT name, evinbox.run(name) FROM (SELECT name FROM evinbox.inbox ORDER BY id OFFSET 0) i;
SELECT count(evinbox.record_event('T', n, 'done')) FROM generate_series(6, 10) n;
SELECT name, evinbox.run(name) FROM (SELECT name FROM evinbox.inbox ORDER BY id OFFSET 0) i;
COMMIT;
SELECT name, evinbox.run(name) FROM (SELECT name FROM evinbox.inbox ORDER BY id OFFSET 0) i;
TABLE result;
TRUNCATE seen;

-- a rule that wants few of many
UPDATE evinbox.inbox SET subject_types = '{U}';
SELECT count(evinbox.record_event(CASE WHEN n % 7 = 0 THEN 'U' ELSE 'T' END, n, 'done')) FROM generate_series(1, 30) n;
SELECT name, evinbox.run(name) FROM (SELECT name FROM evinbox.inbox ORDER BY id OFFSET 0) i;
SELECT inbox, string_agg(e.subject_id, ' ' ORDER BY n) FROM seen s JOIN evinbox.event e USING (id) GROUP BY inbox ORDER BY inbox COLLATE "C";
TRUNCATE seen;

-- a condition, which is prepared once and used for every batch
UPDATE evinbox.inbox SET subject_types = NULL, condition = 'e.subject_id::int % 4 = 0';
SELECT count(evinbox.record_event('T', n, 'done')) FROM generate_series(1, 12) n;
SELECT name, evinbox.run(name) FROM (SELECT name FROM evinbox.inbox ORDER BY id OFFSET 0) i;
SELECT inbox, string_agg(e.subject_id, ' ' ORDER BY n) FROM seen s JOIN evinbox.event e USING (id) GROUP BY inbox ORDER BY inbox COLLATE "C";
TRUNCATE seen;

-- large events
UPDATE evinbox.inbox SET condition = NULL;
SELECT count(evinbox.record_event('T', n, 'done', metadata =>
		jsonb_build_object('text', (SELECT string_agg(md5(n::text || i), '') FROM generate_series(1, 100000) i))))
	FROM generate_series(1, 7) n;
CREATE FUNCTION measure(e evinbox.event, config jsonb) RETURNS void LANGUAGE sql
	AS $$ INSERT INTO public.seen (inbox, id) VALUES (config ->> 'as', length(e.metadata ->> 'text')) $$;
UPDATE evinbox.inbox SET handler = 'measure';
SELECT evinbox.run('by 1000');
SELECT id, count(*) FROM seen GROUP BY id;
TRUNCATE seen;
DELETE FROM evinbox.inbox WHERE name <> 'by 1000';

-- more than one window can hold in a batch
UPDATE evinbox.inbox SET handler = 'note';
INSERT INTO evinbox.event (subject_type, subject_id, action) SELECT 'T', n::text, 'done' FROM generate_series(1, 12345) n;
SELECT evinbox.run('by 1000');
SELECT count(*), count(DISTINCT id) AS once, bool_and(id > before) AS in_order
	FROM (SELECT id, lag(id, 1, 0::bigint) OVER (ORDER BY n) AS before FROM seen) s;
SELECT evinbox.run('by 1000');
DROP VIEW result;

SET client_min_messages = warning;
DROP EXTENSION evinbox CASCADE;
DROP TABLE seen;
