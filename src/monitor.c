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
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "cursor.h"
#include "event.h"
#include "evinbox.h"
#include "shmem.h"
#include "window.h"

/* counting what waits stops here */
#define MAX_COUNTED 10000

PG_FUNCTION_INFO_V1(evinbox_inbox_progress);
PG_FUNCTION_INFO_V1(evinbox_workers);

static const char *worker_state(const EviWorker *worker);

/* how far an inbox is behind, by what is stored */
Datum
evinbox_inbox_progress(PG_FUNCTION_ARGS)
{
	int32		inbox_id = PG_GETARG_INT32(0);
	TupleDesc	desc;
	Datum		values[3] = {0};
	bool		isnull[3] = {false, false, true};
	EviCursor  *cursor;
	int64	   *ids;
	int			count = 0;
	TimestampTz recorded_at;
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz oldest = now;

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");

	evi_cursor_hold();
	PushActiveSnapshot(GetLatestSnapshot());
	cursor = evi_cursor_read(inbox_id, GetActiveSnapshot());
	if (cursor)
	{
		count = evi_window_peek(cursor, GetActiveSnapshot(), MAX_COUNTED, &ids);
		if (count > 0 && evi_event_recorded_at(ids[0], GetActiveSnapshot(), &recorded_at))
			oldest = recorded_at;
		values[2] = TimestampTzGetDatum(cursor->dispatched_at);
		isnull[2] = cursor->dispatched_at == 0;
	}
	PopActiveSnapshot();

	values[0] = Int64GetDatum(count);
	values[1] = DirectFunctionCall2(timestamp_mi, TimestampTzGetDatum(now),
									TimestampTzGetDatum(oldest));
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
	};
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; evi_shmem_available() && i < evi_shmem_slots(); i++)
	{
		EviWorker	worker;
		Datum		values[8];
		bool		isnull[8] = {0};

		evi_shmem_lock(false);
		worker = *evi_shmem_slot(i);
		evi_shmem_unlock();
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

static const char *
worker_state(const EviWorker *worker)
{
	switch (worker->state)
	{
		case EVI_WORKER_STARTING:
			return "starting";
		case EVI_WORKER_RUNNING:
			return worker->wanted || worker->kind == EVI_LAUNCHER ? "running" : "stopping";
		default:
			return "waiting";
	}
}
