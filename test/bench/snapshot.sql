-- how many were handled a second in the first and in the last seconds, p99 of
-- both, p50 and p99 of all, and what is dead
WITH times AS (
	SELECT recorded_at, handled_at, 1000 * extract(epoch FROM handled_at - recorded_at) AS ms,
		min(recorded_at) OVER () + :span * interval '1 second' AS first_end,
		max(recorded_at) OVER () - :span * interval '1 second' AS last_start,
		max(recorded_at) OVER () AS last_end
	FROM bench.handled)
SELECT count(*) FILTER (WHERE handled_at < first_end)::numeric / :span,
	count(*) FILTER (WHERE handled_at >= last_start AND handled_at < last_end)::numeric / :span,
	percentile_cont(0.99) WITHIN GROUP (ORDER BY ms) FILTER (WHERE recorded_at < first_end),
	percentile_cont(0.99) WITHIN GROUP (ORDER BY ms) FILTER (WHERE recorded_at >= last_start),
	percentile_cont(0.5) WITHIN GROUP (ORDER BY ms),
	percentile_cont(0.99) WITHIN GROUP (ORDER BY ms),
	(SELECT sum(n_dead_tup) FROM pg_stat_user_tables
		WHERE schemaname IN ('evinbox', 'evinbox_internal'))
FROM times;
