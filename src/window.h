/*-------------------------------------------------------------------------
 *
 * window.h
 *		Windows: events that are visible in one snapshot and were not in another.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_WINDOW_H
#define EVI_WINDOW_H

#include "cursor.h"
#include "event.h"

/* events that are visible in one snapshot and were not in another */
typedef struct EviWindow
{
	MemoryContext context;		/* holds all of it */
	int			users;			/* inboxes that have it */
	bool		is_shareable;	/* the same for any cursor that stands at lower */
	EviSnapshot *lower;
	EviSnapshot *upper;
	EviSnapshot *settled;		/* what is done at its end */
	uint64		own_xid;		/* a transaction in upper, but not settled; or 0 */
	int64		own_last;		/* the last of its events so far; or 0 */
	bool		reopened;		/* it is one in which the cursor stood already */
	int			count;
	int64	   *id;				/* sorted */
	MemoryContext batch_context;
	EviBatch   *batch;			/* events of id[batch_from .. batch_to - 1] */
	int			batch_from;
	int			batch_to;
	int			batch_asked;	/* how many it was to have */
} EviWindow;

extern EviWindow *evi_window_open(const EviCursor *cursor, const EviSnapshot *upper,
								  uint64 own_xid, Snapshot snapshot, MemoryContext parent);
extern int	evi_window_peek(const EviCursor *cursor, Snapshot snapshot, int most, int64 **ids);

#endif							/* EVI_WINDOW_H */
