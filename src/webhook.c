/*-------------------------------------------------------------------------
 *
 * webhook.c
 *		SQL entry point of sending events on: the handler evinbox.webhook.
 *
 * It queues one request for each endpoint, in the transaction of the rule, and
 * so exactly once an event. The bodies are made now, as the rule's owner, and
 * stay as they are; they are sent by the courier, which runs no code of a user.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "config.h"
#include "message.h"
#include "outgoing.h"
#include "request.h"
#include "verdict.h"

PG_FUNCTION_INFO_V1(evinbox_webhook);

static List *find_targets(const EviConfig *config, const EviEventRow *row);
static bool make_body(const EviConfig *config, const EviEventRow *row, Jsonb *json,
					  EviRequest *request);

Datum
evinbox_webhook(PG_FUNCTION_ARGS)
{
	EviEventRow row;
	EviConfig	config;
	Jsonb	   *json = evi_outgoing_config(fcinfo, 1);
	EviRequest	request = {.kind = "http", .method = "POST", .owner_id = GetUserId()};
	List	   *targets;
	ListCell   *lc;

	evi_config_parse(EVI_WEBHOOK_HANDLER, json, &config);
	evi_outgoing_event(fcinfo, 0, &row);
	targets = find_targets(&config, &row);
	if (!targets)
		PG_RETURN_VOID();

	request.event_id = row.id;
	request.headers = evi_message_headers(&row);
	if (config.body && !make_body(&config, &row, json, &request))
		PG_RETURN_VOID();
	foreach(lc, targets)
	{
		EviTarget  *target = lfirst(lc);

		request.endpoint_id = target->id;
		request.is_signed = target->format != EVI_FORMAT_SLACK;
		if (!config.body)
		{
			request.body = evi_message_body(&row, target);
			request.content_type = evi_message_content_type(target->format);
		}
		(void) evi_request_add(&request);
	}
	PG_RETURN_VOID();
}

/* the one that the rule names, whatever else that is for; or all that want the event */
static List *
find_targets(const EviConfig *config, const EviEventRow *row)
{
	EviTarget  *target;

	if (!config->endpoint)
		return evi_targets_of(GetUserId(), evi_message_text(row, Anum_event_scope),
							  evi_message_text(row, Anum_event_subject_type),
							  evi_message_text(row, Anum_event_action));
	target = evi_target_find_own(config->endpoint);
	if (!target->enabled)
		evi_verdict_skip(psprintf("endpoint \"%s\" is disabled", target->name));
	return list_make1(target);
}

/* as the rule's function says; false if there is nothing to send */
static bool
make_body(const EviConfig *config, const EviEventRow *row, Jsonb *json, EviRequest *request)
{
	Oid			type;
	bool		isnull;
	Datum		result = evi_config_call("body", config->body, row->event, json, &type, &isnull);

	if (isnull)
		return false;
	if (type == JSONBOID)
	{
		Jsonb	   *value = DatumGetJsonbP(result);

		request->body = JsonbToCString(NULL, &value->root, VARSIZE(value));
		request->content_type = "application/json";
	}
	else
	{
		request->body = TextDatumGetCString(result);
		request->content_type = "text/plain; charset=utf-8";
	}
	if (config->content_type)
		request->content_type = config->content_type;
	return true;
}
