/*-------------------------------------------------------------------------
 *
 * timeline.c
 *		SQL entry points of feeds: a page of events, newest first.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/table.h"
#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/tuplestore.h"

#include "feed.h"

PG_FUNCTION_INFO_V1(evinbox_subject_feed);
PG_FUNCTION_INFO_V1(evinbox_subject_feed_int8);
PG_FUNCTION_INFO_V1(evinbox_subject_feed_uuid);
PG_FUNCTION_INFO_V1(evinbox_actor_feed);
PG_FUNCTION_INFO_V1(evinbox_scope_feed);
PG_FUNCTION_INFO_V1(evinbox_feed);

static Datum subject_feed(FunctionCallInfo fcinfo, PGFunction id_out);
static Datum show(FunctionCallInfo fcinfo, const EviFeed *feed, int first_argno);

Datum
evinbox_subject_feed(PG_FUNCTION_ARGS)
{
	return subject_feed(fcinfo, NULL);
}

Datum
evinbox_subject_feed_int8(PG_FUNCTION_ARGS)
{
	return subject_feed(fcinfo, int8out);
}

Datum
evinbox_subject_feed_uuid(PG_FUNCTION_ARGS)
{
	return subject_feed(fcinfo, uuid_out);
}

Datum
evinbox_actor_feed(PG_FUNCTION_ARGS)
{
	return show(fcinfo, PG_ARGISNULL(0) ? NULL : evi_feed_of_actor(PG_GETARG_TEXT_PP(0)), 1);
}

Datum
evinbox_scope_feed(PG_FUNCTION_ARGS)
{
	return show(fcinfo, PG_ARGISNULL(0) ? NULL : evi_feed_of_scope(PG_GETARG_TEXT_PP(0)), 1);
}

Datum
evinbox_feed(PG_FUNCTION_ARGS)
{
	return show(fcinfo, PG_ARGISNULL(0) ? NULL : evi_feed_of_subjects(PG_GETARG_JSONB_P(0)), 1);
}

static Datum
subject_feed(FunctionCallInfo fcinfo, PGFunction id_out)
{
	text	   *id;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1))
		return show(fcinfo, NULL, 2);
	id = id_out ?
		cstring_to_text(DatumGetCString(DirectFunctionCall1(id_out, PG_GETARG_DATUM(1)))) :
		PG_GETARG_TEXT_PP(1);
	return show(fcinfo, evi_feed_of_subject(PG_GETARG_TEXT_PP(0), id), 2);
}

/* The arguments from that one on are before_id and max. No feed is an empty one. */
static Datum
show(FunctionCallInfo fcinfo, const EviFeed *feed, int first_argno)
{
	ReturnSetInfo *result = (ReturnSetInfo *) fcinfo->resultinfo;
	int64		upto = evi_feed_upto(fcinfo, first_argno);
	int			max = evi_feed_max(fcinfo, first_argno + 1);
	Relation	event = evi_feed_open();
	HeapTuple  *tuples = palloc(sizeof(HeapTuple) * max);
	int			count = feed ? evi_feed_read(feed, event, upto, max, tuples) : 0;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; i < count; i++)
		tuplestore_puttuple(result->setResult, tuples[i]);
	table_close(event, NoLock);
	return (Datum) 0;
}
