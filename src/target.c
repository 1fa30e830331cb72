/*-------------------------------------------------------------------------
 *
 * target.c
 *		Endpoints, for whoever has something to send.
 *
 * They are read without grants and row-level security. Who may have what is
 * the callers' business.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "evinbox.h"
#include "owner.h"
#include "query.h"
#include "relation.h"
#include "target.h"

static const char *const formats[EVI_FORMATS] = {
	[EVI_FORMAT_STANDARD] = "standard",
	[EVI_FORMAT_CLOUDEVENTS] = "cloudevents",
	[EVI_FORMAT_SLACK] = "slack",
};

static EviTarget *find(const char *name);
static EviTarget *require(const char *name);
static EviFormat format_of(Datum name);

bool
evi_format_parse(const char *name, EviFormat *format)
{
	for (int i = 0; i < EVI_FORMATS; i++)
		if (strcmp(name, formats[i]) == 0)
		{
			*format = i;
			return true;
		}
	return false;
}

/* NULL if there is none of that name */
static EviTarget *
find(const char *name)
{
	ScanKeyData key;
	EviScan		scan;
	HeapTuple	tuple;
	EviTarget  *result = NULL;

	ScanKeyInit(&key, Anum_endpoint_name, BTEqualStrategyNumber, F_TEXTEQ,
				CStringGetTextDatum(name));
	evi_scan_begin(&scan, EVI_ENDPOINT, GetActiveSnapshot(), 1, &key);
	tuple = evi_scan_next(&scan, ForwardScanDirection);
	if (tuple)
	{
		Datum		values[Natts_endpoint];
		bool		isnull[Natts_endpoint];

		evi_relation_deform(EVI_ENDPOINT, tuple, RelationGetDescr(scan.table), values, isnull);
		result = palloc(sizeof(EviTarget));
		result->id = DatumGetInt32(values[Anum_endpoint_id - 1]);
		result->name = pstrdup(name);
		result->owner = DatumGetObjectId(values[Anum_endpoint_owner_id - 1]);
		result->format = format_of(values[Anum_endpoint_format - 1]);
		result->template = isnull[Anum_endpoint_template - 1] ? NULL :
			TextDatumGetCString(values[Anum_endpoint_template - 1]);
		result->enabled = DatumGetBool(values[Anum_endpoint_enabled - 1]);
	}
	evi_scan_end(&scan);
	return result;
}

/* one that the caller may use by hand */
EviTarget *
evi_target_find_allowed(const char *name)
{
	EviTarget  *target = require(name);

	if (!evi_owner_allows(target->owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be member of the owner of endpoint \"%s\"", name)));
	return target;
}

/* one that a rule of the current user's may send to */
EviTarget *
evi_target_find_own(const char *name)
{
	EviTarget  *target = require(name);

	if (target->owner != GetUserId())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("endpoint \"%s\" belongs to another role than the rule", name),
				 errhint("Rules send to endpoints of their own owner only.")));
	return target;
}

static EviTarget *
require(const char *name)
{
	EviTarget  *target = find(name);

	if (!target)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("endpoint \"%s\" does not exist", name)));
	return target;
}

/* the enabled ones of a role that want such an event, in the order of their names */
List *
evi_targets_of(Oid owner, const char *scope, const char *subject_type, const char *action)
{
	static EviQuery select = {
		.sql = "SELECT p.id, p.name, p.format, p.template FROM evinbox.endpoint p"
		" WHERE p.owner_id OPERATOR(pg_catalog.=) $1 AND p.enabled"
		" AND (p.scope IS NULL OR p.scope OPERATOR(pg_catalog.=) $2)"
		" AND (p.subject_types IS NULL OR $3 OPERATOR(pg_catalog.=) ANY (p.subject_types))"
		" AND (p.actions IS NULL OR $4 OPERATOR(pg_catalog.=) ANY (p.actions))"
		" ORDER BY p.name",
		.expected = SPI_OK_SELECT,
		.nargs = 4,
		.argtypes = {OIDOID, TEXTOID, TEXTOID, TEXTOID},
	};
	MemoryContext context = CurrentMemoryContext;
	Datum		args[] = {ObjectIdGetDatum(owner), scope ? CStringGetTextDatum(scope) : (Datum) 0,
	CStringGetTextDatum(subject_type), CStringGetTextDatum(action)};
	EviSection	section;
	List	   *result = NIL;
	uint64		count;
	MemoryContext former;

	evi_query_open();
	evi_section_enter(&section);
	count = evi_query_run(&select, args, scope ? NULL : " n  ", 0);
	former = MemoryContextSwitchTo(context);
	for (uint64 i = 0; i < count; i++)
	{
		EviTarget  *target = palloc(sizeof(EviTarget));
		bool		isnull;
		Datum		template;

		target->id = DatumGetInt32(evi_query_value(i, 1, &isnull));
		target->name = TextDatumGetCString(evi_query_value(i, 2, &isnull));
		target->owner = owner;
		target->format = format_of(evi_query_value(i, 3, &isnull));
		template = evi_query_value(i, 4, &isnull);
		target->template = isnull ? NULL : TextDatumGetCString(template);
		target->enabled = true;
		result = lappend(result, target);
	}
	MemoryContextSwitchTo(former);
	evi_section_leave(&section);
	evi_query_close();
	return result;
}

static EviFormat
format_of(Datum name)
{
	EviFormat	result;

	if (!evi_format_parse(TextDatumGetCString(name), &result))
		elog(ERROR, "unrecognized format: \"%s\"", TextDatumGetCString(name));
	return result;
}
