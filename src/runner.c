/*-------------------------------------------------------------------------
 *
 * runner.c
 *		Runs the rules of one role in one database.
 *
 * It is connected as that role, so that the rules have no more rights than
 * they should, whatever they try. There may be several for a role; duty.c says
 * how they share its lanes.
 *
 * A turn takes one snapshot, opens a window up to it for every lane that has
 * finished its former one, and takes each lane one batch further. The snapshot
 * is taken while the process has no transaction id, and after the wake-ups
 * were counted: whatever commits too late for it counts as another one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "deadline.h"
#include "dispatch.h"
#include "duty.h"
#include "evinbox.h"
#include "incarnation.h"
#include "lanes.h"
#include "owner.h"
#include "relation.h"
#include "session.h"
#include "setback.h"
#include "worker.h"

#define STUCK_MS 5				/* a turn as long as this should not keep others waiting */
#define STORE_MS 1000			/* cursors that moved without effects ... */
#define STORE_MS_PER_LANE 10	/* ... the less often, the more there are ... */
#define MAX_STORED 16			/* ... and only so many at a time */
#define LOCKED_MS 1000			/* retries of a lane that somebody else has */
#define MAX_RETRIES 100			/* in one turn of an inbox */
#define ABSORB_MS 5000			/* how long a lane may stand still in the outbox */
#define PLANS_MS 10000			/* the age of plans, which small tables may outgrow */

PGDLLEXPORT void evi_runner_main(Datum arg);

/* lives as long as the process */
static MemoryContext runner_context;
static List *lanes = NIL;		/* of EviProgress, in the order of turns */
static TimestampTz plans_since = 0;
static uint64 looks = 0;		/* so far */
static TimeoutId stuck_timeout;
static bool was_superuser;		/* when it connected */

static void look(void);
static void open_windows(const EviSnapshot *upper, Snapshot snapshot, TimestampTz now);
static EviWindow *find_window(const EviCursor *cursor, const EviSnapshot *upper);
static bool is_ready(const EviProgress *progress, TimestampTz now);
static bool take_turn(EviProgress *progress);
static bool holds_outbox(EviProgress *progress, TimestampTz now);
static EviStep take_batch(EviProgress *progress, bool *has_missed);
static bool may_have_missed(bool was_at_it);
static void tell_other_lanes(EviProgress *progress);
static bool take_retries(EviProgress *progress);
static void read_next_retry(EviProgress *progress);
static bool store_cursors(bool now_or_never);
static long time_to_wait(void);

void
evi_runner_main(Datum arg)
{
	Oid			database;
	Oid			owner;
	MemoryContext turn_context;

	evi_worker_start(DatumGetInt32(arg), &database, &owner);
	BackgroundWorkerInitializeConnectionByOid(database, owner, BGWORKER_BYPASS_ROLELOGINCHECK);
	StartTransactionCommand();
	evi_worker_name(psprintf("evinbox runner for %s", GetUserNameFromId(owner, false)));
	was_superuser = superuser_arg(owner);
	CommitTransactionCommand();

	/* or ALTER ROLE ... SET role would make us run the rules of one as another */
	SetConfigOption("role", "none", PGC_USERSET, PGC_S_OVERRIDE);
	evi_deadline_init();
	stuck_timeout = RegisterTimeout(USER_TIMEOUT, evi_duty_call_for_help);
	runner_context = AllocSetContextCreate(TopMemoryContext, "evinbox runner",
										   ALLOCSET_DEFAULT_SIZES);
	turn_context = AllocSetContextCreate(runner_context, "evinbox turn", ALLOCSET_DEFAULT_SIZES);

	for (;;)
	{
		bool		more = false;
		ListCell   *lc;

		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(turn_context);
		MemoryContextSwitchTo(turn_context);

		look();

		/* its first batch may take long */
		evi_shmem_note_ready();
		foreach(lc, lanes)
		{
			more |= take_turn(lfirst(lc));
			if (evi_duty_is_to_leave())
				break;
		}
		if (evi_duty_is_to_leave())
		{
			(void) store_cursors(true);
			proc_exit(0);
		}
		foreach(lc, lanes)
			more |= take_retries(lfirst(lc));
		more |= store_cursors(false);
		evi_worker_settle();
		if (!more)
			evi_worker_wait(time_to_wait(), "waiting for events");
	}
}

/* Sees what there is. Ends the worker if the extension is gone. */
static void
look(void)
{
	MemoryContext context = CurrentMemoryContext;
	TimestampTz now;
	EviSnapshot *upper;
	uint32		moves = evi_duty_others_moves();

	looks++;
	pgstat_report_activity(STATE_RUNNING, "looking for events");
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	if (!evi_relation_installed())
	{
		CommitTransactionCommand();
		proc_exit(0);
	}
	if (!evi_owner_exists(GetAuthenticatedUserId()) || evi_incarnation_is_quiet())
	{
		CommitTransactionCommand();
		evi_duty_leave();
		proc_exit(0);
	}

	/* a session of one who has been a superuser may still become anybody: begin another one */
	if (superuser_arg(GetAuthenticatedUserId()) != was_superuser)
	{
		CommitTransactionCommand();
		proc_exit(0);
	}
	MemoryContextSwitchTo(context);

	now = GetCurrentTimestamp();
	if (TimestampDifferenceExceeds(plans_since, now, PLANS_MS))
	{
		ResetPlanCache();
		plans_since = now;
	}

	/* the rules are those that the snapshot shows: as of the events in it */
	evi_cursor_hold();
	PushActiveSnapshot(GetTransactionSnapshot());
	lanes = evi_lanes_load(runner_context, moves, GetActiveSnapshot());

	upper = evi_snapshot_active();
	open_windows(upper, GetActiveSnapshot(), now);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
}

static void
open_windows(const EviSnapshot *upper, Snapshot snapshot, TimestampTz now)
{
	ListCell   *lc;

	foreach(lc, lanes)
	{
		EviProgress *progress = lfirst(lc);
		bool		again = is_ready(progress, now) && progress->cursor.done &&
			!evi_progress_has_events(progress);

		if (again)
			progress->look = looks;

		/* where nothing is there, the cursor moves, but need not be stored for that */
		while (again)
		{
			CHECK_FOR_INTERRUPTS();
			evi_progress_open(progress, upper, 0, find_window(&progress->cursor, upper),
							  snapshot, runner_context);
			again = progress->window && progress->window->count == 0 &&
				evi_progress_pass(progress);
		}
	}
}

/* Lanes that stand at the same place get the same window. */
static EviWindow *
find_window(const EviCursor *cursor, const EviSnapshot *upper)
{
	ListCell   *lc;

	foreach(lc, lanes)
	{
		EviWindow  *window = ((EviProgress *) lfirst(lc))->window;

		if (window && evi_window_suits(window, cursor, upper))
			return window;
	}
	return NULL;
}

static bool
is_ready(const EviProgress *progress, TimestampTz now)
{
	return progress->inbox->live && progress->inbox->enabled && progress->halted_until <= now &&
		!evi_duty_is_claimed(progress->inbox->id, progress->lane);
}

/* One batch. Returns whether there is more to do right now. */
static bool
take_turn(EviProgress *progress)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		was_halted;
	bool		has_missed = false;

	progress->locked_until = 0;
	if (!is_ready(progress, now))
		return false;

	/* its halt may have been over too late for the look of this turn */
	was_halted = progress->halted_until != 0;
	progress->halted_until = 0;
	if (!evi_progress_has_events(progress))
		return was_halted;

	if (holds_outbox(progress, now))
	{
		if (evi_dispatch_absorb(progress))
			evi_duty_note_move();

		/* it has become a backlog, or somebody else has moved it */
		if (!evi_progress_has_events(progress))
			return true;
	}
	switch (take_batch(progress, &has_missed))
	{
		case EVI_STEP_DONE:

			/* a wake-up may have been for what a window of a former look does not show */
			return has_missed || evi_progress_has_events(progress) ||
				progress->window->leads_on || progress->look != looks;
		case EVI_STEP_MOVED:
			return true;

			/* whoever has it wakes us at the end; but not of a savepoint */
		case EVI_STEP_LOCKED:
			progress->locked_until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LOCKED_MS);
			break;
		case EVI_STEP_HALTED:
			break;
	}
	return has_missed;
}

/* Has a lane been in one window, or its backlog, for so long that it is worth a look? */
static bool
holds_outbox(EviProgress *progress, TimestampTz now)
{
	if (!progress->window->range && !progress->window->reopened)
		progress->absorb_at = 0;
	else if (progress->absorb_at == 0)
		progress->absorb_at = TimestampTzPlusMilliseconds(now, ABSORB_MS);
	if (progress->absorb_at == 0 || progress->absorb_at > now)
		return false;
	progress->absorb_at = 0;
	return true;
}

/* If it takes long, another runner goes on duty. */
static EviStep
take_batch(EviProgress *progress, bool *has_missed)
{
	int64		seq = progress->cursor.seq;
	int64		handled = 0;
	EviStep		step;

	pgstat_report_activity(STATE_RUNNING,
						   psprintf("dispatching to inbox \"%s\"", progress->inbox->name));
	evi_duty_claim(progress->inbox->id, progress->lane);
	enable_timeout_after(stuck_timeout, STUCK_MS);
	step = evi_dispatch_batch(progress, true, 0, &handled);
	evi_setback_release();
	evi_session_reset();
	disable_timeout(stuck_timeout, false);
	evi_duty_unclaim();
	*has_missed = may_have_missed(step != EVI_STEP_LOCKED);
	if (progress->cursor.seq != seq || step == EVI_STEP_HALTED)
		evi_duty_note_move();
	tell_other_lanes(progress);
	return step;
}

/*
 * Commits that came while this runner was stuck, or not on duty, did not wake
 * it; and others have left the lane that it was at to it. Of a lane that
 * somebody else has locked they hear as it does: to look at once again and
 * again would be in vain.
 */
static bool
may_have_missed(bool was_at_it)
{
	return evi_duty_was_stuck() || (was_at_it && !evi_duty_is_mine());
}

/* An inbox halts as a whole; and its lane 0 does the retries of all. */
static void
tell_other_lanes(EviProgress *progress)
{
	ListCell   *lc;

	foreach(lc, lanes)
	{
		EviProgress *other = lfirst(lc);

		if (other->inbox != progress->inbox || other == progress)
			continue;
		if (progress->halted_until != 0)
		{
			other->halts = progress->halts;
			other->halted_until = progress->halted_until;
		}
		else if (progress->halts == 0 && other->halts > 0)
			other->halted_until = 0;
		if (other->lane == 0)
			other->retry_at = Min(other->retry_at, progress->retry_at);
	}
	if (progress->lane != 0)
		progress->retry_at = DT_NOEND;
}

/* Those that are due. Returns whether there are more of them right now. */
static bool
take_retries(EviProgress *progress)
{
	MemoryContext context = CurrentMemoryContext;
	TimestampTz now = GetCurrentTimestamp();
	EviDue	   *due;
	int			ndue;
	int64		handled = 0;

	if (progress->lane != 0 || progress->retry_at > now || !is_ready(progress, now))
		return false;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	ndue = evi_delivery_due(progress->inbox, MAX_RETRIES, context, &due);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);

	for (int i = 0; i < ndue; i++)
	{
		EviStep		step;
		bool		has_missed;

		evi_duty_claim(progress->inbox->id, progress->lane);
		enable_timeout_after(stuck_timeout, STUCK_MS);
		step = evi_dispatch_retry(progress, true, &due[i], &handled);
		evi_setback_release();
		evi_session_reset();
		disable_timeout(stuck_timeout, false);
		evi_duty_unclaim();
		has_missed = may_have_missed(step != EVI_STEP_LOCKED);

		if (step == EVI_STEP_LOCKED)
			progress->retry_at = TimestampTzPlusMilliseconds(now, LOCKED_MS);
		if (step == EVI_STEP_HALTED)
		{
			evi_duty_note_move();
			tell_other_lanes(progress);
		}
		if (step == EVI_STEP_LOCKED || step == EVI_STEP_HALTED)
			return has_missed;

		/* there may be new events meanwhile, and they come first */
		if (has_missed)
			return true;
		CHECK_FOR_INTERRUPTS();
	}
	read_next_retry(progress);
	return progress->retry_at <= now;
}

static void
read_next_retry(EviProgress *progress)
{
	MemoryContext context = CurrentMemoryContext;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	progress->retry_at = evi_delivery_next(progress->inbox);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
}

/*
 * Cursors that passed events which were not for their lane are stored once
 * in a while: after a crash these events would be passed again, no more.
 * Returns whether one turned out to be somewhere else.
 */
static bool
store_cursors(bool now_or_never)
{
	MemoryContext context = CurrentMemoryContext;
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz later = TimestampTzPlusMilliseconds(now, Max(STORE_MS,
															 STORE_MS_PER_LANE * list_length(lanes)));
	int			nstored = 0;
	bool		any_moved = false;
	ListCell   *lc;

	foreach(lc, lanes)
	{
		EviProgress *progress = lfirst(lc);

		if (!progress->unstored)
			progress->store_at = 0;
		else if (progress->store_at == 0 && !now_or_never)
			progress->store_at = later;
		else if (now_or_never || (progress->store_at <= now && nstored < MAX_STORED))
		{
			if (nstored++ == 0)
				StartTransactionCommand();
			any_moved |= evi_dispatch_store(progress) == EVI_STEP_MOVED;
			progress->store_at = progress->unstored ? later : 0;
		}
	}
	if (nstored > 0)
		CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	return any_moved;
}

/* until the next thing is due, in milliseconds; -1 if nothing is */
static long
time_to_wait(void)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz next = DT_NOEND;
	ListCell   *lc;

	foreach(lc, lanes)
	{
		EviProgress *progress = lfirst(lc);
		TimestampTz due;

		if (progress->store_at != 0)
			next = Min(next, progress->store_at);
		if (!progress->inbox->enabled || !progress->inbox->live)
			continue;

		/* what was due during the turn is due at once, unless somebody is at it */
		due = progress->halted_until != 0 ? progress->halted_until : progress->retry_at;
		if (progress->locked_until != 0)
			due = Min(due, progress->locked_until);
		if (due != DT_NOEND && evi_duty_is_claimed(progress->inbox->id, progress->lane))
			due = Max(due, TimestampTzPlusMilliseconds(now, LOCKED_MS));
		next = Min(next, due);
	}
	return next == DT_NOEND ? -1 : (long) TimestampDifferenceMilliseconds(now, next) + 1;
}
