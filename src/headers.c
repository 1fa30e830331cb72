/*-------------------------------------------------------------------------
 *
 * headers.c
 *		Headers that somebody wants to have sent along.
 *
 * They are checked when they are written. A name is a token of HTTP and a value
 * visible ASCII, so that neither can end the line that it stands in. Names that
 * say how the message is sent, and who has signed it, are not for users.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "headers.h"

#define MAX_HEADERS 50
#define MAX_NAME 100
#define MAX_BYTES 8192

/* with a dash at the end: all that begin like this */
static const char *const reserved[] = {
	"host", "content-length", "content-type", "content-encoding", "transfer-encoding", "connection",
	"keep-alive", "te", "trailer", "upgrade", "expect", "user-agent", "accept-encoding",
	"http2-settings", "proxy-", "webhook-", "svix-",
};

/* of one call, and not of all that go to an endpoint */
static const char *const passing[] = {"traceparent", "tracestate"};

static void check_name(const char *name, int length);
static bool is_in(const char *name, int length, const char *const *list, int count);

/* an object of strings, for one call or for all of an endpoint */
void
evi_headers_check(Jsonb *headers, bool is_for_all)
{
	JsonbIterator *iterator;
	JsonbIteratorToken token;
	JsonbValue	value;
	char	   *name = NULL;
	int			count = 0;
	Size		bytes = 0;

	if (!JB_ROOT_IS_OBJECT(headers))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("headers must be a JSON object"),
				 errhint("Write them as '{\"name\": \"value\"}'.")));
	iterator = JsonbIteratorInit(&headers->root);
	while ((token = JsonbIteratorNext(&iterator, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			name = pnstrdup(value.val.string.val, value.val.string.len);
			check_name(name, value.val.string.len);
			if (is_for_all && is_in(name, value.val.string.len, passing, lengthof(passing)))
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("header \"%s\" cannot be the same for all calls", name)));
			bytes += value.val.string.len;
			count++;
		}
		else if (token == WJB_VALUE)
		{
			if (value.type != jbvString)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("value of header \"%s\" must be a string", name)));
			evi_headers_check_value(name, value.val.string.val, value.val.string.len);
			bytes += value.val.string.len;
		}
	}
	if (count > MAX_HEADERS || bytes > MAX_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("cannot have more than %d headers, or %d bytes of them", MAX_HEADERS, MAX_BYTES)));
}

void
evi_headers_check_value(const char *name, const char *value, int length)
{
	bool		is_valid = length == 0 || (value[0] != ' ' && value[length - 1] != ' ');

	for (int i = 0; i < length && is_valid; i++)
		is_valid = value[i] >= ' ' && value[i] <= '~';
	if (!is_valid)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("value of header \"%s\" is not valid", name),
				 errdetail("It may have visible characters of ASCII, and spaces between them.")));
}

static void
check_name(const char *name, int length)
{
	bool		is_valid = length > 0 && length <= MAX_NAME;

	for (int i = 0; i < length && is_valid; i++)
		is_valid = isalnum((unsigned char) name[i]) || strchr("!#$%&'*+-.^_`|~", name[i]);
	if (!is_valid || strlen(name) != length)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is not the name of a header", name),
				 errdetail("It may have up to %d letters, digits and dashes of ASCII.", MAX_NAME)));
	if (is_in(name, length, reserved, lengthof(reserved)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("header \"%s\" is set by evinbox", name)));
}

static bool
is_in(const char *name, int length, const char *const *list, int count)
{
	for (int i = 0; i < count; i++)
	{
		int			prefix = strlen(list[i]);

		if (pg_strncasecmp(name, list[i], prefix) == 0 &&
			(length == prefix || list[i][prefix - 1] == '-'))
			return true;
	}
	return false;
}
