/*-------------------------------------------------------------------------
 *
 * rule.c
 *		SQL entry points of writing rules: the triggers of evinbox.inbox.
 *
 * A rule that cannot work is refused when it is written, by the one who
 * writes it. It is looked up with the same code that will run it later.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "access/sysattr.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "division.h"
#include "evinbox.h"
#include "inbox.h"
#include "incarnation.h"
#include "owner.h"
#include "query.h"
#include "relation.h"
#include "trigger.h"
#include "wakeup.h"

/* more would slow down every look of a runner */
#define MAX_RULES 10000

/* the coordinator, which serves all owners, has all of them in memory */
#define MAX_RULE_BYTES (1024 * 1024)

PG_FUNCTION_INFO_V1(evinbox_inbox_check);
PG_FUNCTION_INFO_V1(evinbox_inbox_check_delete);
PG_FUNCTION_INFO_V1(evinbox_inbox_owners_changed);
PG_FUNCTION_INFO_V1(evinbox_inbox_changed);

/* a row of evinbox.inbox as it is to be written */
typedef struct RuleRow
{
	Datum		values[Natts_inbox];
	bool		isnull[Natts_inbox];
} RuleRow;

static void read_row(RuleRow *row, HeapTuple tuple, TupleDesc desc);
static char *get_text(const RuleRow *row, int attno);
static bool is_same_code(const RuleRow *a, const RuleRow *b);
static bool same_text(const RuleRow *a, const RuleRow *b, int attno);
static void check_lists(const RuleRow *row);
static void check_limits(const RuleRow *row);
static void check_size(const RuleRow *row);
static void check_interval(const RuleRow *row, int attno, const char *name);
static Oid	get_owner(const RuleRow *row);
static char *get_owner_name(const RuleRow *row);
static Oid	find_owner(const RuleRow *row);
static bool names_owner(const TriggerData *trigger, const RuleRow *new, const RuleRow *old);
static void check_owner(const RuleRow *row, Oid owner);
static void check_rights(const RuleRow *row, const char *verb);
static char *check_code(const RuleRow *row, Oid owner);
static void check_condition_context(void *arg);
static void check_number_of_rules(void);
static int	get_int(const RuleRow *row, int attno);

/* BEFORE INSERT OR UPDATE FOR EACH ROW */
Datum
evinbox_inbox_check(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	TupleDesc	desc;
	bool		is_update;
	HeapTuple	tuple;
	RuleRow		new;
	RuleRow		old;
	Oid			owner;
	int			replaced[] = {Anum_inbox_handler, Anum_inbox_search_path, Anum_inbox_id,
	Anum_inbox_owner_id};
	Datum		replacement[lengthof(replaced)];
	bool		replacement_isnull[lengthof(replaced)] = {0};

	evi_require_trigger(fcinfo);
	desc = RelationGetDescr(trigger->tg_relation);
	is_update = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event);
	tuple = is_update ? trigger->tg_newtuple : trigger->tg_trigtuple;

	read_row(&new, tuple, desc);
	if (is_update)
		read_row(&old, trigger->tg_trigtuple, desc);

	if (get_text(&new, Anum_inbox_name)[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("name of an inbox must not be empty")));
	check_lists(&new);
	check_limits(&new);
	check_size(&new);
	if (!is_update)
	{
		evi_incarnation_require();
		if (OidIsValid(get_owner(&new)))
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("owner_id of an inbox cannot be given"),
					 errhint("A dump is restored by COPY: use pg_dump without --inserts.")));
		check_number_of_rules();
		evi_relation_check_id(EVI_INBOX_SEQ, get_int(&new, Anum_inbox_id), "an inbox");
	}
	else if (!same_text(&new, &old, Anum_inbox_start_at))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("start_at cannot be changed"),
				 errhint("Use replay() to offer past events again.")));

	replacement[2] = (is_update ? &old : &new)->values[Anum_inbox_id - 1];
	if (is_update)
		check_rights(&old, "change");
	owner = is_update && !names_owner(trigger, &new, &old) ? get_owner(&old) :
		find_owner(&new);
	replacement[3] = ObjectIdGetDatum(owner);
	if (!is_update || owner != get_owner(&old))
		evi_owner_hold(owner);

	/* pausing a rule must not need a rule that works */
	if (is_update && owner == get_owner(&old) && is_same_code(&new, &old))
	{
		replacement[0] = old.values[Anum_inbox_handler - 1];
		replacement_isnull[0] = old.isnull[Anum_inbox_handler - 1];
		replacement[1] = old.values[Anum_inbox_search_path - 1];
	}
	else
	{
		char	   *handler;

		check_owner(&new, owner);
		handler = check_code(&new, owner);
		replacement[0] = handler ? CStringGetTextDatum(handler) : (Datum) 0;
		replacement_isnull[0] = handler == NULL;
		replacement[1] = CStringGetTextDatum(GetConfigOption("search_path", false, false));
	}
	return PointerGetDatum(heap_modify_tuple_by_cols(tuple, desc, lengthof(replaced), replaced,
													 replacement, replacement_isnull));
}

/* BEFORE DELETE FOR EACH ROW */
Datum
evinbox_inbox_check_delete(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	RuleRow		row;

	evi_require_trigger(fcinfo);
	read_row(&row, trigger->tg_trigtuple, RelationGetDescr(trigger->tg_relation));
	check_rights(&row, "delete");
	return PointerGetDatum(trigger->tg_trigtuple);
}

/* AFTER INSERT OR UPDATE OF owner OR DELETE OR TRUNCATE FOR EACH STATEMENT */
Datum
evinbox_inbox_owners_changed(PG_FUNCTION_ARGS)
{
	evi_require_trigger(fcinfo);
	evi_owner_sync();
	return PointerGetDatum(NULL);
}

/* AFTER INSERT OR UPDATE OR DELETE FOR EACH ROW, AFTER TRUNCATE */
Datum
evinbox_inbox_changed(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	RuleRow		row;
	RuleRow		new;

	evi_require_trigger(fcinfo);
	if (trigger->tg_trigtuple)
		read_row(&row, trigger->tg_trigtuple, RelationGetDescr(trigger->tg_relation));
	if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
		evi_division_start(get_int(&row, Anum_inbox_id), get_int(&row, Anum_inbox_shards),
						   get_text(&row, Anum_inbox_start_at));
	if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
	{
		read_row(&new, trigger->tg_newtuple, RelationGetDescr(trigger->tg_relation));
		if (get_int(&row, Anum_inbox_shards) != get_int(&new, Anum_inbox_shards))
			evi_division_change(get_int(&new, Anum_inbox_id), get_text(&new, Anum_inbox_name),
								get_int(&row, Anum_inbox_shards),
								get_int(&new, Anum_inbox_shards));
	}

	evi_wakeup_runners();
	evi_wakeup_coordinator();
	return PointerGetDatum(NULL);
}

static void
read_row(RuleRow *row, HeapTuple tuple, TupleDesc desc)
{
	for (int i = 0; i < lengthof(row->values); i++)
		row->values[i] = heap_getattr(tuple, i + 1, desc, &row->isnull[i]);

	/* these have a default, and no meaning without a value */
	for (int i = 0; i < lengthof(row->values); i++)
		if (row->isnull[i] && TupleDescAttr(desc, i)->attnotnull)
			ereport(ERROR,
					(errcode(ERRCODE_NOT_NULL_VIOLATION),
					 errmsg("\"%s\" of an inbox must not be null",
							NameStr(TupleDescAttr(desc, i)->attname))));
}

/* NULL for a null */
static char *
get_text(const RuleRow *row, int attno)
{
	return row->isnull[attno - 1] ? NULL : TextDatumGetCString(row->values[attno - 1]);
}

/* nothing of what is run, and by whom */
static bool
is_same_code(const RuleRow *a, const RuleRow *b)
{
	static const int attnos[] = {Anum_inbox_handler, Anum_inbox_statement, Anum_inbox_condition,
	Anum_inbox_dispatch};

	for (int i = 0; i < lengthof(attnos); i++)
		if (!same_text(a, b, attnos[i]))
			return false;
	return true;
}

static bool
same_text(const RuleRow *a, const RuleRow *b, int attno)
{
	char	   *left = get_text(a, attno);
	char	   *right = get_text(b, attno);

	return left && right ? strcmp(left, right) == 0 : left == right;
}

static void
check_lists(const RuleRow *row)
{
	static const int attnos[] = {Anum_inbox_subject_types, Anum_inbox_actions};
	static const char *const names[] = {"subject_types", "actions"};

	for (int i = 0; i < lengthof(attnos); i++)
	{
		ArrayType  *array;

		if (row->isnull[attnos[i] - 1])
			continue;
		array = DatumGetArrayTypeP(row->values[attnos[i] - 1]);
		if (ARR_NDIM(array) != 1 || array_contains_nulls(array))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("%s must be a list of at least one name", names[i]),
					 errhint("Use null for all.")));
	}
}

static void
check_limits(const RuleRow *row)
{
	static const struct
	{
		int			attno;
		const char *name;
		int			least;
		int			most;
	}			limits[] = {
		{Anum_inbox_max_attempts, "max_attempts", 1, 1000},
		{Anum_inbox_batch_size, "batch_size", 1, 1000000},
		{Anum_inbox_shards, "shards", 1, 64},
	};
	char	   *dispatch = get_text(row, Anum_inbox_dispatch);

	if (strcmp(dispatch, "live") != 0 && strcmp(dispatch, "scheduled") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unrecognized value for dispatch: \"%s\"", dispatch),
				 errhint("Use \"live\" or \"scheduled\".")));

	for (int i = 0; i < lengthof(limits); i++)
	{
		int			value = get_int(row, limits[i].attno);

		if (value < limits[i].least || value > limits[i].most)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("%s must be between %d and %d", limits[i].name,
							limits[i].least, limits[i].most)));
	}

	check_interval(row, Anum_inbox_backoff, "backoff");
	check_interval(row, Anum_inbox_timeout, "timeout");
}

static void
check_size(const RuleRow *row)
{
	static const int attnos[] = {Anum_inbox_subject_types, Anum_inbox_actions,
		Anum_inbox_condition, Anum_inbox_handler, Anum_inbox_statement, Anum_inbox_config,
	Anum_inbox_start_at};
	Size		size = 0;

	for (int i = 0; i < lengthof(attnos); i++)
		if (!row->isnull[attnos[i] - 1])
			size += toast_raw_datum_size(row->values[attnos[i] - 1]);
	if (size > MAX_RULE_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("rule is too large"),
				 errdetail("It takes %zu bytes, and may take %d.", size, MAX_RULE_BYTES),
				 errhint("Keep what is large in a table, which the handler can look at.")));
}

static void
check_interval(const RuleRow *row, int attno, const char *name)
{
	Datum		value = row->values[attno - 1];
	Interval	zero = {0};
	Interval	most = {.month = 12};

	if (DatumGetBool(DirectFunctionCall2(interval_lt, value, IntervalPGetDatum(&zero))) ||
		DatumGetBool(DirectFunctionCall2(interval_gt, value, IntervalPGetDatum(&most))))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be between 0 and 1 year", name)));
}

static Oid
get_owner(const RuleRow *row)
{
	return DatumGetObjectId(row->values[Anum_inbox_owner_id - 1]);
}

static char *
get_owner_name(const RuleRow *row)
{
	return NameStr(*DatumGetName(row->values[Anum_inbox_owner - 1]));
}

/* the role that the rule names as its owner */
static Oid
find_owner(const RuleRow *row)
{
	return get_role_oid(get_owner_name(row), false);
}

/*
 * Does an update say whose the rule is to be? Not if it writes the same name
 * again: the owner may have been renamed since, and another role be called so.
 */
static bool
names_owner(const TriggerData *trigger, const RuleRow *new, const RuleRow *old)
{
	if (!bms_is_member(Anum_inbox_owner - FirstLowInvalidHeapAttributeNumber,
					   trigger->tg_updatedcols))
		return false;
	return !evi_owner_exists(get_owner(old)) ||
		strcmp(get_owner_name(new), get_owner_name(old)) != 0;
}

/* The owner must be one of the writer's roles, and fit a worker. */
static void
check_owner(const RuleRow *row, Oid owner)
{
	char	   *fault;

	if (!evi_owner_allows(owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be member of role \"%s\" to write a rule for it",
						get_owner_name(row))));

	fault = evi_owner_fault(owner);
	if (fault && strcmp(get_text(row, Anum_inbox_dispatch), "live") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s, so no worker can run its rules", fault),
				 errhint("Use ALTER ROLE ... LOGIN (no password is needed) or GRANT CONNECT ON DATABASE, or dispatch \"scheduled\".")));
}

static void
check_rights(const RuleRow *row, const char *verb)
{
	if (!evi_owner_allows(get_owner(row)))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be member of role \"%s\" to %s its rule",
						get_owner_name(row), verb)));
}

/* Looks up what the rule names; returns the full name of its handler, if it has one. */
static char *
check_code(const RuleRow *row, Oid owner)
{
	EviInbox	rule = {
		.name = get_text(row, Anum_inbox_name),
		.handler = get_text(row, Anum_inbox_handler),
		.statement = get_text(row, Anum_inbox_statement),
		.condition = get_text(row, Anum_inbox_condition),
	};
	EviHandler	handler = {0};
	ErrorContextCallback context = {
		.callback = check_condition_context,
		.arg = rule.name,
	};
	Oid			userid;
	int			sec_context;
	int			guc_level;
	Oid			function;

	if (!rule.handler && !rule.statement)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("an inbox needs a handler or a statement")));
	if (rule.handler && rule.statement)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("an inbox cannot have both a handler and a statement")));

	/* nobody runs it, and it is not to be looked at as whoever writes it */
	if (!evi_owner_exists(owner))
		return rule.handler;

	context.previous = error_context_stack;
	error_context_stack = &context;

	/*
	 * What counts is what the owner may do. Nothing of the rule is executed, but
	 * for checks of domains that a constant of an array or a row may have. That
	 * is the owner's code, in a session that may be another's: it cannot go back
	 * to that role, and leaves no settings.
	 */
	guc_level = NewGUCNestLevel();
	GetUserIdAndSecContext(&userid, &sec_context);
	SetUserIdAndSecContext(owner, sec_context | SECURITY_RESTRICTED_OPERATION);
	evi_query_open();
	evi_inbox_prepare(&rule, 0, &handler);
	function = handler.function.fn_oid;
	evi_query_close();
	AtEOXact_GUC(false, guc_level);
	SetUserIdAndSecContext(userid, sec_context);

	error_context_stack = context.previous;

	if (!rule.handler)
		return NULL;
	return quote_qualified_identifier(get_namespace_name(get_func_namespace(function)),
									  get_func_name(function));
}

static void
check_condition_context(void *arg)
{
	errcontext("inbox \"%s\"", (char *) arg);
}

/* Every commit with events has a look at all of them. */
static void
check_number_of_rules(void)
{
	if (evi_inbox_count(SnapshotSelf) >= MAX_RULES)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("cannot have more than %d inboxes", MAX_RULES),
				 errhint("Let one inbox serve many cases: its handler can look up what to do in a table.")));
}

static int
get_int(const RuleRow *row, int attno)
{
	return DatumGetInt32(row->values[attno - 1]);
}
