/*-------------------------------------------------------------------------
 *
 * progress.c
 *		An inbox at work: its cursor, and its way through a window.
 *
 * What is in memory may be ahead of the stored cursor, where nothing was to
 * be done, but never beside it: storing it is always right.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "progress.h"

EviProgress *
evi_progress_create(EviInbox *inbox, MemoryContext parent)
{
	EviProgress *progress = MemoryContextAllocZero(parent, sizeof(EviProgress));

	progress->inbox = inbox;
	progress->context = AllocSetContextCreate(parent, "evinbox cursor", ALLOCSET_SMALL_SIZES);
	progress->retry_at = DT_NOEND;
	return progress;
}

void
evi_progress_free(EviProgress *progress)
{
	evi_progress_use_window(progress, NULL);
	MemoryContextDelete(progress->context);
	pfree(progress);
}

/* Begins anew where the stored cursor stands; false if there is none. */
bool
evi_progress_read_cursor(EviProgress *progress, Snapshot snapshot)
{
	MemoryContext former;
	EviCursor  *cursor;

	evi_progress_use_window(progress, NULL);
	MemoryContextReset(progress->context);
	former = MemoryContextSwitchTo(progress->context);
	cursor = evi_cursor_read(progress->inbox->id, snapshot);
	MemoryContextSwitchTo(former);

	progress->unstored = false;
	progress->cursor = cursor ? *cursor : (EviCursor) {0};
	return cursor != NULL;
}

/*
 * Goes past a window that has no events. It need not be stored for that, but
 * a transaction of its own keeps segments of the outbox as long as it is.
 */
void
evi_progress_pass(EviProgress *progress)
{
	EviCursor	cursor = evi_progress_cursor_at(progress, 0);
	bool		unstored = progress->unstored || cursor.own_xid != progress->cursor.own_xid;

	Assert(progress->window->count == 0);
	evi_progress_move(progress, 0, &cursor, 0);
	progress->unstored = unstored;
}

bool
evi_progress_has_events(const EviProgress *progress)
{
	return progress->window && progress->next < progress->window->count;
}

/* Gives an inbox a window, or NULL for none. The last user's end is its end. */
void
evi_progress_use_window(EviProgress *progress, EviWindow *window)
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

	if (next < window->count)
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

/* The inbox has come so far; stored_seq is 0 if that was not stored. */
void
evi_progress_move(EviProgress *progress, int next, const EviCursor *cursor, int64 stored_seq)
{
	MemoryContext former = MemoryContextSwitchTo(progress->context);

	progress->next = next;
	progress->limit = 0;
	progress->unstored = stored_seq == 0;

	/* the snapshots are the window's, which does not live as long */
	MemoryContextReset(progress->context);
	progress->cursor = *cursor;
	progress->cursor.done = evi_snapshot_copy(cursor->done);
	progress->cursor.taking = cursor->taking ? evi_snapshot_copy(cursor->taking) : NULL;
	if (stored_seq > 0)
		progress->cursor.seq = stored_seq;
	MemoryContextSwitchTo(former);
}
