/*-------------------------------------------------------------------------
 *
 * message.c
 *		Events as messages to the outside.
 *
 * The formats are Standard Webhooks 1.0, CloudEvents 1.0 in structured mode,
 * and what Slack's incoming webhooks take. A message has all of the event, so
 * that its receiver need not ask; times are in UTC, as in RFC 3339.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/timestamp.h"
#include "utils/typcache.h"

#include "event.h"
#include "message.h"
#include "query.h"
#include "template.h"

#define TEST_TYPE "evinbox.test"
#define MAX_TRACESTATE 512

/* what every format has a place for; NULL for what is not there */
typedef struct Message
{
	const char *id;
	const char *type;
	const char *subject;
	const char *time;
	const char *data;			/* JSON */
	const char *traceparent;
	const char *tracestate;
} Message;

static const char *const columns[Natts_event] = {
	"id", "subject_type", "subject_id", "action", "actor", "scope", "metadata", "snapshot",
	"batch_id", "caused_by", "depth", "occurred_at", "recorded_at",
};

static char *to_standard(const Message *message);
static char *to_cloudevent(const Message *message);
static char *to_slack(const EviEventRow *row, const char *template);
static char *slack_body(const char *text);
static char *value_for_slack(const char *key, void *arg);
static char *escape_for_slack(const char *text);
static char *describe(const EviEventRow *row);
static char *data_of(const EviEventRow *row);
static void append_column(StringInfo out, const EviEventRow *row, int attno);
static void append_member(StringInfo out, const char *name, const char *value);
static char *type_of(const EviEventRow *row);
static void append_snake(StringInfo out, const char *name);
static char *source(void);
static char *time_text(TimestampTz time);
static char *traceparent_of(const EviEventRow *row);
static char *tracestate_of(const EviEventRow *row);
static char *metadata_text(const EviEventRow *row, const char *key);
static bool is_hex(const char *text, int length);

/* a value of the type evinbox.event; somebody may have added columns to it */
void
evi_message_read(EviEventRow *row, Datum event)
{
	HeapTupleHeader header = DatumGetHeapTupleHeader(event);
	TupleDesc	desc = lookup_rowtype_tupdesc(HeapTupleHeaderGetTypeId(header),
											  HeapTupleHeaderGetTypMod(header));
	HeapTupleData tuple = {
		.t_len = HeapTupleHeaderGetDatumLength(header),
		.t_data = header,
	};

	row->event = event;
	for (int i = 0; i < Natts_event; i++)
		row->values[i] = heap_getattr(&tuple, i + 1, desc, &row->isnull[i]);
	ReleaseTupleDesc(desc);
	row->id = row->isnull[Anum_event_id - 1] ? 0 : DatumGetInt64(row->values[Anum_event_id - 1]);
	if (row->isnull[Anum_event_subject_type - 1] || row->isnull[Anum_event_subject_id - 1] ||
		row->isnull[Anum_event_action - 1])
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("event lacks its subject or action")));
}

/* NULL for a null */
char *
evi_message_text(const EviEventRow *row, int attno)
{
	return row->isnull[attno - 1] ? NULL : TextDatumGetCString(row->values[attno - 1]);
}

/* the event, as that endpoint wants it */
char *
evi_message_body(const EviEventRow *row, const EviTarget *target)
{
	Message		message = {
		.id = psprintf(INT64_FORMAT, row->id),
		.type = type_of(row),
		.subject = psprintf("%s/%s", evi_message_text(row, Anum_event_subject_type),
							evi_message_text(row, Anum_event_subject_id)),
		.time = row->isnull[Anum_event_occurred_at - 1] ? NULL :
		time_text(DatumGetTimestampTz(row->values[Anum_event_occurred_at - 1])),
	};

	if (target->format == EVI_FORMAT_SLACK)
		return to_slack(row, target->template);
	message.data = data_of(row);
	message.traceparent = traceparent_of(row);
	message.tracestate = tracestate_of(row);
	return target->format == EVI_FORMAT_STANDARD ? to_standard(&message) : to_cloudevent(&message);
}

/* a message that tells of no event */
char *
evi_message_test_body(const EviTarget *target)
{
	StringInfoData data;
	Message		message = {
		.type = TEST_TYPE,
		.time = time_text(GetCurrentTimestamp()),
	};

	if (target->format == EVI_FORMAT_SLACK)
		return slack_body(psprintf("This is a test of endpoint %s.", escape_for_slack(target->name)));
	initStringInfo(&data);
	appendStringInfoString(&data, "{\"endpoint\":");
	escape_json(&data, target->name);
	appendStringInfoChar(&data, '}');
	message.id = psprintf("test-%s", message.time);
	message.data = data.data;
	return target->format == EVI_FORMAT_STANDARD ? to_standard(&message) : to_cloudevent(&message);
}

const char *
evi_message_content_type(EviFormat format)
{
	return format == EVI_FORMAT_CLOUDEVENTS ? "application/cloudevents+json; charset=utf-8" : "application/json";
}

/* W3C Trace Context goes on with the message; NULL if there is none */
Jsonb *
evi_message_headers(const EviEventRow *row)
{
	char	   *traceparent = traceparent_of(row);
	char	   *tracestate = tracestate_of(row);
	StringInfoData headers;

	if (!traceparent)
		return NULL;
	initStringInfo(&headers);
	appendStringInfoChar(&headers, '{');
	append_member(&headers, "traceparent", traceparent);
	append_member(&headers, "tracestate", tracestate);
	appendStringInfoChar(&headers, '}');
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(headers.data)));
}

static char *
to_standard(const Message *message)
{
	StringInfoData out;

	initStringInfo(&out);
	appendStringInfoChar(&out, '{');
	append_member(&out, "type", message->type);
	append_member(&out, "timestamp", message->time);
	appendStringInfo(&out, ",\"data\":%s}", message->data);
	return out.data;
}

static char *
to_cloudevent(const Message *message)
{
	StringInfoData out;

	initStringInfo(&out);
	appendStringInfoChar(&out, '{');
	append_member(&out, "specversion", "1.0");
	append_member(&out, "id", message->id);
	append_member(&out, "source", source());
	append_member(&out, "type", message->type);
	append_member(&out, "subject", message->subject);
	append_member(&out, "time", message->time);
	append_member(&out, "datacontenttype", "application/json");
	append_member(&out, "traceparent", message->traceparent);
	append_member(&out, "tracestate", message->tracestate);
	appendStringInfo(&out, ",\"data\":%s}", message->data);
	return out.data;
}

/* by the endpoint's template, or as describe() says it if a value is missing for that */
static char *
to_slack(const EviEventRow *row, const char *template)
{
	char	   *text = template ?
		evi_template_fill(template, value_for_slack, unconstify(EviEventRow *, row)) : NULL;

	return slack_body(text ? text : escape_for_slack(describe(row)));
}

static char *
slack_body(const char *text)
{
	StringInfoData out;

	initStringInfo(&out);
	appendStringInfoChar(&out, '{');
	append_member(&out, "text", text);
	appendStringInfoChar(&out, '}');
	return out.data;
}

/* the columns that describe() knows, and what the metadata has */
static char *
value_for_slack(const char *key, void *arg)
{
	static const int attnos[] = {Anum_event_subject_type, Anum_event_subject_id,
	Anum_event_action, Anum_event_actor, Anum_event_scope};
	const EviEventRow *row = arg;
	char	   *value;

	for (int i = 0; i < lengthof(attnos); i++)
		if (strcmp(key, columns[attnos[i] - 1]) == 0)
		{
			value = evi_message_text(row, attnos[i]);
			return value ? escape_for_slack(value) : NULL;
		}
	value = metadata_text(row, key);
	return value ? escape_for_slack(value) : NULL;
}

/* These three make links and mentions; a template may have them, an event must not. */
static char *
escape_for_slack(const char *text)
{
	StringInfoData out;

	initStringInfo(&out);
	for (const char *c = text; *c; c++)
	{
		if (*c == '&')
			appendStringInfoString(&out, "&amp;");
		else if (*c == '<')
			appendStringInfoString(&out, "&lt;");
		else if (*c == '>')
			appendStringInfoString(&out, "&gt;");
		else
			appendStringInfoChar(&out, *c);
	}
	return out.data;
}

static char *
describe(const EviEventRow *row)
{
	static EviQuery select = {
		.sql = "SELECT evinbox.describe(pg_catalog.jsonb_populate_record(NULL::evinbox.event, $1))",
		.expected = SPI_OK_SELECT,
		.nargs = 1,
		.argtypes = {JSONBOID},
	};
	MemoryContext context = CurrentMemoryContext;
	Datum		arg = DirectFunctionCall1(jsonb_in, CStringGetDatum(data_of(row)));
	EviSection	section;
	Datum		value;
	bool		isnull;
	char	   *result;

	evi_query_open();
	evi_section_enter(&section);
	(void) evi_query_run(&select, &arg, NULL, 0);
	value = evi_query_value(0, 1, &isnull);
	result = isnull ? MemoryContextStrdup(context, "") :
		MemoryContextStrdup(context, TextDatumGetCString(value));
	evi_section_leave(&section);
	evi_query_close();
	return result;
}

/* all of the event, as JSON */
static char *
data_of(const EviEventRow *row)
{
	StringInfoData out;

	initStringInfo(&out);
	for (int i = 0; i < Natts_event; i++)
	{
		appendStringInfoChar(&out, i == 0 ? '{' : ',');
		escape_json(&out, columns[i]);
		appendStringInfoChar(&out, ':');
		append_column(&out, row, i + 1);
	}
	appendStringInfoChar(&out, '}');
	return out.data;
}

static void
append_column(StringInfo out, const EviEventRow *row, int attno)
{
	Datum		value = row->values[attno - 1];
	char	   *string = NULL;

	if (row->isnull[attno - 1])
	{
		appendStringInfoString(out, "null");
		return;
	}
	switch (attno)
	{
		case Anum_event_id:
		case Anum_event_batch_id:
		case Anum_event_caused_by:
			appendStringInfo(out, INT64_FORMAT, DatumGetInt64(value));
			return;
		case Anum_event_depth:
			appendStringInfo(out, "%d", DatumGetInt16(value));
			return;
		case Anum_event_metadata:
		case Anum_event_snapshot:
			(void) JsonbToCString(out, &DatumGetJsonbP(value)->root, VARSIZE_ANY(DatumGetPointer(value)));
			return;
		case Anum_event_occurred_at:
		case Anum_event_recorded_at:
			string = time_text(DatumGetTimestampTz(value));
			break;
		default:
			string = TextDatumGetCString(value);
	}
	if (string)
		escape_json(out, string);
	else
		appendStringInfoString(out, "null");
}

/* a string; nothing for NULL */
static void
append_member(StringInfo out, const char *name, const char *value)
{
	if (!value)
		return;
	if (out->data[out->len - 1] != '{')
		appendStringInfoChar(out, ',');
	escape_json(out, name);
	appendStringInfoChar(out, ':');
	escape_json(out, value);
}

/* "issue.status_changed", of letters, digits, underscores and full stops, as both standards like it */
static char *
type_of(const EviEventRow *row)
{
	StringInfoData out;

	initStringInfo(&out);
	append_snake(&out, evi_message_text(row, Anum_event_subject_type));
	appendStringInfoChar(&out, '.');
	append_snake(&out, evi_message_text(row, Anum_event_action));
	return out.data;
}

/* "Billing::InvoiceLine" becomes "billing.invoice_line" */
static void
append_snake(StringInfo out, const char *name)
{
	int			start = out->len;

	for (const char *c = name; *c; c++)
	{
		unsigned char one = (unsigned char) *c;
		bool		is_first = out->len == start;
		char		former = is_first ? '.' : out->data[out->len - 1];

		if (one < 128 && isupper(one))
		{
			/* where a word begins, but not within an abbreviation */
			if (former != '.' && former != '_' &&
				(!isupper((unsigned char) c[-1]) || islower((unsigned char) c[1])))
				appendStringInfoChar(out, '_');
			appendStringInfoChar(out, pg_ascii_tolower(one));
		}
		else if (one < 128 && isalnum(one))
			appendStringInfoChar(out, *c);
		else if ((*c == '.' || *c == ':') && former != '.' && former != '_')
			appendStringInfoChar(out, '.');
		else if (*c != '.' && *c != ':' && former != '_' && former != '.')
			appendStringInfoChar(out, '_');
	}

	/* what has no letter at all, or ends with what is none */
	while (out->len > start && (out->data[out->len - 1] == '_' || out->data[out->len - 1] == '.'))
		out->data[--out->len] = '\0';
	if (out->len == start)
		appendStringInfoString(out, "other");
}

/* which database it is from, as a reference that is a URI */
static char *
source(void)
{
	StringInfoData out;

	initStringInfo(&out);
	appendStringInfoString(&out, "/evinbox/");
	for (const char *c = get_database_name(MyDatabaseId); *c; c++)
	{
		unsigned char one = (unsigned char) *c;

		if (one < 128 && (isalnum(one) || strchr("-._~", *c)))
			appendStringInfoChar(&out, *c);
		else
			appendStringInfo(&out, "%%%02X", one);
	}
	return out.data;
}

/* RFC 3339 knows the years 0 to 9999; NULL for others */
static char *
time_text(TimestampTz time)
{
	struct pg_tm tm;
	fsec_t		usec;

	if (TIMESTAMP_NOT_FINITE(time) || timestamp2tm(time, NULL, &tm, &usec, NULL, NULL) != 0 ||
		tm.tm_year < 0 || tm.tm_year > 9999)
		return NULL;
	return psprintf("%04d-%02d-%02dT%02d:%02d:%02d.%06dZ", tm.tm_year, tm.tm_mon, tm.tm_mday,
					tm.tm_hour, tm.tm_min, tm.tm_sec, (int) usec);
}

/* version, trace, parent and flags; NULL if it is not one */
static char *
traceparent_of(const EviEventRow *row)
{
	char	   *text = metadata_text(row, "traceparent");

	if (!text || strlen(text) != strlen("00-") + 32 + strlen("-") + 16 + strlen("-00") ||
		text[2] != '-' || text[35] != '-' || text[52] != '-' ||
		!is_hex(text, 2) || !is_hex(text + 3, 32) || !is_hex(text + 36, 16) || !is_hex(text + 53, 2) ||
		strncmp(text, "ff", 2) == 0 || strspn(text + 3, "0") >= 32 || strspn(text + 36, "0") >= 16)
		return NULL;
	return text;
}

/* means nothing without the other one */
static char *
tracestate_of(const EviEventRow *row)
{
	char	   *text = metadata_text(row, "tracestate");
	size_t		length = text ? strlen(text) : 0;

	if (length == 0 || length > MAX_TRACESTATE || !traceparent_of(row) ||
		text[0] == ' ' || text[length - 1] == ' ')
		return NULL;
	for (size_t i = 0; i < length; i++)
		if (text[i] < ' ' || text[i] > '~')
			return NULL;
	return text;
}

/* as metadata ->> key */
static char *
metadata_text(const EviEventRow *row, const char *key)
{
	LOCAL_FCINFO(call, 2);
	Datum		result;

	if (row->isnull[Anum_event_metadata - 1])
		return NULL;
	InitFunctionCallInfoData(*call, NULL, 2, InvalidOid, NULL, NULL);
	call->args[0] = (NullableDatum) {row->values[Anum_event_metadata - 1], false};
	call->args[1] = (NullableDatum) {CStringGetTextDatum(key), false};
	result = jsonb_object_field_text(call);
	return call->isnull ? NULL : TextDatumGetCString(result);
}

/* in lower case */
static bool
is_hex(const char *text, int length)
{
	for (int i = 0; i < length; i++)
		if (!isdigit((unsigned char) text[i]) && (text[i] < 'a' || text[i] > 'f'))
			return false;
	return true;
}
