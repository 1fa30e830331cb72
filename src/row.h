/*-------------------------------------------------------------------------
 *
 * row.h
 *		Rows of somebody's, rules and endpoints, as they are about to be written.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_ROW_H
#define EVI_ROW_H

#include "access/htup.h"
#include "access/tupdesc.h"
#include "commands/trigger.h"

/* of what table; columns are known by their numbers */
typedef struct EviRowKind
{
	const char *what;			/* "rule" */
	const char *a_row;			/* "an inbox" */
	int			natts;
	int			owner;
	int			owner_id;
} EviRowKind;

typedef struct EviRow
{
	const EviRowKind *kind;
	TupleDesc	desc;
	Datum	   *values;
	bool	   *isnull;
} EviRow;

typedef struct EviLimit
{
	int			attno;
	int			least;
	int			most;
} EviLimit;

extern void evi_row_read(EviRow *row, const EviRowKind *kind, HeapTuple tuple, TupleDesc desc);
extern char *evi_row_text(const EviRow *row, int attno);
extern int	evi_row_int(const EviRow *row, int attno);
extern bool evi_row_same_text(const EviRow *a, const EviRow *b, int attno);
extern Size evi_row_size(const EviRow *row, const int *attnos, int count);

extern void evi_row_check_list(const EviRow *row, int attno);
extern void evi_row_check_limits(const EviRow *row, const EviLimit *limits, int count);
extern void evi_row_check_interval(const EviRow *row, int attno);

extern Oid	evi_row_owner(const EviRow *row);
extern void evi_row_check_no_owner_id(const EviRow *row);
extern Oid	evi_row_find_owner(const TriggerData *trigger, const EviRow *new, const EviRow *old);
extern void evi_row_check_owner(const EviRow *row, Oid owner);
extern void evi_row_check_rights(const EviRow *row, const char *verb);

#endif							/* EVI_ROW_H */
