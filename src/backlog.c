/*-------------------------------------------------------------------------
 *
 * backlog.c
 *		Ranges of event ids that a lane has yet to handle.
 *
 * They come before whatever is in the outbox beyond the lane's cursor. There
 * are four sources: a new inbox may be given past events first; a replay is
 * a lane that has nothing but ranges; a lane that is so far behind that it
 * keeps the outbox from being emptied gets what is left for it there as
 * ranges, which are found in evinbox.event; and so do all lanes of an inbox
 * when their number is changed.
 *
 * A lane's ranges are handled in the order of seq, and each in the order of
 * ids; the cursor tells how far. Rows are only added, by whoever has locked
 * the lane and stores a cursor with them, so that whoever knows the newest
 * cursor knows them all; and deleted when the lane is past them.
 *
 * An event belongs to a lane's future exactly once: it is in the outbox beyond
 * the cursor, or in one range. Ranges made of the outbox have no gaps, so that
 * all events in them are meant. One that was made of the past says only how
 * far that went: what was not finished then comes from the outbox, or is in a
 * later range, and has to be left out.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "backlog.h"
#include "evinbox.h"
#include "incarnation.h"
#include "query.h"
#include "relation.h"

/* no more ranges than that in one window */
#define MAX_TAKEN 1024

static void begin_scan(EviScan *scan, int32 inbox_id, int lane, int64 from_seq,
					   Snapshot snapshot);
static bool next_left(EviScan *scan, const EviCursor *cursor, EviRange *range);
static void read_range(EviRange *range, HeapTuple tuple, TupleDesc desc);
static bool is_done(const EviRange *range, const EviCursor *cursor);
static bool goes_with(const EviRange *range, const EviRange *former);
static int	leave_out(const EviRange *range, int64 *ids, int count);

/*
 * Its seq is given here, with the table locked: who has none locked, and has
 * the number of the newest range, knows which are to come.
 */
void
evi_backlog_add(int32 inbox_id, int lane, const EviRange *range)
{
	Datum		values[Natts_backlog] = {0};
	bool		isnull[Natts_backlog] = {0};

	LockRelationOid(evi_relation_oid(EVI_BACKLOG), RowExclusiveLock);
	values[Anum_backlog_inbox_id - 1] = Int32GetDatum(inbox_id);
	values[Anum_backlog_lane - 1] = Int32GetDatum(lane);
	values[Anum_backlog_seq - 1] =
		Int64GetDatum(nextval_internal(evi_relation_oid(EVI_BACKLOG_SEQ), false));
	values[Anum_backlog_first_id - 1] = Int64GetDatum(range->first_id);
	values[Anum_backlog_last_id - 1] = Int64GetDatum(range->last_id);
	values[Anum_backlog_exact - 1] = BoolGetDatum(range->is_exact);
	values[Anum_backlog_since - 1] = TimestampTzGetDatum(range->since);
	isnull[Anum_backlog_since - 1] = range->since == DT_NOBEGIN;
	values[Anum_backlog_former_lane - 1] = Int32GetDatum(range->former_lane);
	values[Anum_backlog_former_lanes - 1] = Int32GetDatum(range->former_lanes);
	isnull[Anum_backlog_former_lane - 1] = isnull[Anum_backlog_former_lanes - 1] =
		range->former_lanes == 0;
	evi_relation_insert(EVI_BACKLOG, values, isnull);
}

/* sorted ids, as ranges without gaps */
void
evi_backlog_add_ids(int32 inbox_id, int lane, const int64 *ids, int count)
{
	for (int i = 0; i < count;)
	{
		EviRange	range = {.first_id = ids[i], .is_exact = true, .since = DT_NOBEGIN};

		CHECK_FOR_INTERRUPTS();
		do
			range.last_id = ids[i++];
		while (i < count && ids[i] == range.last_id + 1);
		evi_backlog_add(inbox_id, lane, &range);
	}
}

/*
 * The first ranges that are not done, as far as they can be handled together:
 * with so many ids at the most, in the order of ids, and all exact and for the
 * same events; or else the first one alone. Returns NULL if there is none.
 */
EviRange *
evi_backlog_take(int32 inbox_id, int lane, const EviCursor *cursor, int most,
				 Snapshot snapshot, int *count)
{
	EviRange   *ranges = palloc(sizeof(EviRange) * MAX_TAKEN);
	int64		nids = 0;
	EviScan		scan;

	*count = 0;
	begin_scan(&scan, inbox_id, lane, cursor->backlog_seq, snapshot);
	while (*count < MAX_TAKEN && next_left(&scan, cursor, &ranges[*count]))
	{
		EviRange   *range = &ranges[*count];

		nids += range->last_id - range->first_id + 1;
		if (*count > 0 && (nids > most || !goes_with(range, &ranges[*count - 1])))
			break;
		(*count)++;
	}
	evi_scan_end(&scan);
	return *count > 0 ? ranges : NULL;
}

static bool
goes_with(const EviRange *range, const EviRange *former)
{
	return range->is_exact && former->is_exact &&
		range->first_id > former->last_id &&
		range->since == former->since &&
		range->former_lane == former->former_lane &&
		range->former_lanes == former->former_lanes;
}

/* what is left to do: ranges, the first of them perhaps in part */
List *
evi_backlog_rest(int32 inbox_id, int lane, const EviCursor *cursor, Snapshot snapshot)
{
	EviScan		scan;
	EviRange	range;
	List	   *result = NIL;

	begin_scan(&scan, inbox_id, lane, cursor->backlog_seq, snapshot);
	while (next_left(&scan, cursor, &range))
	{
		EviRange   *copy = palloc(sizeof(EviRange));

		*copy = range;
		result = lappend(result, copy);
	}
	evi_scan_end(&scan);
	return result;
}

/* Is any of these ids in a range, or a part of one, that is left? */
bool
evi_backlog_touches(int32 inbox_id, int lane, const EviCursor *cursor, int64 first_id,
					int64 last_id, Snapshot snapshot)
{
	EviScan		scan;
	EviRange	range;
	bool		result = false;

	begin_scan(&scan, inbox_id, lane, cursor->backlog_seq, snapshot);
	while (!result && next_left(&scan, cursor, &range))
		result = range.first_id <= last_id && range.last_id >= first_id;
	evi_scan_end(&scan);
	return result;
}

/* Leaves out of sorted ids what is in a later range. Returns how many are left. */
int
evi_backlog_leave_later(int32 inbox_id, int lane, const EviRange *range, Snapshot snapshot,
						int64 *ids, int count)
{
	EviScan		scan;
	HeapTuple	tuple;

	begin_scan(&scan, inbox_id, lane, range->seq + 1, snapshot);
	while (count > 0 && (tuple = evi_scan_next(&scan, ForwardScanDirection)) != NULL)
	{
		EviRange	later;

		CHECK_FOR_INTERRUPTS();
		read_range(&later, tuple, RelationGetDescr(scan.table));

		/* that of another former lane is another's future */
		if (later.former_lanes == 0 || later.former_lane == range->former_lane)
			count = leave_out(&later, ids, count);
	}
	evi_scan_end(&scan);
	return count;
}

/* Deletes what all are past. Returns false: it can wait for the next time. */
bool
evi_backlog_trim(void)
{
	static EviQuery find = {
		.sql = "SELECT FROM evinbox_internal.backlog b LIMIT 1",
		.expected = SPI_OK_SELECT,
		.nargs = 0,
	};
	static EviQuery delete = {
		.sql = "DELETE FROM evinbox_internal.backlog b WHERE b.inbox_id OPERATOR(pg_catalog.=) $1"
		" AND b.lane OPERATOR(pg_catalog.=) $2 AND b.seq OPERATOR(pg_catalog.<) $3",
		.expected = SPI_OK_DELETE,
		.nargs = 3,
		.argtypes = {INT4OID, INT4OID, INT8OID},
	};
	static EviQuery delete_orphans = {
		.sql = "DELETE FROM evinbox_internal.backlog b WHERE NOT EXISTS (SELECT FROM evinbox.inbox i"
		" WHERE i.id OPERATOR(pg_catalog.=) b.inbox_id"
		" AND b.lane OPERATOR(pg_catalog.<) i.shards)",
		.expected = SPI_OK_DELETE,
		.nargs = 0,
	};
	ListCell   *lc;

	if (evi_query_run(&find, NULL, NULL, 0) == 0 || evi_incarnation_look())
		return false;
	foreach(lc, evi_cursor_all(GetActiveSnapshot()))
	{
		EviLane    *lane = lfirst(lc);
		int			nranges;
		int64		end = lane->cursor->backlog_seq;
		Datum		args[3];

		if (end == 0)
			continue;
		if (!evi_backlog_take(lane->inbox_id, lane->lane, lane->cursor, 1, GetActiveSnapshot(), &nranges))
			end++;
		args[0] = Int32GetDatum(lane->inbox_id);
		args[1] = Int32GetDatum(lane->lane);
		args[2] = Int64GetDatum(end);
		(void) evi_query_run(&delete, args, NULL, 0);
	}
	(void) evi_query_run(&delete_orphans, NULL, NULL, 0);
	return false;
}

static void
begin_scan(EviScan *scan, int32 inbox_id, int lane, int64 from_seq, Snapshot snapshot)
{
	ScanKeyData keys[3];

	ScanKeyInit(&keys[0], Anum_backlog_inbox_id, BTEqualStrategyNumber, F_INT4EQ,
				Int32GetDatum(inbox_id));
	ScanKeyInit(&keys[1], Anum_backlog_lane, BTEqualStrategyNumber, F_INT4EQ,
				Int32GetDatum(lane));
	ScanKeyInit(&keys[2], Anum_backlog_seq, BTGreaterEqualStrategyNumber, F_INT8GE,
				Int64GetDatum(from_seq));
	evi_scan_begin(scan, EVI_BACKLOG, snapshot, 3, keys);
}

/* the next range that is not done, or what is left of it; false if there is none */
static bool
next_left(EviScan *scan, const EviCursor *cursor, EviRange *range)
{
	HeapTuple	tuple;

	while ((tuple = evi_scan_next(scan, ForwardScanDirection)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		read_range(range, tuple, RelationGetDescr(scan->table));
		if (is_done(range, cursor))
			continue;
		if (range->seq == cursor->backlog_seq)
			range->first_id = Max(range->first_id, cursor->backlog_position + 1);
		return true;
	}
	return false;
}

static void
read_range(EviRange *range, HeapTuple tuple, TupleDesc desc)
{
	Datum		values[Natts_backlog];
	bool		isnull[Natts_backlog];

	evi_relation_deform(EVI_BACKLOG, tuple, desc, values, isnull);
	range->seq = DatumGetInt64(values[Anum_backlog_seq - 1]);
	range->first_id = DatumGetInt64(values[Anum_backlog_first_id - 1]);
	range->last_id = DatumGetInt64(values[Anum_backlog_last_id - 1]);
	range->is_exact = DatumGetBool(values[Anum_backlog_exact - 1]);
	range->since = isnull[Anum_backlog_since - 1] ? DT_NOBEGIN :
		DatumGetTimestampTz(values[Anum_backlog_since - 1]);
	range->former_lane = range->former_lanes = 0;
	if (!isnull[Anum_backlog_former_lanes - 1])
	{
		range->former_lane = DatumGetInt32(values[Anum_backlog_former_lane - 1]);
		range->former_lanes = DatumGetInt32(values[Anum_backlog_former_lanes - 1]);
	}
}

static bool
is_done(const EviRange *range, const EviCursor *cursor)
{
	return range->seq < cursor->backlog_seq ||
		(range->seq == cursor->backlog_seq && cursor->backlog_position >= range->last_id);
}

/* removes a range from sorted ids; returns how many are left */
static int
leave_out(const EviRange *range, int64 *ids, int count)
{
	int			left = 0;

	if (range->first_id > ids[count - 1] || range->last_id < ids[0])
		return count;
	for (int i = 0; i < count; i++)
		if (ids[i] < range->first_id || ids[i] > range->last_id)
			ids[left++] = ids[i];
	return left;
}
