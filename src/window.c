/*-------------------------------------------------------------------------
 *
 * window.c
 *		Windows: events that are visible in one snapshot and were not in another.
 *
 * A window is opened where a cursor stands. Several inboxes that stand at the
 * same place share one, and read each batch of its events only once.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "outbox.h"
#include "window.h"

static int	read_window(const EviCursor *cursor, const EviSnapshot *upper, Snapshot snapshot,
						int most, int64 **ids);
static int	drop_until(int64 *ids, int count, int64 position);

/*
 * Opens the window between a cursor and an upper snapshot, which is the one
 * that "snapshot" is, or sees less. A cursor that stands inside a former
 * window gets that one again first.
 *
 * own_xid is the id of the caller's transaction, or 0. Its events are in the
 * window, although it is not finished; so it is not settled at the window's
 * end, and the cursor will tell how many of its events are handled.
 */
EviWindow *
evi_window_open(const EviCursor *cursor, const EviSnapshot *upper, uint64 own_xid,
				Snapshot snapshot, MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent, "evinbox window",
												  ALLOCSET_SMALL_SIZES);
	MemoryContext former = MemoryContextSwitchTo(context);
	EviWindow  *window = palloc0(sizeof(EviWindow));

	window->context = context;
	window->batch_context = AllocSetContextCreate(context, "evinbox batch",
												  ALLOCSET_DEFAULT_SIZES);
	window->reopened = cursor->taking != NULL;
	window->lower = evi_snapshot_copy(cursor->done);
	window->upper = evi_snapshot_copy(window->reopened ? cursor->taking : upper);
	if (own_xid != 0 && !window->reopened)
		window->upper = evi_snapshot_with(upper, own_xid);

	window->settled = window->upper;
	if (own_xid != 0 && evi_snapshot_sees(window->upper, own_xid))
	{
		window->own_xid = own_xid;
		window->settled = evi_snapshot_without(window->upper, own_xid);
	}

	if (window->own_xid != 0)
	{
		int64	   *own;
		int			nown = evi_outbox_read(window->settled, window->upper, 0, 0, snapshot, 0, &own);

		window->own_last = nown > 0 ? own[nown - 1] : 0;
	}

	window->is_shareable = !window->reopened && cursor->own_xid == 0;
	window->count = read_window(cursor, window->upper, snapshot, 0, &window->id);
	MemoryContextSwitchTo(former);
	return window;
}

/* The ids of up to "most" events that wait behind a cursor; returns their number. */
int
evi_window_peek(const EviCursor *cursor, Snapshot snapshot, int most, int64 **ids)
{
	EviSnapshot *upper = evi_snapshot_active();
	EviCursor	behind = *cursor;
	int64	   *later;
	int			nlater;
	int			count;

	if (!cursor->taking)
		return read_window(cursor, upper, snapshot, most, ids);

	/* the rest of the window that it stands in, and what is behind that */
	count = read_window(cursor, cursor->taking, snapshot, 0, ids);
	behind.done = cursor->taking;
	behind.taking = NULL;
	nlater = read_window(&behind, upper, snapshot, most, &later);
	if (count == 0)
		*ids = later;
	return count + nlater;
}

static int
read_window(const EviCursor *cursor, const EviSnapshot *upper, Snapshot snapshot,
			int most, int64 **ids)
{
	int			count = evi_outbox_read(cursor->done, upper, cursor->own_xid, cursor->own_position,
										snapshot, most, ids);

	return cursor->taking ? drop_until(*ids, count, cursor->position) : count;
}

/* removes the ids up to a position from the front; returns how many are left */
static int
drop_until(int64 *ids, int count, int64 position)
{
	int			first = 0;

	while (first < count && ids[first] <= position)
		first++;
	if (first > 0)
		memmove(ids, ids + first, sizeof(int64) * (count - first));
	return count - first;
}
