/*-------------------------------------------------------------------------
 *
 * track.c
 *		SQL entry points of tracking: triggers of a table that record its
 *		changes, put there and taken away.
 *
 * Whoever owns a table may have triggers of ours on it, which fire for all who
 * write to it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
#include "catalog/catalog.h"
#include "catalog/dependency.h"
#include "catalog/pg_class.h"
#include "catalog/pg_index.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "compat.h"
#include "evinbox.h"
#include "tracking.h"

PG_FUNCTION_INFO_V1(evinbox_track);
PG_FUNCTION_INFO_V1(evinbox_untrack);

enum
{
	ARG_RELATION,
	ARG_COLUMNS,
	ARG_ACTION,
	ARG_SUBJECT_TYPE,
	ARG_ID_COLUMN,
	ARG_EVENTS,
	ARG_SCOPE_COLUMN,
	ARG_SNAPSHOT
};

static LOCKMODE lock_for(Oid relid, const char *action);
static Relation open_own(Oid relid, LOCKMODE lock);
static void check_owner(Oid relid);
static void check_may_trigger(Relation rel, LOCKMODE lock);
static void check_kind(Relation rel);
static void read_arguments(FunctionCallInfo fcinfo, Relation rel, EviTracking *tracking);
static const char *get_name(FunctionCallInfo fcinfo, int arg, const char *what);
static int16 read_events(ArrayType *events);
static List *read_columns(Relation rel, ArrayType *columns);
static char *check_column(Relation rel, const char *name);
static List *key_of(Relation rel);

Datum
evinbox_track(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(ARG_RELATION);
	LOCKMODE	lock;
	Relation	rel;
	EviTracking	tracking = {0};

	for (int arg = ARG_RELATION; arg <= ARG_SNAPSHOT; arg++)
		if (PG_ARGISNULL(arg) && arg != ARG_SUBJECT_TYPE && arg != ARG_ID_COLUMN &&
			arg != ARG_SCOPE_COLUMN)
		{
			static const char *const names[] = {"relation", "columns", "action", NULL, NULL,
			"events", NULL, "snapshot"};

			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("%s must not be null", names[arg])));
		}

	lock = lock_for(relid, text_to_cstring(PG_GETARG_TEXT_PP(ARG_ACTION)));
	rel = open_own(relid, lock);
	check_kind(rel);
	check_may_trigger(rel, lock);
	read_arguments(fcinfo, rel, &tracking);
	(void) evi_tracking_drop(rel, tracking.action);
	evi_tracking_make(rel, &tracking);
	if (rel->rd_rel->relkind == RELKIND_RELATION && has_subclass(RelationGetRelid(rel)) &&
		find_inheritance_children(RelationGetRelid(rel), NoLock) != NIL)
		ereport(NOTICE,
				(errmsg("rows of tables that inherit from \"%s\" are not tracked",
						RelationGetRelationName(rel)),
				 errhint("Call track() for each of these tables.")));
	table_close(rel, NoLock);
	PG_RETURN_VOID();
}

Datum
evinbox_untrack(PG_FUNCTION_ARGS)
{
	Relation	rel = open_own(PG_GETARG_OID(0), AccessExclusiveLock);

	if (evi_tracking_drop(rel, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("\"%s\" is not tracked", RelationGetRelationName(rel)),
				 rel->rd_rel->relispartition ?
				 errhint("Where the partitioned table is, untrack() that.") : 0));
	table_close(rel, NoLock);
	PG_RETURN_VOID();
}

/*
 * As for CREATE TRIGGER, or for DROP TRIGGER at once if there is something to be
 * replaced: two locks, one after the other, are a deadlock with whoever has read
 * the table and is about to write to it.
 */
static LOCKMODE
lock_for(Oid relid, const char *action)
{
	return evi_tracking_exists(relid, action) ? AccessExclusiveLock : ShareRowExclusiveLock;
}

/* Only the user's own is locked; meanwhile it may have been given away. */
static Relation
open_own(Oid relid, LOCKMODE lock)
{
	Relation	rel;

	check_owner(relid);
	rel = relation_open(relid, lock);
	check_owner(relid);
	return rel;
}

/* What does not exist is for relation_open() to say. */
static void
check_owner(Oid relid)
{
	if (SearchSysCacheExists1(RELOID, ObjectIdGetDatum(relid)) &&
		!object_ownercheck(RelationRelationId, relid, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, get_relkind_objtype(get_rel_relkind(relid)),
					   get_rel_name(relid));
}

/* As for CREATE TRIGGER: also on each partition, which may be another one's. */
static void
check_may_trigger(Relation rel, LOCKMODE lock)
{
	List	   *relids = list_make1_oid(RelationGetRelid(rel));
	ListCell   *lc;

	if (rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
		relids = find_all_inheritors(RelationGetRelid(rel), lock, NULL);
	foreach(lc, relids)
	{
		Oid			relid = lfirst_oid(lc);

		if (pg_class_aclcheck(relid, GetUserId(), ACL_TRIGGER) != ACLCHECK_OK)
			aclcheck_error(ACLCHECK_NO_PRIV, get_relkind_objtype(get_rel_relkind(relid)),
						   get_rel_name(relid));
	}
}

static void
check_kind(Relation rel)
{
	const char *name = RelationGetRelationName(rel);

	if (rel->rd_rel->relkind != RELKIND_RELATION &&
		rel->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" cannot be tracked", name),
				 errdetail_relkind_not_supported(rel->rd_rel->relkind),
				 errhint("Track the tables in which the rows are stored.")));
	if (IsSystemRelation(rel))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("\"%s\" cannot be tracked", name),
				 errdetail("It is a system catalog.")));
	if (getExtensionOfObject(RelationRelationId, RelationGetRelid(rel)) ==
		get_extension_oid(EVI_EXTENSION, false))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" cannot be tracked", name),
				 errdetail("It is a table of evinbox.")));
	if (rel->rd_rel->relispartition && rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("\"%s\" cannot be tracked", name),
				 errdetail("It is a partition that has partitions itself."),
				 errhint("Track the partitioned table that it is a part of.")));
}

static void
read_arguments(FunctionCallInfo fcinfo, Relation rel, EviTracking *tracking)
{
	tracking->action = get_name(fcinfo, ARG_ACTION, "action");
	tracking->subject_type = PG_ARGISNULL(ARG_SUBJECT_TYPE) ?
		RelationGetRelationName(rel) : get_name(fcinfo, ARG_SUBJECT_TYPE, "subject type");
	tracking->events = read_events(PG_GETARG_ARRAYTYPE_P(ARG_EVENTS));
	tracking->columns = read_columns(rel, PG_GETARG_ARRAYTYPE_P(ARG_COLUMNS));
	tracking->has_snapshot = PG_GETARG_BOOL(ARG_SNAPSHOT);
	if (tracking->columns == NIL && (tracking->events & TRIGGER_TYPE_UPDATE))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("columns must not be empty"),
				 errhint("Name those whose changes are to be recorded; only insert and delete need none.")));
	tracking->keys = PG_ARGISNULL(ARG_ID_COLUMN) ? key_of(rel) :
		list_make1(check_column(rel, NameStr(*PG_GETARG_NAME(ARG_ID_COLUMN))));
	if (!PG_ARGISNULL(ARG_SCOPE_COLUMN))
		tracking->scope =
			list_make1(check_column(rel, NameStr(*PG_GETARG_NAME(ARG_SCOPE_COLUMN))));
}

static const char *
get_name(FunctionCallInfo fcinfo, int arg, const char *what)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(arg));

	if (name[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be empty", what)));
	return name;
}

static int16
read_events(ArrayType *events)
{
	static const struct
	{
		const char *name;
		int16		event;
	}			known[] = {
		{"insert", TRIGGER_TYPE_INSERT},
		{"update", TRIGGER_TYPE_UPDATE},
		{"delete", TRIGGER_TYPE_DELETE},
	};
	int16		result = 0;
	Datum	   *elements;
	bool	   *nulls;
	int			count;

	deconstruct_array(events, TEXTOID, -1, false, TYPALIGN_INT, &elements, &nulls, &count);
	for (int i = 0; i < count; i++)
	{
		const char *name = nulls[i] ? "" : TextDatumGetCString(elements[i]);
		int			k = 0;

		while (k < lengthof(known) && strcmp(name, known[k].name) != 0)
			k++;
		if (k == lengthof(known))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("unrecognized event \"%s\"", name),
					 errhint("Events are insert, update and delete.")));
		result |= known[k].event;
	}
	if (result == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("events must not be empty"),
				 errhint("Events are insert, update and delete.")));
	return result;
}

static List *
read_columns(Relation rel, ArrayType *columns)
{
	List	   *result = NIL;
	Datum	   *elements;
	bool	   *nulls;
	int			count;
	ListCell   *lc;

	deconstruct_array(columns, NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR, &elements, &nulls,
					  &count);
	for (int i = 0; i < count; i++)
	{
		char	   *name;

		if (nulls[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("a column must not be null")));
		name = check_column(rel, NameStr(*DatumGetName(elements[i])));
		foreach(lc, result)
			if (strcmp(lfirst(lc), name) == 0)
				ereport(ERROR,
						(errcode(ERRCODE_DUPLICATE_COLUMN),
						 errmsg("column \"%s\" is named twice", name)));
		result = lappend(result, name);
	}
	return result;
}

/* returns a copy of the name */
static char *
check_column(Relation rel, const char *name)
{
	AttrNumber	attno = get_attnum(RelationGetRelid(rel), name);

	if (attno == InvalidAttrNumber)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_COLUMN),
				 errmsg("column \"%s\" of relation \"%s\" does not exist",
						name, RelationGetRelationName(rel))));
	if (attno < 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("system column \"%s\" cannot be tracked", name)));
	if (get_attgenerated(RelationGetRelid(rel), attno) == ATTRIBUTE_GENERATED_VIRTUAL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("virtual generated column \"%s\" cannot be tracked", name),
				 errdetail("It is not computed for triggers."),
				 errhint("Track the columns that it is computed from.")));
	return pstrdup(name);
}

/* the columns of the primary key, in its order */
static List *
key_of(Relation rel)
{
	Oid			index = RelationGetPrimaryKeyIndex(rel, false);
	List	   *result = NIL;
	HeapTuple	tuple;
	Form_pg_index form;

	if (!OidIsValid(index))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" has no primary key", RelationGetRelationName(rel)),
				 errhint("Say which column has the subject's id, by id_column.")));
	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(index));
	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for index %u", index);
	form = (Form_pg_index) GETSTRUCT(tuple);
	for (int i = 0; i < form->indnkeyatts; i++)
		result = lappend(result, check_column(rel, get_attname(RelationGetRelid(rel),
															   form->indkey.values[i], false)));
	ReleaseSysCache(tuple);
	return result;
}
