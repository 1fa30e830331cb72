/*-------------------------------------------------------------------------
 *
 * blank.h
 *		Events whose personal part has been blanked.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_BLANK_H
#define EVI_BLANK_H

#include "access/htup.h"
#include "access/tupdesc.h"
#include "commands/trigger.h"
#include "storage/lock.h"

/* the action of the event that tells of an erasure */
#define EVI_ERASED "erased"

extern bool evi_blank_is(HeapTuple tuple, TupleDesc desc);
extern bool evi_blank_is_erasure(HeapTuple tuple, TupleDesc desc);
extern HeapTuple evi_blank_make(HeapTuple tuple, TupleDesc desc);
extern bool evi_blank_is_replicated(const TriggerData *trigger);
extern void evi_blank_lock(LOCKMODE mode);

#endif							/* EVI_BLANK_H */
