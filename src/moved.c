/*-------------------------------------------------------------------------
 *
 * moved.c
 *		Rows that an UPDATE moves from one partition to another.
 *
 * To triggers, such an UPDATE is a DELETE there and an INSERT here, one right
 * after the other. What the first has seen waits for the second, which belongs
 * to it if it is of the same command: both rows say which one it was. Meanwhile
 * another trigger may move other rows, by commands of its own.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_class.h"
#include "storage/proc.h"
#include "utils/datum.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "capture.h"
#include "compat.h"
#include "moved.h"

typedef struct Moved
{
	struct Moved *next;
	MemoryContext context;		/* it is in */
	const char *table;			/* these two are of the pair of triggers */
	const char *action;
	int			depth;			/* of triggers within triggers */
	TransactionId xid;
	CommandId	cid;
	int			ncolumns;
	Oid		   *types;
	EviChangeRow row;
} Moved;

static Moved *all_moved = NULL;
static LocalTransactionId moved_lxid = InvalidLocalTransactionId;

static Moved *copy_row(TriggerData *trigger, const EviChangeRow *row, const EviColumn *columns,
					   int ncolumns);
static Moved **find_moved(Trigger *trigger, int depth);
static bool fits(const Moved *moved, const EviColumn *columns, int ncolumns);
static int	get_depth(void);

/*
 * Has the row of a DELETE gone to another partition? It says so itself. Only
 * triggers that a partition has from its parent see both.
 */
bool
evi_moved_is_away(TriggerData *trigger)
{
	return trigger->tg_trigger->tgisclone &&
		trigger->tg_relation->rd_rel->relkind == RELKIND_RELATION &&
		HeapTupleHeaderIndicatesMovedPartitions(trigger->tg_trigtuple->t_data);
}

void
evi_moved_note(TriggerData *trigger, const EviChangeRow *row, const EviColumn *columns, int ncolumns)
{
	Moved	   *moved = copy_row(trigger, row, columns, ncolumns);
	Moved	  **stale;

	/* the rows of a former transaction went with it */
	if (moved_lxid != EVI_MY_LXID)
	{
		moved_lxid = EVI_MY_LXID;
		all_moved = NULL;
	}

	/*
	 * What still waits at this depth will not be fetched any more: a trigger has
	 * dropped the INSERT. What waits above does so for a command that goes on.
	 */
	stale = find_moved(trigger->tg_trigger, moved->depth);
	if (stale)
	{
		Moved	   *former = *stale;

		*stale = former->next;
		MemoryContextDelete(former->context);
	}
	moved->next = all_moved;
	all_moved = moved;
}

/* The row that an INSERT brings from another partition, as it was. */
EviChangeRow *
evi_moved_find(TriggerData *trigger, const EviColumn *columns, int ncolumns)
{
	HeapTupleHeader header = trigger->tg_trigtuple->t_data;
	Moved	  **link;
	Moved	   *moved;

	if (moved_lxid != EVI_MY_LXID || !all_moved || !trigger->tg_trigger->tgisclone ||
		trigger->tg_relation->rd_rel->relkind != RELKIND_RELATION)
		return NULL;
	link = find_moved(trigger->tg_trigger, get_depth());
	if (!link)
		return NULL;
	moved = *link;
	if (moved->xid != HeapTupleHeaderGetXmin(header) ||
		moved->cid != HeapTupleHeaderGetCmin(header) || !fits(moved, columns, ncolumns))
		return NULL;

	/* it is no longer needed than the rest of what is made for this row */
	*link = moved->next;
	MemoryContextSetParent(moved->context, CurrentMemoryContext);
	return &moved->row;
}

static Moved *
copy_row(TriggerData *trigger, const EviChangeRow *row, const EviColumn *columns, int ncolumns)
{
	MemoryContext context = AllocSetContextCreate(TopTransactionContext, "evinbox moved row",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext former = MemoryContextSwitchTo(context);
	HeapTupleHeader header = trigger->tg_trigtuple->t_data;
	Moved	   *moved = palloc(sizeof(Moved));

	moved->context = context;
	moved->table = pstrdup(trigger->tg_trigger->tgargs[EVI_CAPTURE_TABLE]);
	moved->action = pstrdup(trigger->tg_trigger->tgargs[EVI_CAPTURE_ACTION]);
	moved->depth = get_depth();
	moved->xid = HeapTupleHeaderGetUpdateXid(header);
	moved->cid = HeapTupleHeaderGetCmax(header);
	moved->ncolumns = ncolumns;
	moved->types = palloc(sizeof(Oid) * ncolumns);
	moved->row.values = palloc(sizeof(Datum) * ncolumns);
	moved->row.isnull = palloc(sizeof(bool) * ncolumns);
	for (int i = 0; i < ncolumns; i++)
	{
		moved->types[i] = columns[i].type->type_id;
		moved->row.isnull[i] = row->isnull[i];
		moved->row.values[i] = row->isnull[i] ? (Datum) 0 :
			datumCopy(row->values[i], columns[i].is_byval, columns[i].length);
	}
	MemoryContextSwitchTo(former);
	return moved;
}

/* A pair has at most one at each depth: there, commands run one after the other. */
static Moved **
find_moved(Trigger *trigger, int depth)
{
	for (Moved **link = &all_moved; *link; link = &(*link)->next)
		if ((*link)->depth == depth &&
			strcmp((*link)->table, trigger->tgargs[EVI_CAPTURE_TABLE]) == 0 &&
			strcmp((*link)->action, trigger->tgargs[EVI_CAPTURE_ACTION]) == 0)
			return link;
	return NULL;
}

/* What the triggers say must not be trusted to read memory by. */
static bool
fits(const Moved *moved, const EviColumn *columns, int ncolumns)
{
	if (moved->ncolumns != ncolumns)
		return false;
	for (int i = 0; i < ncolumns; i++)
		if (moved->types[i] != columns[i].type->type_id)
			return false;
	return true;
}

static int
get_depth(void)
{
	return DatumGetInt32(DirectFunctionCall1(pg_trigger_depth, (Datum) 0));
}
