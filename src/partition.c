/*-------------------------------------------------------------------------
 *
 * partition.c
 *		Partitions of evinbox.event, made ahead of need.
 *
 * A partition takes a range of ids. The next one is made when half of the
 * newest is used, by attaching a table, which waits for nobody. Should inserts
 * ever be quicker, the default partition takes them.
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
#include "partition.h"
#include "query.h"
#include "relation.h"

PG_FUNCTION_INFO_V1(evinbox_make_partition);

static void read_bounds(int64 *top, Oid *default_relid);
static int64 highest_in_default(int64 from, int64 to);
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
	int64		top;
	Oid			default_relid;

	LockRelationOid(evi_relation_oid(EVI_EVENT), ShareUpdateExclusiveLock);
	read_bounds(&top, &default_relid);
	LockRelationOid(default_relid, AccessExclusiveLock);
	if (range_is_free(from, to) && highest_in_default(from, to) == 0)
		make_partition(from, to);
}

/* Makes one if it is time. Returns whether it has to be tried again. */
bool
evi_partition_make(void)
{
	int64		size = evi_guc_partition_size();
	int64		last = evi_fetch_last_given();
	int64		from;
	int64		taken;
	Oid			default_relid;
	LOCKMODE	mode;

	read_bounds(&from, &default_relid);
	if (from - last > size / 2)
		return false;

	/*
	 * A statement that runs meanwhile goes by the partitions that there were
	 * at its start, and fails if an id of its turns out to belong to a new
	 * one. So we look for a moment without writers, until time runs short;
	 * then only a statement with very many events is at risk.
	 */
	mode = from - last > size / 4 ? ShareRowExclusiveLock : ShareUpdateExclusiveLock;
	if (!ConditionalLockRelationOid(evi_relation_oid(EVI_EVENT), mode) ||
		!ConditionalLockRelationOid(default_relid, AccessExclusiveLock))
		return true;

	/* leave to the default partition what it has, and what is on its way */
	if (last >= from)
		from = last + size / 2;
	while ((taken = highest_in_default(from, from + size)) > 0)
		from = taken + 1;
	make_partition(from, from + size);
	return false;
}

/* the lowest id that is beyond all ranges */
static void
read_bounds(int64 *top, Oid *default_relid)
{
	int			count;
	EviPartition *partitions = evi_relation_partitions(&count);
	EviPartition *newest = &partitions[0];
	EviPartition *last = &partitions[Max(count, 1) - 1];

	*top = 1;
	if (count > 0 && !newest->is_default)
		*top = newest->last < PG_INT64_MAX ? newest->last + 1 : PG_INT64_MAX;
	*default_relid = count > 0 && last->is_default ? last->relid : InvalidOid;
	pfree(partitions);
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

/* the highest id in a range that the default partition has; 0 if there is none */
static int64
highest_in_default(int64 from, int64 to)
{
	EviPartition partition;
	ScanKeyData keys[2];
	EviScan		scan;
	HeapTuple	tuple;
	bool		isnull;
	int64		result = 0;

	for (int n = 0; evi_relation_partition(n, &partition); n++)
		 /* it is the last one */ ;
	ScanKeyInit(&keys[0], Anum_event_id, BTGreaterEqualStrategyNumber, F_INT8GE,
				Int64GetDatum(from));
	ScanKeyInit(&keys[1], Anum_event_id, BTLessStrategyNumber, F_INT8LT, Int64GetDatum(to));
	evi_scan_begin_index(&scan, partition.relid, partition.index[EVI_EVENT_BY_ID],
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
