/*-------------------------------------------------------------------------
 *
 * outbox.c
 *		The queue of committed events, in segments addressed by xid.
 *
 * A transaction writes all of its rows to the segment that its top-level id
 * selects. There is no pointer to a current segment, and so no moment at
 * which a slow transaction could follow an outdated one.
 *
 * Nothing is ever deleted or updated here. A segment is emptied by TRUNCATE
 * once all of its rows are handled in every cursor. That is decided with the
 * table locked against writers, who keep their lock on a segment until the
 * end of their transaction: a row that is not visible by then cannot exist.
 * A row written later has nothing to fear, whichever segment it is in.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/xid8.h"

#include "cursor.h"
#include "evinbox.h"
#include "guc.h"
#include "incarnation.h"
#include "outbox.h"
#include "partition.h"
#include "query.h"
#include "reading.h"
#include "relation.h"
#include "shmem.h"
#include "wakeup.h"

/* so many turns after its last row, a lane must have left a segment */
#define OVERDUE_TURNS 2

/* and so many turns after it, old snapshots must have */
#define PATIENCE_TURNS 3

/* this session's transaction has dispatched its own events up to there */
static uint64 closed_xid = 0;
static int64 closed_until = 0;

static uint64 turn_of(uint64 xid);
static int	segment_of(uint64 xid);
static bool may_be_emptied(EviTable segment);
static bool needs(const EviSnapshot *done, EviTable segment, Snapshot snapshot);
static bool segment_is_overdue(EviTable segment, int turns, Snapshot snapshot);
static bool range_is_empty(EviTable segment, uint64 from, uint64 to, Snapshot snapshot);

/* Writes the row of an event that this transaction has inserted. */
void
evi_outbox_add(int64 event_id)
{
	uint64		xid = U64FromFullTransactionId(GetTopFullTransactionId());
	Datum		values[Natts_outbox] = {0};
	bool		isnull[Natts_outbox] = {0};

	if (xid == closed_xid && event_id <= closed_until)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("event id " INT64_FORMAT " is too low", event_id),
				 errdetail("This transaction has dispatched its events up to id " INT64_FORMAT ".",
						   closed_until),
				 errhint("Leave ids to evinbox.")));

	if (evi_incarnation_is_quiet())
	{
		values[Anum_waiting_event_id - 1] = Int64GetDatum(event_id);
		evi_relation_insert(EVI_WAITING, values, isnull);
		return;
	}

	values[Anum_outbox_xid - 1] = FullTransactionIdGetDatum(FullTransactionIdFromU64(xid));
	values[Anum_outbox_event_id - 1] = Int64GetDatum(event_id);
	isnull[Anum_outbox_checkpoint - 1] = event_id % EVI_CHECKPOINT_IDS != 0;
	if (!isnull[Anum_outbox_checkpoint - 1])
	{
		/* the latest: a transaction's own snapshot may be hours old */
		PushActiveSnapshot(GetLatestSnapshot());
		values[Anum_outbox_checkpoint - 1] =
			evi_snapshot_to_datum(evi_snapshot_without(evi_snapshot_active(), xid));
		PopActiveSnapshot();
	}
	evi_relation_insert(EVI_OUTBOX + segment_of(xid), values, isnull);

	/* with a new segment, there may be an old one to empty */
	evi_wakeup_runners();
	if (event_id % EVI_PARTITION_LOOK == 0 ||
		evi_shmem_needs_look(MyDatabaseId, turn_of(xid)))
		evi_wakeup_coordinator();
}

/* the highest id of a transaction's events; 0 if it has none */
int64
evi_outbox_last_of(uint64 xid, Snapshot snapshot)
{
	int64		result = 0;

	for (int i = 0; i < EVI_OUTBOX_SEGMENTS; i++)
	{
		EviScan		scan;
		HeapTuple	tuple;
		bool		isnull;

		evi_reading_begin_rest(&scan, EVI_OUTBOX + i, xid, PG_INT64_MIN, snapshot);
		tuple = evi_scan_next(&scan, BackwardScanDirection);
		if (tuple)
			result = Max(result, DatumGetInt64(heap_getattr(tuple, Anum_outbox_event_id,
															RelationGetDescr(scan.table), &isnull)));
		evi_scan_end(&scan);
	}
	return result;
}

/*
 * A transaction that has dispatched its own events may record more of them,
 * but only with higher ids, or its cursor would hide them. Ids of the sequence
 * always are higher.
 */
void
evi_outbox_close_until(uint64 xid, int64 event_id)
{
	closed_xid = xid;
	closed_until = event_id;
}

/*
 * Keeps the segments as they are until the end of the transaction: it makes
 * a cursor that nobody else sees yet.
 */
void
evi_outbox_hold(void)
{
	for (int i = 0; i < EVI_OUTBOX_SEGMENTS; i++)
		LockRelationOid(evi_relation_oid(EVI_OUTBOX + i), AccessShareLock);
}

/*
 * Empties the segments that no cursor needs any more. Waits for nobody.
 * Returns whether one that should be emptied is left.
 */
bool
evi_outbox_truncate(void)
{
	uint64		next = U64FromFullTransactionId(ReadNextFullTransactionId());
	bool		left = false;

	evi_shmem_note_look(turn_of(next));
	for (int i = 0; i < EVI_OUTBOX_SEGMENTS; i++)
	{
		/* the current one is about to be written to */
		if (i == segment_of(next) || evi_relation_is_empty(EVI_OUTBOX + i))
			continue;

		/* looking before locking saves most of the locks; a dump may be coming in */
		if (may_be_emptied(EVI_OUTBOX + i) &&
			ConditionalLockRelationOid(evi_relation_oid(EVI_OUTBOX + i), AccessExclusiveLock) &&
			!evi_incarnation_look() && may_be_emptied(EVI_OUTBOX + i))
			evi_query_utility(psprintf("TRUNCATE evinbox_internal.outbox_%d", i));
		else
			left = true;
	}
	return left;
}

/*
 * Is there a segment that should have been emptied long ago, but for a cursor
 * that has come no further than this?
 */
bool
evi_outbox_waits_for(const EviSnapshot *done, Snapshot snapshot)
{
	for (int i = 0; i < EVI_OUTBOX_SEGMENTS; i++)
		if (!evi_relation_is_empty(EVI_OUTBOX + i) && needs(done, EVI_OUTBOX + i, snapshot) &&
			segment_is_overdue(EVI_OUTBOX + i, OVERDUE_TURNS, snapshot))
			return true;
	return false;
}

static uint64
turn_of(uint64 xid)
{
	return xid / evi_guc_segment_xids();
}

static int
segment_of(uint64 xid)
{
	return (int) (turn_of(xid) % EVI_OUTBOX_SEGMENTS);
}

/*
 * Is every row of a segment handled in every lane? This is final only for a
 * caller who has locked it: then the rows and the cursors are those of a time
 * when nobody writes to the segment, and nobody makes a cursor that needs it.
 *
 * A dump may have its snapshot already, and not yet its locks: whatever that
 * snapshot shows as not handled has to stay. But nothing waits for an old
 * snapshot for long.
 */
static bool
may_be_emptied(EviTable segment)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	List	   *lanes = segment_is_overdue(segment, PATIENCE_TURNS, snapshot) ?
		evi_cursor_all(snapshot) : evi_cursor_all_seen(snapshot);
	bool		done = true;
	ListCell   *lc;

	foreach(lc, lanes)
	{
		EviLane    *lane = lfirst(lc);

		done = lane->lane == EVI_REPLAY_LANE ||
			!needs(lane->cursor->done, segment, snapshot);
		if (!done)
			break;
	}
	UnregisterSnapshot(snapshot);
	return done;
}

/* Does a segment have rows that a cursor is not past? */
static bool
needs(const EviSnapshot *done, EviTable segment, Snapshot snapshot)
{
	bool		result = !range_is_empty(segment, done->xmax, PG_UINT64_MAX, snapshot);

	for (int i = 0; i < done->nxip && !result; i++)
		result = !range_is_empty(segment, done->xip[i], done->xip[i] + 1, snapshot);
	return result;
}

/* Is a segment so many turns old, so that it should have been emptied long ago? */
static bool
segment_is_overdue(EviTable segment, int turns, Snapshot snapshot)
{
	uint64		next = U64FromFullTransactionId(ReadNextFullTransactionId());
	EviScan		scan;
	HeapTuple	tuple;
	bool		isnull;
	bool		result = false;

	evi_scan_begin(&scan, segment, snapshot, 0, NULL);
	tuple = evi_scan_next(&scan, BackwardScanDirection);
	if (tuple)
	{
		Datum		xid = heap_getattr(tuple, Anum_outbox_xid, RelationGetDescr(scan.table),
									   &isnull);

		result = turn_of(U64FromFullTransactionId(DatumGetFullTransactionId(xid))) + turns <=
			turn_of(next);
	}
	evi_scan_end(&scan);
	return result;
}

static bool
range_is_empty(EviTable segment, uint64 from, uint64 to, Snapshot snapshot)
{
	EviScan		scan;
	bool		result;

	evi_reading_begin(&scan, segment, from, to, snapshot);
	result = evi_scan_next(&scan, ForwardScanDirection) == NULL;
	evi_scan_end(&scan);
	return result;
}
