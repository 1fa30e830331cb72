/*-------------------------------------------------------------------------
 *
 * dispatch.h
 *		Handling events: batches, effects and cursors.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_DISPATCH_H
#define EVI_DISPATCH_H

#include "delivery.h"
#include "progress.h"

typedef enum EviStep
{
	EVI_STEP_DONE,				/* went on */
	EVI_STEP_LOCKED,			/* somebody else has the inbox */
	EVI_STEP_MOVED,				/* somebody else had it: the cursor was read anew */
	EVI_STEP_HALTED				/* the rule does not work */
} EviStep;

extern EviStep evi_dispatch_batch(EviProgress *progress, bool in_worker, int most, int64 *handled);
extern EviStep evi_dispatch_retry(EviProgress *progress, bool in_worker, const EviDue *due,
								  int64 *handled);
extern bool evi_dispatch_store(EviProgress *progress);

#endif							/* EVI_DISPATCH_H */
