/*-------------------------------------------------------------------------
 *
 * intake.c
 *		Which requests a courier takes into its memory.
 *
 * New ones are what a snapshot sees and the former one did not: those of
 * transactions from the former xmax on, and of those that were unfinished then.
 * They are read in the order of (xid, id), in chunks, each in a transaction of
 * its own. What has no place in memory stands aside in request_waiting, and is
 * read from there when it is due and there is room, as are retries.
 *
 * The stored position is a snapshot; all requests that it sees are done with,
 * or stand in request_waiting. After a start, requests up to the snapshot of
 * that moment may have been done with by a predecessor: those with an attempt on
 * record are left out.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/transam.h"
#include "catalog/pg_type.h"
#include "lib/ilist.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/xid8.h"

#include "evinbox.h"
#include "intake.h"
#include "query.h"
#include "relation.h"
#include "waiting.h"

#define CHUNK 1000				/* requests, in a transaction */
#define STRETCH_MS 100			/* what is read in so short a time is done with together */
#define LAG_MS 5000				/* what takes longer does not hold the position */

/* requests that were read one after the other */
typedef struct EviStretch
{
	dlist_node	node;
	EviSnapshot *upto;			/* all that this sees was read in here or before */
	TimestampTz since;
	int			open;			/* so many are not done with */
} Stretch;

static MemoryContext intake_context = NULL;
static dlist_head stretches = DLIST_STATIC_INIT(stretches);
static EviSnapshot *seen = NULL;	/* all that it sees is read */
static EviSnapshot *position = NULL;	/* and done with */
static EviSnapshot *stored = NULL;
static EviSnapshot *doubtful = NULL;	/* of what it sees, some may have been done with */
static bool needs_flush = false;

/* where the reading of a difference stands; "upto" is NULL if there is none */
static struct
{
	EviSnapshot *upto;
	int			late;			/* of seen->xip, those before this one are dealt with */
	bool		in_rest;		/* and now come those from its xmax on */
	uint64		xid;			/* behind this request */
	int64		id;
	Stretch    *stretch;
}			reading;

static bool begin_reading(void);
static bool next_range(uint64 *end);
static uint64 read_range(uint64 end, TimestampTz now);
static void take_new(EviParcel *parcel, TimestampTz now, EviAside *aside);
static void end_reading(void);
static void let_pass(EviAside *aside, TimestampTz now);
static bool is_lagging(TimestampTz now);
static void put_aside(EviParcel *parcel, EviAside *aside);
static void advance(void);
static EviSnapshot *keep(const EviSnapshot *snapshot);

/* What a predecessor has left. SPI is connected, in a section. */
void
evi_intake_begin(void)
{
	static EviQuery select = {
		.sql = "SELECT c.done FROM evinbox_internal.courier c LIMIT 1",
		.expected = SPI_OK_SELECT,
		.nargs = 0,
	};
	const EviSnapshot nothing = {.xmin = 1, .xmax = 1};
	bool		isnull;

	intake_context = AllocSetContextCreate(TopMemoryContext, "evinbox intake",
										   ALLOCSET_DEFAULT_SIZES);
	if (evi_query_read(&select, NULL, NULL) > 0)
		stored = keep(evi_snapshot_from_datum(evi_query_value(0, 1, &isnull)));
	seen = keep(stored ? stored : &nothing);
	position = keep(seen);
	doubtful = keep(evi_snapshot_active());
	evi_waiting_load();
}

/* Reads a chunk of what is new. Returns whether there may be more. */
bool
evi_intake_read(TimestampTz now)
{
	uint64		end;

	if (!reading.upto && !begin_reading())
		return false;
	while (next_range(&end))
	{
		if (read_range(end, now) == CHUNK)
			return true;

		/* the range is read */
		reading.xid = end - 1;
		reading.id = PG_INT64_MAX;
	}
	end_reading();
	return false;
}

/* SPI is connected, in a section, and the transaction has no id. */
static bool
begin_reading(void)
{
	EviSnapshot *active = evi_snapshot_active();

	if (evi_snapshot_equal(active, seen))
		return false;
	reading.upto = keep(active);
	reading.late = 0;
	reading.in_rest = false;
	reading.xid = 0;
	reading.id = 0;
	reading.stretch = NULL;
	return true;
}

/* The range of transaction ids that is to be read on, from reading.xid and .id. */
static bool
next_range(uint64 *end)
{
	for (; reading.late < seen->nxip; reading.late++)
	{
		uint64		xid = seen->xip[reading.late];

		if (!evi_snapshot_sees(reading.upto, xid) || reading.xid >= xid + (reading.id == PG_INT64_MAX ? 0 : 1))
			continue;
		if (reading.xid < xid)
		{
			reading.xid = xid - 1;
			reading.id = PG_INT64_MAX;
		}
		*end = xid + 1;
		return true;
	}
	if (!reading.in_rest)
	{
		reading.in_rest = true;
		reading.xid = seen->xmax - 1;
		reading.id = PG_INT64_MAX;
	}
	*end = reading.upto->xmax;
	return reading.xid + 1 < *end || (reading.xid < *end && reading.id != PG_INT64_MAX);
}

/* Returns how many there were, CHUNK at the most. */
static uint64
read_range(uint64 end, TimestampTz now)
{
#define NEW_REQUESTS "SELECT " EVI_PARCEL_COLUMNS ", r.xid FROM evinbox_internal.request r" \
		" WHERE ROW(r.xid, r.id) OPERATOR(pg_catalog.>) ROW($1, $2)" \
		" AND r.xid OPERATOR(pg_catalog.<) $3" \
		" AND pg_catalog.pg_visible_in_snapshot(r.xid, $4)"
#define IN_ORDER " ORDER BY r.xid, r.id LIMIT $5"
	static EviQuery select = {
		.sql = NEW_REQUESTS IN_ORDER,
		.expected = SPI_OK_SELECT,
		.nargs = 5,
		.argtypes = {XID8OID, INT8OID, XID8OID, PG_SNAPSHOTOID, INT8OID},
	};
	static EviQuery select_doubtful = {
		.sql = NEW_REQUESTS
		" AND (SELECT true FROM evinbox_internal.webhook_attempt a"
		"  WHERE a.request_id OPERATOR(pg_catalog.=) r.id LIMIT 1) IS NULL"
		" AND (SELECT true FROM evinbox_internal.request_waiting w"
		"  WHERE w.request_id OPERATOR(pg_catalog.=) r.id LIMIT 1) IS NULL" IN_ORDER,
		.expected = SPI_OK_SELECT,
		.nargs = 5,
		.argtypes = {XID8OID, INT8OID, XID8OID, PG_SNAPSHOTOID, INT8OID},
	};
	Datum		args[] = {FullTransactionIdGetDatum(FullTransactionIdFromU64(reading.xid)),
		Int64GetDatum(reading.id), FullTransactionIdGetDatum(FullTransactionIdFromU64(end)),
	evi_snapshot_to_datum(reading.upto), Int64GetDatum(CHUNK)};
	uint64		count = evi_query_read(doubtful ? &select_doubtful : &select, args, NULL);
	SPITupleTable *rows = SPI_tuptable;
	EviAside   *aside = evi_waiting_open();
	bool		isnull;

	for (uint64 i = 0; i < count; i++)
	{
		EviParcel  *parcel = evi_parcel_read(rows, i);

		take_new(parcel, now, aside);
		reading.id = parcel->id;
	}
	if (count > 0)
	{
		Datum		xid = SPI_getbinval(rows->vals[count - 1], rows->tupdesc,
										EVI_PARCEL_NCOLUMNS + 1, &isnull);

		reading.xid = U64FromFullTransactionId(DatumGetFullTransactionId(xid));
		needs_flush = true;
	}
	evi_waiting_store(aside);
	SPI_freetuptable(rows);
	return count;
}

static void
take_new(EviParcel *parcel, TimestampTz now, EviAside *aside)
{
	if (!reading.stretch)
	{
		Stretch    *last = dlist_is_empty(&stretches) ? NULL :
			dlist_tail_element(Stretch, node, &stretches);

		if (!last || TimestampDifferenceExceeds(last->since, now, STRETCH_MS))
		{
			last = MemoryContextAllocZero(intake_context, sizeof(Stretch));
			last->since = now;
			dlist_push_tail(&stretches, &last->node);
		}
		reading.stretch = last;
	}
	parcel->stretch = reading.stretch;
	parcel->stretch->open++;
	if (!evi_pace_add(parcel, now))
		put_aside(parcel, aside);
}

static void
end_reading(void)
{
	if (reading.stretch)
	{
		if (reading.stretch->upto)
			pfree(reading.stretch->upto);
		reading.stretch->upto = keep(reading.upto);
	}
	pfree(seen);
	seen = reading.upto;
	reading.upto = NULL;
	reading.stretch = NULL;

	/* what comes from now on, nobody has known before us */
	if (doubtful && (evi_snapshot_equal(seen, doubtful) || evi_snapshot_is_ahead(seen, doubtful)))
	{
		pfree(doubtful);
		doubtful = NULL;

		/* all that was there may have been done with before us */
		if (dlist_is_empty(&stretches))
		{
			pfree(position);
			position = keep(seen);
		}
	}
	advance();
}

/*
 * An erasure has blanked requests that may be in memory. They are not sent any
 * more, unless they are under way. SPI is connected, in a section.
 */
void
evi_intake_heed_erasures(void)
{
	static EviQuery select = {
		.sql = "SELECT r.id FROM evinbox_internal.request r"
		" WHERE r.id OPERATOR(pg_catalog.=) ANY ($1) AND r.body IS NULL",
		.expected = SPI_OK_SELECT,
		.nargs = 1,
		.argtypes = {INT8ARRAYOID},
	};
	static uint64 heeded = 0;
	uint64		changes = evi_relation_changes();
	Datum	   *ids;
	Datum		arg;
	int			nids = 0;
	uint64		nerased;
	EviParcelScan scan;
	EviParcel  *parcel;

	if (changes == heeded)
		return;
	heeded = changes;
	if (evi_parcel_count() == 0)
		return;
	ids = palloc(sizeof(Datum) * evi_parcel_count());
	evi_parcel_scan(&scan);
	while ((parcel = evi_parcel_scan_next(&scan)) != NULL)
		ids[nids++] = Int64GetDatum(parcel->id);
	arg = evi_query_array(INT8OID, ids, NULL, nids);
	nerased = evi_query_read(&select, &arg, NULL);
	for (uint64 i = 0; i < nerased; i++)
	{
		bool		isnull;

		evi_parcel_find(DatumGetInt64(evi_query_value(i, 1, &isnull)))->fault = EVI_PARCEL_ERASED;
	}
	pfree(ids);
}

/* Puts aside what would be in memory for long. */
void
evi_intake_make_room(TimestampTz now)
{
	EviAside   *aside = evi_waiting_open();
	EviParcel  *parcel;

	while ((parcel = evi_pace_take_stale(now)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		if (parcel->is_waiting)
		{
			if (parcel->route->key > 0 && parcel->attempts == 0)
				parcel->route->aside++;
			evi_pace_note_due(parcel->route, now);
			evi_intake_finish(parcel);
		}
		else
			put_aside(parcel, aside);
	}
	if (is_lagging(now))
		let_pass(aside, now);
	evi_waiting_store(aside);
}

/* Transfers that take long are put on record, so that the position can pass them. */
static void
let_pass(EviAside *aside, TimestampTz now)
{
	EviParcelScan scan;
	EviParcel  *parcel;

	evi_parcel_scan(&scan);
	while ((parcel = evi_parcel_scan_next(&scan)) != NULL)
	{
		if (!parcel->stretch || parcel->report.outcome != EVI_OUTCOME_NONE ||
			!TimestampDifferenceExceeds(parcel->stretch->since, now, LAG_MS))
			continue;
		evi_waiting_add(aside, parcel);
		parcel->is_waiting = true;
		parcel->stretch->open--;
		parcel->stretch = NULL;
	}
	advance();
}

/* Has the position not moved for long, though there is something to pass? */
static bool
is_lagging(TimestampTz now)
{
	const Stretch *first;

	if (dlist_is_empty(&stretches))
		return false;
	first = dlist_head_element(Stretch, node, &stretches);
	return first != reading.stretch && TimestampDifferenceExceeds(first->since, now, LAG_MS);
}

/* The position does not pass it before this is committed, since that is stored later. */
static void
put_aside(EviParcel *parcel, EviAside *aside)
{
	evi_waiting_add(aside, parcel);
	if (parcel->route->key > 0)
		parcel->route->aside++;
	evi_pace_note_due(parcel->route, parcel->created_at);
	evi_intake_finish(parcel);
}

/* how long until what is in memory is to be put aside; -1 for never */
long
evi_intake_wait_ms(TimestampTz now)
{
	const Stretch *first;

	if (dlist_is_empty(&stretches))
		return -1;
	first = dlist_head_element(Stretch, node, &stretches);
	return (long) TimestampDifferenceMilliseconds(now, TimestampTzPlusMilliseconds(first->since,
																					 LAG_MS + 1));
}

/* Was something read that may not be on disk? Asked once. */
bool
evi_intake_needs_flush(void)
{
	bool		result = needs_flush;

	needs_flush = false;
	return result;
}

/* It is done with, or waits on record. */
void
evi_intake_finish(EviParcel *parcel)
{
	if (parcel->stretch)
		parcel->stretch->open--;
	evi_pace_forget(parcel);
	evi_parcel_free(parcel);
	advance();
}

/* The position passes what is done with. */
static void
advance(void)
{
	while (!dlist_is_empty(&stretches))
	{
		Stretch    *first = dlist_head_element(Stretch, node, &stretches);

		if (first->open > 0 || first == reading.stretch || !first->upto)
			return;
		pfree(position);
		position = first->upto;
		dlist_delete(&first->node);
		pfree(first);
	}
}

/* What is to be stored as the position; NULL if it has not changed. */
const EviSnapshot *
evi_intake_position(void)
{
	return stored && evi_snapshot_equal(stored, position) ? NULL : position;
}

/* That is committed. */
void
evi_intake_note_stored(const EviSnapshot *snapshot)
{
	if (stored)
		pfree(stored);
	stored = keep(snapshot);
}

static EviSnapshot *
keep(const EviSnapshot *snapshot)
{
	MemoryContext former = MemoryContextSwitchTo(intake_context);
	EviSnapshot *result = evi_snapshot_copy(snapshot);

	MemoryContextSwitchTo(former);
	return result;
}
