/*-------------------------------------------------------------------------
 *
 * config.c
 *		The config of rules whose handler is one of our own.
 *
 * It is checked when the rule is written, and read each time it runs. What is
 * wrong with it is the rule's fault, and no event's: the errors are of the class
 * of those that halt an inbox. What it names is looked up as the current user,
 * who is the rule's owner.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"

#include "config.h"
#include "function.h"
#include "guc.h"
#include "headers.h"
#include "target.h"

static char *get_string(const char *handler, Jsonb *json, const char *key);
static Oid	find_function(const char *what, const char *name, int *nargs);

bool
evi_config_is_ours(const char *handler)
{
	return strcmp(handler, EVI_WEBHOOK_HANDLER) == 0 || strcmp(handler, EVI_MAIL_HANDLER) == 0;
}

/* What else is in it may be for the function that it names. */
void
evi_config_parse(const char *handler, Jsonb *json, EviConfig *config)
{
	bool		is_mail = strcmp(handler, EVI_MAIL_HANDLER) == 0;

	memset(config, 0, sizeof(*config));
	if (!JB_ROOT_IS_OBJECT(json))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("config of %s must be a JSON object", handler)));
	if (is_mail)
	{
		config->message = get_string(handler, json, "message");
		if (!config->message)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
					 errmsg("config of %s lacks \"message\"", handler),
					 errhint("Name a function of the event that returns {\"to\": ..., \"subject\": ..., \"body\": ...}.")));
		return;
	}
	config->endpoint = get_string(handler, json, "endpoint");
	config->body = get_string(handler, json, "body");
	config->content_type = get_string(handler, json, "content_type");
	if (config->content_type)
		evi_headers_check_value("content-type", config->content_type, strlen(config->content_type));
}

/* when a rule is written, as its owner */
void
evi_config_check(const char *handler, Jsonb *json)
{
	EviConfig	config;
	int			nargs;

	evi_config_parse(handler, json, &config);
	if (config.message)
		evi_config_require_smtp();
	if (config.endpoint)
		(void) evi_target_find_own(config.endpoint);
	if (config.body)
		(void) find_function("body", config.body, &nargs);
	if (config.message)
		(void) find_function("message", config.message, &nargs);
}

/* Calls a function that the config names; it may say by NULL that there is nothing to send. */
Datum
evi_config_call(const char *what, const char *name, Datum event, Jsonb *json, Oid *type, bool *isnull)
{
	FmgrInfo	function;
	int			nargs;

	fmgr_info(find_function(what, name, &nargs), &function);
	*type = get_func_rettype(function.fn_oid);
	return evi_function_call(&function, nargs, event, JsonbPGetDatum(json), isnull);
}

void
evi_config_require_smtp(void)
{
	if (evi_guc_smtp_url()[0] == '\0' || evi_guc_smtp_sender()[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("this server sends no e-mail"),
				 errhint("Have a superuser set evinbox.smtp_url and evinbox.smtp_sender.")));
}

static char *
get_string(const char *handler, Jsonb *json, const char *key)
{
	JsonbValue *value = getKeyJsonValueFromContainer(&json->root, key, strlen(key), NULL);

	if (!value || value->type == jbvNull)
		return NULL;
	if (value->type != jbvString)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_OBJECT_DEFINITION),
				 errmsg("\"%s\" in the config of %s must be a string", key, handler)));
	return pnstrdup(value->val.string.val, value->val.string.len);
}

static Oid
find_function(const char *what, const char *name, int *nargs)
{
	Oid			function = evi_function_find(what, name, nargs);
	Oid			type = get_func_rettype(function);

	if (type != JSONBOID && (type != TEXTOID || strcmp(what, "body") != 0))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("%s function \"%s\" returns %s", what, name, format_type_be(type)),
				 strcmp(what, "body") == 0 ? errhint("It must return jsonb or text.") :
				 errhint("It must return jsonb.")));
	return function;
}
