/*-------------------------------------------------------------------------
 *
 * call.c
 *		SQL entry points of calling the outside by hand.
 *
 * They are for whoever has EXECUTE; an endpoint, and what was sent to it, only
 * for members of its owner.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "blank.h"
#include "headers.h"
#include "message.h"
#include "owner.h"
#include "query.h"
#include "request.h"
#include "target.h"
#include "url.h"
#include "wakeup.h"

/* of http_request() */
#define ARG_TARGET 0
#define ARG_BODY 1
#define ARG_HEADERS 2
#define ARG_METHOD 3
#define ARG_CONTENT_TYPE 4

PG_FUNCTION_INFO_V1(evinbox_http_request_jsonb);
PG_FUNCTION_INFO_V1(evinbox_http_request_text);
PG_FUNCTION_INFO_V1(evinbox_test_endpoint);
PG_FUNCTION_INFO_V1(evinbox_resend);
PG_FUNCTION_INFO_V1(evinbox_recover);

static int64 call_http(FunctionCallInfo fcinfo, const char *body);
static const char *get_method(FunctionCallInfo fcinfo);
static EviTarget *find_enabled(const char *name);
static void check_enabled(const char *name, bool is_enabled);
static void check_delivery(int64 id);

Datum
evinbox_http_request_jsonb(PG_FUNCTION_ARGS)
{
	Jsonb	   *body = PG_ARGISNULL(ARG_BODY) ? NULL : PG_GETARG_JSONB_P(ARG_BODY);

	PG_RETURN_INT64(call_http(fcinfo, body ?
							  JsonbToCString(NULL, &body->root, VARSIZE(body)) : NULL));
}

Datum
evinbox_http_request_text(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(call_http(fcinfo, PG_ARGISNULL(ARG_BODY) ? NULL :
							  text_to_cstring(PG_GETARG_TEXT_PP(ARG_BODY))));
}

/* What it is sent as is what an event would be. */
Datum
evinbox_test_endpoint(PG_FUNCTION_ARGS)
{
	EviTarget  *target;
	EviRequest	request = {.kind = "http", .method = "POST"};

	PreventCommandIfReadOnly("test_endpoint()");
	target = find_enabled(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	request.endpoint_id = target->id;
	request.owner_id = target->owner;
	request.body = evi_message_test_body(target);
	request.content_type = evi_message_content_type(target->format);
	request.is_signed = target->format != EVI_FORMAT_SLACK;
	PG_RETURN_INT64(evi_request_add(&request));
}

/*
 * It is a new request, but the same message: a receiver that has had it already
 * can tell. If the former one is dead, that is settled. The row is locked, so
 * that it is not copied as it was before an erasure.
 */
Datum
evinbox_resend(PG_FUNCTION_ARGS)
{
	static EviQuery copy = {
		.sql = "WITH gone AS (DELETE FROM evinbox_internal.request_waiting w"
		" WHERE w.request_id OPERATOR(pg_catalog.=) $1 AND w.state OPERATOR(pg_catalog.=) 'dead'),"
		" former AS (SELECT r.* FROM evinbox_internal.request r"
		" WHERE r.id OPERATOR(pg_catalog.=) $1 AND r.body IS NOT NULL FOR SHARE)"
		" INSERT INTO evinbox_internal.request (kind, endpoint_id, owner_id, inbox_id, event_id,"
		" message_id, method, url, headers, content_type, body, is_signed)"
		" SELECT kind, endpoint_id, COALESCE((SELECT p.owner_id FROM evinbox.endpoint p"
		" WHERE p.id OPERATOR(pg_catalog.=) former.endpoint_id), owner_id), inbox_id, event_id,"
		" message_id, method, url, headers, content_type, body, is_signed FROM former RETURNING id",
		.expected = SPI_OK_INSERT_RETURNING,
		.nargs = 1,
		.argtypes = {INT8OID},
	};
	Datum		arg = PG_GETARG_DATUM(0);
	EviSection	section;
	int64		id = 0;
	bool		isnull;

	PreventCommandIfReadOnly("resend()");
	evi_blank_lock(ShareLock);
	check_delivery(PG_GETARG_INT64(0));
	evi_query_open();
	evi_section_enter(&section);
	if (evi_query_run(&copy, &arg, NULL, 0) > 0)
		id = DatumGetInt64(evi_query_value(0, 1, &isnull));
	evi_section_leave(&section);
	evi_query_close();
	if (id == 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the event of delivery " INT64_FORMAT " was erased", PG_GETARG_INT64(0))));
	evi_wakeup_courier();
	PG_RETURN_INT64(id);
}

Datum
evinbox_recover(PG_FUNCTION_ARGS)
{
	static EviQuery copy = {
		.sql = "WITH gone AS (DELETE FROM evinbox_internal.request_waiting w"
		" WHERE w.endpoint_id OPERATOR(pg_catalog.=) $1 AND w.state OPERATOR(pg_catalog.=) 'dead'"
		" AND w.created_at OPERATOR(pg_catalog.>=) $2 RETURNING w.request_id, w.created_at),"
		" former AS (SELECT r.* FROM gone g JOIN evinbox_internal.request r"
		" ON r.id OPERATOR(pg_catalog.=) g.request_id AND r.created_at OPERATOR(pg_catalog.=) g.created_at"
		" WHERE r.body IS NOT NULL ORDER BY r.id FOR SHARE OF r)"
		" INSERT INTO evinbox_internal.request (kind, endpoint_id, owner_id, inbox_id, event_id,"
		" message_id, method, url, headers, content_type, body, is_signed)"
		" SELECT kind, endpoint_id, $3, inbox_id, event_id,"
		" message_id, method, url, headers, content_type, body, is_signed FROM former",
		.expected = SPI_OK_INSERT,
		.nargs = 3,
		.argtypes = {INT4OID, TIMESTAMPTZOID, OIDOID},
	};
	EviTarget  *target;
	Datum		args[3];
	uint64		result;

	PreventCommandIfReadOnly("recover()");
	target = find_enabled(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	evi_blank_lock(ShareLock);
	args[0] = Int32GetDatum(target->id);
	args[1] = PG_GETARG_DATUM(1);
	args[2] = ObjectIdGetDatum(target->owner);
	result = evi_query_run_alone(&copy, args, NULL);
	evi_wakeup_courier();
	PG_RETURN_INT64(result);
}

static int64
call_http(FunctionCallInfo fcinfo, const char *body)
{
	EviRequest	request = {.kind = "http"};
	char	   *name;

	PreventCommandIfReadOnly("http_request()");
	if (PG_ARGISNULL(ARG_TARGET))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("target must not be null"),
				 errhint("Give a URL, or the name of an endpoint.")));
	name = text_to_cstring(PG_GETARG_TEXT_PP(ARG_TARGET));
	request.method = get_method(fcinfo);
	request.body = body ? body : "";
	if (!PG_ARGISNULL(ARG_HEADERS))
	{
		request.headers = PG_GETARG_JSONB_P(ARG_HEADERS);
		evi_headers_check(request.headers, false);
	}
	if (body && !PG_ARGISNULL(ARG_CONTENT_TYPE))
	{
		request.content_type = text_to_cstring(PG_GETARG_TEXT_PP(ARG_CONTENT_TYPE));
		evi_headers_check_value("content-type", request.content_type, strlen(request.content_type));
	}

	if (strstr(name, "://"))
	{
		evi_url_check(name);
		request.url = name;
		request.owner_id = GetUserId();
	}
	else
	{
		EviTarget  *target = find_enabled(name);

		request.endpoint_id = target->id;
		request.owner_id = target->owner;
		request.is_signed = target->format != EVI_FORMAT_SLACK;
	}
	return evi_request_add(&request);
}

static const char *
get_method(FunctionCallInfo fcinfo)
{
	static const char *const methods[] = {"POST", "PUT", "PATCH", "DELETE", "GET"};
	char	   *method = PG_ARGISNULL(ARG_METHOD) ? "" : text_to_cstring(PG_GETARG_TEXT_PP(ARG_METHOD));

	for (int i = 0; i < lengthof(methods); i++)
		if (pg_strcasecmp(method, methods[i]) == 0)
			return methods[i];
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unrecognized value for method: \"%s\"", method),
			 errhint("Use \"POST\", \"PUT\", \"PATCH\", \"DELETE\" or \"GET\".")));
	return NULL;
}

static EviTarget *
find_enabled(const char *name)
{
	EviTarget  *target = evi_target_find_allowed(name);

	check_enabled(name, target->enabled);
	return target;
}

static void
check_enabled(const char *name, bool is_enabled)
{
	if (!is_enabled)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("endpoint \"%s\" is disabled", name),
				 errhint("Set its \"enabled\" to true.")));
}

/* Is it there, and can it be sent? An endpoint is for its present owner, whose it was before. */
static void
check_delivery(int64 id)
{
	static EviQuery select = {
		.sql = "SELECT COALESCE(p.owner_id, r.owner_id), r.endpoint_id, p.name, p.enabled FROM evinbox_internal.request r"
		" LEFT JOIN evinbox.endpoint p ON p.id OPERATOR(pg_catalog.=) r.endpoint_id"
		" WHERE r.id OPERATOR(pg_catalog.=) $1",
		.expected = SPI_OK_SELECT,
		.nargs = 1,
		.argtypes = {INT8OID},
	};
	Datum		arg = Int64GetDatum(id);
	EviSection	section;
	Oid			owner;
	bool		has_endpoint;
	bool		is_gone;
	Datum		value;
	bool		isnull;

	evi_query_open();
	evi_section_enter(&section);
	if (evi_query_run(&select, &arg, NULL, 0) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("delivery " INT64_FORMAT " does not exist", id),
				 errdetail("Deliveries are kept for evinbox.webhook_log_retention.")));
	evi_section_leave(&section);

	/* as the caller again */
	owner = DatumGetObjectId(evi_query_value(0, 1, &isnull));
	(void) evi_query_value(0, 2, &isnull);
	has_endpoint = !isnull;
	value = evi_query_value(0, 3, &isnull);
	is_gone = has_endpoint && isnull;
	if (!evi_owner_allows(owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be member of the owner of delivery " INT64_FORMAT, id)));
	if (is_gone)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the endpoint of delivery " INT64_FORMAT " does not exist any more", id)));
	if (has_endpoint)
		check_enabled(TextDatumGetCString(value), DatumGetBool(evi_query_value(0, 4, &isnull)));
	evi_query_close();
}
