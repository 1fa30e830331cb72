/*-------------------------------------------------------------------------
 *
 * operate.c
 *		SQL entry points of operating inboxes: pausing, retrying, replaying.
 *
 * Each is for the members of the inbox's owner. What they change is written as
 * the owner of our tables; that the rule's row is written too is what tells
 * the runners.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "backlog.h"
#include "delivery.h"
#include "evinbox.h"
#include "fetch.h"
#include "inbox.h"
#include "incarnation.h"
#include "owner.h"
#include "query.h"

PG_FUNCTION_INFO_V1(evinbox_pause);
PG_FUNCTION_INFO_V1(evinbox_resume);
PG_FUNCTION_INFO_V1(evinbox_retry);
PG_FUNCTION_INFO_V1(evinbox_discard);
PG_FUNCTION_INFO_V1(evinbox_replay);

static EviInbox *find_inbox(text *name);
static void forget_streaks(const EviInbox *inbox);
static void write_rule(const EviInbox *inbox, bool enabled);
static void touch_rule(const EviInbox *inbox);
static uint64 retry(const EviInbox *inbox, bool has_event, int64 event_id);

Datum
evinbox_pause(PG_FUNCTION_ARGS)
{
	PreventCommandIfReadOnly("pause()");
	write_rule(find_inbox(PG_GETARG_TEXT_PP(0)), false);
	PG_RETURN_VOID();
}

/* A halted one forgets why it was, and how many events have failed in a row. */
Datum
evinbox_resume(PG_FUNCTION_ARGS)
{
	EviInbox   *inbox = find_inbox(PG_GETARG_TEXT_PP(0));

	PreventCommandIfReadOnly("resume()");

	/* lanes first, as whoever handles events or halts the inbox does */
	forget_streaks(inbox);
	evi_halt_clear(inbox->id);
	write_rule(inbox, true);
	PG_RETURN_VOID();
}

/* null stands for all that the caller may operate */
Datum
evinbox_retry(PG_FUNCTION_ARGS)
{
	bool		has_event = !PG_ARGISNULL(1);
	int64		event_id = has_event ? PG_GETARG_INT64(1) : 0;
	uint64		result = 0;
	ListCell   *lc;

	PreventCommandIfReadOnly("retry()");
	if (!PG_ARGISNULL(0))
		PG_RETURN_INT64(retry(find_inbox(PG_GETARG_TEXT_PP(0)), has_event, event_id));

	foreach(lc, evi_inbox_all(GetActiveSnapshot()))
		if (evi_owner_allows(((EviInbox *) lfirst(lc))->owner))
			result += retry(lfirst(lc), has_event, event_id);
	PG_RETURN_INT64(result);
}

Datum
evinbox_discard(PG_FUNCTION_ARGS)
{
	static EviQuery update = {
		.sql = "UPDATE evinbox.delivery d SET state = 'skipped', next_at = NULL, updated_at = $3"
		" WHERE d.inbox OPERATOR(pg_catalog.=) $1 AND d.event_id OPERATOR(pg_catalog.=) $2"
		" AND d.state OPERATOR(pg_catalog.<>) 'skipped'",
		.expected = SPI_OK_UPDATE,
		.nargs = 3,
		.argtypes = {TEXTOID, INT8OID, TIMESTAMPTZOID},
	};
	EviInbox   *inbox = find_inbox(PG_GETARG_TEXT_PP(0));
	Datum		args[] = {CStringGetTextDatum(inbox->name), PG_GETARG_DATUM(1),
	TimestampTzGetDatum(GetCurrentTimestamp())};

	PreventCommandIfReadOnly("discard()");
	if (evi_query_run_alone(&update, args, NULL) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("event " INT64_FORMAT " has not failed in inbox \"%s\"",
						PG_GETARG_INT64(1), inbox->name)));
	PG_RETURN_VOID();
}

/*
 * A replay is a lane of its own, which has nothing but ranges of ids; so it
 * keeps no new event waiting, and goes on after a crash where it was.
 */
Datum
evinbox_replay(PG_FUNCTION_ARGS)
{
	EviInbox   *inbox = find_inbox(PG_GETARG_TEXT_PP(0));
	EviRange	range = {
		.first_id = Max(PG_GETARG_INT64(1), 1),
		.last_id = Min(PG_GETARG_INT64(2),
					   Max(evi_fetch_last_given(), evi_fetch_highest(GetActiveSnapshot()))),
		.is_exact = true,
		.since = DT_NOBEGIN,
	};
	EviCursor  *cursor;
	EviCursor	first = {.lanes = 1};

	PreventCommandIfReadOnly("replay()");
	if (!inbox->replayable)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("inbox \"%s\" is not replayable", inbox->name),
				 errhint("If its handler may see events twice, set its \"replayable\" to true.")));
	if (PG_GETARG_INT64(1) > PG_GETARG_INT64(2))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("from_id must not be greater than to_id")));
	if (range.first_id > range.last_id)
		PG_RETURN_VOID();

	evi_incarnation_require();
	(void) evi_cursor_lock(inbox->id, EVI_REPLAY_LANE, true);
	PushActiveSnapshot(GetLatestSnapshot());
	cursor = evi_cursor_read(inbox->id, EVI_REPLAY_LANE, GetActiveSnapshot());
	if (!cursor)
	{
		cursor = &first;
		cursor->done = evi_snapshot_active();
	}
	evi_backlog_add(inbox->id, EVI_REPLAY_LANE, &range);
	(void) evi_cursor_append(inbox->id, EVI_REPLAY_LANE, cursor);
	PopActiveSnapshot();
	touch_rule(inbox);
	PG_RETURN_VOID();
}

static EviInbox *
find_inbox(text *name)
{
	char	   *cname = text_to_cstring(name);
	EviInbox   *inbox = evi_inbox_find(cname, GetActiveSnapshot());

	if (!inbox)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("inbox \"%s\" does not exist", cname)));
	if (!evi_owner_allows(inbox->owner))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be member of the owner of inbox \"%s\"", cname)));
	return inbox;
}

/* Waits for a batch that is going on: it would store what it knows. */
static void
forget_streaks(const EviInbox *inbox)
{
	for (int lane = EVI_REPLAY_LANE; lane < inbox->shards; lane++)
	{
		EviCursor  *cursor;

		(void) evi_cursor_lock(inbox->id, lane, true);
		PushActiveSnapshot(GetLatestSnapshot());
		cursor = evi_cursor_read(inbox->id, lane, GetActiveSnapshot());
		if (cursor && cursor->streak > 0)
		{
			cursor->streak = 0;
			(void) evi_cursor_append(inbox->id, lane, cursor);
		}
		PopActiveSnapshot();
	}
}

static void
write_rule(const EviInbox *inbox, bool enabled)
{
	static EviQuery update = {
		.sql = "UPDATE evinbox.inbox i SET enabled = $2 WHERE i.name OPERATOR(pg_catalog.=) $1",
		.expected = SPI_OK_UPDATE,
		.nargs = 2,
		.argtypes = {TEXTOID, BOOLOID},
	};
	Datum		args[] = {CStringGetTextDatum(inbox->name), BoolGetDatum(enabled)};

	(void) evi_query_run_alone(&update, args, NULL);
}

/* Only tells the runners; somebody else may pause it meanwhile. */
static void
touch_rule(const EviInbox *inbox)
{
	static EviQuery update = {
		.sql = "UPDATE evinbox.inbox i SET enabled = i.enabled WHERE i.name OPERATOR(pg_catalog.=) $1",
		.expected = SPI_OK_UPDATE,
		.nargs = 1,
		.argtypes = {TEXTOID},
	};
	Datum		args[] = {CStringGetTextDatum(inbox->name)};

	(void) evi_query_run_alone(&update, args, NULL);
}

/* What was skipped is tried again only if it is named. */
static uint64
retry(const EviInbox *inbox, bool has_event, int64 event_id)
{
	static EviQuery update = {
		.sql = "UPDATE evinbox.delivery d SET state = 'retry', attempts = 0, next_at = $3, updated_at = $3"
		" WHERE d.inbox OPERATOR(pg_catalog.=) $1 AND CASE WHEN $2 IS NULL"
		" THEN d.state OPERATOR(pg_catalog.<>) 'skipped'"
		" ELSE d.event_id OPERATOR(pg_catalog.=) $2 END",
		.expected = SPI_OK_UPDATE,
		.nargs = 3,
		.argtypes = {TEXTOID, INT8OID, TIMESTAMPTZOID},
	};
	Datum		args[] = {CStringGetTextDatum(inbox->name), Int64GetDatum(event_id),
	TimestampTzGetDatum(GetCurrentTimestamp())};
	uint64		result = evi_query_run_alone(&update, args, has_event ? NULL : " n ");

	if (result > 0)
		touch_rule(inbox);
	return result;
}
