/*-------------------------------------------------------------------------
 *
 * transfer.c
 *		One call: what libcurl is told of it, and what has come of it.
 *
 * What the other side sends is bounded: the body by EVI_HTTP_MAX_ANSWER, all
 * headers together, those of interim answers among them, by MAX_HEADER_BYTES
 * and MAX_HEADER_LINES. More than that ends the call: a body that is too large is
 * an answer all the same, as the status has come before it.
 *
 *-------------------------------------------------------------------------
 */
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "library.h"

#define MAX_HEADER_BYTES 65536
#define MAX_HEADER_LINES 1000
#define FAREWELL "221"			/* of SMTP */
#define MAX_CONNECTION_AGE_S 600	/* then names are looked up again */
#define CA_CACHE_S 600			/* then the file of certificates is read again */

static CURLcode prepare_common(EviTransfer *transfer, const EviHttpRequest *request);
static CURLcode prepare_guard(EviTransfer *transfer);
static CURLcode prepare_http(EviTransfer *transfer, const EviHttpRequest *request);
static CURLcode prepare_method(CURL *easy, const EviHttpRequest *request);
static CURLcode make_headers(EviTransfer *transfer, const EviHttpRequest *request);
static bool add_header(EviTransfer *transfer, const char *header);
static bool add_empty_header(EviTransfer *transfer, const char *header);
static size_t take_header(char *data, size_t size, size_t count, void *arg);
static size_t take_body(char *data, size_t size, size_t count, void *arg);
static const char *find_error(EviTransfer *transfer);
static double elapsed_ms(CURL *easy, CURLINFO info);
static long find_retry_after_s(CURL *easy);

/* a place for calls; NULL if there is no memory */
EviTransfer *
evi_transfer_new(EviHttp *http)
{
	EviTransfer *transfer = calloc(1, sizeof(EviTransfer));

	if (transfer == NULL)
		return NULL;
	transfer->http = http;
	transfer->easy = curl_easy_init();
	if (transfer->easy == NULL)
	{
		free(transfer);
		return NULL;
	}
	return transfer;
}

void
evi_transfer_free(EviTransfer *transfer)
{
	evi_transfer_clear(transfer);
	curl_easy_cleanup(transfer->easy);
	free(transfer);
}

/* The transfer is as new. */
CURLcode
evi_transfer_prepare(EviTransfer *transfer, const EviHttpRequest *request)
{
	CURLcode	code;

	transfer->is_mail = request->sender != NULL;
	if ((code = prepare_common(transfer, request)) != CURLE_OK ||
		(code = prepare_guard(transfer)) != CURLE_OK)
		return code;
	return transfer->is_mail ? evi_mail_prepare(transfer, request) :
		prepare_http(transfer, request);
}

/* What it was has been seen. */
void
evi_transfer_clear(EviTransfer *transfer)
{
	EviHttp    *http = transfer->http;
	CURL	   *easy = transfer->easy;

	curl_easy_reset(easy);
	curl_slist_free_all(transfer->headers);
	curl_slist_free_all(transfer->recipients);
	memset(transfer, 0, sizeof(*transfer));
	transfer->http = http;
	transfer->easy = easy;
}

void
evi_transfer_result(EviTransfer *transfer, EviHttpResult *result)
{
	CURL	   *easy = transfer->easy;
	long		connections = 0;

	memset(result, 0, sizeof(*result));
	result->tag = transfer->tag;
	result->code = transfer->is_cut ? CURLE_OK : transfer->code;
	result->error = find_error(transfer);
	result->is_refused = transfer->refused > 0 && transfer->opened == 0 &&
		transfer->code != CURLE_OK;

	(void) curl_easy_getinfo(easy, CURLINFO_RESPONSE_CODE, &result->status);
	result->retry_after_s = transfer->is_mail ? -1 : find_retry_after_s(easy);

	/* on a connection that was there, libcurl measures how long it took to find it */
	(void) curl_easy_getinfo(easy, CURLINFO_NUM_CONNECTS, &connections);
	result->dns_ms = connections > 0 ? elapsed_ms(easy, CURLINFO_NAMELOOKUP_TIME_T) : -1;
	result->connect_ms = connections > 0 ? elapsed_ms(easy, CURLINFO_CONNECT_TIME_T) : -1;
	result->tls_ms = connections > 0 ? elapsed_ms(easy, CURLINFO_APPCONNECT_TIME_T) : -1;
	result->first_byte_ms = transfer->header_lines > 0 || transfer->answer_bytes > 0 ?
		elapsed_ms(easy, CURLINFO_STARTTRANSFER_TIME_T) : -1;
	result->total_ms = elapsed_ms(easy, CURLINFO_TOTAL_TIME_T);
	if (result->total_ms < 0)
		result->total_ms = 0;

	result->address = transfer->address[0] != '\0' ? transfer->address : NULL;
	result->answer = transfer->answer;
	result->answer_length = transfer->answer_length;
}

static CURLcode
prepare_common(EviTransfer *transfer, const EviHttpRequest *request)
{
	const EviHttpOptions *options = &transfer->http->options;
	CURL	   *easy = transfer->easy;
	long		connect_ms = request->connect_timeout_ms > 0 ? request->connect_timeout_ms :
		request->timeout_ms;
	CURLcode	code;

	if ((code = curl_easy_setopt(easy, CURLOPT_URL, request->url)) != CURLE_OK ||
		(code = curl_easy_setopt(easy, CURLOPT_PRIVATE, transfer)) != CURLE_OK ||
		(code = curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, transfer->error)) != CURLE_OK ||
		(code = curl_easy_setopt(easy, CURLOPT_TIMEOUT_MS, request->timeout_ms)) != CURLE_OK ||
		(code = curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, connect_ms)) != CURLE_OK ||
		(code = curl_easy_setopt(easy, CURLOPT_MAXLIFETIME_CONN, (long) MAX_CONNECTION_AGE_S)) != CURLE_OK ||
		(code = curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, take_header)) != CURLE_OK ||
		(code = curl_easy_setopt(easy, CURLOPT_HEADERDATA, transfer)) != CURLE_OK ||
		(code = curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, take_body)) != CURLE_OK ||
		(code = curl_easy_setopt(easy, CURLOPT_WRITEDATA, transfer)) != CURLE_OK ||

	/* a thread that looks up a name is left behind rather than waited for */
		(code = curl_easy_setopt(easy, CURLOPT_QUICK_EXIT, 1L)) != CURLE_OK ||
		(code = curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L)) != CURLE_OK ||

		(code = curl_easy_setopt(easy, CURLOPT_SSLVERSION, (long) CURL_SSLVERSION_TLSv1_2)) != CURLE_OK ||
		(code = curl_easy_setopt(easy, CURLOPT_SSL_VERIFYPEER, 1L)) != CURLE_OK ||
		(code = curl_easy_setopt(easy, CURLOPT_SSL_VERIFYHOST, 2L)) != CURLE_OK ||
		(code = curl_easy_setopt(easy, CURLOPT_CA_CACHE_TIMEOUT, (long) CA_CACHE_S)) != CURLE_OK)
		return code;

	/* certificates from a directory could not be cached */
	if (options->ca_file &&
		((code = curl_easy_setopt(easy, CURLOPT_CAINFO, options->ca_file)) != CURLE_OK ||
		 (code = curl_easy_setopt(easy, CURLOPT_CAPATH, NULL)) != CURLE_OK))
		return code;
	return CURLE_OK;
}

/* Nothing but what we were told, and nothing from the environment. */
static CURLcode
prepare_guard(EviTransfer *transfer)
{
	CURL	   *easy = transfer->easy;
	CURLcode	code;

	if ((code = curl_easy_setopt(easy, CURLOPT_OPENSOCKETFUNCTION, evi_guard_open)) != CURLE_OK ||
		(code = curl_easy_setopt(easy, CURLOPT_OPENSOCKETDATA, transfer)) != CURLE_OK ||
		(code = curl_easy_setopt(easy, CURLOPT_PREREQFUNCTION, evi_guard_request)) != CURLE_OK ||
		(code = curl_easy_setopt(easy, CURLOPT_PREREQDATA, transfer)) != CURLE_OK ||
		(code = curl_easy_setopt(easy, CURLOPT_PROXY, "")) != CURLE_OK ||
		(code = curl_easy_setopt(easy, CURLOPT_NETRC, (long) CURL_NETRC_IGNORED)) != CURLE_OK ||
		(code = curl_easy_setopt(easy, CURLOPT_FOLLOWLOCATION, 0L)) != CURLE_OK ||
		(code = curl_easy_setopt(easy, CURLOPT_DISALLOW_USERNAME_IN_URL, 1L)) != CURLE_OK)
		return code;
	return CURLE_OK;
}

static CURLcode
prepare_http(EviTransfer *transfer, const EviHttpRequest *request)
{
	CURL	   *easy = transfer->easy;
	const char *protocols = request->allow_http ? "http,https" : "https";
	CURLcode	code;

	if ((code = make_headers(transfer, request)) != CURLE_OK ||
		(code = prepare_method(easy, request)) != CURLE_OK ||
		(code = curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, protocols)) != CURLE_OK ||
		(code = curl_easy_setopt(easy, CURLOPT_HTTPHEADER, transfer->headers)) != CURLE_OK ||
		(code = curl_easy_setopt(easy, CURLOPT_USERAGENT, transfer->http->options.user_agent)) != CURLE_OK ||

	/* one call a connection at a time: whom a failure belongs to is plain */
		(code = curl_easy_setopt(easy, CURLOPT_HTTP_VERSION, (long) CURL_HTTP_VERSION_1_1)) != CURLE_OK)
		return code;
	return CURLE_OK;
}

static CURLcode
prepare_method(CURL *easy, const EviHttpRequest *request)
{
	CURLcode	code;

	/* its answer has no body, whatever it says */
	if (strcmp(request->method, "HEAD") == 0)
		return curl_easy_setopt(easy, CURLOPT_NOBODY, 1L);

	/* a body of no bytes is one, where one is usual */
	if (request->body_length == 0 &&
		(strcmp(request->method, "GET") == 0 || strcmp(request->method, "DELETE") == 0 ||
		 strcmp(request->method, "OPTIONS") == 0))
		code = curl_easy_setopt(easy, CURLOPT_HTTPGET, 1L);
	else if ((code = curl_easy_setopt(easy, CURLOPT_POSTFIELDSIZE_LARGE,
									  (curl_off_t) request->body_length)) == CURLE_OK)
		code = curl_easy_setopt(easy, CURLOPT_POSTFIELDS,
								request->body_length > 0 ? request->body : "");
	if (code != CURLE_OK)
		return code;
	return curl_easy_setopt(easy, CURLOPT_CUSTOMREQUEST, request->method);
}

static CURLcode
make_headers(EviTransfer *transfer, const EviHttpRequest *request)
{
	bool		has_type = false;

	for (int i = 0; request->headers && request->headers[i]; i++)
	{
		const char *header = request->headers[i];

		if (!(evi_check_is_empty_header(header) ? add_empty_header(transfer, header) :
			  add_header(transfer, header)))
			return CURLE_OUT_OF_MEMORY;
		has_type |= evi_check_is_header(header, "Content-Type");
	}

	/* what libcurl would say by itself: not the type of a form, and no wait for "100 Continue" */
	if ((!has_type && !add_header(transfer, "Content-Type:")) || !add_header(transfer, "Expect:"))
		return CURLE_OUT_OF_MEMORY;
	return CURLE_OK;
}

static bool
add_header(EviTransfer *transfer, const char *header)
{
	struct curl_slist *list = curl_slist_append(transfer->headers, header);

	if (list == NULL)
		return false;
	transfer->headers = list;
	return true;
}

/* libcurl takes "Name:" for "without it", and "Name;" for one without a value */
static bool
add_empty_header(EviTransfer *transfer, const char *header)
{
	char	   *copy = strdup(header);
	bool		is_added;

	if (copy == NULL)
		return false;
	strcpy(strchr(copy, ':'), ";");
	is_added = add_header(transfer, copy);
	free(copy);
	return is_added;
}

/* Called by libcurl with each line of a header, or of what an SMTP server says. */
static size_t
take_header(char *data, size_t size, size_t count, void *arg)
{
	EviTransfer *transfer = arg;
	size_t		length = size * count;

	transfer->header_bytes += length;
	transfer->header_lines++;
	if (transfer->header_bytes > MAX_HEADER_BYTES || transfer->header_lines > MAX_HEADER_LINES)
	{
		transfer->fault = "the answer has too many headers";
		return 0;
	}

	/* the last line is the answer to a mail, but for the farewell that comes after it */
	if (transfer->is_mail && strncmp(data, FAREWELL, strlen(FAREWELL)) != 0)
	{
		transfer->answer_length = 0;
		transfer->answer_bytes = 0;
		(void) take_body(data, 1, length, arg);
	}
	return length;
}

static size_t
take_body(char *data, size_t size, size_t count, void *arg)
{
	EviTransfer *transfer = arg;
	size_t		length = size * count;
	size_t		room = EVI_HTTP_KEPT_ANSWER - transfer->answer_length;
	size_t		kept = length < room ? length : room;

	memcpy(transfer->answer + transfer->answer_length, data, kept);
	transfer->answer_length += kept;
	transfer->answer[transfer->answer_length] = '\0';
	transfer->answer_bytes += length;

	/* libcurl takes that for a failure, and closes the connection; but it is an answer */
	transfer->is_cut = transfer->answer_bytes > EVI_HTTP_MAX_ANSWER;
	return transfer->is_cut ? 0 : length;
}

static const char *
find_error(EviTransfer *transfer)
{
	if (transfer->code == CURLE_OK || transfer->is_cut)
		return NULL;
	if (transfer->fault)
		return transfer->fault;
	if (transfer->refused > 0 && transfer->opened == 0)
		return transfer->fault_buffer;
	return transfer->error[0] != '\0' ? transfer->error : curl_easy_strerror(transfer->code);
}

static double
elapsed_ms(CURL *easy, CURLINFO info)
{
	curl_off_t	elapsed_us = 0;

	(void) curl_easy_getinfo(easy, info, &elapsed_us);
	return elapsed_us > 0 ? elapsed_us / 1000.0 : -1;
}

/* either seconds, or the time when that is */
static long
find_retry_after_s(CURL *easy)
{
	struct curl_header *header;
	size_t		digits;
	time_t		then;
	time_t		now = time(NULL);

	if (curl_easy_header(easy, "Retry-After", 0, CURLH_HEADER, -1, &header) != CURLHE_OK)
		return -1;
	digits = strspn(header->value, "0123456789");
	if (digits > 0 && header->value[digits] == '\0')
		return digits < 10 ? atol(header->value) : INT_MAX;
	then = curl_getdate(header->value, NULL);
	if (then == (time_t) -1)
		return -1;
	return then > now ? (long) (then - now) : 0;
}
