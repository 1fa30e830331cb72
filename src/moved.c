/*-------------------------------------------------------------------------
 *
 * moved.c
 *		Rows that an UPDATE moves from one partition to another.
 *
 * To triggers, such an UPDATE is a DELETE there and an INSERT here, one right
 * after the other. What the first has seen waits for the second, which belongs
 * to it if it is of the same command: both rows say which one it was.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/partition.h"
#include "catalog/pg_class.h"
#include "nodes/pg_list.h"
#include "storage/proc.h"
#include "utils/datum.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "compat.h"
#include "moved.h"

typedef struct Moved
{
	struct Moved *next;
	MemoryContext context;		/* it is in */
	Oid			root;			/* the tracked table */
	const char *action;
	TransactionId xid;
	CommandId	cid;
	EviRow		row;
} Moved;

static Moved *all_moved = NULL;
static LocalTransactionId moved_lxid = InvalidLocalTransactionId;

static Moved *take_moved(Oid root, const char *action);
static Oid	root_of(Relation rel);

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
evi_moved_note(TriggerData *trigger, const char *action, const EviRow *row,
			   const EviColumn *columns, int ncolumns)
{
	MemoryContext context = AllocSetContextCreate(TopTransactionContext, "evinbox moved row",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext former = MemoryContextSwitchTo(context);
	HeapTupleHeader header = trigger->tg_trigtuple->t_data;
	Moved	   *moved = palloc(sizeof(Moved));
	Moved	   *stale;

	moved->context = context;
	moved->root = root_of(trigger->tg_relation);
	moved->action = pstrdup(action);
	moved->xid = HeapTupleHeaderGetUpdateXid(header);
	moved->cid = HeapTupleHeaderGetCmax(header);
	moved->row.values = palloc(sizeof(Datum) * ncolumns);
	moved->row.isnull = palloc(sizeof(bool) * ncolumns);
	for (int i = 0; i < ncolumns; i++)
	{
		moved->row.isnull[i] = row->isnull[i];
		moved->row.values[i] = row->isnull[i] ? (Datum) 0 :
			datumCopy(row->values[i], columns[i].is_byval, columns[i].length);
	}

	/* what still waits will not be fetched any more: a trigger has dropped the INSERT */
	stale = take_moved(moved->root, moved->action);
	if (stale)
		MemoryContextDelete(stale->context);
	moved->next = all_moved;
	all_moved = moved;
	MemoryContextSwitchTo(former);
}

/* The row that an INSERT brings from another partition, as it was. */
EviRow *
evi_moved_find(TriggerData *trigger, const char *action)
{
	HeapTupleHeader header = trigger->tg_trigtuple->t_data;
	Moved	   *moved;

	if (moved_lxid != EVI_MY_LXID || !all_moved || !trigger->tg_trigger->tgisclone ||
		trigger->tg_relation->rd_rel->relkind != RELKIND_RELATION)
		return NULL;
	moved = take_moved(root_of(trigger->tg_relation), action);
	if (!moved)
		return NULL;

	/* it is no longer needed than the rest of what is made for this row */
	MemoryContextSetParent(moved->context, CurrentMemoryContext);
	return moved->xid == HeapTupleHeaderGetXmin(header) &&
		moved->cid == HeapTupleHeaderGetCmin(header) ? &moved->row : NULL;
}

static Moved *
take_moved(Oid root, const char *action)
{
	/* the rows of a former transaction went with it */
	if (moved_lxid != EVI_MY_LXID)
	{
		moved_lxid = EVI_MY_LXID;
		all_moved = NULL;
	}
	for (Moved **link = &all_moved; *link; link = &(*link)->next)
	{
		Moved	   *moved = *link;

		if (moved->root != root || strcmp(moved->action, action) != 0)
			continue;
		*link = moved->next;
		return moved;
	}
	return NULL;
}

static Oid
root_of(Relation rel)
{
	List	   *ancestors = get_partition_ancestors(RelationGetRelid(rel));

	return ancestors == NIL ? RelationGetRelid(rel) : llast_oid(ancestors);
}
