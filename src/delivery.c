/*-------------------------------------------------------------------------
 *
 * delivery.c
 *		Events that an inbox could not handle, yet or at all; attempts that
 *		may not end; and inboxes whose rule cannot work as it stands.
 *
 * Nothing in here is on the way of success. The caller has a snapshot and,
 * for whatever changes a row, has locked a lane of the inbox; only retry() and
 * discard() in operate.c change deliveries without that.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "delivery.h"
#include "evinbox.h"
#include "query.h"
#include "relation.h"
#include "shmem.h"

/*
 * Deliveries go by the inbox's name. The one that we know may be another
 * rule's by now, even another role's; the id is not.
 */
#define INBOX_NAME \
	"(SELECT i.name FROM evinbox.inbox i WHERE i.id OPERATOR(pg_catalog.=) $1)"

static char *describe_context(const ErrorData *error);
static uint64 run_query(EviQuery *query, Datum *args, const char *nulls, EviSection *section);
static void end_query(EviSection *section);

/* Records that an event was not handled, why, and what becomes of it. */
void
evi_delivery_fail(const EviInbox *inbox, int64 event_id, const EviOutcome *outcome,
				  const ErrorData *error)
{
	static EviQuery upsert = {
		.sql = "INSERT INTO evinbox.delivery AS d (inbox, event_id, state, attempts, next_at,"
		" last_error, last_sqlstate, error_context, created_at, updated_at)"
		" SELECT i.name, $2, $3, $4, $5, $6, $7, $8, $9, $9 FROM evinbox.inbox i"
		" WHERE i.id OPERATOR(pg_catalog.=) $1"
		" ON CONFLICT (inbox, event_id) DO UPDATE SET"
		" state = excluded.state, attempts = excluded.attempts, next_at = excluded.next_at,"
		" last_error = excluded.last_error, last_sqlstate = excluded.last_sqlstate,"
		" error_context = excluded.error_context, updated_at = excluded.updated_at",
		.expected = SPI_OK_INSERT,
		.nargs = 9,
		.argtypes = {INT4OID, INT8OID, TEXTOID, INT4OID, TIMESTAMPTZOID, TEXTOID, TEXTOID, TEXTOID, TIMESTAMPTZOID},
	};
	const char *message = error->message ? error->message : "unknown error";
	char	   *context = describe_context(error);
	Datum		args[9] = {
		Int32GetDatum(inbox->id),
		Int64GetDatum(event_id),
		CStringGetTextDatum(outcome->state),
		Int32GetDatum(outcome->attempts),
		TimestampTzGetDatum(outcome->next_at),
		CStringGetTextDatum(message),
		CStringGetTextDatum(unpack_sql_state(error->sqlerrcode)),
		context ? CStringGetTextDatum(context) : (Datum) 0,
		TimestampTzGetDatum(GetCurrentTimestamp()),
	};
	char		nulls[] = "         ";

	nulls[4] = outcome->next_at == DT_NOEND ? 'n' : ' ';
	nulls[7] = context ? ' ' : 'n';
	(void) evi_query_run_alone(&upsert, args, nulls);
}

/* A retry was a success, or is not wanted any more. False if its row is gone. */
bool
evi_delivery_done(const EviInbox *inbox, int64 event_id)
{
	static EviQuery delete = {
		.sql = "DELETE FROM evinbox.delivery d WHERE d.inbox OPERATOR(pg_catalog.=) " INBOX_NAME
		" AND d.event_id OPERATOR(pg_catalog.=) $2",
		.expected = SPI_OK_DELETE,
		.nargs = 2,
		.argtypes = {INT4OID, INT8OID},
	};
	Datum		args[] = {Int32GetDatum(inbox->id), Int64GetDatum(event_id)};

	return evi_query_run_alone(&delete, args, NULL) > 0;
}

/* how often it has failed, if it is to be retried; else -1 */
int
evi_delivery_attempts(const EviInbox *inbox, int64 event_id)
{
	static EviQuery select = {
		.sql = "SELECT d.attempts FROM evinbox.delivery d WHERE d.inbox OPERATOR(pg_catalog.=) " INBOX_NAME
		" AND d.event_id OPERATOR(pg_catalog.=) $2 AND d.state OPERATOR(pg_catalog.=) 'retry'",
		.expected = SPI_OK_SELECT,
		.nargs = 2,
		.argtypes = {INT4OID, INT8OID},
	};
	Datum		args[] = {Int32GetDatum(inbox->id), Int64GetDatum(event_id)};
	EviSection	section;
	int			result = -1;
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
		.sql = "SELECT d.event_id, d.attempts, d.updated_at FROM evinbox.delivery d"
		" WHERE d.inbox OPERATOR(pg_catalog.=) " INBOX_NAME " AND d.state OPERATOR(pg_catalog.=) 'retry'"
		" AND d.next_at OPERATOR(pg_catalog.<=) $2 ORDER BY d.next_at LIMIT $3",
		.expected = SPI_OK_SELECT,
		.nargs = 3,
		.argtypes = {INT4OID, TIMESTAMPTZOID, INT8OID},
	};
	Datum		args[] = {Int32GetDatum(inbox->id),
	TimestampTzGetDatum(GetCurrentTimestamp()), Int64GetDatum(most)};
	EviSection	section;
	int			count = (int) run_query(&select, args, NULL, &section);
	bool		isnull;

	*due = MemoryContextAlloc(context, sizeof(EviDue) * Max(count, 1));
	for (int i = 0; i < count; i++)
	{
		(*due)[i].event_id = DatumGetInt64(evi_query_value(i, 1, &isnull));
		(*due)[i].attempts = DatumGetInt32(evi_query_value(i, 2, &isnull));
		(*due)[i].failed_at = DatumGetTimestampTz(evi_query_value(i, 3, &isnull));
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
		" WHERE d.inbox OPERATOR(pg_catalog.=) " INBOX_NAME " AND d.state OPERATOR(pg_catalog.=) 'retry'"
		" ORDER BY d.next_at LIMIT 1",
		.expected = SPI_OK_SELECT,
		.nargs = 1,
		.argtypes = {INT4OID},
	};
	Datum		args[] = {Int32GetDatum(inbox->id)};
	EviSection	section;
	TimestampTz result = DT_NOEND;
	bool		isnull;

	if (run_query(&select, args, NULL, &section) > 0)
		result = DatumGetTimestampTz(evi_query_value(0, 1, &isnull));
	end_query(&section);
	return result;
}

void
evi_halt_set(const EviInbox *inbox, const char *reason, int looks, TimestampTz next_look_at)
{
	static EviQuery upsert = {
		.sql = "INSERT INTO evinbox_internal.halt (inbox_id, reason, halted_at, looks, next_look_at)"
		" VALUES ($1, $2, $3, $4, $5)"
		" ON CONFLICT (inbox_id) DO UPDATE SET reason = excluded.reason, looks = excluded.looks,"
		" next_look_at = excluded.next_look_at",
		.expected = SPI_OK_INSERT,
		.nargs = 5,
		.argtypes = {INT4OID, TEXTOID, TIMESTAMPTZOID, INT4OID, TIMESTAMPTZOID},
	};
	Datum		args[] = {Int32GetDatum(inbox->id), CStringGetTextDatum(reason),
		TimestampTzGetDatum(GetCurrentTimestamp()), Int32GetDatum(looks),
	TimestampTzGetDatum(next_look_at)};

	(void) evi_query_run_alone(&upsert, args, NULL);
}

/* all inboxes that are halted, of any owner */
List *
evi_halt_all(Snapshot snapshot)
{
	EviScan		scan;
	HeapTuple	tuple;
	List	   *result = NIL;

	evi_scan_begin(&scan, EVI_HALT, snapshot, 0, NULL);
	while ((tuple = evi_scan_next(&scan, ForwardScanDirection)) != NULL)
	{
		EviHalt    *halt = palloc(sizeof(EviHalt));
		Datum		values[Natts_halt];
		bool		isnull[Natts_halt];

		evi_relation_deform(EVI_HALT, tuple, RelationGetDescr(scan.table), values, isnull);
		halt->inbox_id = DatumGetInt32(values[Anum_halt_inbox_id - 1]);
		halt->looks = DatumGetInt32(values[Anum_halt_looks - 1]);
		halt->next_look_at = DatumGetTimestampTz(values[Anum_halt_next_look_at - 1]);
		result = lappend(result, halt);
	}
	evi_scan_end(&scan);
	return result;
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

	(void) evi_query_run_alone(&delete, args, NULL);
}

/*
 * An event is about to be tried. Returns how often that was so, this time
 * included; an attempt after which nothing has ended is none.
 */
int
evi_attempt_begin(const EviInbox *inbox, int64 event_id)
{
	static EviQuery upsert = {
		.sql = "INSERT INTO evinbox_internal.attempt AS a (inbox_id, event_id, attempts, started_at)"
		" VALUES ($1, $2, 1, $3) ON CONFLICT (inbox_id, event_id) DO UPDATE SET started_at = $3,"
		" attempts = a.attempts OPERATOR(pg_catalog.+)"
		" CASE WHEN a.started_at OPERATOR(pg_catalog.<) $4 THEN 1 ELSE 0 END"
		" RETURNING attempts",
		.expected = SPI_OK_INSERT_RETURNING,
		.nargs = 4,
		.argtypes = {INT4OID, INT8OID, TIMESTAMPTZOID, TIMESTAMPTZOID},
	};
	Datum		args[] = {Int32GetDatum(inbox->id), Int64GetDatum(event_id),
		TimestampTzGetDatum(GetCurrentTimestamp()),
	TimestampTzGetDatum(evi_shmem_unclean_end())};
	EviSection	section;
	int			result;
	bool		isnull;

	(void) run_query(&upsert, args, NULL, &section);
	result = DatumGetInt32(evi_query_value(0, 1, &isnull));
	end_query(&section);
	return result;
}

/* how often it was tried, as far as that is on record */
int
evi_attempt_count(const EviInbox *inbox, int64 event_id)
{
	static EviQuery select = {
		.sql = "SELECT a.attempts FROM evinbox_internal.attempt a WHERE a.inbox_id OPERATOR(pg_catalog.=) $1"
		" AND a.event_id OPERATOR(pg_catalog.=) $2",
		.expected = SPI_OK_SELECT,
		.nargs = 2,
		.argtypes = {INT4OID, INT8OID},
	};
	Datum		args[] = {Int32GetDatum(inbox->id), Int64GetDatum(event_id)};
	EviSection	section;
	int			result = 0;
	bool		isnull;

	if (run_query(&select, args, NULL, &section) > 0)
		result = DatumGetInt32(evi_query_value(0, 1, &isnull));
	end_query(&section);
	return result;
}

/* That has ended, well or not. */
void
evi_attempt_end(const EviInbox *inbox, int64 event_id)
{
	static EviQuery delete = {
		.sql = "DELETE FROM evinbox_internal.attempt a WHERE a.inbox_id OPERATOR(pg_catalog.=) $1"
		" AND a.event_id OPERATOR(pg_catalog.=) $2",
		.expected = SPI_OK_DELETE,
		.nargs = 2,
		.argtypes = {INT4OID, INT8OID},
	};
	Datum		args[] = {Int32GetDatum(inbox->id), Int64GetDatum(event_id)};

	(void) evi_query_run_alone(&delete, args, NULL);
}

/* detail, hint and call stack of an error, as they are usually shown; or NULL */
static char *
describe_context(const ErrorData *error)
{
	StringInfoData text;

	if (!error->detail && !error->hint)
		return error->context;
	initStringInfo(&text);
	if (error->detail)
		appendStringInfo(&text, "DETAIL:  %s", error->detail);
	if (error->hint)
		appendStringInfo(&text, "%sHINT:  %s", text.len > 0 ? "\n" : "", error->hint);
	if (error->context)
		appendStringInfo(&text, "\nCONTEXT:  %s", error->context);
	return text.data;
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
