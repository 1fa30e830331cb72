-- record_event(), INSERT and COPY: what is stored, and what is refused.
\set SHOW_CONTEXT never
SET client_min_messages = error;
CREATE EXTENSION evinbox;
RESET client_min_messages;
CREATE VIEW stored AS
	SELECT id, subject_type, subject_id, action, actor, scope, metadata, snapshot, batch_id, caused_by, depth
	FROM evinbox.event;

-- three types of subject ids
SELECT evinbox.record_event('Issue', '42', 'opened');
SELECT evinbox.record_event('Issue', 42, 'opened');
SELECT evinbox.record_event('Issue', 9223372036854775807, 'opened');
SELECT evinbox.record_event('Issue', -1::smallint, 'opened');
SELECT evinbox.record_event('Issue', 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'::uuid, 'opened');
SELECT * FROM stored ORDER BY id;
SELECT count(*) FROM evinbox.event
	WHERE recorded_at = occurred_at AND recorded_at BETWEEN now() - interval '1 hour' AND clock_timestamp();

-- all arguments, by name and by position
SELECT evinbox.record_event(subject_type => 'Issue', subject_id => 43, action => 'closed', actor => 'User:7',
	metadata => '{"from": "open", "to": "closed"}', throttle => '0', throttle_by => 'actor',
	snapshot => '{"title": "It hurts"}', scope => 'Project:1', occurred_at => '2001-02-03 04:05:06+00');
SELECT evinbox.record_event('Issue', 'x', 'closed', 'User:7', '{"a": 1}', NULL, 'subject', '[1]', 'Project:2',
	'infinity');
SELECT * FROM stored WHERE id > 5 ORDER BY id;
SELECT id, occurred_at AT TIME ZONE 'UTC' AS occurred_at, recorded_at > '2001-02-04' AS recorded_now
	FROM evinbox.event WHERE id > 5 ORDER BY id;

-- a null is a value not given, but for what an event cannot be without
SELECT evinbox.record_event('Issue', 44, 'closed', NULL, NULL, NULL, NULL, NULL, NULL, NULL);
SELECT * FROM stored WHERE subject_id = '44';
SELECT evinbox.record_event(NULL, '1', 'closed');
SELECT evinbox.record_event('Issue', NULL::text, 'closed');
SELECT evinbox.record_event('Issue', NULL::bigint, 'closed');
SELECT evinbox.record_event('Issue', NULL::uuid, 'closed');
SELECT evinbox.record_event('Issue', '1', NULL);
SELECT evinbox.record_event('', '1', 'closed');
SELECT evinbox.record_event('Issue', '', 'closed');
SELECT evinbox.record_event('Issue', '1', '');
SELECT evinbox.record_event('Issue', '1', 'closed', metadata => '[]');
SELECT evinbox.record_event('Issue', '1', 'closed', metadata => '"text"');
SELECT evinbox.record_event('Issue', '1', 'closed', metadata => 'null');
SELECT evinbox.record_event('Issue', '1', 'closed', metadata => '{');
SELECT count(*) FROM evinbox.event;

-- nothing but bytes: no case, no blanks, no normal form
SELECT evinbox.record_event(' issue', E'line\nbreak', 'o''pened; --', metadata => '{"ключ": "✓"}');
SELECT subject_type, subject_id, action, metadata FROM evinbox.event ORDER BY id DESC LIMIT 1;
SELECT evinbox.record_event('Big', repeat('x', 1000), 'came', metadata => jsonb_build_object('text', repeat('y', 100000)));
SELECT length(subject_id), length(metadata ->> 'text') FROM evinbox.event WHERE subject_type = 'Big';

-- with the time of recording, not of the transaction's start
BEGIN;
SELECT evinbox.record_event('Time', 1, 'passed');
SELECT evinbox.record_event('Time', 2, 'passed');
SELECT recorded_at > now() AS after_begin, recorded_at >= lag(recorded_at) OVER (ORDER BY id) AS in_order
	FROM evinbox.event WHERE subject_type = 'Time' ORDER BY id;
COMMIT;

-- an id that was given out is not given out again
BEGIN;
SELECT evinbox.record_event('Gap', 1, 'left') - max(id) AS next FROM evinbox.event;
ROLLBACK;
SELECT evinbox.record_event('Gap', 1, 'left') - max(id) AS next FROM evinbox.event;

-- INSERT: the same checks
INSERT INTO evinbox.event (subject_type, subject_id, action) VALUES ('Row', '1', 'inserted')
	RETURNING subject_type, actor, metadata, depth, recorded_at = occurred_at AS now;
INSERT INTO evinbox.event (subject_type, subject_id, action, metadata, actor, scope, snapshot, occurred_at)
	VALUES ('Row', '2', 'inserted', NULL, 'User:1', 'S', '{}', '2001-01-01 00:00+00')
	RETURNING actor, metadata, scope, snapshot, occurred_at AT TIME ZONE 'UTC' AS occurred_at;
INSERT INTO evinbox.event (subject_id, action) VALUES ('1', 'inserted');
INSERT INTO evinbox.event (subject_type, action) VALUES ('Row', 'inserted');
INSERT INTO evinbox.event (subject_type, subject_id) VALUES ('Row', '1');
INSERT INTO evinbox.event (subject_type, subject_id, action) VALUES ('', '1', 'inserted');
INSERT INTO evinbox.event (subject_type, subject_id, action) VALUES ('Row', '', 'inserted');
INSERT INTO evinbox.event (subject_type, subject_id, action) VALUES ('Row', '1', '');
INSERT INTO evinbox.event (subject_type, subject_id, action, metadata) VALUES ('Row', '1', 'inserted', '1');
-- one wrong row takes the others with it
INSERT INTO evinbox.event (subject_type, subject_id, action)
	SELECT 'Row', CASE n WHEN 5 THEN '' ELSE n::text END, 'inserted' FROM generate_series(1, 9) n;
SELECT subject_id FROM evinbox.event WHERE subject_type = 'Row' ORDER BY id;

-- INSERT: what evinbox fills cannot be forged
INSERT INTO evinbox.event (id, subject_type, subject_id, action) VALUES (1000000, 'Row', '3', 'inserted');
INSERT INTO evinbox.event (subject_type, subject_id, action, caused_by, depth, recorded_at)
	VALUES ('Row', '4', 'forged', 1, 7, '2001-01-01')
	RETURNING caused_by, depth, recorded_at > now() AS recorded_now;
INSERT INTO evinbox.event (subject_type, subject_id, action, depth, recorded_at)
	VALUES ('Row', '5', 'forged', NULL, NULL)
	RETURNING caused_by, depth, recorded_at > now() AS recorded_now;

-- COPY: likewise
COPY evinbox.event (subject_type, subject_id, action, caused_by, depth, recorded_at, metadata) FROM stdin;
Line	1	copied	1	7	2001-01-01	\N
Line	2	copied	\N	\N	\N	{"a": 1}
\.
SELECT subject_id, metadata, caused_by, depth, recorded_at > now() - interval '1 hour' AS recorded_now,
		occurred_at = recorded_at AS occurred_then
	FROM evinbox.event WHERE subject_type = 'Line' ORDER BY id;
COPY evinbox.event (subject_type, subject_id, action) FROM stdin;
Line	3	copied
Line		copied
\.
COPY evinbox.event (subject_type, subject_id, action, metadata) FROM stdin;
Line	4	copied	[]
\.
COPY evinbox.event (subject_type, subject_id) FROM stdin;
Line	5
\.
SELECT count(*) FROM evinbox.event WHERE subject_type = 'Line';

-- from PL/pgSQL, from a prepared statement, in a subtransaction
DO $$
BEGIN
	PERFORM evinbox.record_event('Block', 1, 'run');
	BEGIN
		PERFORM evinbox.record_event('Block', 2, 'run');
		RAISE EXCEPTION 'undo';
	EXCEPTION WHEN raise_exception THEN
		PERFORM evinbox.record_event('Block', 3, 'run');
	END;
	BEGIN
		PERFORM evinbox.record_event('Block', 4, '');
	EXCEPTION WHEN invalid_parameter_value THEN
		PERFORM evinbox.record_event('Block', 5, 'run');
	END;
END $$;
SELECT subject_id FROM evinbox.event WHERE subject_type = 'Block' ORDER BY id;
PREPARE record (text, bigint) AS SELECT evinbox.record_event($1, $2, 'executed', metadata => '{}') IS NOT NULL AS done;
EXECUTE record ('Plan', 1);
EXECUTE record ('Plan', 2);
SELECT subject_id FROM evinbox.event WHERE subject_type = 'Plan' ORDER BY id;

-- a search_path leads nowhere else
CREATE SCHEMA decoy;
CREATE TABLE decoy.event (LIKE evinbox.event);
SET search_path = decoy, pg_temp;
SELECT evinbox.record_event('Path', 1, 'followed') IS NOT NULL AS done;
RESET search_path;
SELECT count(*) FROM decoy.event;
SELECT count(*) FROM evinbox.event WHERE subject_type = 'Path';

-- a transaction that must not write
BEGIN READ ONLY;
SELECT evinbox.record_event('T', 1, 'done');
ROLLBACK;

SET client_min_messages = warning;
DROP SCHEMA decoy CASCADE;
DROP VIEW stored;
DROP EXTENSION evinbox;
