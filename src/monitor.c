/*-------------------------------------------------------------------------
 *
 * monitor.c
 *		SQL entry points behind the status views.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "backlog.h"
#include "cursor.h"
#include "evinbox.h"
#include "fetch.h"
#include "incarnation.h"
#include "owner.h"
#include "shmem.h"
#include "window.h"

/* counting what waits stops here, and estimating begins */
#define MAX_COUNTED 10000

PG_FUNCTION_INFO_V1(evinbox_inbox_progress);
PG_FUNCTION_INFO_V1(evinbox_workers);

/* what waits for a lane */
typedef struct Lag
{
	int64		events;			/* an estimate, if there are many */
	int64		backlog;		/* so many of these are in the backlog */
	int64		oldest_id;		/* one of the oldest */
} Lag;

static Lag	measure(const EviLane *lane, Snapshot snapshot);
static const char *worker_state(EviWorker *worker);

/* how far an inbox is behind, by what is stored: as far as its last lane */
Datum
evinbox_inbox_progress(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	Datum		values[7] = {0};
	bool		isnull[7] = {0};
	char	   *fault = evi_owner_fault(PG_GETARG_OID(1));
	Lag			most = {0};
	int64		replay_left = 0;
	TimestampTz dispatched_at = 0;
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz oldest = now;
	ListCell   *lc;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");

	evi_cursor_hold();
	PushActiveSnapshot(GetLatestSnapshot());
	foreach(lc, evi_cursor_lanes(PG_GETARG_INT32(0), GetActiveSnapshot()))
	{
		EviLane    *lane = lfirst(lc);
		Lag			lag = measure(lane, GetActiveSnapshot());

		dispatched_at = Max(dispatched_at, lane->cursor->dispatched_at);
		if (lane->lane == EVI_REPLAY_LANE)
			replay_left = lag.backlog;
		else
		{
			most.events = Max(most.events, lag.events);
			most.backlog = Max(most.backlog, lag.backlog);
			if (lag.events > 0 && (most.oldest_id == 0 || lag.oldest_id < most.oldest_id))
				most.oldest_id = lag.oldest_id;
		}
	}
	if (most.events > 0)
		(void) evi_fetch_recorded_at(most.oldest_id, GetActiveSnapshot(), &oldest);
	PopActiveSnapshot();

	values[0] = Int64GetDatum(most.events);
	values[1] = DirectFunctionCall2(timestamp_mi, TimestampTzGetDatum(now),
									TimestampTzGetDatum(oldest));
	values[2] = TimestampTzGetDatum(dispatched_at);
	isnull[2] = dispatched_at == 0;
	values[3] = Int64GetDatum(most.backlog);
	values[4] = Int64GetDatum(replay_left);
	isnull[5] = fault == NULL;
	if (fault)
		values[5] = CStringGetTextDatum(fault);
	values[6] = BoolGetDatum(evi_incarnation_is_quiet());
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, isnull)));
}

/* the table of workers; none if evinbox is not preloaded */
Datum
evinbox_workers(PG_FUNCTION_ARGS)
{
	static const char *const kinds[] = {
		[EVI_LAUNCHER] = "launcher",
		[EVI_SCOUT] = "scout",
		[EVI_COORDINATOR] = "coordinator",
		[EVI_RUNNER] = "runner",
		[EVI_COURIER] = "courier",
	};
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	int			slots = evi_shmem_available() ? evi_shmem_slots() : 0;
	EviWorker  *workers = palloc(sizeof(EviWorker) * slots);

	InitMaterializedSRF(fcinfo, 0);

	/* all at one time: one may follow another while we look */
	if (slots > 0)
	{
		evi_shmem_lock(false);
		memcpy(workers, evi_shmem_slot(0), sizeof(EviWorker) * slots);
		evi_shmem_unlock();
	}
	for (int i = 0; i < slots; i++)
	{
		EviWorker	worker = workers[i];
		Datum		values[8];
		bool		isnull[8] = {0};

		if (worker.state == EVI_WORKER_FREE)
			continue;

		values[0] = CStringGetTextDatum(kinds[worker.kind]);
		values[1] = ObjectIdGetDatum(worker.database);
		isnull[1] = !OidIsValid(worker.database);
		values[2] = ObjectIdGetDatum(worker.owner);
		isnull[2] = !OidIsValid(worker.owner);
		values[3] = Int32GetDatum(worker.pid);
		isnull[3] = worker.pid == 0;
		values[4] = CStringGetTextDatum(worker_state(&worker));
		values[5] = TimestampTzGetDatum(worker.started_at);
		isnull[5] = worker.pid == 0;
		values[6] = Int64GetDatum(worker.starts);
		values[7] = TimestampTzGetDatum(worker.next_start_at);
		isnull[7] = worker.state != EVI_WORKER_WAITING;
		tuplestore_putvalues(result->setResult, result->setDesc, values, isnull);
	}
	return (Datum) 0;
}

static Lag
measure(const EviLane *lane, Snapshot snapshot)
{
	Lag			lag = {0};
	List	   *rest = evi_backlog_rest(lane->inbox_id, lane->lane, lane->cursor, snapshot);
	int64	   *ids;
	ListCell   *lc;

	foreach(lc, rest)
	{
		EviRange   *range = lfirst(lc);

		lag.backlog += range->last_id - range->first_id + 1;
	}
	if (lane->lane == EVI_REPLAY_LANE)
		return lag;

	lag.events = evi_window_peek(lane->cursor, snapshot, MAX_COUNTED, &lag.oldest_id);
	if (lag.events >= MAX_COUNTED)
		lag.events = Max(lag.events, evi_fetch_last_given() - lag.oldest_id + 1);
	lag.events += lag.backlog;

	/* a past that does not begin at the first id is there to be looked for */
	if (rest)
	{
		EviRange   *first = linitial(rest);

		if (evi_fetch_ids(first->first_id, first->last_id, 1, snapshot, &ids) > 0)
			lag.oldest_id = ids[0];
	}
	return lag;
}

static const char *
worker_state(EviWorker *worker)
{
	switch (worker->state)
	{
		case EVI_WORKER_STARTING:
			return "starting";
		case EVI_WORKER_RUNNING:
			if (pg_atomic_read_u32(&worker->is_to_leave) != 0)
				return "stopping";
			return worker->wanted || worker->kind == EVI_LAUNCHER ? "running" : "stopping";
		default:
			return "waiting";
	}
}
