/*-------------------------------------------------------------------------
 *
 * dispatch.c
 *		Handling events: batches, effects and cursors.
 *
 * Events are handled in units: in a worker, a unit is a transaction of its
 * own, with one batch; in run(), a subtransaction of the caller's, with as
 * many batches as the caller's transaction has had units before, doubled each
 * time, because too many subtransactions would slow the server down. A unit
 * locks the lane, makes sure that nobody has moved its cursor, runs the rule
 * over the events and stores the new cursor. It happens as a whole or not at
 * all, and that is all there is to exactly once.
 *
 * When an event fails, the unit is undone. The events before it go through
 * in a unit of their own; then it stands at the head of a batch, fails
 * again, and is recorded as a delivery to be retried, past which the cursor
 * moves on. If it is not known which event has failed, units are halved
 * until there is only one, and grow again with each success.
 *
 * Errors are told apart by when they occur: while the rule is looked up, it
 * is the rule that does not work, and the inbox halts where it is; in the
 * middle of our own work, they are not ours to handle and are passed on.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "attempt.h"
#include "blank.h"
#include "deadline.h"
#include "dispatch.h"
#include "evinbox.h"
#include "fetch.h"
#include "guc.h"
#include "outbox.h"
#include "relation.h"
#include "shmem.h"
#include "unit.h"

/* a crash gives us back no more than so many events and a batch */
#define MAX_UNFLUSHED 50000

/* so many attempts in a row may be in the way of others' transactions */
#define MAX_CONFLICTS 5

static EviAttempt *create_attempt(EviProgress *progress, bool in_worker);
static int	unit_size(const EviProgress *progress, bool in_worker, int64 most);
static bool try_first(EviAttempt *attempt, EviStep *step);
static void flush_now_and_then(EviProgress *progress, int nevents);
static EviStep recover(EviAttempt *attempt, ErrorData *error);
static void note_handled(EviProgress *progress, const EviBatch *batch, int64 id);
static ErrorData *undo(EviAttempt *attempt, EviUnit *unit);
static bool is_passed_on(const EviAttempt *attempt, const ErrorData *error);
static bool is_conflict(const ErrorData *error);
static bool is_rules_fault(const EviAttempt *attempt, const ErrorData *error);

/*
 * Takes a lane one unit further in its window, which has events left. At
 * most "most" events (0 for no limit) are looked at. In a worker there is no
 * transaction before or after; in run() there is one all the time.
 */
EviStep
evi_dispatch_batch(EviProgress *progress, bool in_worker, int64 most, int64 *handled)
{
	EviInbox   *inbox = progress->inbox;
	EviWindow  *window = progress->window;
	EviAttempt *attempt = create_attempt(progress, in_worker);
	EviCursor	cursor;
	EviStep		step = EVI_STEP_DONE;
	int64		seq = 0;
	volatile bool is_outdated = false;
	EviUnit		unit;

	attempt->end = attempt->from + unit_size(progress, in_worker, most);
	evi_attempt_choose(attempt);
	if (attempt->nchosen == 0 && progress->halts == 0)
	{
		progress->suspects = Max(progress->suspects - 1, 0);
		cursor = evi_progress_cursor_at(progress, attempt->to);
		evi_progress_move(progress, attempt->to, &cursor, 0);
		return EVI_STEP_DONE;
	}
	if (in_worker && !try_first(attempt, &step))
		return step;

	evi_unit_begin(&unit, in_worker);
	PG_TRY();
	{
		step = evi_setback_lock(progress, in_worker);
		if (step == EVI_STEP_DONE && evi_attempt_is_outdated(attempt) &&
			progress->conflicts++ < MAX_CONFLICTS)
		{
			PopActiveSnapshot();
			is_outdated = true;
		}
		else if (step == EVI_STEP_DONE)
		{
			evi_attempt_handle(attempt);
			while (!in_worker && attempt->to < attempt->end)
			{
				evi_attempt_choose(attempt);
				evi_attempt_handle(attempt);
			}

			cursor = evi_progress_cursor_at(progress, attempt->to);
			if (attempt->nhandled > 0)
			{
				cursor.dispatched_at = GetCurrentTimestamp();
				cursor.streak = 0;
			}
			if (progress->halts > 0)
				evi_halt_clear(inbox->id);
			evi_setback_tried(progress);
			/* what has no effects need not be stored: see store_cursors() in runner.c */
			if (attempt->nhandled > 0 || progress->halts > 0 || progress->tried_id != 0 || !in_worker)
				seq = evi_cursor_append(inbox->id, progress->lane, &cursor);
			PopActiveSnapshot();
		}
		evi_attempt_commit(attempt, &unit);
	}
	PG_CATCH();
	{
		return recover(attempt, undo(attempt, &unit));
	}
	PG_END_TRY();

	if (step != EVI_STEP_DONE || is_outdated)
		return step;
	*handled += attempt->nhandled;
	progress->halts = progress->conflicts = 0;
	progress->tried_id = 0;
	progress->failing = false;
	progress->limit = progress->limit > window->count ? 0 : progress->limit * 2;
	if (in_worker)
		flush_now_and_then(progress, attempt->to - attempt->from);
	evi_progress_move(progress, attempt->to, &cursor, seq);
	return EVI_STEP_DONE;
}

/* Tries an event again that has failed before. */
EviStep
evi_dispatch_retry(EviProgress *progress, bool in_worker, const EviDue *due, int64 *handled)
{
	EviInbox   *inbox = progress->inbox;
	EviAttempt *attempt = create_attempt(progress, in_worker);
	int			first = 0;
	int			fetched;
	EviStep		step = EVI_STEP_DONE;
	EviUnit		unit;

	if (in_worker && due->failed_at < evi_shmem_unclean_end())
	{
		bool		go_on;

		step = evi_setback_try(progress, due->event_id, due->attempts, -1, &go_on);
		if (!go_on)
			return step;
	}

	evi_unit_begin(&unit, in_worker);
	PG_TRY();
	{
		if (!evi_cursor_lock(inbox->id, progress->lane, !in_worker))
			step = EVI_STEP_LOCKED;
		else
		{
			attempt->changes = evi_relation_changes();
			PushActiveSnapshot(GetTransactionSnapshot());

			/* unless somebody was quicker */
			if (evi_delivery_attempts(inbox, due->event_id) == due->attempts)
			{
				attempt->batch = evi_fetch_batch(&due->event_id, 1, GetActiveSnapshot(), &fetched);
				attempt->chosen = &first;
				attempt->nchosen = attempt->batch->count > 0 &&
					evi_attempt_is_for_inbox(attempt, first) ? 1 : 0;
				note_handled(progress, attempt->batch, due->event_id);
				evi_attempt_handle(attempt);
				if (!evi_delivery_done(inbox, due->event_id))
					ereport(ERROR,
							(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
							 errmsg("inbox \"%s\" was changed while an event was retried",
									inbox->name)));
				if (progress->halts > 0)
					evi_halt_clear(inbox->id);
			}
			evi_setback_tried(progress);
			PopActiveSnapshot();
		}
		evi_attempt_commit(attempt, &unit);
	}
	PG_CATCH();
	{
		ErrorData  *error = undo(attempt, &unit);

		if (is_passed_on(attempt, error))
			ReThrowError(error);
		if (is_rules_fault(attempt, error))
			return evi_setback_halt(progress, in_worker, error->message, false);

		/* still due: it comes again at once */
		if (is_conflict(error) && progress->conflicts++ < MAX_CONFLICTS)
			return EVI_STEP_DONE;
		return evi_setback_fail(progress, in_worker, due->event_id, due->attempts, error, -1);
	}
	PG_END_TRY();

	progress->tried_id = 0;
	progress->conflicts = 0;
	if (attempt->batch)
		progress->halts = 0;
	if (attempt->nhandled > 0)
		progress->cursor.streak = 0;
	*handled += attempt->nhandled;
	return step;
}

/*
 * Stores a cursor that is ahead because no event before it was for the
 * lane, in the transaction that the caller has begun.
 */
EviStep
evi_dispatch_store(EviProgress *progress)
{
	EviStep		step = evi_setback_lock(progress, true);

	if (step != EVI_STEP_DONE)
		return step;
	progress->cursor.seq = evi_cursor_append(progress->inbox->id, progress->lane,
											 &progress->cursor);
	progress->unstored = false;
	PopActiveSnapshot();
	return EVI_STEP_DONE;
}

/*
 * Makes a backlog of what the outbox has for a lane, if it is in the way of the
 * segments' being emptied. Returns whether that was so.
 */
bool
evi_dispatch_absorb(EviProgress *progress)
{
	bool		result = false;
	EviUnit		unit;

	evi_unit_begin(&unit, true);
	if (evi_setback_lock(progress, true) == EVI_STEP_DONE)
	{
		result = evi_outbox_waits_for(progress->cursor.done, GetActiveSnapshot());
		if (result)
			evi_progress_absorb(progress, evi_snapshot_active(), GetActiveSnapshot());
		PopActiveSnapshot();
	}
	evi_unit_commit(&unit);
	return result;
}

/* not on the stack, where what has changed since setjmp() is lost with longjmp() */
static EviAttempt *
create_attempt(EviProgress *progress, bool in_worker)
{
	EviAttempt *attempt = palloc0(sizeof(EviAttempt));

	attempt->progress = progress;
	attempt->in_worker = in_worker;
	attempt->from = attempt->to = progress->next;
	attempt->at = -1;
	return attempt;
}

/* how many events of the window a unit looks at */
static int
unit_size(const EviProgress *progress, bool in_worker, int64 most)
{
	int64		size = Min(progress->inbox->batch_size, evi_guc_batch_size());

	if (!in_worker)
		size <<= Min(evi_unit_opened(), 20);
	if (progress->limit > 0)
		size = Min(size, progress->limit);
	if (progress->suspects > 0)
		size = 1;
	if (most > 0)
		size = Min(size, most);
	return (int) Min(size, progress->window->count - progress->next);
}

/*
 * After an unclean end, the first event of the unit is the only one, and may be
 * what was the end. Returns false if it is not to be handled.
 */
static bool
try_first(EviAttempt *attempt, EviStep *step)
{
	EviProgress *progress = attempt->progress;
	bool		go_on = true;

	if (progress->suspects == 0 || attempt->nchosen == 0)
		return true;

	/* what was recorded later cannot have been it, and so on */
	if (evi_batch_parts(attempt->batch, attempt->chosen[0])->recorded_at >= evi_shmem_unclean_end())
	{
		progress->suspects = 0;
		return true;
	}
	progress->suspects--;
	*step = evi_setback_try(progress, attempt->first_id, 0, attempt->to, &go_on);
	return go_on;
}

/*
 * Our commits do not wait for the disk. But what they have done is to be there
 * soon, so that after a crash we know where to look for what caused it.
 */
static void
flush_now_and_then(EviProgress *progress, int nevents)
{
	progress->unflushed += nevents;
	if (progress->unflushed < MAX_UNFLUSHED)
		return;
	XLogFlush(XactLastCommitEnd);
	progress->unflushed = 0;
}

/* The unit is undone. Finds the guilty event, or gets nearer to it. */
static EviStep
recover(EviAttempt *attempt, ErrorData *error)
{
	EviProgress *progress = attempt->progress;
	EviWindow  *window = progress->window;
	EviBatch   *batch = attempt->batch;
	int			guilty;

	if (is_passed_on(attempt, error))
		ReThrowError(error);
	if (attempt->phase == EVI_PHASE_RULE)
		return evi_setback_halt(progress, attempt->in_worker, error->message, false);
	if (is_conflict(error) && progress->conflicts++ < MAX_CONFLICTS)
		return EVI_STEP_DONE;

	/* a single event, or the first one with nothing before it */
	if (attempt->nevents == 1 ||
		(attempt->at >= 0 && batch->id[attempt->chosen[attempt->at]] == attempt->first_id))
	{
		if (is_rules_fault(attempt, error))
			return evi_setback_halt(progress, attempt->in_worker, error->message, false);
		note_handled(progress, batch, attempt->first_id);
		return evi_setback_fail(progress, attempt->in_worker, attempt->first_id, 0, error,
								evi_window_index_of(window, attempt->first_id) + 1);
	}

	/* up to the guilty one, if we know it; else half of them */
	if (attempt->at >= 0)
		guilty = evi_window_index_of(window, batch->id[attempt->chosen[attempt->at]]);
	else if (attempt->nchosen > 1)
		guilty = evi_window_index_of(window, batch->id[attempt->chosen[attempt->nchosen / 2]]);
	else
		guilty = window->batch_from;
	progress->limit = Max(guilty - attempt->from, 1);
	FreeErrorData(error);
	return EVI_STEP_DONE;
}

/* How an event is that fails: what is said of it may quote it. */
static void
note_handled(EviProgress *progress, const EviBatch *batch, int64 id)
{
	progress->handled_blank = false;
	for (int i = 0; i < batch->count; i++)
		if (batch->id[i] == id)
		{
			HeapTupleData tuple = evi_batch_tuple(batch, i);

			progress->handled_blank = evi_blank_is(&tuple, batch->desc);
		}
}

/* in a PG_CATCH block; whatever goes off from now on is of no interest */
static ErrorData *
undo(EviAttempt *attempt, EviUnit *unit)
{
	bool		late = evi_deadline_drop();
	ErrorData  *error = evi_unit_undo(unit);

	if (late && error->sqlerrcode == ERRCODE_QUERY_CANCELED)
		error->message = psprintf("canceled after the inbox's timeout of " INT64_FORMAT " ms",
								  attempt->progress->inbox->timeout_ms);
	return error;
}

/*
 * Errors that neither the rule nor an event is to blame for. In run(), a
 * cancelled query is the caller's wish, and a failure of the whole
 * transaction's isolation can only be mended by its repetition.
 */
static bool
is_passed_on(const EviAttempt *attempt, const ErrorData *error)
{
	return attempt->phase == EVI_PHASE_OURS ||
		(!attempt->in_worker && (error->sqlerrcode == ERRCODE_QUERY_CANCELED || is_conflict(error)));
}

/* in the way of another transaction: the same may work at once */
static bool
is_conflict(const ErrorData *error)
{
	return ERRCODE_TO_CATEGORY(error->sqlerrcode) ==
		ERRCODE_TO_CATEGORY(ERRCODE_T_R_SERIALIZATION_FAILURE);
}

/*
 * Something that the rule names is not there, or may not be used: that is so
 * for all events, whichever met it first.
 */
static bool
is_rules_fault(const EviAttempt *attempt, const ErrorData *error)
{
	return attempt->phase == EVI_PHASE_RULE ||
		ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_TO_CATEGORY(ERRCODE_SYNTAX_ERROR) ||
		error->sqlerrcode == ERRCODE_UNDEFINED_SCHEMA;
}
