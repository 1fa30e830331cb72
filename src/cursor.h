/*-------------------------------------------------------------------------
 *
 * cursor.h
 *		How far each inbox has come.
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
 * Everything that "done" sees is handled. If there is a "taking", then of
 * what it sees beyond that, the events up to "position" are handled too. If
 * there is an "own_xid", then so are the events of that transaction up to
 * "own_position": it has dispatched events of its own.
 */
typedef struct EviCursor
{
	int64		seq;			/* grows with each stored one */
	EviSnapshot *done;
	EviSnapshot *taking;		/* may be NULL */
	int64		position;
	uint64		own_xid;		/* 0 for none */
	int64		own_position;
	TimestampTz dispatched_at;	/* of the last handled event; 0 for never */
} EviCursor;

extern void evi_cursor_hold(void);
extern bool evi_cursor_lock(int32 inbox_id, bool wait);
extern EviCursor *evi_cursor_read(int32 inbox_id, Snapshot snapshot);
extern int64 evi_cursor_seq(int32 inbox_id, Snapshot snapshot);
extern int64 evi_cursor_append(int32 inbox_id, const EviCursor *cursor);
extern List *evi_cursor_all(Snapshot snapshot);
extern bool evi_cursor_fold(void);

#endif							/* EVI_CURSOR_H */
