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
#include "config.h"
#include "division.h"
#include "evinbox.h"
#include "inbox.h"
#include "incarnation.h"
#include "owner.h"
#include "query.h"
#include "relation.h"
#include "row.h"
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

static const EviRowKind kind = {
	.what = "rule",
	.a_row = "an inbox",
	.natts = Natts_inbox,
	.owner = Anum_inbox_owner,
	.owner_id = Anum_inbox_owner_id,
};

static bool is_same_code(const EviRow *a, const EviRow *b);
static void check_limits(const EviRow *row);
static void check_size(const EviRow *row);
static void check_owner(const EviRow *row, Oid owner);
static char *check_code(const EviRow *row, Oid owner);
static void check_condition_context(void *arg);
static void check_number_of_rules(void);

/* BEFORE INSERT OR UPDATE FOR EACH ROW */
Datum
evinbox_inbox_check(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	TupleDesc	desc;
	bool		is_update;
	HeapTuple	tuple;
	EviRow		new;
	EviRow		old;
	Oid			owner;
	int			replaced[] = {Anum_inbox_handler, Anum_inbox_search_path, Anum_inbox_id,
	Anum_inbox_owner_id};
	Datum		replacement[lengthof(replaced)];
	bool		replacement_isnull[lengthof(replaced)] = {0};

	evi_require_trigger(fcinfo);
	desc = RelationGetDescr(trigger->tg_relation);
	is_update = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event);
	tuple = is_update ? trigger->tg_newtuple : trigger->tg_trigtuple;

	evi_row_read(&new, &kind, tuple, desc);
	if (is_update)
		evi_row_read(&old, &kind, trigger->tg_trigtuple, desc);

	if (evi_row_text(&new, Anum_inbox_name)[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("name of an inbox must not be empty")));
	evi_row_check_list(&new, Anum_inbox_subject_types);
	evi_row_check_list(&new, Anum_inbox_actions);
	check_limits(&new);
	check_size(&new);
	if (!is_update)
	{
		evi_incarnation_require();
		evi_row_check_no_owner_id(&new);
		check_number_of_rules();
		evi_relation_check_id(EVI_INBOX_SEQ, evi_row_int(&new, Anum_inbox_id), "an inbox");
	}
	else if (!evi_row_same_text(&new, &old, Anum_inbox_start_at))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("start_at cannot be changed"),
				 errhint("Use replay() to offer past events again.")));

	replacement[2] = (is_update ? &old : &new)->values[Anum_inbox_id - 1];
	if (is_update)
		evi_row_check_rights(&old, "change");
	owner = evi_row_find_owner(trigger, &new, is_update ? &old : NULL);
	replacement[3] = ObjectIdGetDatum(owner);

	/* pausing a rule must not need a rule that works */
	if (is_update && owner == evi_row_owner(&old) && is_same_code(&new, &old))
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
	EviRow		row;

	evi_require_trigger(fcinfo);
	evi_row_read(&row, &kind, trigger->tg_trigtuple, RelationGetDescr(trigger->tg_relation));
	evi_row_check_rights(&row, "delete");
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
	EviRow		row;
	EviRow		new;

	evi_require_trigger(fcinfo);
	if (trigger->tg_trigtuple)
		evi_row_read(&row, &kind, trigger->tg_trigtuple, RelationGetDescr(trigger->tg_relation));
	if (TRIGGER_FIRED_BY_INSERT(trigger->tg_event))
		evi_division_start(evi_row_int(&row, Anum_inbox_id), evi_row_int(&row, Anum_inbox_shards),
						   evi_row_text(&row, Anum_inbox_start_at));
	if (TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
	{
		evi_row_read(&new, &kind, trigger->tg_newtuple, RelationGetDescr(trigger->tg_relation));
		if (evi_row_int(&row, Anum_inbox_shards) != evi_row_int(&new, Anum_inbox_shards))
			evi_division_change(evi_row_int(&new, Anum_inbox_id), evi_row_text(&new, Anum_inbox_name),
								evi_row_int(&row, Anum_inbox_shards),
								evi_row_int(&new, Anum_inbox_shards));
	}

	evi_wakeup_runners();
	evi_wakeup_coordinator();
	return PointerGetDatum(NULL);
}

/* nothing of what is run, and by whom; what our own handlers do, their config says */
static bool
is_same_code(const EviRow *a, const EviRow *b)
{
	static const int attnos[] = {Anum_inbox_handler, Anum_inbox_statement, Anum_inbox_condition,
	Anum_inbox_dispatch};

	for (int i = 0; i < lengthof(attnos); i++)
		if (!evi_row_same_text(a, b, attnos[i]))
			return false;
	return a->isnull[Anum_inbox_handler - 1] ||
		!evi_config_is_ours(evi_row_text(a, Anum_inbox_handler)) ||
		DatumGetBool(DirectFunctionCall2(jsonb_eq, a->values[Anum_inbox_config - 1],
										 b->values[Anum_inbox_config - 1]));
}

static void
check_limits(const EviRow *row)
{
	static const EviLimit limits[] = {
		{Anum_inbox_max_attempts, 1, 1000},
		{Anum_inbox_batch_size, 1, 1000000},
		{Anum_inbox_shards, 1, 64},
	};
	char	   *dispatch = evi_row_text(row, Anum_inbox_dispatch);

	if (strcmp(dispatch, "live") != 0 && strcmp(dispatch, "scheduled") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unrecognized value for dispatch: \"%s\"", dispatch),
				 errhint("Use \"live\" or \"scheduled\".")));

	evi_row_check_limits(row, limits, lengthof(limits));
	evi_row_check_interval(row, Anum_inbox_backoff);
	evi_row_check_interval(row, Anum_inbox_timeout);
}

static void
check_size(const EviRow *row)
{
	static const int attnos[] = {Anum_inbox_subject_types, Anum_inbox_actions,
		Anum_inbox_condition, Anum_inbox_handler, Anum_inbox_statement, Anum_inbox_config,
	Anum_inbox_start_at};
	Size		size = evi_row_size(row, attnos, lengthof(attnos));

	if (size > MAX_RULE_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("rule is too large"),
				 errdetail("It takes %zu bytes, and may take %d.", size, MAX_RULE_BYTES),
				 errhint("Keep what is large in a table, which the handler can look at.")));
}

/* The owner must be one of the writer's roles, and fit a worker. */
static void
check_owner(const EviRow *row, Oid owner)
{
	char	   *fault;

	evi_row_check_owner(row, owner);
	fault = evi_owner_fault(owner);
	if (fault && strcmp(evi_row_text(row, Anum_inbox_dispatch), "live") == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("%s, so no worker can run its rules", fault),
				 errhint("Use ALTER ROLE ... LOGIN (no password is needed) or GRANT CONNECT ON DATABASE, or dispatch \"scheduled\".")));
}

/* Looks up what the rule names; returns the full name of its handler, if it has one. */
static char *
check_code(const EviRow *row, Oid owner)
{
	EviInbox	rule = {
		.name = evi_row_text(row, Anum_inbox_name),
		.handler = evi_row_text(row, Anum_inbox_handler),
		.statement = evi_row_text(row, Anum_inbox_statement),
		.condition = evi_row_text(row, Anum_inbox_condition),
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
	char	   *name = NULL;

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
	if (rule.handler)
		name = quote_qualified_identifier(get_namespace_name(get_func_namespace(function)),
										  get_func_name(function));
	if (rule.handler && evi_config_is_ours(name))
		evi_config_check(name, DatumGetJsonbP(row->values[Anum_inbox_config - 1]));
	AtEOXact_GUC(false, guc_level);
	SetUserIdAndSecContext(userid, sec_context);

	error_context_stack = context.previous;

	return name;
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
	if (evi_relation_count(EVI_INBOX, SnapshotSelf) >= MAX_RULES)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("cannot have more than %d inboxes", MAX_RULES),
				 errhint("Let one inbox serve many cases: its handler can look up what to do in a table.")));
}
