/*-------------------------------------------------------------------------
 *
 * retention.c
 *		Partitions whose events have expired, and go.
 *
 * A partition goes as a whole: when its newest event was recorded longer ago
 * than evinbox.retention, all of its ids have been given, and no inbox has any
 * of its events to handle. It goes in two steps. First it is detached, for which
 * all have to be out of evinbox.event for a moment; then, as a table of its own
 * that nobody looks at, it is dropped.
 *
 * Whether an inbox needs it is found out before the lock is taken, since that
 * may take a while. With the lock, nobody is recording, and only what was
 * committed in between is left to look at: a lane's cursor only goes on, and if
 * something has got a range in a backlog meanwhile, or a retry, it can wait.
 * While somebody is adding one and has not committed, we do not even look. A
 * replay that begins at that very moment finds the events gone.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_type.h"
#include "commands/comment.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"

#include "backlog.h"
#include "brief.h"
#include "compat.h"
#include "cursor.h"
#include "evinbox.h"
#include "fetch.h"
#include "guc.h"
#include "incarnation.h"
#include "partition.h"
#include "query.h"
#include "reading.h"
#include "relation.h"
#include "retention.h"

/* by which we know a table that we have detached from one that somebody else has */
#define EXPIRED "expired: evinbox drops it"

/* a partition that may go */
typedef struct Candidate
{
	EviPartition partition;
	Oid			default_relid;
	EviSnapshot *looked;		/* no inbox needed anything that this one sees */
	int64		last_range;		/* and no backlog had any range from then on */
} Candidate;

/* when the next partition expires; DT_NOEND if none does */
static TimestampTz next_expiry = DT_NOEND;

/* is there a table that was detached, and not dropped yet? We do not know what others left. */
static bool has_detached = true;

static bool find_candidate(Candidate *candidate, bool *left);
static bool look(Candidate *candidate);
static bool is_expired(const EviPartition *partition);
static bool newest_recorded_at(const EviPartition *partition, TimestampTz *recorded_at);
static bool is_needed(const EviPartition *partition);
static bool is_needed_now(const Candidate *candidate);
static bool outbox_has(const EviCursor *cursor, const EviSnapshot *lower,
					   const EviPartition *partition, Snapshot snapshot);
static bool has_retry(const EviPartition *partition);
static int64 last_range(void);
static bool detach(void *arg);
static bool is_unchanged(const EviPartition *partition);
static List *detached_tables(void);
static bool is_detached(Oid relid);
static bool drop(void *arg);
static void forget_deliveries(Oid relid);
static int64 end_of(Relation rel, ScanDirection direction);
static char *name_of(Oid relid);

/* Detaches the oldest partition that may go. Returns whether to look again before long. */
bool
evi_retention_detach(void)
{
	Candidate	candidate;
	bool		left = false;

	next_expiry = DT_NOEND;
	if (evi_guc_retention_s() <= 0 || evi_incarnation_look() ||
		!find_candidate(&candidate, &left))
		return left;

	if (evi_brief_try(EVI_BRIEF_DETACH, detach, &candidate))
		has_detached = true;
	return true;
}

/* Drops what was detached. Returns whether to look again before long. */
bool
evi_retention_drop(void)
{
	bool		left = false;
	ListCell   *lc;

	if (!has_detached)
		return false;
	foreach(lc, detached_tables())
	{
		Oid			relid = lfirst_oid(lc);

		if (!evi_brief_try(EVI_BRIEF_DROP, drop, &relid))
			left = true;
	}
	has_detached = left;
	return left;
}

bool
evi_retention_has_detached(void)
{
	return has_detached;
}

/* how long it is until the next partition expires; -1 for ever */
long
evi_retention_wait_ms(void)
{
	if (next_expiry == DT_NOEND)
		return -1;
	return Max(TimestampDifferenceMilliseconds(GetCurrentTimestamp(), next_expiry), 1);
}

/* the oldest one that may go; sets "left" if there is one that will, when an inbox lets it */
static bool
find_candidate(Candidate *candidate, bool *left)
{
	int64		last = evi_fetch_last_given();
	int			count;
	EviPartition *partitions = evi_relation_partitions(&count);

	if (count == 0 || !partitions[count - 1].is_default ||
		!evi_partition_is_ours(partitions[count - 1].relid))
		return false;
	candidate->default_relid = partitions[count - 1].relid;
	for (int i = count - 2; i >= 0; i--)
	{
		candidate->partition = partitions[i];
		if (partitions[i].last >= last || !evi_partition_is_ours(partitions[i].relid) ||
			evi_partition_is_referenced(partitions[i].relid))
			continue;
		if (!is_expired(&partitions[i]))
			break;

		*left = true;
		if (has_retry(&partitions[i]))
			continue;
		if (!look(candidate))
			break;
		if (!is_needed(&partitions[i]))
			return true;

		/* whoever has that to handle yet needs what follows, too, or will be done with it soon */
		break;
	}
	return false;
}

/*
 * Notes when we look; false if somebody is adding ranges to a backlog, of which
 * nobody else can know yet.
 */
static bool
look(Candidate *candidate)
{
	Oid			backlog = evi_relation_oid(EVI_BACKLOG);

	if (!ConditionalLockRelationOid(backlog, ShareLock))
		return false;
	PushActiveSnapshot(GetLatestSnapshot());
	candidate->looked = evi_snapshot_active();
	candidate->last_range = last_range();
	PopActiveSnapshot();
	UnlockRelationOid(backlog, ShareLock);
	return true;
}

/* One without events has nothing to keep. */
static bool
is_expired(const EviPartition *partition)
{
	TimestampTz recorded_at;
	TimestampTz end;

	if (!newest_recorded_at(partition, &recorded_at))
		return true;
	end = recorded_at + evi_guc_retention_s() * USECS_PER_SEC;
	if (end <= GetCurrentTimestamp())
		return true;
	next_expiry = Min(next_expiry, end);
	return false;
}

/* the newest by its id; false if there is none */
static bool
newest_recorded_at(const EviPartition *partition, TimestampTz *recorded_at)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	EviScan		scan;
	HeapTuple	tuple;
	bool		isnull;

	evi_scan_begin_index(&scan, partition->relid, partition->index[EVI_EVENT_BY_ID], snapshot,
						 0, NULL);
	tuple = evi_scan_next(&scan, BackwardScanDirection);
	if (tuple)
		*recorded_at = DatumGetTimestampTz(heap_getattr(tuple, Anum_event_recorded_at,
														RelationGetDescr(scan.table), &isnull));
	evi_scan_end(&scan);
	UnregisterSnapshot(snapshot);
	return tuple != NULL;
}

/* Has any inbox, running or not, events of a partition to handle for the first time? */
static bool
is_needed(const EviPartition *partition)
{
	const EviCursor *former = NULL;
	bool		result = false;
	ListCell   *lc;

	evi_cursor_hold();
	PushActiveSnapshot(GetLatestSnapshot());
	foreach(lc, evi_cursor_all(GetActiveSnapshot()))
	{
		const EviLane *lane = lfirst(lc);
		const EviCursor *cursor = lane->cursor;

		CHECK_FOR_INTERRUPTS();
		result = evi_backlog_touches(lane->inbox_id, lane->lane, cursor, partition->first,
									 partition->last, GetActiveSnapshot());

		/* most lanes stand at the same place */
		if (!result && lane->lane != EVI_REPLAY_LANE &&
			!(former && former->own_xid == 0 && cursor->own_xid == 0 &&
			  evi_snapshot_equal(former->done, cursor->done)))
			result = outbox_has(cursor, cursor->done, partition, GetActiveSnapshot());
		if (result)
			break;
		if (lane->lane != EVI_REPLAY_LANE)
			former = cursor;
	}
	PopActiveSnapshot();
	return result;
}

/*
 * Has that changed since somebody looked? The caller has the partition locked,
 * and so this takes no longer the more there is.
 */
static bool
is_needed_now(const Candidate *candidate)
{
	static const EviCursor nothing = {0};
	bool		result;

	if (has_retry(&candidate->partition) || last_range() != candidate->last_range)
		return true;
	PushActiveSnapshot(GetLatestSnapshot());
	result = outbox_has(&nothing, candidate->looked, &candidate->partition, GetActiveSnapshot());
	PopActiveSnapshot();
	return result;
}

/* Of a window that a lane stands in, also what it has handled. */
static bool
outbox_has(const EviCursor *cursor, const EviSnapshot *lower, const EviPartition *partition,
		   Snapshot snapshot)
{
	EviReading	reading = {
		.lower = lower,
		.upper = evi_snapshot_active(),
		.skip_xid = cursor->own_xid,
		.skip_until = cursor->own_position,
		.after = partition->first - 1,
		.until = partition->last,
		.step = INT_MAX,
		.stop = 1,
	};

	evi_reading_run(&reading, snapshot);
	return reading.count > 0;
}

static bool
has_retry(const EviPartition *partition)
{
	static EviQuery select = {
		.sql = "SELECT FROM evinbox.delivery d WHERE d.event_id OPERATOR(pg_catalog.>=) $1"
		" AND d.event_id OPERATOR(pg_catalog.<=) $2 AND d.state OPERATOR(pg_catalog.=) 'retry' LIMIT 1",
		.expected = SPI_OK_SELECT,
		.nargs = 2,
		.argtypes = {INT8OID, INT8OID},
	};
	Datum		args[] = {Int64GetDatum(partition->first), Int64GetDatum(partition->last)};

	return evi_query_run(&select, args, NULL, 0) > 0;
}

/* the number that the newest range of a backlog was given, committed or not */
static int64
last_range(void)
{
	static EviQuery select = {
		.sql = "SELECT s.last_value FROM evinbox_internal.backlog_seq_seq s",
		.expected = SPI_OK_SELECT,
		.nargs = 0,
	};
	bool		isnull;

	(void) evi_query_run(&select, NULL, NULL, 0);
	return DatumGetInt64(evi_query_value(0, 1, &isnull));
}

static bool
detach(void *arg)
{
	Candidate  *candidate = arg;
	const EviPartition *partition = &candidate->partition;

	if (!evi_brief_lock(evi_relation_oid(EVI_EVENT), candidate->default_relid,
						partition->relid) ||
		!is_unchanged(partition) || evi_incarnation_look() ||
		is_needed_now(candidate))
		return false;
	evi_query_utility(psprintf("ALTER TABLE evinbox.event DETACH PARTITION %s",
							   name_of(partition->relid)));
	evi_query_utility(psprintf("COMMENT ON TABLE %s IS '" EXPIRED "'", name_of(partition->relid)));
	return true;
}

/* as it was when we looked? */
static bool
is_unchanged(const EviPartition *partition)
{
	int			count;
	EviPartition *partitions = evi_relation_partitions(&count);

	for (int i = 0; i < count; i++)
		if (partitions[i].relid == partition->relid)
			return partitions[i].first == partition->first &&
				partitions[i].last == partition->last && !partitions[i].is_default;
	return false;
}

/* the tables of the extension that were partitions until we detached them */
static List *
detached_tables(void)
{
	Relation	rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	List	   *result = NIL;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum(EVI_EXTENSION));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;
		Datum		array = heap_getattr(tuple, Anum_pg_extension_extconfig, RelationGetDescr(rel),
										 &isnull);
		Datum	   *relids;
		int			count = 0;

		if (!isnull)
			deconstruct_array(DatumGetArrayTypeP(array), OIDOID, sizeof(Oid), true, TYPALIGN_INT,
							  &relids, NULL, &count);
		for (int i = 0; i < count; i++)
			if (is_detached(DatumGetObjectId(relids[i])))
				result = lappend_oid(result, DatumGetObjectId(relids[i]));
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}

static bool
is_detached(Oid relid)
{
	char	   *name = get_rel_name(relid);
	const char *rest = name ? name + strlen("event_") : NULL;
	char	   *comment = name ? GetComment(relid, RelationRelationId, 0) : NULL;

	return comment && strcmp(comment, EXPIRED) == 0 && strncmp(name, "event_", strlen("event_")) == 0 && *rest != '\0' &&
		strspn(rest, "0123456789_") == strlen(rest) &&
		get_rel_namespace(relid) == get_namespace_oid(EVI_INTERNAL_SCHEMA, false) &&
		get_rel_relkind(relid) == RELKIND_RELATION && !get_rel_relispartition(relid);
}

/* Nobody needs it any more, but a dump may be reading it. */
static bool
drop(void *arg)
{
	Oid			relid = *(Oid *) arg;

	if (!ConditionalLockRelationOid(relid, AccessExclusiveLock) || !is_detached(relid) ||
		evi_incarnation_look())
		return false;
	forget_deliveries(relid);
	evi_query_utility(psprintf("ALTER EXTENSION " EVI_EXTENSION " DROP TABLE %s", name_of(relid)));
	evi_query_utility(psprintf("DROP TABLE %s", name_of(relid)));
	return true;
}

/* Dead letters go with their events: without them, they could not be tried again. */
static void
forget_deliveries(Oid relid)
{
	static EviQuery delete = {
		.sql = "DELETE FROM evinbox.delivery d WHERE d.event_id OPERATOR(pg_catalog.>=) $1"
		" AND d.event_id OPERATOR(pg_catalog.<=) $2"
		" AND d.state OPERATOR(pg_catalog.=) ANY ('{retry,dead,skipped}')",
		.expected = SPI_OK_DELETE,
		.nargs = 2,
		.argtypes = {INT8OID, INT8OID},
	};
	Relation	rel = table_open(relid, NoLock);
	Datum		args[] = {Int64GetDatum(end_of(rel, ForwardScanDirection)),
	Int64GetDatum(end_of(rel, BackwardScanDirection))};

	table_close(rel, NoLock);
	(void) evi_query_run(&delete, args, NULL, 0);
}

/* its lowest or highest id; 0 if there is none */
static int64
end_of(Relation rel, ScanDirection direction)
{
	EviScan		scan;
	HeapTuple	tuple;
	bool		isnull;
	int64		result = 0;

	evi_scan_begin_index(&scan, RelationGetRelid(rel), RelationGetPrimaryKeyIndex(rel, false),
						 GetActiveSnapshot(), 0, NULL);
	tuple = evi_scan_next(&scan, direction);
	if (tuple)
		result = DatumGetInt64(heap_getattr(tuple, Anum_event_id, RelationGetDescr(rel), &isnull));
	evi_scan_end(&scan);
	return result;
}

static char *
name_of(Oid relid)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)),
									  get_rel_name(relid));
}
