/*-------------------------------------------------------------------------
 *
 * inbox.c
 *		Rules as rows: loading them, and calling what they name.
 *
 * A rule is loaded by a direct scan, which needs no grants; what it names is
 * looked up as its owner, with the search_path that was in force when it was
 * written. See rule.c for the checks at that time.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "executor/spi.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

#include "compat.h"
#include "evinbox.h"
#include "function.h"
#include "inbox.h"
#include "owner.h"
#include "query.h"
#include "relation.h"

/* a statement is planned anew for a batch so many times as large */
#define PLAN_FACTOR 10

static List *load(Snapshot snapshot, Oid owner);
static SPIPlanPtr keep(const EviInbox *inbox, SPIPlanPtr plan);
static List *count_lanes(List *owners, const EviInbox *inbox);
static EviInbox *form_inbox(HeapTuple tuple, TupleDesc desc);
static int	form_texts(Datum array, bool isnull, text ***texts);
static int64 interval_ms(Datum interval);
static int	compare_turns(const ListCell *a, const ListCell *b);
static bool contains(text **texts, int ntexts, text *value);

/* The rules of an owner, in the order of their turns. */
List *
evi_inbox_load(Oid owner, Snapshot snapshot)
{
	List	   *result = load(snapshot, owner);

	list_sort(result, compare_turns);
	return result;
}

/* the rules of all, in no order */
List *
evi_inbox_all(Snapshot snapshot)
{
	return load(snapshot, InvalidOid);
}

/* What others have written may be large, and is not read if it is not asked for. */
static List *
load(Snapshot snapshot, Oid owner)
{
	EviScan		scan;
	HeapTuple	tuple;
	List	   *result = NIL;

	evi_scan_begin(&scan, EVI_INBOX, snapshot, 0, NULL);
	while ((tuple = evi_scan_next(&scan, ForwardScanDirection)) != NULL)
	{
		TupleDesc	desc = RelationGetDescr(scan.table);
		bool		isnull;

		if (!OidIsValid(owner) ||
			DatumGetObjectId(heap_getattr(tuple, Anum_inbox_owner_id, desc, &isnull)) == owner)
			result = lappend(result, form_inbox(tuple, desc));
	}
	evi_scan_end(&scan);
	return result;
}

/* A number that is another one whenever a rule is; never 0. */
uint64
evi_inbox_version(Snapshot snapshot)
{
	Relation	rel = evi_relation_open(EVI_INBOX, AccessShareLock);
	TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL);
	HeapTuple	tuple;
	uint64		version = 1;

	/* in the order of their places, which is as good as any, and the quickest */
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		version = hash_combine64(version, HeapTupleHeaderGetRawXmin(tuple->t_data));
		version = hash_combine64(version, ItemPointerGetBlockNumber(&tuple->t_self));
		version = hash_combine64(version, ItemPointerGetOffsetNumber(&tuple->t_self));
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	return version != 0 ? version : 1;
}

/* NULL if there is none of that name */
EviInbox *
evi_inbox_find(const char *name, Snapshot snapshot)
{
	ScanKeyData key;
	EviScan		scan;
	HeapTuple	tuple;
	EviInbox   *result = NULL;

	ScanKeyInit(&key, Anum_inbox_name, BTEqualStrategyNumber, F_TEXTEQ,
				CStringGetTextDatum(name));
	evi_scan_begin(&scan, EVI_INBOX, snapshot, 1, &key);
	tuple = evi_scan_next(&scan, ForwardScanDirection);
	if (tuple)
		result = form_inbox(tuple, RelationGetDescr(scan.table));
	evi_scan_end(&scan);
	return result;
}

/* the roles whose rules need a runner, as a list of EviOwner */
List *
evi_inbox_live_owners(Snapshot snapshot)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, evi_inbox_all(snapshot))
	{
		EviInbox   *inbox = lfirst(lc);

		if (inbox->live && inbox->enabled && !evi_owner_fault(inbox->owner))
			result = count_lanes(result, inbox);
	}
	return result;
}

void
evi_inbox_forget_plans(EviInbox *inbox)
{
	if (inbox->plan && inbox->keeps_plan)
		SPI_freeplan(inbox->plan);
	if (inbox->plan_of_statement && inbox->keeps_plan)
		SPI_freeplan(inbox->plan_of_statement);
	inbox->plan = inbox->plan_of_statement = NULL;
}

/* Is an event of this kind for the inbox, as far as its lists say? */
bool
evi_inbox_wants(const EviInbox *inbox, text *subject_type, text *action)
{
	return (inbox->nsubject_types < 0 ||
			contains(inbox->subject_types, inbox->nsubject_types, subject_type)) &&
		(inbox->nactions < 0 || contains(inbox->actions, inbox->nactions, action));
}

/*
 * Looks up what the rule names, as the current user. An error in here is an
 * error of the rule, not of any event. SPI is connected.
 */
void
evi_inbox_prepare(EviInbox *inbox, int nevents, EviHandler *handler)
{
	/* plans that were not kept went with the SPI connection of their batch */
	if (!inbox->keeps_plan)
		inbox->plan = inbox->plan_of_statement = NULL;
	if ((inbox->plan && !SPI_plan_is_valid(inbox->plan)) ||
		(inbox->plan_of_statement && !SPI_plan_is_valid(inbox->plan_of_statement)))
		evi_inbox_forget_plans(inbox);

	/* what is right for a few events may be very wrong for many */
	if (inbox->plan_of_statement && nevents > PLAN_FACTOR * inbox->planned_for)
		evi_inbox_forget_plans(inbox);

	if (inbox->handler)
		fmgr_info(evi_function_find("handler", inbox->handler, &handler->nargs), &handler->function);
	if (inbox->condition && !inbox->plan)
		inbox->plan = keep(inbox, evi_condition_prepare(inbox->condition));
	if (!inbox->statement)
		return;

	handler->events = evi_statement_open(nevents);
	if (!inbox->plan_of_statement)
	{
		inbox->plan_of_statement = keep(inbox, evi_statement_prepare(inbox->statement));
		inbox->planned_for = Max(nevents, 1);
	}
}

/* Calls the handler for one event; what it returns does not matter. */
void
evi_inbox_call(const EviInbox *inbox, EviHandler *handler, Datum event)
{
	bool		isnull;

	(void) evi_function_call(&handler->function, handler->nargs, event, inbox->config, &isnull);
}

static SPIPlanPtr
keep(const EviInbox *inbox, SPIPlanPtr plan)
{
	if (inbox->keeps_plan)
		SPI_keepplan(plan);
	return plan;
}

static List *
count_lanes(List *owners, const EviInbox *inbox)
{
	ListCell   *lc;
	EviOwner   *owner = NULL;

	foreach(lc, owners)
		if (((EviOwner *) lfirst(lc))->role == inbox->owner)
			owner = lfirst(lc);
	if (!owner)
	{
		owner = palloc0(sizeof(EviOwner));
		owner->role = inbox->owner;
		owners = lappend(owners, owner);
	}
	owner->lanes += inbox->shards + (inbox->replayable ? 1 : 0);
	return owners;
}

static EviInbox *
form_inbox(HeapTuple tuple, TupleDesc desc)
{
	EviInbox   *inbox = palloc0(sizeof(EviInbox));
	Datum		values[Natts_inbox];
	bool		isnull[Natts_inbox];

	evi_relation_deform(EVI_INBOX, tuple, desc, values, isnull);
	inbox->id = DatumGetInt32(values[Anum_inbox_id - 1]);
	inbox->name = TextDatumGetCString(values[Anum_inbox_name - 1]);
	inbox->owner = DatumGetObjectId(values[Anum_inbox_owner_id - 1]);
	if (!evi_owner_exists(inbox->owner))
		inbox->owner = InvalidOid;
	inbox->nsubject_types = form_texts(values[Anum_inbox_subject_types - 1],
									   isnull[Anum_inbox_subject_types - 1],
									   &inbox->subject_types);
	inbox->nactions = form_texts(values[Anum_inbox_actions - 1],
								 isnull[Anum_inbox_actions - 1], &inbox->actions);
	if (!isnull[Anum_inbox_condition - 1])
		inbox->condition = TextDatumGetCString(values[Anum_inbox_condition - 1]);
	if (!isnull[Anum_inbox_handler - 1])
		inbox->handler = TextDatumGetCString(values[Anum_inbox_handler - 1]);
	if (!isnull[Anum_inbox_statement - 1])
		inbox->statement = TextDatumGetCString(values[Anum_inbox_statement - 1]);
	inbox->config = JsonbPGetDatum(DatumGetJsonbPCopy(values[Anum_inbox_config - 1]));
	inbox->enabled = DatumGetBool(values[Anum_inbox_enabled - 1]);
	inbox->live = strcmp(TextDatumGetCString(values[Anum_inbox_dispatch - 1]), "live") == 0;
	inbox->priority = DatumGetInt32(values[Anum_inbox_priority - 1]);
	inbox->max_attempts = DatumGetInt32(values[Anum_inbox_max_attempts - 1]);
	inbox->backoff_ms = interval_ms(values[Anum_inbox_backoff - 1]);
	inbox->timeout_ms = interval_ms(values[Anum_inbox_timeout - 1]);
	inbox->batch_size = DatumGetInt32(values[Anum_inbox_batch_size - 1]);
	inbox->search_path = TextDatumGetCString(values[Anum_inbox_search_path - 1]);
	inbox->shards = DatumGetInt32(values[Anum_inbox_shards - 1]);
	inbox->replayable = DatumGetBool(values[Anum_inbox_replayable - 1]);
	return inbox;
}

/* returns their number, or -1 for NULL */
static int
form_texts(Datum array, bool isnull, text ***texts)
{
	Datum	   *elements;
	int			nelements;

	if (isnull)
		return -1;
	deconstruct_array(DatumGetArrayTypePCopy(array), TEXTOID, -1, false, TYPALIGN_INT,
					  &elements, NULL, &nelements);
	*texts = palloc(sizeof(text *) * Max(nelements, 1));
	for (int i = 0; i < nelements; i++)
		(*texts)[i] = DatumGetTextPP(elements[i]);
	return nelements;
}

/* months count as 30 days */
static int64
interval_ms(Datum interval)
{
	Interval   *value = DatumGetIntervalP(interval);

	return (value->month * (int64) DAYS_PER_MONTH + value->day) * SECS_PER_DAY * 1000 +
		value->time / 1000;
}

static int
compare_turns(const ListCell *a, const ListCell *b)
{
	const EviInbox *left = lfirst(a);
	const EviInbox *right = lfirst(b);

	if (left->priority != right->priority)
		return left->priority < right->priority ? -1 : 1;
	return strcmp(left->name, right->name);
}

static bool
contains(text **texts, int ntexts, text *value)
{
	for (int i = 0; i < ntexts; i++)
		if (evi_text_equal(texts[i], value))
			return true;
	return false;
}
