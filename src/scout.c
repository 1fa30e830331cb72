/*-------------------------------------------------------------------------
 *
 * scout.c
 *		A short-lived process that finds the databases with the extension.
 *
 * A shared catalog has them (see registry.c), but can only be read from within
 * some database: hence a process that reads it and leaves.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "postmaster/bgworker.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

#include "registry.h"
#include "worker.h"

PGDLLEXPORT void evi_scout_main(Datum arg);

static List *find_databases(void);
static bool is_for_work(Oid database);
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

/* the OIDs of the databases that have the extension, and that work is done in */
static List *
find_databases(void)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, evi_registry_databases())
		if (is_for_work(lfirst_oid(lc)))
			result = lappend_oid(result, lfirst_oid(lc));
	return result;
}

/* Templates are not: nobody may be connected when they are copied. */
static bool
is_for_work(Oid database)
{
	HeapTuple	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database));
	bool		result;

	if (!HeapTupleIsValid(tuple))
		return false;
	result = ((Form_pg_database) GETSTRUCT(tuple))->datallowconn &&
		!((Form_pg_database) GETSTRUCT(tuple))->datistemplate;
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

	if (!fits && evi_shmem_may_complain())
		ereport(LOG,
				(errmsg("evinbox has more databases than it may have workers"),
				 errhint("Raise evinbox.max_workers.")));
}
