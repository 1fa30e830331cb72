/*-------------------------------------------------------------------------
 *
 * scout.c
 *		A short-lived process that finds the databases with the extension.
 *
 * CREATE EXTENSION leaves a setting for its database in a shared catalog, so
 * that no database has to be entered just to look. But that catalog can only
 * be read from within some database: hence a process that reads it and leaves.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "catalog/pg_db_role_setting.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "postmaster/bgworker.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "worker.h"

PGDLLEXPORT void evi_scout_main(Datum arg);

static List *find_databases(void);
static bool setting_is_on(Datum settings);
static bool allows_connections(Oid database);
static void want_coordinators(List *databases);

void
evi_scout_main(Datum arg)
{
	int			slot = DatumGetInt32(arg);
	Oid			database;
	Oid			owner;

	evi_worker_start(slot, &database, &owner);
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	evi_worker_name("evinbox scout");

	/* what changes from now on takes another scout */
	evi_shmem_lock(true);
	evi_shmem_slot(slot)->wanted = false;
	evi_shmem_unlock();

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	want_coordinators(find_databases());
	CommitTransactionCommand();
}

/* the OIDs of the databases that have the extension */
static List *
find_databases(void)
{
	List	   *result = NIL;
	Relation	rel = table_open(DbRoleSettingRelationId, AccessShareLock);
	SysScanDesc scan;
	ScanKeyData key;
	HeapTuple	tuple;

	ScanKeyInit(&key, Anum_pg_db_role_setting_setrole, BTEqualStrategyNumber, F_OIDEQ,
				ObjectIdGetDatum(InvalidOid));
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 1, &key);
	while ((tuple = systable_getnext(scan)) != NULL)
	{
		Oid			database = ((Form_pg_db_role_setting) GETSTRUCT(tuple))->setdatabase;
		bool		isnull;
		Datum		settings = heap_getattr(tuple, Anum_pg_db_role_setting_setconfig,
											RelationGetDescr(rel), &isnull);

		if (!isnull && setting_is_on(settings) && allows_connections(database))
			result = lappend_oid(result, database);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return result;
}

static bool
setting_is_on(Datum settings)
{
	Datum	   *elements;
	int			nelements;

	deconstruct_array(DatumGetArrayTypeP(settings), TEXTOID, -1, false, TYPALIGN_INT,
					  &elements, NULL, &nelements);
	for (int i = 0; i < nelements; i++)
		if (strcmp(TextDatumGetCString(elements[i]), "evinbox.installed=on") == 0)
			return true;
	return false;
}

static bool
allows_connections(Oid database)
{
	HeapTuple	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database));
	bool		result;

	if (!HeapTupleIsValid(tuple))
		return false;
	result = ((Form_pg_database) GETSTRUCT(tuple))->datallowconn;
	ReleaseSysCache(tuple);
	return result;
}

/* Whatever is in no such database is not wanted any more, runners included. */
static void
want_coordinators(List *databases)
{
	ListCell   *lc;
	bool		fits = true;

	evi_shmem_lock(true);
	for (int i = 1; i < evi_shmem_slots(); i++)
	{
		EviWorker  *worker = evi_shmem_slot(i);

		if (worker->kind != EVI_SCOUT && !list_member_oid(databases, worker->database))
			worker->wanted = false;
	}
	foreach(lc, databases)
		fits &= evi_shmem_want(EVI_COORDINATOR, lfirst_oid(lc), InvalidOid, 0);
	evi_shmem_unlock();

	if (!fits)
		ereport(LOG,
				(errmsg("evinbox has more databases than it may have workers"),
				 errhint("Raise evinbox.max_workers.")));
}
