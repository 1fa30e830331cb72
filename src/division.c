/*-------------------------------------------------------------------------
 *
 * division.c
 *		How the events of an inbox are divided among its lanes.
 *
 * Each lane has the subjects whose hash leaves its number. The lanes begin at
 * the same place when the inbox is made, and when their number is changed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/sequence.h"
#include "miscadmin.h"
#include "utils/fmgrprotos.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "division.h"
#include "evinbox.h"
#include "fetch.h"
#include "incarnation.h"
#include "outbox.h"
#include "progress.h"
#include "relation.h"
#include "unit.h"

static bool parse_start(const char *start_at, TimestampTz *since);
static void restart_lane(EviInbox *inbox, int lane, EviSnapshot *now, bool deliver,
						 const int64 *ids, int count);
static void pass_backlog(EviCursor *cursor);
static List *absorb_lane(EviInbox *inbox, int lane, const EviSnapshot *upper, uint64 own_xid);

/*
 * A new inbox begins here and now: it sees the events of this transaction,
 * and of all that are not finished yet; and first, past ones, if that is
 * wanted. The outbox must not lose those before others can see the cursor.
 */
void
evi_division_start(int32 inbox_id, int lanes, const char *start_at)
{
	EviCursor	cursor = {.lanes = lanes};
	uint64		xid = U64FromFullTransactionId(GetTopFullTransactionId());
	EviRange	past = {.first_id = 1};
	bool		has_past = parse_start(start_at, &past.since);

	evi_outbox_hold();
	PushActiveSnapshot(GetLatestSnapshot());
	cursor.done = evi_snapshot_without(evi_snapshot_active(), xid);

	/* after the snapshot: what it shows has been recorded by now */
	past.last_id = Max(evi_fetch_last_given(), evi_fetch_highest(GetActiveSnapshot()));
	if (has_past && past.since != DT_NOBEGIN)
		past.first_id = evi_fetch_first_since(past.since, past.last_id, GetActiveSnapshot());
	PopActiveSnapshot();

	for (int lane = 0; lane < cursor.lanes; lane++)
	{
		(void) evi_cursor_lock(inbox_id, lane, true);
		if (has_past && past.first_id <= past.last_id)
			evi_backlog_add(inbox_id, lane, &past);
		(void) evi_cursor_append(inbox_id, lane, &cursor);
	}
}

/* false if no past events are wanted */
static bool
parse_start(const char *start_at, TimestampTz *since)
{
	*since = DT_NOBEGIN;
	if (!start_at)
		return false;
	if (strcmp(start_at, "beginning") == 0)
		return true;
	*since = DatumGetTimestampTz(DirectFunctionCall3(timestamptz_in, CStringGetDatum(start_at),
													 ObjectIdGetDatum(InvalidOid),
													 Int32GetDatum(-1)));
	return true;
}

/*
 * The events are to be shared among another number of lanes. All of the former
 * ones are stopped at the same place; what each has left becomes a backlog of
 * all new ones, which take of it what is theirs by both divisions.
 */
void
evi_division_change(int32 inbox_id, char *name, int former, int lanes)
{
	EviInbox	inbox = {.id = inbox_id, .name = name};
	uint64		xid = U64FromFullTransactionId(GetTopFullTransactionId());
	List	  **rest = palloc0(sizeof(List *) * former);
	EviCursor	cursor = {.lanes = lanes};

	evi_incarnation_require();

	/* the rule that runs would go on with the former division */
	if (evi_unit_is_open())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot change shards of inbox \"%s\" from within a rule", name)));
	for (int lane = 0; lane < Max(former, lanes); lane++)
		(void) evi_cursor_lock(inbox.id, lane, true);
	PushActiveSnapshot(GetLatestSnapshot());
	cursor.done = evi_snapshot_without(evi_snapshot_active(), xid);
	for (int lane = 0; lane < former; lane++)
		rest[lane] = absorb_lane(&inbox, lane, cursor.done, xid);
	PopActiveSnapshot();

	/* what the lanes had under their old numbers is done with that */
	pass_backlog(&cursor);
	for (int lane = 0; lane < lanes; lane++)
	{
		for (int from = 0; from < former; from++)
		{
			ListCell   *lc;

			foreach(lc, rest[from])
			{
				EviRange	range = *(EviRange *) lfirst(lc);

				if (former > 1)
				{
					range.former_lane = from;
					range.former_lanes = former;
				}
				evi_backlog_add(inbox.id, lane, &range);
			}
		}
		(void) evi_cursor_append(inbox.id, lane, &cursor);
	}

	/* whoever still knows the former division must not go on with the others */
	for (int lane = lanes; lane < former; lane++)
		(void) evi_cursor_append(inbox.id, lane, &cursor);
}

/*
 * The lanes begin anew in a database that was restored or copied. If what is
 * left for them is to be delivered, it becomes their backlog, with further
 * events. The xids of the outbox and of the cursors are those of the original.
 */
void
evi_division_restart(EviInbox *inbox, bool deliver, const int64 *ids, int count)
{
	uint64		xid = U64FromFullTransactionId(GetTopFullTransactionId());
	EviSnapshot *now;

	PushActiveSnapshot(GetLatestSnapshot());
	now = evi_snapshot_without(evi_snapshot_active(), xid);
	for (int lane = EVI_REPLAY_LANE; lane < inbox->shards; lane++)
		restart_lane(inbox, lane, now, deliver, ids, count);
	PopActiveSnapshot();
}

static void
restart_lane(EviInbox *inbox, int lane, EviSnapshot *now, bool deliver,
			 const int64 *ids, int count)
{
	EviProgress *progress;
	bool		replays = lane == EVI_REPLAY_LANE;
	bool		has_cursor;

	CHECK_FOR_INTERRUPTS();
	(void) evi_cursor_lock(inbox->id, lane, true);
	progress = evi_progress_create(inbox, lane, CurrentMemoryContext);
	has_cursor = evi_progress_read_cursor(progress, GetActiveSnapshot());
	if (!has_cursor && deliver && !replays)
		ereport(WARNING,
				(errmsg("inbox \"%s\" came without a cursor, so what it had not handled is not known",
						inbox->name),
				 errhint("Use replay() to offer past events to it.")));

	/* a replay is in no outbox, and there need not be one */
	if (has_cursor && deliver && !replays)
		evi_progress_absorb(progress, evi_snapshot_everything(), GetActiveSnapshot());
	if (has_cursor || !replays)
	{
		EviCursor	cursor = progress->cursor;

		cursor.lanes = replays ? 1 : inbox->shards;
		cursor.done = now;
		cursor.taking = NULL;
		cursor.own_xid = 0;
		if (!deliver)
			pass_backlog(&cursor);
		if (!replays)
			evi_backlog_add_ids(inbox->id, lane, ids, count);
		(void) evi_cursor_append(inbox->id, lane, &cursor);
	}
	evi_progress_free(progress);
}

/* A lane is past all ranges that there are. */
static void
pass_backlog(EviCursor *cursor)
{
	cursor->backlog_seq = nextval_internal(evi_relation_oid(EVI_BACKLOG_SEQ), false);
	cursor->backlog_position = PG_INT64_MAX;
}

/* what a lane has left up to a snapshot, as EviRange */
static List *
absorb_lane(EviInbox *inbox, int lane, const EviSnapshot *upper, uint64 own_xid)
{
	EviProgress *progress = evi_progress_create(inbox, lane, CurrentMemoryContext);
	List	   *result;
	ListCell   *lc;

	if (!evi_progress_read_cursor(progress, GetActiveSnapshot()))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("inbox \"%s\" has no cursor", inbox->name),
				 errhint("Delete it and create it again.")));
	if (progress->cursor.own_xid == own_xid ||
		(progress->cursor.taking && evi_snapshot_sees(progress->cursor.taking, own_xid)))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot change shards of inbox \"%s\" in a transaction that has dispatched to it",
						inbox->name)));
	evi_progress_absorb(progress, upper, GetActiveSnapshot());

	CommandCounterIncrement();
	PushActiveSnapshot(GetLatestSnapshot());
	result = evi_backlog_rest(inbox->id, lane, &progress->cursor, GetActiveSnapshot());
	PopActiveSnapshot();
	foreach(lc, result)
		if (((EviRange *) lfirst(lc))->former_lanes > 0)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("inbox \"%s\" is still busy with the last change of its shards",
							inbox->name),
					 errhint("Wait until inbox_status shows no backlog.")));
	evi_progress_free(progress);
	return result;
}
