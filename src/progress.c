/*-------------------------------------------------------------------------
 *
 * progress.c
 *		A lane at work: its cursor, and its way through a window.
 *
 * A lane that has a backlog takes windows of that; else, of the outbox. What
 * is in memory may be ahead of the stored cursor, where nothing was to be done,
 * but never beside it: storing it is always right.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "evinbox.h"
#include "fetch.h"
#include "progress.h"

static void use_window(EviProgress *progress, EviWindow *window);

EviProgress *
evi_progress_create(EviInbox *inbox, int lane, MemoryContext parent)
{
	EviProgress *progress = MemoryContextAllocZero(parent, sizeof(EviProgress));

	progress->inbox = inbox;
	progress->lane = lane;
	progress->context = AllocSetContextCreate(parent, "evinbox cursor", ALLOCSET_SMALL_SIZES);
	progress->retry_at = DT_NOEND;
	return progress;
}

void
evi_progress_free(EviProgress *progress)
{
	use_window(progress, NULL);
	MemoryContextDelete(progress->context);
	pfree(progress);
}

/* Begins anew where the stored cursor stands; false if there is none. */
bool
evi_progress_read_cursor(EviProgress *progress, Snapshot snapshot)
{
	MemoryContext former;
	EviCursor  *cursor;

	use_window(progress, NULL);
	MemoryContextReset(progress->context);
	former = MemoryContextSwitchTo(progress->context);
	cursor = evi_cursor_read(progress->inbox->id, progress->lane, snapshot);
	MemoryContextSwitchTo(former);

	/* a lane of a former division has only the row that says so */
	if (cursor && progress->lane >= cursor->lanes)
		cursor = NULL;

	progress->unstored = false;
	progress->has_backlog = true;
	progress->cursor = cursor ? *cursor : (EviCursor) {0};
	return cursor != NULL;
}

/*
 * Opens the next window: of the backlog, if there is one; else, of what is
 * between the cursor and a snapshot. A window of another lane that stands at
 * the same place may serve as well.
 */
void
evi_progress_open(EviProgress *progress, const EviSnapshot *upper, uint64 own_xid,
				  EviWindow *shared, Snapshot snapshot, MemoryContext parent)
{
	EviWindow  *window = NULL;

	/* a lane that is no more: its rule will tell */
	if (!progress->cursor.done)
	{
		use_window(progress, NULL);
		return;
	}
	if (progress->has_backlog)
		window = evi_window_open_backlog(progress->inbox->id, progress->lane, &progress->cursor,
										 upper, own_xid, snapshot, parent);
	progress->has_backlog = window != NULL;
	if (!window && progress->lane != EVI_REPLAY_LANE)
		window = shared ? shared : evi_window_open(&progress->cursor, upper, own_xid, false, snapshot,
														   parent);
	use_window(progress, window);
}

/*
 * Goes past a window that has no events. It need not be stored for that, but
 * a transaction of its own keeps segments of the outbox as long as it is.
 * Returns whether there may be another window right now.
 */
bool
evi_progress_pass(EviProgress *progress)
{
	EviCursor	cursor = evi_progress_cursor_at(progress, 0);
	bool		unstored = progress->unstored || progress->window->range ||
		cursor.own_xid != progress->cursor.own_xid;
	bool		leads_on = progress->window->leads_on;

	Assert(progress->window->count == 0);
	evi_progress_move(progress, 0, &cursor, 0);
	progress->unstored = unstored;
	return leads_on;
}

bool
evi_progress_has_events(const EviProgress *progress)
{
	return progress->window && progress->next < progress->window->count;
}

/* Gives a lane a window, or NULL for none. The last user's end is its end. */
static void
use_window(EviProgress *progress, EviWindow *window)
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

/* the cursor for when the window is handled up to an index */
EviCursor
evi_progress_cursor_at(const EviProgress *progress, int next)
{
	EviWindow  *window = progress->window;
	EviCursor	cursor = progress->cursor;

	if (window->range)
	{
		cursor.backlog_seq = evi_window_place(window, next, &cursor.backlog_position)->seq;
		return cursor;
	}
	if (next < window->count || !window->is_whole)
	{
		cursor.done = window->lower;
		cursor.taking = window->upper;
		cursor.position = window->id[next - 1];
		return cursor;
	}

	cursor.done = window->settled;
	cursor.taking = NULL;
	if (window->own_xid != 0)
	{
		/* its later events will have higher ids: evi_outbox_add() sees to that */
		cursor.own_xid = window->own_last != 0 ? window->own_xid : 0;
		cursor.own_position = window->own_last;
	}
	else if (cursor.own_xid != 0 && evi_snapshot_sees(window->settled, cursor.own_xid))
		cursor.own_xid = 0;
	return cursor;
}

/* The lane has come so far; stored_seq is 0 if that was not stored. */
void
evi_progress_move(EviProgress *progress, int next, const EviCursor *cursor, int64 stored_seq)
{
	MemoryContext former = MemoryContextSwitchTo(progress->context);
	bool		is_ours;

	progress->next = next;
	progress->unstored = stored_seq == 0;

	/* the snapshots are the window's, which does not live as long; or ours */
	is_ours = cursor->done == progress->cursor.done;
	if (!is_ours)
		MemoryContextReset(progress->context);
	progress->cursor = *cursor;
	if (!is_ours)
	{
		progress->cursor.done = evi_snapshot_copy(cursor->done);
		progress->cursor.taking = cursor->taking ? evi_snapshot_copy(cursor->taking) : NULL;
	}
	if (stored_seq > 0)
		progress->cursor.seq = stored_seq;
	MemoryContextSwitchTo(former);
}

/*
 * Makes a backlog of all that the outbox has for a lane, which the caller has
 * locked, up to a snapshot. The cursor is stored with it.
 */
void
evi_progress_absorb(EviProgress *progress, const EviSnapshot *upper, Snapshot snapshot)
{
	bool		leads_on;

	do
	{
		EviWindow  *window = evi_window_open(&progress->cursor, upper, 0, true, snapshot,
											 CurrentMemoryContext);
		EviCursor	cursor;

		CHECK_FOR_INTERRUPTS();
		use_window(progress, window);
		evi_backlog_add_ids(progress->inbox->id, progress->lane, window->id, window->count);
		leads_on = window->leads_on;
		cursor = evi_progress_cursor_at(progress, window->count);
		evi_progress_move(progress, window->count, &cursor, 0);
	} while (leads_on);

	progress->cursor.seq = evi_cursor_append(progress->inbox->id, progress->lane,
											 &progress->cursor);
	progress->unstored = false;
	progress->has_backlog = true;
	use_window(progress, NULL);
}
