-- The outbox: one row for each event of a transaction, if and when it commits.
\set SHOW_CONTEXT never
SET client_min_messages = error;
CREATE EXTENSION evinbox;
RESET client_min_messages;
-- as long as an inbox waits for them, no worker truncates anything
CREATE FUNCTION ignore(e evinbox.event) RETURNS void LANGUAGE sql AS '';
INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES ('waiting', 'ignore', 'scheduled');

CREATE VIEW outbox AS
	TABLE evinbox_internal.outbox_0 UNION ALL TABLE evinbox_internal.outbox_1
	UNION ALL TABLE evinbox_internal.outbox_2 UNION ALL TABLE evinbox_internal.outbox_3;
-- each event once, under one xid for each transaction
CREATE VIEW balance AS
	SELECT count(*) AS events, count(o.event_id) AS in_outbox, count(DISTINCT e.id) AS distinct_events,
		count(DISTINCT o.xid) AS transactions
	FROM evinbox.event e FULL JOIN outbox o ON o.event_id = e.id;
TABLE balance;

SELECT evinbox.record_event('T', 1, 'done') > 0 AS recorded;
TABLE balance;

BEGIN;
SELECT evinbox.record_event('T', 2, 'done') > 0 AS recorded;
ROLLBACK;
TABLE balance;

-- the xid is the top-level transaction's, also in savepoints
BEGIN;
SAVEPOINT a;
SELECT evinbox.record_event('T', 3, 'done') > 0 AS recorded;
SAVEPOINT b;
SELECT evinbox.record_event('T', 4, 'done') > 0 AS recorded;
ROLLBACK TO b;
SELECT evinbox.record_event('T', 5, 'done') > 0 AS recorded;
RELEASE a;
SELECT evinbox.record_event('T', 6, 'done') > 0 AS recorded;
SELECT count(*) FROM outbox WHERE xid = pg_current_xact_id();
COMMIT;
TABLE balance;
SELECT subject_id FROM evinbox.event ORDER BY id;

-- a function that catches its errors
DO $$
BEGIN
	FOR i IN 1..10 LOOP
		BEGIN
			PERFORM evinbox.record_event('Try', i, 'done');
			IF i % 3 = 0 THEN
				RAISE EXCEPTION 'undo';
			END IF;
		EXCEPTION WHEN raise_exception THEN NULL;
		END;
	END LOOP;
END $$;
TABLE balance;
SELECT string_agg(subject_id, ' ' ORDER BY id) FROM evinbox.event WHERE subject_type = 'Try';

-- in bulk
INSERT INTO evinbox.event (subject_type, subject_id, action)
	SELECT 'Bulk', n::text, 'done' FROM generate_series(1, 10000) n;
TABLE balance;
INSERT INTO evinbox.event (subject_type, subject_id, action)
	SELECT 'Bulk', CASE WHEN n < 5000 THEN n::text ELSE '' END, 'done' FROM generate_series(1, 5000) n;
TABLE balance;
COPY evinbox.event (subject_type, subject_id, action) FROM PROGRAM 'seq 1 3000 | sed "s/.*/Copy	&	done/"';
TABLE balance;
COPY evinbox.event (subject_type, subject_id, action) FROM stdin;
Copy	1	done
Copy	2	
\.
TABLE balance;
WITH first AS (INSERT INTO evinbox.event (subject_type, subject_id, action) VALUES ('With', '1', 'done') RETURNING id),
	second AS (INSERT INTO evinbox.event (subject_type, subject_id, action) VALUES ('With', '2', 'done') RETURNING id)
SELECT count(*) FROM first, second;
TABLE balance;

-- a suppressed call leaves nothing
SELECT evinbox.record_event('With', '1', 'done', throttle => '1 hour');
TABLE balance;

-- prepared transactions (where there are any) are for the TAP tests; this is
-- an event of which only the transaction itself knows yet
BEGIN;
SELECT evinbox.record_event('T', 7, 'done') > 0 AS recorded;
SELECT count(*) FROM outbox o JOIN evinbox.event e ON e.id = o.event_id WHERE e.subject_id = '7' AND xid = pg_current_xact_id();
ROLLBACK;

-- a relation of rows that were refused is none
INSERT INTO evinbox.event (subject_type, subject_id, action) SELECT 'None', '1', 'done' WHERE false;
TABLE balance;

-- all of it arrives, once
CREATE TABLE seen (id bigint);
CREATE FUNCTION note(e evinbox.event) RETURNS void LANGUAGE sql AS 'INSERT INTO public.seen VALUES (e.id)';
UPDATE evinbox.inbox SET handler = 'note';
SELECT evinbox.run('waiting') = (SELECT count(*) FROM evinbox.event) AS all_handled;
SELECT count(*) AS missing FROM evinbox.event e FULL JOIN seen s ON s.id = e.id WHERE s.id IS NULL OR e.id IS NULL;
SELECT count(*) = count(DISTINCT id) AS once FROM seen;
SELECT evinbox.run('waiting');

DROP VIEW balance, outbox;

SET client_min_messages = warning;
DROP EXTENSION evinbox CASCADE;
DROP TABLE seen;
