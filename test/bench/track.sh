# A tracked UPDATE against the same with an audit trigger: of one row by a client,
# and of 100,000 rows by one statement.
track()
{
	local i

	fresh track
	compare 'UPDATE of a row of a tracked table, against an audit trigger, 1 client, per second' update_tracked update_audited 1
	compare 'the same, 4 clients' update_tracked update_audited 4

	rm -f "$dir"/*.runs
	for ((i = 0; i < RUNS; i++)); do
		sql -c 'VACUUM bench.tracked, bench.audited'
		sql -c "CALL bench.update_all('bench.audited')" >>"$dir/theirs.seconds.runs"
		sql -c "CALL bench.update_all('bench.tracked')" >>"$dir/ours.seconds.runs"
	done
	row 'UPDATE of all 100,000 rows of a tracked table, against an audit trigger, rows per second' \
		"$(rate 100000 <"$dir/ours.seconds.runs")" "$(rate 100000 <"$dir/theirs.seconds.runs")"
}
