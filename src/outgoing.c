/*-------------------------------------------------------------------------
 *
 * outgoing.c
 *		What the handlers that send something are called with.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/fmgrprotos.h"
#include "utils/snapmgr.h"

#include "fetch.h"
#include "outgoing.h"
#include "request.h"

static Datum read_again(int64 id, Datum event);

/* an empty one for null */
Jsonb *
evi_outgoing_config(FunctionCallInfo fcinfo, int arg)
{
	if (PG_ARGISNULL(arg))
		return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")));
	return PG_GETARG_JSONB_P(arg);
}

/* The event; what has been erased of it since it was read is not sent. */
void
evi_outgoing_event(FunctionCallInfo fcinfo, int arg, EviEventRow *row)
{
	if (PG_ARGISNULL(arg))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("event must not be null")));
	evi_message_read(row, PG_GETARG_DATUM(arg));
	if (row->id != 0 && evi_request_is_outdated())
		evi_message_read(row, read_again(row->id, row->event));
}

static Datum
read_again(int64 id, Datum event)
{
	EviBatch   *batch;
	int			fetched;

	PushActiveSnapshot(GetLatestSnapshot());
	batch = evi_fetch_batch(&id, 1, GetActiveSnapshot(), &fetched);
	PopActiveSnapshot();
	return batch->count > 0 ? batch->event[0] : event;
}
