/*-------------------------------------------------------------------------
 *
 * query.c
 *		SQL from C: the one place that calls SPI.
 *
 * Two kinds of statements pass here. Our own are fixed texts with
 * parameters; they run inside a section, as the owner of evinbox.event, with
 * a search_path that nobody else controls, and call no code of a user. A
 * rule's condition or statement runs outside of any section, as whoever runs
 * the rule.
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
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/queryenvironment.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "compat.h"
#include "evinbox.h"
#include "query.h"
#include "relation.h"

/* what a rule's statement reads */
#define EVENTS_RELATION "events"

static void prepare(EviQuery *query);
static void check_expression(const char *condition);
static void check_statement(const char *statement);
static List *parse(const char *text, RawParseMode mode);
static bool refuse_parameters(Node *node, void *context);
static void point_into_text(void *arg);
static void expect(int actual, int expected, const char *sql);

/* Until left, or until the (sub)transaction aborts, we act as the owner. */
void
evi_section_enter(EviSection *section)
{
	Relation	event = evi_relation_open(EVI_EVENT, AccessShareLock);
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
	prepare(query);
	expect(SPI_execute_plan(query->plan, args, nulls, false, limit),
		   query->expected, query->sql);
	return SPI_processed;
}

/* likewise one that changes nothing, with the snapshot that is in force */
uint64
evi_query_read(EviQuery *query, Datum *args, const char *nulls)
{
	prepare(query);
	expect(SPI_execute_plan(query->plan, args, nulls, true, 0), query->expected, query->sql);
	return SPI_processed;
}

/* the same, in a section of its own, for what returns no rows that matter */
uint64
evi_query_run_alone(EviQuery *query, Datum *args, const char *nulls)
{
	EviSection	section;
	uint64		result;

	evi_query_open();
	evi_section_enter(&section);
	result = evi_query_run(query, args, nulls, 0);
	evi_section_leave(&section);
	evi_query_close();
	return result;
}

/* likewise, with what is committed by now, whatever the transaction's isolation */
uint64
evi_query_run_latest(EviQuery *query, Datum *args)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	EviSection	section;
	uint64		result;

	evi_query_open();
	evi_section_enter(&section);
	prepare(query);
	expect(SPI_execute_snapshot(query->plan, args, NULL, snapshot, InvalidSnapshot, false, true, 0),
		   query->expected, query->sql);
	result = SPI_processed;
	evi_section_leave(&section);
	evi_query_close();
	UnregisterSnapshot(snapshot);
	return result;
}

/* a utility command of our own, made of names that we chose */
void
evi_query_utility(const char *sql)
{
	expect(SPI_execute(sql, false, 0), SPI_OK_UTILITY, sql);
}

/* likewise, a query whose result does not matter */
void
evi_query_select(const char *sql)
{
	expect(SPI_execute(sql, false, 0), SPI_OK_SELECT, sql);
}

Datum
evi_query_value(uint64 row, int column, bool *isnull)
{
	return SPI_getbinval(SPI_tuptable->vals[row], SPI_tuptable->tupdesc, column, isnull);
}

/* values of a type as an argument; "isnull" may be NULL */
Datum
evi_query_array(Oid type, Datum *values, bool *isnull, int count)
{
	int16		length;
	bool		by_value;
	char		alignment;
	int			lower = 1;

	get_typlenbyvalalign(type, &length, &by_value, &alignment);
	return PointerGetDatum(construct_md_array(values, isnull, 1, &count, &lower, type, length,
											  by_value, alignment));
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
 * Gives the current SPI connection a relation of events, as a trigger has its
 * transition tables, and returns what its rows are to be put into.
 */
Tuplestorestate *
evi_statement_open(int nevents)
{
	EphemeralNamedRelation relation = palloc0(sizeof(EphemeralNamedRelationData));

	/* the parser believes that whoever registers it has locked what it is like */
	LockRelationOid(evi_relation_oid(EVI_EVENT), AccessShareLock);
	relation->md.name = EVENTS_RELATION;
	relation->md.reliddesc = evi_relation_oid(EVI_EVENT);
	relation->md.enrtype = ENR_NAMED_TUPLESTORE;
	relation->md.enrtuples = nevents;
	relation->reldata = tuplestore_begin_heap(false, false, work_mem);
	if (SPI_register_relation(relation) != SPI_OK_REL_REGISTER)
		elog(ERROR, "SPI_register_relation failed");
	return relation->reldata;
}

/* Parses a rule's statement, of which it runs nothing. */
SPIPlanPtr
evi_statement_prepare(const char *statement)
{
	SPIPlanPtr	plan;

	check_statement(statement);
	plan = SPI_prepare(statement, 0, NULL);
	if (plan == NULL)
		elog(ERROR, "could not prepare a statement: %s", SPI_result_code_string(SPI_result));
	return plan;
}

/* Rows that it returns are of no interest. */
void
evi_statement_run(SPIPlanPtr plan)
{
	SPIExecuteOptions options = {.dest = None_Receiver};
	int			result = SPI_execute_plan_extended(plan, &options);

	if (result < 0)
		elog(ERROR, "could not run a statement: %s", SPI_result_code_string(result));
}

/* once in a session */
static void
prepare(EviQuery *query)
{
	SPIPlanPtr	plan;

	if (query->plan)
		return;
	plan = SPI_prepare(query->sql, query->nargs, query->argtypes);
	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\": %s", query->sql,
			 SPI_result_code_string(SPI_result));
	SPI_keepplan(plan);
	query->plan = plan;
}

/*
 * A condition has to be one expression by itself, so that it still is one
 * when it stands in parentheses.
 */
static void
check_expression(const char *condition)
{
	List	   *parsed = parse(condition, RAW_PARSE_PLPGSQL_EXPR);
	SelectStmt *select = (SelectStmt *) linitial_node(RawStmt, parsed)->stmt;

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

/* One statement, of a kind that can read a relation and change rows. */
static void
check_statement(const char *statement)
{
	List	   *parsed = parse(statement, RAW_PARSE_DEFAULT);
	Node	   *one;

	if (list_length(parsed) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_SYNTAX_ERROR),
				 errmsg("an inbox takes exactly one statement"),
				 errhint("Use WITH to do several things at once, or a handler function.")));
	one = linitial_node(RawStmt, parsed)->stmt;
	if (!(IsA(one, InsertStmt) || IsA(one, UpdateStmt) || IsA(one, DeleteStmt) ||
		  IsA(one, MergeStmt) || (IsA(one, SelectStmt) && !((SelectStmt *) one)->intoClause)))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("statement of an inbox must be INSERT, UPDATE, DELETE, MERGE, or SELECT without INTO"),
				 errhint("Use a handler function for anything else.")));
}

/* a position in an error is one in the text, not in the user's query */
static List *
parse(const char *text, RawParseMode mode)
{
	ErrorContextCallback context = {
		.callback = point_into_text,
		.arg = unconstify(char *, text),
		.previous = error_context_stack,
	};
	List	   *result;

	error_context_stack = &context;
	result = raw_parser(text, mode);
	error_context_stack = context.previous;
	return result;
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

static void
point_into_text(void *arg)
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
