/*-------------------------------------------------------------------------
 *
 * url.c
 *		Is something a URL that can be called?
 *
 * What is written down is to mean one thing, whoever reads it: no user and
 * password, nothing behind #, no bytes that one reader would take otherwise
 * than another. libcurl, which is not for sessions, reads it again before it is
 * called; and where a name leads is not asked before there is a connection.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <netinet/in.h>

#include "guc.h"
#include "url.h"

#define MAX_URL 2048
#define MAX_HOST 253
#define MAX_LABEL 63

static const char *url_fault(const char *url, bool allow_http);
static const char *bytes_fault(const char *url);
static const char *authority_fault(const char *authority, size_t length);
static const char *port_fault(const char *port, size_t length);
static const char *name_fault(const char *name, size_t length);
static bool is_number(const char *text, size_t length);

/* Why not, as the end of a sentence; NULL if it is one. */
static const char *
url_fault(const char *url, bool allow_http)
{
	const char *fault = bytes_fault(url);
	const char *authority;

	if (fault)
		return fault;
	if (pg_strncasecmp(url, "https://", strlen("https://")) == 0)
		authority = url + strlen("https://");
	else if (pg_strncasecmp(url, "http://", strlen("http://")) != 0)
		return "it does not begin with https://";
	else if (!allow_http)
		return "it is not encrypted";
	else
		authority = url + strlen("http://");
	return authority_fault(authority, strcspn(authority, "/?"));
}

/* It is not shown: there may be a password in it, or a token. */
void
evi_url_check(const char *url)
{
	const char *fault = url_fault(url, evi_guc_webhook_allow_http());

	if (fault)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("URL cannot be called: %s", fault),
				 errhint("Write it as \"https://host/path\"; http is for those who set evinbox.webhook_allow_http.")));
}

static const char *
bytes_fault(const char *url)
{
	size_t		length = strlen(url);

	if (length > MAX_URL)
		return "it is longer than 2048 bytes";
	for (const char *c = url; *c; c++)
	{
		if (*c <= ' ' || *c > '~' || strchr("\"<>\\^`{|}", *c))
			return "it has a character that must be percent-encoded";
		if (*c == '#')
			return "it has a fragment";
		if (*c == '%' && !(isxdigit((unsigned char) c[1]) && isxdigit((unsigned char) c[2])))
			return "it has a % that is not followed by two hexadecimal digits";
	}
	return NULL;
}

/* host and port */
static const char *
authority_fault(const char *authority, size_t length)
{
	const char *end = authority + length;
	const char *host_end;
	const char *fault;

	if (memchr(authority, '@', length))
		return "it has a user name or a password";
	if (length > 0 && authority[0] == '[')
	{
		char		text[INET6_ADDRSTRLEN];
		struct in6_addr address;

		host_end = memchr(authority, ']', length);
		if (!host_end || host_end - authority > sizeof(text) - 1)
			return "its host is not an address";
		strlcpy(text, authority + 1, host_end - authority);
		if (inet_pton(AF_INET6, text, &address) != 1)
			return "its host is not an address";
		host_end++;
	}
	else
	{
		host_end = memchr(authority, ':', length);
		if (!host_end)
			host_end = end;
		fault = name_fault(authority, host_end - authority);
		if (fault)
			return fault;
	}
	return host_end == end ? NULL : port_fault(host_end, end - host_end);
}

static const char *
port_fault(const char *port, size_t length)
{
	long		number;

	if (port[0] != ':' || length < 2 || length > strlen(":65535") ||
		strspn(port + 1, "0123456789") != length - 1)
		return "its port is not a number";
	number = strtol(port + 1, NULL, 10);
	return number < 1 || number > 65535 ? "its port is not between 1 and 65535" : NULL;
}

/* A name that ends with a number is an address, and those have one way to be written. */
static const char *
name_fault(const char *name, size_t length)
{
	const char *label = name;
	const char *end = name + length;
	char		text[INET_ADDRSTRLEN];
	struct in_addr address;

	if (length == 0)
		return "it has no host";
	if (length > MAX_HOST)
		return "its host is too long";
	for (;;)
	{
		const char *dot = memchr(label, '.', end - label);
		size_t		label_length = (dot ? dot : end) - label;

		if (label_length == 0 || label_length > MAX_LABEL ||
			label[0] == '-' || label[label_length - 1] == '-')
			return "its host is not a name";
		for (size_t i = 0; i < label_length; i++)
			if (!isalnum((unsigned char) label[i]) && label[i] != '-' && label[i] != '_')
				return "its host is not a name";
		if (!dot || dot == end - 1)
		{
			if (!is_number(label, label_length))
				return NULL;
			break;
		}
		label = dot + 1;
	}
	if (length >= sizeof(text))
		return "its host is not an address";
	strlcpy(text, name, length + 1);
	return inet_pton(AF_INET, text, &address) == 1 ? NULL : "its host is not an address";
}

/* also as C would write it */
static bool
is_number(const char *text, size_t length)
{
	if (length >= 2 && text[0] == '0' && (text[1] == 'x' || text[1] == 'X'))
		return true;
	for (size_t i = 0; i < length; i++)
		if (!isdigit((unsigned char) text[i]))
			return false;
	return true;
}
