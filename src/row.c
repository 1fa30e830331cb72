/*-------------------------------------------------------------------------
 *
 * row.c
 *		Rows of somebody's, rules and endpoints, as they are about to be written.
 *
 * What is asked of both: that values are within bounds, and that nobody writes
 * a row for a role that he could not become. An owner is given by name, and
 * kept by OID; see owner.c.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/htup_details.h"
#include "access/sysattr.h"
#include "nodes/bitmapset.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "owner.h"
#include "row.h"

static char *owner_name(const EviRow *row);
static const char *column_name(const EviRow *row, int attno);
static bool names_owner(const TriggerData *trigger, const EviRow *new, const EviRow *old);

void
evi_row_read(EviRow *row, const EviRowKind *kind, HeapTuple tuple, TupleDesc desc)
{
	row->kind = kind;
	row->desc = desc;
	row->values = palloc(sizeof(Datum) * kind->natts);
	row->isnull = palloc(sizeof(bool) * kind->natts);
	for (int i = 0; i < kind->natts; i++)
		row->values[i] = heap_getattr(tuple, i + 1, desc, &row->isnull[i]);

	/* these have a default, and no meaning without a value */
	for (int i = 0; i < kind->natts; i++)
		if (row->isnull[i] && TupleDescAttr(desc, i)->attnotnull)
			ereport(ERROR,
					(errcode(ERRCODE_NOT_NULL_VIOLATION),
					 errmsg("\"%s\" of %s must not be null", column_name(row, i + 1), kind->a_row)));
}

/* NULL for a null */
char *
evi_row_text(const EviRow *row, int attno)
{
	return row->isnull[attno - 1] ? NULL : TextDatumGetCString(row->values[attno - 1]);
}

int
evi_row_int(const EviRow *row, int attno)
{
	return DatumGetInt32(row->values[attno - 1]);
}

bool
evi_row_same_text(const EviRow *a, const EviRow *b, int attno)
{
	char	   *left = evi_row_text(a, attno);
	char	   *right = evi_row_text(b, attno);

	return left && right ? strcmp(left, right) == 0 : left == right;
}

/* the bytes of some columns of variable length */
Size
evi_row_size(const EviRow *row, const int *attnos, int count)
{
	Size		size = 0;

	for (int i = 0; i < count; i++)
		if (!row->isnull[attnos[i] - 1])
			size += toast_raw_datum_size(row->values[attnos[i] - 1]);
	return size;
}

/* of names; null stands for all there are */
void
evi_row_check_list(const EviRow *row, int attno)
{
	ArrayType  *array;

	if (row->isnull[attno - 1])
		return;
	array = DatumGetArrayTypeP(row->values[attno - 1]);
	if (ARR_NDIM(array) != 1 || array_contains_nulls(array))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be a list of at least one name", column_name(row, attno)),
				 errhint("Use null for all.")));
}

void
evi_row_check_limits(const EviRow *row, const EviLimit *limits, int count)
{
	for (int i = 0; i < count; i++)
	{
		int			value = evi_row_int(row, limits[i].attno);

		if (!row->isnull[limits[i].attno - 1] &&
			(value < limits[i].least || value > limits[i].most))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("%s must be between %d and %d", column_name(row, limits[i].attno),
							limits[i].least, limits[i].most)));
	}
}

void
evi_row_check_interval(const EviRow *row, int attno)
{
	Datum		value = row->values[attno - 1];
	Interval	zero = {0};
	Interval	most = {.month = 12};

	if (DatumGetBool(DirectFunctionCall2(interval_lt, value, IntervalPGetDatum(&zero))) ||
		DatumGetBool(DirectFunctionCall2(interval_gt, value, IntervalPGetDatum(&most))))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must be between 0 and 1 year", column_name(row, attno))));
}

Oid
evi_row_owner(const EviRow *row)
{
	return DatumGetObjectId(row->values[row->kind->owner_id - 1]);
}

static char *
owner_name(const EviRow *row)
{
	return NameStr(*DatumGetName(row->values[row->kind->owner - 1]));
}

void
evi_row_check_no_owner_id(const EviRow *row)
{
	if (OidIsValid(evi_row_owner(row)))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("owner_id of %s cannot be given", row->kind->a_row),
				 errhint("A dump is restored by COPY: use pg_dump without --inserts.")));
}

/* Whose it is to be, from now on held until the end of the transaction; old is NULL for a new one. */
Oid
evi_row_find_owner(const TriggerData *trigger, const EviRow *new, const EviRow *old)
{
	Oid			owner;

	if (old && !names_owner(trigger, new, old))
		return evi_row_owner(old);
	owner = get_role_oid(owner_name(new), false);
	if (!old || owner != evi_row_owner(old))
		evi_owner_hold(owner);
	return owner;
}

/*
 * Does an update say whose the row is to be? Not if it writes the same name
 * again: the owner may have been renamed since, and another role be called so.
 */
static bool
names_owner(const TriggerData *trigger, const EviRow *new, const EviRow *old)
{
	if (!bms_is_member(new->kind->owner - FirstLowInvalidHeapAttributeNumber,
					   trigger->tg_updatedcols))
		return false;
	return !evi_owner_exists(evi_row_owner(old)) ||
		strcmp(owner_name(new), owner_name(old)) != 0;
}

/* one of the writer's roles */
void
evi_row_check_owner(const EviRow *row, Oid owner)
{
	if (!evi_owner_allows(owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be member of role \"%s\" to write %s %s for it",
						owner_name(row),
						strchr("aeiou", row->kind->what[0]) ? "an" : "a", row->kind->what)));
}

void
evi_row_check_rights(const EviRow *row, const char *verb)
{
	if (!evi_owner_allows(evi_row_owner(row)))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be member of role \"%s\" to %s its %s",
						owner_name(row), verb, row->kind->what)));
}

static const char *
column_name(const EviRow *row, int attno)
{
	return NameStr(TupleDescAttr(row->desc, attno - 1)->attname);
}
