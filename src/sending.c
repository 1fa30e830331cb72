/*-------------------------------------------------------------------------
 *
 * sending.c
 *		How a request is made a call to the outside.
 *
 * Only here the library evinbox_http is loaded, and called: with all signals
 * blocked, since its threads inherit that, and a signal of ours must not be
 * handled by one of them.
 *
 * A request's headers go over those of its endpoint, and ours over both.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <signal.h>
#include <stdlib.h>

#include "fmgr.h"
#include "lib/stringinfo.h"
#include "utils/memutils.h"

#include "address.h"
#include "guc.h"
#include "pace.h"
#include "sending.h"

#define CONNECT_TIMEOUT_MS 10000	/* or the endpoint's timeout, if that is less */
#define USER_AGENT "evinbox/1.0"
#define SIGNATURE_SIZE 256

/* all that a call consists of, which has to stay until its end */
typedef struct Call
{
	EviHttpRequest request;
	const char **headers;		/* NULL at the end */
	int			nheaders;
	const char **recipients;
} Call;

static const EviHttpTable *http_functions = NULL;
static EviHttp *http = NULL;
static char *allow = NULL;		/* as it was parsed */
static char *ca_file = NULL;	/* as it was opened with */
static EviAddressRange *ranges = NULL;
static int	nranges = 0;

static void parse_ranges(void);
static bool may_connect(const struct sockaddr *address, void *arg);
static bool fill_http(Call *call, const EviParcel *parcel, TimestampTz now, const char **error);
static bool fill_mail(Call *call, const EviParcel *parcel, const char **error);
static void add_headers(Call *call, Jsonb *headers);
static void set_header(Call *call, const char *name, int name_length, const char *value);
static bool sign(Call *call, const EviParcel *parcel, TimestampTz now);
static char *sign_with(const EviSecret *secret, const EviParcel *parcel, int64 timestamp);
static char *string_of(Jsonb *object, const char *key);
static const char **strings_of(Jsonb *object, const char *key);
static void block(sigset_t *former);
static void unblock(const sigset_t *former);

/* Once in a process. Returns what can be read when there is something to do. */
int
evi_sending_open(void)
{
	EviHttpEntry entry = (EviHttpEntry) load_external_function("$libdir/" EVI_HTTP_LIBRARY,
															   EVI_HTTP_ENTRY, true, NULL);
	EviHttpOptions options = {.may_connect = may_connect, .user_agent = USER_AGENT};
	const char *error = NULL;
	sigset_t	former;
	int			result;

	parse_ranges();
	ca_file = MemoryContextStrdup(TopMemoryContext, evi_guc_webhook_ca_file());
	options.max_connections = evi_guc_webhook_max_in_flight();
	options.ca_file = *ca_file ? ca_file : NULL;

	block(&former);
	http_functions = entry();
	if (http_functions->version == EVI_HTTP_VERSION)
		http = http_functions->open(&options, &error);
	result = http ? http_functions->descriptor(http) : -1;
	unblock(&former);
	if (http_functions->version != EVI_HTTP_VERSION)
		elog(ERROR, "library \"%s\" is of another version", EVI_HTTP_LIBRARY);
	if (!http)
		elog(ERROR, "could not prepare for calls to the outside: %s", error);
	return result;
}

/* Settings may have changed. Returns false if that takes another process. */
bool
evi_sending_refresh(void)
{
	if (strcmp(allow, evi_guc_webhook_allow()) != 0)
		parse_ranges();
	return strcmp(ca_file, evi_guc_webhook_ca_file()) == 0;
}

/* what the setting allows; nothing if it is not valid, which is said where it is set */
static void
parse_ranges(void)
{
	const char *error;

	free(ranges);
	ranges = NULL;
	nranges = 0;
	if (allow)
		pfree(allow);
	allow = MemoryContextStrdup(TopMemoryContext, evi_guc_webhook_allow());
	if (!evi_address_parse_ranges(allow, &ranges, &nranges, &error))
	{
		ranges = NULL;
		nranges = 0;
		ereport(LOG,
				(errmsg("evinbox.webhook_allow is not valid, and allows nothing"),
				 errdetail_internal("%s", error)));
	}
}

/* within libcurl: nothing of the server is to be called */
static bool
may_connect(const struct sockaddr *address, void *arg)
{
	return evi_address_fault(address, ranges, nranges) == NULL;
}

/*
 * False and a reason if there cannot be such a call; what is "lasting" cannot be
 * mended by changing a setting or a secret. The parcel is the tag of its result.
 */
bool
evi_sending_start(EviParcel *parcel, TimestampTz now, const char **error, bool *is_lasting)
{
	MemoryContext former_context = MemoryContextSwitchTo(parcel->context);
	Call	   *call = palloc0(sizeof(Call));
	bool		result;
	sigset_t	former;

	*is_lasting = false;
	result = parcel->is_mail ? fill_mail(call, parcel, error) :
		fill_http(call, parcel, now, error);
	if (result)
	{
		block(&former);
		result = http_functions->start(http, &call->request, parcel, error, is_lasting);
		unblock(&former);

		/* what is wrong with a mail may be its server's URL, or its login */
		*is_lasting &= !parcel->is_mail;
	}
	if (!result)
		*error = pstrdup(*error);
	MemoryContextSwitchTo(former_context);
	return result;
}

void
evi_sending_perform(void)
{
	sigset_t	former;

	block(&former);
	http_functions->perform(http);
	unblock(&former);
}

/* One whose call has ended; NULL if there is none. The result is valid until the next call. */
EviParcel *
evi_sending_ended(EviHttpResult *result)
{
	sigset_t	former;
	bool		found;

	block(&former);
	found = http_functions->result(http, result);
	unblock(&former);
	return found ? result->tag : NULL;
}

/* how long until it has something to do by itself; -1 for never */
long
evi_sending_wait_ms(void)
{
	sigset_t	former;
	long		result;

	block(&former);
	result = http_functions->wait_ms(http);
	unblock(&former);
	return result;
}

static bool
fill_http(Call *call, const EviParcel *parcel, TimestampTz now, const char **error)
{
	const EviPeer *peer = parcel->route->peer;

	add_headers(call, peer->headers);
	if (parcel->content_type)
		set_header(call, "Content-Type", strlen("Content-Type"), parcel->content_type);
	add_headers(call, parcel->headers);
	set_header(call, "webhook-id", strlen("webhook-id"), parcel->message_id);
	if (parcel->is_signed && !sign(call, parcel, now))
	{
		*error = "no secret of the endpoint can sign";
		return false;
	}

	call->request.url = parcel->url ? parcel->url : pstrdup(peer->url);
	call->request.method = parcel->method;
	call->request.headers = call->headers;
	call->request.body = parcel->body;
	call->request.body_length = parcel->body_length;
	call->request.timeout_ms = (long) peer->timeout_ms;
	call->request.connect_timeout_ms = (long) Min(peer->timeout_ms, CONNECT_TIMEOUT_MS);
	call->request.allow_http = evi_guc_webhook_allow_http();
	return true;
}

static bool
fill_mail(Call *call, const EviParcel *parcel, const char **error)
{
	const EviPeer *peer = parcel->route->peer;

	if (*evi_guc_smtp_url() == '\0')
	{
		*error = "evinbox.smtp_url is not set";
		return false;
	}
	call->request.sender = parcel->headers ? string_of(parcel->headers, "from") : NULL;
	call->recipients = parcel->headers ? strings_of(parcel->headers, "to") : NULL;
	if (!call->request.sender || !call->recipients)
	{
		*error = "the message has no sender or no recipients";
		return false;
	}
	call->request.recipients = call->recipients;
	call->request.url = pstrdup(evi_guc_smtp_url());
	call->request.user = *evi_guc_smtp_user() ? pstrdup(evi_guc_smtp_user()) : NULL;
	call->request.password = *evi_guc_smtp_password() ? pstrdup(evi_guc_smtp_password()) : NULL;
	call->request.body = parcel->body;
	call->request.body_length = parcel->body_length;
	call->request.timeout_ms = (long) peer->timeout_ms;
	call->request.connect_timeout_ms = (long) Min(peer->timeout_ms, CONNECT_TIMEOUT_MS);
	return true;
}

/* strings of an object; there should be nothing else in it */
static void
add_headers(Call *call, Jsonb *headers)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	value;
	char	   *name = NULL;

	if (!headers || !JB_ROOT_IS_OBJECT(headers))
		return;
	iterator = JsonbIteratorInit(&headers->root);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			name = pnstrdup(value.val.string.val, value.val.string.len);
		else if (token == WJB_VALUE && value.type == jbvString)
			set_header(call, name, strlen(name),
					   pnstrdup(value.val.string.val, value.val.string.len));
	}
}

/* instead of a former one of that name */
static void
set_header(Call *call, const char *name, int name_length, const char *value)
{
	int			at = 0;

	while (at < call->nheaders &&
		   !(pg_strncasecmp(call->headers[at], name, name_length) == 0 &&
			 call->headers[at][name_length] == ':'))
		at++;
	if (at == call->nheaders)
	{
		Size		size = sizeof(char *) * (call->nheaders + 2);

		call->headers = call->headers ? repalloc(call->headers, size) : palloc(size);
		call->headers[++call->nheaders] = NULL;
	}
	call->headers[at] = psprintf("%.*s: %s", name_length, name, value);
}

/* Without a secret, it goes unsigned. Returns false if there is one, and none works. */
static bool
sign(Call *call, const EviParcel *parcel, TimestampTz now)
{
	const EviPeer *peer = parcel->route->peer;
	int64		timestamp = (int64) timestamptz_to_time_t(now);
	bool		has_secret = false;
	StringInfoData signatures;

	initStringInfo(&signatures);
	for (int i = 0; i < peer->nsecrets; i++)
	{
		char	   *signature;

		if (peer->secrets[i].expires_at <= now)
			continue;
		has_secret = true;
		signature = sign_with(&peer->secrets[i], parcel, timestamp);
		if (signature)
			appendStringInfo(&signatures, "%s%s", signatures.len > 0 ? " " : "", signature);
	}
	set_header(call, "webhook-timestamp", strlen("webhook-timestamp"),
			   psprintf(INT64_FORMAT, timestamp));
	if (signatures.len > 0)
		set_header(call, "webhook-signature", strlen("webhook-signature"), signatures.data);
	return !has_secret || signatures.len > 0;
}

static char *
sign_with(const EviSecret *secret, const EviParcel *parcel, int64 timestamp)
{
	char	   *signature = palloc(SIGNATURE_SIZE);
	bool		result;
	sigset_t	former;

	block(&former);
	result = http_functions->sign(secret->kind, secret->key, secret->key_length,
								  parcel->message_id, timestamp, parcel->body,
								  parcel->body_length, signature, SIGNATURE_SIZE);
	unblock(&former);
	return result ? signature : NULL;
}

/* NULL if there is none */
static char *
string_of(Jsonb *object, const char *key)
{
	JsonbValue	buffer;
	JsonbValue *value;

	if (!JB_ROOT_IS_OBJECT(object))
		return NULL;
	value = getKeyJsonValueFromContainer(&object->root, key, strlen(key), &buffer);
	if (!value || value->type != jbvString)
		return NULL;
	return pnstrdup(value->val.string.val, value->val.string.len);
}

/* of an array, with a NULL at the end; NULL if there are none */
static const char **
strings_of(Jsonb *object, const char *key)
{
	JsonbValue	buffer;
	JsonbValue *value;
	const char **result;
	int			count;
	int			kept = 0;

	if (!JB_ROOT_IS_OBJECT(object))
		return NULL;
	value = getKeyJsonValueFromContainer(&object->root, key, strlen(key), &buffer);
	if (!value || value->type != jbvBinary || !JsonContainerIsArray(value->val.binary.data))
		return NULL;
	count = JsonContainerSize(value->val.binary.data);
	result = palloc(sizeof(char *) * (count + 1));
	for (int i = 0; i < count; i++)
	{
		JsonbValue *element = getIthJsonbValueFromContainer(value->val.binary.data, i);

		if (element && element->type == jbvString)
			result[kept++] = pnstrdup(element->val.string.val, element->val.string.len);
	}
	result[kept] = NULL;
	return kept > 0 ? result : NULL;
}

static void
block(sigset_t *former)
{
	sigset_t	all;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, former);
}

static void
unblock(const sigset_t *former)
{
	sigprocmask(SIG_SETMASK, former, NULL);
}
