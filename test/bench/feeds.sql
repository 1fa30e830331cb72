-- Many events of many subjects, actors and scopes, and who follows what. They
-- are loaded as from a dump, so that none is dispatched.
\ir common.sql

CREATE TABLE bench.follow (
	follower integer,
	subject_id text COLLATE "C",
	PRIMARY KEY (follower, subject_id)
);
INSERT INTO bench.follow
SELECT DISTINCT follower, (random() * 99999)::int
FROM generate_series(1, 20) follower, generate_series(1, 1010);
DELETE FROM bench.follow
WHERE (follower, subject_id) IN (
	SELECT follower, subject_id
	FROM (SELECT *, row_number() OVER (PARTITION BY follower) AS n FROM bench.follow) AS x
	WHERE n > 1000);

-- bursts of an actor in a scope, three events on the average
CREATE FUNCTION bench.events(events bigint)
RETURNS TABLE (id bigint, subject_type text, subject_id text, action text, actor text, scope text,
	metadata jsonb, occurred_at timestamptz, recorded_at timestamptz, depth smallint)
LANGUAGE sql AS $$
	SELECT n, 'Issue', (random() * 99999)::int, 'action_' || hashint8(n / 3) % 3,
		'User:' || abs(hashint8(n / 3)) % 10000, abs(hashint8(n / 3)) % 200, '{"from": "open", "to": "closed"}'::jsonb,
		timestamptz '2026-01-01' + n * interval '1 second', timestamptz '2026-01-01' + n * interval '1 second', 0::smallint
	FROM generate_series(1, events) n
$$;
