/*-------------------------------------------------------------------------
 *
 * cursor.c
 *		How far each lane of an inbox has come.
 *
 * A cursor is stored in the transaction of the effects that it stands for.
 * It is appended, never updated: a lane's row with the highest number
 * counts. The number selects one of two tables, in turns of TURN rows; the
 * other one is truncated when no lane has its newest row there. Lanes
 * that had nothing to store for a turn are moved on by hand.
 *
 * Whoever is about to store a lane's cursor locks the lane first, until
 * the end of the transaction, and then reads the newest row with a snapshot
 * that is newer than the lock. This alone keeps two from handling the same
 * events. Readers lock both tables before they take that snapshot, or a
 * truncation could come between and show them none.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "storage/procarray.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/xid8.h"

#include "cursor.h"
#include "evinbox.h"
#include "incarnation.h"
#include "query.h"
#include "relation.h"
#include "wakeup.h"

#define TURN 16384

/* a table of this size does not wait for old snapshots any more */
#define PATIENCE_BLOCKS (64 * 1024 * 1024 / BLCKSZ)

static int	segment_of(int64 seq);
static EviCursor *read_newest(EviTable segment, int32 inbox_id, int lane, Snapshot snapshot,
							  bool seq_only);
static EviCursor *form_cursor(HeapTuple tuple, TupleDesc desc);
static List *inbox_ids(Snapshot snapshot);

/* Keeps the tables from being truncated until the end of the transaction. */
void
evi_cursor_hold(void)
{
	for (int i = 0; i < EVI_CURSOR_SEGMENTS; i++)
		LockRelationOid(evi_relation_oid(EVI_CURSOR + i), AccessShareLock);
}

/* Locks a lane until the end of the transaction. */
bool
evi_cursor_lock(int32 inbox_id, int lane, bool wait)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, evi_relation_oid(EVI_INBOX), (Oid) inbox_id,
					   (uint16) lane);
	if (LockAcquire(&tag, ExclusiveLock, false, !wait) == LOCKACQUIRE_NOT_AVAIL)
		return false;

	/* see the head of this file */
	evi_cursor_hold();
	return true;
}

/* the newest that the snapshot shows; NULL if there is none */
EviCursor *
evi_cursor_read(int32 inbox_id, int lane, Snapshot snapshot)
{
	EviCursor  *newest = NULL;

	for (int i = 0; i < EVI_CURSOR_SEGMENTS; i++)
	{
		EviCursor  *cursor = read_newest(EVI_CURSOR + i, inbox_id, lane, snapshot, false);

		if (cursor && (!newest || cursor->seq > newest->seq))
			newest = cursor;
	}
	return newest;
}

/* only the number of that one; 0 if there is none */
int64
evi_cursor_seq(int32 inbox_id, int lane, Snapshot snapshot)
{
	int64		seq = 0;

	for (int i = 0; i < EVI_CURSOR_SEGMENTS; i++)
	{
		EviCursor  *cursor = read_newest(EVI_CURSOR + i, inbox_id, lane, snapshot, true);

		if (cursor)
			seq = Max(seq, cursor->seq);
	}
	return seq;
}

/* Stores a cursor and returns its number. The caller has locked the lane. */
int64
evi_cursor_append(int32 inbox_id, int lane, const EviCursor *cursor)
{
	int64		seq = nextval_internal(evi_relation_oid(EVI_CURSOR_SEQ), false);
	Datum		values[Natts_cursor] = {0};
	bool		isnull[Natts_cursor] = {0};

	values[Anum_cursor_inbox_id - 1] = Int32GetDatum(inbox_id);
	values[Anum_cursor_lane - 1] = Int32GetDatum(lane);
	values[Anum_cursor_seq - 1] = Int64GetDatum(seq);
	values[Anum_cursor_lanes - 1] = Int32GetDatum(cursor->lanes);
	values[Anum_cursor_done - 1] = evi_snapshot_to_datum(cursor->done);
	if (cursor->taking)
	{
		values[Anum_cursor_taking - 1] = evi_snapshot_to_datum(cursor->taking);
		values[Anum_cursor_position - 1] = Int64GetDatum(cursor->position);
	}
	isnull[Anum_cursor_taking - 1] = isnull[Anum_cursor_position - 1] = !cursor->taking;
	values[Anum_cursor_own_xid - 1] =
		FullTransactionIdGetDatum(FullTransactionIdFromU64(cursor->own_xid));
	values[Anum_cursor_own_position - 1] = Int64GetDatum(cursor->own_position);
	isnull[Anum_cursor_own_xid - 1] = isnull[Anum_cursor_own_position - 1] = cursor->own_xid == 0;
	values[Anum_cursor_backlog_seq - 1] = Int64GetDatum(cursor->backlog_seq);
	values[Anum_cursor_backlog_position - 1] = Int64GetDatum(cursor->backlog_position);
	values[Anum_cursor_dispatched_at - 1] = TimestampTzGetDatum(cursor->dispatched_at);
	isnull[Anum_cursor_dispatched_at - 1] = cursor->dispatched_at == 0;
	values[Anum_cursor_streak - 1] = Int32GetDatum(cursor->streak);
	evi_relation_insert(EVI_CURSOR + segment_of(seq), values, isnull);

	/* the other table may be emptied now */
	if (segment_of(seq) != segment_of(cursor->seq))
		evi_wakeup_coordinator();
	return seq;
}

/* the lanes of an inbox, as EviLane; none if it has no cursor */
List *
evi_cursor_lanes(int32 inbox_id, Snapshot snapshot)
{
	List	   *result = NIL;
	int			lanes = 1;

	for (int lane = EVI_REPLAY_LANE; lane < lanes; lane++)
	{
		EviCursor  *cursor = evi_cursor_read(inbox_id, lane, snapshot);
		EviLane    *one;

		if (!cursor)
			continue;
		if (lane == 0)
			lanes = cursor->lanes;
		one = palloc(sizeof(EviLane));
		*one = (EviLane) {.inbox_id = inbox_id, .lane = lane, .cursor = cursor};
		result = lappend(result, one);
	}
	return result;
}

/* those of all inboxes */
List *
evi_cursor_all(Snapshot snapshot)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, inbox_ids(snapshot))
		result = list_concat(result, evi_cursor_lanes(lfirst_int(lc), snapshot));
	return result;
}

/*
 * Those of all inboxes, and once more as the oldest snapshot may show them that
 * anybody has. That may be a dump's, which is about to lock our tables: what
 * was truncated in between is missing in it, so nobody may need that.
 */
List *
evi_cursor_all_seen(Snapshot latest)
{
	Relation	rel = evi_relation_open(EVI_INBOX, AccessShareLock);
	SnapshotData oldest = *latest;
	List	   *ids = inbox_ids(latest);
	List	   *result = evi_cursor_all(latest);
	ListCell   *lc;

	/* whatever is older is finished, for everybody */
	oldest.xmin = oldest.xmax = GetOldestNonRemovableTransactionId(rel);
	oldest.xcnt = oldest.subxcnt = 0;
	oldest.suboverflowed = false;
	oldest.curcid = FirstCommandId;
	table_close(rel, AccessShareLock);

	foreach(lc, list_concat_unique_int(ids, inbox_ids(&oldest)))
		result = list_concat(result, evi_cursor_lanes(lfirst_int(lc), &oldest));
	return result;
}

/*
 * Empties the table whose turn it is not, once all lanes have left it.
 * Waits for nobody. Returns whether there is something left to do.
 */
bool
evi_cursor_fold(void)
{
	int64		next = nextval_internal(evi_relation_oid(EVI_CURSOR_SEQ), false);
	int			other = 1 - segment_of(next);
	Oid			relid = evi_relation_oid(EVI_CURSOR + other);
	Relation	rel = table_open(relid, AccessShareLock);
	BlockNumber blocks = RelationGetNumberOfBlocks(rel);
	Snapshot	snapshot;
	ListCell   *lc;
	bool		left = false;

	table_close(rel, AccessShareLock);
	if (blocks == 0 || evi_incarnation_look())
		return false;

	/* a lock that is not to be had means that the lane is moving by itself */
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	foreach(lc, evi_cursor_all(snapshot))
	{
		EviLane    *lane = lfirst(lc);
		EviCursor  *cursor;
		Snapshot	newer;

		if (segment_of(lane->cursor->seq) != other)
			continue;
		if (!evi_cursor_lock(lane->inbox_id, lane->lane, false))
		{
			left = true;
			continue;
		}
		evi_wakeup_runners_at_any_end();
		newer = RegisterSnapshot(GetLatestSnapshot());
		cursor = evi_cursor_read(lane->inbox_id, lane->lane, newer);
		if (cursor && segment_of(cursor->seq) == other)
			(void) evi_cursor_append(lane->inbox_id, lane->lane, cursor);
		UnregisterSnapshot(newer);
	}
	UnregisterSnapshot(snapshot);

	/*
	 * Those rows are visible to others only with the truncation, and both at
	 * once to whoever locks the tables first.
	 */
	if (left || !ConditionalLockRelationOid(relid, AccessExclusiveLock))
		return true;

	/* of a dump that is coming in, cursors may be here before their inboxes are */
	if (evi_incarnation_look())
		return false;

	CommandCounterIncrement();
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	foreach(lc, blocks < PATIENCE_BLOCKS ? evi_cursor_all_seen(snapshot) : evi_cursor_all(snapshot))
		left |= segment_of(((EviLane *) lfirst(lc))->cursor->seq) == other;
	UnregisterSnapshot(snapshot);

	if (!left)
		evi_query_utility(psprintf("TRUNCATE evinbox_internal.cursor_%d", other));
	return left;
}

static int
segment_of(int64 seq)
{
	return (int) (seq / TURN % EVI_CURSOR_SEGMENTS);
}

static EviCursor *
read_newest(EviTable segment, int32 inbox_id, int lane, Snapshot snapshot, bool seq_only)
{
	ScanKeyData keys[2];
	EviScan		scan;
	HeapTuple	tuple;
	EviCursor  *result = NULL;

	ScanKeyInit(&keys[0], Anum_cursor_inbox_id, BTEqualStrategyNumber, F_INT4EQ,
				Int32GetDatum(inbox_id));
	ScanKeyInit(&keys[1], Anum_cursor_lane, BTEqualStrategyNumber, F_INT4EQ,
				Int32GetDatum(lane));
	evi_scan_begin(&scan, segment, snapshot, 2, keys);
	tuple = evi_scan_next(&scan, BackwardScanDirection);
	if (tuple && seq_only)
	{
		bool		isnull;

		result = palloc0(sizeof(EviCursor));
		result->seq = DatumGetInt64(heap_getattr(tuple, Anum_cursor_seq,
												 RelationGetDescr(scan.table), &isnull));
	}
	else if (tuple)
		result = form_cursor(tuple, RelationGetDescr(scan.table));
	evi_scan_end(&scan);
	return result;
}

static EviCursor *
form_cursor(HeapTuple tuple, TupleDesc desc)
{
	EviCursor  *cursor = palloc0(sizeof(EviCursor));
	Datum		values[Natts_cursor];
	bool		isnull[Natts_cursor];

	evi_relation_deform(EVI_CURSOR, tuple, desc, values, isnull);
	cursor->seq = DatumGetInt64(values[Anum_cursor_seq - 1]);
	cursor->lanes = DatumGetInt32(values[Anum_cursor_lanes - 1]);
	cursor->done = evi_snapshot_from_datum(values[Anum_cursor_done - 1]);
	if (!isnull[Anum_cursor_taking - 1])
	{
		cursor->taking = evi_snapshot_from_datum(values[Anum_cursor_taking - 1]);
		cursor->position = DatumGetInt64(values[Anum_cursor_position - 1]);
	}
	if (!isnull[Anum_cursor_own_xid - 1])
	{
		cursor->own_xid = U64FromFullTransactionId(DatumGetFullTransactionId(values[Anum_cursor_own_xid - 1]));
		cursor->own_position = DatumGetInt64(values[Anum_cursor_own_position - 1]);
	}
	cursor->backlog_seq = DatumGetInt64(values[Anum_cursor_backlog_seq - 1]);
	cursor->backlog_position = DatumGetInt64(values[Anum_cursor_backlog_position - 1]);
	if (!isnull[Anum_cursor_dispatched_at - 1])
		cursor->dispatched_at = DatumGetTimestampTz(values[Anum_cursor_dispatched_at - 1]);
	cursor->streak = DatumGetInt32(values[Anum_cursor_streak - 1]);
	return cursor;
}

static List *
inbox_ids(Snapshot snapshot)
{
	EviScan		scan;
	HeapTuple	tuple;
	List	   *result = NIL;

	evi_scan_begin(&scan, EVI_INBOX, snapshot, 0, NULL);
	while ((tuple = evi_scan_next(&scan, ForwardScanDirection)) != NULL)
	{
		bool		isnull;

		result = lappend_int(result, DatumGetInt32(heap_getattr(tuple, Anum_inbox_id,
																RelationGetDescr(scan.table),
																&isnull)));
	}
	evi_scan_end(&scan);
	return result;
}
