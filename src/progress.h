/*-------------------------------------------------------------------------
 *
 * progress.h
 *		A lane at work: its cursor, and its way through a window.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_PROGRESS_H
#define EVI_PROGRESS_H

#include "cursor.h"
#include "inbox.h"
#include "window.h"

/* a lane of an inbox at work, in a runner or in run() */
typedef struct EviProgress
{
	EviInbox   *inbox;
	int			lane;
	MemoryContext context;		/* holds the cursor */
	EviCursor	cursor;			/* seq as stored; the rest may be ahead of that */
	bool		unstored;		/* is it ahead? */
	TimestampTz store_at;		/* if so, when it is worth storing */
	TimestampTz absorb_at;		/* when it has stood still in the outbox for long */
	bool		has_backlog;	/* is there perhaps something in it? */
	EviWindow  *window;			/* NULL if a new one has to be opened */
	int			next;			/* index of its next event */
	uint64		look;			/* of its runner, when it was opened */
	int			limit;			/* smaller batches after a failure; 0 for none */
	int			suspects;		/* how many events to take one by one: see setback.c */
	bool		handled_blank;	/* had the event that has failed no personal part? */
	int64		tried_id;		/* the event whose attempt is recorded; or 0 */
	int64		unflushed;		/* events that a crash may give us again */
	int64		failures;		/* of events, since it was created */
	int			conflicts;		/* attempts in a row that were in each other's way */
	bool		failing;		/* was the last thing to happen a failure? */
	int			halts;			/* how often in a row the rule did not work */
	TimestampTz halted_until;
	TimestampTz locked_until;	/* somebody else has it; a time to look again */
	TimestampTz retry_at;		/* earliest due retry; DT_NOEND for none */
} EviProgress;

extern EviProgress *evi_progress_create(EviInbox *inbox, int lane, MemoryContext parent);
extern void evi_progress_free(EviProgress *progress);
extern bool evi_progress_read_cursor(EviProgress *progress, Snapshot snapshot);
extern void evi_progress_open(EviProgress *progress, const EviSnapshot *upper, uint64 own_xid,
							  EviWindow *shared, Snapshot snapshot, MemoryContext parent);
extern bool evi_progress_pass(EviProgress *progress);
extern bool evi_progress_has_events(const EviProgress *progress);
extern EviCursor evi_progress_cursor_at(const EviProgress *progress, int next);
extern void evi_progress_move(EviProgress *progress, int next, const EviCursor *cursor,
							  int64 stored_seq);
extern void evi_progress_absorb(EviProgress *progress, const EviSnapshot *upper,
								Snapshot snapshot);

#endif							/* EVI_PROGRESS_H */
