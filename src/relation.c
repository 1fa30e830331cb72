/*-------------------------------------------------------------------------
 *
 * relation.c
 *		The extension's own tables, by number, and direct access to them.
 *
 * Access is direct, by index scans and heap inserts, for three reasons: no
 * plan can go wrong on a table that was tiny when it was made; the tables
 * need no grants, and no code of a user can run on the way; and it is quick.
 *
 * Their OIDs are looked up once a session, and again after an invalidation
 * of any of them.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/partition.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_inherits.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "partitioning/partbounds.h"
#include "partitioning/partdesc.h"
#include "storage/bufmgr.h"
#include "storage/proc.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/relcache.h"
#include "utils/syscache.h"

#include "compat.h"
#include "evinbox.h"
#include "relation.h"

typedef struct TableName
{
	const char *schema;
	const char *table;
	int			natts;			/* so many columns are known here; 0 for a sequence */
	const char *index;			/* the one that evi_scan_begin() uses */
} TableName;

static const TableName names[EVI_TABLES] = {
	[EVI_EVENT] = {EVI_SCHEMA, "event", Natts_event, NULL},
	[EVI_EVENT_SEQ] = {EVI_SCHEMA, "event_id_seq", 0, NULL},
	[EVI_ACTION] = {EVI_SCHEMA, "action", Natts_action, "action_pkey"},
	[EVI_INBOX] = {EVI_SCHEMA, "inbox", Natts_inbox, "inbox_pkey"},
	[EVI_INBOX_SEQ] = {EVI_SCHEMA, "inbox_id_seq", 0, NULL},
	[EVI_OUTBOX] = {EVI_INTERNAL_SCHEMA, "outbox_0", Natts_outbox, "outbox_0_idx"},
	[EVI_OUTBOX + 1] = {EVI_INTERNAL_SCHEMA, "outbox_1", Natts_outbox, "outbox_1_idx"},
	[EVI_OUTBOX + 2] = {EVI_INTERNAL_SCHEMA, "outbox_2", Natts_outbox, "outbox_2_idx"},
	[EVI_OUTBOX + 3] = {EVI_INTERNAL_SCHEMA, "outbox_3", Natts_outbox, "outbox_3_idx"},
	[EVI_CURSOR] = {EVI_INTERNAL_SCHEMA, "cursor_0", Natts_cursor, "cursor_0_idx"},
	[EVI_CURSOR + 1] = {EVI_INTERNAL_SCHEMA, "cursor_1", Natts_cursor, "cursor_1_idx"},
	[EVI_CURSOR_SEQ] = {EVI_INTERNAL_SCHEMA, "cursor_seq", 0, NULL},
	[EVI_BACKLOG] = {EVI_INTERNAL_SCHEMA, "backlog", Natts_backlog, "backlog_idx"},
	[EVI_BACKLOG_SEQ] = {EVI_INTERNAL_SCHEMA, "backlog_seq_seq", 0, NULL},
	[EVI_DELIVERY] = {EVI_SCHEMA, "delivery", Natts_delivery, NULL},
	[EVI_ATTEMPT] = {EVI_INTERNAL_SCHEMA, "attempt", Natts_attempt, NULL},
	[EVI_HALT] = {EVI_INTERNAL_SCHEMA, "halt", Natts_halt, "halt_pkey"},
	[EVI_INCARNATION] = {EVI_INTERNAL_SCHEMA, "incarnation", Natts_incarnation, NULL},
	[EVI_WAITING] = {EVI_INTERNAL_SCHEMA, "waiting", Natts_waiting, NULL},
	[EVI_ENDPOINT] = {EVI_SCHEMA, "endpoint", Natts_endpoint, "endpoint_pkey"},
	[EVI_ENDPOINT_SEQ] = {EVI_SCHEMA, "endpoint_id_seq", 0, NULL},
	[EVI_REQUEST] = {EVI_INTERNAL_SCHEMA, "request", 0, NULL},
};

static const char *const event_indexes[EVI_EVENT_INDEXES] = {
	[EVI_EVENT_BY_ID] = "event_pkey",
	[EVI_EVENT_BY_SUBJECT] = "event_subject_action_idx",
	[EVI_EVENT_BY_ACTOR] = "event_actor_subject_action_idx",
	[EVI_EVENT_FEED_OF_SUBJECT] = "event_subject_feed_idx",
	[EVI_EVENT_FEED_OF_ACTOR] = "event_actor_feed_idx",
	[EVI_EVENT_FEED_OF_SCOPE] = "event_scope_feed_idx",
};

/* callbacks set is_stale at any time, also while this is being loaded */
static struct
{
	bool		is_loaded;
	bool		is_stale;
	bool		callback_registered;
	uint64		changes;		/* so often we heard of evinbox.event */
	MemoryContext context;
	Oid			table[EVI_TABLES];
	Oid			index[EVI_TABLES];
	int			npartitions;	/* default partition last */
	EviPartition *partition;
}			cache;

static bool has_given(EviTable sequence, int64 value);
static void begin_scan(EviScan *scan, Oid index, Snapshot snapshot, int nkeys, ScanKey keys);
static bool insert_with_index(Relation rel, EviTable table, HeapTuple tuple,
							  const Datum *values, const bool *isnull);
static bool load_cache(bool missing_ok);
static bool load_tables(void);
static int	columns_of(Oid relid);
static bool load_partitions(void);
static PartitionDesc current_partitions(Relation event);
static bool is_current(Relation event, PartitionDesc desc);
static void read_ranges(PartitionBoundInfo bounds, EviPartition *partition, int newest);
static void load_partition(EviPartition *partition, const Oid *parent_indexes, TupleDesc columns);
static void check_columns(Relation partition, TupleDesc columns);
static void forget_cache(Datum arg, Oid relid);

bool
evi_relation_installed(void)
{
	return load_cache(true);
}

/* Grows when stored events may have changed, by an erasure: what was read before may be outdated. */
uint64
evi_relation_changes(void)
{
	return cache.changes;
}

Oid
evi_relation_oid(EviTable table)
{
	load_cache(false);
	return cache.table[table];
}

/*
 * Opens one as if by its name: one that was dropped while we waited for the
 * lock may have been created anew.
 */
Relation
evi_relation_open(EviTable table, LOCKMODE mode)
{
	Relation	rel;

	while (!(rel = try_table_open(evi_relation_oid(table), mode)))
		CHECK_FOR_INTERRUPTS();
	return rel;
}

/* Refuses an id that somebody has chosen: what is left of a former row, and locks, go by it. */
void
evi_relation_check_id(EviTable sequence, int64 id, const char *of_what)
{
	if (!superuser() && !has_given(sequence, id))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("only superusers may choose the id of %s", of_what),
				 errhint("Leave it out.")));
}

/* Is it the value that a sequence has just given this session? */
static bool
has_given(EviTable sequence, int64 value)
{
	MemoryContext context = CurrentMemoryContext;
	Oid			userid;
	int			sec_context;
	bool		result;

	/* whoever may insert need not be able to use the sequence */
	GetUserIdAndSecContext(&userid, &sec_context);
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, sec_context | SECURITY_LOCAL_USERID_CHANGE);
	PG_TRY();
	{
		result = value == DatumGetInt64(DirectFunctionCall1(currval_oid,
															ObjectIdGetDatum(evi_relation_oid(sequence))));
	}
	PG_CATCH();
	{
		/* it has given this session none; what is to be cleaned up is so by the caller's error */
		if (geterrcode() != ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE)
			PG_RE_THROW();
		MemoryContextSwitchTo(context);
		FlushErrorState();
		result = false;
	}
	PG_END_TRY();
	SetUserIdAndSecContext(userid, sec_context);
	return result;
}

/* The n-th partition, newest ids first and the default one last; false behind it. */
bool
evi_relation_partition(int n, EviPartition *partition)
{
	load_cache(false);
	if (n >= cache.npartitions)
		return false;
	*partition = cache.partition[n];
	return true;
}

/* Keeps in mind what was found out about a partition, as long as it is as it is. */
void
evi_relation_note_opened(Oid partition, TimestampTz opened_at)
{
	for (int n = 0; n < cache.npartitions; n++)
		if (cache.partition[n].relid == partition)
			cache.partition[n].opened_at = opened_at;
}

/* all of them, in that order, as they were at one moment */
EviPartition *
evi_relation_partitions(int *count)
{
	EviPartition *result;

	load_cache(false);
	*count = cache.npartitions;
	result = palloc(sizeof(EviPartition) * Max(*count, 1));
	memcpy(result, cache.partition, sizeof(EviPartition) * *count);
	return result;
}

/*
 * The partition that holds an event, if there is one of that id. The caller has
 * the partitioned table locked.
 */
void
evi_relation_partition_of(int64 event_id, EviPartition *partition)
{
	load_cache(false);
	for (int n = 0; n < cache.npartitions; n++)
	{
		*partition = cache.partition[n];
		if (partition->is_default ||
			(event_id >= partition->first && event_id <= partition->last))
			return;
	}
	elog(ERROR, "no partition for event " INT64_FORMAT, event_id);
}

/* starts a scan in the order of the table's own index */
void
evi_scan_begin(EviScan *scan, EviTable table, Snapshot snapshot, int nkeys, ScanKey keys)
{
	scan->table = evi_relation_open(table, AccessShareLock);
	begin_scan(scan, cache.index[table], snapshot, nkeys, keys);
}

/*
 * The keys name columns of the table, not of the index. Text is compared
 * bytewise, as the columns are declared.
 */
void
evi_scan_begin_index(EviScan *scan, Oid table, Oid index, Snapshot snapshot,
					 int nkeys, ScanKey keys)
{
	scan->table = table_open(table, AccessShareLock);
	begin_scan(scan, index, snapshot, nkeys, keys);
}

static void
begin_scan(EviScan *scan, Oid index, Snapshot snapshot, int nkeys, ScanKey keys)
{
	scan->index = index_open(index, AccessShareLock);
	scan->scan = systable_beginscan_ordered(scan->table, scan->index, snapshot,
											nkeys, keys);
}

/* the tuple is good until the next call */
HeapTuple
evi_scan_next(EviScan *scan, ScanDirection direction)
{
	return systable_getnext_ordered(scan->scan, direction);
}

void
evi_scan_end(EviScan *scan)
{
	systable_endscan_ordered(scan->scan);
	index_close(scan->index, AccessShareLock);
	table_close(scan->table, AccessShareLock);
}

/* The keys name columns of the index. */
void
evi_entries_begin(EviEntries *entries, EviTable table, Snapshot snapshot, int nkeys, ScanKey keys)
{
	entries->table = evi_relation_open(table, AccessShareLock);
	entries->index = index_open(cache.index[table], AccessShareLock);
	entries->row = NULL;
	entries->scan = evi_index_beginscan(entries->table, entries->index, snapshot, nkeys);
	entries->scan->xs_want_itup = true;
	index_rescan(entries->scan, keys, nkeys, NULL, 0);
}

/* the next one, whether its row is visible or not; NULL at the end */
IndexTuple
evi_entries_next(EviEntries *entries)
{
	return index_getnext_tid(entries->scan, ForwardScanDirection) ? entries->scan->xs_itup : NULL;
}

/* the row of that entry; NULL if the snapshot does not show it */
TupleTableSlot *
evi_entries_row(EviEntries *entries)
{
	if (!entries->row)
		entries->row = table_slot_create(entries->table, NULL);
	return index_fetch_heap(entries->scan, entries->row) ? entries->row : NULL;
}

void
evi_entries_end(EviEntries *entries)
{
	index_endscan(entries->scan);
	if (entries->row)
		ExecDropSingleTupleTableSlot(entries->row);
	index_close(entries->index, AccessShareLock);
	table_close(entries->table, AccessShareLock);
}

/* The values are those of the columns that are known here; an upgrade may have added others. */
void
evi_relation_insert(EviTable table, const Datum *values, const bool *isnull)
{
	Relation	rel = evi_relation_open(table, RowExclusiveLock);
	int			natts = RelationGetNumberOfAttributes(rel);
	HeapTuple	tuple;

	if (natts == names[table].natts)
		tuple = heap_form_tuple(RelationGetDescr(rel), (Datum *) values, (bool *) isnull);
	else
	{
		Datum	   *all = palloc0(sizeof(Datum) * natts);
		bool	   *all_isnull = palloc(sizeof(bool) * natts);

		memset(all_isnull, true, sizeof(bool) * natts);
		memcpy(all, values, sizeof(Datum) * names[table].natts);
		memcpy(all_isnull, isnull, sizeof(bool) * names[table].natts);
		tuple = heap_form_tuple(RelationGetDescr(rel), all, all_isnull);
	}
	if (!insert_with_index(rel, table, tuple, values, isnull))
		CatalogTupleInsert(rel, tuple);
	heap_freetuple(tuple);

	/* the lock stays until the transaction's end: see outbox.c's truncation */
	table_close(rel, NoLock);
}

/*
 * What CatalogTupleInsert() does, if there is no index but our own, of plain
 * columns. Otherwise false.
 */
static bool
insert_with_index(Relation rel, EviTable table, HeapTuple tuple,
				  const Datum *values, const bool *isnull)
{
	static EviSeries inserted[EVI_TABLES];
	List	   *list = RelationGetIndexList(rel);
	bool		is_plain = list_length(list) == 1 && linitial_oid(list) == cache.index[table];
	Relation	index;
	Datum		keys[INDEX_MAX_KEYS];
	bool		keys_isnull[INDEX_MAX_KEYS];
	IndexInfo	info = {.type = T_IndexInfo};

	list_free(list);
	if (!is_plain)
		return false;
	simple_heap_insert(rel, tuple);
	index = index_open(cache.index[table], RowExclusiveLock);
	for (int i = 0; i < index->rd_index->indnatts; i++)
	{
		int			column = index->rd_index->indkey.values[i] - 1;

		keys[i] = values[column];
		keys_isnull[i] = isnull[column];
	}
	(void) index_insert(index, keys, keys_isnull, &tuple->t_self, rel,
						index->rd_index->indisunique ? UNIQUE_CHECK_YES : UNIQUE_CHECK_NO,
						false, &info);
	index_close(index, evi_relation_lock_left(&inserted[table]));
	return true;
}

/*
 * Which lock is to be given back when an index is closed? From a transaction's
 * second insertion on, none: it probably inserts more, and gets for nothing what
 * it has already.
 */
LOCKMODE
evi_relation_lock_left(EviSeries *series)
{
	if (series->lxid == EVI_MY_LXID)
		return NoLock;
	series->lxid = EVI_MY_LXID;
	return RowExclusiveLock;
}

/* how many rows a table has, by reading all of them */
int
evi_relation_count(EviTable table, Snapshot snapshot)
{
	Relation	rel = evi_relation_open(table, AccessShareLock);
	TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL);
	int			result = 0;

	while (heap_getnext(scan, ForwardScanDirection) != NULL)
		result++;
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}

/* Has it no rows at all, not even dead ones? */
bool
evi_relation_is_empty(EviTable table)
{
	Relation	rel = evi_relation_open(table, AccessShareLock);
	bool		result = RelationGetNumberOfBlocks(rel) == 0;

	table_close(rel, AccessShareLock);
	return result;
}

/* the columns that are known here */
void
evi_relation_deform(EviTable table, HeapTuple tuple, TupleDesc desc, Datum *values, bool *isnull)
{
	for (int i = 0; i < names[table].natts; i++)
		values[i] = heap_getattr(tuple, i + 1, desc, &isnull[i]);
}

/*
 * What becomes stale while it is loaded serves this once, and is loaded again
 * at the next use: a look-up that never finds a quiet moment would not end.
 */
static bool
load_cache(bool missing_ok)
{
	if (cache.is_loaded && !cache.is_stale)
		return true;
	if (!cache.callback_registered)
	{
		CacheRegisterRelcacheCallback(forget_cache, (Datum) 0);
		cache.callback_registered = true;
		cache.context = AllocSetContextCreate(TopMemoryContext, "evinbox relations",
											  ALLOCSET_SMALL_SIZES);
	}

	cache.is_loaded = cache.is_stale = false;
	while (!cache.is_loaded && load_tables())
		cache.is_loaded = load_partitions();
	if (cache.is_loaded)
		return true;
	if (!missing_ok && OidIsValid(get_extension_oid(EVI_EXTENSION, true)))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("extension \"%s\" in this database does not fit its library", EVI_EXTENSION),
				 errhint("Use ALTER EXTENSION %s UPDATE.", EVI_EXTENSION)));
	if (!missing_ok)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("extension \"%s\" is not installed in this database", EVI_EXTENSION),
				 errhint("Use CREATE EXTENSION %s.", EVI_EXTENSION)));
	return false;
}

static bool
load_tables(void)
{
	for (int i = 0; i < EVI_TABLES; i++)
	{
		Oid			schema = get_namespace_oid(names[i].schema, true);

		cache.table[i] = OidIsValid(schema) ? get_relname_relid(names[i].table, schema) : InvalidOid;
		cache.index[i] = InvalidOid;
		if (!OidIsValid(cache.table[i]) || columns_of(cache.table[i]) < names[i].natts)
			return false;
		if (names[i].index)
			cache.index[i] = get_relname_relid(names[i].index, schema);
		if (names[i].index && !OidIsValid(cache.index[i]))
			return false;
	}
	return true;
}

static int
columns_of(Oid relid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(relid));
	int			result = 0;

	if (!HeapTupleIsValid(tuple))
		return 0;
	result = ((Form_pg_class) GETSTRUCT(tuple))->relnatts;
	ReleaseSysCache(tuple);
	return result;
}

/*
 * The partitioned table is not kept locked meanwhile: dropping a foreign key to
 * it locks the partitions first. Returns false if it has just gone.
 */
static bool
load_partitions(void)
{
	Relation	event = try_table_open(cache.table[EVI_EVENT], AccessShareLock);
	PartitionDesc desc;
	TupleDesc	columns;
	Oid			schema;
	Oid			indexes[EVI_EVENT_INDEXES];
	int			nparts;
	bool		has_default;
	int			newest;
	EviPartition *partition;

	if (!event)
		return false;
	desc = current_partitions(event);
	columns = CreateTupleDescCopy(RelationGetDescr(event));
	schema = RelationGetNamespace(event);
	nparts = desc->nparts;
	has_default = nparts > 0 && desc->boundinfo->default_index == nparts - 1;
	newest = has_default ? nparts - 2 : nparts - 1;
	cache.npartitions = 0;
	MemoryContextReset(cache.context);
	partition = MemoryContextAllocZero(cache.context, sizeof(EviPartition) * Max(nparts, 1));

	/* a range-partitioned table's are in the order of bounds, default last */
	for (int i = 0; i < nparts; i++)
	{
		partition[i].is_default = i > newest;
		partition[i].relid = desc->oids[i > newest ? i : newest - i];
	}
	if (nparts > 0)
		read_ranges(desc->boundinfo, partition, newest);
	table_close(event, AccessShareLock);

	for (int k = 0; k < EVI_EVENT_INDEXES; k++)
		indexes[k] = get_relname_relid(event_indexes[k], schema);
	for (int i = 0; i < nparts; i++)
		load_partition(&partition[i], indexes, columns);
	cache.partition = partition;
	cache.npartitions = nparts;
	return true;
}

/*
 * What the server keeps of the partitions can be out of date, and stay so: if
 * one was attached while the list was being made, the message about it may
 * have been taken in before there was anything to throw away. Events of that
 * partition would then be looked for, and stored, in the default one. So the
 * list is compared with the catalog; of what is attached after that we hear,
 * and come here again.
 */
static PartitionDesc
current_partitions(Relation event)
{
	PartitionDesc desc = RelationGetPartitionDesc(event, true);

	if (!is_current(event, desc))
	{
		RelationCacheInvalidateEntry(RelationGetRelid(event));
		desc = RelationGetPartitionDesc(event, true);
	}
	return desc;
}

static bool
is_current(Relation event, PartitionDesc desc)
{
	List	   *children = find_inheritance_children(RelationGetRelid(event), NoLock);
	bool		result = list_length(children) == desc->nparts;
	Oid		   *oids = palloc(sizeof(Oid) * Max(desc->nparts, 1));

	memcpy(oids, desc->oids, sizeof(Oid) * desc->nparts);
	qsort(oids, desc->nparts, sizeof(Oid), oid_cmp);

	/* these are sorted as well */
	for (int i = 0; i < desc->nparts && result; i++)
		result = list_nth_oid(children, i) == oids[i];
	pfree(oids);
	list_free(children);
	return result;
}

/* the ids that each takes; what is in no range is for the default one */
static void
read_ranges(PartitionBoundInfo bounds, EviPartition *partition, int newest)
{
	for (int i = 0; i <= bounds->ndatums; i++)
	{
		EviPartition *one;

		if (bounds->indexes[i] < 0)
			continue;
		one = &partition[newest - bounds->indexes[i]];
		one->first = PG_INT64_MIN;
		one->last = PG_INT64_MAX;
		if (bounds->kind[i - 1][0] == PARTITION_RANGE_DATUM_VALUE)
			one->first = DatumGetInt64(bounds->datums[i - 1][0]);
		if (bounds->kind[i][0] == PARTITION_RANGE_DATUM_VALUE)
			one->last = DatumGetInt64(bounds->datums[i][0]) - 1;
	}
}

/* It has no indexes if it has just gone: then the cache is stale already. */
static void
load_partition(EviPartition *partition, const Oid *parent_indexes, TupleDesc columns)
{
	Relation	rel = try_table_open(partition->relid, AccessShareLock);

	if (!rel)
		return;
	check_columns(rel, columns);
	for (int k = 0; k < EVI_EVENT_INDEXES; k++)
		partition->index[k] = index_get_partition(rel, parent_indexes[k]);
	table_close(rel, AccessShareLock);
}

/* Columns are found by their numbers, which the server asks of no partition. */
static void
check_columns(Relation partition, TupleDesc columns)
{
	TupleDesc	desc = RelationGetDescr(partition);

	for (int i = 0; i < Natts_event; i++)
	{
		if (i < desc->natts && strcmp(NameStr(TupleDescAttr(desc, i)->attname),
									  NameStr(TupleDescAttr(columns, i)->attname)) == 0)
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("partition \"%s\" has its columns in another order than evinbox.event",
						RelationGetRelationName(partition)),
				 errhint("Detach it, and attach a table that was created LIKE evinbox.event.")));
	}
}

/* a relcache callback: no look-ups in here */
static void
forget_cache(Datum arg, Oid relid)
{
	bool		ours = !OidIsValid(relid);

	for (int i = 0; i < EVI_TABLES && !ours; i++)
		ours = cache.table[i] == relid;
	for (int i = 0; i < cache.npartitions && !ours; i++)
		ours = cache.partition[i].relid == relid;
	if (!ours)
		return;
	cache.is_stale = true;
	if (!OidIsValid(relid) || relid == cache.table[EVI_EVENT])
		cache.changes++;
}
