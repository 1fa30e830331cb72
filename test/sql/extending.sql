-- What users add to evinbox.event counts for record_event(), INSERT and COPY
-- in the same way.
\set SHOW_CONTEXT never
SET client_min_messages = error;
CREATE EXTENSION evinbox;
RESET client_min_messages;
CREATE FUNCTION record_both(id text, metadata jsonb = '{}') RETURNS void LANGUAGE sql AS $$
	SELECT evinbox.record_event('T', id || ' by function', 'done', metadata => metadata);
	INSERT INTO evinbox.event (subject_type, subject_id, action, metadata) VALUES ('T', id || ' by INSERT', 'done', metadata);
$$;
-- as long as an inbox waits for them, no worker empties the outbox
CREATE FUNCTION ignore(e evinbox.event) RETURNS void LANGUAGE sql AS '';
INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES ('waiting', 'ignore', 'scheduled');
BEGIN;
ALTER TABLE evinbox.event ALTER COLUMN actor SET NOT NULL;
\set VERBOSITY terse
SAVEPOINT a;
SELECT evinbox.record_event('T', 'nobody''s', 'done');
ROLLBACK TO a;
INSERT INTO evinbox.event (subject_type, subject_id, action) VALUES ('T', 'nobody''s', 'done');
\set VERBOSITY default
ROLLBACK;
SELECT record_both('plain');

-- indexes of all kinds
CREATE INDEX event_metadata_idx ON evinbox.event USING gin (metadata);
CREATE INDEX event_size_idx ON evinbox.event ((metadata ->> 'size'));
CREATE INDEX event_large_idx ON evinbox.event (subject_id) WHERE metadata ->> 'size' = 'large';
SELECT record_both('small', '{"size": "small"}');
SELECT record_both('large', '{"size": "large"}');
COPY evinbox.event (subject_type, subject_id, action, metadata) FROM stdin;
T	large by COPY	done	{"size": "large"}
\.
SET enable_seqscan = off;
SELECT subject_id FROM evinbox.event WHERE metadata @> '{"size": "large"}' ORDER BY id;
SELECT subject_id FROM evinbox.event WHERE metadata ->> 'size' = 'small' ORDER BY id;
SELECT subject_id FROM evinbox.event WHERE metadata ->> 'size' = 'large' AND subject_id > '' ORDER BY id;
SELECT count(*) FROM evinbox.event WHERE metadata ->> 'size' = 'large' AND subject_id LIKE 'small%';
RESET enable_seqscan;
-- they ask for no right
CREATE ROLE regress_evinbox_recorder;
GRANT USAGE ON SCHEMA evinbox TO regress_evinbox_recorder;
GRANT EXECUTE ON FUNCTION evinbox.record_event(text, text, text, text, jsonb, interval, text, jsonb, text, timestamptz)
	TO regress_evinbox_recorder;
SET ROLE regress_evinbox_recorder;
SELECT evinbox.record_event('T', 'large by another', 'done', metadata => '{"size": "large"}') > 0 AS recorded;
RESET ROLE;
SET enable_seqscan = off;
SELECT subject_id FROM evinbox.event WHERE metadata @> '{"size": "large"}' AND subject_id LIKE '%another';
SELECT subject_id FROM evinbox.event WHERE metadata ->> 'size' = 'large' AND subject_id LIKE '%another';
RESET enable_seqscan;
DROP INDEX evinbox.event_metadata_idx, evinbox.event_size_idx, evinbox.event_large_idx;

-- a unique index of a partition
CREATE UNIQUE INDEX event_once_idx ON evinbox_internal.event_1 (subject_id) WHERE action = 'born';
SELECT evinbox.record_event('T', 'Ada', 'born') > 0 AS recorded;
SELECT evinbox.record_event('T', 'Ada', 'born');
SET ROLE regress_evinbox_recorder;
SELECT evinbox.record_event('T', 'Ada', 'born');
RESET ROLE;
INSERT INTO evinbox.event (subject_type, subject_id, action) VALUES ('T', 'Ada', 'born');
SELECT evinbox.record_event('T', 'Ada', 'seen') > 0 AS recorded FROM generate_series(1, 2);
DROP INDEX evinbox_internal.event_once_idx;

-- triggers, of the table and of a partition
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RAISE NOTICE '% % %: %', TG_WHEN, TG_LEVEL, TG_OP, CASE TG_LEVEL WHEN 'ROW' THEN NEW.subject_id END;
	RETURN NEW;
END $$;
CREATE TRIGGER tell AFTER INSERT ON evinbox.event FOR EACH ROW EXECUTE FUNCTION tell();
SELECT record_both('trigger');
DROP TRIGGER tell ON evinbox.event;
CREATE TRIGGER tell AFTER INSERT ON evinbox.event FOR EACH STATEMENT EXECUTE FUNCTION tell();
SELECT record_both('statement');
DROP TRIGGER tell ON evinbox.event;
CREATE TRIGGER tell AFTER INSERT ON evinbox_internal.event_1 FOR EACH ROW EXECUTE FUNCTION tell();
SELECT record_both('partition');
DROP TRIGGER tell ON evinbox_internal.event_1;
SELECT record_both('none');
-- one that keeps the row out: there is no event then, and nothing to dispatch
CREATE FUNCTION keep_out() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER keep_out BEFORE INSERT ON evinbox.event FOR EACH ROW WHEN (NEW.subject_id LIKE 'unwanted%')
	EXECUTE FUNCTION keep_out();
SELECT evinbox.record_event('T', 'unwanted', 'done');
INSERT INTO evinbox.event (subject_type, subject_id, action) VALUES ('T', 'unwanted', 'done');
SELECT count(*) FROM evinbox.event WHERE subject_id LIKE 'unwanted%';
DROP TRIGGER keep_out ON evinbox.event;

-- constraints
\set VERBOSITY terse
ALTER TABLE evinbox.event ADD CONSTRAINT no_x CHECK (subject_id NOT LIKE 'x%');
SELECT evinbox.record_event('T', 'x', 'done');
INSERT INTO evinbox.event (subject_type, subject_id, action) VALUES ('T', 'x', 'done');
ALTER TABLE evinbox.event DROP CONSTRAINT no_x;
ALTER TABLE evinbox_internal.event_1 ADD CONSTRAINT no_y CHECK (subject_id NOT LIKE 'y%');
SELECT evinbox.record_event('T', 'y', 'done');
INSERT INTO evinbox.event (subject_type, subject_id, action) VALUES ('T', 'y', 'done');
ALTER TABLE evinbox_internal.event_1 DROP CONSTRAINT no_y;
CREATE TABLE tenant (name text COLLATE "C" PRIMARY KEY);
INSERT INTO tenant VALUES ('known');
ALTER TABLE evinbox.event ADD CONSTRAINT scope_fkey FOREIGN KEY (scope) REFERENCES tenant;
SELECT evinbox.record_event('T', 'z', 'done', scope => 'known') > 0 AS recorded;
SELECT evinbox.record_event('T', 'z', 'done', scope => 'unknown');
INSERT INTO evinbox.event (subject_type, subject_id, action, scope) VALUES ('T', 'z', 'done', 'unknown');
ALTER TABLE evinbox.event DROP CONSTRAINT scope_fkey;
\set VERBOSITY default

-- a foreign key to it
CREATE TABLE comment (event_id bigint REFERENCES evinbox.event, remark text);
INSERT INTO comment SELECT evinbox.record_event('T', 'commented', 'done'), 'see above';
SELECT subject_id, remark FROM comment JOIN evinbox.event ON id = event_id;
INSERT INTO comment VALUES (1000000, 'nothing there');
DROP TABLE comment, tenant;

-- row-level security
GRANT SELECT, INSERT ON evinbox.event TO regress_evinbox_recorder;
ALTER TABLE evinbox.event ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON evinbox.event USING (actor = current_user);
SET ROLE regress_evinbox_recorder;
INSERT INTO evinbox.event (subject_type, subject_id, action, actor) VALUES ('T', 'own', 'done', current_user);
INSERT INTO evinbox.event (subject_type, subject_id, action, actor) VALUES ('T', 'other', 'done', 'somebody');
SELECT subject_id FROM evinbox.event;
RESET ROLE;
ALTER TABLE evinbox.event DISABLE ROW LEVEL SECURITY;

-- a column
ALTER TABLE evinbox.event ADD COLUMN region text DEFAULT current_setting('evinbox_test.region', true);
SET evinbox_test.region = 'north';
SELECT record_both('column');
SELECT subject_id, region FROM evinbox.event WHERE subject_id LIKE 'column%' ORDER BY id;
CREATE FUNCTION show(e evinbox.event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE '% %', e.subject_id, e.region; END $$;
INSERT INTO evinbox.inbox (name, handler, dispatch, subject_types) VALUES ('show', 'show', 'scheduled', '{U}');
SELECT evinbox.record_event('U', 'with a column', 'done') > 0 AS recorded;
SELECT evinbox.run('show');
ALTER TABLE evinbox.event DROP COLUMN region;
SELECT record_both('no column');

-- each event is in the outbox once, whichever way it took
SELECT count(*) AS missing_or_twice
	FROM (SELECT event_id, count(*) FROM (TABLE evinbox_internal.outbox_0 UNION ALL TABLE evinbox_internal.outbox_1
			UNION ALL TABLE evinbox_internal.outbox_2 UNION ALL TABLE evinbox_internal.outbox_3) AS o GROUP BY event_id) AS o
		FULL JOIN evinbox.event e ON e.id = o.event_id
	WHERE o.count IS DISTINCT FROM 1 OR e.id IS NULL;

SET client_min_messages = warning;
DROP OWNED BY regress_evinbox_recorder;
DROP ROLE regress_evinbox_recorder;
DROP EXTENSION evinbox CASCADE;
DROP FUNCTION record_both, tell, keep_out;
