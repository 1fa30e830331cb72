/*-------------------------------------------------------------------------
 *
 * context.c
 *		What is said once and holds for all events that are recorded then: who
 *		acts, in whose world, in which request, as parts of which batch.
 *
 * All of it are settings, which end with the transaction, if set by the
 * functions here, and with a subtransaction that is rolled back. The batches
 * that are open are one, too, which only these functions can set.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "tcop/utility.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "context.h"
#include "guc.h"
#include "query.h"

PG_FUNCTION_INFO_V1(evinbox_set_context);
PG_FUNCTION_INFO_V1(evinbox_begin_batch);
PG_FUNCTION_INFO_V1(evinbox_end_batch);

static Jsonb *parse_context(const char *context);
static void point_at_setting(void *arg);
static void set_local(const char *name, const char *value, GucContext by);

/* The actor of an event for which somebody has given this one, or NULL. */
text *
evi_context_actor(text *given)
{
	const char *actor = evi_guc_actor();
	EviActorSource source = evi_guc_actor_source();

	if (source == EVI_ACTOR_ANY && given)
		return given;
	if (source == EVI_ACTOR_SESSION_USER)
		actor = GetUserNameFromId(GetSessionUserId(), false);
	if (given && strcmp(text_to_cstring(given), actor) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("actor of an event cannot be chosen"),
				 errdetail("evinbox.actor_source says that it is %s.",
						   source == EVI_ACTOR_CONTEXT ? "the setting evinbox.actor" : "the session user"),
				 errhint("Leave it out.")));
	return actor[0] != '\0' ? cstring_to_text(actor) : NULL;
}

/* the scope of events that are recorded without one, or NULL */
text *
evi_context_scope(void)
{
	const char *scope = evi_guc_scope();

	return scope[0] != '\0' ? cstring_to_text(scope) : NULL;
}

/*
 * Metadata as it is stored: the context goes over it, so that nobody can forge
 * what that says. NULL stands for none.
 */
Jsonb *
evi_context_metadata(Jsonb *metadata)
{
	static char *source = NULL;
	static Jsonb *parsed;
	const char *context = evi_guc_context();

	if (!metadata)
		metadata = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")));
	if (context[0] == '\0' || !JB_ROOT_IS_OBJECT(metadata))
		return metadata;

	if (!source || strcmp(source, context) != 0)
	{
		Jsonb	   *fresh = parse_context(context);
		Jsonb	   *copy = MemoryContextAlloc(TopMemoryContext, VARSIZE(fresh));

		memcpy(copy, fresh, VARSIZE(fresh));
		if (source)
		{
			pfree(source);
			pfree(parsed);
		}
		source = MemoryContextStrdup(TopMemoryContext, context);
		parsed = copy;
	}
	return DatumGetJsonbP(DirectFunctionCall2(jsonb_concat, JsonbPGetDatum(metadata),
											  JsonbPGetDatum(parsed)));
}

/* without what is null: there is nothing to say about it */
static Jsonb *
parse_context(const char *context)
{
	ErrorContextCallback callback = {.callback = point_at_setting};
	Jsonb	   *result;

	callback.previous = error_context_stack;
	error_context_stack = &callback;
	result = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(context)));
	if (!JB_ROOT_IS_OBJECT(result))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("evinbox.context must be a JSON object")));
	error_context_stack = callback.previous;

	/* newer servers take a second argument */
	return DatumGetJsonbP(DirectFunctionCall2(jsonb_strip_nulls, JsonbPGetDatum(result),
											  BoolGetDatum(false)));
}

static void
point_at_setting(void *arg)
{
	errcontext("setting \"evinbox.context\"");
}

/* the innermost batch that is open, or 0 */
int64
evi_context_batch(void)
{
	return strtoll(evi_guc_batch(), NULL, 10);
}

Datum
evinbox_set_context(PG_FUNCTION_ARGS)
{
	char	   *context = "";

	if (!PG_ARGISNULL(0))
	{
		Jsonb	   *value = PG_GETARG_JSONB_P(0);

		if (!JB_ROOT_IS_OBJECT(value))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("context must be a JSON object"),
					 errhint("Write it as '{\"key\": value}'.")));
		context = JsonbToCString(NULL, &value->root, VARSIZE(value));
	}
	set_local("evinbox.context", context, PGC_USERSET);
	if (!PG_ARGISNULL(1))
		set_local("evinbox.actor", text_to_cstring(PG_GETARG_TEXT_PP(1)), PGC_USERSET);
	PG_RETURN_VOID();
}

Datum
evinbox_begin_batch(PG_FUNCTION_ARGS)
{
	static EviQuery insert = {
		.sql = "INSERT INTO evinbox.batch (description, actor, started_at)"
		" VALUES ($1, $2, $3) RETURNING id",
		.expected = SPI_OK_INSERT_RETURNING,
		.nargs = 3,
		.argtypes = {TEXTOID, TEXTOID, TIMESTAMPTZOID},
	};
	text	   *actor = evi_context_actor(NULL);
	Datum		args[] = {PG_GETARG_DATUM(0), PointerGetDatum(actor),
	TimestampTzGetDatum(GetCurrentTimestamp())};
	const char	nulls[] = {PG_ARGISNULL(0) ? 'n' : ' ', actor ? ' ' : 'n', ' '};
	EviSection	section;
	bool		isnull;
	int64		id;

	PreventCommandIfReadOnly("begin_batch()");
	evi_query_open();
	evi_section_enter(&section);
	(void) evi_query_run(&insert, args, nulls, 0);
	id = DatumGetInt64(evi_query_value(0, 1, &isnull));
	evi_section_leave(&section);
	evi_query_close();

	set_local("evinbox.batch", psprintf(INT64_FORMAT " %s", id, evi_guc_batch()), PGC_INTERNAL);
	PG_RETURN_INT64(id);
}

Datum
evinbox_end_batch(PG_FUNCTION_ARGS)
{
	const char *batches = evi_guc_batch();

	if (batches[0] == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("no batch has begun in this transaction"),
				 errhint("Batches end with their transaction: call begin_batch() and end_batch() in the same one.")));
	set_local("evinbox.batch", pstrdup(strchr(batches, ' ') + 1), PGC_INTERNAL);
	PG_RETURN_VOID();
}

/* as SET LOCAL does */
static void
set_local(const char *name, const char *value, GucContext by)
{
	(void) set_config_option(name, value, by, PGC_S_SESSION, GUC_ACTION_LOCAL, true, 0, false);
}
