/*-------------------------------------------------------------------------
 *
 * runner.c
 *		One process for each owner of live rules in a database: runs them.
 *
 * It is connected as that owner, so that the rules have no more rights than
 * they should, whatever they try. A turn takes one snapshot, opens a window
 * up to it for every inbox that has finished its former one, and takes each
 * inbox one batch further. The snapshot is taken while the process has no
 * transaction id, and after the wake-ups were counted: whatever commits too
 * late for it counts as another one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "dispatch.h"
#include "evinbox.h"
#include "relation.h"
#include "wakeup.h"
#include "worker.h"

#define STORE_MS 1000			/* cursors that moved without effects */
#define LOCKED_MS 1000			/* retries of an inbox that somebody else has */
#define MAX_RETRIES 100			/* in one turn of an inbox */

PGDLLEXPORT void evi_runner_main(Datum arg);

/* lives as long as the process; the rules in a context of their own */
static MemoryContext runner_context;
static MemoryContext rules_context;
static List *inboxes = NIL;		/* of EviProgress, in the order of turns */
static uint64 rules_version = 0;	/* none has that one */
static TimestampTz store_at = DT_NOEND;

static void look(void);
static void load_rules(Snapshot snapshot);
static EviProgress *find_progress(List *list, int32 inbox_id);
static void adopt(EviProgress *progress, EviInbox *inbox);
static void open_windows(const EviSnapshot *upper, Snapshot snapshot, TimestampTz now);
static void open_window(EviProgress *progress, const EviSnapshot *upper, Snapshot snapshot);
static EviWindow *find_window(const EviCursor *cursor, const EviSnapshot *upper);
static bool is_ready(const EviProgress *progress, TimestampTz now);
static bool take_turn(EviProgress *progress);
static bool take_retries(EviProgress *progress);
static void store_cursors(void);
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
	CommitTransactionCommand();
	runner_context = AllocSetContextCreate(TopMemoryContext, "evinbox runner",
										   ALLOCSET_DEFAULT_SIZES);
	rules_context = AllocSetContextCreate(runner_context, "evinbox rules",
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
		foreach(lc, inboxes)
			more |= take_turn(lfirst(lc));
		foreach(lc, inboxes)
			more |= take_retries(lfirst(lc));
		store_cursors();
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
	EviSnapshot *upper;
	uint64		version;

	pgstat_report_activity(STATE_RUNNING, "looking for events");
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	if (!evi_relation_installed())
	{
		CommitTransactionCommand();
		proc_exit(0);
	}
	MemoryContextSwitchTo(context);

	/* the rules are those that the snapshot shows: as of the events in it */
	evi_cursor_hold();
	PushActiveSnapshot(GetTransactionSnapshot());
	version = evi_inbox_version(GetActiveSnapshot());
	if (version != rules_version)
		load_rules(GetActiveSnapshot());
	rules_version = version;

	upper = evi_snapshot_active();
	open_windows(upper, GetActiveSnapshot(), GetCurrentTimestamp());
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
}

/* What an inbox has done stays with it. */
static void
load_rules(Snapshot snapshot)
{
	MemoryContext former_rules = rules_context;
	MemoryContext context;
	List	   *former = inboxes;
	List	   *rules;
	ListCell   *lc;

	rules_context = AllocSetContextCreate(runner_context, "evinbox rules",
										  ALLOCSET_DEFAULT_SIZES);
	context = MemoryContextSwitchTo(rules_context);
	rules = evi_inbox_load(GetUserId(), snapshot);
	inboxes = NIL;
	foreach(lc, rules)
	{
		EviInbox   *inbox = lfirst(lc);
		EviProgress *progress = find_progress(former, inbox->id);

		if (progress)
			former = list_delete_ptr(former, progress);
		else
			progress = evi_progress_create(inbox, runner_context);
		inboxes = lappend(inboxes, progress);
		if (progress->inbox != inbox)
			evi_inbox_forget_plan(progress->inbox);
		adopt(progress, inbox);
		if (!progress->cursor.done && !evi_progress_read_cursor(progress, snapshot))
			ereport(LOG,
					(errmsg("inbox \"%s\" has no cursor", inbox->name),
					 errhint("Delete it and create it again.")));
	}
	MemoryContextSwitchTo(context);

	foreach(lc, former)
	{
		EviProgress *progress = lfirst(lc);

		evi_inbox_forget_plan(progress->inbox);
		evi_progress_free(progress);
	}
	MemoryContextDelete(former_rules);
}

static EviProgress *
find_progress(List *list, int32 inbox_id)
{
	ListCell   *lc;

	foreach(lc, list)
	{
		EviProgress *progress = lfirst(lc);

		if (progress->inbox->id == inbox_id)
			return progress;
	}
	return NULL;
}

/* A changed rule gets a fresh chance. */
static void
adopt(EviProgress *progress, EviInbox *inbox)
{
	inbox->keeps_plan = true;
	progress->inbox = inbox;
	progress->halts = evi_halt_exists(inbox->id) ? Max(progress->halts, 1) : 0;
	progress->halted_until = 0;
	progress->limit = 0;
	progress->retry_at = evi_delivery_next(inbox);
}

static void
open_windows(const EviSnapshot *upper, Snapshot snapshot, TimestampTz now)
{
	ListCell   *lc;

	foreach(lc, inboxes)
	{
		EviProgress *progress = lfirst(lc);

		if (is_ready(progress, now) && progress->cursor.done &&
			!evi_progress_has_events(progress))
			open_window(progress, upper, snapshot);
	}
}

/* Inboxes that stand at the same place get the same window. */
static void
open_window(EviProgress *progress, const EviSnapshot *upper, Snapshot snapshot)
{
	EviWindow  *window = find_window(&progress->cursor, upper);
	bool		again;

	if (!window)
		window = evi_window_open(&progress->cursor, upper, 0, snapshot, runner_context);
	evi_progress_use_window(progress, window);
	if (window->count > 0)
		return;

	/* nothing there: the cursor moves, but need not be stored for that */
	again = window->reopened;
	evi_progress_pass(progress);
	if (again)
		open_window(progress, upper, snapshot);
}

static EviWindow *
find_window(const EviCursor *cursor, const EviSnapshot *upper)
{
	ListCell   *lc;

	if (cursor->taking || cursor->own_xid != 0)
		return NULL;
	foreach(lc, inboxes)
	{
		EviWindow  *window = ((EviProgress *) lfirst(lc))->window;

		if (window && window->is_shareable &&
			evi_snapshot_equal(window->lower, cursor->done) &&
			evi_snapshot_equal(window->upper, upper))
			return window;
	}
	return NULL;
}

static bool
is_ready(const EviProgress *progress, TimestampTz now)
{
	return progress->inbox->live && progress->inbox->enabled && progress->halted_until <= now;
}

/* One batch. Returns whether there is more to do right now. */
static bool
take_turn(EviProgress *progress)
{
	TimestampTz now = GetCurrentTimestamp();
	int64		handled = 0;
	bool		was_halted;

	progress->locked_until = 0;
	if (!is_ready(progress, now))
		return false;

	/* its halt may have been over too late for the look of this turn */
	was_halted = progress->halted_until != 0;
	progress->halted_until = 0;
	if (!evi_progress_has_events(progress))
		return was_halted;

	pgstat_report_activity(STATE_RUNNING,
						   psprintf("dispatching to inbox \"%s\"", progress->inbox->name));
	switch (evi_dispatch_batch(progress, true, 0, &handled))
	{
		case EVI_STEP_DONE:

			/* behind a window of a former life, there may be more already */
			return evi_progress_has_events(progress) || progress->window->reopened;
		case EVI_STEP_MOVED:
			return true;

			/* whoever has it wakes us at the end; but not of a savepoint */
		case EVI_STEP_LOCKED:
			progress->locked_until = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), LOCKED_MS);
			break;
		case EVI_STEP_HALTED:
			break;
	}
	return false;
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

	if (progress->retry_at > now || !is_ready(progress, now))
		return false;

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	ndue = evi_delivery_due(progress->inbox, MAX_RETRIES, context, &due);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);

	for (int i = 0; i < ndue; i++)
	{
		EviStep		step = evi_dispatch_retry(progress, true, &due[i], &handled);

		if (step == EVI_STEP_LOCKED)
			progress->retry_at = TimestampTzPlusMilliseconds(now, LOCKED_MS);
		if (step == EVI_STEP_LOCKED || step == EVI_STEP_HALTED)
			return false;
		CHECK_FOR_INTERRUPTS();
	}

	StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());
	progress->retry_at = evi_delivery_next(progress->inbox);
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	return progress->retry_at <= now;
}

/*
 * Cursors that passed events which were not for their inbox are stored once
 * in a while: after a crash these events would be passed again, no more.
 */
static void
store_cursors(void)
{
	MemoryContext context = CurrentMemoryContext;
	TimestampTz now = GetCurrentTimestamp();
	bool		any = false;
	ListCell   *lc;

	foreach(lc, inboxes)
		any |= ((EviProgress *) lfirst(lc))->unstored;
	if (!any)
	{
		store_at = DT_NOEND;
		return;
	}
	if (store_at == DT_NOEND)
		store_at = TimestampTzPlusMilliseconds(now, STORE_MS);
	if (store_at > now)
		return;

	StartTransactionCommand();
	foreach(lc, inboxes)
	{
		EviProgress *progress = lfirst(lc);

		if (progress->unstored)
			(void) evi_dispatch_store(progress);
	}
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	store_at = DT_NOEND;
}

/* until the next thing is due, in milliseconds; -1 if nothing is */
static long
time_to_wait(void)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz next = store_at;
	ListCell   *lc;

	foreach(lc, inboxes)
	{
		EviProgress *progress = lfirst(lc);

		if (!progress->inbox->enabled || !progress->inbox->live)
			continue;

		/* what was due during the turn is due at once */
		if (progress->locked_until != 0)
			next = Min(next, progress->locked_until);
		next = Min(next, progress->halted_until != 0 ?
				   progress->halted_until : progress->retry_at);
	}
	return next == DT_NOEND ? -1 : (long) TimestampDifferenceMilliseconds(now, next) + 1;
}
