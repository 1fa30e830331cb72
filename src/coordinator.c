/*-------------------------------------------------------------------------
 *
 * coordinator.c
 *		One process for each database that has the extension: housekeeping.
 *
 * It says who gets a runner, and whether there is a courier, empties segments
 * of the outbox and of the cursors, makes backlogs for lanes that stand still,
 * and partitions ahead of need, and drops those that have expired. It runs no
 * code of any user. It works when it is told to at a commit, and again after a
 * while if something has to wait for a lock or for a lane; else it sleeps.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/dbcommands.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "backlog.h"
#include "backoff.h"
#include "compat.h"
#include "cursor.h"
#include "duty.h"
#include "errand.h"
#include "evinbox.h"
#include "inbox.h"
#include "incarnation.h"
#include "journal.h"
#include "outbox.h"
#include "owner.h"
#include "partition.h"
#include "progress.h"
#include "query.h"
#include "relation.h"
#include "retention.h"
#include "roster.h"
#include "worker.h"

#define FIRST_LOOK_MS 1000
#define MAX_LOOK_MS 60000
#define MAX_DROPPED 100			/* partitions, or made, before it looks after the rest */
#define PATIENCE_MS 5000		/* a lane that works stores its cursor more often */

PGDLLEXPORT void evi_coordinator_main(Datum arg);

/* a lane that the outbox waits for */
typedef struct Laggard
{
	int32		inbox_id;
	int			lane;
	uint64		xmax;			/* of what is done */
	int			nxip;
	TimestampTz since;
} Laggard;

/* what the extension is like here */
typedef enum Condition
{
	CONDITION_GONE,
	CONDITION_UNFIT,			/* it lacks what this library needs */
	CONDITION_QUIET,
	CONDITION_GOOD
} Condition;

static MemoryContext laggards_context = NULL;
static List *laggards = NIL;

/* has a lane got a backlog that its runners do not know of? */
static bool has_absorbed = false;

static Condition examine(void);
static void report(Condition condition);
static void begin(void);
static bool absorb_laggards(void);
static void tell_runners(Oid database);
static TimestampTz standing_since(const Laggard *laggard);
static bool absorb(int32 inbox_id, int lane);
static bool forget_attempts(void);
static bool stamp(void);
static bool look_after_owners(void);
static bool do_chores(Oid database);
static bool expire(void);
static void keep_journal(void);
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
	TimestampTz chores_at = 0;
	bool		is_begun = false;

	evi_worker_start(slot, &database, &owner);
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	evi_worker_name("evinbox coordinator");
	context = AllocSetContextCreate(TopMemoryContext, "evinbox coordinator",
									ALLOCSET_DEFAULT_SIZES);

	for (;;)
	{
		Condition	condition;
		bool		left;
		long		timeout;
		long		turn;
		long		expiry;

		MemoryContextReset(context);
		MemoryContextSwitchTo(context);
		pgstat_report_activity(STATE_RUNNING, "looking after segments and runners");

		condition = examine();
		if (condition == CONDITION_GONE)
			leave(slot);
		if (condition == CONDITION_UNFIT)
		{
			evi_roster_want_none(database);
			evi_errand_want_none();
			evi_worker_settle();
			evi_worker_wait(MAX_LOOK_MS, "waiting for ALTER EXTENSION evinbox UPDATE");
			continue;
		}
		if (!is_begun)
			begin();
		is_begun = true;
		turn = evi_roster_update(database);

		/* while owners take turns, every commit wakes us, and most for that alone */
		if (condition == CONDITION_QUIET)
		{
			evi_errand_want_none();
			left = do_chore(evi_partition_make);
			left |= do_chore(look_after_owners);
		}
		else if (!evi_roster_is_crowded() ||
			TimestampDifferenceExceeds(chores_at, GetCurrentTimestamp(), FIRST_LOOK_MS))
		{
			left = do_chores(database);
			chores_at = GetCurrentTimestamp();
		}
		else
			left = true;

		/* somebody waits for it */
		if (condition == CONDITION_GOOD && !evi_errand_is_wanted())
			left |= do_chore(evi_errand_look);
		evi_worker_settle();

		/* only looks in vain make the next one later */
		timeout = left ? (long) evi_backoff_ms(FIRST_LOOK_MS, looks, MAX_LOOK_MS) : -1;
		if (turn >= 0 && (timeout < 0 || turn < timeout))
			timeout = turn;
		expiry = condition == CONDITION_GOOD ? evi_retention_wait_ms() : -1;
		if (expiry >= 0 && (timeout < 0 || expiry < timeout))
			timeout = expiry;
		expiry = condition == CONDITION_GOOD ? evi_journal_wait_ms() : -1;
		if (expiry >= 0 && (timeout < 0 || expiry < timeout))
			timeout = expiry;
		if (!evi_worker_wait(timeout, "waiting for something to look after"))
			looks = 0;
		looks++;
	}
}

/* If that keeps work from being done, it says so once. */
static Condition
examine(void)
{
	static Condition reported = CONDITION_GOOD;
	MemoryContext context = CurrentMemoryContext;
	Condition	result = CONDITION_GOOD;

	StartTransactionCommand();
	if (!OidIsValid(get_extension_oid(EVI_EXTENSION, true)))
		result = CONDITION_GONE;
	else if (!evi_relation_installed())
		result = CONDITION_UNFIT;
	else if (evi_incarnation_is_quiet())
		result = CONDITION_QUIET;
	if (result != reported)
		report(result);
	reported = result;
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	return result;
}

static void
report(Condition condition)
{
	if (condition == CONDITION_UNFIT)
		ereport(LOG,
				(errmsg("extension \"%s\" in database \"%s\" does not fit its library",
						EVI_EXTENSION, get_database_name(MyDatabaseId)),
				 errhint("Use ALTER EXTENSION %s UPDATE.", EVI_EXTENSION)));
	if (condition == CONDITION_QUIET)
		ereport(LOG,
				(errmsg("dispatch is quiet in database \"%s\", which was restored or copied from another",
						get_database_name(MyDatabaseId)),
				 errhint("Use SELECT evinbox.resume_after_restore('deliver') or ('discard').")));
}

/* what is to be done once */
static void
begin(void)
{
	(void) do_chore(forget_attempts);
	(void) do_chore(stamp);
}

/*
 * A lane that stands still must not keep the outbox from being emptied: what is
 * left for it there becomes its backlog. Waits for nobody. Returns whether one
 * is left.
 */
static bool
absorb_laggards(void)
{
	Snapshot	snapshot = GetActiveSnapshot();
	TimestampTz now = GetCurrentTimestamp();
	MemoryContext context;
	List	   *found = NIL;
	ListCell   *lc;

	/* a dump may be coming in, with cursors of elsewhere */
	if (evi_incarnation_look())
		return false;
	context = AllocSetContextCreate(TopMemoryContext, "evinbox laggards", ALLOCSET_SMALL_SIZES);
	evi_cursor_hold();
	foreach(lc, evi_cursor_all(snapshot))
	{
		EviLane    *lane = lfirst(lc);
		Laggard    *laggard;

		if (lane->lane == EVI_REPLAY_LANE || !evi_outbox_waits_for(lane->cursor->done, snapshot))
			continue;
		laggard = MemoryContextAlloc(context, sizeof(Laggard));
		*laggard = (Laggard) {lane->inbox_id, lane->lane, lane->cursor->done->xmax,
		lane->cursor->done->nxip, now};
		laggard->since = standing_since(laggard);
		if (!TimestampDifferenceExceeds(laggard->since, now, PATIENCE_MS) ||
			!absorb(lane->inbox_id, lane->lane))
		{
			MemoryContext former = MemoryContextSwitchTo(context);

			found = lappend(found, laggard);
			MemoryContextSwitchTo(former);
		}
	}

	if (laggards_context)
		MemoryContextDelete(laggards_context);
	laggards_context = context;
	laggards = found;
	return found != NIL;
}

/* since when it has stood there, as far as we have seen */
static TimestampTz
standing_since(const Laggard *laggard)
{
	ListCell   *lc;

	foreach(lc, laggards)
	{
		const Laggard *former = lfirst(lc);

		if (former->inbox_id == laggard->inbox_id && former->lane == laggard->lane &&
			former->xmax == laggard->xmax && former->nxip == laggard->nxip)
			return former->since;
	}
	return laggard->since;
}

/* now that it is committed */
static void
tell_runners(Oid database)
{
	has_absorbed = false;
	evi_duty_note_move();
	evi_duty_wake(database);
}

/* Returns false if somebody has the lane. */
static bool
absorb(int32 inbox_id, int lane)
{
	EviInbox	inbox = {.id = inbox_id};
	EviProgress *progress;

	if (!evi_cursor_lock(inbox_id, lane, false))
		return false;
	PushActiveSnapshot(GetLatestSnapshot());
	progress = evi_progress_create(&inbox, lane, CurrentMemoryContext);
	if (evi_progress_read_cursor(progress, GetActiveSnapshot()))
		evi_progress_absorb(progress, evi_snapshot_active(), GetActiveSnapshot());
	evi_progress_free(progress);
	PopActiveSnapshot();
	has_absorbed = true;
	return true;
}

/* After a proper start, attempts of former lives tell nothing. */
static bool
forget_attempts(void)
{
	static EviQuery delete = {
		.sql = "DELETE FROM evinbox_internal.attempt a",
		.expected = SPI_OK_DELETE,
		.nargs = 0,
	};

	if (evi_shmem_unclean_end() == 0)
		(void) evi_query_run(&delete, NULL, NULL, 0);
	return false;
}

/* The server may have been upgraded. */
static bool
stamp(void)
{
	evi_incarnation_stamp();
	return false;
}

/* Roles are shared by all databases, and may have been changed in another. */
static bool
look_after_owners(void)
{
	bool		left = evi_owner_mend_names();

	evi_owner_sync();
	return left;
}

/* Returns whether something has to be done again later. */
static bool
do_chores(Oid database)
{
	bool		left = do_chore(absorb_laggards);

	if (has_absorbed)
		tell_runners(database);
	left |= do_chore(evi_outbox_truncate);
	left |= do_chore(evi_cursor_fold);
	left |= do_chore(evi_backlog_trim);
	left |= do_chore(evi_partition_make);
	left |= expire();
	keep_journal();
	left |= do_chore(evi_errand_look);
	left |= do_chore(look_after_owners);
	return left;
}

/* One partition after the other. */
static bool
expire(void)
{
	bool		left;
	int			dropped = 0;

	do
	{
		CHECK_FOR_INTERRUPTS();
		left = do_chore(evi_retention_detach);
		if (!evi_retention_has_detached())
			return left;
		left |= do_chore(evi_retention_drop);
	} while (!evi_retention_has_detached() && ++dropped < MAX_DROPPED);
	return left;
}

/* Likewise. When to come back, evi_journal_wait_ms() says. */
static void
keep_journal(void)
{
	int			done = 0;

	while (do_chore(evi_journal_keep) && ++done < MAX_DROPPED)
		CHECK_FOR_INTERRUPTS();
}

/* Each is a transaction. */
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
