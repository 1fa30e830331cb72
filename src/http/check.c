/*-------------------------------------------------------------------------
 *
 * check.c
 *		Calls that are not made, whatever the other side would say.
 *
 * Users' texts become parts of a protocol here, so nothing passes that could
 * be read as more than it is: no control characters, no header that says where
 * a message ends or which connection it is on.
 *
 * URLs are read by libcurl's parser, which is the one that is used afterwards.
 *
 *-------------------------------------------------------------------------
 */
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#include "library.h"

#define MAX_URL_LENGTH 8192

/* ours to say, or libcurl's */
static const char *const reserved_headers[] = {
	"Connection", "Content-Length", "Expect", "Host", "Keep-Alive", "Proxy-Connection",
	"TE", "Trailer", "Transfer-Encoding", "Upgrade",
};

static const char *find_url_fault(CURLU *handle, bool is_mail, bool allow_http);
static const char *check_scheme(const char *scheme, bool is_mail, bool allow_http);
static const char *check_method(const char *method);
static const char *check_header(const char *header);
static const char *check_mail_address(const char *address);
static bool is_token(const char *text, size_t length);

/* NULL if it can be called */
const char *
evi_check_url(const char *url, bool is_mail, bool allow_http)
{
	CURLU	   *handle;
	CURLUcode	code;
	const char *fault;
	const char *host = strstr(url, "://");

	if (strlen(url) > MAX_URL_LENGTH)
		return "URL is too long";
	for (const char *c = url; *c != '\0'; c++)
		if ((unsigned char) *c <= ' ' || *c == 0x7f)
			return "URL has a blank or a control character";

	/* libcurl would make do with fewer slashes, and with more */
	if (host == NULL)
		return "not a URL";
	if (host[3] == '/')
		return "URL has no host";

	handle = curl_url();
	if (handle == NULL)
		return "out of memory";
	code = curl_url_set(handle, CURLUPART_URL, url, CURLU_DISALLOW_USER);
	if (code == CURLUE_UNSUPPORTED_SCHEME)
		fault = check_scheme("", is_mail, allow_http);
	else if (code == CURLUE_USER_NOT_ALLOWED)
		fault = "URL has a user name or a password";
	else if (code == CURLUE_OUT_OF_MEMORY)
		fault = "out of memory";
	else if (code != CURLUE_OK)
		fault = "not a URL";
	else
		fault = find_url_fault(handle, is_mail, allow_http);
	curl_url_cleanup(handle);
	return fault;
}

/* NULL if it can be tried */
const char *
evi_check_request(const EviHttpRequest *request)
{
	const char *fault;

	if (request->timeout_ms <= 0)
		return "there is no timeout";
	fault = evi_check_url(request->url, request->sender != NULL, request->allow_http);
	if (fault || request->sender)
	{
		if (!fault)
			fault = check_mail_address(request->sender);
		if (!fault && (request->recipients == NULL || request->recipients[0] == NULL))
			fault = "there is no recipient";
		for (int i = 0; !fault && request->recipients[i]; i++)
			fault = check_mail_address(request->recipients[i]);
		return fault;
	}
	fault = check_method(request->method);
	for (int i = 0; !fault && request->headers && request->headers[i]; i++)
		fault = check_header(request->headers[i]);
	return fault;
}

bool
evi_check_is_empty_header(const char *header)
{
	const char *value = strchr(header, ':') + 1;

	return value[strspn(value, " \t")] == '\0';
}

bool
evi_check_is_header(const char *header, const char *name)
{
	size_t		length = strlen(name);

	return strncasecmp(header, name, length) == 0 && header[length] == ':';
}

static const char *
find_url_fault(CURLU *handle, bool is_mail, bool allow_http)
{
	char	   *scheme = NULL;
	char	   *host = NULL;
	char	   *port = NULL;
	const char *fault = NULL;

	if (curl_url_get(handle, CURLUPART_SCHEME, &scheme, 0) != CURLUE_OK ||
		curl_url_get(handle, CURLUPART_HOST, &host, 0) != CURLUE_OK || host[0] == '\0')
		fault = "URL has no host";
	else
		fault = check_scheme(scheme, is_mail, allow_http);
	if (!fault && curl_url_get(handle, CURLUPART_PORT, &port, 0) == CURLUE_OK &&
		strtol(port, NULL, 10) == 0)
		fault = "URL has no valid port";
	curl_free(scheme);
	curl_free(host);
	curl_free(port);
	return fault;
}

static const char *
check_scheme(const char *scheme, bool is_mail, bool allow_http)
{
	if (is_mail)
		return strcasecmp(scheme, "smtps") == 0 || strcasecmp(scheme, "smtp") == 0 ? NULL :
			"URL does not begin with smtps:// or smtp://";
	if (strcasecmp(scheme, "https") == 0 || (allow_http && strcasecmp(scheme, "http") == 0))
		return NULL;
	return allow_http ? "URL does not begin with https:// or http://" :
		"URL does not begin with https://";
}

static const char *
check_method(const char *method)
{
	size_t		length = strlen(method);

	/* the one makes a tunnel, and the other shows secret headers */
	if (length == 0 || length > 20 || strspn(method, "ABCDEFGHIJKLMNOPQRSTUVWXYZ-") != length ||
		strcmp(method, "CONNECT") == 0 || strcmp(method, "TRACE") == 0)
		return "not a method that can be used";
	return NULL;
}

static const char *
check_header(const char *header)
{
	const char *colon = strchr(header, ':');

	if (colon == NULL || !is_token(header, colon - header))
		return "not a header";
	for (const char *c = colon + 1; *c != '\0'; c++)
		if (((unsigned char) *c < ' ' && *c != '\t') || *c == 0x7f)
			return "header has a control character";
	for (size_t i = 0; i < lengthof(reserved_headers); i++)
		if (evi_check_is_header(header, reserved_headers[i]))
			return "header is reserved";
	return NULL;
}

/* of the envelope */
static const char *
check_mail_address(const char *address)
{
	if (address[0] == '\0' || strlen(address) > 320)
		return "not a mail address";
	for (const char *c = address; *c != '\0'; c++)
		if ((unsigned char) *c <= ' ' || *c == 0x7f || *c == '<' || *c == '>')
			return "not a mail address";
	return NULL;
}

/* a word as RFC 9110 has it */
static bool
is_token(const char *text, size_t length)
{
	static const char allowed[] = "!#$%&'*+-.^_`|~0123456789"
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

	return length > 0 && strspn(text, allowed) == length;
}
