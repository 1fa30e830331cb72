# record_events() of 1,000 events against as many calls of record_event(), each in
# one transaction.
bulk()
{
	local i

	fresh setup
	sql -c "CREATE TABLE bench.bulk AS SELECT jsonb_agg(jsonb_build_object(
		'subject_type', 'Issue', 'subject_id', n, 'action', 'status_changed', 'actor', 'User:7',
		'metadata', '{\"from\": \"open\", \"to\": \"closed\"}'::jsonb)) AS events
		FROM generate_series(1, 1000) n"
	{
		echo 'BEGIN;'
		for ((i = 0; i < 1000; i++)); do
			cat "$here/record.sql"
		done
		echo 'COMMIT;'
	} >"$dir/calls.sql"
	rm -f "$dir"/*.runs
	for ((i = 0; i < RUNS; i++)); do
		tps "$dir/calls" 1 >>"$dir/theirs.runs"
		tps bulk 1 >>"$dir/ours.runs"
	done
	row 'record_events() of 1,000 events against 1,000 calls in a transaction, thousands per second' \
		"$(median <"$dir/ours.runs")" "$(median <"$dir/theirs.runs")"
}
