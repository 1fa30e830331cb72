/*-------------------------------------------------------------------------
 *
 * delivery.c
 *		Events that an inbox could not handle, yet or at all; and inboxes
 *		whose rule cannot work as it stands.
 *
 * Nothing in here is on the way of success. The caller has a snapshot and,
 * for whatever changes a row, has locked the inbox.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "backoff.h"
#include "delivery.h"
#include "query.h"

#define MAX_BACKOFF_MS (24 * INT64CONST(3600) * 1000)

static uint64 run_query(EviQuery *query, Datum *args, const char *nulls, EviSection *section);
static void end_query(EviSection *section);
static uint64 run_alone(EviQuery *query, Datum *args, const char *nulls);

/*
 * Records that the attempts-th attempt has failed. Returns when the next one
 * is due, or DT_NOEND if this was the last.
 */
TimestampTz
evi_delivery_fail(const EviInbox *inbox, int64 event_id, int attempts, const ErrorData *error)
{
	static EviQuery upsert = {
		.sql = "INSERT INTO evinbox.delivery AS d (inbox, event_id, state, attempts, next_at,"
		" last_error, last_sqlstate, error_context, created_at, updated_at)"
		" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $9)"
		" ON CONFLICT (inbox, event_id) DO UPDATE SET"
		" state = excluded.state, attempts = excluded.attempts, next_at = excluded.next_at,"
		" last_error = excluded.last_error, last_sqlstate = excluded.last_sqlstate,"
		" error_context = excluded.error_context, updated_at = excluded.updated_at",
		.expected = SPI_OK_INSERT,
		.nargs = 9,
		.argtypes = {TEXTOID, INT8OID, TEXTOID, INT4OID, TIMESTAMPTZOID, TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID},
	};
	bool		dead = attempts >= inbox->max_attempts;
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz next_at = now + 1000 * evi_backoff_jittered_ms(inbox->backoff_ms, attempts, MAX_BACKOFF_MS);
	const char *message = error->message ? error->message : "unknown error";
	Datum		args[9] = {
		CStringGetTextDatum(inbox->name),
		Int64GetDatum(event_id),
		CStringGetTextDatum(dead ? "dead" : "retry"),
		Int32GetDatum(attempts),
		TimestampTzGetDatum(next_at),
		CStringGetTextDatum(message),
		CStringGetTextDatum(unpack_sql_state(error->sqlerrcode)),
		error->context ? CStringGetTextDatum(error->context) : (Datum) 0,
		TimestampTzGetDatum(now),
	};
	char		nulls[] = "         ";

	nulls[4] = dead ? 'n' : ' ';
	nulls[7] = error->context ? ' ' : 'n';
	(void) run_alone(&upsert, args, nulls);
	return dead ? DT_NOEND : next_at;
}

/* A retry was a success, or is not wanted any more. */
void
evi_delivery_done(const EviInbox *inbox, int64 event_id)
{
	static EviQuery delete = {
		.sql = "DELETE FROM evinbox.delivery d WHERE d.inbox OPERATOR(pg_catalog.=) $1"
		" AND d.event_id OPERATOR(pg_catalog.=) $2",
		.expected = SPI_OK_DELETE,
		.nargs = 2,
		.argtypes = {TEXTOID, INT8OID},
	};
	Datum		args[] = {CStringGetTextDatum(inbox->name), Int64GetDatum(event_id)};

	(void) run_alone(&delete, args, NULL);
}

/* how often it was tried, if it is still to be retried; else 0 */
int
evi_delivery_attempts(const EviInbox *inbox, int64 event_id)
{
	static EviQuery select = {
		.sql = "SELECT d.attempts FROM evinbox.delivery d WHERE d.inbox OPERATOR(pg_catalog.=) $1"
		" AND d.event_id OPERATOR(pg_catalog.=) $2 AND d.state OPERATOR(pg_catalog.=) 'retry'",
		.expected = SPI_OK_SELECT,
		.nargs = 2,
		.argtypes = {TEXTOID, INT8OID},
	};
	Datum		args[] = {CStringGetTextDatum(inbox->name), Int64GetDatum(event_id)};
	EviSection	section;
	int			result = 0;
	bool		isnull;

	if (run_query(&select, args, NULL, &section) > 0)
		result = DatumGetInt32(evi_query_value(0, 1, &isnull));
	end_query(&section);
	return result;
}

/* what is to be retried now, longest due first; returns their number */
int
evi_delivery_due(const EviInbox *inbox, int most, MemoryContext context, EviDue **due)
{
	static EviQuery select = {
		.sql = "SELECT d.event_id, d.attempts FROM evinbox.delivery d"
		" WHERE d.inbox OPERATOR(pg_catalog.=) $1 AND d.state OPERATOR(pg_catalog.=) 'retry'"
		" AND d.next_at OPERATOR(pg_catalog.<=) $2 ORDER BY d.next_at LIMIT $3",
		.expected = SPI_OK_SELECT,
		.nargs = 3,
		.argtypes = {TEXTOID, TIMESTAMPTZOID, INT8OID},
	};
	Datum		args[] = {CStringGetTextDatum(inbox->name),
	TimestampTzGetDatum(GetCurrentTimestamp()), Int64GetDatum(most)};
	EviSection	section;
	int			count = (int) run_query(&select, args, NULL, &section);
	bool		isnull;

	*due = MemoryContextAlloc(context, sizeof(EviDue) * Max(count, 1));
	for (int i = 0; i < count; i++)
	{
		(*due)[i].event_id = DatumGetInt64(evi_query_value(i, 1, &isnull));
		(*due)[i].attempts = DatumGetInt32(evi_query_value(i, 2, &isnull));
	}
	end_query(&section);
	return count;
}

/* when the next retry is due; DT_NOEND if there is none */
TimestampTz
evi_delivery_next(const EviInbox *inbox)
{
	static EviQuery select = {
		.sql = "SELECT d.next_at FROM evinbox.delivery d"
		" WHERE d.inbox OPERATOR(pg_catalog.=) $1 AND d.state OPERATOR(pg_catalog.=) 'retry'"
		" ORDER BY d.next_at LIMIT 1",
		.expected = SPI_OK_SELECT,
		.nargs = 1,
		.argtypes = {TEXTOID},
	};
	Datum		args[] = {CStringGetTextDatum(inbox->name)};
	EviSection	section;
	TimestampTz result = DT_NOEND;
	bool		isnull;

	if (run_query(&select, args, NULL, &section) > 0)
		result = DatumGetTimestampTz(evi_query_value(0, 1, &isnull));
	end_query(&section);
	return result;
}

void
evi_halt_set(const EviInbox *inbox, const char *reason)
{
	static EviQuery upsert = {
		.sql = "INSERT INTO evinbox_internal.halt (inbox_id, reason, halted_at) VALUES ($1, $2, $3)"
		" ON CONFLICT (inbox_id) DO UPDATE SET reason = excluded.reason"
		" WHERE halt.reason OPERATOR(pg_catalog.<>) excluded.reason",
		.expected = SPI_OK_INSERT,
		.nargs = 3,
		.argtypes = {INT4OID, TEXTOID, TIMESTAMPTZOID},
	};
	Datum		args[] = {Int32GetDatum(inbox->id), CStringGetTextDatum(reason),
	TimestampTzGetDatum(GetCurrentTimestamp())};

	(void) run_alone(&upsert, args, NULL);
}

bool
evi_halt_exists(int32 inbox_id)
{
	static EviQuery select = {
		.sql = "SELECT FROM evinbox_internal.halt h WHERE h.inbox_id OPERATOR(pg_catalog.=) $1",
		.expected = SPI_OK_SELECT,
		.nargs = 1,
		.argtypes = {INT4OID},
	};
	Datum		args[] = {Int32GetDatum(inbox_id)};

	return run_alone(&select, args, NULL) > 0;
}

void
evi_halt_clear(int32 inbox_id)
{
	static EviQuery delete = {
		.sql = "DELETE FROM evinbox_internal.halt h WHERE h.inbox_id OPERATOR(pg_catalog.=) $1",
		.expected = SPI_OK_DELETE,
		.nargs = 1,
		.argtypes = {INT4OID},
	};
	Datum		args[] = {Int32GetDatum(inbox_id)};

	(void) run_alone(&delete, args, NULL);
}

/* to be followed by end_query(), when the rows have been read */
static uint64
run_query(EviQuery *query, Datum *args, const char *nulls, EviSection *section)
{
	evi_query_open();
	evi_section_enter(section);
	return evi_query_run(query, args, nulls, 0);
}

static void
end_query(EviSection *section)
{
	evi_section_leave(section);
	evi_query_close();
}

static uint64
run_alone(EviQuery *query, Datum *args, const char *nulls)
{
	EviSection	section;
	uint64		result = run_query(query, args, nulls, &section);

	end_query(&section);
	return result;
}
