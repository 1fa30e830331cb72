# What do 999 rules cost that are not for an event? The last column is the
# difference.
rules()
{
	local i kind n

	fresh common
	sql -c "INSERT INTO evinbox.inbox (name, handler, subject_types) VALUES ('bench', 'bench.handle', '{Issue}')"
	rm -f "$dir"/*.runs
	for ((i = 0; i < RUNS; i++)); do
		sql -c "DELETE FROM evinbox.inbox WHERE name <> 'bench'"
		rules_latency >>"$dir/theirs.runs"
		sql -c "INSERT INTO evinbox.inbox (name, handler, subject_types, actions)
			SELECT 'other ' || n, 'bench.handle',
				CASE WHEN n % 2 = 0 THEN ARRAY['Type' || n] END,
				CASE WHEN n % 2 = 1 THEN ARRAY['action' || n] END
			FROM generate_series(1, 999) n"
		rules_latency >>"$dir/ours.runs"
	done
	for n in 1 2; do
		for kind in ours theirs; do
			printf '%s ' "$(cut -d' ' -f$n "$dir/$kind.runs" | median)"
		done
	done |
		awk '{
			printf "| 1,000 rules of which one matches, against one rule, p50 in ms | %.2f | %.2f | %+.2f |\n", $1, $2, $1 - $2
			printf "| the same, p99 in ms | %.2f | %.2f | %+.2f |\n", $3, $4, $3 - $4 }'
}

rules_latency()
{
	# the first event waits until the rules are loaded
	sql -c "SELECT evinbox.record_event('Issue', 1, 'opened')" >/dev/null
	sql -c 'CALL bench.wait()' -c 'TRUNCATE bench.handled'
	paced record 100
	sql -c 'CALL bench.wait()'
	quantiles
}
