/*-------------------------------------------------------------------------
 *
 * setback.c
 *		What is stored when an event fails, or a rule does not work.
 *
 * The effects are undone by then. An event that has failed becomes a delivery,
 * and the cursor moves past it in the same transaction. A rule that does not
 * work halts its inbox, whose cursor stays. Too many failures in a row are a
 * sign of that, too.
 *
 * An event that ends the server cannot be recorded afterwards. After a server
 * or a worker has ended in the middle of a handler, events that were there
 * before are taken one by one, and each attempt is recorded before it starts:
 * one that was started MAX_CRASHES times, and never ended, is dead.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "backoff.h"
#include "blank.h"
#include "evinbox.h"
#include "fetch.h"
#include "guc.h"
#include "relation.h"
#include "setback.h"
#include "shmem.h"
#include "unit.h"
#include "verdict.h"

#define FIRST_HALT_MS 1000
#define MAX_HALT_MS 60000
#define MAX_CRASHES 3
#define SUSPECTS_LANE 0x7fff	/* no lane, in the tag of a lock */

/* what is to be stored */
typedef struct Setback
{
	EviProgress *progress;
	bool		in_worker;

	/* of a rule */
	const char *reason;

	/* of an event */
	int64		event_id;
	int			former_attempts;
	const ErrorData *error;
	EviOutcome	outcome;
	int			next;			/* index in the window to go on at, or -1 */

	/* results */
	EviStep		step;
	int			attempts;
	EviCursor	cursor;
	int64		seq;
} Setback;

/* what is held between units, where nothing can be looked up */
static LOCKMODE held_mode = NoLock;
static LOCKTAG held_tag;

static void hold_suspects(LOCKMODE mode);
static void store(Setback *setback, void (*work) (void *arg));
static void store_halt(void *arg);
static void store_failure(void *arg);
static void withhold_erased(Setback *setback);
static void store_attempt(void *arg);
static EviStep lock(Setback *setback);
static EviOutcome decide(const EviInbox *inbox, int former_attempts, const ErrorData *error);
static void report_failure(EviProgress *progress, bool in_worker, int64 event_id,
						   const ErrorData *error);

/*
 * Locks a lane and makes sure that its cursor is the one we know. On success, a
 * snapshot is active that is not older than the lock.
 */
EviStep
evi_setback_lock(EviProgress *progress, bool in_worker)
{
	EviInbox   *inbox = progress->inbox;

	if (!evi_cursor_lock(inbox->id, progress->lane, !in_worker))
		return EVI_STEP_LOCKED;

	PushActiveSnapshot(GetTransactionSnapshot());
	if (evi_cursor_seq(inbox->id, progress->lane, GetActiveSnapshot()) == progress->cursor.seq)
		return EVI_STEP_DONE;

	(void) evi_progress_read_cursor(progress, GetActiveSnapshot());
	PopActiveSnapshot();
	return EVI_STEP_MOVED;
}

/* The rule does not work: stay where we are, and look again later. */
EviStep
evi_setback_halt(EviProgress *progress, bool in_worker, const char *reason, bool is_streak)
{
	Setback		setback = {.progress = progress, .in_worker = in_worker, .reason = reason};

	if (progress->halts++ == 0)
		ereport(in_worker ? LOG : WARNING,
				(errmsg("inbox \"%s\" is halted: %s", progress->inbox->name, reason),
				 is_streak ? errhint("It goes on when the next event succeeds, or by evinbox.resume().") :
				 errhint("It goes on by itself when the rule works again.")));
	progress->halted_until = GetCurrentTimestamp() +
		1000 * evi_backoff_ms(FIRST_HALT_MS, progress->halts, MAX_HALT_MS);

	store(&setback, store_halt);
	return EVI_STEP_HALTED;
}

/*
 * An event has failed. Moves on to an index of the window; -1 for a retry,
 * which the cursor has passed long ago.
 */
EviStep
evi_setback_fail(EviProgress *progress, bool in_worker, int64 event_id, int former_attempts,
				 const ErrorData *error, int next)
{
	Setback		setback = {
		.progress = progress,
		.in_worker = in_worker,
		.event_id = event_id,
		.former_attempts = former_attempts,
		.error = error,
		.outcome = decide(progress->inbox, former_attempts, error),
		.next = next,
	};
	int			most = evi_guc_max_failures();

	/* no more dead letters, as long as nothing else comes of it */
	if (setback.outcome.is_failure && next >= 0 && most > 0 && progress->cursor.streak >= most)
		return evi_setback_halt(progress, in_worker,
								psprintf("%d events in a row have failed, the last one with: %s",
										 progress->cursor.streak, error->message), true);

	store(&setback, store_failure);
	if (setback.step != EVI_STEP_DONE)
		return setback.step;

	if (setback.outcome.is_failure)
		report_failure(progress, in_worker, event_id, error);
	progress->failures++;
	progress->conflicts = 0;
	if (setback.outcome.next_at != DT_NOEND)
		progress->retry_at = Min(progress->retry_at, setback.outcome.next_at);
	if (next >= 0)
		evi_progress_move(progress, next, &setback.cursor, setback.seq);
	return EVI_STEP_DONE;
}

/*
 * Records that an event is about to be tried, durably. If it has been so too
 * often, it is dead instead, and not to be tried.
 */
EviStep
evi_setback_try(EviProgress *progress, int64 event_id, int former_attempts, int next,
				bool *go_on)
{
	Setback		setback = {
		.progress = progress,
		.in_worker = true,
		.event_id = event_id,
		.former_attempts = former_attempts,
		.next = next,
	};
	ErrorData	crashed = {
		.sqlerrcode = ERRCODE_CRASH_SHUTDOWN,
		.message = "the server or its worker has ended whenever this event was handled",
	};

	*go_on = false;
	store(&setback, store_attempt);
	if (setback.step != EVI_STEP_DONE)
		return setback.step;
	progress->tried_id = event_id;
	*go_on = setback.attempts <= MAX_CRASHES;
	if (*go_on)
		return EVI_STEP_DONE;

	setback.error = &crashed;
	progress->handled_blank = true; /* it quotes nothing */
	setback.outcome = (EviOutcome) {"dead", former_attempts + MAX_CRASHES, DT_NOEND, true};
	store(&setback, store_failure);
	if (setback.step != EVI_STEP_DONE)
		return setback.step;
	report_failure(progress, true, event_id, &crashed);
	progress->failures++;
	if (next >= 0)
		evi_progress_move(progress, next, &setback.cursor, setback.seq);
	return EVI_STEP_DONE;
}

/*
 * In the unit that has tried it: the end is to be as durable as the beginning,
 * or the next crash would count it as well.
 */
void
evi_setback_tried(EviProgress *progress)
{
	if (progress->tried_id == 0)
		return;
	evi_attempt_end(progress->inbox, progress->tried_id);
	ForceSyncCommit();
}

/* after that unit, however it has ended: outside of transactions */
void
evi_setback_release(void)
{
	if (held_mode != NoLock)
		LockRelease(&held_tag, held_mode, true);
	held_mode = NoLock;
}

/*
 * One that was there when something ended is tried while no other suspect of
 * its owner is; else what ends next would be counted for several. Those of
 * other owners do not wait for it: a handler may take as long as it likes.
 */
static void
hold_suspects(LOCKMODE mode)
{
	evi_setback_release();
	SET_LOCKTAG_OBJECT(held_tag, MyDatabaseId, evi_relation_oid(EVI_INBOX),
					   GetAuthenticatedUserId(), SUSPECTS_LANE);
	(void) LockAcquire(&held_tag, mode, true, false);
	held_mode = mode;
}

/*
 * In a worker, in a transaction of its own. In run(), none of the rule's code
 * runs here, so that an error is one of the caller's transaction.
 */
static void
store(Setback *setback, void (*work) (void *arg))
{
	if (setback->in_worker)
		evi_unit_run(true, work, setback);
	else
		work(setback);
	setback->progress->tried_id = 0;
}

static void
store_halt(void *arg)
{
	Setback    *setback = arg;
	EviProgress *progress = setback->progress;

	setback->step = EVI_STEP_HALTED;
	if (!evi_cursor_lock(progress->inbox->id, progress->lane, !setback->in_worker))
		return;
	PushActiveSnapshot(GetTransactionSnapshot());
	evi_halt_set(progress->inbox, setback->reason, progress->halts, progress->halted_until);
	evi_setback_tried(progress);
	PopActiveSnapshot();
}

static void
store_failure(void *arg)
{
	Setback    *setback = arg;
	EviProgress *progress = setback->progress;
	EviInbox   *inbox = progress->inbox;

	setback->step = lock(setback);
	if (setback->step != EVI_STEP_DONE)
		return;

	if (setback->next >= 0)
	{
		setback->cursor = evi_progress_cursor_at(progress, setback->next);
		if (setback->outcome.is_failure)
			setback->cursor.streak++;
		setback->seq = evi_cursor_append(inbox->id, progress->lane, &setback->cursor);
	}

	/* the lock was free for a moment: somebody else may have retried it */
	if (setback->next >= 0 ||
		evi_delivery_attempts(inbox, setback->event_id) == setback->former_attempts)
	{
		withhold_erased(setback);
		evi_delivery_fail(inbox, setback->event_id, &setback->outcome, setback->error);
	}
	evi_setback_tried(progress);

	/* or a retry that ends the server would take it away, and come again */
	if (evi_shmem_unclean_end() != 0)
		ForceSyncCommit();
	PopActiveSnapshot();
}

/* An event may have been erased while it was handled: then its error is not for the record. */
static void
withhold_erased(Setback *setback)
{
	static ErrorData withheld = {.message = "not on record: the event was erased while it was handled"};
	EviBatch   *batch;
	HeapTupleData tuple;
	int			fetched;

	evi_blank_lock(ShareLock);
	if (setback->progress->handled_blank)
		return;
	PushActiveSnapshot(GetLatestSnapshot());
	batch = evi_fetch_batch(&setback->event_id, 1, GetActiveSnapshot(), &fetched);
	if (batch->count > 0)
	{
		tuple = evi_batch_tuple(batch, 0);
		if (evi_blank_is(&tuple, batch->desc))
		{
			withheld.sqlerrcode = setback->error->sqlerrcode;
			setback->error = &withheld;
		}
	}
	PopActiveSnapshot();
}

static void
store_attempt(void *arg)
{
	Setback    *setback = arg;

	setback->step = lock(setback);
	if (setback->step != EVI_STEP_DONE)
		return;
	hold_suspects(evi_attempt_count(setback->progress->inbox, setback->event_id) > 0 ?
				  ExclusiveLock : ShareLock);
	setback->attempts = evi_attempt_begin(setback->progress->inbox, setback->event_id);
	PopActiveSnapshot();

	/* what is not on disk is no record of what a crash has taken */
	ForceSyncCommit();
}

/* A retry does not move the cursor, so it need not be the one we know. */
static EviStep
lock(Setback *setback)
{
	EviProgress *progress = setback->progress;

	if (setback->next >= 0)
		return evi_setback_lock(progress, setback->in_worker);
	if (!evi_cursor_lock(progress->inbox->id, progress->lane, !setback->in_worker))
		return EVI_STEP_LOCKED;
	PushActiveSnapshot(GetTransactionSnapshot());
	return EVI_STEP_DONE;
}

/* What becomes of the event? */
static EviOutcome
decide(const EviInbox *inbox, int former_attempts, const ErrorData *error)
{
	TimestampTz now = GetCurrentTimestamp();
	int			attempts = former_attempts + 1;
	int64		delay_ms;

	switch (evi_verdict_of(error, &delay_ms))
	{
		case EVI_VERDICT_SKIP:
			return (EviOutcome) {"skipped", former_attempts, DT_NOEND, false};
		case EVI_VERDICT_GIVE_UP:
			return (EviOutcome) {"dead", attempts, DT_NOEND, false};
		case EVI_VERDICT_RETRY:
			if (delay_ms < 0)
				delay_ms = inbox->backoff_ms;
			return (EviOutcome) {"retry", former_attempts, now + 1000 * delay_ms, false};
		default:
			if (attempts >= inbox->max_attempts)
				return (EviOutcome) {"dead", attempts, DT_NOEND, true};
			delay_ms = evi_backoff_jittered_ms(inbox->backoff_ms, attempts, EVI_MAX_BACKOFF_MS);
			return (EviOutcome) {"retry", attempts, now + 1000 * delay_ms, true};
	}
}

/* one line in the log for a streak of failures; run() tells its caller each */
static void
report_failure(EviProgress *progress, bool in_worker, int64 event_id, const ErrorData *error)
{
	if (!in_worker || (!progress->failing && progress->cursor.streak == 0))
		ereport(in_worker ? LOG : WARNING,
				(errmsg("inbox \"%s\" could not handle event " INT64_FORMAT ": %s",
						progress->inbox->name, event_id, error->message),
				 errdetail("See evinbox.delivery.")));
	progress->failing = true;
}
