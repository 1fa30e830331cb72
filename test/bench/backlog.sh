# After an outage, once: how soon does dispatch start, how large does the runner
# grow, does it keep to batch_size? With the server's default of shared buffers,
# which count as memory of whoever has touched them.
backlog()
{
	sql -c "ALTER SYSTEM SET shared_buffers = '128MB'"
	pg_ctl -D "$dir/data" -l "$dir/log" -s -w restart
	outage "$BIG_BACKLOG" 10 "$BIG_BACKLOG events waiting"
	outage "$ONE_TRANSACTION" "$ONE_TRANSACTION" "one transaction of $ONE_TRANSACTION events waiting"
	sql -c 'ALTER SYSTEM RESET shared_buffers'
	pg_ctl -D "$dir/data" -l "$dir/log" -s -w restart
}

# usage: outage events in_one title
outage()
{
	local runner= peak private=0 now start first

	fresh common
	sql -c "INSERT INTO evinbox.inbox (name, handler) VALUES ('bench', 'bench.handle')"
	setting evinbox.enabled off
	sql -c "CALL bench.record($1, $2)"

	start=$(sql -c 'SELECT clock_timestamp()')
	sql -c 'ALTER SYSTEM RESET evinbox.enabled' -c 'SELECT pg_reload_conf()' >/dev/null
	until [[ -n $runner ]]; do
		runner=$(sql -c "SELECT pid FROM pg_stat_activity WHERE backend_type = 'evinbox runner' LIMIT 1")
	done
	sql -c 'CALL bench.wait()' &
	while [[ -n $(jobs -r) ]]; do
		now=$(awk '/^RssAnon/ { print $2 }' "/proc/$runner/status")
		private=$((now > private ? now : private))
		sleep 0.1
	done
	wait $!
	peak=$(awk '/^VmHWM/ { print $2 }' "/proc/$runner/status")

	expect "$(sql -c 'SELECT count(*) FROM bench.handled')" "$1"
	first=$(sql -c "SELECT 1000 * extract(epoch FROM min(handled_at) - '$start') FROM bench.handled")
	printf '| %s, ms to the first one handled | %.0f | | |\n' "$3" "$first"
	printf '| the same, handled per second | %.0f | | |\n' \
		"$(sql -c "SELECT $1 / extract(epoch FROM max(handled_at) - '$start') FROM bench.handled")"
	printf '| the same, most events in one transaction | %.0f | | |\n' \
		"$(sql -c 'SELECT max(n) FROM (SELECT count(*) AS n FROM bench.handled GROUP BY xmin) AS x')"
	printf '| the same, MB of the runner, and without shared memory | %d, %d | | |\n' \
		$((peak / 1024)) $((private / 1024))
}
