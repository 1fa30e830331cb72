/*-------------------------------------------------------------------------
 *
 * worker.c
 *		What the background workers have in common.
 *
 * SIGTERM ends a worker at its next look for interrupts, also in a handler;
 * SIGHUP reloads the configuration between two turns. Whatever a worker cannot
 * deal with ends it, and the launcher starts it again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/latch.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "worker.h"

/* statistics that are not reported yet are due after so long */
static long stats_due_ms = 0;

/* those that the next look will be later than */
static uint32 seen_wakeups = 0;

/* if this worker waits for a descriptor as well: latch, postmaster, descriptor */
static WaitEventSet *watched = NULL;

static void end_worker(SIGNAL_ARGS);
static int	wait_once(long ms, uint32 wait_event);

/* The first thing that a worker calls. Tells what its slot says. */
void
evi_worker_start(int slot, Oid *database, Oid *owner)
{
	pqsignal(SIGTERM, end_worker);
	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	evi_shmem_attach(slot);
	BackgroundWorkerUnblockSignals();

	evi_shmem_lock(false);
	*database = evi_shmem_slot(slot)->database;
	*owner = evi_shmem_slot(slot)->owner;
	evi_shmem_unlock();
}

static void
end_worker(SIGNAL_ARGS)
{
	evi_shmem_note_told_to_end();
	die(postgres_signal_arg);
}

/* what pg_stat_activity shows; also keeps roles' settings from hurting us */
void
evi_worker_name(const char *name)
{
	SetConfigOption("application_name", name, PGC_USERSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_isolation", "read committed", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_read_only", "off", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("default_transaction_deferrable", "off", PGC_SUSET, PGC_S_OVERRIDE);

	/* effects and cursor are lost together or not at all */
	SetConfigOption("synchronous_commit", "off", PGC_SUSET, PGC_S_OVERRIDE);

	/* an inbox has its own timeout; these would end our own transactions */
	SetConfigOption("idle_in_transaction_session_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	SetConfigOption("lock_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE);
	evi_disable_transaction_timeout();
}

/* From now on, waiting ends also when this can be read. */
void
evi_worker_watch(int descriptor)
{
	watched = evi_create_wait_event_set(3);
	AddWaitEventToSet(watched, WL_LATCH_SET, PGINVALID_SOCKET, MyLatch, NULL);
	AddWaitEventToSet(watched, WL_EXIT_ON_PM_DEATH, PGINVALID_SOCKET, NULL, NULL);
	AddWaitEventToSet(watched, WL_SOCKET_READABLE, descriptor, NULL, NULL);
}

/*
 * Sleeps until the worker is woken, if it was not since the last call, or
 * until the time is over; -1 for no limit. Returns whether the time is over.
 * The caller looks for work after this, so that no wake-up is in vain.
 */
bool
evi_worker_wait(long timeout_ms, const char *what)
{
	TimestampTz end = timeout_ms < 0 ? DT_NOEND :
		TimestampTzPlusMilliseconds(GetCurrentTimestamp(), timeout_ms);
	static uint32 wait_event = 0;
	bool		is_over = timeout_ms == 0;

	if (wait_event == 0)
		wait_event = WaitEventExtensionNew("EvinboxMain");

	pgstat_report_activity(STATE_IDLE, what);
	evi_shmem_set_idle(true);
	while (!is_over && evi_shmem_wakeups() == seen_wakeups && !ConfigReloadPending)
	{
		TimestampTz now = GetCurrentTimestamp();
		long		ms = stats_due_ms > 0 ? stats_due_ms : -1;
		int			events;

		if (end != DT_NOEND)
		{
			long		left = TimestampDifferenceMilliseconds(now, end);

			ms = ms < 0 ? left : Min(ms, left);
		}
		events = wait_once(ms, wait_event);
		if (events & WL_TIMEOUT)
		{
			/* reporting statistics is nothing to look for work after */
			stats_due_ms = stats_due_ms > 0 ? pgstat_report_stat(true) : 0;
			is_over = end != DT_NOEND && GetCurrentTimestamp() >= end;
		}
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (events & WL_SOCKET_READABLE)
			break;
	}
	evi_shmem_set_idle(false);
	seen_wakeups = evi_shmem_wakeups();

	if (ConfigReloadPending)
	{
		ConfigReloadPending = false;
		ProcessConfigFile(PGC_SIGHUP);
	}
	return is_over;
}

/* Returns what has happened. */
static int
wait_once(long ms, uint32 wait_event)
{
	WaitEvent	event;

	if (!watched)
		return WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | (ms >= 0 ? WL_TIMEOUT : 0),
						 ms, wait_event);
	return WaitEventSetWait(watched, ms, &event, 1, wait_event) > 0 ? event.events : WL_TIMEOUT;
}

/* after a turn; without the report, autovacuum would never see what we write */
void
evi_worker_settle(void)
{
	stats_due_ms = pgstat_report_stat(false);
	evi_shmem_note_ready();
}
