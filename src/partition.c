/*-------------------------------------------------------------------------
 *
 * partition.c
 *		Partitions of evinbox.event, made ahead of need.
 *
 * A partition takes a range of ids. There is a whole one to spare: the next is
 * made when the newest begins to be used, by attaching a table, which waits for
 * nobody. Should inserts ever be quicker, the default partition takes them.
 *
 * Then that becomes the next partition itself, as it is, and an empty table the
 * default one. So no event is moved, whoever looks sees each of them once, and it
 * takes no longer the more there are. All have to be out of evinbox.event for
 * that; until it comes to it, the default partition goes on taking what comes.
 *
 * Ids that nobody was given, of which superusers have made use, stay there.
 *
 * Where events come by logical replication, and others are recorded as well,
 * there may be several places at which ids grow.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/heap.h"
#include "catalog/pg_trigger.h"
#include "commands/extension.h"
#include "commands/trigger.h"
#include "fmgr.h"
#include "nodes/makefuncs.h"
#include "parser/parser.h"
#include "storage/lmgr.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "brief.h"
#include "compat.h"
#include "evinbox.h"
#include "fetch.h"
#include "guc.h"
#include "incarnation.h"
#include "partition.h"
#include "query.h"
#include "relation.h"
#include "wakeup.h"

#define DEFAULT_NAME EVI_INTERNAL_SCHEMA ".event_default"
#define NEXT_DEFAULT_NAME EVI_INTERNAL_SCHEMA ".event_default_next"
#define RANGE_CONSTRAINT "event_range"

PG_FUNCTION_INFO_V1(evinbox_make_partition);

/* what is to be made */
typedef struct Making
{
	const char *name;
	Oid			default_relid;
	int64		from;
	int64		to;
} Making;

static bool make_behind(int64 id);
static bool make(void *arg);
static bool place_behind(int64 id, int64 size, int64 *from, int64 *to, Oid *default_relid);
static int64 highest_in_block(const EviPartition *partitions, int count, int i);
static EviPartition default_partition(void);
static int64 lowest_in_default(void);
static int64 highest_in_default(int64 from, int64 to);
static int64 highest_in(const EviPartition *partition, int64 from, int64 to);
static int64 end_of(const EviPartition *partition, int64 from, int64 to, ScanDirection direction);
static bool range_is_free(int64 from, int64 to);
static bool default_makes_range(Making *making);
static bool turn_default(void *arg);
static void in_extension(void (*work) (const Making *making), const Making *making);
static void make_partition(const char *name, int64 from, int64 to);
static void make_and_attach(const Making *making);
static void make_next_default(const Making *making);
static void put_next_default(const Making *making);
static void make_table(const char *name);
static void finish_table(const char *name);
static void attach(const char *name, const Making *making);
static void add_range_constraint(const Making *making);

/* called by the installation script, for the first one */
Datum
evinbox_make_partition(PG_FUNCTION_ARGS)
{
	evi_query_open();
	make_partition("event_1", 1, evi_guc_partition_size() + INT64CONST(1));
	evi_query_close();
	PG_RETURN_VOID();
}

/*
 * Makes one with the name that it had in the original of a dump, if nothing is
 * there: "event_", its first id, and if it was of a size of its own, the end.
 */
void
evi_partition_make_at(const char *name)
{
	char	   *rest;
	int64		from = strtoll(name + strlen("event_"), &rest, 10);
	int64		to = *rest == '_' ? strtoll(rest + 1, NULL, 10) : from + evi_guc_partition_size();

	LockRelationOid(evi_relation_oid(EVI_EVENT), ShareUpdateExclusiveLock);
	LockRelationOid(default_partition().relid, AccessExclusiveLock);
	if (from < to && range_is_free(from, to) && highest_in_default(from, to) == 0)
		make_partition(name, from, to);
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
	EviPartition *partitions;
	int64		given = evi_fetch_last_given();
	Making		making;
	bool		left;

	if (default_makes_range(&making))
		return !evi_brief_try(EVI_BRIEF_TURN_DEFAULT, turn_default, &making);
	partitions = evi_relation_partitions(&count);
	left = given > 0 && make_behind(given);

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
	Oid			event;
	Making		making;

	if (!place_behind(id, size, &from, &to, &default_relid))
		return false;

	/*
	 * A statement that runs meanwhile would go by the partitions that there
	 * were at its start, and fail if an id of its turned out to belong to a
	 * new one. So we look for a moment without writers, and make one if time
	 * runs short.
	 */
	event = evi_relation_oid(EVI_EVENT);
	if ((!ConditionalLockRelationOid(event, ShareRowExclusiveLock) ||
		 !ConditionalLockRelationOid(default_relid, AccessExclusiveLock)) &&
		(from - id > size / 4 || !evi_brief_lock(event, default_relid, InvalidOid)))
		return true;

	/*
	 * Now that nobody changes what it depends on. If the default one has been
	 * used since we looked, that comes first, while it is in one piece.
	 */
	if (default_makes_range(&making))
		return true;
	if (!place_behind(id, size, &making.from, &making.to, &default_relid))
		return false;
	making.name = psprintf("event_" INT64_FORMAT, making.from);
	return !evi_brief_try(EVI_BRIEF_MAKE, make, &making);
}

/* A table that refers to events is locked as well: its owner may be about to lock ours. */
static bool
make(void *arg)
{
	const Making *making = arg;

	make_partition(making->name, making->from, making->to);
	return true;
}

/* Is it one that evinbox made, and not somebody who has attached a table? */
bool
evi_partition_is_ours(Oid relid)
{
	return getExtensionOfObject(RelationRelationId, relid) == get_extension_oid(EVI_EXTENSION, true);
}

/* Does a foreign key refer to it? Then it cannot be detached without a look at all its rows. */
bool
evi_partition_is_referenced(Oid relid)
{
	Relation	rel = table_open(relid, AccessShareLock);
	bool		result = false;

	for (int i = 0; rel->trigdesc && i < rel->trigdesc->numtriggers && !result; i++)
		result = RI_FKey_trigger_type(rel->trigdesc->triggers[i].tgfoid) == RI_TRIGGER_PK;
	table_close(rel, AccessShareLock);
	return result;
}

/*
 * Where is the next partition behind an id to begin and to end? False if it is
 * too early for it. The default one keeps what it has.
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
		while ((taken = highest_in_default(start, start + size)) > 0);
	}
	else
		result = start - id <= size;

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

/* any id, however low; 0 if there is none */
static int64
lowest_in_default(void)
{
	EviPartition partition = default_partition();

	return end_of(&partition, PG_INT64_MIN, PG_INT64_MAX, ForwardScanDirection);
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
	return end_of(partition, from, to, BackwardScanDirection);
}

static int64
end_of(const EviPartition *partition, int64 from, int64 to, ScanDirection direction)
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
	tuple = evi_scan_next(&scan, direction);
	if (tuple)
		result = DatumGetInt64(heap_getattr(tuple, Anum_event_id, RelationGetDescr(scan.table),
											&isnull));
	evi_scan_end(&scan);
	return result;
}

/*
 * Has the default partition been used, and would it fit between the others as it
 * is? Behind the last of them, it is given room for more.
 */
static bool
default_makes_range(Making *making)
{
	int64		last;
	int64		lowest;
	int64		highest;
	int64		top = 1;
	int			count;
	EviPartition *partitions;

	partitions = evi_relation_partitions(&count);
	making->default_relid = partitions[count - 1].relid;
	if (count > 1)
		top = partitions[0].last < PG_INT64_MAX ? partitions[0].last + 1 : PG_INT64_MAX;
	pfree(partitions);
	if (!evi_partition_is_ours(making->default_relid))
		return false;
	lowest = lowest_in_default();
	highest = highest_in_default(PG_INT64_MIN, PG_INT64_MAX);

	/* ids are given while we look, so this is the last thing to ask for */
	last = evi_fetch_last_given();
	if (lowest < 1 || highest > last)
		return false;
	making->from = lowest >= top ? top : lowest;
	making->to = lowest >= top ? last + 1 + evi_guc_partition_size() : highest + 1;
	return range_is_free(making->from, making->to) &&
		!evi_partition_is_referenced(making->default_relid);
}

/* Makes it that, and another one the default partition. */
static bool
turn_default(void *arg)
{
	Making	   *making = arg;

	in_extension(make_next_default, making);
	if (!evi_brief_lock(evi_relation_oid(EVI_EVENT), making->default_relid, InvalidOid) ||
		!default_makes_range(making))
		return false;
	in_extension(put_next_default, making);
	return true;
}

/* What is made belongs to the extension, and its rows to a dump. */
static void
in_extension(void (*work) (const Making *making), const Making *making)
{
	bool		was_creating = creating_extension;
	Oid			former = CurrentExtensionObject;

	creating_extension = true;
	CurrentExtensionObject = get_extension_oid(EVI_EXTENSION, false);
	PG_TRY();
	{
		work(making);
	}
	PG_FINALLY();
	{
		creating_extension = was_creating;
		CurrentExtensionObject = former;
	}
	PG_END_TRY();
}

static void
make_partition(const char *name, int64 from, int64 to)
{
	Making		making = {.name = name, .from = from, .to = to};

	in_extension(make_and_attach, &making);
}

static void
make_and_attach(const Making *making)
{
	char	   *name = psprintf(EVI_INTERNAL_SCHEMA ".%s", making->name);

	make_table(name);
	attach(name, making);
	finish_table(name);
}

static void
make_next_default(const Making *making)
{
	make_table(NEXT_DEFAULT_NAME);
	finish_table(NEXT_DEFAULT_NAME);
}

static void
put_next_default(const Making *making)
{
	/* its size is not the usual one, and a dump has only the name to tell by */
	char	   *name = psprintf("event_" INT64_FORMAT "_" INT64_FORMAT, making->from, making->to);
	char	   *full_name = psprintf(EVI_INTERNAL_SCHEMA ".%s", name);

	evi_query_utility("ALTER TABLE evinbox.event DETACH PARTITION " DEFAULT_NAME);
	CommandCounterIncrement();
	add_range_constraint(making);
	evi_query_utility(psprintf("ALTER TABLE " DEFAULT_NAME " RENAME TO %s", name));
	attach(full_name, making);
	evi_query_utility(psprintf("ALTER TABLE %s DROP CONSTRAINT " RANGE_CONSTRAINT, full_name));
	evi_query_utility("ALTER TABLE " NEXT_DEFAULT_NAME " RENAME TO event_default");
	evi_query_utility("ALTER TABLE evinbox.event ATTACH PARTITION " DEFAULT_NAME " DEFAULT");
}

static void
make_table(const char *name)
{
	evi_query_utility(psprintf("CREATE TABLE %s (LIKE evinbox.event"
							   " INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING INDEXES"
							   " INCLUDING STORAGE)", name));
}

static void
finish_table(const char *name)
{
	evi_query_utility(psprintf("CREATE TRIGGER event_refuse_truncate BEFORE TRUNCATE ON %s"
							   " FOR EACH STATEMENT"
							   " EXECUTE FUNCTION evinbox_internal.event_refuse_change()", name));
	evi_query_utility(psprintf("ALTER TABLE %s ENABLE ALWAYS TRIGGER event_refuse_truncate", name));
	evi_query_select(psprintf("SELECT pg_catalog.pg_extension_config_dump('%s', '')", name));
}

static void
attach(const char *name, const Making *making)
{
	evi_query_utility(psprintf("ALTER TABLE evinbox.event ATTACH PARTITION %s"
							   " FOR VALUES FROM (" INT64_FORMAT ") TO (" INT64_FORMAT ")",
							   name, making->from, making->to));
}

/*
 * So that attaching it needs no look at its rows: an index has told us already
 * that all of them are in the range, and it is locked.
 */
static void
add_range_constraint(const Making *making)
{
	Relation	rel = table_open(making->default_relid, NoLock);
	Constraint *constraint = makeNode(Constraint);
	char	   *text = psprintf("id OPERATOR(pg_catalog.>=) '" INT64_FORMAT "'::pg_catalog.int8"
								" AND id OPERATOR(pg_catalog.<) '" INT64_FORMAT "'::pg_catalog.int8",
								making->from, making->to);
	List	   *parsed = raw_parser(text, RAW_PARSE_PLPGSQL_EXPR);
	SelectStmt *select = (SelectStmt *) linitial_node(RawStmt, parsed)->stmt;

	constraint->contype = CONSTR_CHECK;
	constraint->conname = RANGE_CONSTRAINT;
	constraint->location = -1;
	constraint->initially_valid = true;
	EVI_CONSTRAINT_ENFORCED(constraint);
	constraint->raw_expr = linitial_node(ResTarget, select->targetList)->val;
	(void) AddRelationNewConstraints(rel, NIL, list_make1(constraint), false, true, false, NULL);
	table_close(rel, NoLock);
	CommandCounterIncrement();
}
