# The same load without and with a snapshot that another session holds, once
# each, from a new database on.
snapshot()
{
	local held=() control=() span=$((SNAPSHOT_SECONDS < 90 ? SNAPSHOT_SECONDS / 3 : 30))

	load control
	load held
	row "2,000 a second under a held snapshot, per second: last $span s, first $span s" \
		"${held[1]}" "${held[0]}"
	row_ms "the same, p99 in ms: last $span s, first $span s" "${held[3]}" "${held[2]}"
	row_ms 'the same, p50 in ms, against no held snapshot' "${held[4]}" "${control[4]}"
	row_ms 'the same, p99 in ms, against no held snapshot' "${held[5]}" "${control[5]}"
	row 'the same, dead rows in all tables of evinbox (autovacuum off)' \
		"${held[6]}" "${control[6]}"
}

# usage: load held|control; leaves its figures in the array of that name
load()
{
	local answer holder out in

	fresh common
	sql -c "INSERT INTO evinbox.inbox (name, handler) VALUES ('bench', 'bench.handle')"
	if [[ $1 == held ]]; then
		coproc HOLDER { sql; }
		holder=$HOLDER_PID out=${HOLDER[0]} in=${HOLDER[1]}
		echo "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM evinbox.event;" >&"$in"
		read -r answer <&"$out"
	fi

	paced record 2000 "$SNAPSHOT_SECONDS" 4
	if [[ $1 == held ]]; then
		echo "SELECT count(*) FROM evinbox.event;" >&"$in"
		read -r answer <&"$out"
		expect "$answer" 0
	fi
	sql -c 'CALL bench.wait()'

	# what a session has done to rows is counted some time later
	sleep 3
	read -r -a "$1" < <(sql -F ' ' -v "span=$span" -f "$here/snapshot.sql" | tail -n 1)
	if [[ $1 == held ]]; then
		eval "exec $in>&-"
		wait "$holder"
	fi
}
