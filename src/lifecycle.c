/*-------------------------------------------------------------------------
 *
 * lifecycle.c
 *		Databases and the extension itself, coming and going.
 *
 * Two hooks. Before a command that cannot work beside other sessions in a
 * database, our workers leave it, until the end of the transaction. When the
 * extension is dropped, by whatever command, its database is not registered
 * any more. And a COMMIT PREPARED may have made events visible that another
 * session recorded long ago.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "commands/event_trigger.h"
#include "commands/extension.h"
#include "commands/user.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "storage/lmgr.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

#include "compat.h"
#include "evinbox.h"
#include "lifecycle.h"
#include "owner.h"
#include "registry.h"
#include "relation.h"
#include "restoring.h"
#include "shmem.h"
#include "wakeup.h"

PG_FUNCTION_INFO_V1(evinbox_register_database);
PG_FUNCTION_INFO_V1(evinbox_before_drop);

static ProcessUtility_hook_type prev_process_utility = NULL;
static object_access_hook_type prev_object_access = NULL;

static void process_utility(PlannedStmt *pstmt, const char *query_string,
							bool read_only_tree, ProcessUtilityContext context,
							ParamListInfo params, QueryEnvironment *query_env,
							DestReceiver *dest, QueryCompletion *qc);
static void access_object(ObjectAccessType access, Oid class_id, Oid object_id,
						  int sub_id, void *arg);
static void prepare_for(Node *statement);
static void tell_roles_changed(void);
static void drop_owned(DropOwnedStmt *statement);
static void reassign_owned(ReassignOwnedStmt *statement);
static void keep_out(const char *database);
static void keep_out_of(Oid database);
static DefElem *find_option(List *options, const char *name);
static void prepare_for_script(void);
static bool drops_extension(const DropStmt *statement);
static void register_copy(CreatedbStmt *statement);
static const char *template_of(CreatedbStmt *statement);
static void set_registered(Oid database, bool is_registered);

void
evi_lifecycle_init(void)
{
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
	prev_object_access = object_access_hook;
	object_access_hook = access_object;
}

/* called by the installation script */
Datum
evinbox_register_database(PG_FUNCTION_ARGS)
{
	set_registered(MyDatabaseId, true);
	if (!evi_shmem_available())
		/* CREATE EXTENSION shows nothing less */
		ereport(WARNING,
				(errmsg("evinbox is not preloaded, so no background worker dispatches events"),
				 errhint("Add evinbox to shared_preload_libraries and restart the server, or call evinbox.run().")));
	PG_RETURN_VOID();
}

/*
 * An event trigger: before DROP OWNED, and that the library is loaded, and with
 * it the hooks, when somebody drops the extension.
 */
Datum
evinbox_before_drop(PG_FUNCTION_ARGS)
{
	if (!CALLED_AS_EVENT_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("this function can only be called as an event trigger")));
	if (IsA(((EventTriggerData *) fcinfo->context)->parsetree, DropOwnedStmt))
		drop_owned((DropOwnedStmt *) ((EventTriggerData *) fcinfo->context)->parsetree);
	PG_RETURN_VOID();
}

static void
process_utility(PlannedStmt *pstmt, const char *query_string, bool read_only_tree,
				ProcessUtilityContext context, ParamListInfo params,
				QueryEnvironment *query_env, DestReceiver *dest, QueryCompletion *qc)
{
	Node	   *statement = pstmt->utilityStmt;
	NodeTag		tag = nodeTag(statement);
	bool		was_restoring = evi_restoring();
	bool		is_restoring = tag == T_CopyStmt && evi_restoring_is((CopyStmt *) statement);
	int			guc_level = 0;

	/* in recovery nothing of ours runs, and the command itself refuses */
	if (evi_shmem_available() && IsUnderPostmaster && !RecoveryInProgress())
		prepare_for(statement);
	if (is_restoring)
	{
		pstmt = copyObject(pstmt);
		guc_level = evi_restoring_prepare((CopyStmt *) pstmt->utilityStmt);
		(void) evi_restoring_set(true);
	}

	PG_TRY();
	{
		(prev_process_utility ? prev_process_utility : standard_ProcessUtility)
			(pstmt, query_string, read_only_tree, context, params, query_env, dest, qc);
	}
	PG_FINALLY();
	{
		(void) evi_restoring_set(was_restoring);
	}
	PG_END_TRY();

	if (is_restoring)
		evi_restoring_finish((CopyStmt *) statement, guc_level);
	if (tag == T_ReassignOwnedStmt && evi_relation_installed())
		reassign_owned((ReassignOwnedStmt *) statement);
	if (tag == T_CreatedbStmt && evi_shmem_available())
		register_copy((CreatedbStmt *) statement);
}

/* A copy of a database with the extension has it, too. */
static void
register_copy(CreatedbStmt *statement)
{
	if (list_member_oid(evi_registry_databases(),
						get_database_oid(template_of(statement), true)))
		set_registered(get_database_oid(statement->dbname, false), true);
}

/* The command itself refuses, afterwards, whoever may not do this. */
static void
drop_owned(DropOwnedStmt *statement)
{
	ListCell   *lc;

	foreach(lc, roleSpecsToIds(statement->roles))
		if (has_privs_of_role(GetUserId(), lfirst_oid(lc)))
			evi_owner_drop_rules(lfirst_oid(lc));
}

static void
reassign_owned(ReassignOwnedStmt *statement)
{
	Oid			other = get_rolespec_oid(statement->newrole, false);
	ListCell   *lc;

	foreach(lc, roleSpecsToIds(statement->roles))
		evi_owner_reassign_rules(lfirst_oid(lc), other);
	evi_wakeup_runners();
	evi_wakeup_coordinator();
}

static void
access_object(ObjectAccessType access, Oid class_id, Oid object_id, int sub_id, void *arg)
{
	if (prev_object_access)
		prev_object_access(access, class_id, object_id, sub_id, arg);

	if (access == OAT_DROP && class_id == ExtensionRelationId &&
		object_id == get_extension_oid(EVI_EXTENSION, true))
		set_registered(MyDatabaseId, false);
}

static void
prepare_for(Node *statement)
{
	switch (nodeTag(statement))
	{
		case T_DropdbStmt:
			keep_out(((DropdbStmt *) statement)->dbname);
			break;
		case T_AlterDatabaseStmt:
			if (find_option(((AlterDatabaseStmt *) statement)->options, "tablespace") ||
				find_option(((AlterDatabaseStmt *) statement)->options, "allow_connections") ||
				find_option(((AlterDatabaseStmt *) statement)->options, "is_template"))
				keep_out(((AlterDatabaseStmt *) statement)->dbname);
			break;
		case T_RenameStmt:
			if (((RenameStmt *) statement)->renameType == OBJECT_DATABASE)
				keep_out(((RenameStmt *) statement)->subname);
			else if (((RenameStmt *) statement)->renameType == OBJECT_ROLE)
				tell_roles_changed();
			break;
		case T_CreateRoleStmt:
		case T_AlterRoleStmt:
		case T_DropRoleStmt:
		case T_GrantRoleStmt:
		case T_DropOwnedStmt:
		case T_ReassignOwnedStmt:
			tell_roles_changed();
			break;
		case T_AlterOwnerStmt:
			if (((AlterOwnerStmt *) statement)->objectType == OBJECT_DATABASE)
				tell_roles_changed();
			break;
		case T_GrantStmt:
			if (((GrantStmt *) statement)->objtype == OBJECT_DATABASE)
				tell_roles_changed();
			break;
		case T_CreatedbStmt:
			keep_out(template_of((CreatedbStmt *) statement));
			break;
		case T_DropStmt:
			if (drops_extension((DropStmt *) statement))
				prepare_for_script();
			break;
		case T_AlterExtensionStmt:
			if (strcmp(((AlterExtensionStmt *) statement)->extname, EVI_EXTENSION) == 0)
				prepare_for_script();
			evi_wakeup_everybody();
			break;
		case T_AlterExtensionContentsStmt:
			evi_wakeup_everybody();
			break;
		case T_TransactionStmt:
			if (((TransactionStmt *) statement)->kind == TRANS_STMT_COMMIT_PREPARED ||
				((TransactionStmt *) statement)->kind == TRANS_STMT_ROLLBACK_PREPARED)
			{
				evi_wakeup_runners();
				evi_wakeup_coordinator();
				evi_wakeup_courier();
			}
			break;
		default:
			break;
	}
}

/* Rules may have lost their owner, or its right to log in, or found it again. */
static void
tell_roles_changed(void)
{
	evi_wakeup_everybody();
}

static void
keep_out(const char *name)
{
	Oid			database;

	/* the command itself checks who may do what; until then, do no harm */
	if (!name || !IsTransactionState())
		return;
	database = get_database_oid(name, true);
	if (OidIsValid(database) && object_ownercheck(DatabaseRelationId, database, GetUserId()))
		keep_out_of(database);
}

static void
keep_out_of(Oid database)
{
	evi_wakeup_let_in();
	evi_shmem_keep_out(database);
}

static DefElem *
find_option(List *options, const char *name)
{
	ListCell   *lc;

	foreach(lc, options)
	{
		DefElem    *option = lfirst_node(DefElem, lc);

		if (strcmp(option->defname, name) == 0)
			return option;
	}
	return NULL;
}

static bool
drops_extension(const DropStmt *statement)
{
	ListCell   *lc;

	if (statement->removeType != OBJECT_EXTENSION)
		return false;
	foreach(lc, statement->objects)
		if (strcmp(strVal(lfirst(lc)), EVI_EXTENSION) == 0)
			return true;
	return false;
}

/*
 * The extension is about to be dropped, or a script may change any of its
 * tables in any order.
 */
static void
prepare_for_script(void)
{
	Oid			extension = get_extension_oid(EVI_EXTENSION, true);

	if (!OidIsValid(extension) ||
		!object_ownercheck(ExtensionRelationId, extension, GetUserId()))
		return;
	keep_out_of(MyDatabaseId);

	/* as whoever records does: this one first, or we deadlock */
	if (evi_relation_installed())
		LockRelationOid(evi_relation_oid(EVI_EVENT), AccessExclusiveLock);
}

static const char *
template_of(CreatedbStmt *statement)
{
	DefElem    *source = find_option(statement->options, "template");

	return source && source->arg ? defGetString(source) : "template1";
}

/* What the launcher goes by. */
static void
set_registered(Oid database, bool is_registered)
{
	evi_registry_set(database, is_registered);
	evi_wakeup_launcher();
	evi_wakeup_coordinator();
}
