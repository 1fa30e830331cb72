-- grouped_feed(): runs of like events as one entry.
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
SET timezone = 'UTC';
SET datestyle = 'ISO';
CREATE TABLE event_b PARTITION OF evinbox.event FOR VALUES FROM (10000001) TO (20000001);
CREATE FUNCTION record(id bigint, minute int, subject text, action text, actor text, scope text) RETURNS void LANGUAGE sql AS $$
	INSERT INTO evinbox.event (id, subject_type, subject_id, action, actor, scope, occurred_at) OVERRIDING SYSTEM VALUE
	VALUES (id, 'Issue', subject, action, actor, scope, '2026-03-28 22:50Z'::timestamptz + minute * interval '1 minute')
$$;

-- by hand
SELECT count(record(id, minute, subject, action, actor, 's')) FROM (VALUES
	(101, 0, 'a', 'edited', 'User:1'), (102, 2, 'b', 'edited', 'User:1'), (103, 7, 'a', 'edited', 'User:1'),	-- within the gap
	(104, 13, 'a', 'edited', 'User:1'),	-- a minute too late
	(105, 13, 'a', 'closed', 'User:1'),	-- another action
	(106, 14, 'a', 'closed', 'User:2'), (107, 15, 'a', 'closed', 'User:3'), (108, 16, 'a', 'closed', 'User:2'),	-- other actors
	(109, 17, 'a', 'viewed', NULL), (110, 18, 'a', 'viewed', NULL),		-- the system is one actor
	(111, 80, 'a', 'edited', 'User:1'), (112, 76, 'a', 'edited', 'User:1'),		-- recorded in another order than occurred
	(10000005, 73, 'c', 'edited', 'User:1')		-- in another partition
	) v (id, minute, subject, action, actor);
\set columns 'last_id, first_id, count, actors, action, to_char(first_at, ''HH24:MI'') AS first_at, to_char(last_at, ''HH24:MI'') AS last_at, day, (event).id = last_id AND (event).scope = ''s'' AS newest'
SELECT :columns FROM evinbox.grouped_feed(scope => 's');
SELECT :columns FROM evinbox.grouped_feed(scope => 's', gap => '6 minutes');
SELECT :columns FROM evinbox.grouped_feed(scope => 's', gap => '0');
SELECT :columns FROM evinbox.grouped_feed(scope => 's', gap => NULL);
SELECT :columns FROM evinbox.grouped_feed(scope => 's', group_by => 'subject');
-- days end at midnight there: at 23:00 UTC in Berlin, whose summer time begins that night
SELECT :columns FROM evinbox.grouped_feed(scope => 's', time_zone => 'Europe/Berlin', gap => NULL);
SELECT :columns FROM evinbox.grouped_feed(scope => 's', time_zone => 'UTC', gap => NULL);
SELECT :columns FROM evinbox.grouped_feed(actor => 'User:1', gap => NULL);
SELECT :columns FROM evinbox.grouped_feed('[["Issue", "b"], ["Issue", "c"]]', gap => NULL);

-- pages: the next one begins before the last group's first event
SELECT :columns FROM evinbox.grouped_feed(scope => 's', max => 2);
SELECT :columns FROM evinbox.grouped_feed(scope => 's', max => 2, before_id => 109);

-- a group of more than 1,000 goes on as another one, in whatever pages
SELECT count(record(n, 1000, 'many', 'edited', 'User:1', 'many')) FROM generate_series(1001, 3500) n;
SELECT last_id, first_id, count FROM evinbox.grouped_feed(scope => 'many');
SELECT last_id, first_id, count FROM evinbox.grouped_feed(scope => 'many', max => 1);
SELECT last_id, first_id, count FROM evinbox.grouped_feed(scope => 'many', max => 1, before_id => 2501);
SELECT last_id, first_id, count FROM evinbox.grouped_feed(scope => 'many', max => 1, before_id => 1501);

-- many actors
SELECT count(record(n, 1000, 'one', 'liked', 'User:' || n % 300, 'likes')) FROM generate_series(4001, 4900) n;
SELECT last_id, first_id, count, cardinality(actors), actors[1:3] FROM evinbox.grouped_feed(scope => 'likes', group_by => 'subject');

-- random events against what anybody would write, whole and in pages
CREATE FUNCTION naive(s text, by_subject boolean, gap interval, zone text)
RETURNS TABLE (last_id bigint, first_id bigint, count bigint, actors text[], action text, first_at timestamptz, last_at timestamptz) LANGUAGE sql AS $$
	WITH e AS (
		SELECT *, lag(e) OVER (ORDER BY id DESC) AS newer FROM evinbox.event e WHERE scope = s
	), m AS (
		SELECT *, count(*) FILTER (WHERE newer IS NULL OR action <> (newer).action
				OR CASE WHEN by_subject THEN subject_id <> (newer).subject_id ELSE actor IS DISTINCT FROM (newer).actor END
				OR (newer).occurred_at - occurred_at > gap OR occurred_at - (newer).occurred_at > gap
				OR (occurred_at AT TIME ZONE zone)::date <> ((newer).occurred_at AT TIME ZONE zone)::date)
			OVER (ORDER BY id DESC) AS run
		FROM e
	)
	SELECT max(id), min(low), sum(n)::bigint, coalesce(array_agg(actor ORDER BY id DESC) FILTER (WHERE actor IS NOT NULL), '{}'),
		min(action), min(first_at), max(last_at)
	FROM (SELECT run, actor, max(id) AS id, min(id) AS low, count(*) AS n, min(action) AS action, min(occurred_at) AS first_at, max(occurred_at) AS last_at
		FROM m GROUP BY run, actor) x
	GROUP BY run ORDER BY 1 DESC
$$;
CREATE FUNCTION pages(s text, by_subject boolean, gap interval, zone text, most int)
RETURNS TABLE (last_id bigint, first_id bigint, count bigint, actors text[], action text, first_at timestamptz, last_at timestamptz) LANGUAGE plpgsql AS $$
DECLARE
	position bigint; found_some boolean := true;
BEGIN
	WHILE found_some LOOP
		found_some := false;
		FOR last_id, first_id, count, actors, action, first_at, last_at IN
			SELECT g.last_id, g.first_id, g.count, g.actors, g.action, g.first_at, g.last_at
			FROM evinbox.grouped_feed(scope => s, before_id => position, max => most, gap => pages.gap, time_zone => zone,
				group_by => CASE WHEN by_subject THEN 'subject' ELSE 'actor' END) g
		LOOP
			RETURN NEXT;
			found_some := true;
		END LOOP;
		position := first_id;
	END LOOP;
END
$$;
SELECT setseed(0.25);
SELECT count(record(id, (n * 3 + random() * 10)::int, (random() * 0.8)::int::text, 'action_' || (random() * 0.6)::int,
	'User:' || nullif((random() * random() * 2.6)::int, 2), 'random')) FROM generate_series(1, 1200) n, LATERAL (SELECT n + CASE WHEN n > 500 THEN 10000100 ELSE 10000 END) i (id);
SELECT by_subject, gap, zone, most, (SELECT count(*) FROM naive('random', by_subject, gap, zone)) AS groups,
	ARRAY(SELECT x FROM naive('random', by_subject, gap, zone) x)::text = ARRAY(SELECT x FROM pages('random', by_subject, gap, zone, most) x)::text AS same
	FROM (VALUES (false), (true)) a (by_subject), (VALUES ('5 minutes'::interval), ('0'), ('1 day'), (NULL)) b (gap),
		(VALUES ('America/New_York'), (NULL)) c (zone), (VALUES (1), (13), (1000)) d (most)
	WHERE most > 1 OR by_subject AND zone IS NULL
	ORDER BY 1, 2, 3, 4;

-- a page reads what it shows, and little more
CREATE FUNCTION entries_read(query text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
	before bigint;
	result bigint;
BEGIN
	SELECT sum(pg_stat_get_xact_tuples_returned(h.inhrelid)) INTO before FROM pg_inherits h WHERE inhparent = 'evinbox.event_scope_feed_idx'::regclass;
	EXECUTE query;
	SELECT sum(pg_stat_get_xact_tuples_returned(h.inhrelid)) INTO result FROM pg_inherits h WHERE inhparent = 'evinbox.event_scope_feed_idx'::regclass;
	RETURN result - before;
END
$$;
SELECT entries_read($$SELECT FROM evinbox.grouped_feed(scope => 'random')$$) AS twenty,
	entries_read($$SELECT FROM evinbox.grouped_feed(scope => 'random', max => 5)$$) AS five,
	entries_read($$SELECT FROM evinbox.grouped_feed(scope => 'random', before_id => 10000900)$$) AS twenty_earlier,
	entries_read($$SELECT FROM evinbox.grouped_feed(scope => 'many', max => 1)$$) AS one_large;

-- arguments
SELECT * FROM evinbox.grouped_feed();
SELECT * FROM evinbox.grouped_feed(actor => 'User:1', scope => 's');
SELECT * FROM evinbox.grouped_feed(subjects => '[]', scope => 's');
SELECT * FROM evinbox.grouped_feed(scope => 's', max => 0);
SELECT * FROM evinbox.grouped_feed(scope => 's', gap => '-1 second');
SELECT * FROM evinbox.grouped_feed(scope => 'nothing', time_zone => 'Europe/Nowhere');
SELECT * FROM evinbox.grouped_feed(scope => 's', group_by => 'day');
SELECT * FROM evinbox.grouped_feed(scope => 's', group_by => NULL);
SELECT count(*) FROM evinbox.grouped_feed(subjects => '[]');
SELECT count(*) FROM evinbox.grouped_feed(scope => 's', gap => '178000000 years');
-- times without end
INSERT INTO evinbox.event (id, subject_type, subject_id, action, scope, occurred_at) OVERRIDING SYSTEM VALUE
	VALUES (5001, 'T', '1', 'done', 'ends', '-infinity'), (5002, 'T', '1', 'done', 'ends', 'infinity'), (5003, 'T', '1', 'done', 'ends', 'infinity');
SELECT last_id, first_id, day FROM evinbox.grouped_feed(scope => 'ends', time_zone => 'Europe/Berlin');
SELECT last_id, first_id, day FROM evinbox.grouped_feed(scope => 'ends', gap => NULL);

SET client_min_messages = warning;
DROP EXTENSION evinbox CASCADE;
DROP FUNCTION record, entries_read, pages;
ALTER SYSTEM RESET evinbox.enabled;
SELECT pg_reload_conf();
