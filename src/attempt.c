/*-------------------------------------------------------------------------
 *
 * attempt.c
 *		A rule's work on some events, which is done as a whole or not at all.
 *
 * The events are chosen by the rule's lists, then by its condition, and given
 * to its handler or statement. An error passes through all of this; what was
 * going on then is in the EviAttempt.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "attempt.h"
#include "deadline.h"
#include "evinbox.h"
#include "guc.h"
#include "query.h"
#include "relation.h"
#include "request.h"
#include "session.h"
#include "verdict.h"

/* a batch of a worker ends after so long, for other lanes to have their turn */
#define TURN_MS 1000

static bool is_for_lane(const EviProgress *progress, EviBatch *batch, int n);
static int16 greatest_depth(void *arg);
static void load_batch(EviWindow *window, int from, int most, bool in_worker);
static void run_statement(EviAttempt *attempt, EviHandler *handler);
static void call_handler(EviAttempt *attempt, EviHandler *handler);
static void filter_events(EviAttempt *attempt);
static void start_deadline(const EviAttempt *attempt);
static void stop_deadline(const EviAttempt *attempt);

/* Takes the next batch of the unit, and of that what the rule's lists want. */
void
evi_attempt_choose(EviAttempt *attempt)
{
	EviProgress *progress = attempt->progress;
	EviWindow  *window = progress->window;
	int			most = Min(progress->inbox->batch_size, evi_guc_batch_size());
	EviBatch   *batch;

	load_batch(window, attempt->to, Min(most, attempt->end - attempt->to), attempt->in_worker);
	batch = window->batch;
	attempt->to = window->batch_to;
	attempt->batch = batch;
	attempt->changes = window->batch_changes;
	attempt->nchosen = 0;

	/* not beside the batch: that stays as long as an attempt comes to nothing */
	if (batch->count > attempt->room)
	{
		if (attempt->chosen)
			pfree(attempt->chosen);
		attempt->chosen = MemoryContextAlloc(GetMemoryChunkContext(attempt),
											 sizeof(int) * batch->count);
		attempt->room = batch->count;
	}
	for (int i = 0; i < batch->count; i++)
		if (evi_attempt_is_for_inbox(attempt, i) && is_for_lane(progress, batch, i))
			attempt->chosen[attempt->nchosen++] = i;

	if (attempt->nevents == 0 && attempt->nchosen > 0)
		attempt->first_id = batch->id[attempt->chosen[0]];
	attempt->nevents += attempt->nchosen;
}

/* Does the rule want an event of the batch, as far as its lists say? */
bool
evi_attempt_is_for_inbox(EviAttempt *attempt, int n)
{
	const EviInbox *inbox = attempt->progress->inbox;
	const EviEventParts *parts;

	if (inbox->nsubject_types < 0 && inbox->nactions < 0)
		return true;
	parts = evi_batch_parts(attempt->batch, n);
	return evi_inbox_wants(inbox, parts->subject_type, parts->action);
}

/* An inbox's lanes share its events by their subjects. */
static bool
is_for_lane(const EviProgress *progress, EviBatch *batch, int n)
{
	int			lanes = progress->cursor.lanes;
	const EviRange *range = progress->window->range;

	if (range && range->since != DT_NOBEGIN && evi_batch_parts(batch, n)->recorded_at < range->since)
		return false;
	if (range && range->former_lanes > 1 &&
		evi_batch_subject_hash(batch, n) % range->former_lanes != range->former_lane)
		return false;
	return lanes == 1 || progress->lane == EVI_REPLAY_LANE ||
		evi_batch_subject_hash(batch, n) % lanes == progress->lane;
}

/* The events from an index on; the window keeps them for its other users. */
static void
load_batch(EviWindow *window, int from, int most, bool in_worker)
{
	int			fetched;
	MemoryContext former = CurrentMemoryContext;
	bool		starts_transaction = in_worker && !IsTransactionState();

	if (window->batch && window->batch_from == from && window->batch_asked == most &&
		window->batch_changes == evi_relation_changes())
		return;

	if (starts_transaction)
		StartTransactionCommand();
	window->batch_changes = evi_relation_changes();
	PushActiveSnapshot(GetTransactionSnapshot());

	window->batch = NULL;
	MemoryContextReset(window->batch_context);
	MemoryContextSwitchTo(window->batch_context);
	window->batch = evi_fetch_batch(window->id + from, most, GetActiveSnapshot(), &fetched);
	window->batch_from = from;
	window->batch_to = from + fetched;
	window->batch_asked = most;
	MemoryContextSwitchTo(former);

	PopActiveSnapshot();
	if (starts_transaction)
	{
		CommitTransactionCommand();
		MemoryContextSwitchTo(former);
	}
}

/* May events have been erased since they were read? The caller has the lane locked by now. */
bool
evi_attempt_is_outdated(const EviAttempt *attempt)
{
	return attempt->progress->window->batch_changes != evi_relation_changes();
}

/* Runs the rule over the chosen events, as the current user. */
void
evi_attempt_handle(EviAttempt *attempt)
{
	EviInbox   *inbox = attempt->progress->inbox;
	EviHandler	handler;
	int			guc_level;

	if (attempt->in_worker)
		evi_session_use();
	evi_query_open();
	guc_level = evi_search_path_set(inbox->search_path);
	evi_request_set_rule(inbox->id, attempt->changes);

	attempt->phase = EVI_PHASE_RULE;
	start_deadline(attempt);
	evi_inbox_prepare(inbox, attempt->nchosen, &handler);
	stop_deadline(attempt);

	attempt->phase = EVI_PHASE_EVENT;
	if (attempt->in_worker)
		attempt->turn_end = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), TURN_MS);
	if (inbox->condition && attempt->nchosen > 0)
		filter_events(attempt);
	if (inbox->statement)
	{
		run_statement(attempt, &handler);

		/* a large one has a file, which must not outlive us */
		tuplestore_end(handler.events);
	}
	else
		call_handler(attempt, &handler);
	attempt->at = -1;
	evi_event_set_cause(0, EVI_NO_CAUSE);
	evi_request_set_rule(0, 0);

	/* also undoes what the rule has SET */
	attempt->phase = EVI_PHASE_OURS;
	AtEOXact_GUC(false, guc_level);
	evi_query_close();
}

/* The cause of what it records is one event, if there is only one. */
static void
run_statement(EviAttempt *attempt, EviHandler *handler)
{
	EviBatch   *batch = attempt->batch;

	for (int i = 0; i < attempt->nchosen; i++)
	{
		HeapTupleData tuple = evi_batch_tuple(batch, attempt->chosen[i]);

		tuplestore_puttuple(handler->events, &tuple);
	}
	if (attempt->nchosen > 0)
	{
		evi_event_set_cause_of(attempt->nchosen == 1 ? batch->id[attempt->chosen[0]] : 0,
							   greatest_depth, attempt);
		start_deadline(attempt);
		evi_statement_run(attempt->progress->inbox->plan_of_statement);
		stop_deadline(attempt);
	}
	attempt->nhandled += attempt->nchosen;
}

/* asked for only when the statement records something */
static int16
greatest_depth(void *arg)
{
	EviAttempt *attempt = arg;
	int16		result = 0;

	for (int i = 0; i < attempt->nchosen; i++)
		result = Max(result, evi_batch_parts(attempt->batch, attempt->chosen[i])->depth);
	return result;
}

static void
call_handler(EviAttempt *attempt, EviHandler *handler)
{
	EviInbox   *inbox = attempt->progress->inbox;
	EviBatch   *batch = attempt->batch;
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "evinbox handler",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext former = MemoryContextSwitchTo(context);

	for (int i = 0; i < attempt->nchosen; i++)
	{
		int			n = attempt->chosen[i];

		CHECK_FOR_INTERRUPTS();
		if (i > 0 && attempt->turn_end != 0 && GetCurrentTimestamp() >= attempt->turn_end)
		{
			attempt->to = evi_window_index_of(attempt->progress->window, batch->id[n]);
			break;
		}
		attempt->at = i;
		evi_event_set_cause(batch->id[n], evi_batch_parts(batch, n)->depth);
		start_deadline(attempt);
		evi_inbox_call(inbox, handler, batch->event[n]);
		stop_deadline(attempt);
		attempt->nhandled++;
		MemoryContextReset(context);
	}
	MemoryContextSwitchTo(former);
	MemoryContextDelete(context);
}

/* Deferred constraints and triggers are the events' fault as well. */
void
evi_attempt_commit(EviAttempt *attempt, EviUnit *unit)
{
	if (attempt->nhandled > 0)
	{
		attempt->phase = EVI_PHASE_EVENT;
		start_deadline(attempt);
	}
	evi_unit_commit(unit);

	/* it is done: whatever goes off from now on is nobody's failure */
	(void) evi_deadline_drop();
}

/* Leaves those for which the condition is true, by one query for all. */
static void
filter_events(EviAttempt *attempt)
{
	EviBatch   *batch = attempt->batch;
	Oid			row_type = get_rel_type_id(evi_relation_oid(EVI_EVENT));
	Datum	   *events = palloc(sizeof(Datum) * attempt->nchosen);
	int64	   *ids;
	int			nids;
	int			kept = 0;

	for (int i = 0; i < attempt->nchosen; i++)
		events[i] = batch->event[attempt->chosen[i]];

	start_deadline(attempt);
	evi_condition_run(attempt->progress->inbox->plan,
					  construct_array(events, attempt->nchosen, row_type, -1, false, TYPALIGN_DOUBLE),
					  CurrentMemoryContext, &ids, &nids);
	stop_deadline(attempt);

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
start_deadline(const EviAttempt *attempt)
{
	/* this is also where code of the rule begins, and may say something new */
	evi_verdict_forget();
	if (attempt->in_worker)
		evi_deadline_start(attempt->progress->inbox->timeout_ms);
}

static void
stop_deadline(const EviAttempt *attempt)
{
	if (attempt->in_worker)
		evi_deadline_stop();
}
