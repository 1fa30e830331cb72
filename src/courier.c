/*-------------------------------------------------------------------------
 *
 * courier.c
 *		One process for each database that calls others: sends requests.
 *
 * It runs no code of any user. A turn of its reads what has come, starts what
 * may be started, takes what has been answered, and records that; then it sleeps
 * until a commit wakes it, something is due, or the network has something for
 * it. No transaction is open meanwhile, or while a call is made.
 *
 * Whatever was read may have been committed asynchronously: the log is flushed
 * before any of it is sent. Results are committed synchronously, so that a
 * server that ends repeats only what it had just got an answer to.
 *
 * If it ends while something is under way, its successor sends that again,
 * under the same message id. If something has ended in the middle of its work,
 * what was there at that time is noted before it is sent, as an attempt.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "postmaster/bgworker.h"
#include "storage/ipc.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "duty.h"
#include "evinbox.h"
#include "guc.h"
#include "incarnation.h"
#include "intake.h"
#include "logbook.h"
#include "outcome.h"
#include "pace.h"
#include "peer.h"
#include "query.h"
#include "relation.h"
#include "sending.h"
#include "waiting.h"
#include "worker.h"

#define PLANS_MS 10000			/* the age of plans, which small tables may outgrow */
#define SUSPECTS_MS 500
#define MAX_FILLED 16			/* queues, in one transaction */
#define FILL_MS 100				/* or as many as it fills in this time */

PGDLLEXPORT void evi_courier_main(Datum arg);

/* reset with each turn; SPI leaves us in a context of its own */
static MemoryContext turn_context;

/* the transaction that is open */
static EviSection section;

static void begin(TimestampTz now);
static void look(TimestampTz now);
static bool fill(TimestampTz now);
static void record(TimestampTz now);
static bool note(void);
static bool needs_look(TimestampTz now);
static void open_transaction(void);
static void close_transaction(void);
static void flush_log(void);
static void start_transfers(TimestampTz now);
static const char *hindrance(const EviParcel *parcel);
static bool is_suspect(const EviParcel *parcel);
static void start(EviParcel *parcel, TimestampTz now);
static void take_results(void);
static long time_to_wait(TimestampTz now);
static long sooner(long a, long b);

/* what a look left to be read at once */
static bool has_more = false;

/* so many wake-ups were there before the last look */
static uint32 seen_wakeups = 0;

/* those that are to be noted before they are sent */
static dlist_head suspects = DLIST_STATIC_INIT(suspects);
static TimestampTz suspects_at = 0;	/* not before, since somebody had a row locked */

void
evi_courier_main(Datum arg)
{
	Oid			database;
	Oid			owner;

	evi_worker_start(DatumGetInt32(arg), &database, &owner);
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	evi_worker_name("evinbox courier");
	SetConfigOption("synchronous_commit", "local", PGC_SUSET, PGC_S_OVERRIDE);
	turn_context = AllocSetContextCreate(TopMemoryContext, "evinbox courier",
										 ALLOCSET_DEFAULT_SIZES);
	begin(GetCurrentTimestamp());
	evi_worker_watch(evi_sending_open());

	/* what ends it from now on is no obstacle to its coming */
	evi_shmem_note_ready();

	for (;;)
	{
		TimestampTz now = GetCurrentTimestamp();

		CHECK_FOR_INTERRUPTS();
		MemoryContextReset(turn_context);
		MemoryContextSwitchTo(turn_context);
		if (!evi_sending_refresh())
		{
			record(now);
			proc_exit(0);
		}
		if (needs_look(now))
			look(now);
		start_transfers(now);
		evi_sending_perform();
		take_results();
		now = GetCurrentTimestamp();
		if (evi_logbook_is_due(now))
			record(now);
		evi_worker_settle();
		evi_worker_wait(time_to_wait(now), "waiting for requests or answers");
	}
}

/* What a predecessor has left. */
static void
begin(TimestampTz now)
{
	seen_wakeups = evi_shmem_wakeups();
	open_transaction();
	(void) evi_peer_refresh();
	evi_intake_begin();
	evi_logbook_begin();
	evi_pace_refresh();
	close_transaction();
	has_more = true;
}

/* Sees what has come, and what is due. */
static void
look(TimestampTz now)
{
	static TimestampTz plans_since = 0;
	bool		has_filled;

	pgstat_report_activity(STATE_RUNNING, "looking for requests");
	if (TimestampDifferenceExceeds(plans_since, now, PLANS_MS))
	{
		ResetPlanCache();
		plans_since = now;
	}
	seen_wakeups = evi_shmem_wakeups();
	open_transaction();
	if (evi_peer_refresh())
		evi_pace_refresh();
	evi_intake_heed_erasures();
	has_more = evi_intake_read(now);
	has_filled = fill(now);

	/* a request can be seen before its endpoint is heard of */
	if (evi_pace_has_stranger())
	{
		evi_peer_forget();
		if (evi_peer_refresh())
			evi_pace_refresh();
	}
	evi_intake_make_room(now);
	close_transaction();
	if (evi_intake_needs_flush() || has_filled)
		flush_log();
}

/* From what waits. Returns whether there was any; with large ones, not all are read at once. */
static bool
fill(TimestampTz now)
{
	bool		result = false;
	EviRoute   *route;

	for (int i = 0; i < MAX_FILLED && (route = evi_pace_due(now)) != NULL; i++)
	{
		CHECK_FOR_INTERRUPTS();
		result |= evi_waiting_fill(route, now);
		if (TimestampDifferenceExceeds(now, GetCurrentTimestamp(), FILL_MS))
			break;
	}
	return result;
}

static void
record(TimestampTz now)
{
	pgstat_report_activity(STATE_RUNNING, "recording answers");
	open_transaction();
	evi_logbook_store(now);
	close_transaction();
	evi_logbook_finish(now);
}

/* Puts suspects on record, on disk. */
static bool
note(void)
{
	bool		result;

	open_transaction();
	result = evi_logbook_note(&suspects);
	close_transaction();
	return result;
}

static bool
needs_look(TimestampTz now)
{
	return has_more || evi_shmem_wakeups() != seen_wakeups || evi_pace_due(now) != NULL ||
		evi_pace_has_stale(now) || evi_intake_wait_ms(now) == 0;
}

/* Ends the process if there is nothing to do for it in this database any more. */
static void
open_transaction(void)
{
	SetCurrentStatementStartTimestamp();
	StartTransactionCommand();
	if (!OidIsValid(get_extension_oid(EVI_EXTENSION, true)) || !evi_relation_installed() ||
		evi_incarnation_is_quiet())
	{
		CommitTransactionCommand();
		evi_duty_leave();
		proc_exit(0);
	}
	PushActiveSnapshot(GetTransactionSnapshot());
	evi_query_open();
	evi_section_enter(&section);
	MemoryContextSwitchTo(turn_context);
}

static void
close_transaction(void)
{
	evi_section_leave(&section);
	evi_query_close();
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(turn_context);
}

/*
 * Whatever has been committed by now is on disk when this returns. Right
 * behind the header of a page, the last record ends in the page before.
 */
static void
flush_log(void)
{
	XLogRecPtr	end = GetXLogInsertRecPtr();
	bool		is_first_page = XLogSegmentOffset(end, wal_segment_size) < XLOG_BLCKSZ;
	Size		header = is_first_page ? SizeOfXLogLongPHD : SizeOfXLogShortPHD;

	if (end % XLOG_BLCKSZ == header)
		end -= header;
	XLogFlush(end);
}

/* All that may be started now. */
static void
start_transfers(TimestampTz now)
{
	int			most = evi_guc_webhook_max_in_flight();
	EviParcel  *parcel;

	while ((parcel = evi_pace_next(most, now)) != NULL)
	{
		const char *reason = hindrance(parcel);

		parcel->started_at = now;
		if (reason)
		{
			evi_outcome_refuse(parcel, reason, now);
			evi_logbook_add(parcel, now);
		}
		else if (is_suspect(parcel))
			dlist_push_tail(&suspects, &parcel->node);
		else
			start(parcel, now);
	}
	if (dlist_is_empty(&suspects) || now < suspects_at)
		return;
	if (!note())
	{
		suspects_at = TimestampTzPlusMilliseconds(now, SUSPECTS_MS);
		return;
	}
	while (!dlist_is_empty(&suspects))
		start(dlist_container(EviParcel, node, dlist_pop_head_node(&suspects)), now);
}

/* why a request is never sent; NULL if it may be */
static const char *
hindrance(const EviParcel *parcel)
{
	if (!parcel->route->peer)
		return "the endpoint does not exist any more";
	if (parcel->fault)
		return parcel->fault;
	if (is_suspect(parcel) && parcel->attempts >= parcel->route->peer->max_attempts)
		return "the server or its courier has ended whenever this was sent";
	return NULL;
}

/* Was it there when something ended in the middle of its work? */
static bool
is_suspect(const EviParcel *parcel)
{
	TimestampTz failed_at =
		(TimestampTz) pg_atomic_read_u64(&evi_shmem_my_slot()->failed_at);

	return parcel->created_at <= Max(evi_shmem_unclean_end(), failed_at);
}

static void
start(EviParcel *parcel, TimestampTz now)
{
	const char *error;
	bool		is_lasting;

	if (evi_sending_start(parcel, now, &error, &is_lasting))
		return;
	if (is_lasting)
		evi_outcome_refuse(parcel, error, now);
	else
		evi_outcome_put_off(parcel, error, now);
	evi_logbook_add(parcel, now);
}

static void
take_results(void)
{
	EviHttpResult result;
	EviParcel  *parcel;

	while ((parcel = evi_sending_ended(&result)) != NULL)
	{
		TimestampTz now = GetCurrentTimestamp();

		CHECK_FOR_INTERRUPTS();
		evi_outcome_judge(parcel, &result, now);
		evi_logbook_add(parcel, now);
	}
}

static long
time_to_wait(TimestampTz now)
{
	long		result;

	if (needs_look(now))
		return 0;
	result = sooner(evi_pace_wait_ms(evi_guc_webhook_max_in_flight(), now),
					evi_logbook_wait_ms(now));
	result = sooner(result, evi_intake_wait_ms(now));
	if (!dlist_is_empty(&suspects))
		result = sooner(result, TimestampDifferenceMilliseconds(now, suspects_at));
	return sooner(result, evi_sending_wait_ms());
}

/* of two times to wait, -1 being for ever */
static long
sooner(long a, long b)
{
	if (a < 0 || b < 0)
		return Max(a, b);
	return Min(a, b);
}
