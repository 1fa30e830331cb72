/*-------------------------------------------------------------------------
 *
 * coordinator.c
 *		One process for each database that has the extension: housekeeping.
 *
 * It says for which roles there have to be runners, empties segments of the
 * outbox and of the cursors, and makes partitions ahead of need. It runs no
 * code of any user. It works when it is told to at a commit, and again after
 * a while if something has to wait for a lock or for an inbox; else it sleeps.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "backoff.h"
#include "compat.h"
#include "cursor.h"
#include "evinbox.h"
#include "inbox.h"
#include "outbox.h"
#include "partition.h"
#include "query.h"
#include "relation.h"
#include "worker.h"

#define FIRST_LOOK_MS 1000
#define MAX_LOOK_MS 60000

PGDLLEXPORT void evi_coordinator_main(Datum arg);

static bool is_installed(void);
static void want_runners(Oid database);
static bool do_chore(bool (*chore) (void));
static void leave(int slot);

void
evi_coordinator_main(Datum arg)
{
	int			slot = DatumGetInt32(arg);
	Oid			database;
	Oid			owner;
	MemoryContext context;
	int			looks = 1;

	evi_worker_start(slot, &database, &owner);
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	evi_worker_name("evinbox coordinator");
	context = AllocSetContextCreate(TopMemoryContext, "evinbox coordinator",
									ALLOCSET_DEFAULT_SIZES);

	for (;;)
	{
		bool		left = false;

		MemoryContextReset(context);
		MemoryContextSwitchTo(context);
		pgstat_report_activity(STATE_RUNNING, "looking after segments and runners");

		if (!is_installed())
			leave(slot);
		want_runners(database);
		left |= do_chore(evi_outbox_truncate);
		left |= do_chore(evi_cursor_fold);
		left |= do_chore(evi_partition_make);
		evi_worker_settle();

		/* only looks in vain make the next one later */
		if (!evi_worker_wait(left ? (long) evi_backoff_ms(FIRST_LOOK_MS, looks, MAX_LOOK_MS) : -1,
							 "waiting for something to look after"))
			looks = 0;
		looks++;
	}
}

static bool
is_installed(void)
{
	MemoryContext context = CurrentMemoryContext;
	bool		result;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	result = OidIsValid(get_extension_oid(EVI_EXTENSION, true)) && evi_relation_installed();
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	return result;
}

/* The table of workers is for those who have live rules in this database. */
static void
want_runners(Oid database)
{
	static bool complained = false;
	MemoryContext context = CurrentMemoryContext;
	List	   *owners;
	ListCell   *lc;
	bool		fits = true;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	owners = evi_inbox_live_owners(GetActiveSnapshot());

	evi_shmem_lock(true);
	for (int i = 1; i < evi_shmem_slots(); i++)
	{
		EviWorker  *worker = evi_shmem_slot(i);

		if (worker->state != EVI_WORKER_FREE && worker->kind == EVI_RUNNER &&
			worker->database == database)
			worker->wanted = false;
	}
	foreach(lc, owners)
		fits &= evi_shmem_want(EVI_RUNNER, database, lfirst_oid(lc));
	evi_shmem_unlock();

	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	evi_shmem_wake(EVI_LAUNCHER, InvalidOid);

	if (!fits && !complained)
		ereport(LOG,
				(errmsg("evinbox has more inbox owners than it may have workers"),
				 errhint("Raise evinbox.max_workers.")));
	complained = !fits;
}

/* Each is a transaction. Returns whether it has to be done again later. */
static bool
do_chore(bool (*chore) (void))
{
	MemoryContext context = CurrentMemoryContext;
	EviSection	section;
	bool		left;

	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	evi_query_open();
	evi_section_enter(&section);
	left = chore();
	evi_section_leave(&section);
	evi_query_close();
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	return left;
}

/* The extension is gone. So is what we wanted. */
static void
leave(int slot)
{
	Oid			database = MyDatabaseId;

	evi_shmem_lock(true);
	for (int i = 1; i < evi_shmem_slots(); i++)
		if (evi_shmem_slot(i)->database == database && evi_shmem_slot(i)->kind != EVI_SCOUT)
			evi_shmem_slot(i)->wanted = false;
	evi_shmem_unlock();

	/* it may be back already */
	evi_shmem_tell_databases_changed();
	proc_exit(0);
}
