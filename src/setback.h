/*-------------------------------------------------------------------------
 *
 * setback.h
 *		What is stored when an event fails, or a rule does not work.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_SETBACK_H
#define EVI_SETBACK_H

#include "delivery.h"
#include "progress.h"

/* so many events are taken one by one after an unclean end: see dispatch.c */
#define EVI_MAX_SUSPECTS 60000

typedef enum EviStep
{
	EVI_STEP_DONE,				/* went on, or will when called again */
	EVI_STEP_LOCKED,			/* somebody else has the lane */
	EVI_STEP_MOVED,				/* somebody else had it: the cursor was read anew */
	EVI_STEP_HALTED				/* the rule does not work */
} EviStep;

extern EviStep evi_setback_lock(EviProgress *progress, bool in_worker);
extern EviStep evi_setback_halt(EviProgress *progress, bool in_worker, const char *reason,
								bool is_streak);
extern EviStep evi_setback_fail(EviProgress *progress, bool in_worker, int64 event_id,
								int former_attempts, const ErrorData *error, int next);
extern EviStep evi_setback_try(EviProgress *progress, int64 event_id, int former_attempts,
							   int next, bool *go_on);

extern void evi_setback_tried(EviProgress *progress);
extern void evi_setback_release(void);

#endif							/* EVI_SETBACK_H */
