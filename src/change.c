/*-------------------------------------------------------------------------
 *
 * change.c
 *		Columns of a tracked table: is a value another one, and what is it as
 *		JSON?
 *
 * The functions of types may be a user's: all of this runs as whoever writes to
 * the table.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "nodes/makefuncs.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/numeric.h"

#include "change.h"

/* what values are made text by, if it is to be the same in every session */
static const struct
{
	const char *name;
	const char *value;
}			fixed_settings[] = {
	{"bytea_output", "hex"},
	{"datestyle", "ISO, MDY"},
	{"extra_float_digits", "1"},
	{"intervalstyle", "postgres"},
	{"lc_monetary", "C"},
	{"timezone", "UTC"},
};

static EviJsonKind json_kind(Oid type);
static bool depends_on_settings(Oid type);

void
evi_column_describe(EviColumn *column, TupleDesc desc, AttrNumber attno, MemoryContext context)
{
	Form_pg_attribute attribute = TupleDescAttr(desc, attno - 1);

	column->attno = attno;
	column->name = attribute->attname;
	column->length = attribute->attlen;
	column->is_byval = attribute->attbyval;
	column->collation = attribute->attcollation;
	column->type = lookup_type_cache(attribute->atttypid, TYPECACHE_EQ_OPR_FINFO);
	column->kind = json_kind(getBaseType(attribute->atttypid));
	column->depends_on_settings = depends_on_settings(getBaseType(attribute->atttypid));
	if (column->kind == EVI_JSON_GENERAL)
		evi_to_jsonb_prepare(&column->to_jsonb, attribute->atttypid, context);
}

/*
 * If what some of the columns look like depends on a session's settings, these
 * are as we want them until evi_column_restore_settings(), or the end of the
 * transaction. Returns the level for that.
 */
int
evi_column_fix_settings(const EviColumn *columns, int ncolumns)
{
	bool		is_needed = false;
	int			level;

	for (int i = 0; i < ncolumns; i++)
		is_needed |= columns[i].depends_on_settings;
	if (!is_needed)
		return 0;

	level = NewGUCNestLevel();
	for (int i = 0; i < lengthof(fixed_settings); i++)
		if (strcmp(GetConfigOption(fixed_settings[i].name, false, false),
				   fixed_settings[i].value) != 0)
			(void) set_config_option(fixed_settings[i].name, fixed_settings[i].value,
									 PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	return level;
}

void
evi_column_restore_settings(int level)
{
	if (level > 0)
		AtEOXact_GUC(true, level);
}

/*
 * Is one distinct from the other? A type's equality is that of its default
 * operator class; a type without one, such as json, has that of its bytes. What
 * is the same to the byte need not be fetched to be compared.
 */
bool
evi_column_differs(EviColumn *column, Datum a, bool a_isnull, Datum b, bool b_isnull)
{
	if (a_isnull || b_isnull)
		return a_isnull != b_isnull;
	if (datumIsEqual(a, b, column->is_byval, column->length))
		return false;
	if (OidIsValid(column->type->eq_opr_finfo.fn_oid))
		return !DatumGetBool(FunctionCall2Coll(&column->type->eq_opr_finfo,
											   column->collation, a, b));
	return !datum_image_eq(a, b, column->is_byval, column->length);
}

/* the same as to_jsonb() makes of it */
void
evi_column_to_json(EviColumn *column, Datum value, bool isnull, JsonbValue *result)
{
	text	   *string;
	Jsonb	   *json;

	if (isnull)
	{
		result->type = jbvNull;
		return;
	}
	switch (column->kind)
	{
		case EVI_JSON_TEXT:
			string = DatumGetTextPP(value);
			result->type = jbvString;
			result->val.string.val = VARDATA_ANY(string);
			result->val.string.len = VARSIZE_ANY_EXHDR(string);
			break;
		case EVI_JSON_INT2:
			result->type = jbvNumeric;
			result->val.numeric = int64_to_numeric(DatumGetInt16(value));
			break;
		case EVI_JSON_INT4:
			result->type = jbvNumeric;
			result->val.numeric = int64_to_numeric(DatumGetInt32(value));
			break;
		case EVI_JSON_INT8:
			result->type = jbvNumeric;
			result->val.numeric = int64_to_numeric(DatumGetInt64(value));
			break;
		case EVI_JSON_BOOL:
			result->type = jbvBool;
			result->val.boolean = DatumGetBool(value);
			break;
		case EVI_JSON_GENERAL:
			json = DatumGetJsonbP(FunctionCall1(&column->to_jsonb, value));
			result->type = jbvBinary;
			result->val.binary.data = &json->root;
			result->val.binary.len = VARSIZE(json) - VARHDRSZ;
			break;
	}
}

/* What it is as JSON, without quotes. */
text *
evi_column_to_text(EviColumn *column, Datum value)
{
	JsonbValue	json;
	JsonbValue	scalar;

	switch (column->kind)
	{
		case EVI_JSON_TEXT:
			return DatumGetTextPP(value);
		case EVI_JSON_INT2:
			return cstring_to_text(psprintf("%d", DatumGetInt16(value)));
		case EVI_JSON_INT4:
			return cstring_to_text(psprintf("%d", DatumGetInt32(value)));
		case EVI_JSON_INT8:
			return cstring_to_text(psprintf(INT64_FORMAT, DatumGetInt64(value)));
		case EVI_JSON_BOOL:
			return cstring_to_text(DatumGetBool(value) ? "true" : "false");
		case EVI_JSON_GENERAL:
			break;
	}
	evi_column_to_json(column, value, false, &json);
	if (JsonbExtractScalar(json.val.binary.data, &scalar) && scalar.type == jbvString)
		return cstring_to_text_with_len(scalar.val.string.val, scalar.val.string.len);
	return cstring_to_text(JsonbToCString(NULL, json.val.binary.data, json.val.binary.len));
}

/* It asks its call for the type of its argument. */
void
evi_to_jsonb_prepare(FmgrInfo *function, Oid type, MemoryContext context)
{
	MemoryContext former = MemoryContextSwitchTo(context);
	Param	   *param = makeNode(Param);

	param->paramkind = PARAM_EXTERN;
	param->paramid = 1;
	param->paramtype = type;
	param->paramtypmod = -1;
	param->location = -1;
	fmgr_info_cxt(F_TO_JSONB, function, context);
	fmgr_info_set_expr((Node *) makeFuncExpr(F_TO_JSONB, JSONBOID, list_make1(param), InvalidOid,
											 InvalidOid, COERCE_EXPLICIT_CALL), function);
	MemoryContextSwitchTo(former);
}

static EviJsonKind
json_kind(Oid type)
{
	switch (type)
	{
		case TEXTOID:
		case VARCHAROID:
			return EVI_JSON_TEXT;
		case INT2OID:
			return EVI_JSON_INT2;
		case INT4OID:
			return EVI_JSON_INT4;
		case INT8OID:
			return EVI_JSON_INT8;
		case BOOLOID:
			return EVI_JSON_BOOL;
		default:
			return EVI_JSON_GENERAL;
	}
}

/* In JSON, dates and times are ISO 8601, whatever DateStyle is. Enums may have casts to it. */
static bool
depends_on_settings(Oid type)
{
	switch (type)
	{
		case BOOLOID:
		case BPCHAROID:
		case CHAROID:
		case DATEOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case JSONBOID:
		case JSONOID:
		case NAMEOID:
		case NUMERICOID:
		case OIDOID:
		case TEXTOID:
		case TIMESTAMPOID:
		case UUIDOID:
		case VARCHAROID:
			return false;
		default:
			return true;
	}
}
