# A statement rule against the same statement, once, over the same events. The
# first time by hand is not counted: it has to note in the rows that they are
# committed, which is work for whoever reads them first.
statement()
{
	local i

	rm -f "$dir"/*.runs
	for ((i = 0; i < RUNS; i++)); do
		fresh statement
		sql -c "CALL bench.record($STATEMENT_EVENTS, 100)"
		sql -c 'CALL bench.by_hand()' -c 'TRUNCATE bench.daily_count' >/dev/null
		sql -c 'CALL bench.by_hand()' >>"$dir/theirs.seconds.runs"
		sql -c 'TRUNCATE bench.daily_count'
		sql -c 'CALL bench.drain()' >>"$dir/ours.seconds.runs"
		expect "$(sql -c 'SELECT sum(events) FROM bench.daily_count')" "$STATEMENT_EVENTS"
	done
	row "statement rule draining $STATEMENT_EVENTS events, against the statement over evinbox.event, per second" \
		"$(rate "$STATEMENT_EVENTS" <"$dir/ours.seconds.runs")" \
		"$(rate "$STATEMENT_EVENTS" <"$dir/theirs.seconds.runs")"
}
