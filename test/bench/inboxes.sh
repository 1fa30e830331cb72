# Several inboxes on every event against one.
five()
{
	local i

	fresh inboxes
	rm -f "$dir"/*.runs
	for ((i = 0; i < RUNS; i++)); do
		drain_into 1 1 bench.handle "$BACKLOG" >>"$dir/theirs.seconds.runs"
		expect "$(sql -c 'SELECT count(*) FROM bench.handled')" "$BACKLOG"
		drain_into 5 1 bench.handle "$BACKLOG" >>"$dir/ours.seconds.runs"
		expect "$(sql -c 'SELECT count(*) FROM bench.handled')" $((5 * BACKLOG))
	done
	row "five inboxes draining $BACKLOG events against one, handled per second" \
		"$(rate $((5 * BACKLOG)) <"$dir/ours.seconds.runs")" \
		"$(rate "$BACKLOG" <"$dir/theirs.seconds.runs")"
}

# Four runners against one.
runners()
{
	fresh inboxes
	runners_with 'four inboxes that use the CPU' 4 1 bench.burn "$CPU_EVENTS"
	runners_with 'an inbox of four shards that uses the CPU' 1 4 bench.burn $((4 * CPU_EVENTS))
	runners_with 'four inboxes that sleep 10 ms for each event' 4 1 bench.doze "$SLEEP_EVENTS"
}

# usage: runners_with title inboxes shards handler events
runners_with()
{
	local i

	rm -f "$dir"/*.runs
	for ((i = 0; i < RUNS; i++)); do
		setting evinbox.max_runners 1
		drain_into "${@:2}" >>"$dir/theirs.seconds.runs"
		setting evinbox.max_runners 4
		drain_into "${@:2}" >>"$dir/ours.seconds.runs"
	done
	row "$1: four runners against one, per second" \
		"$(rate $(($2 * $5)) <"$dir/ours.seconds.runs")" \
		"$(rate $(($2 * $5)) <"$dir/theirs.seconds.runs")"
}

# usage: drain_into inboxes shards handler events; prints the seconds
drain_into()
{
	sql >/dev/null <<-SQL
		DELETE FROM evinbox.inbox;
		TRUNCATE bench.handled;
		INSERT INTO evinbox.inbox (name, enabled, handler, shards)
		SELECT 'inbox ' || n, false, '$3', $2 FROM generate_series(1, $1) n;
		CALL bench.record($4, 100);
	SQL
	sql -c 'CALL bench.drain()'
}
