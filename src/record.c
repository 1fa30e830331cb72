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
#include "access/xact.h"
#include "catalog/pg_authid.h"
#include "catalog/pg_type.h"
#include "common/hashfn.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "blank.h"
#include "compat.h"
#include "event.h"
#include "evinbox.h"
#include "guc.h"
#include "incarnation.h"
#include "outbox.h"
#include "partition.h"
#include "query.h"
#include "relation.h"
#include "restoring.h"
#include "trigger.h"
#include "wakeup.h"

/* advisory locks of users have 1 or 2 here, so ours never meet them */
#define THROTTLE_LOCK_FIELD 3

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

/* what complete_event() may change */
static const int completed[] = {Anum_event_actor, Anum_event_metadata, Anum_event_caused_by, Anum_event_depth,
Anum_event_occurred_at, Anum_event_recorded_at};

PG_FUNCTION_INFO_V1(evinbox_record_event);
PG_FUNCTION_INFO_V1(evinbox_record_event_int8);
PG_FUNCTION_INFO_V1(evinbox_record_event_uuid);
PG_FUNCTION_INFO_V1(evinbox_event_before_insert);
PG_FUNCTION_INFO_V1(evinbox_event_after_insert);
PG_FUNCTION_INFO_V1(evinbox_event_refuse_change);

static Datum record_event(FunctionCallInfo fcinfo, PGFunction id_out);
static bool is_throttled(const EviEventKey *key, Interval *throttle);
static bool throttles_by_actor(text *throttle_by);
static TimestampTz throttle_start(Interval *throttle);
static void lock_key(const EviEventKey *key, LOCKTAG *tag);
static uint64 hash_text(text *value, uint64 seed);
static text *choose_actor(text *given);
static void check_id(int64 id);
static void complete_event(Datum *values, bool *isnull);
static text *get_text(Datum *values, bool *isnull, int attno);
static void set_value(Datum *values, bool *isnull, int attno, Datum value);
static int64 insert_event(FunctionCallInfo fcinfo, text *subject_id);
static int64 insert_by_sql(Datum *values, bool *isnull);

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
	if (!superuser())
		check_id(DatumGetInt64(values[Anum_event_id - 1]));
	complete_event(values, isnull);

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
	int64		id;

	evi_require_trigger(fcinfo);
	if (evi_restoring())
		return PointerGetDatum(NULL);
	id = DatumGetInt64(heap_getattr(trigger->tg_trigtuple, Anum_event_id,
									RelationGetDescr(trigger->tg_relation), &isnull));
	if (SessionReplicationRole != SESSION_REPLICATION_ROLE_REPLICA ||
		evi_incarnation_dispatches_replicated())
		evi_outbox_add(id);
	else if (id % EVI_PARTITION_LOOK == 0)
		evi_wakeup_coordinator();
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

static Datum
record_event(FunctionCallInfo fcinfo, PGFunction id_out)
{
	EviEventKey key = {0};
	Jsonb	   *metadata = NULL;
	int64		id;

	if (!PG_ARGISNULL(ARG_SUBJECT_TYPE))
		key.subject_type = PG_GETARG_TEXT_PP(ARG_SUBJECT_TYPE);
	if (!PG_ARGISNULL(ARG_SUBJECT_ID))
		key.subject_id = id_out ?
			cstring_to_text(DatumGetCString(DirectFunctionCall1(id_out, PG_GETARG_DATUM(ARG_SUBJECT_ID)))) :
			PG_GETARG_TEXT_PP(ARG_SUBJECT_ID);
	if (!PG_ARGISNULL(ARG_ACTION))
		key.action = PG_GETARG_TEXT_PP(ARG_ACTION);
	key.actor = choose_actor(PG_ARGISNULL(ARG_ACTOR) ? NULL : PG_GETARG_TEXT_PP(ARG_ACTOR));
	if (!PG_ARGISNULL(ARG_METADATA))
		metadata = PG_GETARG_JSONB_P(ARG_METADATA);

	/* also for a suppressed call, which no trigger sees */
	evi_event_check(key.subject_type, key.subject_id, key.action, metadata, NULL);
	key.with_actor = throttles_by_actor(PG_ARGISNULL(ARG_THROTTLE_BY) ? NULL :
										PG_GETARG_TEXT_PP(ARG_THROTTLE_BY));

	if (!PG_ARGISNULL(ARG_THROTTLE) && is_throttled(&key, PG_GETARG_INTERVAL_P(ARG_THROTTLE)))
		PG_RETURN_NULL();

	id = insert_event(fcinfo, key.subject_id);
	if (id == 0)
		PG_RETURN_NULL();
	PG_RETURN_INT64(id);
}

/*
 * Has an event with this key been recorded within the interval? If not, the
 * key is locked until the end of the transaction, so that there is at most
 * one. The probe after the lock needs a snapshot of its own: whoever held the
 * lock before us has committed since ours was taken, and at REPEATABLE READ
 * the transaction's snapshot would never show it.
 */
static bool
is_throttled(const EviEventKey *key, Interval *throttle)
{
	LOCKTAG		tag;
	bool		result;

	if (evi_event_recorded_since(key, throttle_start(throttle), GetActiveSnapshot()))
		return true;

	lock_key(key, &tag);
	PushActiveSnapshot(GetLatestSnapshot());
	result = evi_event_recorded_since(key, throttle_start(throttle), GetActiveSnapshot());
	PopActiveSnapshot();

	if (result)
		LockRelease(&tag, ExclusiveLock, false);
	return result;
}

static bool
throttles_by_actor(text *throttle_by)
{
	char	   *by = throttle_by ? text_to_cstring(throttle_by) : "subject";

	if (strcmp(by, "subject") != 0 && strcmp(by, "actor") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unrecognized value for throttle_by: \"%s\"", by),
				 errhint("Use \"subject\" or \"actor\".")));
	return by[0] == 'a';
}

static TimestampTz
throttle_start(Interval *throttle)
{
	Interval	zero = {0};

	if (INTERVAL_NOT_FINITE(throttle))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("throttle must be finite")));
	if (DatumGetInt32(DirectFunctionCall2(interval_cmp, IntervalPGetDatum(throttle),
										  IntervalPGetDatum(&zero))) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("throttle must not be negative"),
				 errhint("Use null for no throttle.")));

	return DatumGetTimestampTz(DirectFunctionCall2(timestamptz_mi_interval,
												   TimestampTzGetDatum(GetCurrentTimestamp()),
												   IntervalPGetDatum(throttle)));
}

static void
lock_key(const EviEventKey *key, LOCKTAG *tag)
{
	uint64		hash = hash_text(key->subject_type, key->with_actor ? 1 : 0);

	hash = hash_text(key->subject_id, hash);
	hash = hash_text(key->action, hash);
	if (key->with_actor && key->actor)
		hash = hash_text(key->actor, hash);

	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, (uint32) (hash >> 32), (uint32) hash,
						 THROTTLE_LOCK_FIELD);
	(void) LockAcquire(tag, ExclusiveLock, false, false);
}

static uint64
hash_text(text *value, uint64 seed)
{
	return DatumGetUInt64(hash_any_extended((unsigned char *) VARDATA_ANY(value),
											VARSIZE_ANY_EXHDR(value), seed));
}

/* The actor of an event for which somebody has given this one, or NULL. */
static text *
choose_actor(text *given)
{
	const char *actor = evi_guc_actor();
	EviActorSource source = evi_guc_actor_source();

	if (source == EVI_ACTOR_ANY && given)
		return given;
	if (source == EVI_ACTOR_SESSION_USER)
		actor = GetUserNameFromId(GetSessionUserId(), false);
	if (given && strcmp(text_to_cstring(given), actor) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("actor of an event cannot be chosen"),
				 errdetail("evinbox.actor_source says that it is %s.",
						   source == EVI_ACTOR_CONTEXT ? "the setting evinbox.actor" : "the session user"),
				 errhint("Leave it out.")));
	return actor[0] != '\0' ? cstring_to_text(actor) : NULL;
}

static void
check_id(int64 id)
{
	if (!evi_relation_has_given(EVI_EVENT_SEQ, id))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("only superusers may choose the id of an event"),
				 errhint("Leave it out.")));
}

/* Checks a row as it came, and fills the columns that are ours. */
static void
complete_event(Datum *values, bool *isnull)
{
	TimestampTz now = GetCurrentTimestamp();
	int16		cause_depth;
	int64		cause_id = evi_event_cause(&cause_depth);
	text	   *subject_type = get_text(values, isnull, Anum_event_subject_type);
	text	   *action = get_text(values, isnull, Anum_event_action);
	text	   *actor;
	Jsonb	   *metadata;

	if (isnull[Anum_event_metadata - 1])
		set_value(values, isnull, Anum_event_metadata,
				  DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")));
	metadata = DatumGetJsonbP(values[Anum_event_metadata - 1]);

	evi_event_check(subject_type, get_text(values, isnull, Anum_event_subject_id),
					action, metadata, isnull[Anum_event_snapshot - 1] ? NULL :
					DatumGetJsonbP(values[Anum_event_snapshot - 1]));
	evi_event_check_action(subject_type, action, metadata);

	actor = choose_actor(get_text(values, isnull, Anum_event_actor));
	if (actor)
		set_value(values, isnull, Anum_event_actor, PointerGetDatum(actor));
	set_value(values, isnull, Anum_event_recorded_at, TimestampTzGetDatum(now));
	if (isnull[Anum_event_occurred_at - 1])
		set_value(values, isnull, Anum_event_occurred_at, TimestampTzGetDatum(now));
	set_value(values, isnull, Anum_event_caused_by, Int64GetDatum(cause_id));
	isnull[Anum_event_caused_by - 1] = cause_id == 0;
	set_value(values, isnull, Anum_event_depth,
			  Int16GetDatum(Min(cause_depth + 1, PG_INT16_MAX)));
}

static text *
get_text(Datum *values, bool *isnull, int attno)
{
	return isnull[attno - 1] ? NULL : DatumGetTextPP(values[attno - 1]);
}

static void
set_value(Datum *values, bool *isnull, int attno, Datum value)
{
	values[attno - 1] = value;
	isnull[attno - 1] = false;
}

/*
 * Inserts the event right into its partition, which takes half the time of an
 * INSERT from within a function. It does exactly what that would, as long as
 * nobody has added anything to the table; else it is an INSERT.
 */
static int64
insert_event(FunctionCallInfo fcinfo, text *subject_id)
{
	static const struct
	{
		int			arg;
		int			attno;
	}			columns[] = {
		{ARG_SUBJECT_TYPE, Anum_event_subject_type},
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

	PreventCommandIfReadOnly("record_event()");
	PreventCommandIfParallelMode("record_event()");

	memset(isnull, true, sizeof(isnull));
	for (int i = 0; i < lengthof(columns); i++)
		if (!PG_ARGISNULL(columns[i].arg))
			set_value(values, isnull, columns[i].attno, PG_GETARG_DATUM(columns[i].arg));
	set_value(values, isnull, Anum_event_subject_id, PointerGetDatum(subject_id));

	complete_event(values, isnull);
	id = evi_event_insert(values, isnull);
	if (id == 0)
		return insert_by_sql(values, isnull);
	evi_outbox_add(id);
	CommandCounterIncrement();
	return id;
}

/*
 * As the caller, who needs the right to: what others have added may run code.
 * Returns 0 if a trigger has prevented it.
 */
static int64
insert_by_sql(Datum *values, bool *isnull)
{
	static EviQuery insert = {
		.sql = "INSERT INTO evinbox.event (subject_type, subject_id, action, actor,"
		" scope, metadata, snapshot, occurred_at)"
		" VALUES ($1, $2, $3, $4, $5, $6, $7, $8) RETURNING id",
		.expected = SPI_OK_INSERT_RETURNING,
		.nargs = 8,
		.argtypes = {TEXTOID, TEXTOID, TEXTOID, TEXTOID, TEXTOID, JSONBOID, JSONBOID, TIMESTAMPTZOID},
	};
	static const int attnos[] = {Anum_event_subject_type, Anum_event_subject_id,
		Anum_event_action, Anum_event_actor, Anum_event_scope, Anum_event_metadata,
	Anum_event_snapshot, Anum_event_occurred_at};
	Datum		args[lengthof(attnos)];
	char		nulls[lengthof(attnos)];
	int64		id = 0;
	bool		id_isnull;

	for (int i = 0; i < lengthof(attnos); i++)
	{
		args[i] = values[attnos[i] - 1];
		nulls[i] = isnull[attnos[i] - 1] ? 'n' : ' ';
	}
	evi_query_open();
	if (evi_query_run(&insert, args, nulls, 0) > 0)
		id = DatumGetInt64(evi_query_value(0, 1, &id_isnull));
	evi_query_close();
	return id;
}
