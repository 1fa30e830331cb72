# What a cluster sees of the workers: how soon one is back, how they get out of
# the way, and whether they grow.

# A runner that is ended, and one that is killed, with which the whole server
# starts anew; against the first answer to anybody.
restart()
{
	local i

	fresh common
	sql -c "INSERT INTO evinbox.inbox (name, handler) VALUES ('bench', 'bench.handle')" -c CHECKPOINT
	rm -f "$dir"/*.runs
	for ((i = 0; i < RESTARTS; i++)); do
		restart_after 'psql -X -q -A -t -c "SELECT pg_terminate_backend($runner)"' >>"$dir/ended.runs"
		restart_after 'kill -KILL $runner' >>"$dir/killed.runs"
	done
	restart_row "a runner is ended, $RESTARTS times: p99 in ms to the first event handled" ended
	restart_row "a runner is killed, $RESTARTS times: the same, after the server's own new start" killed
}

# usage: restart_after command; prints the ms to an answer, and to a handled event
restart_after()
{
	local runner event start answer

	sql -c "SELECT evinbox.record_event('Issue', 1, 'opened')" -c 'CALL bench.wait()' >/dev/null
	runner=$(sql -c "SELECT pid FROM evinbox.worker_status WHERE kind = 'runner'")
	start=$(date +%s%N)
	eval "$1" >/dev/null
	until event=$(sql -c "SELECT evinbox.record_event('Issue', 1, 'opened')" 2>/dev/null); do :; done
	answer=$(date +%s%N)
	until sql -c "SELECT extract(epoch FROM handled_at) * 1000 - $start / 1e6 FROM bench.handled WHERE event_id = $event" |
		grep .; do :; done |
		awk -v answer=$(((answer - start) / 1000000)) '{ print answer, $1 }'
}

# usage: restart_row title runs
restart_row()
{
	row "$1" "$(cut -d' ' -f2 "$dir/$2.runs" | p99)" "$(cut -d' ' -f1 "$dir/$2.runs" | p99)"
}

p99()
{
	sort -g | awk '{ v[NR] = $1 } END { print v[int((99 * NR + 99) / 100)] }'
}

# Eight runners, each in a handler that does not end by itself, against as many
# sessions that wait as long.
shutdown()
{
	local i

	fresh workers
	rm -f "$dir"/*.runs
	for ((i = 0; i < RUNS; i++)); do
		eight_sessions 60
		stop_ms >>"$dir/theirs.runs"
		eight_runners bench 60
		stop_ms >>"$dir/ours.runs"
		no_runners
	done
	row 'fast shutdown with 8 runners in handlers, against 8 sessions in pg_sleep(), in ms' \
		"$(median <"$dir/ours.runs")" "$(median <"$dir/theirs.runs")"
}

stop_ms()
{
	local start

	start=$(date +%s%N)
	pg_ctl -D "$dir/data" -s -w -m fast stop
	echo $((($(date +%s%N) - start) / 1000000))
	wait
	pg_ctl -D "$dir/data" -l "$dir/log" -s -w start
}

# Eight runners that use the CPU, in another database than the one that is
# dropped, against as many sessions; and in the one that is dropped.
dropping()
{
	local i

	fresh workers
	rm -f "$dir"/*.runs
	for ((i = 0; i < RUNS; i++)); do
		createdb victim
		drop_ms >>"$dir/nobody.runs"

		createdb victim
		eight_sessions 0
		drop_ms >>"$dir/theirs.runs"
		sql -c "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'busy'" >/dev/null
		wait

		createdb victim
		eight_runners bench 0
		drop_ms >>"$dir/ours.runs"
		no_runners

		createdb victim
		PGDATABASE=victim sql -f "$here/workers.sql" >/dev/null
		eight_runners victim 0
		drop_ms >>"$dir/inside.runs"
	done
	row 'DROP DATABASE with 8 runners busy in another database, against 8 busy sessions, in ms' \
		"$(median <"$dir/ours.runs")" "$(median <"$dir/theirs.runs")"
	row 'DROP DATABASE of the one where they are busy, against one where nobody is, in ms' \
		"$(median <"$dir/inside.runs")" "$(median <"$dir/nobody.runs")"
}

drop_ms()
{
	local start

	start=$(date +%s%N)
	dropdb --maintenance-db=postgres victim
	echo $((($(date +%s%N) - start) / 1000000))
}

# usage: eight_sessions seconds; sleeping so long, or without end on the CPU
eight_sessions()
{
	local i

	for ((i = 0; i < 8; i++)); do
		PGAPPNAME=busy sql -c "SELECT bench.busy($1)" >/dev/null 2>&1 &
	done
	until [[ $(sql -c "SELECT count(*) FROM pg_stat_activity
		WHERE application_name = 'busy' AND state = 'active'") -eq 8 ]]; do :; done
}

# usage: eight_runners database seconds; the same in handlers
eight_runners()
{
	setting evinbox.max_runners 8
	PGDATABASE=$1 sql >/dev/null <<-SQL
		INSERT INTO evinbox.inbox (name, handler, timeout, config)
		SELECT 'busy ' || n, 'bench.busy', '10 min', '$2' FROM generate_series(1, 8) n;
		SELECT evinbox.record_event('Issue', 1, 'opened');
	SQL
	until [[ $(sql -c "SELECT count(*) FROM pg_stat_activity
		WHERE backend_type = 'evinbox runner' AND state = 'active' AND datname = '$1'") -eq 8 ]]; do :; done
}

no_runners()
{
	sql -c "SELECT evinbox.pause(name) FROM evinbox.inbox" >/dev/null
	sql -c "SELECT pg_terminate_backend(pid) FROM evinbox.worker_status WHERE kind = 'runner'" >/dev/null
	sql -c 'DELETE FROM evinbox.inbox'
	until [[ $(sql -c "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'evinbox runner'") -eq 0 ]]; do :; done
}

# One runner, which has handled ever more events.
memory()
{
	local runner first

	fresh common
	sql -c "INSERT INTO evinbox.inbox (name, handler) VALUES ('bench', 'bench.handle')"
	for ((done = 0; done < MEMORY_EVENTS; done += MEMORY_EVENTS / 10)); do
		sql -c "CALL bench.record($MEMORY_EVENTS / 10, 1000)" -c 'CALL bench.wait()'
		runner=$(sql -c "SELECT pid FROM evinbox.worker_status WHERE kind = 'runner'")
		first=${first:-$(private_kb "$runner")}
	done
	expect "$(sql -c 'SELECT count(*) FROM bench.handled')" "$MEMORY_EVENTS"
	row "kB of a runner's own after $MEMORY_EVENTS events, against after a tenth of them" \
		"$(private_kb "$runner")" "$first"
}

# usage: private_kb pid
private_kb()
{
	awk '/^RssAnon/ { print $2 }' "/proc/$1/status"
}
