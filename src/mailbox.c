/*-------------------------------------------------------------------------
 *
 * mailbox.c
 *		E-mail addresses.
 *
 * Those of the plain kind, name@example.com: nothing in them can be taken for
 * the end of a header, for a second address, or for a parameter of SMTP.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <ctype.h>

#include "mailbox.h"

#define MAX_LOCAL 64
#define MAX_DOMAIN 253
#define MAX_LABEL 63

static bool is_dotted(const char *text, size_t length, const char *others, size_t most);

bool
evi_mailbox_is_valid(const char *address)
{
	const char *at = strchr(address, '@');

	return at && at - address <= MAX_LOCAL && strlen(at + 1) <= MAX_DOMAIN &&
		is_dotted(address, at - address, "!#$%&'*+-/=?^_`{|}~", MAX_LOCAL) &&
		is_dotted(at + 1, strlen(at + 1), "-", MAX_LABEL);
}

/* of a valid one */
const char *
evi_mailbox_domain(const char *address)
{
	return strchr(address, '@') + 1;
}

/* parts of letters, digits and some other characters, with dots between them */
static bool
is_dotted(const char *text, size_t length, const char *others, size_t most)
{
	size_t		part = 0;

	for (size_t i = 0; i < length; i++)
	{
		if (text[i] == '.' && part == 0)
			return false;
		part = text[i] == '.' ? 0 : part + 1;
		if (text[i] != '.' && (part > most ||
							   !(isalnum((unsigned char) text[i]) || strchr(others, text[i]))))
			return false;
	}
	return part > 0;
}
