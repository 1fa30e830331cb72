/*-------------------------------------------------------------------------
 *
 * change.h
 *		Columns of a tracked table: is a value another one, and what is it as
 *		JSON?
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_CHANGE_H
#define EVI_CHANGE_H

#include "access/attnum.h"
#include "access/tupdesc.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "utils/jsonb.h"
#include "utils/typcache.h"

/* how a type becomes JSON without asking to_jsonb() */
typedef enum EviJsonKind
{
	EVI_JSON_GENERAL,
	EVI_JSON_TEXT,
	EVI_JSON_INT2,
	EVI_JSON_INT4,
	EVI_JSON_INT8,
	EVI_JSON_BOOL
} EviJsonKind;

typedef struct EviColumn
{
	AttrNumber	attno;
	NameData	name;
	int16		length;			/* of the type, as in pg_type */
	bool		is_byval;
	Oid			collation;
	TypeCacheEntry *type;		/* with the function of its equality, if it has one */
	EviJsonKind kind;
	bool		depends_on_settings;	/* what it looks like */
	FmgrInfo	to_jsonb;		/* for EVI_JSON_GENERAL */
} EviColumn;

/* the values of a row's columns, in the order in which these are described */
typedef struct EviChangeRow
{
	Datum	   *values;
	bool	   *isnull;
} EviChangeRow;

extern void evi_column_describe(EviColumn *column, TupleDesc desc, AttrNumber attno,
								MemoryContext context);
extern int	evi_column_fix_settings(const EviColumn *columns, int ncolumns);
extern void evi_column_restore_settings(int level);
extern bool evi_column_differs(EviColumn *column, Datum a, bool a_isnull, Datum b, bool b_isnull);
extern void evi_column_to_json(EviColumn *column, Datum value, bool isnull, JsonbValue *result);
extern text *evi_column_to_text(EviColumn *column, Datum value);
extern void evi_to_jsonb_prepare(FmgrInfo *function, Oid type, MemoryContext context);

#endif							/* EVI_CHANGE_H */
