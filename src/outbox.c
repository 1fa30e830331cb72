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
#include "outbox.h"
#include "partition.h"
#include "query.h"
#include "relation.h"
#include "shmem.h"
#include "wakeup.h"

/* unfinished transactions this close below xmax are read in one scan with it */
#define NEAR_XIDS 1024

/* a growing array of event ids */
typedef struct IdList
{
	uint64		skip_xid;
	int64		skip_until;
	int64	   *id;
	int			count;
	int			room;
	int			most;			/* stop there; 0 for no limit */
} IdList;

/* this session's transaction has dispatched its own events up to there */
static uint64 closed_xid = 0;
static int64 closed_until = 0;

static uint64 turn_of(uint64 xid);
static int	segment_of(uint64 xid);
static void begin_range(EviScan *scan, EviTable segment, uint64 from, uint64 to,
						Snapshot snapshot);
static void read_range(uint64 from, uint64 to, const EviSnapshot *lower,
					   const EviSnapshot *upper, Snapshot snapshot, IdList *list);
static bool is_full(const IdList *list);
static void add_id(IdList *list, int64 id);
static bool segment_is_empty(EviTable segment);
static bool segment_is_done(EviTable segment);
static bool range_is_empty(EviTable segment, uint64 from, uint64 to, Snapshot snapshot);

/* Writes the row of an event that this transaction has inserted. */
void
evi_outbox_add(int64 event_id)
{
	uint64		xid = U64FromFullTransactionId(GetTopFullTransactionId());
	Datum		values[Natts_outbox];
	bool		isnull[Natts_outbox] = {0};

	if (xid == closed_xid && event_id <= closed_until)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("event id " INT64_FORMAT " is too low", event_id),
				 errdetail("This transaction has dispatched its events up to id " INT64_FORMAT ".",
						   closed_until),
				 errhint("Leave ids to evinbox.")));

	values[Anum_outbox_xid - 1] = FullTransactionIdGetDatum(FullTransactionIdFromU64(xid));
	values[Anum_outbox_event_id - 1] = Int64GetDatum(event_id);
	evi_relation_insert(EVI_OUTBOX + segment_of(xid), values, isnull);

	/* with a new segment, there may be an old one to empty */
	evi_wakeup_runners();
	if (event_id % EVI_PARTITION_LOOK == 0 ||
		evi_shmem_needs_look(MyDatabaseId, turn_of(xid)))
		evi_wakeup_coordinator();
}

/*
 * The ids of the events that upper sees and lower does not, sorted, without
 * those of one transaction up to an id; all of them, or about as many as asked
 * for. Returns their number.
 */
int
evi_outbox_read(const EviSnapshot *lower, const EviSnapshot *upper, uint64 skip_xid,
				int64 skip_until, Snapshot snapshot, int most, int64 **ids)
{
	IdList		list = {.skip_xid = skip_xid, .skip_until = skip_until, .most = most};
	uint64		from = lower->xmax;
	int			far = lower->nxip;

	/*
	 * What was unfinished in lower comes in addition to the range above it.
	 * One that is open for long must not make us read all that has passed
	 * since: it is looked up by itself.
	 */
	while (far > 0 && lower->xip[far - 1] + NEAR_XIDS >= lower->xmax)
		from = lower->xip[--far];

	for (int i = 0; i < far && !is_full(&list); i++)
		read_range(lower->xip[i], lower->xip[i] + 1, lower, upper, snapshot, &list);
	read_range(from, upper->xmax, lower, upper, snapshot, &list);

	qsort(list.id, list.count, sizeof(int64), evi_compare_ids);
	*ids = list.id;
	return list.count;
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
		if (i == segment_of(next) || segment_is_empty(EVI_OUTBOX + i))
			continue;

		/* looking before locking saves most of the locks */
		if (segment_is_done(EVI_OUTBOX + i) &&
			ConditionalLockRelationOid(evi_relation_oid(EVI_OUTBOX + i), AccessExclusiveLock) &&
			segment_is_done(EVI_OUTBOX + i))
			evi_query_utility(psprintf("TRUNCATE evinbox_internal.outbox_%d", i));
		else
			left = true;
	}
	return left;
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

/* the rows of the transactions from one up to, but not including, another */
static void
begin_range(EviScan *scan, EviTable segment, uint64 from, uint64 to, Snapshot snapshot)
{
	ScanKeyData keys[2];

	ScanKeyInit(&keys[0], Anum_outbox_xid, BTGreaterEqualStrategyNumber, F_XID8GE,
				FullTransactionIdGetDatum(FullTransactionIdFromU64(from)));
	ScanKeyInit(&keys[1], Anum_outbox_xid, BTLessStrategyNumber, F_XID8LT,
				FullTransactionIdGetDatum(FullTransactionIdFromU64(to)));
	evi_scan_begin(scan, segment, snapshot, 2, keys);
}

/* collects from all segments: their size may have been changed meanwhile */
static void
read_range(uint64 from, uint64 to, const EviSnapshot *lower,
		   const EviSnapshot *upper, Snapshot snapshot, IdList *list)
{
	for (int i = 0; i < EVI_OUTBOX_SEGMENTS; i++)
	{
		EviScan		scan;
		HeapTuple	tuple;

		begin_range(&scan, EVI_OUTBOX + i, from, to, snapshot);
		while (!is_full(list) && (tuple = evi_scan_next(&scan, ForwardScanDirection)) != NULL)
		{
			TupleDesc	desc = RelationGetDescr(scan.table);
			bool		isnull;
			Datum		stamp = heap_getattr(tuple, Anum_outbox_xid, desc, &isnull);
			uint64		xid = U64FromFullTransactionId(DatumGetFullTransactionId(stamp));
			int64		id = DatumGetInt64(heap_getattr(tuple, Anum_outbox_event_id, desc, &isnull));

			if (evi_snapshot_sees(upper, xid) && !evi_snapshot_sees(lower, xid) &&
				(xid != list->skip_xid || id > list->skip_until))
				add_id(list, id);
			CHECK_FOR_INTERRUPTS();
		}
		evi_scan_end(&scan);
	}
}

static bool
is_full(const IdList *list)
{
	return list->most > 0 && list->count >= list->most;
}

static void
add_id(IdList *list, int64 id)
{
	if (list->count == list->room)
	{
		list->room = Max(64, list->room * 2);
		list->id = list->id ?
			repalloc_huge(list->id, sizeof(int64) * list->room) :
			palloc(sizeof(int64) * list->room);
	}
	list->id[list->count++] = id;
}

static bool
segment_is_empty(EviTable segment)
{
	Relation	rel = table_open(evi_relation_oid(segment), AccessShareLock);
	bool		result = RelationGetNumberOfBlocks(rel) == 0;

	table_close(rel, AccessShareLock);
	return result;
}

/*
 * Is every row of a segment handled in every cursor? This is final only for a
 * caller who has locked it: then the rows and the cursors are those of a time
 * when nobody writes to the segment, and nobody makes a cursor that needs it.
 */
static bool
segment_is_done(EviTable segment)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	bool		done = true;
	ListCell   *lc;

	foreach(lc, evi_cursor_all(snapshot))
	{
		const EviSnapshot *seen = ((EviCursor *) lfirst(lc))->done;

		done = range_is_empty(segment, seen->xmax, PG_UINT64_MAX, snapshot);
		for (int i = 0; i < seen->nxip && done; i++)
			done = range_is_empty(segment, seen->xip[i], seen->xip[i] + 1, snapshot);
		if (!done)
			break;
	}
	UnregisterSnapshot(snapshot);
	return done;
}

static bool
range_is_empty(EviTable segment, uint64 from, uint64 to, Snapshot snapshot)
{
	EviScan		scan;
	bool		result;

	begin_range(&scan, segment, from, to, snapshot);
	result = evi_scan_next(&scan, ForwardScanDirection) == NULL;
	evi_scan_end(&scan);
	return result;
}
