/*-------------------------------------------------------------------------
 *
 * grouping.c
 *		SQL entry point of grouped_feed(): runs of like events as one entry.
 *
 * Events are read newest first, in growing pieces, until as many groups are
 * complete as were asked for: a group is, when the event before it does not
 * belong to it. So a page ends where a group does, and the next one begins with
 * an event that has been seen not to belong to it. What a group may have is
 * bounded, and so is the work.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_type.h"
#include "common/int.h"
#include "fmgr.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/date.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"
#include "utils/tuplestore.h"

#include "evinbox.h"
#include "feed.h"

/* a group with more events than that goes on as another one */
#define MAX_RUN 1000

/* so many events are read at once, depending on how long the page is */
#define FIRST_PIECE(groups) Min(Max((groups) * 4, 40), MAX_PIECE)
#define MAX_PIECE 1000

/* arguments of grouped_feed() */
enum
{
	ARG_SUBJECTS,
	ARG_ACTOR,
	ARG_SCOPE,
	ARG_BEFORE_ID,
	ARG_MAX,
	ARG_GAP,
	ARG_TIME_ZONE,
	ARG_GROUP_BY
};

/* and its columns */
enum
{
	COL_LAST_ID,
	COL_FIRST_ID,
	COL_COUNT,
	COL_ACTORS,
	COL_ACTION,
	COL_FIRST_AT,
	COL_LAST_AT,
	COL_DAY,
	COL_EVENT,
	NCOLS
};

/* what belongs together */
typedef struct Rule
{
	bool		by_subject;		/* or else by actor */
	int64		gap_us;			/* PG_INT64_MAX for any */
	Datum		time_zone;		/* a text; 0 if days do not matter */
} Rule;

/* an event, as far as that goes */
typedef struct Entry
{
	int64		id;
	text	   *actor;			/* may be NULL */
	text	   *subject_type;
	text	   *subject_id;
	text	   *action;
	TimestampTz at;
	DateADT		day;
} Entry;

typedef struct Run
{
	HeapTuple	event;			/* the newest one; NULL before there is any */
	Entry		newest;
	int64		first_id;
	TimestampTz edge;			/* when the first one happened */
	TimestampTz first_at;		/* the earliest and the latest such times */
	TimestampTz last_at;
	int			count;
	List	   *actors;			/* texts, each once */
} Run;

PG_FUNCTION_INFO_V1(evinbox_grouped_feed);

static EviFeed *get_feed(FunctionCallInfo fcinfo);
static void get_rule(FunctionCallInfo fcinfo, Rule *rule);
static int64 get_gap(Interval *gap);
static void collect(ReturnSetInfo *result, const EviFeed *feed, const Rule *rule, Relation event,
					int64 upto, int max);
static void take_apart(Entry *entry, HeapTuple tuple, TupleDesc desc, const Rule *rule);
static DateADT day_of(TimestampTz at, Datum time_zone);
static bool belongs(const Run *run, const Entry *entry, const Rule *rule);
static bool same_text(const text *a, const text *b);
static bool within(TimestampTz a, TimestampTz b, int64 gap_us);
static void start_run(Run *run, HeapTuple tuple, TupleDesc desc, const Rule *rule);
static void add_to_run(Run *run, const Entry *entry);
static void put_run(ReturnSetInfo *result, Run *run, TupleDesc desc, const Rule *rule);

Datum
evinbox_grouped_feed(PG_FUNCTION_ARGS)
{
	EviFeed    *feed = get_feed(fcinfo);
	int64		upto = evi_feed_upto(fcinfo, ARG_BEFORE_ID);
	int			max = evi_feed_max(fcinfo, ARG_MAX);
	Rule		rule;
	Relation	event;

	get_rule(fcinfo, &rule);
	event = evi_feed_open();
	InitMaterializedSRF(fcinfo, 0);
	collect((ReturnSetInfo *) fcinfo->resultinfo, feed, &rule, event, upto, max);
	table_close(event, NoLock);
	return (Datum) 0;
}

static EviFeed *
get_feed(FunctionCallInfo fcinfo)
{
	if (!PG_ARGISNULL(ARG_SUBJECTS) + !PG_ARGISNULL(ARG_ACTOR) + !PG_ARGISNULL(ARG_SCOPE) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a grouped feed is of either subjects, an actor, or a scope"),
				 errhint("Give exactly one of them.")));
	if (!PG_ARGISNULL(ARG_SUBJECTS))
		return evi_feed_of_subjects(PG_GETARG_JSONB_P(ARG_SUBJECTS));
	if (!PG_ARGISNULL(ARG_ACTOR))
		return evi_feed_of_actor(PG_GETARG_TEXT_PP(ARG_ACTOR));
	return evi_feed_of_scope(PG_GETARG_TEXT_PP(ARG_SCOPE));
}

static void
get_rule(FunctionCallInfo fcinfo, Rule *rule)
{
	char	   *group_by = PG_ARGISNULL(ARG_GROUP_BY) ? NULL :
		text_to_cstring(PG_GETARG_TEXT_PP(ARG_GROUP_BY));

	if (!group_by || (strcmp(group_by, "actor") != 0 && strcmp(group_by, "subject") != 0))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 group_by ? errmsg("unrecognized value for group_by: \"%s\"", group_by) :
				 errmsg("group_by must not be null"),
				 errhint("Use \"actor\" or \"subject\".")));
	rule->by_subject = strcmp(group_by, "subject") == 0;
	rule->gap_us = PG_ARGISNULL(ARG_GAP) ? PG_INT64_MAX : get_gap(PG_GETARG_INTERVAL_P(ARG_GAP));
	rule->time_zone = PG_ARGISNULL(ARG_TIME_ZONE) ? (Datum) 0 : PG_GETARG_DATUM(ARG_TIME_ZONE);

	/* an unknown one is an error even if there are no events */
	if (rule->time_zone)
		(void) day_of(0, rule->time_zone);
}

/* a day has 24 hours here, and a month 30 days */
static int64
get_gap(Interval *gap)
{
	int64		days = (int64) gap->month * DAYS_PER_MONTH + gap->day;
	int64		result;

	if (pg_mul_s64_overflow(days, USECS_PER_DAY, &result) ||
		pg_add_s64_overflow(result, gap->time, &result))
		result = PG_INT64_MAX;
	if (result < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("gap must not be negative")));
	return result;
}

/* reads until so many groups are complete, or there are no more events */
static void
collect(ReturnSetInfo *result, const EviFeed *feed, const Rule *rule, Relation event,
		int64 upto, int max)
{
	TupleDesc	desc = RelationGetDescr(event);
	MemoryContext work = AllocSetContextCreate(CurrentMemoryContext, "evinbox grouped feed",
											   ALLOCSET_DEFAULT_SIZES);
	MemoryContext former = CurrentMemoryContext;
	Run			run = {0};
	int			complete = 0;
	int			piece = FIRST_PIECE(max);
	bool		is_at_end = false;

	while (!is_at_end && complete < max)
	{
		HeapTuple  *tuples;
		int			count;

		MemoryContextReset(work);
		MemoryContextSwitchTo(work);
		tuples = palloc(sizeof(HeapTuple) * piece);
		count = evi_feed_read(feed, event, upto, piece, tuples);
		is_at_end = count < piece;
		for (int i = 0; i < count && complete < max; i++)
		{
			Entry		entry;

			CHECK_FOR_INTERRUPTS();
			take_apart(&entry, tuples[i], desc, rule);
			if (run.event && !belongs(&run, &entry, rule))
			{
				put_run(result, &run, desc, rule);
				complete++;
			}
			MemoryContextSwitchTo(former);
			if (!run.event)
				start_run(&run, tuples[i], desc, rule);
			add_to_run(&run, &entry);
			MemoryContextSwitchTo(work);
			upto = entry.id > PG_INT64_MIN ? entry.id - 1 : entry.id;
		}
		MemoryContextSwitchTo(former);
		piece = Min(piece * 2, MAX_PIECE);
	}
	if (run.event && complete < max)
		put_run(result, &run, desc, rule);
	MemoryContextDelete(work);
}

static void
take_apart(Entry *entry, HeapTuple tuple, TupleDesc desc, const Rule *rule)
{
	Datum	   *values = palloc(sizeof(Datum) * desc->natts);
	bool	   *isnull = palloc(sizeof(bool) * desc->natts);

	heap_deform_tuple(tuple, desc, values, isnull);
	entry->id = DatumGetInt64(values[Anum_event_id - 1]);
	entry->actor = isnull[Anum_event_actor - 1] ? NULL :
		DatumGetTextPP(values[Anum_event_actor - 1]);
	entry->subject_type = DatumGetTextPP(values[Anum_event_subject_type - 1]);
	entry->subject_id = DatumGetTextPP(values[Anum_event_subject_id - 1]);
	entry->action = DatumGetTextPP(values[Anum_event_action - 1]);
	entry->at = DatumGetTimestampTz(values[Anum_event_occurred_at - 1]);
	entry->day = rule->time_zone ? day_of(entry->at, rule->time_zone) : 0;
	pfree(values);
	pfree(isnull);
}

static DateADT
day_of(TimestampTz at, Datum time_zone)
{
	Datum		local = DirectFunctionCall2(timestamptz_zone, time_zone, TimestampTzGetDatum(at));

	return DatumGetDateADT(DirectFunctionCall1(timestamp_date, local));
}

/* Does an event belong to the group of those right after it? */
static bool
belongs(const Run *run, const Entry *entry, const Rule *rule)
{
	const Entry *newest = &run->newest;

	if (run->count >= MAX_RUN || !same_text(newest->action, entry->action) ||
		newest->day != entry->day || !within(run->edge, entry->at, rule->gap_us))
		return false;
	if (rule->by_subject)
		return same_text(newest->subject_type, entry->subject_type) &&
			same_text(newest->subject_id, entry->subject_id);
	return same_text(newest->actor, entry->actor);
}

static bool
same_text(const text *a, const text *b)
{
	return a && b ? evi_text_equal(a, b) : a == b;
}

/* Times are given by the recorder, and may be in any order. */
static bool
within(TimestampTz a, TimestampTz b, int64 gap_us)
{
	int64		apart;

	if (gap_us == PG_INT64_MAX || a == b)
		return true;
	if (pg_sub_s64_overflow(Max(a, b), Min(a, b), &apart))
		return false;
	return apart <= gap_us;
}

static void
start_run(Run *run, HeapTuple tuple, TupleDesc desc, const Rule *rule)
{
	memset(run, 0, sizeof(Run));
	run->event = heap_copytuple(tuple);
	take_apart(&run->newest, run->event, desc, rule);
	run->first_at = run->last_at = run->newest.at;
}

static void
add_to_run(Run *run, const Entry *entry)
{
	ListCell   *lc;

	run->count++;
	run->first_id = entry->id;
	run->edge = entry->at;
	run->first_at = Min(run->first_at, entry->at);
	run->last_at = Max(run->last_at, entry->at);
	if (!entry->actor)
		return;
	foreach(lc, run->actors)
		if (evi_text_equal(lfirst(lc), entry->actor))
			return;
	run->actors = lappend(run->actors,
							cstring_to_text_with_len(VARDATA_ANY(entry->actor),
													 VARSIZE_ANY_EXHDR(entry->actor)));
}

/* adds the group to the result, after which there is none */
static void
put_run(ReturnSetInfo *result, Run *run, TupleDesc desc, const Rule *rule)
{
	Datum		values[NCOLS] = {0};
	bool		isnull[NCOLS] = {0};
	int			nactors = list_length(run->actors);
	Datum	   *actors = palloc(sizeof(Datum) * Max(nactors, 1));

	for (int i = 0; i < nactors; i++)
		actors[i] = PointerGetDatum(list_nth(run->actors, i));
	values[COL_LAST_ID] = Int64GetDatum(run->newest.id);
	values[COL_FIRST_ID] = Int64GetDatum(run->first_id);
	values[COL_COUNT] = Int32GetDatum(run->count);
	values[COL_ACTORS] = PointerGetDatum(construct_array(actors, nactors, TEXTOID, -1, false,
														 TYPALIGN_INT));
	values[COL_ACTION] = PointerGetDatum(run->newest.action);
	values[COL_FIRST_AT] = TimestampTzGetDatum(run->first_at);
	values[COL_LAST_AT] = TimestampTzGetDatum(run->last_at);
	values[COL_DAY] = DateADTGetDatum(run->newest.day);
	isnull[COL_DAY] = !rule->time_zone;
	values[COL_EVENT] = heap_copy_tuple_as_datum(run->event, desc);
	tuplestore_putvalues(result->setResult, result->setDesc, values, isnull);

	list_free_deep(run->actors);
	heap_freetuple(run->event);
	memset(run, 0, sizeof(Run));
}
