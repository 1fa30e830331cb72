/*-------------------------------------------------------------------------
 *
 * dispatch.h
 *		Handling events: windows, batches, effects and cursors.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_DISPATCH_H
#define EVI_DISPATCH_H

#include "cursor.h"
#include "delivery.h"
#include "event.h"
#include "inbox.h"

/* events that are visible in one snapshot and were not in another */
typedef struct EviWindow
{
	MemoryContext context;		/* holds all of it */
	int			users;			/* inboxes that have it */
	EviSnapshot *lower;
	EviSnapshot *upper;
	EviSnapshot *settled;		/* what is done at its end */
	uint64		own_xid;		/* a transaction in upper, but not settled; or 0 */
	bool		reopened;		/* it is one in which the cursor stood already */
	int			count;
	int64	   *id;				/* sorted */
	MemoryContext batch_context;
	EviBatch   *batch;			/* events of id[batch_from .. batch_to - 1] */
	int			batch_from;
	int			batch_to;
	int			batch_asked;	/* how many it was to have */
} EviWindow;

/* an inbox at work, in a runner or in run() */
typedef struct EviProgress
{
	EviInbox   *inbox;
	MemoryContext context;		/* holds the cursor */
	EviCursor	cursor;			/* seq as stored; the rest may be ahead of that */
	bool		unstored;		/* is it ahead? */
	EviWindow  *window;			/* NULL if a new one has to be opened */
	int			next;			/* index of its next event */
	int			limit;			/* smaller batches after a failure; 0 for none */
	bool		failing;		/* was the last thing to happen a failure? */
	int			halts;			/* how often in a row the rule did not work */
	TimestampTz halted_until;
	TimestampTz retry_at;		/* earliest due retry; DT_NOEND for none */
} EviProgress;

typedef enum EviStep
{
	EVI_STEP_DONE,				/* went on */
	EVI_STEP_LOCKED,			/* somebody else has the inbox */
	EVI_STEP_MOVED,				/* somebody else had it: the cursor was read anew */
	EVI_STEP_HALTED				/* the rule does not work */
} EviStep;

extern EviProgress *evi_progress_create(EviInbox *inbox, MemoryContext parent);
extern void evi_progress_free(EviProgress *progress);
extern bool evi_progress_read_cursor(EviProgress *progress, Snapshot snapshot);
extern void evi_progress_pass(EviProgress *progress);
extern bool evi_progress_has_events(const EviProgress *progress);

extern EviWindow *evi_window_open(const EviCursor *cursor, const EviSnapshot *upper,
								  uint64 own_xid, Snapshot snapshot, MemoryContext parent);
extern int	evi_window_peek(const EviCursor *cursor, Snapshot snapshot, int most, int64 **ids);
extern void evi_window_use(EviProgress *progress, EviWindow *window);

extern EviStep evi_dispatch_batch(EviProgress *progress, bool in_worker, int most, int64 *handled);
extern EviStep evi_dispatch_retry(EviProgress *progress, bool in_worker, const EviDue *due,
								  int64 *handled);
extern bool evi_dispatch_store(EviProgress *progress);

#endif							/* EVI_DISPATCH_H */
