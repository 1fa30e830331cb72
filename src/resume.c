/*-------------------------------------------------------------------------
 *
 * resume.c
 *		SQL entry point of going on in a restored or copied database.
 *
 * The tables are those of the original: cursors, and an outbox whose
 * transaction ids mean nothing here, or something else. Together they still
 * say which events each lane had before it. That becomes the lanes' backlog,
 * or is forgotten; and so with what was recorded here meanwhile, of which only
 * the ids were noted. Then the outbox is emptied, and everybody begins anew. So
 * with requests: those that were not sent wait to be, or are dead.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "division.h"
#include "evinbox.h"
#include "inbox.h"
#include "incarnation.h"
#include "owner.h"
#include "query.h"
#include "registry.h"
#include "relation.h"
#include "snapshot.h"
#include "wakeup.h"

PG_FUNCTION_INFO_V1(evinbox_resume_after_restore);

static bool parse_mode(const char *mode);
static void lock_out_writers(void);
static void advance_sequences(void);
static int64 *read_waiting(int *count);
static void restart_inboxes(bool deliver);
static void skip_retries(void);
static void restart_requests(bool deliver);
static Datum get_position(void);
static void find_request_owners(void);

Datum
evinbox_resume_after_restore(PG_FUNCTION_ARGS)
{
	bool		deliver = parse_mode(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	EviSection	section;

	PreventCommandIfReadOnly("resume_after_restore()");
	lock_out_writers();
	if (!evi_incarnation_is_quiet())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("dispatch is not quiet in this database")));

	evi_query_open();
	evi_section_enter(&section);
	advance_sequences();
	restart_inboxes(deliver);
	for (int i = 0; i < EVI_OUTBOX_SEGMENTS; i++)
		evi_query_utility(psprintf("TRUNCATE evinbox_internal.outbox_%d", i));
	evi_query_utility("TRUNCATE evinbox_internal.waiting");
	if (!deliver)
		skip_retries();
	restart_requests(deliver);
	evi_incarnation_claim();
	evi_section_leave(&section);
	evi_query_close();

	/* roles that were not there when their rules were restored may be there now */
	evi_owner_find_by_name(true);
	find_request_owners();

	/* a copy made while the library was not loaded is not */
	evi_registry_set(MyDatabaseId, true);
	evi_wakeup_launcher();
	evi_wakeup_courier();
	PG_RETURN_VOID();
}

static bool
parse_mode(const char *mode)
{
	if (strcmp(mode, "deliver") != 0 && strcmp(mode, "discard") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unrecognized value for mode: \"%s\"", mode),
				 errhint("Use \"deliver\" to dispatch what was not dispatched when the database was copied, and \"discard\" to forget it.")));
	return mode[1] == 'e';
}

/* Waits for those who have recorded something: it is to be seen. */
static void
lock_out_writers(void)
{
	LockRelationOid(evi_relation_oid(EVI_EVENT), ShareRowExclusiveLock);
	for (int i = 0; i < EVI_OUTBOX_SEGMENTS; i++)
		LockRelationOid(evi_relation_oid(EVI_OUTBOX + i), AccessExclusiveLock);
	LockRelationOid(evi_relation_oid(EVI_WAITING), AccessExclusiveLock);
	LockRelationOid(evi_relation_oid(EVI_REQUEST), ShareRowExclusiveLock);
}

/*
 * A dump has the numbers of cursors and backlogs, but not the sequences that
 * gave them: set back in a database that is in use, these would be its ruin.
 */
static void
advance_sequences(void)
{
	evi_query_select("SELECT pg_catalog.setval('evinbox_internal.cursor_seq', pg_catalog.max(s.n))"
					 " FROM (SELECT c.last_value FROM evinbox_internal.cursor_seq c"
					 " UNION ALL SELECT c.seq FROM evinbox_internal.cursor_0 c"
					 " UNION ALL SELECT c.seq FROM evinbox_internal.cursor_1 c) AS s (n)");
	evi_query_select("SELECT pg_catalog.setval('evinbox_internal.backlog_seq_seq', pg_catalog.max(s.n))"
					 " FROM (SELECT b.last_value FROM evinbox_internal.backlog_seq_seq b"
					 " UNION ALL SELECT b.seq FROM evinbox_internal.backlog b"
					 " UNION ALL SELECT c.backlog_seq FROM evinbox_internal.cursor_0 c"
					 " UNION ALL SELECT c.backlog_seq FROM evinbox_internal.cursor_1 c) AS s (n)");
	evi_query_select("SELECT pg_catalog.setval('evinbox_internal.request_id_seq', pg_catalog.max(s.n))"
					 " FROM (SELECT q.last_value FROM evinbox_internal.request_id_seq q"
					 " UNION ALL SELECT r.id FROM evinbox_internal.request r) AS s (n)");
}

static void
restart_inboxes(bool deliver)
{
	int			count = 0;
	int64	   *ids = deliver ? read_waiting(&count) : NULL;
	ListCell   *lc;

	PushActiveSnapshot(GetLatestSnapshot());
	foreach(lc, evi_inbox_all(GetActiveSnapshot()))
		evi_division_restart(lfirst(lc), deliver, ids, count);
	PopActiveSnapshot();
}

/* the events that were recorded while the database was quiet, sorted */
static int64 *
read_waiting(int *count)
{
	Relation	rel = evi_relation_open(EVI_WAITING, AccessShareLock);
	int			room = 1024;
	int64	   *ids = palloc(sizeof(int64) * room);
	TableScanDesc scan;
	HeapTuple	tuple;

	PushActiveSnapshot(GetLatestSnapshot());
	scan = table_beginscan(rel, GetActiveSnapshot(), 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		bool		isnull;

		CHECK_FOR_INTERRUPTS();
		if (*count == room)
		{
			room *= 2;
			ids = repalloc_huge(ids, sizeof(int64) * room);
		}
		ids[(*count)++] = DatumGetInt64(heap_getattr(tuple, Anum_waiting_event_id,
													   RelationGetDescr(rel), &isnull));
	}
	table_endscan(scan);
	PopActiveSnapshot();
	table_close(rel, AccessShareLock);
	qsort(ids, *count, sizeof(int64), evi_compare_ids);
	return ids;
}

static void
skip_retries(void)
{
	static EviQuery update = {
		.sql = "UPDATE evinbox.delivery d SET state = 'skipped', next_at = NULL, updated_at = $1,"
		" last_error = 'discarded by resume_after_restore()' WHERE d.state OPERATOR(pg_catalog.=) 'retry'",
		.expected = SPI_OK_UPDATE,
		.nargs = 1,
		.argtypes = {TIMESTAMPTZOID},
	};
	Datum		arg = TimestampTzGetDatum(GetCurrentTimestamp());

	(void) evi_query_run(&update, &arg, NULL, 0);
}

/*
 * What was not yet sent waits, or is dead. Requests that came with a dump have
 * transaction ids of somewhere else: those that are still to come here are made
 * such as never were, or a courier would find the requests anew one day. What
 * was sent again is the newest request's matter.
 */
static void
restart_requests(bool deliver)
{
	static EviQuery hide = {
		.sql = "UPDATE evinbox_internal.request r SET xid = '0'"
		" WHERE r.xid OPERATOR(pg_catalog.>=) pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())"
		" AND r.xid OPERATOR(pg_catalog.<>) pg_catalog.pg_current_xact_id()",
		.expected = SPI_OK_UPDATE,
	};
	static EviQuery add = {
		.sql = "INSERT INTO evinbox_internal.request_waiting"
		" (request_id, created_at, endpoint_id, state, attempts, next_at)"
		" SELECT r.id, r.created_at, COALESCE(r.endpoint_id, 0), 'pending',"
		" COALESCE((SELECT pg_catalog.max(a.number) FROM evinbox_internal.webhook_attempt a"
		" WHERE a.request_id OPERATOR(pg_catalog.=) r.id), 0), $1"
		" FROM evinbox_internal.request r"
		" WHERE r.xid OPERATOR(pg_catalog.<>) pg_catalog.pg_current_xact_id()"
		" AND NOT EXISTS (SELECT FROM evinbox_internal.webhook_attempt a"
		" WHERE a.request_id OPERATOR(pg_catalog.=) r.id AND a.outcome OPERATOR(pg_catalog.<>) 'retry')"
		" AND NOT EXISTS (SELECT FROM evinbox_internal.request n"
		" WHERE n.message_id OPERATOR(pg_catalog.=) r.message_id AND n.id OPERATOR(pg_catalog.>) r.id)"
		" ON CONFLICT (request_id) DO NOTHING",
		.expected = SPI_OK_INSERT,
		.nargs = 1,
		.argtypes = {TIMESTAMPTZOID},
	};
	static EviQuery discard = {
		.sql = "UPDATE evinbox_internal.request_waiting w SET state = 'dead',"
		" last_error = 'discarded by resume_after_restore()' WHERE w.state OPERATOR(pg_catalog.<>) 'dead'",
		.expected = SPI_OK_UPDATE,
	};
	static EviQuery begin = {
		.sql = "WITH former AS (DELETE FROM evinbox_internal.courier)"
		" INSERT INTO evinbox_internal.courier VALUES ($1)",
		.expected = SPI_OK_INSERT,
		.nargs = 1,
		.argtypes = {PG_SNAPSHOTOID},
	};
	static EviQuery forget = {
		.sql = "DELETE FROM evinbox_internal.endpoint_state",
		.expected = SPI_OK_DELETE,
	};
	Datum		arg = TimestampTzGetDatum(GetCurrentTimestamp());
	Datum		done = get_position();

	(void) evi_query_run(&hide, NULL, NULL, 0);
	(void) evi_query_run(&add, &arg, NULL, 0);
	if (!deliver)
		(void) evi_query_run(&discard, NULL, NULL, 0);
	(void) evi_query_run(&begin, &done, NULL, 0);
	(void) evi_query_run(&forget, NULL, NULL, 0);
}

/*
 * What the transaction sees of others: the queries do, and whoever could queue
 * something meanwhile is locked out. Its own requests are still to be sent.
 */
static Datum
get_position(void)
{
	EviSnapshot *snapshot;

	PushActiveSnapshot(GetTransactionSnapshot());
	snapshot = evi_snapshot_without(evi_snapshot_active(),
									U64FromFullTransactionId(GetTopFullTransactionId()));
	PopActiveSnapshot();
	return evi_snapshot_to_datum(snapshot);
}

/* Requests and attempts that came with a dump have lost theirs, see evi_restoring_finish(). */
static void
find_request_owners(void)
{
	static EviQuery updates[] = {
		{
			.sql = "UPDATE evinbox_internal.request r SET owner_id = COALESCE("
			"(SELECT p.owner_id FROM evinbox.endpoint p WHERE p.id OPERATOR(pg_catalog.=) r.endpoint_id),"
			" (SELECT i.owner_id FROM evinbox.inbox i WHERE i.id OPERATOR(pg_catalog.=) r.inbox_id), 0)"
			" WHERE r.owner_id OPERATOR(pg_catalog.=) 0",
			.expected = SPI_OK_UPDATE,
		},
		{
			.sql = "UPDATE evinbox_internal.webhook_attempt a SET owner_id = r.owner_id"
			" FROM evinbox_internal.request r WHERE r.id OPERATOR(pg_catalog.=) a.request_id"
			" AND a.owner_id OPERATOR(pg_catalog.=) 0 AND r.owner_id OPERATOR(pg_catalog.<>) 0",
			.expected = SPI_OK_UPDATE,
		},
	};

	for (int i = 0; i < lengthof(updates); i++)
		(void) evi_query_run_alone(&updates[i], NULL, NULL);
}
