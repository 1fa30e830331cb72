/*-------------------------------------------------------------------------
 *
 * shmem.c
 *		What the processes of evinbox share: a table of workers.
 *
 * Slot 0 is the launcher's, slot 1 the scout's. A coordinator's slot is taken
 * by the scout, a runner's or courier's by the coordinator of its database; the launcher
 * starts whatever is wanted, and frees the slot of what is neither wanted nor
 * running. How runners share their work is said in duty.c.
 *
 * One lock protects the table; it is held for a walk over the slots, never
 * while waiting. Wakers read procno without it, because they are in the way
 * of every commit: setting the latch of a PGPROC that has changed hands is
 * harmless, and a worker publishes its procno before its first look, so that
 * it sees whatever committed before the waker could see the procno.
 *
 * All of this exists only if the library was preloaded.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>

#include "catalog/pg_control.h"
#include "common/controldata_utils.h"
#include "miscadmin.h"
#include "storage/condition_variable.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/proc.h"
#include "storage/procarray.h"
#include "storage/shmem.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "evinbox.h"
#include "guc.h"
#include "shmem.h"

#define SCOUT_SLOT 1			/* of its own: a full table must not keep it out */
#define FIRST_WORKER_SLOT 2

#define MAX_KEPT_OUT 16
#define KEEP_OUT_TIMEOUT_MS 2000

/* a session that needs a database without our workers, until it lets them in */
typedef struct KeptOut
{
	Oid			database;		/* invalid if unused */
	int			pid;			/* whose wish it is */
} KeptOut;

typedef struct Shared
{
	LWLock	   *lock;
	pg_atomic_uint32 databases_changed; /* set by anyone, cleared by the launcher */
	pg_atomic_uint32 session_moves; /* by sessions: how often one has dispatched */
	pg_atomic_uint64 complained_at; /* when a scout has last said that there is no room; or 0 */
	pg_atomic_uint64 unclean_end;	/* when something last ended in mid-work; or 0 */
	ConditionVariable worker_left;
	KeptOut		kept_out[MAX_KEPT_OUT]; /* under the lock */
	EviWorker	worker[FLEXIBLE_ARRAY_MEMBER];
} Shared;

static Shared *shared = NULL;
static int	my_slot = -1;
static volatile sig_atomic_t is_told_to_end = false;
static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

static bool start_is_unclean(void);
static void request_shmem(void);
static void startup_shmem(void);
static Size shared_size(void);
static void detach_worker(int code, Datum arg);
static void forget_wishes(int code, Datum arg);
static bool database_has_workers(Oid database, int signal);

void
evi_shmem_init(void)
{
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = request_shmem;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = startup_shmem;
}

bool
evi_shmem_available(void)
{
	return shared != NULL;
}

void
evi_shmem_lock(bool exclusive)
{
	LWLockAcquire(shared->lock, exclusive ? LW_EXCLUSIVE : LW_SHARED);
}

void
evi_shmem_unlock(void)
{
	LWLockRelease(shared->lock);
}

int
evi_shmem_slots(void)
{
	return evi_guc_max_workers() + FIRST_WORKER_SLOT;
}

EviWorker *
evi_shmem_slot(int slot)
{
	return &shared->worker[slot];
}

/* this worker's */
EviWorker *
evi_shmem_my_slot(void)
{
	return &shared->worker[my_slot];
}

/* A worker's slot; NULL if it has none. The caller holds the lock. */
EviWorker *
evi_shmem_find(EviWorkerKind kind, Oid database, Oid owner, int number)
{
	Assert(LWLockHeldByMe(shared->lock));
	for (int i = FIRST_WORKER_SLOT; i < evi_shmem_slots(); i++)
	{
		EviWorker  *worker = &shared->worker[i];

		if (worker->state != EVI_WORKER_FREE && worker->kind == kind &&
			worker->database == database && worker->owner == owner && worker->number == number)
			return worker;
	}
	return NULL;
}

/*
 * Marks a worker as wanted, in a slot of its own; false if none is free. For
 * the only scout, any database will do.
 */
bool
evi_shmem_want(EviWorkerKind kind, Oid database, Oid owner, int number)
{
	EviWorker  *former;
	EviWorker  *vacant = NULL;
	int			first = kind == EVI_SCOUT ? SCOUT_SLOT : FIRST_WORKER_SLOT;
	int			end = kind == EVI_SCOUT ? FIRST_WORKER_SLOT : evi_shmem_slots();

	Assert(LWLockHeldByMeInMode(shared->lock, LW_EXCLUSIVE));
	former = kind == EVI_SCOUT ? &shared->worker[SCOUT_SLOT] :
		evi_shmem_find(kind, database, owner, number);
	if (former && former->state != EVI_WORKER_FREE)
	{
		former->wanted = true;
		return true;
	}
	for (int i = first; i < end && !vacant; i++)
		if (shared->worker[i].state == EVI_WORKER_FREE)
			vacant = &shared->worker[i];
	if (!vacant)
		return false;

	vacant->kind = kind;
	vacant->database = database;
	vacant->owner = owner;
	vacant->number = number;
	vacant->wanted = true;
	vacant->state = EVI_WORKER_WAITING;
	vacant->next_start_at = 0;
	vacant->starts = 0;
	vacant->failures = 0;
	pg_atomic_write_u64(&vacant->failed_at, 0);
	return true;
}

/* Called by a worker as the first thing it does. */
void
evi_shmem_attach(int slot)
{
	EviWorker  *worker = &shared->worker[slot];

	evi_shmem_lock(true);

	/* the launcher has given us up, and may have asked for another */
	if (worker->kind != EVI_LAUNCHER && worker->state != EVI_WORKER_STARTING)
	{
		evi_shmem_unlock();
		proc_exit(0);
	}
	my_slot = slot;
	before_shmem_exit(detach_worker, (Datum) 0);
	worker->pid = MyProcPid;
	worker->state = EVI_WORKER_RUNNING;
	worker->started_at = GetCurrentTimestamp();
	pg_atomic_write_u32(&worker->procno, (uint32) (MyProc - ProcGlobal->allProcs) + 1);
	evi_shmem_unlock();

	/* it may be unwanted by now */
	evi_shmem_wake(EVI_LAUNCHER, InvalidOid);
}

/* This worker has got through a turn: what it needs is there. */
void
evi_shmem_note_ready(void)
{
	static bool noted = false;

	if (noted)
		return;
	noted = true;
	evi_shmem_lock(true);
	shared->worker[my_slot].is_ready = true;
	evi_shmem_unlock();

	/* its siblings may come as well */
	evi_shmem_wake(EVI_LAUNCHER, InvalidOid);
}

/* called by a signal: if this worker ends, that is not its failure */
void
evi_shmem_note_told_to_end(void)
{
	is_told_to_end = true;
}

/* What kept workers from starting may be over. */
void
evi_shmem_retry_starts(void)
{
	evi_shmem_lock(true);
	for (int i = 1; i < evi_shmem_slots(); i++)
		if (shared->worker[i].state == EVI_WORKER_WAITING)
			shared->worker[i].next_start_at = 0;
	evi_shmem_unlock();
	evi_shmem_wake(EVI_LAUNCHER, InvalidOid);
}

/* Sets a worker's latch, if it is there. */
void
evi_shmem_wake_worker(EviWorker *worker)
{
	uint32		procno = pg_atomic_read_u32(&worker->procno);

	if (procno == 0)
		return;
	pg_atomic_fetch_add_u32(&worker->wakeups, 1);
	SetLatch(&ProcGlobal->allProcs[procno - 1].procLatch);
}

/* Sets the latches of a database's workers of a kind, or the launcher's. */
void
evi_shmem_wake(EviWorkerKind kind, Oid database)
{
	for (int i = 0; i < evi_shmem_slots(); i++)
	{
		EviWorker  *worker = &shared->worker[i];

		if (worker->kind == kind && worker->database == database)
			evi_shmem_wake_worker(worker);
	}
}

/* The database's courier; or its coordinator, to want one, if there is none. */
void
evi_shmem_wake_courier(Oid database)
{
	for (int i = 1; i < evi_shmem_slots(); i++)
	{
		EviWorker  *worker = &shared->worker[i];

		/* one that is not there yet will look by itself */
		if (worker->kind == EVI_COURIER && worker->database == database &&
			worker->state != EVI_WORKER_FREE && worker->wanted)
		{
			evi_shmem_wake_worker(worker);
			return;
		}
	}
	evi_shmem_wake(EVI_COORDINATOR, database);
}

/*
 * How often this worker was woken. The latch alone does not tell: whatever
 * waits for a lock or sleeps in a handler resets it.
 */
uint32
evi_shmem_wakeups(void)
{
	return pg_atomic_read_u32(&shared->worker[my_slot].wakeups);
}

/* Does this worker sleep? Then somebody else may have the place of a runner. */
void
evi_shmem_set_idle(bool is_idle)
{
	EviWorker  *me = &shared->worker[my_slot];

	pg_atomic_exchange_u32(&me->is_idle, is_idle);
	for (int i = 0; is_idle && me->kind == EVI_RUNNER && i < evi_shmem_slots(); i++)
	{
		EviWorker  *worker = &shared->worker[i];

		if (worker->kind == EVI_COORDINATOR && worker->database == me->database &&
			pg_atomic_read_u32(&worker->watches) != 0)
			evi_shmem_wake_worker(worker);
	}
}

/* A session has moved, or halted, what runners have to read anew. */
void
evi_shmem_note_session_move(void)
{
	pg_atomic_fetch_add_u32(&shared->session_moves, 1);
}

uint32
evi_shmem_session_moves(void)
{
	return pg_atomic_read_u32(&shared->session_moves);
}

/* also called by signals */
void
evi_shmem_note_unclean_end(void)
{
	pg_atomic_write_u64(&shared->unclean_end, (uint64) GetCurrentTimestamp());
}

/*
 * When the server, or a worker, has last ended in the middle of something; 0
 * if it never did since the last proper start.
 */
TimestampTz
evi_shmem_unclean_end(void)
{
	return shared ? (TimestampTz) pg_atomic_read_u64(&shared->unclean_end) : 0;
}

/* A coordinator looks after the segments of this turn. */
void
evi_shmem_note_look(uint64 turn)
{
	pg_atomic_write_u32(&shared->worker[my_slot].turn, (uint32) turn);
}

/* Has the database's coordinator not done that yet? */
bool
evi_shmem_needs_look(Oid database, uint64 turn)
{
	for (int i = 0; shared && i < evi_shmem_slots(); i++)
	{
		EviWorker  *worker = &shared->worker[i];

		if (worker->kind == EVI_COORDINATOR && worker->database == database)
			return pg_atomic_read_u32(&worker->turn) != (uint32) turn;
	}
	return false;
}

void
evi_shmem_tell_databases_changed(void)
{
	pg_atomic_write_u32(&shared->databases_changed, 1);
	evi_shmem_wake(EVI_LAUNCHER, InvalidOid);
}

/* Once a minute, whichever scout asks. */
bool
evi_shmem_may_complain(void)
{
	TimestampTz now = GetCurrentTimestamp();

	if (!TimestampDifferenceExceeds((TimestampTz) pg_atomic_read_u64(&shared->complained_at),
									now, 60000))
		return false;
	pg_atomic_write_u64(&shared->complained_at, (uint64) now);
	return true;
}

/* have they, since the last call? */
bool
evi_shmem_databases_changed(void)
{
	return pg_atomic_exchange_u32(&shared->databases_changed, 0) != 0;
}

/*
 * Ends our workers in a database and keeps new ones out, until this session
 * ends its transaction or itself: DROP DATABASE and its like refuse to work
 * beside other sessions. Gives up waiting after a while; the command then
 * says what it has to say.
 */
void
evi_shmem_keep_out(Oid database)
{
	static bool exit_callback_registered = false;
	TimestampTz give_up = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), KEEP_OUT_TIMEOUT_MS);
	bool		noted = false;

	if (!exit_callback_registered)
	{
		before_shmem_exit(forget_wishes, (Datum) 0);
		exit_callback_registered = true;
	}

	evi_shmem_lock(true);
	for (int i = 0; i < MAX_KEPT_OUT && !noted; i++)
	{
		KeptOut    *entry = &shared->kept_out[i];

		if (OidIsValid(entry->database) &&
			(entry->database != database || entry->pid != MyProcPid))
			continue;
		entry->database = database;
		entry->pid = MyProcPid;
		noted = true;
	}

	/* whether they will be wanted again is found out afterwards */
	for (int i = FIRST_WORKER_SLOT; i < evi_shmem_slots() && noted; i++)
		if (shared->worker[i].database == database)
			shared->worker[i].wanted = false;
	evi_shmem_unlock();
	if (!noted)
		return;

	ConditionVariablePrepareToSleep(&shared->worker_left);
	while (database_has_workers(database, SIGTERM) && GetCurrentTimestamp() < give_up)
		(void) ConditionVariableTimedSleep(&shared->worker_left, 100,
										   WaitEventExtensionNew("EvinboxWorkerExit"));
	ConditionVariableCancelSleep();
}

/* takes back all of this session's evi_shmem_keep_out() */
void
evi_shmem_let_in(void)
{
	evi_shmem_lock(true);
	for (int i = 0; i < MAX_KEPT_OUT; i++)
		if (shared->kept_out[i].pid == MyProcPid)
		{
			shared->kept_out[i].database = InvalidOid;
			shared->kept_out[i].pid = 0;
		}
	evi_shmem_unlock();
	evi_shmem_tell_databases_changed();
}

bool
evi_shmem_kept_out(Oid database)
{
	Assert(LWLockHeldByMe(shared->lock));
	for (int i = 0; i < MAX_KEPT_OUT; i++)
		if (OidIsValid(database) && shared->kept_out[i].database == database)
			return true;
	return false;
}

/*
 * Was the server not shut down before this start? The postmaster keeps this
 * library, and its variables, when it starts anew after a crash of a backend.
 */
static bool
start_is_unclean(void)
{
	static bool started_before = false;
	ControlFileData *control;
	bool		crc_ok;
	bool		result = started_before;

	if (!started_before)
	{
		control = get_controlfile(DataDir, &crc_ok);
		result = !crc_ok || (control->state != DB_SHUTDOWNED &&
							 control->state != DB_SHUTDOWNED_IN_RECOVERY);
		pfree(control);
	}
	started_before = true;
	return result;
}

static void
request_shmem(void)
{
	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	RequestAddinShmemSpace(shared_size());
	RequestNamedLWLockTranche("evinbox", 1);
}

static void
startup_shmem(void)
{
	bool		found;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	shared = ShmemInitStruct("evinbox", shared_size(), &found);
	if (!found)
	{
		memset(shared, 0, shared_size());
		shared->lock = &(GetNamedLWLockTranche("evinbox"))->lock;
		pg_atomic_init_u32(&shared->databases_changed, 1);
		pg_atomic_init_u32(&shared->session_moves, 0);
		pg_atomic_init_u64(&shared->complained_at, 0);
		pg_atomic_init_u64(&shared->unclean_end,
						   start_is_unclean() ? (uint64) GetCurrentTimestamp() : 0);
		ConditionVariableInit(&shared->worker_left);
		for (int i = 0; i < evi_shmem_slots(); i++)
		{
			EviWorker  *worker = &shared->worker[i];

			pg_atomic_init_u32(&worker->procno, 0);
			pg_atomic_init_u32(&worker->wakeups, 0);
			pg_atomic_init_u32(&worker->turn, 0);
			pg_atomic_init_u32(&worker->is_idle, 0);
			pg_atomic_init_u32(&worker->is_stuck, 0);
			pg_atomic_init_u64(&worker->claim, 0);
			pg_atomic_init_u32(&worker->moves, 0);
			pg_atomic_init_u32(&worker->is_to_leave, 0);
			pg_atomic_init_u32(&worker->watches, 0);
			pg_atomic_init_u64(&worker->failed_at, 0);
		}
	}
	LWLockRelease(AddinShmemInitLock);
}

static Size
shared_size(void)
{
	return add_size(offsetof(Shared, worker),
					mul_size(sizeof(EviWorker), evi_shmem_slots()));
}

/* before_shmem_exit: the slot outlives the worker, for the launcher to see */
static void
detach_worker(int code, Datum arg)
{
	EviWorker  *worker = &shared->worker[my_slot];
	bool		gave_way;

	/* one of ours would write to the slot */
	disable_all_timeouts(false);
	evi_shmem_lock(true);
	pg_atomic_write_u32(&worker->procno, 0);
	worker->pid = 0;
	worker->state = EVI_WORKER_WAITING;
	worker->is_ready |= is_told_to_end || code == 0;
	pg_atomic_write_u32(&worker->is_idle, 0);
	pg_atomic_write_u32(&worker->is_stuck, 0);
	pg_atomic_write_u64(&worker->claim, 0);
	pg_atomic_write_u32(&worker->watches, 0);
	gave_way = pg_atomic_exchange_u32(&worker->is_to_leave, 0) != 0;
	if (gave_way)
		worker->wanted = false;

	/* a scout that failed has to go again */
	if (worker->kind == EVI_SCOUT && code != 0)
		worker->wanted = true;
	evi_shmem_unlock();

	ConditionVariableBroadcast(&shared->worker_left);
	evi_shmem_wake(EVI_LAUNCHER, InvalidOid);
	if (gave_way)
		evi_shmem_wake(EVI_COORDINATOR, worker->database);

	/* what it was at may be to blame: its successor is careful */
	if (worker->kind == EVI_COURIER && code != 0 && !is_told_to_end)
		pg_atomic_write_u64(&worker->failed_at, (uint64) GetCurrentTimestamp());

	/* who is on duty now has not heard of what came while we were leaving */
	if (worker->kind == EVI_RUNNER)
		evi_shmem_wake(EVI_RUNNER, worker->database);
}

static void
forget_wishes(int code, Datum arg)
{
	evi_shmem_let_in();
}

/* are there any? and if so, sends them a signal */
static bool
database_has_workers(Oid database, int signal)
{
	bool		result = false;

	evi_shmem_lock(false);
	for (int i = 1; i < evi_shmem_slots(); i++)
	{
		EviWorker  *worker = &shared->worker[i];

		if (worker->database != database ||
			(worker->state != EVI_WORKER_RUNNING && worker->state != EVI_WORKER_STARTING))
			continue;
		result = true;

		/* a worker leaves its slot under the lock, so the pid is still its own */
		if (worker->pid != 0)
			kill(worker->pid, signal);
	}
	evi_shmem_unlock();
	return result;
}
