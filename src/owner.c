/*-------------------------------------------------------------------------
 *
 * owner.c
 *		Roles as owners of rules and endpoints.
 *
 * Both belong to a role by its OID, so that they follow the role when that is
 * renamed, and no later role of the same name gets them. The shared catalogs
 * know of it by an entry like that of a column's privileges: DROP ROLE refuses,
 * in whichever database, and says what is in its way.
 *
 * What is said of rules here is true of endpoints. Whoever gives a role a rule holds a lock on it, so that nobody takes the entry
 * away who does not see that rule yet. Whoever cannot take it away for that
 * leaves it to the coordinator.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/catalog.h"
#include "catalog/dependency.h"
#include "catalog/indexing.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "catalog/pg_shdepend.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "compat.h"
#include "evinbox.h"
#include "owner.h"
#include "query.h"
#include "relation.h"

/* the tables whose rows have owners; queries on them are in the same order */
static const struct
{
	EviTable	table;
	int			owner;
	int			owner_id;
}			owned[] = {
	{EVI_INBOX, Anum_inbox_owner, Anum_inbox_owner_id},
	{EVI_ENDPOINT, Anum_endpoint_owner, Anum_endpoint_owner_id},
};

static void sync_table(int n);
static void change_dependencies(int n, List *former, List *new);
static List *read_dependencies(int n);
static List *read_owners(int n);
static Oid *to_array(List *roles);
static void change_owners(EviQuery *updates, Datum *args);
static bool has_stale_names(void);
static bool has_stale_name(int n);

bool
evi_owner_exists(Oid role)
{
	return OidIsValid(role) && SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(role));
}

/* Why a worker cannot run a role's rules in this database; NULL if it can. */
char *
evi_owner_fault(Oid role)
{
	HeapTuple	tuple = SearchSysCache1(AUTHOID, ObjectIdGetDatum(role));
	Form_pg_authid form;
	char	   *result = NULL;

	if (!HeapTupleIsValid(tuple))
		return "its owner does not exist";
	form = (Form_pg_authid) GETSTRUCT(tuple);
	if (EVI_WORKER_NEEDS_LOGIN && !form->rolcanlogin)
		result = psprintf("role \"%s\" cannot log in", NameStr(form->rolname));
	else if (object_aclcheck(DatabaseRelationId, MyDatabaseId, role, ACL_CONNECT) != ACLCHECK_OK)
		result = psprintf("role \"%s\" may not connect to database \"%s\"",
						  NameStr(form->rolname), get_database_name(MyDatabaseId));
	ReleaseSysCache(tuple);
	return result;
}

/* May the current user do what the role may? That of a role that is gone, only superusers. */
bool
evi_owner_allows(Oid role)
{
	return evi_owner_exists(role) ? member_can_set_role(GetUserId(), role) : superuser();
}

/* The role is about to have a rule, until the end of the transaction at least. */
void
evi_owner_hold(Oid role)
{
	LockDatabaseObject(AuthIdRelationId, role, 0, ShareLock);
}

/* Makes the shared catalogs know the roles that have rules here, and no others. */
void
evi_owner_sync(void)
{
	for (int n = 0; n < lengthof(owned); n++)
		sync_table(n);
}

static void
sync_table(int n)
{
	List	   *former = read_dependencies(n);
	List	   *owners = read_owners(n);
	List	   *locked = NIL;
	List	   *gone = NIL;
	ListCell   *lc;

	change_dependencies(n, NIL, list_difference_oid(owners, former));
	foreach(lc, list_difference_oid(former, owners))
		if (ConditionalLockDatabaseObject(AuthIdRelationId, lfirst_oid(lc), 0, ExclusiveLock))
			locked = lappend_oid(locked, lfirst_oid(lc));
	if (!locked)
		return;

	/* only now it is certain that nobody has given them one, nor done this already */
	former = read_dependencies(n);
	owners = read_owners(n);
	foreach(lc, locked)
		if (list_member_oid(former, lfirst_oid(lc)) && !list_member_oid(owners, lfirst_oid(lc)))
			gone = lappend_oid(gone, lfirst_oid(lc));
	change_dependencies(n, gone, NIL);
}

/* Roles may have been renamed. Returns whether somebody has one of their rules locked. */
bool
evi_owner_mend_names(void)
{
#define MEND(table) { \
		.sql = "UPDATE " table " i SET owner = s.rolname" \
		" FROM (SELECT j.id, a.rolname FROM " table " j" \
		" JOIN pg_catalog.pg_authid a ON a.oid OPERATOR(pg_catalog.=) j.owner_id" \
		" WHERE a.rolname OPERATOR(pg_catalog.<>) j.owner FOR NO KEY UPDATE OF j SKIP LOCKED) s" \
		" WHERE s.id OPERATOR(pg_catalog.=) i.id", \
		.expected = SPI_OK_UPDATE, \
		.nargs = 0, \
	}
	static EviQuery updates[] = {MEND("evinbox.inbox"), MEND("evinbox.endpoint")};

	if (!has_stale_names())
		return false;
	change_owners(updates, NULL);
	return has_stale_names();
}

/* Rules that came with a dump belong to whoever is called so here, if anybody is. */
void
evi_owner_find_by_name(bool missing_only)
{
#define FIND(table) { \
		.sql = "UPDATE " table " i SET owner_id = COALESCE((SELECT a.oid FROM pg_catalog.pg_authid a" \
		" WHERE a.rolname OPERATOR(pg_catalog.=) i.owner), 0)" \
		" WHERE i.owner_id OPERATOR(pg_catalog.=) 0 OR NOT $1", \
		.expected = SPI_OK_UPDATE, \
		.nargs = 1, \
		.argtypes = {BOOLOID}, \
	}
	static EviQuery updates[] = {FIND("evinbox.inbox"), FIND("evinbox.endpoint")};
	Datum		arg = BoolGetDatum(missing_only);
	ListCell   *lc;

	change_owners(updates, &arg);
	for (int n = 0; n < lengthof(owned); n++)
		foreach(lc, read_owners(n))
			evi_owner_hold(lfirst_oid(lc));
	evi_owner_sync();
}

/* as DROP OWNED does with what a role has in this database */
void
evi_owner_drop_rules(Oid role)
{
#define DROP(table) { \
		.sql = "DELETE FROM " table " i WHERE i.owner_id OPERATOR(pg_catalog.=) $1", \
		.expected = SPI_OK_DELETE, \
		.nargs = 1, \
		.argtypes = {OIDOID}, \
	}
	static EviQuery deletions[] = {DROP("evinbox.inbox"), DROP("evinbox.endpoint")};
	Datum		arg = ObjectIdGetDatum(role);

	for (int n = 0; n < lengthof(owned); n++)
		(void) evi_query_run_alone(&deletions[n], &arg, NULL);
}

/*
 * As REASSIGN OWNED does, whether they work or not. What a role could not have
 * done itself, its rules do only when the new owner has let them go on; nor does
 * an endpoint hear of that owner's events before.
 */
void
evi_owner_reassign_rules(Oid role, Oid other)
{
#define REASSIGN(table) { \
		.sql = "UPDATE " table " i SET owner = a.rolname, owner_id = a.oid," \
		" enabled = i.enabled AND pg_catalog.pg_has_role($1, $2, 'MEMBER') FROM pg_catalog.pg_authid a" \
		" WHERE a.oid OPERATOR(pg_catalog.=) $2 AND i.owner_id OPERATOR(pg_catalog.=) $1", \
		.expected = SPI_OK_UPDATE, \
		.nargs = 2, \
		.argtypes = {OIDOID, OIDOID}, \
	}
	static EviQuery updates[] = {REASSIGN("evinbox.inbox"), REASSIGN("evinbox.endpoint")};
	Datum		args[] = {ObjectIdGetDatum(role), ObjectIdGetDatum(other)};

	evi_owner_hold(other);
	change_owners(updates, args);
	evi_owner_sync();
}

/*
 * Without triggers: these check what somebody writes, and look at the code. So
 * does a trigger of others, and dumps are restored without any, too.
 */
static void
change_owners(EviQuery *updates, Datum *args)
{
	EviSection	section;

	evi_query_open();
	evi_section_enter(&section);
	(void) set_config_option("session_replication_role", "replica", PGC_SUSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	for (int n = 0; n < lengthof(owned); n++)
		(void) evi_query_run(&updates[n], args, NULL, 0);
	evi_section_leave(&section);
	evi_query_close();
}

static void
change_dependencies(int n, List *former, List *new)
{
	Relation	rel;

	if (!former && !new)
		return;
	rel = evi_relation_open(owned[n].table, AccessShareLock);
	updateAclDependencies(RelationRelationId, RelationGetRelid(rel), owned[n].owner,
						  rel->rd_rel->relowner,
						  list_length(former), to_array(former),
						  list_length(new), to_array(new));
	table_close(rel, AccessShareLock);
}

/* the roles that are entered for our column */
static List *
read_dependencies(int n)
{
	Relation	rel = table_open(SharedDependRelationId, AccessShareLock);
	ScanKeyData keys[4];
	SysScanDesc scan;
	HeapTuple	tuple;
	List	   *result = NIL;

	ScanKeyInit(&keys[0], Anum_pg_shdepend_dbid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(MyDatabaseId));
	ScanKeyInit(&keys[1], Anum_pg_shdepend_classid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(RelationRelationId));
	ScanKeyInit(&keys[2], Anum_pg_shdepend_objid, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(evi_relation_oid(owned[n].table)));
	ScanKeyInit(&keys[3], Anum_pg_shdepend_objsubid, BTEqualStrategyNumber, F_INT4EQ,
				Int32GetDatum(owned[n].owner));
	scan = systable_beginscan(rel, SharedDependDependerIndexId, true, NULL, 4, keys);
	while ((tuple = systable_getnext(scan)) != NULL)
		result = list_append_unique_oid(result, ((Form_pg_shdepend) GETSTRUCT(tuple))->refobjid);
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}

/* those who have rules; but for roles that no one can drop, or that are gone */
static List *
read_owners(int n)
{
	Relation	rel = evi_relation_open(owned[n].table, AccessShareLock);
	TableScanDesc scan;
	HeapTuple	tuple;
	List	   *result = NIL;

	scan = table_beginscan(rel, SnapshotSelf, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		bool		isnull;
		Oid			role = DatumGetObjectId(heap_getattr(tuple, owned[n].owner_id,
														 RelationGetDescr(rel), &isnull));

		if (!list_member_oid(result, role) && evi_owner_exists(role) &&
			!IsPinnedObject(AuthIdRelationId, role) && role != rel->rd_rel->relowner)
			result = lappend_oid(result, role);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}

/* as updateAclDependencies() wants them: sorted, and its own to free */
static Oid *
to_array(List *roles)
{
	List	   *sorted = list_copy(roles);
	Oid		   *result = palloc(sizeof(Oid) * Max(list_length(roles), 1));

	list_sort(sorted, list_oid_cmp);
	for (int i = 0; i < list_length(sorted); i++)
		result[i] = list_nth_oid(sorted, i);
	return result;
}

/* looking is cheaper than an update that finds nothing */
static bool
has_stale_names(void)
{
	for (int n = 0; n < lengthof(owned); n++)
		if (has_stale_name(n))
			return true;
	return false;
}

static bool
has_stale_name(int n)
{
	Relation	rel = evi_relation_open(owned[n].table, AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan = table_beginscan(rel, snapshot, 0, NULL);
	HeapTuple	tuple;
	bool		result = false;

	while (!result && (tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		bool		isnull;
		Datum		name = heap_getattr(tuple, owned[n].owner, RelationGetDescr(rel), &isnull);
		Oid			role = DatumGetObjectId(heap_getattr(tuple, owned[n].owner_id,
														 RelationGetDescr(rel), &isnull));
		char	   *current = GetUserNameFromId(role, true);

		result = current && strcmp(current, NameStr(*DatumGetName(name))) != 0;
	}
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
	return result;
}
