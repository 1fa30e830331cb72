/*-------------------------------------------------------------------------
 *
 * launcher.c
 *		The one static process: starts the others and restarts them.
 *
 * It is connected to no database, so that none is in its way or it in theirs.
 * When databases have changed, it sends a scout, who wants a coordinator for
 * each that has the extension; coordinators want runners and couriers. Whatever is wanted
 * and not there is started, after a growing pause if it did not last; what is
 * not wanted any more is ended.
 *
 * Workers survive their launcher: a new one finds them in the table.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "backoff.h"
#include "evinbox.h"
#include "guc.h"
#include "worker.h"

#define RESTART_SECONDS 1		/* of the launcher itself, by the postmaster */
#define FIRST_RESTART_MS 500
#define MAX_RESTART_MS 60000
#define LASTING_MS 10000		/* a worker that lived so long did not fail to start */
#define HOPELESS_MS 60000		/* one that was not able to work at all */
#define STARTING_MS 10000		/* one that has not come after so long never will */

PGDLLEXPORT void evi_launcher_main(Datum arg);

static void want_scout(void);
static Oid	pick_database(void);
static void want_nothing(void);
static long look_after_workers(void);
static void review_worker(EviWorker *worker, TimestampTz now);
static void put_off(const EviWorker *failed, TimestampTz until);
static bool may_start(const EviWorker *worker);
static void mark_starting(EviWorker *worker, TimestampTz now);
static void start_worker(int slot, EviWorkerKind kind, TimestampTz now);
static bool register_worker(int slot, EviWorkerKind kind);
static void complain(TimestampTz now);

/* from _PG_init(), while libraries are preloaded */
void
evi_launcher_register(void)
{
	BackgroundWorker worker = {0};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = RESTART_SECONDS;
	strlcpy(worker.bgw_name, "evinbox launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_type, "evinbox launcher", BGW_MAXLEN);
	strlcpy(worker.bgw_library_name, EVI_EXTENSION, BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, EVI_LAUNCHER_MAIN, BGW_MAXLEN);
	RegisterBackgroundWorker(&worker);
}

void
evi_launcher_main(Datum arg)
{
	Oid			database;
	Oid			owner;
	MemoryContext context;
	bool		was_enabled = false;

	evi_worker_start(0, &database, &owner);
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	evi_worker_name("evinbox launcher");
	context = AllocSetContextCreate(TopMemoryContext, "evinbox launcher", ALLOCSET_DEFAULT_SIZES);
	evi_shmem_tell_databases_changed();

	for (;;)
	{
		bool		enabled = evi_guc_enabled();

		MemoryContextReset(context);
		MemoryContextSwitchTo(context);
		if ((evi_shmem_databases_changed() || !was_enabled) && enabled)
			want_scout();
		if (!enabled)
			want_nothing();
		was_enabled = enabled;
		evi_worker_wait(look_after_workers(), "waiting for workers to start");
	}
}

static void
want_scout(void)
{
	evi_shmem_lock(true);
	(void) evi_shmem_want(EVI_SCOUT, InvalidOid, InvalidOid, 0);
	evi_shmem_unlock();
}

/* Where a scout may go: "postgres", else one that is no template, else any */
static Oid
pick_database(void)
{
	MemoryContext context = CurrentMemoryContext;
	Relation	rel;
	SysScanDesc scan;
	HeapTuple	tuple;
	Oid			result = InvalidOid;
	int			best = 0;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = systable_beginscan(rel, InvalidOid, false, NULL, 0, NULL);
	while ((tuple = systable_getnext(scan)) != NULL)
	{
		Form_pg_database database = (Form_pg_database) GETSTRUCT(tuple);
		int			rank = strcmp(NameStr(database->datname), "postgres") == 0 ? 3 :
			(database->datistemplate ? 1 : 2);

		if (database->datallowconn && rank > best)
		{
			best = rank;
			result = database->oid;
		}
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	return result;
}

/* Nothing is wanted any more. */
static void
want_nothing(void)
{
	evi_shmem_lock(true);
	for (int i = 1; i < evi_shmem_slots(); i++)
		evi_shmem_slot(i)->wanted = false;
	evi_shmem_unlock();
}

/*
 * Starts, ends and frees. Returns how long nothing else is to be done, in
 * milliseconds, or -1.
 */
static long
look_after_workers(void)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz next = DT_NOEND;

	for (int i = 1; i < evi_shmem_slots(); i++)
	{
		EviWorker  *worker = evi_shmem_slot(i);
		EviWorkerKind kind;
		bool		is_due;

		evi_shmem_lock(true);
		review_worker(worker, now);
		kind = worker->kind;
		is_due = worker->next_start_at <= now && may_start(worker);

		/* at once: whoever keeps us out of the database from now on waits for it */
		if (is_due)
			mark_starting(worker, now);
		evi_shmem_unlock();

		if (is_due)
			start_worker(i, kind, now);

		evi_shmem_lock(false);
		if (may_start(worker) || worker->state == EVI_WORKER_STARTING)
			next = Min(next, worker->next_start_at);
		evi_shmem_unlock();
	}
	return next == DT_NOEND ? -1 : (long) TimestampDifferenceMilliseconds(now, next) + 1;
}

/* The caller holds the lock. */
static void
review_worker(EviWorker *worker, TimestampTz now)
{
	/* a worker that has left is found with no pid and its start behind it */
	if (worker->state == EVI_WORKER_WAITING && worker->started_at != 0)
	{
		if (TimestampDifferenceExceeds(worker->started_at, now, LASTING_MS))
			worker->failures = 0;
		worker->failures++;
		worker->next_start_at = worker->failures == 1 ? now :
			TimestampTzPlusMilliseconds(now, evi_backoff_ms(FIRST_RESTART_MS,
															worker->failures - 1, MAX_RESTART_MS));
		if (!worker->is_ready && worker->kind != EVI_SCOUT)
			put_off(worker, TimestampTzPlusMilliseconds(now, HOPELESS_MS));
		if (evi_shmem_kept_out(worker->database))
		{
			worker->failures = 0;
			worker->next_start_at = now;
		}
		worker->started_at = 0;
	}

	/* never came: the postmaster could not fork, or forgot it in a crash */
	if (worker->state == EVI_WORKER_STARTING && worker->next_start_at <= now)
		worker->state = EVI_WORKER_WAITING;

	if (!worker->wanted && worker->state == EVI_WORKER_WAITING)
		worker->state = EVI_WORKER_FREE;
	if (!worker->wanted && worker->state == EVI_WORKER_RUNNING && worker->kind != EVI_SCOUT)
		kill(worker->pid, SIGTERM);
}

/*
 * What has kept a worker from working, such as a limit of connections, keeps
 * others like it, too. They come again when roles or databases change, or after
 * a while. The caller holds the lock.
 */
static void
put_off(const EviWorker *failed, TimestampTz until)
{
	for (int i = 1; i < evi_shmem_slots(); i++)
	{
		EviWorker  *worker = evi_shmem_slot(i);

		if (worker->kind == failed->kind && worker->database == failed->database &&
			worker->owner == failed->owner && worker->state == EVI_WORKER_WAITING)
			worker->next_start_at = until;
	}
}

/* Of a role's runners, the first one shows whether they can. The caller holds the lock. */
static bool
may_start(const EviWorker *worker)
{
	const EviWorker *first;

	if (worker->state != EVI_WORKER_WAITING || evi_shmem_kept_out(worker->database))
		return false;
	if (worker->kind != EVI_RUNNER || worker->number == 0)
		return true;
	first = evi_shmem_find(EVI_RUNNER, worker->database, worker->owner, 0);
	return first && first->state == EVI_WORKER_RUNNING && first->is_ready;
}

/* The caller holds the lock. */
static void
mark_starting(EviWorker *worker, TimestampTz now)
{
	worker->state = EVI_WORKER_STARTING;
	worker->is_ready = false;
	worker->starts++;
	worker->next_start_at = TimestampTzPlusMilliseconds(now, STARTING_MS);
}

/* One that is marked as starting. */
static void
start_worker(int slot, EviWorkerKind kind, TimestampTz now)
{
	EviWorker  *worker = evi_shmem_slot(slot);

	if (kind == EVI_SCOUT)
	{
		Oid			database = pick_database();

		evi_shmem_lock(true);
		worker->database = database;
		evi_shmem_unlock();
	}
	if (register_worker(slot, kind))
		return;

	evi_shmem_lock(true);
	worker->state = EVI_WORKER_WAITING;
	worker->failures++;
	worker->next_start_at =
		TimestampTzPlusMilliseconds(now, evi_backoff_ms(FIRST_RESTART_MS, worker->failures,
														MAX_RESTART_MS));
	evi_shmem_unlock();
	complain(now);
}

static bool
register_worker(int slot, EviWorkerKind kind)
{
	BackgroundWorker worker = {0};
	static const struct
	{
		const char *name;
		const char *main;
	}			programs[] = {
		[EVI_SCOUT] = {"evinbox scout", EVI_SCOUT_MAIN},
		[EVI_COORDINATOR] = {"evinbox coordinator", EVI_COORDINATOR_MAIN},
		[EVI_RUNNER] = {"evinbox runner", EVI_RUNNER_MAIN},
		[EVI_COURIER] = {"evinbox courier", EVI_COURIER_MAIN},
	};

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_main_arg = Int32GetDatum(slot);
	strlcpy(worker.bgw_name, programs[kind].name, BGW_MAXLEN);
	strlcpy(worker.bgw_type, programs[kind].name, BGW_MAXLEN);
	strlcpy(worker.bgw_library_name, EVI_EXTENSION, BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, programs[kind].main, BGW_MAXLEN);
	return RegisterDynamicBackgroundWorker(&worker, NULL);
}

/* once a minute */
static void
complain(TimestampTz now)
{
	static TimestampTz complained_at = 0;

	if (!TimestampDifferenceExceeds(complained_at, now, 60000))
		return;
	complained_at = now;
	ereport(LOG,
			(errmsg("could not start a background worker of evinbox"),
			 errhint("Raise max_worker_processes.")));
}
