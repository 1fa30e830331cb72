/*-------------------------------------------------------------------------
 *
 * template.c
 *		Sentences with placeholders, as in evinbox.template.
 *
 * %{key} stands for a value, %{key|otherwise} for one that may be missing, and
 * %% for %. What takes the place of a placeholder is not looked at again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "lib/stringinfo.h"

#include "template.h"

/* a placeholder, as parts of the template */
typedef struct Placeholder
{
	const char *key;
	int			key_length;
	const char *otherwise;		/* NULL for none */
	int			otherwise_length;
	const char *end;
} Placeholder;

static bool parse(const char *template, Placeholder *placeholder);

bool
evi_template_is_valid(const char *template)
{
	Placeholder placeholder;

	for (const char *c = template; *c;)
	{
		if (c[0] == '%' && c[1] == '%')
			c += 2;
		else if (c[0] == '%' && c[1] == '{')
		{
			if (!parse(c, &placeholder))
				return false;
			c = placeholder.end;
		}
		else
			c++;
	}
	return template[0] != '\0';
}

/* NULL if a value is missing */
char *
evi_template_fill(const char *template, EviTemplateValue value, void *arg)
{
	StringInfoData result;
	Placeholder placeholder;

	initStringInfo(&result);
	for (const char *c = template; *c;)
	{
		if (c[0] == '%' && c[1] == '%')
		{
			appendStringInfoChar(&result, '%');
			c += 2;
		}
		else if (c[0] == '%' && c[1] == '{' && parse(c, &placeholder))
		{
			char	   *found = value(pnstrdup(placeholder.key, placeholder.key_length), arg);

			if (found)
				appendStringInfoString(&result, found);
			else if (placeholder.otherwise)
				appendBinaryStringInfo(&result, placeholder.otherwise, placeholder.otherwise_length);
			else
				return NULL;
			c = placeholder.end;
		}
		else
			appendStringInfoChar(&result, *c++);
	}
	return result.data;
}

/* one that begins here; false if it does not end as it should */
static bool
parse(const char *template, Placeholder *placeholder)
{
	const char *c;

	placeholder->key = template + strlen("%{");
	placeholder->key_length = strcspn(placeholder->key, "{}|");
	placeholder->otherwise = NULL;
	c = placeholder->key + placeholder->key_length;
	if (*c == '|')
	{
		placeholder->otherwise = c + 1;
		placeholder->otherwise_length = strcspn(c + 1, "{}");
		c = placeholder->otherwise + placeholder->otherwise_length;
	}
	placeholder->end = c + 1;
	return placeholder->key_length > 0 && *c == '}';
}
