/*-------------------------------------------------------------------------
 *
 * window.c
 *		Windows: events that are visible in one snapshot and were not in another.
 *
 * A window is opened where a cursor stands. Several lanes that stand at the
 * same place share one, and read each batch of its events only once.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "evinbox.h"
#include "outbox.h"
#include "reading.h"
#include "window.h"

/* a window has about so many events at the most; a batch, as many as its rule says */
#define STEP_IDS 8192

static EviWindow *create_window(MemoryContext parent);
static EviReading start_reading(const EviCursor *cursor, const EviSnapshot *upper);
static int	leave_unfinished(const EviCursor *cursor, const EviSnapshot *upper, Snapshot snapshot,
							 int64 *ids, int count);

/*
 * Opens the window between a cursor and an upper snapshot, which is the one
 * that "snapshot" is, or sees less; or the first step on that way, if it is a
 * long one. A cursor that stands inside a former window gets that one again.
 *
 * own_xid is the id of the caller's transaction, or 0. Its events are in the
 * window, although it is not finished; so it is not settled at the window's
 * end, and the cursor will tell how many of its events are handled.
 *
 * Unless it has to be exact, ids of what was rolled back may be in it.
 */
EviWindow *
evi_window_open(const EviCursor *cursor, const EviSnapshot *upper, uint64 own_xid,
				bool is_exact, Snapshot snapshot, MemoryContext parent)
{
	EviWindow  *window = create_window(parent);
	MemoryContext former = MemoryContextSwitchTo(window->context);
	EviReading	reading;

	window->reopened = cursor->taking != NULL;
	window->position = window->reopened ? cursor->position : 0;
	window->is_shareable = own_xid == 0 && cursor->own_xid == 0;
	window->asked = own_xid != 0 ? evi_snapshot_with(upper, own_xid) : evi_snapshot_copy(upper);
	if (window->reopened)
		window->asked = evi_snapshot_copy(cursor->taking);

	/* what was rolled back is left out when it is fetched; but not our own latest */
	reading = start_reading(cursor, window->asked);
	reading.by_index = own_xid == 0 && !is_exact;
	evi_reading_run(&reading, snapshot);

	window->lower = evi_snapshot_copy(cursor->done);
	window->upper = evi_snapshot_copy(reading.upper);
	window->settled = window->upper;
	if (own_xid != 0 && evi_snapshot_sees(window->upper, own_xid))
	{
		window->own_xid = own_xid;
		window->own_last = evi_outbox_last_of(own_xid, snapshot);
		window->settled = evi_snapshot_without(window->upper, own_xid);
	}
	window->id = reading.id;
	window->count = reading.count;
	window->is_whole = !reading.is_cut;
	window->leads_on = window->reopened || reading.is_cut || reading.upper != window->asked;
	MemoryContextSwitchTo(former);
	return window;
}

/* Opens a window of the first ranges of a lane's backlog; NULL if it has none. */
EviWindow *
evi_window_open_backlog(int32 inbox_id, int lane, const EviCursor *cursor,
						const EviSnapshot *upper, uint64 own_xid,
						Snapshot snapshot, MemoryContext parent)
{
	EviWindow  *window = create_window(parent);
	MemoryContext former = MemoryContextSwitchTo(window->context);

	window->range = evi_backlog_take(inbox_id, lane, cursor, STEP_IDS, snapshot,
									 &window->nranges);
	if (!window->range)
	{
		MemoryContextSwitchTo(former);
		MemoryContextDelete(window->context);
		return NULL;
	}

	/* only a range by itself may have more than that */
	window->id = palloc(sizeof(int64) * STEP_IDS);
	for (int i = 0; i < window->nranges; i++)
	{
		int64	   *ids;
		int			count = evi_fetch_ids(window->range[i].first_id, window->range[i].last_id,
										  STEP_IDS, snapshot, &ids);

		memcpy(window->id + window->count, ids, sizeof(int64) * count);
		window->count += count;
		pfree(ids);
	}
	window->leads_on = true;
	window->is_whole = window->count < STEP_IDS;
	if (window->count > 0)
		window->position = window->id[window->count - 1];

	if (!window->range->is_exact)
	{
		if (own_xid != 0)
			upper = evi_snapshot_with(upper, own_xid);
		window->count = leave_unfinished(cursor, upper, snapshot, window->id, window->count);
		window->count = evi_backlog_leave_later(inbox_id, lane, window->range, snapshot,
												window->id, window->count);
	}
	MemoryContextSwitchTo(former);
	return window;
}

/* In which range, and how far, a lane stands that has handled what is before an index. */
const EviRange *
evi_window_place(const EviWindow *window, int next, int64 *position)
{
	int			at = 0;

	if (next == window->count && window->is_whole)
	{
		at = window->nranges - 1;
		*position = window->range[at].last_id;
	}
	else
	{
		*position = next == window->count ? window->position : window->id[next - 1];
		while (window->range[at].last_id < *position)
			at++;
	}
	return &window->range[at];
}

/* Would this cursor get a window like this one? */
bool
evi_window_suits(const EviWindow *window, const EviCursor *cursor, const EviSnapshot *upper)
{
	if (!window->is_shareable || cursor->own_xid != 0 ||
		window->reopened != (cursor->taking != NULL) ||
		(window->reopened && window->position != cursor->position))
		return false;
	return evi_snapshot_equal(window->lower, cursor->done) &&
		evi_snapshot_equal(window->asked, cursor->taking ? cursor->taking : upper);
}

/* How many events, up to a limit, wait in the outbox behind a cursor, and one of the oldest. */
int
evi_window_peek(const EviCursor *cursor, Snapshot snapshot, int most, int64 *oldest)
{
	EviSnapshot *upper = evi_snapshot_active();
	EviReading	reading = start_reading(cursor, cursor->taking ? cursor->taking : upper);
	EviCursor	behind = *cursor;
	int			count;

	reading.may_step = false;
	reading.step = reading.stop = most;
	evi_reading_run(&reading, snapshot);
	count = reading.count;
	if (count > 0)
		*oldest = reading.id[0];
	if (!cursor->taking || count >= most)
		return Min(count, most);

	/* and what is behind the window that it stands in */
	behind.done = cursor->taking;
	behind.taking = NULL;
	reading = start_reading(&behind, upper);
	reading.may_step = false;
	reading.step = reading.stop = most;
	evi_reading_run(&reading, snapshot);
	if (count == 0 && reading.count > 0)
		*oldest = reading.id[0];
	return Min(count + reading.count, most);
}

/* the place of an event that is in the window */
int
evi_window_index_of(const EviWindow *window, int64 id)
{
	int64	   *found = bsearch(&id, window->id, window->count, sizeof(int64), evi_compare_ids);

	return (int) (found - window->id);
}

static EviWindow *
create_window(MemoryContext parent)
{
	MemoryContext context = AllocSetContextCreate(parent, "evinbox window",
												  ALLOCSET_SMALL_SIZES);
	EviWindow  *window = MemoryContextAllocZero(context, sizeof(EviWindow));

	window->context = context;
	window->batch_context = AllocSetContextCreate(context, "evinbox batch",
												  ALLOCSET_DEFAULT_SIZES);
	return window;
}

static EviReading
start_reading(const EviCursor *cursor, const EviSnapshot *upper)
{
	return (EviReading)
	{
		.lower = cursor->done,
		.upper = upper,
		.may_step = !cursor->taking,
		.skip_xid = cursor->own_xid,
		.skip_until = cursor->own_position,
		.after = cursor->taking ? cursor->position : PG_INT64_MIN,
		.step = STEP_IDS,
	};
}

/*
 * Leaves out of sorted ids of the past what was not finished at the cursor: it
 * comes by the outbox. Returns how many are left.
 */
static int
leave_unfinished(const EviCursor *cursor, const EviSnapshot *upper, Snapshot snapshot,
				 int64 *ids, int count)
{
	EviReading	reading = start_reading(cursor, upper);
	int			left = 0;

	if (count == 0)
		return 0;
	reading.may_step = false;
	reading.step = INT_MAX;
	reading.after = ids[0] - 1;
	reading.until = ids[count - 1];
	evi_reading_run(&reading, snapshot);
	for (int i = 0, k = 0; i < count; i++)
	{
		while (k < reading.count && reading.id[k] < ids[i])
			k++;
		if (k == reading.count || reading.id[k] != ids[i])
			ids[left++] = ids[i];
	}
	return left;
}
