/*-------------------------------------------------------------------------
 *
 * recording.c
 *		How an event is recorded, whatever the way it came: what is checked,
 *		what is added to it, and whether it is wanted at all.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "context.h"
#include "event.h"
#include "evinbox.h"
#include "guc.h"
#include "outbox.h"
#include "query.h"
#include "recording.h"
#include "throttle.h"
#include "verdict.h"

static int64 record(Datum *values, bool *isnull, Interval *throttle, text *throttle_by, bool directly);
static int64 insert_event(Datum *values, bool *isnull, bool directly);
static int64 insert_by_sql(Datum *values, bool *isnull);
static void fill_context(Datum *values, bool *isnull);
static void fill_cause(Datum *values, bool *isnull);
static text *get_text(Datum *values, bool *isnull, int attno);
static Jsonb *get_jsonb(Datum *values, bool *isnull, int attno);
static void set_value(Datum *values, bool *isnull, int attno, Datum value);

/*
 * Records the event of these columns, of which those that are ours may be
 * anything. Returns its id, or 0 if it was throttled, or prevented by a trigger
 * that somebody has added.
 */
int64
evi_recording_record(Datum *values, bool *isnull, Interval *throttle, text *throttle_by)
{
	return record(values, isnull, throttle, throttle_by, false);
}

/*
 * Likewise, for those who may run no code of others. Returns 0 if there is some
 * that recording the event would run.
 */
int64
evi_recording_record_directly(Datum *values, bool *isnull)
{
	return record(values, isnull, NULL, NULL, true);
}

static int64
record(Datum *values, bool *isnull, Interval *throttle, text *throttle_by, bool directly)
{
	EviEventKey key = {
		.subject_type = get_text(values, isnull, Anum_event_subject_type),
		.subject_id = get_text(values, isnull, Anum_event_subject_id),
		.action = get_text(values, isnull, Anum_event_action),
		.actor = evi_context_actor(get_text(values, isnull, Anum_event_actor)),
		.with_actor = evi_throttle_is_by_actor(throttle_by),
	};

	/* also for a suppressed call, which comes no further */
	evi_event_check(key.subject_type, key.subject_id, key.action,
					get_jsonb(values, isnull, Anum_event_metadata), NULL);
	if (throttle && evi_throttle_applies(&key, throttle))
		return 0;

	PreventCommandIfReadOnly("record_event()");
	PreventCommandIfParallelMode("record_event()");
	return insert_event(values, isnull, directly);
}

/* Checks a row as it came, and fills the columns that are ours. */
void
evi_recording_complete(Datum *values, bool *isnull)
{
	TimestampTz now = GetCurrentTimestamp();
	text	   *subject_type = get_text(values, isnull, Anum_event_subject_type);
	text	   *action = get_text(values, isnull, Anum_event_action);
	Jsonb	   *metadata = get_jsonb(values, isnull, Anum_event_metadata);

	/* what evinbox says is all that it says: see evi_blank_is_erasure() */
	if (!evi_event_is_ours())
		metadata = evi_context_metadata(metadata);
	set_value(values, isnull, Anum_event_metadata, JsonbPGetDatum(metadata));
	evi_event_check(subject_type, get_text(values, isnull, Anum_event_subject_id),
					action, metadata, get_jsonb(values, isnull, Anum_event_snapshot));
	evi_event_check_action(subject_type, action, metadata);

	fill_context(values, isnull);
	set_value(values, isnull, Anum_event_recorded_at, TimestampTzGetDatum(now));
	if (isnull[Anum_event_occurred_at - 1])
		set_value(values, isnull, Anum_event_occurred_at, TimestampTzGetDatum(now));
	fill_cause(values, isnull);
}

/* What is said of all that is recorded now. */
static void
fill_context(Datum *values, bool *isnull)
{
	text	   *actor = evi_context_actor(get_text(values, isnull, Anum_event_actor));
	text	   *scope = evi_context_scope();
	int64		batch = evi_context_batch();

	if (actor)
		set_value(values, isnull, Anum_event_actor, PointerGetDatum(actor));
	if (scope && isnull[Anum_event_scope - 1])
		set_value(values, isnull, Anum_event_scope, PointerGetDatum(scope));
	if (batch != 0 && isnull[Anum_event_batch_id - 1])
		set_value(values, isnull, Anum_event_batch_id, Int64GetDatum(batch));
}

/* Rules that react to one another's events come to an end here. */
static void
fill_cause(Datum *values, bool *isnull)
{
	int16		depth;
	int64		id = evi_event_cause(&depth);

	if (depth >= evi_guc_max_depth())
		evi_verdict_skip(psprintf("the chain of causes is longer than evinbox.max_depth (%d)",
								  evi_guc_max_depth()));
	set_value(values, isnull, Anum_event_caused_by, Int64GetDatum(id));
	isnull[Anum_event_caused_by - 1] = id == 0;
	set_value(values, isnull, Anum_event_depth, Int16GetDatum(depth + 1));
}

static text *
get_text(Datum *values, bool *isnull, int attno)
{
	return isnull[attno - 1] ? NULL : DatumGetTextPP(values[attno - 1]);
}

static Jsonb *
get_jsonb(Datum *values, bool *isnull, int attno)
{
	return isnull[attno - 1] ? NULL : DatumGetJsonbP(values[attno - 1]);
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
 * nobody has added anything to the table; else it is an INSERT, or nothing.
 */
static int64
insert_event(Datum *values, bool *isnull, bool directly)
{
	int64		id;

	evi_recording_complete(values, isnull);
	id = evi_event_insert(values, isnull);
	if (id == 0)
		return directly ? 0 : insert_by_sql(values, isnull);
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
