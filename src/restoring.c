/*-------------------------------------------------------------------------
 *
 * restoring.c
 *		The COPY by which a dump comes back.
 *
 * What pg_dump has written is to be stored as it was: events with the times
 * and causes that they had, rules whether they work here or not. Dispatch has
 * nothing to do with it. It is known by the columns that only evinbox fills,
 * and by who does it: a superuser.
 *
 * Events are dumped partition by partition. They come back by way of the
 * partitioned table, because here they may be divided otherwise. So do requests
 * and attempts, of which the partitions are not made again: they expire soon.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/pg_list.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

#include "evinbox.h"
#include "incarnation.h"
#include "owner.h"
#include "partition.h"
#include "query.h"
#include "relation.h"
#include "restoring.h"

#define PARTITION_PREFIX "event_"

static bool is_restoring = false;

/* what is divided by days */
static const char *const divided[] = {"request", "webhook_attempt"};

static void make_partition(CopyStmt *statement);
static void go_by_parent(CopyStmt *statement);
static void forget_owners(const RangeVar *relation);
static bool is_dumped(const RangeVar *relation, const List *columns);
static bool lists(const List *columns, const char *name);
static bool is_partition(const RangeVar *relation, const char *prefix);

/* Is what is inserted now what a dump says? */
bool
evi_restoring(void)
{
	return is_restoring;
}

/* returns what it was */
bool
evi_restoring_set(bool value)
{
	bool		former = is_restoring;

	is_restoring = value;
	return former;
}

bool
evi_restoring_is(const CopyStmt *statement)
{
	const RangeVar *relation = statement->relation;

	if (!statement->is_from || !relation || !relation->schemaname ||
		!is_dumped(relation, statement->attlist))
		return false;
	return superuser() && evi_relation_installed();
}

/*
 * Makes ready for it. Triggers and foreign keys are for what happens here: of
 * several tables that are restored side by side, one may be late. Returns what
 * evi_restoring_finish() needs.
 */
int
evi_restoring_prepare(CopyStmt *statement)
{
	int			guc_level;

	evi_incarnation_expect_copy();
	if (is_partition(statement->relation, PARTITION_PREFIX))
		make_partition(statement);
	go_by_parent(statement);
	guc_level = NewGUCNestLevel();
	(void) set_config_option("session_replication_role", "replica", PGC_SUSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	return guc_level;
}

/* Sees that there is a partition like the one that is dumped, if there is room for it. */
static void
make_partition(CopyStmt *statement)
{
	RangeVar   *relation = statement->relation;

	if (strcmp(relation->relname, PARTITION_PREFIX "default") != 0)
	{
		EviSection	section;

		evi_query_open();
		evi_section_enter(&section);
		evi_partition_make_at(relation->relname);
		evi_section_leave(&section);
		evi_query_close();
		CommandCounterIncrement();
	}
	statement->relation = makeRangeVar(EVI_SCHEMA, "event", -1);
}

static void
go_by_parent(CopyStmt *statement)
{
	for (int i = 0; i < lengthof(divided); i++)
		if (is_partition(statement->relation, psprintf("%s_", divided[i])))
			statement->relation = makeRangeVar(EVI_INTERNAL_SCHEMA, unconstify(char *, divided[i]), -1);
}

/* After what evi_restoring_is() was said of. */
void
evi_restoring_finish(const CopyStmt *statement, int guc_level)
{
	AtEOXact_GUC(true, guc_level);
	if (strcmp(statement->relation->schemaname, EVI_INTERNAL_SCHEMA) == 0)
		forget_owners(statement->relation);
	if (strcmp(statement->relation->schemaname, EVI_SCHEMA) != 0 ||
		(strcmp(statement->relation->relname, "inbox") != 0 &&
		 strcmp(statement->relation->relname, "endpoint") != 0))
		return;
	CommandCounterIncrement();
	evi_owner_find_by_name(false);
}

/*
 * What was sent belongs to a role by its OID only, which is somebody else's here,
 * or nobody's. Until resume_after_restore() finds the owner, it is nobody's.
 */
static void
forget_owners(const RangeVar *relation)
{
#define FORGET(table) { \
		.sql = "UPDATE " EVI_INTERNAL_SCHEMA "." table " SET owner_id = 0" \
		" WHERE owner_id OPERATOR(pg_catalog.<>) 0", \
		.expected = SPI_OK_UPDATE, \
		.nargs = 0, \
	}
	static EviQuery updates[] = {FORGET("request"), FORGET("webhook_attempt")};

	StaticAssertStmt(lengthof(updates) == lengthof(divided), "each has owners");
	for (int i = 0; i < lengthof(divided); i++)
		if (strcmp(relation->relname, divided[i]) == 0 ||
			is_partition(relation, psprintf("%s_", divided[i])))
		{
			CommandCounterIncrement();
			(void) evi_query_run_alone(&updates[i], NULL, NULL);
		}
}

/* Only a dump has our own tables, and these columns. */
static bool
is_dumped(const RangeVar *relation, const List *columns)
{
	if (strcmp(relation->schemaname, EVI_INTERNAL_SCHEMA) == 0)
		return true;
	if (strcmp(relation->schemaname, EVI_SCHEMA) != 0)
		return false;
	if (strcmp(relation->relname, "delivery") == 0)
		return true;
	return lists(columns, "id") &&
		((strcmp(relation->relname, "event") == 0 && lists(columns, "recorded_at")) ||
		 (strcmp(relation->relname, "inbox") == 0 && lists(columns, "owner_id")) ||
		 (strcmp(relation->relname, "endpoint") == 0 && lists(columns, "owner_id")));
}

static bool
lists(const List *columns, const char *name)
{
	ListCell   *lc;

	foreach(lc, columns)
		if (strcmp(strVal(lfirst(lc)), name) == 0)
			return true;
	return false;
}

/* also one that is not here */
static bool
is_partition(const RangeVar *relation, const char *prefix)
{
	const char *rest = relation->relname + strlen(prefix);

	return strcmp(relation->schemaname, EVI_INTERNAL_SCHEMA) == 0 &&
		strncmp(relation->relname, prefix, strlen(prefix)) == 0 &&
		(strcmp(rest, "default") == 0 || (*rest != '\0' && strspn(rest, "0123456789_") == strlen(rest)));
}
