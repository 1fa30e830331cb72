/*-------------------------------------------------------------------------
 *
 * capture.c
 *		The trigger by which changes of a tracked table become events.
 *
 * It is a trigger for rows: that one comes along to partitions, also to those
 * that are written to directly, and has the old and the new row side by side.
 *
 * The columns are those that the condition of the trigger for DELETE names, in
 * their order: first the key, then the scope, if there is one, then what is
 * tracked. So it is the server that keeps them in step with renames, dumps and
 * the numbering of a partition's columns. The trigger for INSERT and UPDATE has
 * no condition, which would have to be parsed and planned for each statement.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "nodes/nodeFuncs.h"
#include "nodes/pg_list.h"
#include "nodes/primnodes.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "capture.h"
#include "change.h"
#include "evinbox.h"
#include "moved.h"
#include "recording.h"
#include "trigger.h"

PG_FUNCTION_INFO_V1(evinbox_record_change);

/* more are forgotten: each temporary table that was tracked is among them */
#define MAX_CONDITIONS 1000

/* the columns that a trigger's condition names */
typedef struct Condition
{
	Oid			trigger;
	char	   *text;			/* as stored; NULL while it is not known */
	int			ncolumns;
	AttrNumber *attnos;
} Condition;

/* what is known of a trigger, for as long as its statement runs */
typedef struct Capture
{
	bool		is_incomplete;	/* what names the columns was dropped */
	text	   *action;
	text	   *subject_type;
	bool		on_insert;
	bool		on_update;
	bool		on_delete;
	bool		has_snapshot;
	FmgrInfo	row_to_jsonb;	/* if it has */
	int			nkeys;
	int			scope;			/* index of the column, -1 for none */
	int			first;			/* of the tracked columns, which are the rest */
	int			ncolumns;		/* all of them */
	EviColumn  *columns;
} Capture;

static Capture *get_capture(FunctionCallInfo fcinfo, TriggerData *trigger);
static void read_arguments(Capture *capture, Trigger *trigger);
static Trigger *find_naming(TriggerData *trigger);
static bool is_pair(Trigger *a, Trigger *b);
static const Condition *get_condition(Trigger *trigger);
static bool add_column(Node *node, void *attnos);
static EviChangeRow read_row(Capture *capture, TupleTableSlot *slot);
static bool is_change(Capture *capture, const EviChangeRow *old, const EviChangeRow *new);
static void record(Capture *capture, const EviChangeRow *old, const EviChangeRow *new, TupleTableSlot *slot);
static text *subject_of(Capture *capture, const EviChangeRow *row);
static text *name_of(EviColumn *column, Datum value);
static Jsonb *describe_change(Capture *capture, const EviChangeRow *old, const EviChangeRow *new);
static void push_changes(Capture *capture, const EviChangeRow *old, const EviChangeRow *new, JsonbParseState **state);
static void push_change(EviColumn *column, int i, const EviChangeRow *old, const EviChangeRow *new,
						JsonbParseState **state);
static void push_key(JsonbParseState **state, const char *key);

/* AFTER INSERT OR UPDATE OR DELETE FOR EACH ROW, with the arguments of capture.h */
Datum
evinbox_record_change(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	Capture    *capture;
	EviChangeRow row;
	EviChangeRow changed;
	EviChangeRow *moved;

	evi_require_trigger(fcinfo);
	capture = get_capture(fcinfo, trigger);
	if (capture->is_incomplete)
		return PointerGetDatum(NULL);
	row = read_row(capture, trigger->tg_trigslot);

	if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
	{
		changed = read_row(capture, trigger->tg_newslot);
		if (capture->on_update && is_change(capture, &row, &changed))
			record(capture, &row, &changed, trigger->tg_newslot);
	}
	else if (TRIGGER_FIRED_BY_DELETE(trigger->tg_event))
	{
		if (evi_moved_is_away(trigger))
			evi_moved_note(trigger, &row, capture->columns, capture->ncolumns);
		else if (capture->on_delete)
			record(capture, &row, NULL, trigger->tg_trigslot);
	}
	else if ((moved = evi_moved_find(trigger, capture->columns, capture->ncolumns)) != NULL)
	{
		if (capture->on_update && is_change(capture, moved, &row))
			record(capture, moved, &row, trigger->tg_trigslot);
	}
	else if (capture->on_insert)
		record(capture, NULL, &row, trigger->tg_trigslot);
	return PointerGetDatum(NULL);
}

static Capture *
get_capture(FunctionCallInfo fcinfo, TriggerData *trigger)
{
	MemoryContext former;
	Capture    *capture = fcinfo->flinfo->fn_extra;
	Trigger    *naming;
	const Condition *condition;

	if (capture)
		return capture;
	if (!TRIGGER_FIRED_AFTER(trigger->tg_event) || !TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		trigger->tg_trigger->tgnargs != EVI_CAPTURE_ARGS)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" was not made by track()", trigger->tg_trigger->tgname),
				 errhint("Use evinbox.track().")));

	former = MemoryContextSwitchTo(fcinfo->flinfo->fn_mcxt);
	capture = palloc0(sizeof(Capture));
	read_arguments(capture, trigger->tg_trigger);
	naming = find_naming(trigger);
	condition = naming ? get_condition(naming) : NULL;
	capture->is_incomplete = !condition || condition->ncolumns < capture->first ||
		capture->nkeys < 1;
	capture->ncolumns = capture->is_incomplete ? 0 : condition->ncolumns;
	capture->columns = palloc0(sizeof(EviColumn) * capture->ncolumns);
	for (int i = 0; i < capture->ncolumns; i++)
		evi_column_describe(&capture->columns[i], RelationGetDescr(trigger->tg_relation),
							condition->attnos[i], fcinfo->flinfo->fn_mcxt);
	if (capture->has_snapshot)
		evi_to_jsonb_prepare(&capture->row_to_jsonb, trigger->tg_relation->rd_rel->reltype,
							 fcinfo->flinfo->fn_mcxt);
	MemoryContextSwitchTo(former);
	fcinfo->flinfo->fn_extra = capture;
	return capture;
}

static void
read_arguments(Capture *capture, Trigger *trigger)
{
	char	  **args = trigger->tgargs;

	capture->action = cstring_to_text(args[EVI_CAPTURE_ACTION]);
	capture->subject_type = cstring_to_text(args[EVI_CAPTURE_SUBJECT_TYPE]);
	capture->on_insert = strstr(args[EVI_CAPTURE_EVENTS], "insert") != NULL;
	capture->on_update = strstr(args[EVI_CAPTURE_EVENTS], "update") != NULL;
	capture->on_delete = strstr(args[EVI_CAPTURE_EVENTS], "delete") != NULL;
	capture->nkeys = atoi(args[EVI_CAPTURE_KEYS]);
	capture->first = capture->nkeys;
	capture->scope = args[EVI_CAPTURE_SCOPE][0] != '\0' ? capture->first++ : -1;
	capture->has_snapshot = args[EVI_CAPTURE_SNAPSHOT][0] != '\0';
}

/* Its twin for DELETE, or itself. */
static Trigger *
find_naming(TriggerData *trigger)
{
	TriggerDesc *all = trigger->tg_relation->trigdesc;

	if (trigger->tg_trigger->tgqual)
		return trigger->tg_trigger;
	for (int i = 0; all && i < all->numtriggers; i++)
	{
		Trigger    *one = &all->triggers[i];

		if (one->tgqual && is_pair(one, trigger->tg_trigger))
			return one;
	}
	return NULL;
}

/*
 * A partition may have several pairs with the same action: one from each table
 * that it is a part of, and its own.
 */
static bool
is_pair(Trigger *a, Trigger *b)
{
	if (a->tgfoid != b->tgfoid || a->tgnargs != b->tgnargs)
		return false;
	for (int i = 0; i < a->tgnargs; i++)
		if (strcmp(a->tgargs[i], b->tgargs[i]) != 0)
			return false;
	return true;
}

/*
 * The numbers of the columns that a trigger's condition names, in their order.
 * They are the caller's until he asks for the next.
 * To parse it for each statement would take as long as to compare a row.
 */
static const Condition *
get_condition(Trigger *trigger)
{
	static MemoryContext context = NULL;
	static HTAB *conditions = NULL;
	Condition  *condition;
	bool		found;
	List	   *attnos = NIL;
	ListCell   *lc;

	if (!context)
		context = AllocSetContextCreate(TopMemoryContext, "evinbox conditions",
										ALLOCSET_DEFAULT_SIZES);
	if (conditions && hash_get_num_entries(conditions) >= MAX_CONDITIONS)
	{
		conditions = NULL;
		MemoryContextReset(context);
	}
	if (!conditions)
	{
		HASHCTL		control = {.keysize = sizeof(Oid), .entrysize = sizeof(Condition),
		.hcxt = context};

		conditions = hash_create("evinbox conditions hash", 16, &control,
								 HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	condition = hash_search(conditions, &trigger->tgoid, HASH_ENTER, &found);
	if (!found)
		condition->text = NULL;
	if (condition->text && strcmp(condition->text, trigger->tgqual) == 0)
		return condition;

	/* not valid before it is complete */
	if (condition->text)
	{
		pfree(condition->text);
		pfree(condition->attnos);
		condition->text = NULL;
	}
	(void) add_column(stringToNode(trigger->tgqual), &attnos);
	condition->ncolumns = 0;
	condition->attnos = MemoryContextAlloc(context,
										   sizeof(AttrNumber) * Max(list_length(attnos), 1));
	foreach(lc, attnos)
		condition->attnos[condition->ncolumns++] = lfirst_int(lc);
	condition->text = MemoryContextStrdup(context, trigger->tgqual);
	return condition;
}

/* attnos is a List ** */
static bool
add_column(Node *node, void *attnos)
{
	List	  **columns = attnos;

	if (node == NULL)
		return false;
	if (IsA(node, Var))
	{
		*columns = lappend_int(*columns, ((Var *) node)->varattno);
		return false;
	}
	return expression_tree_walker(node, add_column, attnos);
}

static EviChangeRow
read_row(Capture *capture, TupleTableSlot *slot)
{
	EviChangeRow row = {
		.values = palloc(sizeof(Datum) * capture->ncolumns),
		.isnull = palloc(sizeof(bool) * capture->ncolumns),
	};

	for (int i = 0; i < capture->ncolumns; i++)
		row.values[i] = slot_getattr(slot, capture->columns[i].attno, &row.isnull[i]);
	return row;
}

/* Has a tracked column another value? */
static bool
is_change(Capture *capture, const EviChangeRow *old, const EviChangeRow *new)
{
	for (int i = capture->first; i < capture->ncolumns; i++)
		if (evi_column_differs(&capture->columns[i], old->values[i], old->isnull[i],
							   new->values[i], new->isnull[i]))
			return true;
	return false;
}

/* Either row may be missing. The slot has the one that is left of the two. */
static void
record(Capture *capture, const EviChangeRow *old, const EviChangeRow *new, TupleTableSlot *slot)
{
	Datum		values[Natts_event] = {0};
	bool		isnull[Natts_event];
	const EviChangeRow *row = new ? new : old;

	memset(isnull, true, sizeof(isnull));
	values[Anum_event_subject_type - 1] = PointerGetDatum(capture->subject_type);
	isnull[Anum_event_subject_type - 1] = false;
	values[Anum_event_action - 1] = PointerGetDatum(capture->action);
	isnull[Anum_event_action - 1] = false;
	values[Anum_event_subject_id - 1] = PointerGetDatum(subject_of(capture, row));
	isnull[Anum_event_subject_id - 1] = values[Anum_event_subject_id - 1] == (Datum) 0;
	values[Anum_event_metadata - 1] = JsonbPGetDatum(describe_change(capture, old, new));
	isnull[Anum_event_metadata - 1] = false;
	if (capture->scope >= 0 && !row->isnull[capture->scope])
	{
		values[Anum_event_scope - 1] =
			PointerGetDatum(name_of(&capture->columns[capture->scope],
									row->values[capture->scope]));
		isnull[Anum_event_scope - 1] = false;
	}
	if (capture->has_snapshot)
	{
		values[Anum_event_snapshot - 1] = FunctionCall1(&capture->row_to_jsonb,
														ExecFetchSlotHeapTupleDatum(slot));
		isnull[Anum_event_snapshot - 1] = false;
	}
	(void) evi_recording_record(values, isnull, NULL, NULL);
}

/* Its key: of one column, as text; of several, as a JSON array. NULL if it is null. */
static text *
subject_of(Capture *capture, const EviChangeRow *row)
{
	JsonbParseState *state = NULL;
	Jsonb	   *array;
	text	   *result;
	int			level;

	if (capture->nkeys == 1)
		return row->isnull[0] ? NULL : name_of(&capture->columns[0], row->values[0]);

	level = evi_column_fix_settings(capture->columns, capture->nkeys);
	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < capture->nkeys; i++)
	{
		JsonbValue	value;

		evi_column_to_json(&capture->columns[i], row->values[i], row->isnull[i], &value);
		pushJsonbValue(&state, WJB_ELEM, &value);
	}
	array = JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_ARRAY, NULL));
	result = cstring_to_text(JsonbToCString(NULL, &array->root, VARSIZE(array)));
	evi_column_restore_settings(level);
	return result;
}

/* What an id or a scope is as text, which is the same in every session. */
static text *
name_of(EviColumn *column, Datum value)
{
	int			level = evi_column_fix_settings(column, 1);
	text	   *result = evi_column_to_text(column, value);

	evi_column_restore_settings(level);
	return result;
}

/*
 * The event's metadata. A subject that is called otherwise now has the new id,
 * and says the former one.
 */
static Jsonb *
describe_change(Capture *capture, const EviChangeRow *old, const EviChangeRow *new)
{
	JsonbParseState *state = NULL;
	bool		has_moved = false;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	if (capture->ncolumns - capture->first == 1)
		push_change(&capture->columns[capture->first], capture->first, old, new, &state);
	else if (capture->ncolumns > capture->first)
	{
		push_key(&state, "changes");
		push_changes(capture, old, new, &state);
	}

	for (int i = 0; i < capture->nkeys && old && new; i++)
		has_moved |= evi_column_differs(&capture->columns[i], old->values[i], old->isnull[i],
										new->values[i], new->isnull[i]);
	if (has_moved)
	{
		text	   *former = subject_of(capture, old);
		JsonbValue	value = {.type = jbvNull};

		if (former)
		{
			value.type = jbvString;
			value.val.string.val = VARDATA_ANY(former);
			value.val.string.len = VARSIZE_ANY_EXHDR(former);
		}
		push_key(&state, "former_id");
		pushJsonbValue(&state, WJB_VALUE, &value);
	}
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/* {"column": {"from": ..., "to": ...}, ...}; a row that is not there has nulls */
static void
push_changes(Capture *capture, const EviChangeRow *old, const EviChangeRow *new, JsonbParseState **state)
{
	pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
	for (int i = capture->first; i < capture->ncolumns; i++)
	{
		EviColumn  *column = &capture->columns[i];

		if (!evi_column_differs(column, old ? old->values[i] : (Datum) 0, !old || old->isnull[i],
								new ? new->values[i] : (Datum) 0, !new || new->isnull[i]))
			continue;
		push_key(state, NameStr(column->name));
		pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
		push_change(column, i, old, new, state);
		pushJsonbValue(state, WJB_END_OBJECT, NULL);
	}
	pushJsonbValue(state, WJB_END_OBJECT, NULL);
}

/* "from": ..., "to": ... */
static void
push_change(EviColumn *column, int i, const EviChangeRow *old, const EviChangeRow *new, JsonbParseState **state)
{
	JsonbValue	value;

	push_key(state, "from");
	evi_column_to_json(column, old ? old->values[i] : (Datum) 0, !old || old->isnull[i], &value);
	pushJsonbValue(state, WJB_VALUE, &value);
	push_key(state, "to");
	evi_column_to_json(column, new ? new->values[i] : (Datum) 0, !new || new->isnull[i], &value);
	pushJsonbValue(state, WJB_VALUE, &value);
}

static void
push_key(JsonbParseState **state, const char *key)
{
	JsonbValue	value = {.type = jbvString};

	value.val.string.val = unconstify(char *, key);
	value.val.string.len = strlen(key);
	pushJsonbValue(state, WJB_KEY, &value);
}
