/*-------------------------------------------------------------------------
 *
 * logbook.c
 *		What a courier records.
 *
 * The results of many requests are recorded together, by one statement for
 * each table. A row of request_waiting is there for those that are to be tried
 * again, or are dead; success leaves none. The position is stored now and then.
 *
 * Rows may be locked by others, an erasure for instance, who may take their time:
 * what is to be stored about those is kept, and tried again.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "brief.h"
#include "closing.h"
#include "evinbox.h"
#include "intake.h"
#include "logbook.h"
#include "outcome.h"
#include "pace.h"
#include "query.h"
#include "waiting.h"

#define MAX_RESULTS 500			/* in a transaction */
#define RECORD_MS 20			/* a result waits no longer for others */
#define POSITION_MS 1000		/* the position is stored this often */
#define STATE_MS 1000			/* and the state of endpoints, if it could not be before */
#define BLOCKED_MS 500			/* what could not be recorded is tried again */

#define ATTEMPT_COLUMNS 16

static dlist_head results = DLIST_STATIC_INIT(results);
static int	nresults = 0;
static TimestampTz first_at = 0;	/* when the oldest one came */
static TimestampTz position_at = 0; /* when the position was last stored */
static TimestampTz closing_at = 0;	/* when the state of endpoints was */
static const EviSnapshot *position = NULL;	/* that is being stored */
static bool are_stored = true;	/* the results, by the transaction that is open */
static TimestampTz blocked_until = 0;	/* somebody had a row locked */

static bool store_notes(void *arg);
static bool store_results(void *arg);
static bool closing_is_due(TimestampTz now);
static void insert_attempts(void);
static void fill_attempt(const EviParcel *parcel, Datum *values, bool *isnull);
static void store_waiting(TimestampTz now);
static void delete_waiting(void);
static void store_position(void);
static const char *outcome_name(const EviParcel *parcel);
static Datum or_null(const char *text, bool *isnull);
static Datum ms_or_null(double ms, bool *isnull);

/* What is known of endpoints that fail. SPI is connected, in a section. */
void
evi_logbook_begin(void)
{
	evi_closing_load();
	position_at = GetCurrentTimestamp();
}

/* Its attempt is over. */
void
evi_logbook_add(EviParcel *parcel, TimestampTz now)
{
	if (nresults == 0)
		first_at = now;
	dlist_push_tail(&results, &parcel->node);
	nresults++;
}

/*
 * Attempts that are about to be made, of requests that were there when
 * something has ended in the middle of its work: if this one ends us as well,
 * it counts, and the next one waits. Returns false if somebody has a row of theirs
 * locked.
 */
bool
evi_logbook_note(dlist_head *parcels)
{
	dlist_iter	iter;

	if (!evi_brief_unless_locked(store_notes, parcels))
		return false;
	dlist_foreach(iter, parcels)
	{
		EviParcel  *parcel = dlist_container(EviParcel, node, iter.cur);

		parcel->attempts++;
		parcel->is_noted = true;
		parcel->is_waiting = true;
	}
	return true;
}

static bool
store_notes(void *arg)
{
	static EviQuery insert = {
		.sql = "INSERT INTO evinbox_internal.request_waiting AS w"
		" (request_id, created_at, endpoint_id, state, attempts, next_at)"
		" VALUES ($1, $2, $3, 'pending', $4, $5)"
		" ON CONFLICT (request_id) DO UPDATE SET state = 'pending', attempts = excluded.attempts,"
		" next_at = excluded.next_at",
		.expected = SPI_OK_INSERT,
		.nargs = 5,
		.argtypes = {INT8OID, TIMESTAMPTZOID, INT4OID, INT4OID, TIMESTAMPTZOID},
	};
	dlist_head *parcels = arg;
	TimestampTz now = GetCurrentTimestamp();
	dlist_iter	iter;

	dlist_foreach(iter, parcels)
	{
		EviParcel  *parcel = dlist_container(EviParcel, node, iter.cur);
		TimestampTz next_at = evi_pace_retry_at(parcel->route, parcel->attempts + 1, now);
		Datum		args[] = {Int64GetDatum(parcel->id), TimestampTzGetDatum(parcel->created_at),
			Int32GetDatum(parcel->endpoint_id), Int32GetDatum(parcel->attempts + 1),
		TimestampTzGetDatum(next_at)};

		(void) evi_query_run(&insert, args, NULL, 0);
	}
	return true;
}

bool
evi_logbook_is_due(TimestampTz now)
{
	return evi_logbook_wait_ms(now) == 0;
}

/* how long until something is to be recorded; -1 for never, as far as is known */
long
evi_logbook_wait_ms(TimestampTz now)
{
	TimestampTz next = DT_NOEND;

	if (nresults > 0)
	{
		next = TimestampTzPlusMilliseconds(first_at, RECORD_MS);
		if (nresults >= MAX_RESULTS || evi_pace_is_idle())
			next = now;
		next = Max(next, blocked_until);
	}
	if (evi_intake_position())
		next = Min(next, TimestampTzPlusMilliseconds(position_at, POSITION_MS));
	if (evi_pace_changed())
		next = Min(next, TimestampTzPlusMilliseconds(closing_at, STATE_MS));
	return next == DT_NOEND ? -1 : (long) TimestampDifferenceMilliseconds(now, next);
}

/* Records all that there is. SPI is connected, in a section. */
void
evi_logbook_store(TimestampTz now)
{
	are_stored = nresults == 0 || evi_brief_unless_locked(store_results, &now);
	if (!are_stored)
		blocked_until = TimestampTzPlusMilliseconds(now, BLOCKED_MS);
	if (closing_is_due(now) || nresults > 0)
	{
		evi_closing_store();
		closing_at = now;
	}
	position = TimestampDifferenceExceeds(position_at, now, POSITION_MS) ? evi_intake_position() : NULL;
	if (position)
	{
		store_position();
		position_at = now;
	}
}

/* That is committed. */
void
evi_logbook_finish(TimestampTz now)
{
	if (position)
		evi_intake_note_stored(position);
	position = NULL;
	if (!are_stored)
		return;
	while (!dlist_is_empty(&results))
	{
		EviParcel  *parcel = dlist_container(EviParcel, node, dlist_pop_head_node(&results));

		if (parcel->report.outcome == EVI_OUTCOME_RETRY)
			evi_pace_note_due(parcel->route, parcel->report.next_at);
		evi_intake_finish(parcel);
	}
	nresults = 0;
}

static bool
store_results(void *arg)
{
	insert_attempts();
	store_waiting(*(TimestampTz *) arg);
	delete_waiting();
	return true;
}

static bool
closing_is_due(TimestampTz now)
{
	return evi_pace_changed() && TimestampDifferenceExceeds(closing_at, now, STATE_MS);
}

static void
insert_attempts(void)
{
	static EviQuery insert = {
		.sql = "INSERT INTO evinbox_internal.webhook_attempt (request_id, number, endpoint_id,"
		" owner_id, started_at, outcome, status, curl_code, error, dns_ms, connect_ms, tls_ms,"
		" first_byte_ms, total_ms, address, answer)"
		" SELECT * FROM ROWS FROM ("
		"  pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4),"
		"  pg_catalog.unnest($5), pg_catalog.unnest($6), pg_catalog.unnest($7), pg_catalog.unnest($8),"
		"  pg_catalog.unnest($9), pg_catalog.unnest($10), pg_catalog.unnest($11), pg_catalog.unnest($12),"
		"  pg_catalog.unnest($13), pg_catalog.unnest($14), pg_catalog.unnest($15), pg_catalog.unnest($16))",
		.expected = SPI_OK_INSERT,
		.nargs = ATTEMPT_COLUMNS,
		.argtypes = {INT8ARRAYOID, INT4ARRAYOID, INT4ARRAYOID, OIDARRAYOID, TIMESTAMPTZARRAYOID,
			TEXTARRAYOID, INT4ARRAYOID, INT4ARRAYOID, TEXTARRAYOID, FLOAT8ARRAYOID, FLOAT8ARRAYOID,
		FLOAT8ARRAYOID, FLOAT8ARRAYOID, FLOAT8ARRAYOID, TEXTARRAYOID, TEXTARRAYOID},
	};
	static const Oid types[ATTEMPT_COLUMNS] = {INT8OID, INT4OID, INT4OID, OIDOID, TIMESTAMPTZOID,
		TEXTOID, INT4OID, INT4OID, TEXTOID, FLOAT8OID, FLOAT8OID, FLOAT8OID, FLOAT8OID, FLOAT8OID,
	TEXTOID, TEXTOID};
	Datum	   *values = palloc(sizeof(Datum) * ATTEMPT_COLUMNS * nresults);
	bool	   *isnull = palloc0(sizeof(bool) * ATTEMPT_COLUMNS * nresults);
	Datum		args[ATTEMPT_COLUMNS];
	dlist_iter	iter;
	int			n = 0;

	dlist_foreach(iter, &results)
	{
		Datum		row[ATTEMPT_COLUMNS];
		bool		row_isnull[ATTEMPT_COLUMNS] = {0};

		fill_attempt(dlist_container(EviParcel, node, iter.cur), row, row_isnull);
		for (int c = 0; c < ATTEMPT_COLUMNS; c++)
		{
			values[c * nresults + n] = row[c];
			isnull[c * nresults + n] = row_isnull[c];
		}
		n++;
	}
	for (int c = 0; c < ATTEMPT_COLUMNS; c++)
		args[c] = evi_query_array(types[c], values + c * nresults, isnull + c * nresults, nresults);
	(void) evi_query_run(&insert, args, NULL, 0);
}

static void
fill_attempt(const EviParcel *parcel, Datum *values, bool *isnull)
{
	const EviReport *report = &parcel->report;

	values[0] = Int64GetDatum(parcel->id);
	values[1] = Int32GetDatum(evi_outcome_number(parcel));
	values[2] = Int32GetDatum(parcel->endpoint_id);
	isnull[2] = parcel->endpoint_id == 0;
	values[3] = ObjectIdGetDatum(parcel->owner_id);
	values[4] = TimestampTzGetDatum(parcel->started_at);
	values[5] = CStringGetTextDatum(outcome_name(parcel));
	values[6] = Int32GetDatum(report->status);
	isnull[6] = report->status == 0;
	values[7] = Int32GetDatum(report->code);
	isnull[7] = report->code == 0;
	values[8] = or_null(report->error, &isnull[8]);
	values[9] = ms_or_null(report->dns_ms, &isnull[9]);
	values[10] = ms_or_null(report->connect_ms, &isnull[10]);
	values[11] = ms_or_null(report->tls_ms, &isnull[11]);
	values[12] = ms_or_null(report->first_byte_ms, &isnull[12]);
	values[13] = ms_or_null(report->total_ms, &isnull[13]);
	values[14] = or_null(report->address, &isnull[14]);
	values[15] = or_null(report->answer, &isnull[15]);
}

/* those that are to be tried again, and those that are dead */
static void
store_waiting(TimestampTz now)
{
	static EviQuery insert = {
		.sql = "INSERT INTO evinbox_internal.request_waiting"
		" (request_id, created_at, endpoint_id, state, attempts, next_at, last_error)"
		" SELECT * FROM ROWS FROM ("
		"  pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3), pg_catalog.unnest($4),"
		"  pg_catalog.unnest($5), pg_catalog.unnest($6), pg_catalog.unnest($7))"
		" ON CONFLICT (request_id) DO UPDATE SET state = excluded.state,"
		" attempts = excluded.attempts, next_at = excluded.next_at, last_error = excluded.last_error",
		.expected = SPI_OK_INSERT,
		.nargs = 7,
		.argtypes = {INT8ARRAYOID, TIMESTAMPTZARRAYOID, INT4ARRAYOID, TEXTARRAYOID, INT4ARRAYOID,
		TIMESTAMPTZARRAYOID, TEXTARRAYOID},
	};
	static const Oid types[] = {INT8OID, TIMESTAMPTZOID, INT4OID, TEXTOID, INT4OID, TIMESTAMPTZOID,
	TEXTOID};
	Datum	   *values[lengthof(types)];
	bool	   *no_error = palloc0(sizeof(bool) * nresults);
	Datum		args[lengthof(types)];
	dlist_iter	iter;
	int			n = 0;

	for (int c = 0; c < lengthof(types); c++)
		values[c] = palloc(sizeof(Datum) * nresults);
	dlist_foreach(iter, &results)
	{
		const EviParcel *parcel = dlist_container(EviParcel, node, iter.cur);
		bool		is_retry = parcel->report.outcome == EVI_OUTCOME_RETRY;

		if (parcel->report.outcome == EVI_OUTCOME_DELIVERED)
			continue;
		values[0][n] = Int64GetDatum(parcel->id);
		values[1][n] = TimestampTzGetDatum(parcel->created_at);
		values[2][n] = Int32GetDatum(parcel->endpoint_id);
		values[3][n] = CStringGetTextDatum(outcome_name(parcel));
		values[4][n] = Int32GetDatum(evi_outcome_number(parcel));
		values[5][n] = TimestampTzGetDatum(is_retry ? parcel->report.next_at : now);
		values[6][n] = or_null(parcel->report.error, &no_error[n]);
		n++;
	}
	for (int c = 0; c < lengthof(types); c++)
		args[c] = evi_query_array(types[c], values[c], c == 6 ? no_error : NULL, n);
	if (n > 0)
		(void) evi_query_run(&insert, args, NULL, 0);
}

/* those that have got through after all */
static void
delete_waiting(void)
{
	Datum	   *ids = palloc(sizeof(Datum) * nresults);
	dlist_iter	iter;
	int			n = 0;

	dlist_foreach(iter, &results)
	{
		const EviParcel *parcel = dlist_container(EviParcel, node, iter.cur);

		if (parcel->is_waiting && parcel->report.outcome == EVI_OUTCOME_DELIVERED)
			ids[n++] = Int64GetDatum(parcel->id);
	}
	evi_waiting_delete(ids, n);
}

/* There is one row, or none yet. */
static void
store_position(void)
{
	static EviQuery update = {
		.sql = "UPDATE evinbox_internal.courier SET done = $1",
		.expected = SPI_OK_UPDATE,
		.nargs = 1,
		.argtypes = {PG_SNAPSHOTOID},
	};
	static EviQuery insert = {
		.sql = "INSERT INTO evinbox_internal.courier (done) VALUES ($1)",
		.expected = SPI_OK_INSERT,
		.nargs = 1,
		.argtypes = {PG_SNAPSHOTOID},
	};
	Datum		arg = evi_snapshot_to_datum(position);

	if (evi_query_run(&update, &arg, NULL, 0) == 0)
		(void) evi_query_run(&insert, &arg, NULL, 0);
}

static const char *
outcome_name(const EviParcel *parcel)
{
	switch (parcel->report.outcome)
	{
		case EVI_OUTCOME_DELIVERED:
			return "delivered";
		case EVI_OUTCOME_RETRY:
			return "retry";
		default:
			return "dead";
	}
}

static Datum
or_null(const char *text, bool *isnull)
{
	*isnull = text == NULL;
	return text ? CStringGetTextDatum(text) : (Datum) 0;
}

static Datum
ms_or_null(double ms, bool *isnull)
{
	*isnull = ms < 0;
	return Float8GetDatum(ms);
}
