/*-------------------------------------------------------------------------
 *
 * control.c
 *		SQL entry points of dispatching by hand and by pg_cron.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "commands/extension.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "dispatch.h"
#include "evinbox.h"
#include "incarnation.h"
#include "outbox.h"
#include "query.h"
#include "unit.h"
#include "wakeup.h"

#define CRON_EXTENSION "pg_cron"

/* in one call of run(): each is a subtransaction, and new events need some, too */
#define MAX_RETRIES 30

PG_FUNCTION_INFO_V1(evinbox_run);
PG_FUNCTION_INFO_V1(evinbox_schedule);
PG_FUNCTION_INFO_V1(evinbox_unschedule);

static void require_own_session(void);
static EviInbox *find_own_inbox(const char *name);
static int64 run_inbox(EviInbox *inbox, int64 most);
static int64 run_lane(EviInbox *inbox, int lane, int64 most, int *lanes);
static void lock_and_read(EviProgress *progress);
static bool run_window(EviProgress *progress, MemoryContext context, int64 most,
					   int64 *handled);
static bool tell_if_exhausted(void);
static void run_retries(EviProgress *progress, MemoryContext context, int64 *handled);
static void require_cron(void);
static void check_schedule(const char *schedule);
static Datum job_name(const char *inbox);

/*
 * Dispatches what is due, in the caller's transaction and as the caller. A
 * worker that is at the same inbox is waited for, and waits for us.
 */
Datum
evinbox_run(PG_FUNCTION_ARGS)
{
	int64		most = PG_ARGISNULL(1) ? PG_INT64_MAX : PG_GETARG_INT32(1);
	int64		handled = 0;

	if (most < 1)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("max_events must be positive")));
	if (evi_unit_is_open())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("run() cannot be called by a rule")));
	PreventCommandIfReadOnly("run()");
	require_own_session();
	evi_incarnation_require();

	if (!PG_ARGISNULL(0))
	{
		EviInbox   *inbox = find_own_inbox(text_to_cstring(PG_GETARG_TEXT_PP(0)));

		if (inbox->enabled)
			handled = run_inbox(inbox, most);
	}
	else
	{
		List	   *rules = evi_inbox_load(GetUserId(), GetActiveSnapshot());
		int64		before;
		ListCell   *lc;

		/* what one inbox records may be for another that had its turn already */
		do
		{
			before = handled;
			foreach(lc, rules)
			{
				EviInbox   *inbox = lfirst(lc);

				if (inbox->live && inbox->enabled && handled < most)
					handled += run_inbox(inbox, most - handled);
			}
		} while (handled > before && handled < most);
	}
	PG_RETURN_INT64(handled);
}

/* Creates the job, or changes its schedule. It runs as the current user. */
Datum
evinbox_schedule(PG_FUNCTION_ARGS)
{
	static EviQuery schedule_job = {
		.sql = "SELECT cron.schedule($1, $2, $3)",
		.expected = SPI_OK_SELECT,
		.nargs = 3,
		.argtypes = {TEXTOID, TEXTOID, TEXTOID},
	};
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	char	   *schedule = text_to_cstring(PG_GETARG_TEXT_PP(1));
	Datum		args[3];
	int64		job;
	bool		isnull;

	PreventCommandIfReadOnly("schedule()");
	(void) find_own_inbox(name);
	require_cron();
	check_schedule(schedule);

	args[0] = job_name(name);
	args[1] = CStringGetTextDatum(schedule);
	args[2] = CStringGetTextDatum(psprintf("SELECT evinbox.run(%s)", quote_literal_cstr(name)));
	evi_query_open();
	(void) evi_query_run(&schedule_job, args, NULL, 0);
	job = DatumGetInt64(evi_query_value(0, 1, &isnull));
	evi_query_close();
	PG_RETURN_INT64(job);
}

Datum
evinbox_unschedule(PG_FUNCTION_ARGS)
{
	static EviQuery find_job = {
		.sql = "SELECT FROM cron.job j WHERE j.jobname::pg_catalog.text OPERATOR(pg_catalog.=) $1"
		" AND j.username::pg_catalog.name OPERATOR(pg_catalog.=) CURRENT_USER",
		.expected = SPI_OK_SELECT,
		.nargs = 1,
		.argtypes = {TEXTOID},
	};
	static EviQuery unschedule_job = {
		.sql = "SELECT cron.unschedule($1::pg_catalog.name)",
		.expected = SPI_OK_SELECT,
		.nargs = 1,
		.argtypes = {TEXTOID},
	};
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	Datum		arg = job_name(name);

	PreventCommandIfReadOnly("unschedule()");

	/* also for an inbox that is not there any more */
	require_cron();
	evi_query_open();
	if (evi_query_run(&find_job, &arg, NULL, 0) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("inbox \"%s\" is not scheduled", name)));
	(void) evi_query_run(&unschedule_job, &arg, NULL, 0);
	evi_query_close();
	PG_RETURN_VOID();
}

/*
 * A rule's code can go back to whoever this session belongs to, by RESET ROLE
 * or at commit. So that must be nobody else than the rule's owner.
 */
static void
require_own_session(void)
{
	if (GetUserId() != GetSessionUserId() || GetUserId() != GetAuthenticatedUserId())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("run() cannot be used as role \"%s\" in a session of role \"%s\"",
						GetUserNameFromId(GetUserId(), false),
						GetUserNameFromId(GetAuthenticatedUserId(), false)),
				 errdetail("Rules could act as the role that has connected."),
				 errhint("Connect as the rules' owner.")));
}

/* Whoever runs a rule is the role that it runs as. */
static EviInbox *
find_own_inbox(const char *name)
{
	EviInbox   *inbox = evi_inbox_find(name, GetActiveSnapshot());

	if (!inbox)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("inbox \"%s\" does not exist", name)));
	if (inbox->owner != GetUserId())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("inbox \"%s\" belongs to another role", name),
				 errhint("Connect as its owner: rules run only as their owner.")));
	return inbox;
}

/* all lanes of an inbox, one after the other */
static int64
run_inbox(EviInbox *inbox, int64 most)
{
	int64		handled = 0;
	int			lanes = inbox->shards;

	/* with the first one locked, their number cannot change any more */
	evi_wakeup_runners_at_any_end();
	for (int lane = 0; lane < lanes && handled < most; lane++)
		handled += run_lane(inbox, lane, most - handled, &lanes);
	if (inbox->replayable && handled < most)
		handled += run_lane(inbox, EVI_REPLAY_LANE, most - handled, &lanes);
	return handled;
}

static int64
run_lane(EviInbox *inbox, int lane, int64 most, int *lanes)
{
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "evinbox run",
												  ALLOCSET_DEFAULT_SIZES);
	MemoryContext former = MemoryContextSwitchTo(context);
	EviProgress *progress = evi_progress_create(inbox, lane, context);
	int64		handled = 0;

	lock_and_read(progress);

	/* the rule may have been changed while we waited for the lock */
	PushActiveSnapshot(GetTransactionSnapshot());
	progress->inbox = evi_inbox_find(inbox->name, GetActiveSnapshot());
	PopActiveSnapshot();

	if (progress->inbox && progress->inbox->id == inbox->id && progress->inbox->enabled &&
		progress->inbox->owner == GetUserId() && progress->cursor.done)
	{
		*lanes = progress->inbox->shards;
		if (lane == 0)
			run_retries(progress, context, &handled);
		while (run_window(progress, context, most, &handled))
			 /* until there is nothing more */ ;
	}

	MemoryContextSwitchTo(former);
	MemoryContextDelete(context);
	return handled;
}

/*
 * At READ COMMITTED the cursor is just read after the lock was obtained. At
 * higher levels it may be newer than the transaction's snapshot, which then
 * does not show what has been done already.
 */
static void
lock_and_read(EviProgress *progress)
{
	EviInbox   *inbox = progress->inbox;
	Snapshot	snapshot;
	ListCell   *lc;

	(void) evi_cursor_lock(inbox->id, progress->lane, true);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	(void) evi_progress_read_cursor(progress, snapshot);
	UnregisterSnapshot(snapshot);

	if (IsolationUsesXactSnapshot() &&
		evi_cursor_seq(inbox->id, progress->lane, GetTransactionSnapshot()) != progress->cursor.seq)
		ereport(ERROR,
				(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
				 errmsg("could not serialize access due to concurrent dispatch of inbox \"%s\"",
						inbox->name),
				 errhint("Repeat the transaction.")));

	PushActiveSnapshot(GetTransactionSnapshot());
	foreach(lc, evi_halt_all(GetActiveSnapshot()))
	{
		EviHalt    *halt = lfirst(lc);

		if (halt->inbox_id == inbox->id)
			progress->halts = halt->looks;
	}
	PopActiveSnapshot();
}

/* One window. Returns whether there may be another one. */
static bool
run_window(EviProgress *progress, MemoryContext context, int64 most, int64 *handled)
{
	uint64		own_xid = U64FromFullTransactionId(GetTopFullTransactionIdIfAny());
	EviWindow  *window;

	CHECK_FOR_INTERRUPTS();
	PushActiveSnapshot(GetTransactionSnapshot());
	evi_progress_open(progress, evi_snapshot_active(), own_xid, NULL, GetActiveSnapshot(), context);
	PopActiveSnapshot();
	window = progress->window;
	if (!window)
		return false;
	if (window->count == 0)
		return window->leads_on && evi_progress_pass(progress);

	if (window->own_last != 0)
		evi_outbox_close_until(own_xid, Max(window->own_last, window->id[window->count - 1]));

	while (evi_progress_has_events(progress))
	{
		int64		left = most - *handled - progress->failures;

		if (left <= 0 || tell_if_exhausted() ||
			evi_dispatch_batch(progress, false, left, handled) == EVI_STEP_HALTED)
			return false;
		CHECK_FOR_INTERRUPTS();
	}

	/* nothing of it was for this inbox, but that is worth remembering too */
	if (progress->unstored)
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		progress->cursor.seq = evi_cursor_append(progress->inbox->id, progress->lane,
												 &progress->cursor);
		progress->unstored = false;
		PopActiveSnapshot();
		CommandCounterIncrement();
	}
	return true;
}

/* A transaction must not have too many subtransactions: see unit.c. */
static bool
tell_if_exhausted(void)
{
	if (!evi_unit_exhausted())
		return false;
	ereport(NOTICE,
			(errmsg("run() has stopped early, for the number of its subtransactions"),
			 errdetail("Failing events, and windows of a backlog, take one or two each."),
			 errhint("Call it again in another transaction.")));
	return true;
}

static void
run_retries(EviProgress *progress, MemoryContext context, int64 *handled)
{
	EviDue	   *due;
	int			ndue;

	PushActiveSnapshot(GetTransactionSnapshot());
	ndue = evi_delivery_due(progress->inbox, MAX_RETRIES, context, &due);
	PopActiveSnapshot();
	for (int i = 0; i < ndue; i++)
		if (tell_if_exhausted() ||
			evi_dispatch_retry(progress, false, &due[i], handled) == EVI_STEP_HALTED)
			return;
}

static void
require_cron(void)
{
	const char *home = GetConfigOption("cron.database_name", true, false);
	char	   *here = get_database_name(MyDatabaseId);

	if (OidIsValid(get_extension_oid(CRON_EXTENSION, true)))
		return;

	if (home && strcmp(home, here) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("pg_cron lives in database \"%s\", not in \"%s\"", home, here),
				 errhint("There, use cron.schedule_in_database() with the command SELECT evinbox.run(...), or set cron.database_name to this database.")));
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("pg_cron is not installed in this database"),
			 errhint("Install pg_cron, add it to shared_preload_libraries, and use CREATE EXTENSION pg_cron.")));
}

/* Before 1.5, pg_cron knows nothing below a minute, and does not say so. */
static void
check_schedule(const char *schedule)
{
	static EviQuery version = {
		.sql = "SELECT x.extversion FROM pg_catalog.pg_extension x"
		" WHERE x.extname OPERATOR(pg_catalog.=) 'pg_cron'",
		.expected = SPI_OK_SELECT,
		.nargs = 0,
	};
	bool		isnull;
	int			major;
	int			minor;

	if (strstr(schedule, "second") == NULL)
		return;
	evi_query_open();
	if (evi_query_run(&version, NULL, NULL, 0) == 1 &&
		sscanf(TextDatumGetCString(evi_query_value(0, 1, &isnull)), "%d.%d", &major, &minor) == 2 &&
		(major < 1 || (major == 1 && minor < 5)))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("pg_cron %d.%d has no schedules in seconds", major, minor),
				 errhint("Use a cron expression such as '* * * * *', or upgrade pg_cron to 1.5.")));
	evi_query_close();
}

static Datum
job_name(const char *inbox)
{
	return CStringGetTextDatum(psprintf("evinbox: %s", inbox));
}
