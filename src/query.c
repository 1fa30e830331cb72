/*-------------------------------------------------------------------------
 *
 * query.c
 *		SQL from C: the one place that calls SPI.
 *
 * Two kinds of statements pass here. Our own are fixed texts with
 * parameters; they run inside a section, as the owner of evinbox.event, with
 * a search_path that nobody else controls, and call no code of a user. A
 * rule's condition runs outside of any section, as whoever runs the rule.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/nodeFuncs.h"
#include "nodes/parsenodes.h"
#include "parser/parser.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"

#include "compat.h"
#include "evinbox.h"
#include "query.h"
#include "relation.h"

static void check_expression(const char *condition);
static bool refuse_parameters(Node *node, void *context);
static void point_into_condition(void *arg);
static void expect(int actual, int expected, const char *sql);

/* Until left, or until the (sub)transaction aborts, we act as the owner. */
void
evi_section_enter(EviSection *section)
{
	Relation	event = table_open(evi_relation_oid(EVI_EVENT), AccessShareLock);
	Oid			owner = event->rd_rel->relowner;

	table_close(event, AccessShareLock);
	GetUserIdAndSecContext(&section->userid, &section->sec_context);
	SetUserIdAndSecContext(owner, section->sec_context | SECURITY_LOCAL_USERID_CHANGE);
	section->guc_level = evi_search_path_set("pg_catalog, pg_temp");

	/* our tables may be large and never analysed; every query has its index */
	(void) set_config_option("enable_seqscan", "off", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

void
evi_section_leave(EviSection *section)
{
	AtEOXact_GUC(true, section->guc_level);
	SetUserIdAndSecContext(section->userid, section->sec_context);
}

void
evi_query_open(void)
{
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
}

void
evi_query_close(void)
{
	if (SPI_finish() != SPI_OK_FINISH)
		elog(ERROR, "SPI_finish failed");
}

/* runs one of our own statements; returns how many rows it made or touched */
uint64
evi_query_run(EviQuery *query, Datum *args, const char *nulls, long limit)
{
	if (query->plan == NULL)
	{
		SPIPlanPtr	plan = SPI_prepare(query->sql, query->nargs, query->argtypes);

		if (plan == NULL)
			elog(ERROR, "could not prepare \"%s\": %s", query->sql,
				 SPI_result_code_string(SPI_result));
		SPI_keepplan(plan);
		query->plan = plan;
	}
	expect(SPI_execute_plan(query->plan, args, nulls, false, limit),
		   query->expected, query->sql);
	return SPI_processed;
}

/* a utility command of our own, made of names that we chose */
void
evi_query_utility(const char *sql)
{
	expect(SPI_execute(sql, false, 0), SPI_OK_UTILITY, sql);
}

Datum
evi_query_value(uint64 row, int column, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, isnull);
}

/* returns the nest level that AtEOXact_GUC() takes to undo it */
int
evi_search_path_set(const char *search_path)
{
	int			level = NewGUCNestLevel();

	(void) set_config_option("search_path", search_path, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	return level;
}

/*
 * Parses a rule's condition, which becomes the WHERE clause of a query over
 * an array of events. It runs no code of the condition.
 */
SPIPlanPtr
evi_condition_prepare(const char *condition)
{
	Oid			row_type = get_rel_type_id(evi_relation_oid(EVI_EVENT));
	Oid			array_type = get_array_type(row_type);
	char	   *sql;
	SPIPlanPtr	plan;

	check_expression(condition);

	/* the line break ends a comment, if it ends with one */
	sql = psprintf("SELECT e.id FROM pg_catalog.unnest($1) AS e WHERE (%s\n)", condition);
	plan = SPI_prepare(sql, 1, &array_type);
	if (plan == NULL)
		elog(ERROR, "could not prepare a condition: %s", SPI_result_code_string(SPI_result));
	return plan;
}

/* the ids of the events for which a condition is true, sorted */
void
evi_condition_run(SPIPlanPtr plan, ArrayType *events, MemoryContext context,
				  int64 **ids, int *count)
{
	Datum		arg = PointerGetDatum(events);

	expect(SPI_execute_plan(plan, &arg, NULL, false, 0), SPI_OK_SELECT, "condition");

	*count = (int) SPI_processed;
	*ids = MemoryContextAlloc(context, sizeof(int64) * Max(*count, 1));
	for (int i = 0; i < *count; i++)
	{
		bool		isnull;

		(*ids)[i] = DatumGetInt64(evi_query_value(i, 1, &isnull));
	}
	SPI_freetuptable(SPI_tuptable);

	/* a condition with a subquery may have become a join, in any order */
	qsort(*ids, *count, sizeof(int64), evi_compare_ids);
}

/*
 * A condition has to be one expression by itself, so that it still is one
 * when it stands in parentheses.
 */
static void
check_expression(const char *condition)
{
	ErrorContextCallback context = {
		.callback = point_into_condition,
		.arg = unconstify(char *, condition),
		.previous = error_context_stack,
	};
	List	   *parsed;
	SelectStmt *select;

	error_context_stack = &context;
	parsed = raw_parser(condition, RAW_PARSE_PLPGSQL_EXPR);
	error_context_stack = context.previous;

	select = (SelectStmt *) linitial_node(RawStmt, parsed)->stmt;
	if (list_length(parsed) != 1 || !IsA(select, SelectStmt) ||
		list_length(select->targetList) != 1 ||
		select->distinctClause || select->intoClause || select->fromClause ||
		select->whereClause || select->groupClause || select->havingClause ||
		select->windowClause || select->valuesLists || select->sortClause ||
		select->limitOffset || select->limitCount || select->lockingClause ||
		select->withClause || select->op != SETOP_NONE)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("condition is not one expression"),
				 errhint("Write a boolean expression over \"e\", for instance: e.metadata->>'urgency' = 'high'.")));
	(void) refuse_parameters((Node *) select, NULL);
}

/* $1 would be all events of the batch */
static bool
refuse_parameters(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, ParamRef))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_PARAMETER),
				 errmsg("there is no parameter $%d", ((ParamRef *) node)->number)));
	return raw_expression_tree_walker(node, refuse_parameters, context);
}

/* a position in an error is one in the condition, not in the user's query */
static void
point_into_condition(void *arg)
{
	int			position = geterrposition();

	if (position > 0)
	{
		errposition(0);
		internalerrposition(position);
		internalerrquery(arg);
	}
}

static void
expect(int actual, int expected, const char *sql)
{
	if (actual != expected)
		elog(ERROR, "\"%s\" returned %s", sql, SPI_result_code_string(actual));
}
