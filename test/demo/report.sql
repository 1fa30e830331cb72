-- What came of it.  Variables: last_bulk, the number of the last upload of the
-- bulk, which is also how many events came before the paced ones.
\set ON_ERROR_STOP on
\pset footer off
\pset null ''
SET timezone = 'UTC';

\echo
\echo 'The newest entries of the activity feed'
SELECT to_char(occurred_at, 'YYYY-MM-DD HH24:MI') AS "when", sentence
FROM demo.feed
ORDER BY occurred_at DESC, event_id DESC
LIMIT 10;

\echo 'The busiest maintainers'
SELECT regexp_replace(actor, '^Maintainer:(.*) <.*>$', '\1') AS maintainer,
	uploads, bugs_closed AS "bugs closed"
FROM demo.maintainer
ORDER BY uploads DESC, actor
LIMIT 10;

\echo 'The newest urgent uploads'
SELECT to_char(occurred_at, 'YYYY-MM-DD') AS "when",
	source, version, distribution, urgency
FROM demo.urgent
ORDER BY occurred_at DESC, event_id DESC
LIMIT 10;

\echo 'From recording to the feed''s handler, in milliseconds, at a steady rate'
SELECT events,
	round(p[1]::numeric, 2) AS p50,
	round(p[2]::numeric, 2) AS p99,
	round(p[3]::numeric, 2) AS max
FROM (
	SELECT count(*),
		percentile_cont(ARRAY[0.5, 0.99, 1]) WITHIN GROUP
			(ORDER BY 1000 * extract(epoch FROM handled_at - recorded_at)) AS p
	FROM demo.feed
	WHERE event_id > (SELECT max(event_id) FROM (
		SELECT event_id FROM demo.feed ORDER BY event_id LIMIT :last_bulk) AS bulk)
		OR :last_bulk = 0) AS latency (events, p);

\echo 'evinbox.inbox_status'
SELECT * FROM evinbox.inbox_status ORDER BY name;

\echo 'evinbox.worker_status'
SELECT * FROM evinbox.worker_status ORDER BY kind;
