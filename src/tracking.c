/*-------------------------------------------------------------------------
 *
 * tracking.c
 *		The triggers of a tracked table: how they are made, found and dropped.
 *
 * They are made as a superuser, because nobody else can name their function; no
 * code of a user runs meanwhile. The caller has checked who it is.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/namespace.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "common/hashfn.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/parsenodes.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "capture.h"
#include "evinbox.h"
#include "tracking.h"

#define CAPTURE_FUNCTION "record_change"

/* names of our triggers */
#define TRIGGER_PREFIX_NEW "evinbox_track_new_"
#define TRIGGER_PREFIX_OLD "evinbox_track_old_"

static ObjectAddress make_trigger(Relation rel, const EviTracking *tracking, const char *prefix,
								  int16 events, Node *condition);
static char *trigger_name(const char *prefix, const char *action);
static List *trigger_arguments(Relation rel, const EviTracking *tracking);
static Node *naming(const EviTracking *tracking, bool is_true);
static Oid	capture_function(void);
static int	find_triggers(Oid relid, const char *action, ObjectAddresses *found);
static bool is_for(Relation triggers, HeapTuple tuple, const char *action);

/*
 * One trigger sees new rows, the other one what is deleted. A row that an UPDATE
 * moves to another partition is seen by both, and by no trigger for UPDATE. The
 * second one's condition names the columns for both; if it is not to see
 * anything, the condition is never true. Without it the first one does nothing,
 * and goes with it.
 */
void
evi_tracking_make(Relation rel, const EviTracking *tracking)
{
	bool		is_partitioned = rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE;
	int16		events = tracking->events & ~TRIGGER_TYPE_DELETE;
	ObjectAddress old;
	ObjectAddress new;
	Oid			userid;
	int			sec_context;

	if (is_partitioned)
		events |= TRIGGER_TYPE_INSERT;

	GetUserIdAndSecContext(&userid, &sec_context);
	SetUserIdAndSecContext(BOOTSTRAP_SUPERUSERID, sec_context | SECURITY_LOCAL_USERID_CHANGE);
	old = make_trigger(rel, tracking, TRIGGER_PREFIX_OLD, TRIGGER_TYPE_DELETE,
					   naming(tracking, is_partitioned || (tracking->events & TRIGGER_TYPE_DELETE)));
	if (events != 0)
	{
		new = make_trigger(rel, tracking, TRIGGER_PREFIX_NEW, events, NULL);
		recordDependencyOn(&new, &old, DEPENDENCY_AUTO);
	}
	SetUserIdAndSecContext(userid, sec_context);
	CommandCounterIncrement();
}

static ObjectAddress
make_trigger(Relation rel, const EviTracking *tracking, const char *prefix, int16 events,
			 Node *condition)
{
	CreateTrigStmt *statement = makeNode(CreateTrigStmt);

	statement->trigname = trigger_name(prefix, tracking->action);
	statement->relation = makeRangeVar(get_namespace_name(RelationGetNamespace(rel)),
									   pstrdup(RelationGetRelationName(rel)), -1);
	statement->funcname = list_make2(makeString(EVI_INTERNAL_SCHEMA), makeString(CAPTURE_FUNCTION));
	statement->args = trigger_arguments(rel, tracking);
	statement->row = true;
	statement->timing = TRIGGER_TYPE_AFTER;
	statement->events = events;
	statement->whenClause = condition;
	return CreateTrigger(statement, NULL, RelationGetRelid(rel), InvalidOid, InvalidOid,
						 InvalidOid, capture_function(), InvalidOid, NULL, false, false);
}

/* A long action is cut off, and its hash makes up for it. */
static char *
trigger_name(const char *prefix, const char *action)
{
	int			room = NAMEDATALEN - 1 - strlen(prefix);
	int			length = strlen(action);

	if (length <= room)
		return psprintf("%s%s", prefix, action);
	return psprintf("%s%.*s_%08x", prefix, pg_mbcliplen(action, length, room - 9), action,
					hash_bytes((const unsigned char *) action, length));
}

static List *
trigger_arguments(Relation rel, const EviTracking *tracking)
{
	List	   *result = NIL;
	const char *args[EVI_CAPTURE_ARGS] = {
		[EVI_CAPTURE_ACTION] = tracking->action,
		[EVI_CAPTURE_SUBJECT_TYPE] = tracking->subject_type,
		[EVI_CAPTURE_EVENTS] = psprintf("%s%s%s",
										tracking->events & TRIGGER_TYPE_INSERT ? " insert" : "",
										tracking->events & TRIGGER_TYPE_UPDATE ? " update" : "",
										tracking->events & TRIGGER_TYPE_DELETE ? " delete" : "") + 1,
		[EVI_CAPTURE_KEYS] = psprintf("%d", list_length(tracking->keys)),
		[EVI_CAPTURE_SCOPE] = tracking->scope != NIL ? "scope" : "",
		[EVI_CAPTURE_SNAPSHOT] = tracking->has_snapshot ? "snapshot" : "",
		[EVI_CAPTURE_TABLE] = psprintf("%u", RelationGetRelid(rel)),
	};

	for (int i = 0; i < EVI_CAPTURE_ARGS; i++)
		result = lappend(result, makeString(pstrdup(args[i])));
	return result;
}

/*
 * A condition that names all columns of the old row, and is always true or never:
 * num_nulls(old.a, old.b) IS [NOT] NULL [AND ...], as many to a call as it takes.
 */
static Node *
naming(const EviTracking *tracking, bool is_true)
{
	List	   *names = list_concat(list_concat(list_copy(tracking->keys), tracking->scope),
									tracking->columns);
	List	   *tests = NIL;
	List	   *args = NIL;
	int			left = list_length(names);
	ListCell   *lc;

	foreach(lc, names)
	{
		ColumnRef  *column = makeNode(ColumnRef);

		column->fields = list_make2(makeString("old"), makeString(lfirst(lc)));
		column->location = -1;
		args = lappend(args, column);
		if (--left == 0 || list_length(args) == FUNC_MAX_ARGS)
		{
			NullTest   *test = makeNode(NullTest);

			test->arg = (Expr *) makeFuncCall(list_make2(makeString("pg_catalog"),
														 makeString("num_nulls")),
											  args, COERCE_EXPLICIT_CALL, -1);
			test->nulltesttype = is_true ? IS_NOT_NULL : IS_NULL;
			test->location = -1;
			tests = lappend(tests, test);
			args = NIL;
		}
	}
	return list_length(tests) == 1 ? linitial(tests) :
		(Node *) makeBoolExpr(AND_EXPR, tests, -1);
}

/* whose schema nobody has to be able to look into */
static Oid
capture_function(void)
{
	Oid			result = GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid,
										 CStringGetDatum(CAPTURE_FUNCTION),
										 PointerGetDatum(buildoidvector(NULL, 0)),
										 ObjectIdGetDatum(get_namespace_oid(EVI_INTERNAL_SCHEMA, false)));

	if (!OidIsValid(result))
		elog(ERROR, "function %s.%s() does not exist", EVI_INTERNAL_SCHEMA, CAPTURE_FUNCTION);
	return result;
}

/* The table need not be locked, if it is enough to know how it was. */
bool
evi_tracking_exists(Oid relid, const char *action)
{
	ObjectAddresses *found = new_object_addresses();
	int			count = find_triggers(relid, action, found);

	free_object_addresses(found);
	return count > 0;
}

/* Those for an action, or all. Returns their number. Partitions lose theirs with them. */
int
evi_tracking_drop(Relation rel, const char *action)
{
	ObjectAddresses *found = new_object_addresses();
	int			count = find_triggers(RelationGetRelid(rel), action, found);

	performMultipleDeletions(found, DROP_RESTRICT, 0);
	free_object_addresses(found);
	CommandCounterIncrement();
	return count;
}

static int
find_triggers(Oid relid, const char *action, ObjectAddresses *found)
{
	Relation	triggers = table_open(TriggerRelationId, AccessShareLock);
	int			count = 0;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_trigger_tgrelid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(relid));
	scan = systable_beginscan(triggers, TriggerRelidNameIndexId, true, NULL, 1, &key);
	while ((tuple = systable_getnext(scan)) != NULL)
	{
		ObjectAddress address;

		if (!is_for(triggers, tuple, action))
			continue;
		ObjectAddressSet(address, TriggerRelationId, ((Form_pg_trigger) GETSTRUCT(tuple))->oid);
		add_exact_object_address(&address, found);
		count++;
	}
	systable_endscan(scan);
	table_close(triggers, AccessShareLock);
	return count;
}

/* Is it one that track() has made for this table, and for this action, if there is one? */
static bool
is_for(Relation triggers, HeapTuple tuple, const char *action)
{
	Form_pg_trigger form = (Form_pg_trigger) GETSTRUCT(tuple);
	Datum		args;
	bool		isnull;

	if (form->tgfoid != capture_function() || OidIsValid(form->tgparentid))
		return false;
	if (!action)
		return true;

	/* each ends with a zero byte */
	args = heap_getattr(tuple, Anum_pg_trigger_tgargs, RelationGetDescr(triggers), &isnull);
	return !isnull && form->tgnargs == EVI_CAPTURE_ARGS &&
		strcmp(VARDATA_ANY(DatumGetByteaPP(args)), action) == 0;
}
