/*-------------------------------------------------------------------------
 *
 * record.c
 *		SQL entry points of recording: record_event(), and the triggers that
 *		make INSERT and COPY do the same.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "replication/logicalworker.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "blank.h"
#include "event.h"
#include "evinbox.h"
#include "incarnation.h"
#include "outbox.h"
#include "partition.h"
#include "recording.h"
#include "relation.h"
#include "restoring.h"
#include "trigger.h"

/* arguments of record_event(), the same for all kinds of subject ids */
enum
{
	ARG_SUBJECT_TYPE,
	ARG_SUBJECT_ID,
	ARG_ACTION,
	ARG_ACTOR,
	ARG_METADATA,
	ARG_THROTTLE,
	ARG_THROTTLE_BY,
	ARG_SNAPSHOT,
	ARG_SCOPE,
	ARG_OCCURRED_AT
};

/* what evi_recording_complete() may change */
static const int completed[] = {Anum_event_actor, Anum_event_scope, Anum_event_metadata,
	Anum_event_batch_id, Anum_event_caused_by, Anum_event_depth,
Anum_event_occurred_at, Anum_event_recorded_at};

PG_FUNCTION_INFO_V1(evinbox_record_event);
PG_FUNCTION_INFO_V1(evinbox_record_event_int8);
PG_FUNCTION_INFO_V1(evinbox_record_event_uuid);
PG_FUNCTION_INFO_V1(evinbox_event_before_insert);
PG_FUNCTION_INFO_V1(evinbox_event_after_insert);
PG_FUNCTION_INFO_V1(evinbox_event_refuse_change);
PG_FUNCTION_INFO_V1(evinbox_refuse_replicated);

static Datum record_event(FunctionCallInfo fcinfo, PGFunction id_out);

Datum
evinbox_record_event(PG_FUNCTION_ARGS)
{
	return record_event(fcinfo, NULL);
}

Datum
evinbox_record_event_int8(PG_FUNCTION_ARGS)
{
	return record_event(fcinfo, int8out);
}

Datum
evinbox_record_event_uuid(PG_FUNCTION_ARGS)
{
	return record_event(fcinfo, uuid_out);
}

/* BEFORE INSERT FOR EACH ROW: refuses what is wrong, fills what is ours */
Datum
evinbox_event_before_insert(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	TupleDesc	desc;
	Datum	   *values;
	bool	   *isnull;
	Datum		replacement[lengthof(completed)];
	bool		replacement_isnull[lengthof(completed)];

	evi_require_trigger(fcinfo);
	desc = RelationGetDescr(trigger->tg_relation);

	/* somebody may have added columns */
	values = palloc(sizeof(Datum) * desc->natts);
	isnull = palloc(sizeof(bool) * desc->natts);
	heap_deform_tuple(trigger->tg_trigtuple, desc, values, isnull);
	evi_relation_check_id(EVI_EVENT_SEQ, DatumGetInt64(values[Anum_event_id - 1]), "an event");
	evi_recording_complete(values, isnull);

	for (int i = 0; i < lengthof(completed); i++)
	{
		replacement[i] = values[completed[i] - 1];
		replacement_isnull[i] = isnull[completed[i] - 1];
	}
	return PointerGetDatum(heap_modify_tuple_by_cols(trigger->tg_trigtuple, desc,
													 lengthof(completed), (int *) completed,
													 replacement, replacement_isnull));
}

/*
 * AFTER INSERT FOR EACH ROW, ALWAYS: what the dispatch starts from. What came by
 * logical replication is dispatched where it was recorded, unless told otherwise.
 */
Datum
evinbox_event_after_insert(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	bool		isnull;
	bool		is_replicated;
	int64		id;

	evi_require_trigger(fcinfo);
	if (evi_restoring())
		return PointerGetDatum(NULL);
	id = DatumGetInt64(heap_getattr(trigger->tg_trigtuple, Anum_event_id,
									RelationGetDescr(trigger->tg_relation), &isnull));
	is_replicated = SessionReplicationRole == SESSION_REPLICATION_ROLE_REPLICA;
	if (is_replicated)
		evi_partition_note(id);
	if (!is_replicated || evi_incarnation_dispatches_replicated())
		evi_outbox_add(id);
	return PointerGetDatum(NULL);
}

/* BEFORE UPDATE OR DELETE OR TRUNCATE: erase() goes around this */
Datum
evinbox_event_refuse_change(PG_FUNCTION_ARGS)
{
	evi_require_trigger(fcinfo);
	if (evi_blank_is_replicated((TriggerData *) fcinfo->context))
		return PointerGetDatum(((TriggerData *) fcinfo->context)->tg_newtuple);
	ereport(ERROR,
			(errcode(ERRCODE_RESTRICT_VIOLATION),
			 errmsg("evinbox.event is append-only"),
			 errdetail("An event is a fact, and inboxes may have acted on it."),
			 errhint("Record another event that corrects or revokes this one.")));
	return PointerGetDatum(NULL);
}

/* BEFORE any change of a table that is of this server alone, where session_replication_role is replica */
Datum
evinbox_refuse_replicated(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;

	evi_require_trigger(fcinfo);
	if (IsLogicalWorker())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot replicate table \"%s\" of evinbox",
						RelationGetRelationName(trigger->tg_relation)),
				 errdetail("It describes the server that it is on."),
				 errhint("Have the publication name its tables, of evinbox only evinbox.event and evinbox.action.")));
	return PointerGetDatum(TRIGGER_FIRED_BY_UPDATE(trigger->tg_event) ?
						   trigger->tg_newtuple : trigger->tg_trigtuple);
}

static Datum
record_event(FunctionCallInfo fcinfo, PGFunction id_out)
{
	static const struct
	{
		int			arg;
		int			attno;
	}			columns[] = {
		{ARG_SUBJECT_TYPE, Anum_event_subject_type},
		{ARG_SUBJECT_ID, Anum_event_subject_id},
		{ARG_ACTION, Anum_event_action},
		{ARG_ACTOR, Anum_event_actor},
		{ARG_METADATA, Anum_event_metadata},
		{ARG_SNAPSHOT, Anum_event_snapshot},
		{ARG_SCOPE, Anum_event_scope},
		{ARG_OCCURRED_AT, Anum_event_occurred_at},
	};
	Datum		values[Natts_event] = {0};
	bool		isnull[Natts_event];
	int64		id;

	memset(isnull, true, sizeof(isnull));
	for (int i = 0; i < lengthof(columns); i++)
	{
		values[columns[i].attno - 1] = PG_GETARG_DATUM(columns[i].arg);
		isnull[columns[i].attno - 1] = PG_ARGISNULL(columns[i].arg);
	}
	if (!PG_ARGISNULL(ARG_SUBJECT_ID))
		values[Anum_event_subject_id - 1] =
			PointerGetDatum(evi_event_id_to_text(PG_GETARG_DATUM(ARG_SUBJECT_ID), id_out));

	id = evi_recording_record(values, isnull,
							  PG_ARGISNULL(ARG_THROTTLE) ? NULL : PG_GETARG_INTERVAL_P(ARG_THROTTLE),
							  PG_ARGISNULL(ARG_THROTTLE_BY) ? NULL : PG_GETARG_TEXT_PP(ARG_THROTTLE_BY));
	if (id == 0)
		PG_RETURN_NULL();
	PG_RETURN_INT64(id);
}
