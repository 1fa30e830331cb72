/*-------------------------------------------------------------------------
 *
 * dispatch.c
 *		Handling events: batches, effects and cursors.
 *
 * A batch is handled in one unit: in a worker, a transaction of its own; in
 * run(), a subtransaction of the caller's. The unit locks the inbox, makes
 * sure that nobody has moved its cursor, runs the rule over the events and
 * stores the new cursor. It happens as a whole or not at all, and that is
 * all there is to exactly once.
 *
 * When an event fails, the unit is undone. The events before it go through
 * in a unit of their own; then it stands at the head of a batch, fails
 * again, and is recorded as a delivery to be retried, past which the cursor
 * moves on. If it is not known which event has failed, batches are halved
 * until there is only one. So each event is tried about twice however many
 * fail, and no unit nests others.
 *
 * Errors are told apart by when they occur: while the rule is looked up, it
 * is the rule that does not work, and the inbox halts where it is; in the
 * middle of our own work, they are not ours to handle and are passed on.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timeout.h"

#include "backoff.h"
#include "compat.h"
#include "dispatch.h"
#include "guc.h"
#include "query.h"
#include "relation.h"
#include "unit.h"

#define FIRST_HALT_MS 1000
#define MAX_HALT_MS 60000

typedef enum Phase
{
	PHASE_OURS,
	PHASE_RULE,
	PHASE_EVENT
} Phase;

/* what one unit is to do, and how far it has come */
typedef struct Attempt
{
	EviProgress *progress;
	EviBatch   *batch;
	int		   *chosen;			/* indexes into the batch */
	int			nchosen;
	bool		in_worker;
	Phase		phase;
	int			at;				/* which of the chosen is being handled, or -1 */
	int			nhandled;
} Attempt;

/* what is to be stored after an error */
typedef struct Setback
{
	EviProgress *progress;
	bool		in_worker;
	const ErrorData *error;

	/* of an event */
	int64		event_id;
	int			former_attempts;
	int			next;			/* index in the window to go on at, or -1 */

	/* results */
	EviStep		step;
	TimestampTz retry_at;
	EviCursor	cursor;
	int64		seq;
} Setback;

static void choose_events(Attempt *attempt, int most);
static EviBatch *load_batch(EviWindow *window, int from, int most, bool in_worker);
static EviStep lock_inbox(EviProgress *progress, bool in_worker);
static EviStep lock_retry(EviProgress *progress, bool in_worker);
static void handle_events(Attempt *attempt);
static void commit_events(Attempt *attempt, EviUnit *unit);
static void filter_events(Attempt *attempt);
static void arm_timeout(const Attempt *attempt);
static void disarm_timeout(const Attempt *attempt);
static EviStep recover(Attempt *attempt, int from, ErrorData *error);
static EviStep halt(EviProgress *progress, bool in_worker, const ErrorData *error);
static void store_halt(void *arg);
static EviStep record_failure(EviProgress *progress, bool in_worker, int64 event_id,
							  int former_attempts, const ErrorData *error, int next);
static void store_failure(void *arg);
static void report_failure(EviProgress *progress, bool in_worker, int64 event_id,
						   const ErrorData *error);
static void pass_on(const Attempt *attempt, ErrorData *error);
static bool is_not_the_events_fault(const Attempt *attempt, const ErrorData *error);

/*
 * Takes an inbox one batch further in its window, which has events left. At
 * most "most" events (0 for no limit) are looked at. In a worker there is no
 * transaction before or after; in run() there is one all the time.
 */
EviStep
evi_dispatch_batch(EviProgress *progress, bool in_worker, int most, int64 *handled)
{
	EviInbox   *inbox = progress->inbox;
	EviWindow  *window = progress->window;
	int			from = progress->next;
	Attempt		attempt = {.progress = progress, .in_worker = in_worker, .at = -1};
	EviCursor	cursor;
	volatile EviStep step = EVI_STEP_DONE;
	volatile int64 seq = 0;
	EviUnit		unit;

	choose_events(&attempt, most);
	cursor = evi_progress_cursor_at(progress, window->batch_to);
	if (attempt.nchosen == 0 && progress->halts == 0)
	{
		evi_progress_move(progress, window->batch_to, &cursor, 0);
		return EVI_STEP_DONE;
	}

	evi_unit_begin(&unit, in_worker);
	PG_TRY();
	{
		step = lock_inbox(progress, in_worker);
		if (step == EVI_STEP_DONE)
		{
			handle_events(&attempt);
			if (attempt.nhandled > 0)
				cursor.dispatched_at = GetCurrentTimestamp();
			if (progress->halts > 0)
				evi_halt_clear(inbox->id);
			seq = evi_cursor_append(inbox->id, &cursor);
			PopActiveSnapshot();
		}

		commit_events(&attempt, &unit);
	}
	PG_CATCH();
	{
		return recover(&attempt, from, evi_unit_undo(&unit));
	}
	PG_END_TRY();

	if (step != EVI_STEP_DONE)
		return step;
	*handled += attempt.nhandled;
	progress->halts = 0;
	progress->failing = false;
	evi_progress_move(progress, window->batch_to, &cursor, seq);
	return EVI_STEP_DONE;
}

/* Tries an event again that has failed before. */
EviStep
evi_dispatch_retry(EviProgress *progress, bool in_worker, const EviDue *due, int64 *handled)
{
	EviInbox   *inbox = progress->inbox;
	Attempt		attempt = {.progress = progress, .in_worker = in_worker, .at = -1};
	int			first = 0;
	int			fetched;
	volatile EviStep step = EVI_STEP_DONE;
	EviUnit		unit;

	evi_unit_begin(&unit, in_worker);
	PG_TRY();
	{
		step = lock_retry(progress, in_worker);
		if (step == EVI_STEP_DONE)
		{
			/* unless somebody was quicker */
			if (evi_delivery_attempts(inbox, due->event_id) == due->attempts)
			{
				attempt.batch = evi_event_fetch(&due->event_id, 1, GetActiveSnapshot(), &fetched);
				attempt.chosen = &first;
				attempt.nchosen = attempt.batch->count > 0 &&
					evi_inbox_wants(inbox, attempt.batch->subject_type[0],
									attempt.batch->action[0]) ? 1 : 0;
				handle_events(&attempt);
				evi_delivery_done(inbox, due->event_id);
				if (progress->halts > 0)
					evi_halt_clear(inbox->id);
			}
			PopActiveSnapshot();
		}
		commit_events(&attempt, &unit);
	}
	PG_CATCH();
	{
		ErrorData  *error = evi_unit_undo(&unit);

		pass_on(&attempt, error);
		if (attempt.phase == PHASE_RULE)
			return halt(progress, in_worker, error);
		return record_failure(progress, in_worker, due->event_id, due->attempts, error, -1);
	}
	PG_END_TRY();

	if (attempt.batch)
		progress->halts = 0;
	*handled += attempt.nhandled;
	return step;
}

/*
 * Stores a cursor that is ahead because no event before it was for the
 * inbox, in the transaction that the caller has begun. Returns whether it did.
 */
bool
evi_dispatch_store(EviProgress *progress)
{
	if (lock_inbox(progress, true) != EVI_STEP_DONE)
		return false;
	progress->cursor.seq = evi_cursor_append(progress->inbox->id, &progress->cursor);
	progress->unstored = false;
	PopActiveSnapshot();
	return true;
}

/* Takes the next batch of the window, and of that what the rule's lists want. */
static void
choose_events(Attempt *attempt, int most)
{
	EviProgress *progress = attempt->progress;
	EviInbox   *inbox = progress->inbox;
	EviWindow  *window = progress->window;
	int			size = Min(inbox->batch_size, evi_guc_batch_size());
	EviBatch   *batch;

	if (progress->limit > 0)
		size = Min(size, progress->limit);
	if (most > 0)
		size = Min(size, most);

	batch = load_batch(window, progress->next, size, attempt->in_worker);
	attempt->batch = batch;
	attempt->chosen = MemoryContextAlloc(window->batch_context,
										 sizeof(int) * Max(batch->count, 1));
	for (int i = 0; i < batch->count; i++)
		if (evi_inbox_wants(inbox, batch->subject_type[i], batch->action[i]))
			attempt->chosen[attempt->nchosen++] = i;
}

/* The events from an index on; the window keeps them for its other users. */
static EviBatch *
load_batch(EviWindow *window, int from, int most, bool in_worker)
{
	int			count = Min(window->count - from, most);
	int			fetched;
	MemoryContext former = CurrentMemoryContext;
	bool		starts_transaction = in_worker && !IsTransactionState();

	if (window->batch && window->batch_from == from && window->batch_asked == count)
		return window->batch;

	if (starts_transaction)
		StartTransactionCommand();
	PushActiveSnapshot(GetTransactionSnapshot());

	window->batch = NULL;
	MemoryContextReset(window->batch_context);
	MemoryContextSwitchTo(window->batch_context);
	window->batch = evi_event_fetch(window->id + from, count, GetActiveSnapshot(), &fetched);
	window->batch_from = from;
	window->batch_to = from + fetched;
	window->batch_asked = count;
	MemoryContextSwitchTo(former);

	PopActiveSnapshot();
	if (starts_transaction)
	{
		CommitTransactionCommand();
		MemoryContextSwitchTo(former);
	}
	return window->batch;
}

/* On success, a snapshot is active that is not older than the lock. */
static EviStep
lock_inbox(EviProgress *progress, bool in_worker)
{
	if (!evi_cursor_lock(progress->inbox->id, !in_worker))
		return EVI_STEP_LOCKED;

	PushActiveSnapshot(GetTransactionSnapshot());
	if (evi_cursor_seq(progress->inbox->id, GetActiveSnapshot()) == progress->cursor.seq)
		return EVI_STEP_DONE;

	(void) evi_progress_read_cursor(progress, GetActiveSnapshot());
	PopActiveSnapshot();
	return EVI_STEP_MOVED;
}

/* The same for a retry, which does not move the cursor. */
static EviStep
lock_retry(EviProgress *progress, bool in_worker)
{
	if (!evi_cursor_lock(progress->inbox->id, !in_worker))
		return EVI_STEP_LOCKED;
	PushActiveSnapshot(GetTransactionSnapshot());
	return EVI_STEP_DONE;
}

/* Runs the rule over the chosen events, as the current user. */
static void
handle_events(Attempt *attempt)
{
	EviInbox   *inbox = attempt->progress->inbox;
	EviBatch   *batch = attempt->batch;
	EviHandler	handler;
	MemoryContext context;
	MemoryContext former;
	int			guc_level;

	evi_query_open();
	guc_level = evi_search_path_set(inbox->search_path);

	attempt->phase = PHASE_RULE;
	evi_inbox_prepare(inbox, &handler);

	attempt->phase = PHASE_EVENT;
	if (inbox->condition && attempt->nchosen > 0)
		filter_events(attempt);

	context = AllocSetContextCreate(CurrentMemoryContext, "evinbox handler",
									ALLOCSET_DEFAULT_SIZES);
	former = MemoryContextSwitchTo(context);
	for (int i = 0; i < attempt->nchosen; i++)
	{
		int			at = attempt->chosen[i];

		CHECK_FOR_INTERRUPTS();
		attempt->at = i;
		evi_event_set_cause(batch->id[at], batch->depth[at]);
		arm_timeout(attempt);
		evi_inbox_call(inbox, &handler, batch->event[at]);
		disarm_timeout(attempt);
		attempt->nhandled++;
		MemoryContextReset(context);
	}
	attempt->at = -1;
	evi_event_set_cause(0, 0);
	MemoryContextSwitchTo(former);

	/* also undoes what the handler has SET */
	attempt->phase = PHASE_OURS;
	AtEOXact_GUC(false, guc_level);
	evi_query_close();
}

/* Deferred constraints and triggers are the events' fault as well. */
static void
commit_events(Attempt *attempt, EviUnit *unit)
{
	if (attempt->nhandled > 0)
	{
		attempt->phase = PHASE_EVENT;
		arm_timeout(attempt);
	}
	evi_unit_commit(unit);

	/* it is done: whatever goes off from now on is nobody's failure */
	if (attempt->in_worker)
	{
		disable_timeout(STATEMENT_TIMEOUT, false);
		QueryCancelPending = false;
	}
}

/* Leaves those for which the condition is true, by one query for all. */
static void
filter_events(Attempt *attempt)
{
	EviBatch   *batch = attempt->batch;
	Oid			row_type = get_rel_type_id(evi_relation_oid(EVI_EVENT));
	Datum	   *events = palloc(sizeof(Datum) * Max(attempt->nchosen, 1));
	int64	   *ids;
	int			nids;
	int			kept = 0;

	for (int i = 0; i < attempt->nchosen; i++)
		events[i] = batch->event[attempt->chosen[i]];

	arm_timeout(attempt);
	evi_condition_run(attempt->progress->inbox->plan,
					  construct_array(events, attempt->nchosen, row_type, -1, false, TYPALIGN_DOUBLE),
					  CurrentMemoryContext, &ids, &nids);
	disarm_timeout(attempt);

	/* both in the order of ids */
	for (int i = 0, k = 0; i < attempt->nchosen && k < nids; i++)
		if (batch->id[attempt->chosen[i]] == ids[k])
		{
			attempt->chosen[kept++] = attempt->chosen[i];
			k++;
		}
	attempt->nchosen = kept;
}

/* in run(), the caller's own statement_timeout is in force instead */
static void
arm_timeout(const Attempt *attempt)
{
	int64		ms = attempt->progress->inbox->timeout_ms;

	if (attempt->in_worker && ms > 0)
		enable_timeout_after(STATEMENT_TIMEOUT, (int) Min(ms, INT_MAX));
}

/* one that has gone off, but was not looked for, still counts against the event */
static void
disarm_timeout(const Attempt *attempt)
{
	if (!attempt->in_worker)
		return;
	disable_timeout(STATEMENT_TIMEOUT, true);
	CHECK_FOR_INTERRUPTS();
	(void) get_timeout_indicator(STATEMENT_TIMEOUT, true);
}

/* The unit is undone. Finds the guilty event, or gets nearer to it. */
static EviStep
recover(Attempt *attempt, int from, ErrorData *error)
{
	EviProgress *progress = attempt->progress;
	EviWindow  *window = progress->window;
	EviBatch   *batch = attempt->batch;
	int			guilty;
	int			first_innocent;

	pass_on(attempt, error);
	if (attempt->phase == PHASE_RULE)
		return halt(progress, attempt->in_worker, error);

	/* a single event, or the first one with nothing before it */
	if (attempt->nchosen == 1 || attempt->at == 0)
	{
		int64		id = batch->id[attempt->chosen[0]];
		int			next = from;

		while (window->id[next++] != id)
			 /* find its place */ ;
		return record_failure(progress, attempt->in_worker, id, 0, error, next);
	}

	/* up to the guilty one, if we know it, else the first half of all */
	guilty = attempt->chosen[attempt->at > 0 ? attempt->at : attempt->nchosen / 2];
	first_innocent = from;
	while (window->id[first_innocent] != batch->id[guilty])
		first_innocent++;
	progress->limit = first_innocent - from;
	FreeErrorData(error);
	return EVI_STEP_DONE;
}

/* The rule does not work: stay where we are, and look again later. */
static EviStep
halt(EviProgress *progress, bool in_worker, const ErrorData *error)
{
	Setback		setback = {.progress = progress, .in_worker = in_worker, .error = error};

	if (progress->halts++ == 0)
		ereport(in_worker ? LOG : WARNING,
				(errmsg("inbox \"%s\" is halted: %s", progress->inbox->name, error->message),
				 errhint("It goes on by itself when the rule works again.")));
	progress->halted_until = GetCurrentTimestamp() +
		1000 * evi_backoff_ms(FIRST_HALT_MS, progress->halts, MAX_HALT_MS);

	evi_unit_run(in_worker, store_halt, &setback);
	return EVI_STEP_HALTED;
}

static void
store_halt(void *arg)
{
	Setback    *setback = arg;
	EviInbox   *inbox = setback->progress->inbox;

	if (!evi_cursor_lock(inbox->id, !setback->in_worker))
		return;
	PushActiveSnapshot(GetTransactionSnapshot());
	evi_halt_set(inbox, setback->error->message);
	PopActiveSnapshot();
}

/*
 * An event has failed. Moves on to an index of the window; -1 for a retry,
 * which the cursor has passed long ago.
 */
static EviStep
record_failure(EviProgress *progress, bool in_worker, int64 event_id, int former_attempts,
			   const ErrorData *error, int next)
{
	Setback		setback = {
		.progress = progress,
		.in_worker = in_worker,
		.error = error,
		.event_id = event_id,
		.former_attempts = former_attempts,
		.next = next,
		.step = EVI_STEP_DONE,
		.retry_at = DT_NOEND,
	};

	evi_unit_run(in_worker, store_failure, &setback);
	if (setback.step != EVI_STEP_DONE)
		return setback.step;

	report_failure(progress, in_worker, event_id, error);
	progress->failures++;
	progress->retry_at = Min(progress->retry_at, setback.retry_at);
	if (next >= 0)
		evi_progress_move(progress, next, &setback.cursor, setback.seq);
	return EVI_STEP_DONE;
}

static void
store_failure(void *arg)
{
	Setback    *setback = arg;
	EviProgress *progress = setback->progress;
	EviInbox   *inbox = progress->inbox;

	setback->step = setback->next >= 0 ? lock_inbox(progress, setback->in_worker) :
		lock_retry(progress, setback->in_worker);
	if (setback->step != EVI_STEP_DONE)
		return;

	if (setback->next >= 0)
	{
		setback->cursor = evi_progress_cursor_at(progress, setback->next);
		setback->seq = evi_cursor_append(inbox->id, &setback->cursor);
	}

	/* the lock was free for a moment: somebody else may have retried it */
	if (setback->next >= 0 ||
		evi_delivery_attempts(inbox, setback->event_id) == setback->former_attempts)
		setback->retry_at = evi_delivery_fail(inbox, setback->event_id,
											  setback->former_attempts + 1, setback->error);
	PopActiveSnapshot();
}

/* one line in the log for a streak of failures; run() tells its caller each */
static void
report_failure(EviProgress *progress, bool in_worker, int64 event_id, const ErrorData *error)
{
	if (!in_worker || !progress->failing)
		ereport(in_worker ? LOG : WARNING,
				(errmsg("inbox \"%s\" could not handle event " INT64_FORMAT ": %s",
						progress->inbox->name, event_id, error->message),
				 errdetail("See evinbox.delivery.")));
	progress->failing = true;
}

/* errors that neither the rule nor an event is to blame for */
static void
pass_on(const Attempt *attempt, ErrorData *error)
{
	if (attempt->phase == PHASE_OURS || is_not_the_events_fault(attempt, error))
		ReThrowError(error);
}

/*
 * In run(), a cancelled query is the caller's wish, and a failure of the
 * whole transaction's isolation can only be mended by its repetition.
 */
static bool
is_not_the_events_fault(const Attempt *attempt, const ErrorData *error)
{
	return !attempt->in_worker &&
		(error->sqlerrcode == ERRCODE_QUERY_CANCELED ||
		 ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_TO_CATEGORY(ERRCODE_T_R_SERIALIZATION_FAILURE));
}
