/*-------------------------------------------------------------------------
 *
 * journal.c
 *		Partitions of what was sent, by the day.
 *
 * Requests and attempts are kept for evinbox.webhook_log_retention, and go with
 * the partition of their day. Those of the next days are made ahead, while
 * nothing is in their range yet; what comes in a day without one, as the first
 * ones after the extension was created, is in the default partition, which is
 * emptied when all in it has expired.
 *
 * A request that is not dealt with, or waits for another attempt, keeps its
 * partition. Attempts stay as long as requests of their day or an earlier one
 * do, wherever these are: they tell a courier what is done with.
 *
 * Each partition is made, dropped or emptied in a transaction of its own, which
 * does nothing else under its locks.
 *
 * Days are those of UTC. Whoever needs the tables is kept waiting for a moment
 * at the most; as long as somebody is in the way, ever more rarely.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/namespace.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "commands/extension.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "backoff.h"
#include "brief.h"
#include "evinbox.h"
#include "guc.h"
#include "journal.h"
#include "query.h"
#include "relation.h"

#define DAYS_AHEAD 3
#define FIRST_PAUSE_MS 1000	/* before what could not be done is tried again */
#define MAX_PAUSE_MS 300000
#define REQUESTS "request"
#define ATTEMPTS "webhook_attempt"

/* a partition that there is, or is to be */
typedef struct Day
{
	const char *table;			/* REQUESTS, ATTEMPTS */
	Oid			relid;			/* if it is there */
	int64		number;			/* days since 2000-01-01 */
	bool		is_in_use;		/* somebody was in the way */
	TimestampTz limit;			/* if it is a default partition: it goes if all in it is older */
} Day;

/* when to look again, and by which setting that was found out */
static TimestampTz next_at = 0;
static int	known_retention_s = 0;
static int	failures = 0;		/* looks in a row that did nothing, and left something undone */

/* has this look done something? that is all then */
static bool has_done = false;

/* have requests gone, and dead letters perhaps not? */
static bool has_forgotten = false;

static bool do_next(TimestampTz now);
static bool attempt(EviBriefWork which, bool (*work) (void *arg), Day *day);
static bool make_days(const char *table, int64 today);
static bool make(void *arg);
static bool lock_out_makers(void);
static void make_in_extension(const Day *day);
static bool drop_days(const char *table, TimestampTz expired, int64 *oldest);
static List *days_of(const char *table);
static int64 number_of(const char *table, const char *name);
static int	compare_days(const ListCell *a, const ListCell *b);
static bool is_needed(TimestampTz from, TimestampTz to);
static bool drop(void *arg);
static void heed_default(int64 *oldest);
static bool empty_default(const char *table, TimestampTz limit);
static bool truncate_default(void *arg);
static void forget_dead(void);
static bool has_since(const char *table, TimestampTz since);
static Oid	oid_of(const char *table);
static char *date_of(int64 number);
static int64 day_of(TimestampTz at);
static TimestampTz start_of(int64 number);

/*
 * Makes, drops or empties one thing that it is time for. Returns whether to go
 * on, in another transaction. What others are in the way of is tried again later.
 */
bool
evi_journal_keep(void)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		left;

	if (now < next_at && evi_guc_webhook_log_retention_s() == known_retention_s)
		return false;
	known_retention_s = evi_guc_webhook_log_retention_s();
	next_at = start_of(day_of(now) + 1);
	has_done = false;
	left = do_next(now);

	if (has_done)
		failures = 0;
	if (left)
		next_at = Min(next_at, TimestampTzPlusMilliseconds(now,
														   evi_backoff_ms(FIRST_PAUSE_MS, ++failures,
																		  MAX_PAUSE_MS)));
	else if (has_done)
		next_at = now;
	else
		failures = 0;
	return has_done && !left;
}

/* how long it is until there is something to do */
long
evi_journal_wait_ms(void)
{
	return Max(TimestampDifferenceMilliseconds(GetCurrentTimestamp(), next_at), 1);
}

/* Returns whether something could not be done. */
static bool
do_next(TimestampTz now)
{
	TimestampTz expired = now - known_retention_s * USECS_PER_SEC;
	int64		today = day_of(now);
	int64		oldest = PG_INT64_MAX;
	bool		left;

	if (has_forgotten)
	{
		forget_dead();
		has_forgotten = false;
		has_done = true;
		return false;
	}
	left = make_days(REQUESTS, today);
	left |= make_days(ATTEMPTS, today);
	left |= empty_default(REQUESTS, expired);
	left |= drop_days(REQUESTS, expired, &oldest);
	heed_default(&oldest);
	left |= empty_default(ATTEMPTS, oldest < PG_INT64_MAX ? Min(expired, start_of(oldest)) : expired);
	left |= drop_days(ATTEMPTS, expired, &oldest);
	return left;
}

/* Returns whether it is done. */
static bool
attempt(EviBriefWork which, bool (*work) (void *arg), Day *day)
{
	if (!evi_brief_try(which, work, day))
		return false;
	has_done = true;
	if (which != EVI_BRIEF_MAKE_DAY && strcmp(day->table, REQUESTS) == 0)
		has_forgotten = true;
	return true;
}

static bool
make_days(const char *table, int64 today)
{
	bool		left = false;

	for (int64 number = today + 1; number <= today + DAYS_AHEAD && !has_done; number++)
	{
		Day			day = {.table = table, .number = number};

		if (!OidIsValid(oid_of(psprintf("%s_%s", table, date_of(number)))))
			left |= !attempt(EVI_BRIEF_MAKE_DAY, make, &day);
	}
	return left;
}

static bool
make(void *arg)
{
	const Day  *day = arg;

	if (!lock_out_makers() ||
		!ConditionalLockRelationOid(oid_of(day->table), ShareUpdateExclusiveLock) ||
		!ConditionalLockRelationOid(oid_of(psprintf("%s_default", day->table)),
									AccessExclusiveLock))
		return false;
	make_in_extension(day);
	return true;
}

/* A restore makes partitions of events, and would change the extension's row at the same time. */
static bool
lock_out_makers(void)
{
	return ConditionalLockRelationOid(evi_relation_oid(EVI_EVENT), ShareUpdateExclusiveLock);
}

/* What is made belongs to the extension, and its rows to a dump. */
static void
make_in_extension(const Day *day)
{
	bool		was_creating = creating_extension;
	Oid			former = CurrentExtensionObject;
	char	   *name = psprintf(EVI_INTERNAL_SCHEMA ".%s_%s", day->table, date_of(day->number));

	creating_extension = true;
	CurrentExtensionObject = get_extension_oid(EVI_EXTENSION, false);
	PG_TRY();
	{
		evi_query_utility(psprintf("CREATE TABLE %s (LIKE " EVI_INTERNAL_SCHEMA ".%s INCLUDING DEFAULTS"
								   " INCLUDING CONSTRAINTS INCLUDING INDEXES INCLUDING STORAGE)",
								   name, day->table));
		/* as the other partitions have it */
		if (strcmp(day->table, REQUESTS) == 0)
			evi_query_utility(psprintf("ALTER TABLE %s ENABLE ROW LEVEL SECURITY", name));
		evi_query_utility(psprintf("ALTER TABLE " EVI_INTERNAL_SCHEMA ".%s ATTACH PARTITION %s"
								   " FOR VALUES FROM ('%s 00:00:00+00') TO ('%s 00:00:00+00')",
								   day->table, name, date_of(day->number), date_of(day->number + 1)));
		evi_query_select(psprintf("SELECT pg_catalog.pg_extension_config_dump('%s', '')", name));
	}
	PG_FINALLY();
	{
		creating_extension = was_creating;
		CurrentExtensionObject = former;
	}
	PG_END_TRY();
}

/* From the oldest on; attempts only if their requests are gone. Tells the oldest one that stays. */
static bool
drop_days(const char *table, TimestampTz expired, int64 *oldest)
{
	bool		left = false;
	int64		limit = *oldest;
	ListCell   *lc;

	if (has_done)
		return false;
	foreach(lc, days_of(table))
	{
		Day		   *day = lfirst(lc);

		CHECK_FOR_INTERRUPTS();
		if (start_of(day->number + 1) > expired)
		{
			next_at = Min(next_at, start_of(day->number + 1) + known_retention_s * USECS_PER_SEC);
			*oldest = Min(*oldest, day->number);
			break;
		}
		if (day->number < limit &&
			(strcmp(table, REQUESTS) != 0 ||
			 !is_needed(start_of(day->number), start_of(day->number + 1))))
		{
			if (attempt(EVI_BRIEF_DROP_DAY, drop, day))
				return left;
			left = true;
		}
		*oldest = Min(*oldest, day->number);

		/* whoever reads the table as a whole is in the way of the next, too */
		if (day->is_in_use)
			break;
	}
	return left;
}

/* the partitions by the day, oldest first */
static List *
days_of(const char *table)
{
	List	   *result = NIL;
	ListCell   *lc;

	foreach(lc, find_inheritance_children(oid_of(table), NoLock))
	{
		char	   *name = get_rel_name(lfirst_oid(lc));
		int64		number = name ? number_of(table, name) : -1;
		Day		   *day;

		if (number < 0)
			continue;
		day = palloc(sizeof(Day));
		*day = (Day) {.table = table, .relid = lfirst_oid(lc), .number = number};
		result = lappend(result, day);
	}
	list_sort(result, compare_days);
	return result;
}

/* which day a partition's name says; -1 if none */
static int64
number_of(const char *table, const char *name)
{
	size_t		length = strlen(table);
	int			date;

	if (strncmp(name, table, length) != 0 || name[length] != '_' ||
		strlen(name + length + 1) != 8 || strspn(name + length + 1, "0123456789") != 8)
		return -1;
	date = atoi(name + length + 1);
	return date2j(date / 10000, date / 100 % 100, date % 100) - POSTGRES_EPOCH_JDATE;
}

static int
compare_days(const ListCell *a, const ListCell *b)
{
	const Day  *left = lfirst(a);
	const Day  *right = lfirst(b);

	return (left->number > right->number) - (left->number < right->number);
}

/* Is there a request of that time that is not dealt with, or waits? */
static bool
is_needed(TimestampTz from, TimestampTz to)
{
	static EviQuery select = {
		.sql = "SELECT EXISTS (SELECT FROM evinbox_internal.request_waiting w"
		"  WHERE w.created_at OPERATOR(pg_catalog.>=) $1 AND w.created_at OPERATOR(pg_catalog.<) $2"
		"  AND w.state OPERATOR(pg_catalog.<>) 'dead')"
		" OR EXISTS (SELECT FROM evinbox_internal.request r"
		"  WHERE r.created_at OPERATOR(pg_catalog.>=) $1 AND r.created_at OPERATOR(pg_catalog.<) $2"
		"  AND r.xid OPERATOR(pg_catalog.>=) COALESCE("
		"   (SELECT pg_catalog.pg_snapshot_xmin(c.done) FROM evinbox_internal.courier c LIMIT 1), '0')"
		"  AND pg_catalog.pg_visible_in_snapshot(r.xid,"
		"   (SELECT c.done FROM evinbox_internal.courier c LIMIT 1)) IS NOT TRUE)",
		.expected = SPI_OK_SELECT,
		.nargs = 2,
		.argtypes = {TIMESTAMPTZOID, TIMESTAMPTZOID},
	};
	Datum		args[] = {TimestampTzGetDatum(from), TimestampTzGetDatum(to)};
	bool		isnull;

	(void) evi_query_run(&select, args, NULL, 0);
	return DatumGetBool(evi_query_value(0, 1, &isnull));
}

static bool
drop(void *arg)
{
	Day		   *day = arg;
	char	   *name = psprintf(EVI_INTERNAL_SCHEMA ".%s_%s", day->table, date_of(day->number));

	day->is_in_use = !lock_out_makers() ||
		!evi_brief_lock(oid_of(day->table), InvalidOid, day->relid);

	/* a transaction of that time may have been open when we looked first */
	if (day->is_in_use ||
		(strcmp(day->table, REQUESTS) == 0 &&
		 is_needed(start_of(day->number), start_of(day->number + 1))))
		return false;
	evi_query_utility(psprintf("ALTER EXTENSION " EVI_EXTENSION " DROP TABLE %s", name));
	evi_query_utility(psprintf("DROP TABLE %s", name));
	return true;
}

/* Requests in the default partition may be older than all others. */
static void
heed_default(int64 *oldest)
{
	static EviQuery select = {
		.sql = "SELECT pg_catalog.min(r.created_at) FROM evinbox_internal.request_default r",
		.expected = SPI_OK_SELECT,
		.nargs = 0,
	};
	Datum		first;
	bool		isnull;

	if (has_done)
		return;
	(void) evi_query_run(&select, NULL, NULL, 0);
	first = evi_query_value(0, 1, &isnull);
	if (!isnull)
		*oldest = Min(*oldest, day_of(DatumGetTimestampTz(first)));
}

/* If there is something in it, and nothing from the limit on. */
static bool
empty_default(const char *table, TimestampTz limit)
{
	Relation	rel;
	bool		is_empty;
	Day			day = {.table = table, .limit = limit};

	if (has_done)
		return false;
	rel = relation_open(oid_of(psprintf("%s_default", table)), AccessShareLock);
	is_empty = RelationGetNumberOfBlocks(rel) == 0;
	day.relid = RelationGetRelid(rel);
	relation_close(rel, AccessShareLock);
	if (is_empty || has_since(table, limit) ||
		(strcmp(table, REQUESTS) == 0 && is_needed(DT_NOBEGIN, limit)))
		return false;
	return !attempt(EVI_BRIEF_EMPTY_DAYS, truncate_default, &day);
}

/* A transaction of an expired time may have been open when we looked first. */
static bool
truncate_default(void *arg)
{
	const Day  *day = arg;

	if (!ConditionalLockRelationOid(day->relid, AccessExclusiveLock) ||
		has_since(day->table, day->limit) ||
		(strcmp(day->table, REQUESTS) == 0 && is_needed(DT_NOBEGIN, day->limit)))
		return false;
	evi_query_utility(psprintf("TRUNCATE " EVI_INTERNAL_SCHEMA ".%s_default", day->table));
	return true;
}

/* Without their requests, they cannot be tried again. */
static void
forget_dead(void)
{
	static EviQuery delete = {
		.sql = "DELETE FROM evinbox_internal.request_waiting w"
		" WHERE w.state OPERATOR(pg_catalog.=) 'dead' AND (SELECT true FROM evinbox_internal.request r"
		"  WHERE r.id OPERATOR(pg_catalog.=) w.request_id"
		"  AND r.created_at OPERATOR(pg_catalog.=) w.created_at LIMIT 1) IS NULL",
		.expected = SPI_OK_DELETE,
		.nargs = 0,
	};

	(void) evi_query_run(&delete, NULL, NULL, 0);
}

/* Has the default partition anything since then? */
static bool
has_since(const char *table, TimestampTz since)
{
	static EviQuery select_requests = {
		.sql = "SELECT FROM evinbox_internal.request_default r"
		" WHERE r.created_at OPERATOR(pg_catalog.>=) $1 LIMIT 1",
		.expected = SPI_OK_SELECT,
		.nargs = 1,
		.argtypes = {TIMESTAMPTZOID},
	};
	static EviQuery select_attempts = {
		.sql = "SELECT FROM evinbox_internal.webhook_attempt_default a"
		" WHERE a.started_at OPERATOR(pg_catalog.>=) $1 LIMIT 1",
		.expected = SPI_OK_SELECT,
		.nargs = 1,
		.argtypes = {TIMESTAMPTZOID},
	};
	Datum		arg = TimestampTzGetDatum(since);

	return evi_query_run(strcmp(table, REQUESTS) == 0 ? &select_requests : &select_attempts,
						 &arg, NULL, 0) > 0;
}

static Oid
oid_of(const char *table)
{
	return get_relname_relid(table, get_namespace_oid(EVI_INTERNAL_SCHEMA, false));
}

/* as it stands in names, and as PostgreSQL reads it */
static char *
date_of(int64 number)
{
	int			year;
	int			month;
	int			day;

	j2date((int) number + POSTGRES_EPOCH_JDATE, &year, &month, &day);
	return psprintf("%04d%02d%02d", year, month, day);
}

/* before 2000 as well */
static int64
day_of(TimestampTz at)
{
	return at >= 0 ? at / USECS_PER_DAY : -1 - (-1 - at) / USECS_PER_DAY;
}

static TimestampTz
start_of(int64 number)
{
	return number * USECS_PER_DAY;
}
