/*-------------------------------------------------------------------------
 *
 * added.h
 *		What others have added to evinbox.event: indexes, generated columns,
 *		constraints.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_ADDED_H
#define EVI_ADDED_H

#include "access/htup.h"
#include "nodes/execnodes.h"
#include "utils/rel.h"

/* a partition, with what of it is open meanwhile */
typedef struct EviAdded
{
	EState	   *estate;
	ResultRelInfo *info;
	TupleTableSlot *slot;
} EviAdded;

extern void evi_added_begin(EviAdded *added, Relation rel);
extern void evi_added_index(EviAdded *added, HeapTuple tuple);
extern void evi_added_replace(EviAdded *added, ItemPointer tid, HeapTuple tuple);
extern void evi_added_reset(EviAdded *added);
extern void evi_added_end(EviAdded *added);

#endif							/* EVI_ADDED_H */
