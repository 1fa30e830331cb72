/*-------------------------------------------------------------------------
 *
 * added.c
 *		What others have added to evinbox.event: indexes, generated columns,
 *		constraints.
 *
 * Rows are stored without the executor's plan nodes, but not without its way to
 * heed what a table has, which is to evaluate expressions as the caller. No
 * privilege on the table is asked for.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "executor/executor.h"
#include "executor/nodeModifyTable.h"

#include "added.h"
#include "compat.h"

static HeapTuple complete(EviAdded *added, HeapTuple tuple);

void
evi_added_begin(EviAdded *added, Relation rel)
{
	added->estate = CreateExecutorState();
	added->info = makeNode(ResultRelInfo);
	added->slot = MakeSingleTupleTableSlot(RelationGetDescr(rel), &TTSOpsHeapTuple);
	InitResultRelInfo(added->info, rel, 0, NULL, 0);
	ExecOpenIndices(added->info, false);
}

/* Puts a row that has been inserted into all indexes. */
void
evi_added_index(EviAdded *added, HeapTuple tuple)
{
	ExecStoreHeapTuple(tuple, added->slot, false);
	added->slot->tts_tableOid = tuple->t_tableOid;
	list_free(evi_insert_index_tuples(added->info, added->slot, added->estate, TU_All));
}

/* Puts a row in the place of another one, with columns generated anew. */
void
evi_added_replace(EviAdded *added, ItemPointer tid, HeapTuple tuple)
{
	TU_UpdateIndexes which;

	tuple = complete(added, tuple);
	evi_heap_update(added->info->ri_RelationDesc, tid, tuple, &which);
	added->slot->tts_tid = tuple->t_self;
	if (which != TU_None)
		list_free(evi_insert_index_tuples(added->info, added->slot, added->estate, which));
}

/* Forgets about the row; what came of it is of no use from then on. */
void
evi_added_reset(EviAdded *added)
{
	ExecClearTuple(added->slot);
	ResetPerTupleExprContext(added->estate);
}

void
evi_added_end(EviAdded *added)
{
	ExecCloseIndices(added->info);
	ExecDropSingleTupleTableSlot(added->slot);
	FreeExecutorState(added->estate);
}

static HeapTuple
complete(EviAdded *added, HeapTuple tuple)
{
	Relation	rel = added->info->ri_RelationDesc;
	TupleConstr *constraints = RelationGetDescr(rel)->constr;

	ExecStoreHeapTuple(tuple, added->slot, false);
	added->slot->tts_tableOid = RelationGetRelid(rel);
	if (constraints && constraints->has_generated_stored)
	{
		/* all of them: what they are made of is not asked for */
		ExecComputeStoredGenerated(added->info, added->estate, added->slot, CMD_INSERT);
		tuple = ExecFetchSlotHeapTuple(added->slot, true, NULL);
	}
	if (constraints)
		ExecConstraints(added->info, added->slot, added->estate);
	return tuple;
}
