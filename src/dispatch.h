/*-------------------------------------------------------------------------
 *
 * dispatch.h
 *		Handling events: batches, effects and cursors.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_DISPATCH_H
#define EVI_DISPATCH_H

#include "setback.h"

extern EviStep evi_dispatch_batch(EviProgress *progress, bool in_worker, int64 most,
								  int64 *handled);
extern EviStep evi_dispatch_retry(EviProgress *progress, bool in_worker, const EviDue *due,
								  int64 *handled);
extern EviStep evi_dispatch_store(EviProgress *progress);
extern bool evi_dispatch_absorb(EviProgress *progress);

#endif							/* EVI_DISPATCH_H */
