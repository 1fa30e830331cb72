/*-------------------------------------------------------------------------
 *
 * bulk.c
 *		SQL entry point of recording many events in one call.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "evinbox.h"
#include "recording.h"

PG_FUNCTION_INFO_V1(evinbox_record_events);

/* what a member of an event's object is */
typedef enum MemberKind
{
	MEMBER_TEXT,
	MEMBER_ID,					/* a string or a number */
	MEMBER_JSON,				/* anything, NULL for null */
	MEMBER_TIME,
	MEMBER_THROTTLE,
	MEMBER_THROTTLE_BY
} MemberKind;

static const struct
{
	const char *name;
	MemberKind	kind;
	int			attno;			/* 0 for what is not stored */
}			members[] = {
	{"subject_type", MEMBER_TEXT, Anum_event_subject_type},
	{"subject_id", MEMBER_ID, Anum_event_subject_id},
	{"action", MEMBER_TEXT, Anum_event_action},
	{"actor", MEMBER_TEXT, Anum_event_actor},
	{"metadata", MEMBER_JSON, Anum_event_metadata},
	{"throttle", MEMBER_THROTTLE, 0},
	{"throttle_by", MEMBER_THROTTLE_BY, 0},
	{"snapshot", MEMBER_JSON, Anum_event_snapshot},
	{"scope", MEMBER_TEXT, Anum_event_scope},
	{"occurred_at", MEMBER_TIME, Anum_event_occurred_at},
};

static int64 record_one(JsonbContainer *object);
static int	find_member(const JsonbValue *key);
static text *get_string(const JsonbValue *value, const char *name);
static Datum get_time(const JsonbValue *value, const char *name);
static void point_at_event(void *arg);

/* The events of a JSON array, in its order; null stands for one that was throttled. */
Datum
evinbox_record_events(PG_FUNCTION_ARGS)
{
	Jsonb	   *events = PG_GETARG_JSONB_P(0);
	int			count = JB_ROOT_COUNT(events);
	Datum	   *ids = palloc(sizeof(Datum) * Max(count, 1));
	bool	   *isnull = palloc(sizeof(bool) * Max(count, 1));
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "evinbox bulk",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext former = CurrentMemoryContext;
	ErrorContextCallback callback = {.callback = point_at_event};
	JsonbIterator *iterator = JsonbIteratorInit(&events->root);
	JsonbIteratorToken token;
	JsonbValue	value;
	int			n = 0;
	int			dims[] = {count};
	int			lower[] = {1};

	if (!JB_ROOT_IS_ARRAY(events) || JB_ROOT_IS_SCALAR(events))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("events must be a JSON array"),
				 errhint("Write them as '[{\"subject_type\": ..., \"subject_id\": ..., \"action\": ...}, ...]'.")));

	callback.arg = &n;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token != WJB_ELEM)
			continue;
		CHECK_FOR_INTERRUPTS();
		n++;
		if (value.type != jbvBinary || !JsonContainerIsObject(value.val.binary.data))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("an event must be a JSON object")));
		MemoryContextSwitchTo(context);
		ids[n - 1] = Int64GetDatum(record_one(value.val.binary.data));
		isnull[n - 1] = DatumGetInt64(ids[n - 1]) == 0;
		MemoryContextSwitchTo(former);
		MemoryContextReset(context);
	}
	error_context_stack = callback.previous;
	MemoryContextDelete(context);

	if (count == 0)
		PG_RETURN_ARRAYTYPE_P(construct_empty_array(INT8OID));
	PG_RETURN_ARRAYTYPE_P(construct_md_array(ids, isnull, 1, dims, lower, INT8OID, sizeof(int64),
											 FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
}

/* returns its id, or 0 */
static int64
record_one(JsonbContainer *object)
{
	Datum		values[Natts_event] = {0};
	bool		isnull[Natts_event];
	Interval   *throttle = NULL;
	text	   *throttle_by = NULL;
	JsonbIterator *iterator = JsonbIteratorInit(object);
	JsonbIteratorToken token;
	JsonbValue	value;
	int			member = -1;

	memset(isnull, true, sizeof(isnull));
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		const char *name;
		Datum		datum = (Datum) 0;

		if (token == WJB_KEY)
			member = find_member(&value);
		if (token != WJB_VALUE || value.type == jbvNull)
			continue;

		name = members[member].name;
		switch (members[member].kind)
		{
			case MEMBER_ID:
				if (value.type == jbvNumeric)
					datum = PointerGetDatum(cstring_to_text(DatumGetCString(DirectFunctionCall1(numeric_out,
																								 NumericGetDatum(value.val.numeric)))));
				else
					datum = PointerGetDatum(get_string(&value, name));
				break;
			case MEMBER_TEXT:
				datum = PointerGetDatum(get_string(&value, name));
				break;
			case MEMBER_JSON:
				datum = JsonbPGetDatum(JsonbValueToJsonb(&value));
				break;
			case MEMBER_TIME:
				datum = get_time(&value, name);
				break;
			case MEMBER_THROTTLE:
				throttle = DatumGetIntervalP(DirectFunctionCall3(interval_in,
																 CStringGetDatum(text_to_cstring(get_string(&value, name))),
																 ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
				break;
			case MEMBER_THROTTLE_BY:
				throttle_by = get_string(&value, name);
				break;
		}
		if (members[member].attno > 0)
		{
			values[members[member].attno - 1] = datum;
			isnull[members[member].attno - 1] = false;
		}
	}
	return evi_recording_record(values, isnull, throttle, throttle_by);
}

static int
find_member(const JsonbValue *key)
{
	for (int i = 0; i < lengthof(members); i++)
		if (strlen(members[i].name) == key->val.string.len &&
			memcmp(members[i].name, key->val.string.val, key->val.string.len) == 0)
			return i;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unrecognized member of an event: \"%s\"",
					pnstrdup(key->val.string.val, key->val.string.len)),
			 errhint("The members are the arguments of record_event().")));
}

static text *
get_string(const JsonbValue *value, const char *name)
{
	if (value->type != jbvString)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" must be a string", name)));
	return cstring_to_text_with_len(value->val.string.val, value->val.string.len);
}

static Datum
get_time(const JsonbValue *value, const char *name)
{
	return DirectFunctionCall3(timestamptz_in,
							   CStringGetDatum(text_to_cstring(get_string(value, name))),
							   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
}

static void
point_at_event(void *arg)
{
	errcontext("event %d of record_events()", *(int *) arg);
}
