/*-------------------------------------------------------------------------
 *
 * partition.c
 *		Partitions of evinbox.event, made ahead of need.
 *
 * A partition takes a range of ids. The next one is made when half of the
 * newest is used, by attaching a table, which waits for nobody. Should inserts
 * ever be quicker, the default partition takes them. Where events come by
 * logical replication, and others are recorded as well, there may be several
 * places at which ids grow.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "commands/extension.h"
#include "fmgr.h"
#include "storage/lmgr.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "evinbox.h"
#include "fetch.h"
#include "guc.h"
#include "incarnation.h"
#include "partition.h"
#include "query.h"
#include "relation.h"
#include "wakeup.h"

PG_FUNCTION_INFO_V1(evinbox_make_partition);

static bool make_behind(int64 id);
static bool place_behind(int64 id, int64 size, int64 *from, int64 *to, Oid *default_relid);
static int64 highest_in_block(const EviPartition *partitions, int count, int i);
static EviPartition default_partition(void);
static int64 highest_in_default(int64 from, int64 to);
static int64 highest_in(const EviPartition *partition, int64 from, int64 to);
static bool range_is_free(int64 from, int64 to);
static void make_partition(int64 from, int64 to);
static void make_table(const char *name, int64 from, int64 to);

/* called by the installation script, for the first one */
Datum
evinbox_make_partition(PG_FUNCTION_ARGS)
{
	evi_query_open();
	make_partition(1, evi_guc_partition_size() + INT64CONST(1));
	evi_query_close();
	PG_RETURN_VOID();
}

/* Makes one that begins with an id, as it was in the original of a dump, if nothing is there. */
void
evi_partition_make_at(int64 from)
{
	int64		to = from + evi_guc_partition_size();

	LockRelationOid(evi_relation_oid(EVI_EVENT), ShareUpdateExclusiveLock);
	LockRelationOid(default_partition().relid, AccessExclusiveLock);
	if (range_is_free(from, to) && highest_in_default(from, to) == 0)
		make_partition(from, to);
}

/*
 * An event has come by logical replication: its publisher chose the id, and
 * our sequence tells nothing. Has the coordinator look now and then.
 */
void
evi_partition_note(int64 id)
{
	static int64 noted = PG_INT64_MAX;

	if (id >= noted && id - noted < Min(EVI_PARTITION_LOOK, evi_guc_partition_size() / 8))
		return;
	noted = id;
	evi_wakeup_coordinator();
}

/*
 * Makes those for which it is time: behind the ids that are given here, and
 * behind those that others give. Returns whether it has to be tried again.
 */
bool
evi_partition_make(void)
{
	int			count;
	EviPartition *partitions = evi_relation_partitions(&count);
	int64		given = evi_fetch_last_given();
	bool		left = given > 0 && make_behind(given);

	/* what is being restored makes the partitions that its original had */
	for (int i = 0; i < count && !evi_incarnation_is_quiet(); i++)
	{
		int64		highest;

		/* only where ranges that follow each other end */
		if (i > 0 && !partitions[i].is_default && partitions[i - 1].first == partitions[i].last + 1)
			continue;
		highest = highest_in_block(partitions, count, i);
		if (highest > 0)
			left |= make_behind(highest);
	}
	pfree(partitions);
	return left;
}

/* Makes one for the ids that will follow this one, if it is time. */
static bool
make_behind(int64 id)
{
	int64		size = evi_guc_partition_size();
	int64		from;
	int64		to;
	Oid			default_relid;
	LOCKMODE	mode;

	if (!place_behind(id, size, &from, &to, &default_relid))
		return false;

	/*
	 * A statement that runs meanwhile goes by the partitions that there were
	 * at its start, and fails if an id of its turns out to belong to a new
	 * one. So we look for a moment without writers, until time runs short;
	 * then only a statement with very many events is at risk.
	 */
	mode = from - id > size / 4 ? ShareRowExclusiveLock : ShareUpdateExclusiveLock;
	if (!ConditionalLockRelationOid(evi_relation_oid(EVI_EVENT), mode) ||
		!ConditionalLockRelationOid(default_relid, AccessExclusiveLock))
		return true;

	/* now that nobody changes what it depends on */
	if (place_behind(id, size, &from, &to, &default_relid))
		make_partition(from, to);
	return false;
}

/*
 * Where is the next partition behind an id to begin and to end? False if it is
 * too early for it. The default one keeps what it has, and what is on its way.
 */
static bool
place_behind(int64 id, int64 size, int64 *from, int64 *to, Oid *default_relid)
{
	int			count;
	EviPartition *partitions = evi_relation_partitions(&count);
	int64		end = 0;
	int64		start;
	int64		taken;
	bool		result = true;

	/* lowest first: the end of the ranges that the id is in */
	for (int i = count - 2; i >= 0; i--)
		if (end > 0 ? partitions[i].first == end :
			id >= partitions[i].first && id <= partitions[i].last)
			end = partitions[i].last < PG_INT64_MAX ? partitions[i].last + 1 : PG_INT64_MAX;

	start = end;
	taken = end > 0 ? highest_in_default(start, start + size) : id;
	if (end == 0)
		end = id + 1;
	if (taken > 0)
	{
		do
			start = taken + 1;
		while ((taken = highest_in_default(start, start + size / 2 + size)) > 0);
		start += size / 2;
	}
	else
		result = start - id <= size / 2;

	*from = start;
	*to = start + size;
	for (int i = 0; i < count - 1; i++)
	{
		/* what begins in between is near enough */
		if (partitions[i].first >= end && partitions[i].first <= start)
			result = false;
		if (partitions[i].first > start)
			*to = Min(*to, partitions[i].first);
	}
	*default_relid = partitions[count - 1].relid;
	pfree(partitions);
	return result;
}

/* the highest id in a partition, or in those that come right before it; 0 if there is none */
static int64
highest_in_block(const EviPartition *partitions, int count, int i)
{
	int64		result = highest_in(&partitions[i], 1, PG_INT64_MAX);

	while (result == 0 && i + 1 < count && !partitions[i + 1].is_default &&
		   partitions[i + 1].last + 1 == partitions[i].first)
		result = highest_in(&partitions[++i], 1, PG_INT64_MAX);
	return result;
}

/* Does no partition have a part of it, but for the default one? */
static bool
range_is_free(int64 from, int64 to)
{
	int			count;
	EviPartition *partitions = evi_relation_partitions(&count);
	bool		result = true;

	for (int i = 0; i < count && result; i++)
		result = partitions[i].is_default ||
			partitions[i].first >= to || partitions[i].last < from;
	pfree(partitions);
	return result;
}

static EviPartition
default_partition(void)
{
	EviPartition partition;

	for (int n = 0; evi_relation_partition(n, &partition); n++)
		 /* it is the last one */ ;
	return partition;
}

/* up to, but not with the last of these ids */
static int64
highest_in_default(int64 from, int64 to)
{
	EviPartition partition = default_partition();

	return highest_in(&partition, from, to);
}

/* the highest id in a range that a partition has, whether anybody sees it; 0 if there is none */
static int64
highest_in(const EviPartition *partition, int64 from, int64 to)
{
	ScanKeyData keys[2];
	EviScan		scan;
	HeapTuple	tuple;
	bool		isnull;
	int64		result = 0;

	ScanKeyInit(&keys[0], Anum_event_id, BTGreaterEqualStrategyNumber, F_INT8GE,
				Int64GetDatum(from));
	ScanKeyInit(&keys[1], Anum_event_id, BTLessStrategyNumber, F_INT8LT, Int64GetDatum(to));
	evi_scan_begin_index(&scan, partition->relid, partition->index[EVI_EVENT_BY_ID],
						 SnapshotAny, 2, keys);
	tuple = evi_scan_next(&scan, BackwardScanDirection);
	if (tuple)
		result = DatumGetInt64(heap_getattr(tuple, Anum_event_id, RelationGetDescr(scan.table),
											&isnull));
	evi_scan_end(&scan);
	return result;
}

/* It belongs to the extension, and its rows to a dump. */
static void
make_partition(int64 from, int64 to)
{
	char	   *name = psprintf("evinbox_internal.event_" INT64_FORMAT, from);
	bool		was_creating = creating_extension;
	Oid			former = CurrentExtensionObject;

	creating_extension = true;
	CurrentExtensionObject = get_extension_oid(EVI_EXTENSION, false);
	PG_TRY();
	{
		make_table(name, from, to);
	}
	PG_FINALLY();
	{
		creating_extension = was_creating;
		CurrentExtensionObject = former;
	}
	PG_END_TRY();
}

static void
make_table(const char *name, int64 from, int64 to)
{
	evi_query_utility(psprintf("CREATE TABLE %s (LIKE evinbox.event"
							   " INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES"
							   " INCLUDING STORAGE)", name));
	evi_query_utility(psprintf("ALTER TABLE evinbox.event ATTACH PARTITION %s"
							   " FOR VALUES FROM (" INT64_FORMAT ") TO (" INT64_FORMAT ")",
							   name, from, to));
	evi_query_utility(psprintf("CREATE TRIGGER event_refuse_truncate BEFORE TRUNCATE ON %s"
							   " FOR EACH STATEMENT"
							   " EXECUTE FUNCTION evinbox_internal.event_refuse_change()", name));
	evi_query_utility(psprintf("ALTER TABLE %s ENABLE ALWAYS TRIGGER event_refuse_truncate", name));
	evi_query_select(psprintf("SELECT pg_catalog.pg_extension_config_dump('%s', '')", name));
}
