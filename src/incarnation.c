/*-------------------------------------------------------------------------
 *
 * incarnation.c
 *		Is this database the one that its events were recorded in?
 *
 * A copy must not do again what its original does: send mails, call other
 * services. So the database says where it is, by the server's system identifier
 * and its own OID, in a row that goes along with every copy. Where that row is
 * of somewhere else, or one that came with a dump stands beside our own, the
 * database is quiet: it records events, and dispatches none, until somebody
 * says what is to become of them (see resume.c).
 *
 * After pg_upgrade the system identifier is another one, and so is the layout
 * of the catalogs, while the database's OID is the same: that is no copy.
 *
 * What is known of it is kept in each session. Whoever changes the row
 * invalidates the relation cache's entry of the table, and with it that.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xlog.h"
#include "catalog/catversion.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/inval.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "evinbox.h"
#include "fetch.h"
#include "incarnation.h"
#include "query.h"
#include "relation.h"
#include "trigger.h"
#include "wakeup.h"

PG_FUNCTION_INFO_V1(evinbox_claim_database);
PG_FUNCTION_INFO_V1(evinbox_incarnation_changed);
PG_FUNCTION_INFO_V1(evinbox_dispatch_replicated);

/* the callback sets is_stale at any time, also while this is being read */
static struct
{
	bool		is_known;
	bool		is_stale;
	bool		callback_registered;
	Oid			relid;
	int			nrows;
	bool		is_quiet;
	bool		is_upgraded;	/* and the row does not say so yet */
	bool		dispatches_replicated;
}			state;

static void add_foreign_row(void);
static void read_rows(void);
static void forget(Datum arg, Oid relid);

/* Are events recorded here, but not dispatched? */
bool
evi_incarnation_is_quiet(void)
{
	read_rows();
	return state.is_quiet;
}

/* The same as of now: what another session has just committed is not known to the cache yet. */
bool
evi_incarnation_look(void)
{
	state.is_known = false;
	return evi_incarnation_is_quiet();
}

/* Are events dispatched that came by logical replication? */
bool
evi_incarnation_dispatches_replicated(void)
{
	read_rows();
	return state.dispatches_replicated;
}

/* Refuses what needs to know what has been dispatched here. */
void
evi_incarnation_require(void)
{
	if (evi_incarnation_is_quiet())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("dispatch is quiet in this database, which was restored or copied from another"),
				 errhint("Use SELECT evinbox.resume_after_restore('deliver') or ('discard').")));
}

/*
 * Rows of a dump are about to be stored. The database is quiet from the first
 * of them on, whatever comes next and when the dump's own row does. Beside
 * rules and events of this database they would mean something else.
 */
void
evi_incarnation_expect_copy(void)
{
	bool		is_used;

	if (evi_incarnation_is_quiet())
		return;
	PushActiveSnapshot(GetLatestSnapshot());
	is_used = evi_relation_count(EVI_INBOX, GetActiveSnapshot()) > 0 || evi_relation_count(EVI_ENDPOINT, SnapshotSelf) > 0 ||
		evi_fetch_highest(GetActiveSnapshot()) > 0;
	PopActiveSnapshot();

	/* another session may be restoring the same dump, and have begun just now */
	if (evi_incarnation_look())
		return;
	if (is_used)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("cannot restore a dump into a database that has rules, endpoints or events"),
				 errhint("Restore it into a new database.")));
	add_foreign_row();
}

/*
 * After an upgrade of the server: notes where the database is now. A copy
 * stays one: once it is upgraded itself, its single row could not be told from
 * that of an original. SPI is connected, in a section.
 */
void
evi_incarnation_stamp(void)
{
	read_rows();
	if (state.is_upgraded)
		evi_incarnation_claim();
	else if (state.is_quiet && state.nrows == 1)
		add_foreign_row();
}

/* This is the original from now on. SPI is connected, in a section. */
void
evi_incarnation_claim(void)
{
	static EviQuery replace = {
		.sql = "WITH former AS (DELETE FROM evinbox_internal.incarnation RETURNING dispatch_replicated)"
		" INSERT INTO evinbox_internal.incarnation"
		" SELECT $1, $2, $3, $4, COALESCE(pg_catalog.bool_or(dispatch_replicated), false) FROM former",
		.expected = SPI_OK_INSERT,
		.nargs = 4,
		.argtypes = {INT8OID, OIDOID, INT4OID, TIMESTAMPTZOID},
	};
	Datum		args[] = {Int64GetDatum((int64) GetSystemIdentifier()),
		ObjectIdGetDatum(MyDatabaseId), Int32GetDatum(CATALOG_VERSION_NO),
	TimestampTzGetDatum(GetCurrentTimestamp())};

	(void) evi_query_run(&replace, args, NULL, 0);
}

/* called by the installation script */
Datum
evinbox_claim_database(PG_FUNCTION_ARGS)
{
	evi_query_open();
	evi_incarnation_claim();
	evi_query_close();
	PG_RETURN_VOID();
}

/* AFTER any change FOR EACH STATEMENT */
Datum
evinbox_incarnation_changed(PG_FUNCTION_ARGS)
{
	evi_require_trigger(fcinfo);
	CacheInvalidateRelcache(((TriggerData *) fcinfo->context)->tg_relation);
	evi_wakeup_runners();
	evi_wakeup_coordinator();
	evi_wakeup_courier();
	return PointerGetDatum(NULL);
}

/* whether a subscriber dispatches what its publisher has recorded */
Datum
evinbox_dispatch_replicated(PG_FUNCTION_ARGS)
{
	static EviQuery update = {
		.sql = "UPDATE evinbox_internal.incarnation i SET dispatch_replicated = $1",
		.expected = SPI_OK_UPDATE,
		.nargs = 1,
		.argtypes = {BOOLOID},
	};
	Datum		arg = BoolGetDatum(PG_GETARG_BOOL(0));

	PreventCommandIfReadOnly("dispatch_replicated()");
	(void) evi_query_run_alone(&update, &arg, NULL);
	PG_RETURN_VOID();
}

/* A row that is of no database: it makes one quiet beside any other row. */
static void
add_foreign_row(void)
{
	static EviQuery insert = {
		.sql = "INSERT INTO evinbox_internal.incarnation"
		" (system_identifier, database_id, catalog_version, since, dispatch_replicated)"
		" VALUES (0, 0, $1, $2, false)",
		.expected = SPI_OK_INSERT,
		.nargs = 2,
		.argtypes = {INT4OID, TIMESTAMPTZOID},
	};
	Datum		args[] = {Int32GetDatum(CATALOG_VERSION_NO),
	TimestampTzGetDatum(GetCurrentTimestamp())};

	(void) evi_query_run_alone(&insert, args, NULL);
}

static void
read_rows(void)
{
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;
	bool		is_ours = false;

	if (state.is_known && !state.is_stale)
		return;
	if (!state.callback_registered)
		CacheRegisterRelcacheCallback(forget, (Datum) 0);
	state.callback_registered = true;
	state.is_known = state.is_stale = false;
	state.nrows = 0;
	state.is_upgraded = state.dispatches_replicated = false;
	state.relid = evi_relation_oid(EVI_INCARNATION);

	rel = table_open(state.relid, AccessShareLock);
	PushActiveSnapshot(GetLatestSnapshot());
	scan = table_beginscan(rel, GetActiveSnapshot(), 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Datum		values[Natts_incarnation];
		bool		isnull[Natts_incarnation];
		bool		is_this_system;
		bool		is_here;

		evi_relation_deform(EVI_INCARNATION, tuple, RelationGetDescr(rel), values, isnull);
		is_this_system = DatumGetInt64(values[Anum_incarnation_system_identifier - 1]) ==
			(int64) GetSystemIdentifier();
		state.nrows++;
		is_here = DatumGetObjectId(values[Anum_incarnation_database_id - 1]) == MyDatabaseId;
		is_ours = is_here && is_this_system;
		state.is_upgraded = is_here && !is_this_system &&
			DatumGetInt32(values[Anum_incarnation_catalog_version - 1]) < CATALOG_VERSION_NO;
		state.dispatches_replicated |=
			DatumGetBool(values[Anum_incarnation_dispatch_replicated - 1]);
	}
	table_endscan(scan);
	PopActiveSnapshot();
	table_close(rel, AccessShareLock);
	state.is_quiet = state.nrows != 1 || !(is_ours || state.is_upgraded);
	state.is_upgraded &= state.nrows == 1;
	state.is_known = true;
}

/* a relcache callback: no look-ups in here */
static void
forget(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == state.relid)
		state.is_stale = true;
}
