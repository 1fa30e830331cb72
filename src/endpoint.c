/*-------------------------------------------------------------------------
 *
 * endpoint.c
 *		SQL entry points of writing endpoints: the triggers of evinbox.endpoint.
 *
 * An endpoint that cannot be called is refused when it is written. What is not
 * changed is not looked at again: to disable one must always be possible.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/jsonb.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "evinbox.h"
#include "headers.h"
#include "owner.h"
#include "query.h"
#include "relation.h"
#include "row.h"
#include "target.h"
#include "template.h"
#include "trigger.h"
#include "url.h"
#include "wakeup.h"

#define MAX_ENDPOINTS 10000

/* couriers have them in memory */
#define MAX_ENDPOINT_BYTES (64 * 1024)

#define MAX_RETRIES 100
#define MIN_TIMEOUT_MS 10
#define MAX_TIMEOUT_MS (10 * 60 * 1000)

PG_FUNCTION_INFO_V1(evinbox_endpoint_check);
PG_FUNCTION_INFO_V1(evinbox_endpoint_check_delete);
PG_FUNCTION_INFO_V1(evinbox_endpoint_enabled);
PG_FUNCTION_INFO_V1(evinbox_endpoint_changed);

static const EviRowKind kind = {
	.what = "endpoint",
	.a_row = "an endpoint",
	.natts = Natts_endpoint,
	.owner = Anum_endpoint_owner,
	.owner_id = Anum_endpoint_owner_id,
};

static void check_values(const EviRow *row);
static void check_name(const EviRow *row);
static void check_format(const EviRow *row);
static void check_size(const EviRow *row);
static void check_times(const EviRow *row);
static void check_retries(const EviRow *row);
static void check_number(void);
static bool is_enabled(const EviRow *row);
static void forget_failures(int32 id);

/* BEFORE INSERT OR UPDATE FOR EACH ROW */
Datum
evinbox_endpoint_check(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	TupleDesc	desc;
	bool		is_update;
	HeapTuple	tuple;
	EviRow		new;
	EviRow		old;
	Oid			owner;
	int			replaced[] = {Anum_endpoint_id, Anum_endpoint_owner_id, Anum_endpoint_disabled_reason};
	Datum		replacement[lengthof(replaced)];
	bool		replacement_isnull[lengthof(replaced)] = {0};

	evi_require_trigger(fcinfo);
	desc = RelationGetDescr(trigger->tg_relation);
	is_update = TRIGGER_FIRED_BY_UPDATE(trigger->tg_event);
	tuple = is_update ? trigger->tg_newtuple : trigger->tg_trigtuple;
	evi_row_read(&new, &kind, tuple, desc);
	if (is_update)
		evi_row_read(&old, &kind, trigger->tg_trigtuple, desc);

	check_values(&new);
	if (!is_update || !evi_row_same_text(&new, &old, Anum_endpoint_url))
		evi_url_check(evi_row_text(&new, Anum_endpoint_url));
	if (!is_update)
	{
		evi_row_check_no_owner_id(&new);
		check_number();
		evi_relation_check_id(EVI_ENDPOINT_SEQ, evi_row_int(&new, Anum_endpoint_id), "an endpoint");
	}
	else
		evi_row_check_rights(&old, "change");

	owner = evi_row_find_owner(trigger, &new, is_update ? &old : NULL);
	if (!is_update || owner != evi_row_owner(&old))
		evi_row_check_owner(&new, owner);

	replacement[0] = (is_update ? &old : &new)->values[Anum_endpoint_id - 1];
	replacement[1] = ObjectIdGetDatum(owner);
	replacement[2] = new.values[Anum_endpoint_disabled_reason - 1];
	replacement_isnull[2] = is_enabled(&new) || new.isnull[Anum_endpoint_disabled_reason - 1];
	return PointerGetDatum(heap_modify_tuple_by_cols(tuple, desc, lengthof(replaced), replaced,
													 replacement, replacement_isnull));
}

/* BEFORE DELETE FOR EACH ROW */
Datum
evinbox_endpoint_check_delete(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	EviRow		row;

	evi_require_trigger(fcinfo);
	evi_row_read(&row, &kind, trigger->tg_trigtuple, RelationGetDescr(trigger->tg_relation));
	evi_row_check_rights(&row, "delete");
	return PointerGetDatum(trigger->tg_trigtuple);
}

/* AFTER UPDATE FOR EACH ROW, of one that is enabled again: as if it had not failed */
Datum
evinbox_endpoint_enabled(PG_FUNCTION_ARGS)
{
	TriggerData *trigger = (TriggerData *) fcinfo->context;
	EviRow		row;

	evi_require_trigger(fcinfo);
	evi_row_read(&row, &kind, trigger->tg_newtuple, RelationGetDescr(trigger->tg_relation));
	forget_failures(evi_row_int(&row, Anum_endpoint_id));
	return PointerGetDatum(NULL);
}

/* AFTER any change FOR EACH STATEMENT, also of secrets: couriers keep what they have read */
Datum
evinbox_endpoint_changed(PG_FUNCTION_ARGS)
{
	evi_require_trigger(fcinfo);
	CacheInvalidateRelcache(((TriggerData *) fcinfo->context)->tg_relation);
	evi_wakeup_courier();
	return PointerGetDatum(NULL);
}

static void
check_values(const EviRow *row)
{
	static const EviLimit limits[] = {
		{Anum_endpoint_max_in_flight, 1, 1000},
		{Anum_endpoint_rate, 1, 1000000},
		{Anum_endpoint_max_attempts, 1, 1000},
	};

	check_name(row);
	evi_row_check_list(row, Anum_endpoint_subject_types);
	evi_row_check_list(row, Anum_endpoint_actions);
	check_format(row);
	evi_headers_check(DatumGetJsonbP(row->values[Anum_endpoint_headers - 1]), true);
	evi_row_check_limits(row, limits, lengthof(limits));
	check_times(row);
	check_retries(row);
	check_size(row);
}

/* It must not be taken for a URL, by http_request(). */
static void
check_name(const EviRow *row)
{
	char	   *name = evi_row_text(row, Anum_endpoint_name);

	if (name[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("name of an endpoint must not be empty")));
	if (strstr(name, "://"))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("name of an endpoint must not have \"://\" in it")));
}

static void
check_format(const EviRow *row)
{
	char	   *name = evi_row_text(row, Anum_endpoint_format);
	char	   *template = evi_row_text(row, Anum_endpoint_template);
	EviFormat	format;

	if (!evi_format_parse(name, &format))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unrecognized value for format: \"%s\"", name),
				 errhint("Use \"standard\", \"cloudevents\" or \"slack\".")));
	if (template && format != EVI_FORMAT_SLACK)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("only format \"slack\" takes a template")));
	if (template && !evi_template_is_valid(template))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("template is not valid"),
				 errdetail("It has a %%{ that is not the beginning of %%{key} or %%{key|otherwise}."),
				 errhint("Write %%%% for %%.")));
}

static void
check_size(const EviRow *row)
{
	static const int attnos[] = {Anum_endpoint_name, Anum_endpoint_url, Anum_endpoint_scope,
		Anum_endpoint_subject_types, Anum_endpoint_actions, Anum_endpoint_template,
	Anum_endpoint_headers, Anum_endpoint_disabled_reason};
	Size		size = evi_row_size(row, attnos, lengthof(attnos));

	if (size > MAX_ENDPOINT_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("endpoint is too large"),
				 errdetail("It takes %zu bytes, and may take %d.", size, MAX_ENDPOINT_BYTES)));
}

static void
check_times(const EviRow *row)
{
	Interval   *timeout = DatumGetIntervalP(row->values[Anum_endpoint_timeout - 1]);
	Interval   *rate_per = DatumGetIntervalP(row->values[Anum_endpoint_rate_per - 1]);

	if (timeout->month != 0 || timeout->day != 0 || timeout->time < MIN_TIMEOUT_MS * INT64CONST(1000) ||
		timeout->time > MAX_TIMEOUT_MS * INT64CONST(1000))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("timeout of an endpoint must be between 10 milliseconds and 10 minutes")));
	if (rate_per->month != 0 || rate_per->day < 0 || rate_per->day > 1 ||
		rate_per->day * USECS_PER_DAY + rate_per->time < 1000 ||
		rate_per->day * USECS_PER_DAY + rate_per->time > USECS_PER_DAY)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("rate_per must be between 1 millisecond and 1 day")));
	evi_row_check_interval(row, Anum_endpoint_rotation);
	evi_row_check_interval(row, Anum_endpoint_disable_after);
}

static void
check_retries(const EviRow *row)
{
	ArrayType  *array = DatumGetArrayTypeP(row->values[Anum_endpoint_retries - 1]);
	Interval	zero = {0};
	Interval	most = {.day = 30};
	Datum	   *waits;
	int			count;

	if (ARR_NDIM(array) != 1 || array_contains_nulls(array))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("retries must be a list of at least one interval")));
	deconstruct_array(array, INTERVALOID, sizeof(Interval), false, TYPALIGN_DOUBLE,
					  &waits, NULL, &count);
	if (count > MAX_RETRIES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("retries must not have more than %d intervals", MAX_RETRIES),
				 errhint("The last one is repeated.")));
	for (int i = 0; i < count; i++)
		if (DatumGetBool(DirectFunctionCall2(interval_lt, waits[i], IntervalPGetDatum(&zero))) ||
			DatumGetBool(DirectFunctionCall2(interval_gt, waits[i], IntervalPGetDatum(&most))))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("intervals of retries must be between 0 and 30 days")));
}

static void
check_number(void)
{
	if (evi_relation_count(EVI_ENDPOINT, SnapshotSelf) >= MAX_ENDPOINTS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("cannot have more than %d endpoints", MAX_ENDPOINTS),
				 errhint("Use http_request() with the URL.")));
}

static bool
is_enabled(const EviRow *row)
{
	return DatumGetBool(row->values[Anum_endpoint_enabled - 1]);
}

static void
forget_failures(int32 id)
{
	static EviQuery delete = {
		.sql = "DELETE FROM evinbox_internal.endpoint_state s"
		" WHERE s.endpoint_id OPERATOR(pg_catalog.=) $1",
		.expected = SPI_OK_DELETE,
		.nargs = 1,
		.argtypes = {INT4OID},
	};
	Datum		arg = Int32GetDatum(id);

	(void) evi_query_run_alone(&delete, &arg, NULL);
}
