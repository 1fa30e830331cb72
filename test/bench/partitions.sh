# What events cost that are stored already: fifty partitions against one, and
# STORED events against none.

STORED=${STORED:-10000000}

# usage: database_of name events partition_size; prepared, with so many events in partitions of that size
database_of()
{
	dropdb --force --if-exists --maintenance-db=postgres "$1" 2>/dev/null
	createdb --maintenance-db=postgres "$1"
	setting evinbox.partition_size "$3"
	PGDATABASE=$1 sql -f "$here/partitions.sql" -v events="$2" >/dev/null
	setting evinbox.partition_size 10000000
	# the next partition is there, and as large as by default
	PGDATABASE=$1 sql -f "$here/partitions_next.sql" >/dev/null
}

# usage: compare_databases title script ours theirs
compare_databases()
{
	local i

	rm -f "$dir"/*.runs
	for ((i = 0; i < RUNS; i++)); do
		PGDATABASE=$4 tps "$2" 1 >>"$dir/theirs.runs"
		PGDATABASE=$3 tps "$2" 1 >>"$dir/ours.runs"
	done
	row "$1" "$(median <"$dir/ours.runs")" "$(median <"$dir/theirs.runs")"
}

partitions()
{
	database_of one 50000 10000000
	database_of fifty 50000 1000

	# a throttle leaves out partitions from before its time, with a minute of tolerance
	sleep 65
	compare_databases 'record_event(), 50 partitions against 1, per second' record fifty one
	compare_databases 'the same with a throttle that records' throttled fifty one
	dropdb --force --maintenance-db=postgres one
	dropdb --force --maintenance-db=postgres fifty
}

stored()
{
	database_of empty 0 10000000
	# as it would be by default with ten million: they fill a partition
	database_of full "$STORED" "$STORED"
	sleep 65
	compare_databases "record_event(), $STORED events against none, per second" record full empty
	compare_databases 'the same with a throttle that records' throttled full empty
	dropdb --force --maintenance-db=postgres empty
	dropdb --force --maintenance-db=postgres full
}
