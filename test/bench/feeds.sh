# Pages of feeds among FEED_EVENTS events, against what one would write by hand.
feeds()
{
	fresh feeds
	load_events
	compare_ms "page of a subject among $FEED_EVENTS events, against a query by hand, in ms" \
		feed_subject feed_subject_by_hand
	compare_ms "page of 1,000 followed subjects, against a query by hand, in ms" \
		feed_followed feed_followed_by_hand
	compare_ms 'grouped page of a scope, against a plain one, in ms' feed_grouped feed_scope
}

load_events()
{
	sql -c "COPY (SELECT * FROM bench.events($FEED_EVENTS)) TO STDOUT" |
		sql -c 'COPY evinbox.event (id, subject_type, subject_id, action, actor, scope,
			metadata, occurred_at, recorded_at, depth) FROM STDIN'
	sql -c "SELECT setval('evinbox.event_id_seq', $FEED_EVENTS)" -c 'VACUUM ANALYZE evinbox.event, bench.follow' >/dev/null
}

# usage: compare_ms title ours theirs; the average time of one, at one client
compare_ms()
{
	local i

	rm -f "$dir"/*.runs
	for ((i = 0; i < RUNS; i++)); do
		tps "$3" 1 | awk '{ print 1000 / $1 }' >>"$dir/theirs.runs"
		tps "$2" 1 | awk '{ print 1000 / $1 }' >>"$dir/ours.runs"
	done
	row_ms "$1" "$(median <"$dir/ours.runs")" "$(median <"$dir/theirs.runs")"
}
