/*-------------------------------------------------------------------------
 *
 * waiting.c
 *		Requests that wait in a table, and not in a courier's memory.
 *
 * Those stand there that are to be tried again, and those that would have
 * queued for long: each endpoint's are read in the order in which they are due,
 * when it has room for them. Rows are left alone while their requests are in
 * memory, and are changed by what becomes of these. Dead ones are nobody's
 * business here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"

#include "evinbox.h"
#include "query.h"
#include "waiting.h"

#define MAX_ASIDE 1000			/* rows, by one statement */
#define POSTPONED_MS 10000		/* what is due and has no place comes back then */
#define POSTPONED_PER_S 1000	/* or later, if there is very much of it */

/* requests that are to be put aside */
struct EviAside
{
	int			count;
	Datum		ids[MAX_ASIDE];
	Datum		created[MAX_ASIDE];
	Datum		endpoints[MAX_ASIDE];
};

static int	in_memory(const EviRoute *route);
static void postpone(Datum *ids, int count, TimestampTz now);
static TimestampTz next_due(int32 key, TimestampTz now);

/* Who has something here, and from when on? SPI is connected, in a section, as in all of this. */
void
evi_waiting_load(void)
{
	static EviQuery select = {
		.sql = "SELECT w.endpoint_id, pg_catalog.min(w.next_at),"
		" pg_catalog.count(*) FILTER (WHERE w.state OPERATOR(pg_catalog.=) 'pending')"
		" FROM evinbox_internal.request_waiting w"
		" WHERE w.state OPERATOR(pg_catalog.<>) 'dead' GROUP BY w.endpoint_id",
		.expected = SPI_OK_SELECT,
		.nargs = 0,
	};
	uint64		count = evi_query_read(&select, NULL, NULL);

	for (uint64 i = 0; i < count; i++)
	{
		bool		isnull;
		EviRoute   *route = evi_pace_route(DatumGetInt32(evi_query_value(i, 1, &isnull)));

		route->next_due = DatumGetTimestampTz(evi_query_value(i, 2, &isnull));
		route->aside = (int) Min(DatumGetInt64(evi_query_value(i, 3, &isnull)), INT_MAX);
	}
	SPI_freetuptable(SPI_tuptable);
}

/* For requests that are to be put aside. */
EviAside *
evi_waiting_open(void)
{
	EviAside   *aside = palloc(sizeof(EviAside));

	aside->count = 0;
	return aside;
}

void
evi_waiting_add(EviAside *aside, EviParcel *parcel)
{
	aside->ids[aside->count] = Int64GetDatum(parcel->id);
	aside->created[aside->count] = TimestampTzGetDatum(parcel->created_at);
	aside->endpoints[aside->count++] = Int32GetDatum(parcel->endpoint_id);
	if (aside->count == MAX_ASIDE)
		evi_waiting_store(aside);
}

/* Stores those that were added. */
void
evi_waiting_store(EviAside *aside)
{
	static EviQuery insert = {
		.sql = "INSERT INTO evinbox_internal.request_waiting"
		" (request_id, created_at, endpoint_id, state, attempts, next_at)"
		" SELECT u.id, u.created_at, u.endpoint_id, 'pending', 0, u.created_at"
		" FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2), pg_catalog.unnest($3))"
		"  AS u (id, created_at, endpoint_id)"
		" ON CONFLICT (request_id) DO NOTHING",
		.expected = SPI_OK_INSERT,
		.nargs = 3,
		.argtypes = {INT8ARRAYOID, TIMESTAMPTZARRAYOID, INT4ARRAYOID},
	};
	Datum		args[] = {evi_query_array(INT8OID, aside->ids, NULL, aside->count),
		evi_query_array(TIMESTAMPTZOID, aside->created, NULL, aside->count),
	evi_query_array(INT4OID, aside->endpoints, NULL, aside->count)};

	if (aside->count > 0)
		(void) evi_query_run(&insert, args, NULL, 0);
	aside->count = 0;
}

/* Fills a queue from what waits for it. Returns whether it has taken any. */
bool
evi_waiting_fill(EviRoute *route, TimestampTz now)
{
	static EviQuery select = {
		.sql = "SELECT " EVI_PARCEL_COLUMNS ", w.request_id, w.attempts"
		" FROM (SELECT * FROM evinbox_internal.request_waiting q"
		"  WHERE q.endpoint_id OPERATOR(pg_catalog.=) $1 AND q.state OPERATOR(pg_catalog.<>) 'dead'"
		"  AND q.next_at OPERATOR(pg_catalog.<=) $2 ORDER BY q.next_at LIMIT $3) AS w"
		" LEFT JOIN LATERAL (SELECT * FROM evinbox_internal.request q"
		"  WHERE q.id OPERATOR(pg_catalog.=) w.request_id"
		"  AND q.created_at OPERATOR(pg_catalog.=) w.created_at LIMIT 1) AS r ON true"
		" ORDER BY w.next_at",
		.expected = SPI_OK_SELECT,
		.nargs = 3,
		.argtypes = {INT4OID, TIMESTAMPTZOID, INT8OID},
	};
	int64		limit = evi_pace_room(route) + in_memory(route);
	Datum		args[] = {Int32GetDatum(route->key), TimestampTzGetDatum(now), Int64GetDatum(limit)};
	uint64		count = evi_query_run(&select, args, NULL, 0);
	SPITupleTable *rows = SPI_tuptable;
	Datum	   *unfit = palloc(sizeof(Datum) * (count + 1));
	Datum	   *gone = palloc(sizeof(Datum) * (count + 1));
	int			ntaken = 0;
	int			nunfit = 0;
	int			ngone = 0;

	for (uint64 i = 0; i < count; i++)
	{
		bool		isnull;
		Datum		id = SPI_getbinval(rows->vals[i], rows->tupdesc, EVI_PARCEL_NCOLUMNS + 1, &isnull);
		Datum		attempts = SPI_getbinval(rows->vals[i], rows->tupdesc, EVI_PARCEL_NCOLUMNS + 2,
											 &isnull);
		EviParcel  *parcel;

		if (evi_parcel_find(DatumGetInt64(id)))
			continue;
		(void) SPI_getbinval(rows->vals[i], rows->tupdesc, 1, &isnull);
		if (isnull)
		{
			gone[ngone++] = id;
			continue;
		}
		parcel = evi_parcel_read(rows, i);
		parcel->is_waiting = true;
		parcel->attempts = DatumGetInt32(attempts);
		if (evi_pace_add(parcel, now))
		{
			ntaken++;
			continue;
		}
		evi_parcel_free(parcel);
		unfit[nunfit++] = id;

		/* a queue that is full has no place for the next one, either */
		if (route->key > 0)
			break;
	}
	SPI_freetuptable(rows);

	/* a queue that is full will ask again; one of several would go on asking in vain */
	if (route->key == 0)
		postpone(unfit, nunfit, now);
	evi_waiting_delete(gone, ngone);
	if (count == limit || (nunfit > 0 && route->key > 0))
		route->next_due = now;
	else
	{
		route->next_due = next_due(route->key, now);
		route->aside = 0;
	}
	return ntaken > 0;
}

/* an upper bound of how many that are due are in memory already */
static int
in_memory(const EviRoute *route)
{
	return route->key == 0 ? evi_parcel_count() : route->held;
}

/* The more there are of these, the later they come back: so many of them a second. */
static void
postpone(Datum *ids, int count, TimestampTz now)
{
	static TimestampTz upto = 0;
	static EviQuery update = {
		.sql = "UPDATE evinbox_internal.request_waiting SET next_at = $2"
		" WHERE request_id OPERATOR(pg_catalog.=) ANY ($1)",
		.expected = SPI_OK_UPDATE,
		.nargs = 2,
		.argtypes = {INT8ARRAYOID, TIMESTAMPTZOID},
	};
	Datum		args[2];

	if (count == 0)
		return;
	upto = Max(upto + count * USECS_PER_SEC / POSTPONED_PER_S,
			   TimestampTzPlusMilliseconds(now, POSTPONED_MS));
	args[0] = evi_query_array(INT8OID, ids, NULL, count);
	args[1] = TimestampTzGetDatum(upto);
	(void) evi_query_run(&update, args, NULL, 0);
}

/* Nothing waits of these requests any more. */
void
evi_waiting_delete(Datum *ids, int count)
{
	static EviQuery delete = {
		.sql = "DELETE FROM evinbox_internal.request_waiting"
		" WHERE request_id OPERATOR(pg_catalog.=) ANY ($1)",
		.expected = SPI_OK_DELETE,
		.nargs = 1,
		.argtypes = {INT8ARRAYOID},
	};
	Datum		arg = evi_query_array(INT8OID, ids, NULL, count);

	if (count > 0)
		(void) evi_query_run(&delete, &arg, NULL, 0);
}

/* when the next one is due, of those that are not yet */
static TimestampTz
next_due(int32 key, TimestampTz now)
{
	static EviQuery select = {
		.sql = "SELECT w.next_at FROM evinbox_internal.request_waiting w"
		" WHERE w.endpoint_id OPERATOR(pg_catalog.=) $1 AND w.state OPERATOR(pg_catalog.<>) 'dead'"
		" AND w.next_at OPERATOR(pg_catalog.>) $2 ORDER BY w.next_at LIMIT 1",
		.expected = SPI_OK_SELECT,
		.nargs = 2,
		.argtypes = {INT4OID, TIMESTAMPTZOID},
	};
	Datum		args[] = {Int32GetDatum(key), TimestampTzGetDatum(now)};
	bool		isnull;

	/* as of now: some of them may have just been postponed */
	if (evi_query_run(&select, args, NULL, 0) == 0)
		return DT_NOEND;
	return DatumGetTimestampTz(evi_query_value(0, 1, &isnull));
}
