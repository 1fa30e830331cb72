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

#include "dispatch.h"
#include "outbox.h"

static int	read_with_own(const EviCursor *cursor, const EviSnapshot *upper, uint64 own_xid,
						  Snapshot snapshot, int64 **ids);
static int	drop_until(int64 *ids, int count, int64 position);

/*
 * Opens the window between a cursor and an upper snapshot, which is the one
 * that "snapshot" is, or sees less.
 *
 * own_xid is the id of the caller's transaction, or 0. Its events are in the
 * window, although it is not finished; so what is settled at the window's end
 * is upper without it, and the cursor's position tells how many of them are
 * handled. Otherwise a cursor with a position stands inside a former window,
 * which is opened again.
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
	window->lower = evi_snapshot_copy(cursor->done);

	if (own_xid != 0 && (!cursor->taking || evi_snapshot_sees(cursor->taking, own_xid)))
	{
		window->upper = evi_snapshot_with(upper, own_xid);
		window->settled = evi_snapshot_without(upper, own_xid);
		window->count = cursor->taking ?
			read_with_own(cursor, window->upper, own_xid, snapshot, &window->id) :
			evi_outbox_read(window->lower, window->upper, snapshot, 0, &window->id);
	}
	else
	{
		window->upper = evi_snapshot_copy(cursor->taking ? cursor->taking : upper);
		window->count = evi_outbox_read(window->lower, window->upper, snapshot, 0, &window->id);
		window->reopened = cursor->taking != NULL;
		if (cursor->taking)
			window->count = drop_until(window->id, window->count, cursor->position);
	}
	MemoryContextSwitchTo(former);
	return window;
}

/* The ids of up to "most" events that wait behind a cursor; returns their number. */
int
evi_window_peek(const EviCursor *cursor, Snapshot snapshot, int most, int64 **ids)
{
	EviSnapshot *upper = evi_snapshot_active();
	int64	   *later;
	int			nlater;
	int			count;

	if (!cursor->taking)
		return evi_outbox_read(cursor->done, upper, snapshot, most, ids);

	/* the rest of the window that it stands in, and what is behind that */
	count = evi_outbox_read(cursor->done, cursor->taking, snapshot, 0, ids);
	count = drop_until(*ids, count, cursor->position);
	nlater = evi_outbox_read(cursor->taking, upper, snapshot, most, &later);
	if (count == 0)
		*ids = later;
	return count + nlater;
}

/* Gives an inbox a window, or NULL for none. The last user's end is its end. */
void
evi_window_use(EviProgress *progress, EviWindow *window)
{
	EviWindow  *former = progress->window;

	progress->window = window;
	progress->next = 0;
	progress->limit = 0;
	if (window)
		window->users++;
	if (former && --former->users == 0)
		MemoryContextDelete(former->context);
}

/*
 * The second and further windows of a transaction that dispatches its own
 * events: of its own, only those beyond the position are new.
 */
static int
read_with_own(const EviCursor *cursor, const EviSnapshot *upper, uint64 own_xid,
			  Snapshot snapshot, int64 **ids)
{
	int64	   *others;
	int64	   *own;
	int			nothers = evi_outbox_read(evi_snapshot_with(cursor->done, own_xid), upper,
										  snapshot, 0, &others);
	int			nown = evi_outbox_read(evi_snapshot_without(upper, own_xid), upper,
									   snapshot, 0, &own);

	nown = drop_until(own, nown, cursor->position);
	if (nown == 0)
	{
		*ids = others;
		return nothers;
	}

	/* both are sorted */
	*ids = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(int64) * (nothers + nown));
	for (int i = 0, j = 0; i < nothers || j < nown;)
	{
		bool		from_own = i == nothers || (j < nown && own[j] < others[i]);

		(*ids)[i + j] = from_own ? own[j] : others[i];
		if (from_own)
			j++;
		else
			i++;
	}
	return nothers + nown;
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
