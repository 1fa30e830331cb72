/*-------------------------------------------------------------------------
 *
 * window.h
 *		Windows: events that are visible in one snapshot and were not in another.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_WINDOW_H
#define EVI_WINDOW_H

#include "backlog.h"
#include "cursor.h"
#include "fetch.h"

/*
 * Events that are visible in one snapshot and were not in another; or those of
 * a range of a lane's backlog.
 */
typedef struct EviWindow
{
	MemoryContext context;		/* holds all of it */
	int			users;			/* lanes that have it */
	EviSnapshot *lower;
	EviSnapshot *upper;
	EviSnapshot *settled;		/* what is done at its end */
	uint64		own_xid;		/* a transaction in upper, but not settled; or 0 */
	int64		own_last;		/* the last of its events so far; or 0 */
	bool		is_whole;		/* else there are more, with higher ids */
	bool		leads_on;		/* may there be another one behind it right now? */

	/* where it was opened; any lane there may have it, if it is shareable */
	bool		is_shareable;
	EviSnapshot *asked;			/* the upper end that was wanted */
	bool		reopened;		/* the cursor stood in it already, at ... */
	int64		position;

	/* of a backlog: the ranges that it is made of; else NULL */
	EviRange   *range;
	int			nranges;

	int			count;
	int64	   *id;				/* sorted */
	MemoryContext batch_context;
	EviBatch   *batch;			/* events of id[batch_from .. batch_to - 1] */
	int			batch_from;
	int			batch_to;
	int			batch_asked;	/* how many it was to have */
	uint64		batch_changes;	/* of stored events, when it was read */
} EviWindow;

extern EviWindow *evi_window_open(const EviCursor *cursor, const EviSnapshot *upper,
								  uint64 own_xid, bool is_exact, Snapshot snapshot,
								  MemoryContext parent);
extern EviWindow *evi_window_open_backlog(int32 inbox_id, int lane, const EviCursor *cursor,
										  const EviSnapshot *upper, uint64 own_xid,
										  Snapshot snapshot, MemoryContext parent);
extern const EviRange *evi_window_place(const EviWindow *window, int next, int64 *position);
extern bool evi_window_suits(const EviWindow *window, const EviCursor *cursor,
							 const EviSnapshot *upper);
extern int	evi_window_index_of(const EviWindow *window, int64 id);
extern int	evi_window_peek(const EviCursor *cursor, Snapshot snapshot, int most, int64 *oldest);

#endif							/* EVI_WINDOW_H */
