-- Feeds: the newest events of a subject, an actor, a scope, or many subjects.
\set SHOW_CONTEXT never
-- which partitions there are is said here, and not by a worker
LOAD 'evinbox';
ALTER SYSTEM SET evinbox.enabled = off;
SELECT pg_reload_conf();
\set ECHO none
SELECT 'DO $$ BEGIN IF current_setting(''evinbox.enabled'')::boolean THEN PERFORM pg_sleep(0.01); END IF; END $$'
	FROM generate_series(1, 1000) \gexec
\set ECHO all
SHOW evinbox.enabled;
SET client_min_messages = error;
CREATE EXTENSION evinbox;
RESET client_min_messages;

-- several partitions, one of them with other columns in its rows, and gaps between
CREATE TABLE event_b PARTITION OF evinbox.event FOR VALUES FROM (10000001) TO (20000001);
CREATE TABLE event_c (LIKE evinbox.event INCLUDING DEFAULTS, gone int);
ALTER TABLE event_c DROP COLUMN gone;
ALTER TABLE evinbox.event ATTACH PARTITION event_c FOR VALUES FROM (20000001) TO (30000001);
CREATE TABLE event_d PARTITION OF evinbox.event FOR VALUES FROM (40000001) TO (50000001);
CREATE TABLE event_e PARTITION OF evinbox.event FOR VALUES FROM (50000001) TO (60000001);

-- in the default one: below all, in the gap, and beyond all
CREATE FUNCTION record_at(first bigint, events int, step int = 1) RETURNS void LANGUAGE sql AS $$
	INSERT INTO evinbox.event (id, subject_type, subject_id, action, actor, scope, metadata) OVERRIDING SYSTEM VALUE
	SELECT first + step * n, (ARRAY['Issue', 'Project'])[1 + (random() * 1.2)::int % 2], (power(random(), 2) * 30)::int,
		'action_' || (random() * 3)::int, 'User:' || nullif((random() * 5)::int, 0), nullif((random() * 3)::int, 0), jsonb_build_object('n', n)
	FROM generate_series(1, events) n
$$;
SELECT setseed(0.5);
SELECT record_at(first, events) FROM (VALUES (0, 300), (10000001, 300), (20000001, 300), (40000001, 300), (-50, 40),
	(35000000, 40), (70000000, 40)) v (first, events);
SELECT tableoid::regclass, count(*) FROM evinbox.event GROUP BY 1 ORDER BY min(id);

-- what is not committed is in no feed, although it is in the indexes
BEGIN;
SELECT record_at(50000001, 300);
SELECT record_at(80000000, 300);
ROLLBACK;

-- what anybody would write
CREATE FUNCTION naive(subjects jsonb, before_id bigint, max int) RETURNS SETOF evinbox.event LANGUAGE sql AS $$
	SELECT e.* FROM evinbox.event e
	WHERE jsonb_build_array(e.subject_type, e.subject_id) IN (SELECT jsonb_build_array(s ->> 0, s ->> 1) FROM jsonb_array_elements(subjects) s)
		AND (before_id IS NULL OR e.id < before_id)
	ORDER BY id DESC LIMIT max
$$;

-- examples
SELECT id, subject_id, e.metadata FROM evinbox.subject_feed('Issue', 7, max => 3) e;
SELECT id, subject_id, e.metadata FROM evinbox.subject_feed('Issue', '7', before_id => 40000050, max => 3) e;
SELECT count(*), bool_and(subject_type = 'Issue' AND subject_id = '7') FROM evinbox.subject_feed('Issue', 7);
SELECT id, subject_type, subject_id FROM evinbox.feed('[["Issue", 7], ["Project", "3"], ["Issue", "7"], ["Nothing", 1]]', max => 4);
INSERT INTO evinbox.event (id, subject_type, subject_id, action) OVERRIDING SYSTEM VALUE
	VALUES (1000, 'Uuid', '12345678-1234-1234-1234-123456789abc', 'done');
SELECT count(*) FROM evinbox.subject_feed('Uuid', '12345678-1234-1234-1234-123456789ABC'::uuid);

-- all columns are those of the event, from whichever partition
SELECT count(*) FROM evinbox.event;
SELECT count(DISTINCT e) FROM (SELECT DISTINCT subject_type, subject_id FROM evinbox.event) s,
	LATERAL (SELECT f FROM evinbox.subject_feed(s.subject_type, s.subject_id, max => 1000) f
		INTERSECT SELECT e FROM evinbox.event e) x (e);

-- random feeds are what anybody would write
CREATE FUNCTION compare(rounds int) RETURNS TABLE (feed text, compared bigint, events bigint, wrong bigint) LANGUAGE plpgsql AS $$
DECLARE
	subjects jsonb; before_id bigint; most int; who text; kind text; got evinbox.event[]; want evinbox.event[];
BEGIN
	CREATE TEMP TABLE outcome (kind text, events int, wrong boolean);
	FOR i IN 1..rounds LOOP
		SELECT coalesce(jsonb_agg(jsonb_build_array((ARRAY['Issue', 'Project'])[1 + (random() * 1.2)::int % 2],
				CASE WHEN random() < 0.5 THEN to_jsonb((random() * 32)::int) ELSE to_jsonb((random() * 32)::int::text) END)), '[]')
			INTO subjects FROM generate_series(1, (random() * 40)::int);
		SELECT CASE WHEN random() < 0.3 THEN NULL ELSE (SELECT id + (random() * 2)::int - 1 FROM evinbox.event
			ORDER BY id OFFSET (random() * 1300)::int LIMIT 1) END INTO before_id;
		most := 1 + power(random(), 3) * 900;
		who := (random() * 6)::int;
		FOR kind, got, want IN
			SELECT 'subject', ARRAY(SELECT f FROM evinbox.subject_feed('Issue', who, before_id, most) f),
				ARRAY(SELECT f FROM naive(jsonb_build_array(jsonb_build_array('Issue', who)), before_id, most) f)
			UNION ALL SELECT 'subjects', ARRAY(SELECT f FROM evinbox.feed(subjects, before_id, most) f),
				ARRAY(SELECT f FROM naive(subjects, before_id, most) f)
			UNION ALL SELECT 'actor', ARRAY(SELECT f FROM evinbox.actor_feed('User:' || who, before_id, most) f),
				ARRAY(SELECT e FROM evinbox.event e WHERE actor = 'User:' || who AND (before_id IS NULL OR id < before_id)
					ORDER BY id DESC LIMIT most)
			UNION ALL SELECT 'scope', ARRAY(SELECT f FROM evinbox.scope_feed(who, before_id, most) f),
				ARRAY(SELECT e FROM evinbox.event e WHERE scope = who AND (before_id IS NULL OR id < before_id)
					ORDER BY id DESC LIMIT most)
		LOOP
			INSERT INTO outcome VALUES (kind, cardinality(got), got IS DISTINCT FROM want);
		END LOOP;
	END LOOP;
	RETURN QUERY SELECT o.kind, count(*), sum(o.events), count(*) FILTER (WHERE o.wrong) FROM outcome o GROUP BY 1 ORDER BY 1;
	DROP TABLE outcome;
END
$$;
SELECT feed, compared, events > 1000 AS some, wrong FROM compare(200);

-- pages one after the other are the whole
CREATE FUNCTION pages(subjects jsonb, max int) RETURNS SETOF bigint LANGUAGE plpgsql AS $$
DECLARE
	page bigint[]; last bigint;
BEGIN
	LOOP
		page := ARRAY(SELECT id FROM evinbox.feed(subjects, last, max));
		RETURN QUERY SELECT * FROM unnest(page);
		EXIT WHEN cardinality(page) < max;
		last := page[max];
	END LOOP;
END
$$;
SELECT most, count(*) = cardinality(array_agg(DISTINCT id)) AS once, array_agg(id ORDER BY n) = (SELECT array_agg(id ORDER BY id DESC)
		FROM evinbox.event WHERE subject_type = 'Issue' AND subject_id::int <= 20) AS whole
	FROM (VALUES (1), (7), (100)) m (most), LATERAL (SELECT jsonb_agg(jsonb_build_array('Issue', i)) FROM generate_series(0, 20) i) s (subjects),
		pages(subjects, most) WITH ORDINALITY p (id, n)
	GROUP BY 1 ORDER BY 1;

-- which indexes are scanned, how often, and how many of their entries are read:
-- those of the newest partitions, as far as they are needed, and no table as a whole
INSERT INTO evinbox.event (id, subject_type, subject_id, action, actor, scope) OVERRIDING SYSTEM VALUE
	SELECT 50000000 + n, 'Busy', n % 500, 'done', 'User:busy', 'busy' FROM generate_series(1, 20000) n;
INSERT INTO evinbox.event (id, subject_type, subject_id, action, actor, scope) OVERRIDING SYSTEM VALUE
	SELECT 40001000 + n, 'Busy', n % 500, 'done', 'User:busy', 'busy' FROM generate_series(1, 20000) n;
CREATE FUNCTION counted() RETURNS TABLE (used text, scans bigint, entries bigint) LANGUAGE sql AS $$
	SELECT i.indrelid::regclass || ' ' || h.inhparent::regclass, pg_stat_get_xact_numscans(i.indexrelid),
		pg_stat_get_xact_tuples_returned(i.indexrelid)
	FROM pg_inherits t JOIN pg_index i ON i.indrelid = t.inhrelid JOIN pg_inherits h ON h.inhrelid = i.indexrelid
	WHERE t.inhparent = 'evinbox.event'::regclass
	UNION ALL
	SELECT t.inhrelid::regclass || ' as a whole', pg_stat_get_xact_numscans(t.inhrelid), pg_stat_get_xact_tuples_returned(t.inhrelid)
	FROM pg_inherits t WHERE t.inhparent = 'evinbox.event'::regclass
$$;
CREATE FUNCTION uses(query text) RETURNS TABLE (used text, scans bigint, entries bigint) LANGUAGE plpgsql AS $$
DECLARE
	before jsonb;
	result bigint;
BEGIN
	SELECT jsonb_object_agg(c.used, jsonb_build_array(c.scans, c.entries)) INTO before FROM counted() c;
	EXECUTE 'SELECT count(*) FROM (' || query || ') x' INTO result;
	RETURN QUERY SELECT 'result', NULL::bigint, result;
	RETURN QUERY SELECT c.used, c.scans - (before -> c.used ->> 0)::bigint, c.entries - (before -> c.used ->> 1)::bigint
		FROM counted() c WHERE c.scans > (before -> c.used ->> 0)::bigint ORDER BY c.used COLLATE "C";
END
$$;
SELECT used, scans, entries FROM uses($$SELECT * FROM evinbox.subject_feed('Busy', 7)$$);
SELECT used, scans, entries FROM uses($$SELECT * FROM evinbox.subject_feed('Busy', 7, max => 50)$$);
SELECT used, scans, entries FROM uses($$SELECT * FROM evinbox.subject_feed('Busy', 7, before_id => 45000000)$$);
SELECT used, scans, entries FROM uses($$SELECT * FROM evinbox.actor_feed('User:busy')$$);
SELECT used, scans, entries FROM uses($$SELECT * FROM evinbox.scope_feed('busy', before_id => 50000001)$$);
SELECT used, scans, entries FROM uses($$SELECT * FROM evinbox.subject_feed('Nothing', 1)$$);
-- 500 descents, and some more for those that have the newest
SELECT used, scans, entries FROM uses($$
	SELECT f.* FROM (SELECT jsonb_agg(jsonb_build_array('Busy', i)) FROM generate_series(0, 499) i) s (subjects), evinbox.feed(subjects) f$$);

-- what record_event() stores is in all indexes, as what INSERT does
SELECT setval('evinbox.event_id_seq', 2000);
SELECT count(evinbox.record_event('Recorded', n % 3, 'done', actor => 'Recorder:' || nullif(n % 4, 0), scope => 'r' || nullif(n % 5, 0)))
	FROM generate_series(1, 60) n;
INSERT INTO evinbox.event (subject_type, subject_id, action, actor, scope)
	SELECT 'Recorded', n % 3, 'done', 'Recorder:' || nullif(n % 4, 0), 'r' || nullif(n % 5, 0) FROM generate_series(1, 60) n;
SELECT (SELECT count(*) FROM generate_series(0, 2) n, evinbox.subject_feed('Recorded', n, max => 100)) AS subjects,
	(SELECT count(*) FROM generate_series(1, 3) n, evinbox.actor_feed('Recorder:' || n, max => 100)) AS actors,
	(SELECT count(*) FROM generate_series(1, 4) n, evinbox.scope_feed('r' || n, max => 100)) AS scopes;
SELECT count(evinbox.record_event('Recorded', n % 3, 'done', throttle => '1 hour')) AS not_throttled FROM generate_series(1, 3) n;
SELECT count(evinbox.record_event('Recorded', 1, 'done', actor => 'Recorder:' || n, throttle => '1 hour', throttle_by => 'actor')) AS not_throttled
	FROM generate_series(1, 3) n;
SELECT setval('evinbox.event_id_seq', 2050);
SELECT evinbox.record_event('Recorded', 1, 'done');
-- an index of the same name, and another kind
BEGIN;
DROP INDEX evinbox.event_scope_feed_idx;
CREATE INDEX event_scope_feed_idx ON evinbox.event (lower(scope), id);
SELECT setval('evinbox.event_id_seq', 3000);
SELECT evinbox.record_event('Recorded', 1, 'done', scope => 'R');
SET LOCAL enable_seqscan = off;
SELECT id, scope FROM evinbox.event WHERE lower(scope) = 'r';
ROLLBACK;

-- arguments
SELECT * FROM evinbox.subject_feed('Issue', 7, max => 0);
SELECT * FROM evinbox.subject_feed('Issue', 7, max => 1001);
SELECT * FROM evinbox.actor_feed('User:1', max => NULL);
SELECT * FROM evinbox.feed('{}');
SELECT * FROM evinbox.feed('7');
SELECT * FROM evinbox.feed('[["Issue", 1], ["Issue"]]');
SELECT * FROM evinbox.feed('[["Issue", 1], ["Issue", null]]');
SELECT * FROM evinbox.feed('[["Issue", 1], ["Issue", [1]]]');
SELECT * FROM evinbox.feed('["Issue", 1]');
SELECT * FROM evinbox.feed((SELECT jsonb_agg('["Issue", 1]'::jsonb) FROM generate_series(1, 10001)));
-- nothing of nothing
SELECT (SELECT count(*) FROM evinbox.feed('[]')) + (SELECT count(*) FROM evinbox.feed(NULL)) + (SELECT count(*) FROM evinbox.actor_feed(NULL))
	+ (SELECT count(*) FROM evinbox.scope_feed(NULL)) + (SELECT count(*) FROM evinbox.subject_feed('Issue', NULL::text))
	+ (SELECT count(*) FROM evinbox.subject_feed('Issue', 7, before_id => -9223372036854775808)) AS nothing;
SELECT count(*) FROM evinbox.subject_feed('Issue', 7, before_id => 9223372036854775807, max => 5);

-- with the caller's rights
CREATE ROLE evinbox_test_reader;
GRANT USAGE ON SCHEMA evinbox TO evinbox_test_reader;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA evinbox TO evinbox_test_reader;
SET ROLE evinbox_test_reader;
SELECT count(*) FROM evinbox.subject_feed('Issue', 7);
SELECT count(*) FROM evinbox.feed('[]');
SELECT count(*) FROM evinbox.grouped_feed(actor => 'User:1');
RESET ROLE;
GRANT SELECT (id, subject_type, subject_id) ON evinbox.event TO evinbox_test_reader;
SET ROLE evinbox_test_reader;
SELECT count(*) FROM evinbox.subject_feed('Issue', 7);
RESET ROLE;
GRANT SELECT (action, actor, scope, metadata, snapshot, batch_id, caused_by, depth, occurred_at, recorded_at)
	ON evinbox.event TO evinbox_test_reader;
SET ROLE evinbox_test_reader;
SELECT count(*) FROM evinbox.subject_feed('Issue', 7);
RESET ROLE;
-- where there are policies, a feed shows what they do, and no more
CREATE POLICY of_a_scope ON evinbox.event TO evinbox_test_reader USING (scope = '2');
ALTER TABLE evinbox.event ENABLE ROW LEVEL SECURITY;
-- operators of others do not matter
CREATE SCHEMA evil;
CREATE FUNCTION evil.always(text, text) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE FUNCTION evil.never(bigint, bigint) RETURNS boolean LANGUAGE sql AS 'SELECT false';
CREATE OPERATOR evil.= (LEFTARG = text, RIGHTARG = text, FUNCTION = evil.always);
CREATE OPERATOR evil.<= (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = evil.never);
GRANT USAGE ON SCHEMA evil TO evinbox_test_reader;
CREATE FUNCTION same(got bigint[], expected bigint[]) RETURNS text LANGUAGE sql AS
	$$ SELECT cardinality(got) || ' events ' || CASE WHEN got = expected THEN 'right' ELSE 'wrong' END $$;
SET ROLE evinbox_test_reader;
SELECT count(*) > 100 AS sees_some, count(*) FILTER (WHERE scope <> '2') AS of_others FROM evinbox.event;
SET search_path = evil, pg_catalog, public;
SELECT same(ARRAY(SELECT id FROM evinbox.subject_feed('Issue', 0, max => 30)),
	ARRAY(SELECT id FROM evinbox.event WHERE subject_type OPERATOR(pg_catalog.=) 'Issue' AND subject_id OPERATOR(pg_catalog.=) '0' ORDER BY id DESC LIMIT 30));
SELECT same(ARRAY(SELECT id FROM evinbox.feed('[["Issue", 0], ["Issue", "0"], ["Project", 1]]', 45000000, 10)),
	ARRAY(SELECT id FROM evinbox.event WHERE (subject_type OPERATOR(pg_catalog.=) 'Issue' AND subject_id OPERATOR(pg_catalog.=) '0'
		OR subject_type OPERATOR(pg_catalog.=) 'Project' AND subject_id OPERATOR(pg_catalog.=) '1') AND id < 45000000 ORDER BY id DESC LIMIT 10));
SELECT same(ARRAY(SELECT id FROM evinbox.actor_feed('User:2', max => 30)),
	ARRAY(SELECT id FROM evinbox.event WHERE actor OPERATOR(pg_catalog.=) 'User:2' ORDER BY id DESC LIMIT 30));
SELECT same(ARRAY(SELECT id FROM evinbox.scope_feed('2', max => 30)),
	ARRAY(SELECT id FROM evinbox.event WHERE scope OPERATOR(pg_catalog.=) '2' ORDER BY id DESC LIMIT 30));
RESET search_path;
SELECT count(*) FROM evinbox.scope_feed('1');
SELECT count(*) FROM evinbox.grouped_feed(scope => '1');
SELECT sum(count) FROM evinbox.grouped_feed(scope => '2', max => 1000);
SET row_security = off;
SELECT count(*) FROM evinbox.scope_feed('2');
RESET row_security;
RESET ROLE;
SELECT count(*) FROM evinbox.scope_feed('1');
ALTER TABLE evinbox.event DISABLE ROW LEVEL SECURITY;

-- a column of somebody's own
ALTER TABLE evinbox.event ADD COLUMN importance int DEFAULT 3;
SELECT id, importance FROM evinbox.subject_feed('Issue', 7, max => 1);

-- an index that somebody has dropped
BEGIN;
DROP INDEX evinbox.event_scope_feed_idx;
\set VERBOSITY sqlstate
SELECT count(*) FROM evinbox.scope_feed('1');
\set VERBOSITY default
ROLLBACK;

SET client_min_messages = warning;
DROP EXTENSION evinbox CASCADE;
DROP SCHEMA evil CASCADE;
DROP OWNED BY evinbox_test_reader;
DROP ROLE evinbox_test_reader;
DROP FUNCTION record_at, counted, uses, same, pages;
ALTER SYSTEM RESET evinbox.enabled;
SELECT pg_reload_conf();
