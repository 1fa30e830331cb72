/*-------------------------------------------------------------------------
 *
 * cursor.h
 *		How far each lane of an inbox has come.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_CURSOR_H
#define EVI_CURSOR_H

#include "datatype/timestamp.h"
#include "nodes/pg_list.h"
#include "snapshot.h"
#include "utils/snapshot.h"

/*
 * How far a lane has come: lane 0 to lanes - 1 of an inbox share its events
 * by their subjects; lane EVI_REPLAY_LANE has only a backlog.
 *
 * Everything that "done" sees is handled. If there is a "taking", then of
 * what it sees beyond that, the events up to "position" are handled too. If
 * there is an "own_xid", then so are the events of that transaction up to
 * "own_position": it has dispatched events of its own. What is not handled of
 * all this is in the lane's backlog behind backlog_position of backlog_seq.
 */
typedef struct EviCursor
{
	int64		seq;			/* grows with each stored one */
	int			lanes;			/* of the inbox */
	EviSnapshot *done;
	EviSnapshot *taking;		/* may be NULL */
	int64		position;
	uint64		own_xid;		/* 0 for none */
	int64		own_position;
	int64		backlog_seq;	/* 0 before the first */
	int64		backlog_position;
	TimestampTz dispatched_at;	/* of the last handled event; 0 for never */
	int			streak;			/* how many events in a row have failed */
} EviCursor;

/* a lane of an inbox, and its newest cursor */
typedef struct EviLane
{
	int32		inbox_id;
	int			lane;
	EviCursor  *cursor;
} EviLane;

extern void evi_cursor_hold(void);
extern bool evi_cursor_lock(int32 inbox_id, int lane, bool wait);
extern EviCursor *evi_cursor_read(int32 inbox_id, int lane, Snapshot snapshot);
extern int64 evi_cursor_seq(int32 inbox_id, int lane, Snapshot snapshot);
extern int64 evi_cursor_append(int32 inbox_id, int lane, const EviCursor *cursor);
extern List *evi_cursor_lanes(int32 inbox_id, Snapshot snapshot);
extern List *evi_cursor_all(Snapshot snapshot);
extern List *evi_cursor_all_seen(Snapshot latest);
extern bool evi_cursor_fold(void);

#endif							/* EVI_CURSOR_H */
