-- Many events in one call.
\set SHOW_CONTEXT never
SET client_min_messages = error;
CREATE EXTENSION evinbox;
RESET client_min_messages;
CREATE VIEW events AS SELECT subject_type, subject_id, action, actor, scope, metadata, snapshot, occurred_at AT TIME ZONE 'UTC' AS occurred_at
	FROM evinbox.event ORDER BY id;
CREATE TABLE handled (n serial, subject text);
CREATE FUNCTION handle(e evinbox.event) RETURNS void LANGUAGE sql AS $$ INSERT INTO public.handled (subject) VALUES (e.subject_id) $$;
INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES ('all', 'handle', 'scheduled');

-- ids in the order of the array, null for what is throttled, also by one before it in the array
WITH call AS (SELECT evinbox.record_events('[
	{"subject_type": "Issue", "subject_id": 12, "action": "opened"},
	{"subject_type": "Issue", "subject_id": "12", "action": "opened", "throttle": "5 minutes"},
	{"subject_type": "Issue", "subject_id": 1.50, "action": "opened", "actor": "User:7", "metadata": {"a": [1, null]},
		"snapshot": ["x"], "scope": "Team:1", "occurred_at": "2026-01-02 03:04:05+00"},
	{"action": "seen", "subject_id": "3", "subject_type": "Issue", "actor": "User:8", "throttle": "1 day", "throttle_by": "actor"},
	{"action": "seen", "subject_id": "3", "subject_type": "Issue", "actor": "User:8", "throttle": "1 day", "throttle_by": "actor"},
	{"action": "seen", "subject_id": "3", "subject_type": "Issue", "actor": "User:9", "throttle": "1 day", "throttle_by": "actor"},
	{"action": "left", "subject_id": "3", "subject_type": "Issue", "actor": null, "metadata": null, "snapshot": null, "scope": null,
		"throttle": null, "throttle_by": null}]') AS ids)
SELECT array_length(ids, 1), array_positions(ids, NULL) AS throttled, ids[1] < ids[3] AND ids[3] < ids[4] AS ordered FROM call;
SELECT subject_id, action, actor, scope, metadata, snapshot, occurred_at > '2026-06-01' AS now FROM events;
SELECT evinbox.run('all');
SELECT subject FROM handled ORDER BY n;
SELECT evinbox.record_events('[]'), evinbox.record_events(NULL);

-- the context holds for them
BEGIN;
SELECT evinbox.set_context('{"request": "r1"}', 'User:1');
SELECT evinbox.begin_batch('import') > 0 AS begun;
SELECT cardinality(evinbox.record_events('[{"subject_type": "Row", "subject_id": 1, "action": "added"}]'));
SELECT actor, metadata, batch_id IS NOT NULL AS batch FROM evinbox.event WHERE subject_type = 'Row';
ROLLBACK;

-- all or nothing, and it is said which one
\set SHOW_CONTEXT always
SELECT evinbox.record_events('{}');
SELECT evinbox.record_events('3');
SELECT evinbox.record_events('[{"subject_type": "A", "subject_id": 1, "action": "a"}, 3]');
SELECT evinbox.record_events('[[]]');
SELECT evinbox.record_events('[{"subject_type": "A", "subject_id": 1, "action": "a"}, {}]');
SELECT evinbox.record_events('[{"subject_type": "A", "subject_id": 1, "action": 3}]');
SELECT evinbox.record_events('[{"subject_type": "A", "subject_id": true, "action": "a"}]');
SELECT evinbox.record_events('[{"subject_type": "A", "subject_id": 1, "action": "a", "id": 3}]');
SELECT evinbox.record_events('[{"subject_type": "A", "subject_id": 1, "action": "a", "recorded_at": "yesterday"}]');
SELECT evinbox.record_events('[{"subject_type": "A", "subject_id": 1, "action": "a", "metadata": [1]}]');
SELECT evinbox.record_events('[{"subject_type": "A", "subject_id": 1, "action": "a", "occurred_at": "some day"}]');
SELECT evinbox.record_events('[{"subject_type": "A", "subject_id": 1, "action": "a", "throttle": "-1 s"}]');
SELECT evinbox.record_events('[{"subject_type": "A", "subject_id": 1, "action": "a", "throttle": "1 s", "throttle_by": "mood"}]');
\set SHOW_CONTEXT never
INSERT INTO evinbox.action VALUES ('Closed', 'shut', '{why}');
SELECT evinbox.record_events('[{"subject_type": "Closed", "subject_id": 1, "action": "shut", "metadata": {"why": 1}},
	{"subject_type": "Closed", "subject_id": 1, "action": "shut"}]');
SELECT count(*) FROM evinbox.event WHERE subject_type IN ('A', 'Closed');

-- a trigger that somebody has added sees them
CREATE FUNCTION drop_odd() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	RETURN CASE WHEN new.subject_id::int % 2 = 0 THEN new END;
END $$;
CREATE TRIGGER odd BEFORE INSERT ON evinbox.event FOR EACH ROW EXECUTE FUNCTION drop_odd();
SELECT array_positions(evinbox.record_events(jsonb_agg(jsonb_build_object('subject_type', 'N', 'subject_id', n, 'action', 'a'))), NULL)
	FROM generate_series(1, 5) n;
DROP TRIGGER odd ON evinbox.event;

-- whoever may execute it needs no other right
CREATE ROLE regress_evinbox_bulk;
GRANT USAGE ON SCHEMA evinbox TO regress_evinbox_bulk;
SET ROLE regress_evinbox_bulk;
SELECT evinbox.record_events('[]');
RESET ROLE;
GRANT EXECUTE ON FUNCTION evinbox.record_events(jsonb) TO regress_evinbox_bulk;
SET ROLE regress_evinbox_bulk;
SELECT cardinality(evinbox.record_events('[{"subject_type": "Row", "subject_id": 1, "action": "added"}]'));
RESET ROLE;
DROP OWNED BY regress_evinbox_bulk;
DROP ROLE regress_evinbox_bulk;
BEGIN READ ONLY;
SELECT evinbox.record_events('[{"subject_type": "Row", "subject_id": 1, "action": "added"}]');
ROLLBACK;

-- many
SELECT cardinality(evinbox.record_events(jsonb_agg(jsonb_build_object('subject_type', 'Many', 'subject_id', n, 'action', 'a')))) FROM generate_series(1, 20000) n;
SELECT count(*), count(DISTINCT id) FROM evinbox.event WHERE subject_type = 'Many';
DROP VIEW events;
DROP TABLE handled;
SET client_min_messages = error;
DROP EXTENSION evinbox CASCADE;
DROP FUNCTION drop_odd;
