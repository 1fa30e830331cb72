/*-------------------------------------------------------------------------
 *
 * backlog.h
 *		Ranges of event ids that a lane has yet to handle.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_BACKLOG_H
#define EVI_BACKLOG_H

#include "cursor.h"

/* a row of the table */
typedef struct EviRange
{
	int64		seq;
	int64		first_id;
	int64		last_id;
	bool		is_exact;		/* else without what is in a later range */
	TimestampTz since;			/* only events recorded since then; or DT_NOBEGIN */
	int			former_lane;	/* only events of this one of former_lanes */
	int			former_lanes;	/* 0 for no such limit */
} EviRange;

extern void evi_backlog_add(int32 inbox_id, int lane, const EviRange *range);
extern void evi_backlog_add_ids(int32 inbox_id, int lane, const int64 *ids, int count);
extern EviRange *evi_backlog_take(int32 inbox_id, int lane, const EviCursor *cursor, int most,
								  Snapshot snapshot, int *count);
extern List *evi_backlog_rest(int32 inbox_id, int lane, const EviCursor *cursor,
							  Snapshot snapshot);
extern bool evi_backlog_touches(int32 inbox_id, int lane, const EviCursor *cursor,
								int64 first_id, int64 last_id, Snapshot snapshot);
extern int	evi_backlog_leave_later(int32 inbox_id, int lane, const EviRange *range,
									Snapshot snapshot, int64 *ids, int count);
extern bool evi_backlog_trim(void);

#endif							/* EVI_BACKLOG_H */
