/*-------------------------------------------------------------------------
 *
 * closing.c
 *		What a courier stores about endpoints that fail.
 *
 * A row of endpoint_state goes when the endpoint works again. An endpoint that
 * is to be disabled is, and an event tells of it. Nobody is waited for: an
 * endpoint that somebody else has locked, perhaps to delete it, comes another
 * time; until then we know by ourselves.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/json.h"

#include "brief.h"
#include "closing.h"
#include "event.h"
#include "evinbox.h"
#include "pace.h"
#include "query.h"
#include "recording.h"

/* an endpoint that has just been disabled */
typedef struct Disabled
{
	Datum		name;
	Datum		scope;
	bool		has_no_scope;
	const char *fault;
} Disabled;

static bool store_state(void *arg);
static bool insert_state(const EviRoute *route);
static bool disable(const EviRoute *route);
static void record_event(const Disabled *disabled);

/* What a predecessor has found out. SPI is connected, in a section. */
void
evi_closing_load(void)
{
	static EviQuery select = {
		.sql = "SELECT s.endpoint_id, s.failures, s.failing_since, s.closed_until"
		" FROM evinbox_internal.endpoint_state s",
		.expected = SPI_OK_SELECT,
		.nargs = 0,
	};
	uint64		count = evi_query_read(&select, NULL, NULL);

	for (uint64 i = 0; i < count; i++)
	{
		bool		isnull;
		EviRoute   *route = evi_pace_route(DatumGetInt32(evi_query_value(i, 1, &isnull)));
		Datum		closed_until;

		route->failures = DatumGetInt32(evi_query_value(i, 2, &isnull));
		route->failing_since = DatumGetTimestampTz(evi_query_value(i, 3, &isnull));
		closed_until = evi_query_value(i, 4, &isnull);
		if (!isnull)
			route->closed_until = DatumGetTimestampTz(closed_until);
		route->is_stored = true;
	}
	SPI_freetuptable(SPI_tuptable);
}

/* Whatever has changed. SPI is connected, in a section. */
void
evi_closing_store(void)
{
	List	   *left = NIL;
	EviRoute   *route;
	ListCell   *lc;

	while ((route = evi_pace_changed()) != NULL)
	{
		route->is_changed = false;

		/* with an endpoint, its row goes as well */
		if (!route->peer)
			continue;
		if (evi_brief_try(EVI_BRIEF_STORE_ENDPOINT, store_state, route))
		{
			route->is_told = route->fault != NULL;
			route->is_stored = route->failing_since != 0;
		}
		else
			left = lappend(left, route);
	}
	foreach(lc, left)
		((EviRoute *) lfirst(lc))->is_changed = true;
}

/* Returns false if somebody has the endpoint locked. */
static bool
store_state(void *arg)
{
	static EviQuery delete = {
		.sql = "DELETE FROM evinbox_internal.endpoint_state"
		" WHERE endpoint_id OPERATOR(pg_catalog.=) $1",
		.expected = SPI_OK_DELETE,
		.nargs = 1,
		.argtypes = {INT4OID},
	};
	const EviRoute *route = arg;
	Datum		key = Int32GetDatum(route->key);

	if (route->fault && !route->is_told && !disable(route))
		return false;
	if (route->failing_since != 0)
		return insert_state(route);
	(void) evi_query_run(&delete, &key, NULL, 0);
	return true;
}

/* The endpoint's row is locked first, so that checking the foreign key waits for nobody. */
static bool
insert_state(const EviRoute *route)
{
	static EviQuery insert = {
		.sql = "INSERT INTO evinbox_internal.endpoint_state"
		" (endpoint_id, failures, failing_since, closed_until)"
		" SELECT e.id, $2, $3, $4 FROM evinbox.endpoint e"
		" WHERE e.id OPERATOR(pg_catalog.=) $1 FOR KEY SHARE SKIP LOCKED"
		" ON CONFLICT (endpoint_id) DO UPDATE SET failures = excluded.failures,"
		" failing_since = excluded.failing_since, closed_until = excluded.closed_until",
		.expected = SPI_OK_INSERT,
		.nargs = 4,
		.argtypes = {INT4OID, INT4OID, TIMESTAMPTZOID, TIMESTAMPTZOID},
	};
	Datum		args[] = {Int32GetDatum(route->key), Int32GetDatum(route->failures),
	TimestampTzGetDatum(route->failing_since), TimestampTzGetDatum(route->closed_until)};
	char		nulls[] = {' ', ' ', ' ', route->closed_until == 0 ? 'n' : ' '};

	return evi_query_run(&insert, args, nulls, 0) > 0;
}

/* Returns false if somebody has it locked. If it is disabled already, nothing happens. */
static bool
disable(const EviRoute *route)
{
	static EviQuery lock = {
		.sql = "SELECT e.enabled, e.name, e.scope FROM evinbox.endpoint e"
		" WHERE e.id OPERATOR(pg_catalog.=) $1 FOR UPDATE SKIP LOCKED",
		.expected = SPI_OK_SELECT,
		.nargs = 1,
		.argtypes = {INT4OID},
	};
	static EviQuery update = {
		.sql = "UPDATE evinbox.endpoint SET enabled = false, disabled_reason = $2"
		" WHERE id OPERATOR(pg_catalog.=) $1",
		.expected = SPI_OK_UPDATE,
		.nargs = 2,
		.argtypes = {INT4OID, TEXTOID},
	};
	Datum		args[] = {Int32GetDatum(route->key), CStringGetTextDatum(route->fault)};
	Disabled	disabled = {.fault = route->fault};
	bool		is_enabled;
	bool		isnull;
	int			guc_level;

	if (evi_query_run(&lock, args, NULL, 0) == 0)
		return false;
	is_enabled = DatumGetBool(evi_query_value(0, 1, &isnull));
	disabled.name = PointerGetDatum(DatumGetTextPCopy(evi_query_value(0, 2, &isnull)));
	disabled.scope = evi_query_value(0, 3, &disabled.has_no_scope);
	if (!disabled.has_no_scope)
		disabled.scope = PointerGetDatum(DatumGetTextPCopy(disabled.scope));
	if (!is_enabled)
		return true;

	/* no trigger of others, with our rights */
	guc_level = NewGUCNestLevel();
	(void) set_config_option("session_replication_role", "replica", PGC_SUSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	(void) evi_query_run(&update, args, NULL, 0);
	AtEOXact_GUC(true, guc_level);
	record_event(&disabled);
	ereport(LOG,
			(errmsg("endpoint \"%s\" is disabled: %s", TextDatumGetCString(disabled.name),
					disabled.fault),
			 errhint("Set evinbox.endpoint.enabled again when it works.")));
	return true;
}

static void
record_event(const Disabled *disabled)
{
	Datum		values[Natts_event] = {0};
	bool		isnull[Natts_event];
	StringInfoData metadata;
	volatile int64 id = 0;
	bool		is_ours;

	memset(isnull, true, sizeof(isnull));
	initStringInfo(&metadata);
	appendStringInfoString(&metadata, "{\"reason\": ");
	escape_json(&metadata, disabled->fault);
	appendStringInfoChar(&metadata, '}');
	values[Anum_event_subject_type - 1] = CStringGetTextDatum("evinbox.endpoint");
	values[Anum_event_subject_id - 1] = disabled->name;
	values[Anum_event_action - 1] = CStringGetTextDatum("disabled");
	values[Anum_event_scope - 1] = disabled->scope;
	values[Anum_event_metadata - 1] = DirectFunctionCall1(jsonb_in, CStringGetDatum(metadata.data));
	isnull[Anum_event_subject_type - 1] = isnull[Anum_event_subject_id - 1] = false;
	isnull[Anum_event_action - 1] = isnull[Anum_event_metadata - 1] = false;
	isnull[Anum_event_scope - 1] = disabled->has_no_scope;
	is_ours = evi_event_set_ours(true);
	PG_TRY();
	{
		id = evi_recording_record_directly(values, isnull);
	}
	PG_FINALLY();
	{
		(void) evi_event_set_ours(is_ours);
	}
	PG_END_TRY();
	if (id == 0)
		ereport(LOG,
				(errmsg("no event tells that endpoint \"%s\" is disabled",
						TextDatumGetCString(disabled->name)),
				 errdetail("Somebody has added to evinbox.event what would run with a superuser's rights.")));
}
