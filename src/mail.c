/*-------------------------------------------------------------------------
 *
 * mail.c
 *		SQL entry point of sending e-mails: the handler evinbox.mail.
 *
 * What is to be sent is complete when it is queued: an RFC 5322 message, of
 * ASCII only, and its envelope. Whatever the function of the event has returned,
 * it stands in no header as it is, but addresses, which are of the plain kind.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "fmgr.h"
#include "lib/stringinfo.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"
#include "utils/json.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

#include "config.h"
#include "guc.h"
#include "mailbox.h"
#include "message.h"
#include "outgoing.h"
#include "request.h"

#define MAX_RECIPIENTS 100
#define MAX_SUBJECT 998

/*
 * Of text in one encoded word: "=?UTF-8?B?" and "?=" leave 63 of 75 characters,
 * and a line has 76. The first one has the header's name before it.
 */
#define WORD_BYTES 45
#define FIRST_WORD_BYTES 36

PG_FUNCTION_INFO_V1(evinbox_mail);

/* what the function of the event has returned */
typedef struct Mail
{
	List	   *to;
	char	   *subject;
	char	   *body;
} Mail;

static void read_mail(Jsonb *json, Mail *mail);
static char *get_text(Jsonb *json, const char *key);
static void add_recipient(Mail *mail, const JsonbValue *value);
static char *format_mail(const Mail *mail, const char *message_id);
static void append_subject(StringInfo out, const char *subject);
static void append_date(StringInfo out, TimestampTz time);
static void append_base64(StringInfo out, const char *bytes, int length);
static Jsonb *envelope(const Mail *mail);

Datum
evinbox_mail(PG_FUNCTION_ARGS)
{
	EviEventRow row;
	EviConfig	config;
	char		message_id[EVI_MESSAGE_ID_SIZE];
	EviRequest	request = {.kind = "mail", .method = "MAIL", .owner_id = GetUserId()};
	Jsonb	   *json = evi_outgoing_config(fcinfo, 1);
	Mail		mail = {0};
	Datum		result;
	Oid			type;
	bool		isnull;

	evi_config_parse(EVI_MAIL_HANDLER, json, &config);
	evi_config_require_smtp();
	evi_outgoing_event(fcinfo, 0, &row);
	result = evi_config_call("message", config.message, row.event, json, &type, &isnull);
	if (isnull)
		PG_RETURN_VOID();

	read_mail(DatumGetJsonbP(result), &mail);
	evi_request_make_id(message_id);
	request.event_id = row.id;
	request.message_id = message_id;
	request.headers = envelope(&mail);
	request.body = format_mail(&mail, message_id);
	(void) evi_request_add(&request);
	PG_RETURN_VOID();
}

static void
read_mail(Jsonb *json, Mail *mail)
{
	JsonbValue *to;
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	value;

	if (!JB_ROOT_IS_OBJECT(json))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("an e-mail must be a JSON object"),
				 errhint("Return {\"to\": ..., \"subject\": ..., \"body\": ...}.")));
	mail->subject = get_text(json, "subject");
	mail->body = get_text(json, "body");
	if (strlen(mail->subject) > MAX_SUBJECT)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("subject of an e-mail cannot be longer than %d bytes", MAX_SUBJECT)));
	for (const char *c = mail->subject; *c; c++)
		if ((unsigned char) *c < ' ' || *c == 127)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("subject of an e-mail must be one line")));

	to = getKeyJsonValueFromContainer(&json->root, "to", strlen("to"), NULL);
	if (to && to->type == jbvBinary && JsonContainerIsArray(to->val.binary.data))
	{
		iterator = JsonbIteratorInit(to->val.binary.data);
		while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
			if (token == WJB_ELEM)
				add_recipient(mail, &value);
	}
	else if (to)
		add_recipient(mail, to);
	if (list_length(mail->to) < 1 || list_length(mail->to) > MAX_RECIPIENTS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("an e-mail must have 1 to %d recipients", MAX_RECIPIENTS)));
}

static char *
get_text(Jsonb *json, const char *key)
{
	JsonbValue *value = getKeyJsonValueFromContainer(&json->root, key, strlen(key), NULL);

	if (!value || value->type != jbvString)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" of an e-mail must be a string", key)));
	return pnstrdup(value->val.string.val, value->val.string.len);
}

static void
add_recipient(Mail *mail, const JsonbValue *value)
{
	char	   *address = value->type == jbvString ?
		pnstrdup(value->val.string.val, value->val.string.len) : NULL;

	if (!address || !evi_mailbox_is_valid(address))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("recipient of an e-mail is not an address"),
				 errhint("Write it as \"name@example.com\", without a name before it.")));
	mail->to = lappend(mail->to, address);
}

static char *
format_mail(const Mail *mail, const char *message_id)
{
	const char *sender = evi_guc_smtp_sender();
	char	   *body = pg_server_to_any(mail->body, strlen(mail->body), PG_UTF8);
	StringInfoData out;
	ListCell   *lc;

	initStringInfo(&out);
	appendStringInfo(&out, "From: %s\r\nTo: ", sender);
	foreach(lc, mail->to)
		appendStringInfo(&out, "%s%s", foreach_current_index(lc) > 0 ? ",\r\n " : "",
						 (char *) lfirst(lc));
	appendStringInfoString(&out, "\r\nSubject: ");
	append_subject(&out, mail->subject);
	appendStringInfoString(&out, "\r\nDate: ");
	append_date(&out, GetCurrentTransactionStartTimestamp());
	appendStringInfo(&out, "\r\nMessage-ID: <%s@%s>", message_id, evi_mailbox_domain(sender));
	appendStringInfoString(&out, "\r\nMIME-Version: 1.0"
						   "\r\nContent-Type: text/plain; charset=UTF-8"
						   "\r\nContent-Transfer-Encoding: base64"
						   "\r\nAuto-Submitted: auto-generated"
						   "\r\n\r\n");
	append_base64(&out, body, strlen(body));
	return out.data;
}

/* as it is, or in encoded words of RFC 2047, each a line of its own */
static void
append_subject(StringInfo out, const char *subject)
{
	char	   *text;
	bool		is_plain = strlen(subject) <= WORD_BYTES && !strstr(subject, "=?") &&
		subject[0] != ' ';

	for (const char *c = subject; *c && is_plain; c++)
		is_plain = (unsigned char) *c < 127;
	if (is_plain)
	{
		appendStringInfoString(out, subject);
		return;
	}

	text = pg_server_to_any(subject, strlen(subject), PG_UTF8);
	for (const char *word = text; *word;)
	{
		int			most = word == text ? FIRST_WORD_BYTES : WORD_BYTES;
		int			length = 0;

		/* characters stay whole */
		while (word[length] && length + pg_encoding_mblen(PG_UTF8, word + length) <= most)
			length += pg_encoding_mblen(PG_UTF8, word + length);
		appendStringInfo(out, "%s=?UTF-8?B?", word == text ? "" : "\r\n ");
		append_base64(out, word, length);
		appendStringInfoString(out, "?=");
		word += length;
	}
}

/* in the C locale, whatever the session's is */
static void
append_date(StringInfo out, TimestampTz time)
{
	static const char *const days[] = {"Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"};
	static const char *const months[] = {"Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug",
	"Sep", "Oct", "Nov", "Dec"};
	struct pg_tm tm;
	fsec_t		usec;

	if (timestamp2tm(time, NULL, &tm, &usec, NULL, NULL) != 0)
		elog(ERROR, "timestamp out of range");
	appendStringInfo(out, "%s, %02d %s %04d %02d:%02d:%02d +0000",
					 days[j2day(date2j(tm.tm_year, tm.tm_mon, tm.tm_mday))],
					 tm.tm_mday, months[tm.tm_mon - 1], tm.tm_year,
					 tm.tm_hour, tm.tm_min, tm.tm_sec);
}

/* in lines of 76 characters */
static void
append_base64(StringInfo out, const char *bytes, int length)
{
	text	   *data = cstring_to_text_with_len(bytes, length);
	char	   *encoded = TextDatumGetCString(DirectFunctionCall2(binary_encode, PointerGetDatum(data),
																  CStringGetTextDatum("base64")));

	for (const char *c = encoded; *c; c++)
		appendStringInfoString(out, *c == '\n' ? "\r\n" : (char[]) {*c, '\0'});
}

/* whom the server is told it is from and for */
static Jsonb *
envelope(const Mail *mail)
{
	StringInfoData out;
	ListCell   *lc;

	initStringInfo(&out);
	appendStringInfoString(&out, "{\"from\":");
	escape_json(&out, evi_guc_smtp_sender());
	appendStringInfoString(&out, ",\"to\":[");
	foreach(lc, mail->to)
	{
		if (foreach_current_index(lc) > 0)
			appendStringInfoChar(&out, ',');
		escape_json(&out, lfirst(lc));
	}
	appendStringInfoString(&out, "]}");
	return DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(out.data)));
}
