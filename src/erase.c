/*-------------------------------------------------------------------------
 *
 * erase.c
 *		SQL entry points of erasure: the one exception to append-only.
 *
 * The personal part of events is blanked, in place; that they happened stays.
 * Rows are changed directly, without the executor, so that no trigger has to be
 * told to let this through, and nobody else can have it let through. EXECUTE is
 * all the right that is needed, as for record_event().
 *
 * One erasure at a time, with the latest snapshot: whoever erases at REPEATABLE
 * READ means what is there now, too.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_type.h"
#include "common/cryptohash.h"
#include "common/sha2.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/inval.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "added.h"
#include "blank.h"
#include "event.h"
#include "evinbox.h"
#include "query.h"
#include "relation.h"
#include "wakeup.h"

/* whose erasure: a pseudonym stands in the event that tells of it, see digest() */
#define ACTOR_TYPE "evinbox.actor"

/* deliveries are looked for by so many events at once */
#define CHUNK 10000

/* of record_event() */
#define RECORD_ARGS 10
#define ARG_SUBJECT_TYPE 0
#define ARG_SUBJECT_ID 1
#define ARG_ACTION 2
#define ARG_METADATA 4

/* which events, and what has been done */
typedef struct Erasure
{
	EviEventIndex index;
	int			nkeys;
	ScanKeyData keys[2];
	bool		of_actor;
	MemoryContext context;		/* of one event */
	Datum	   *id;				/* whose deliveries are to be looked for */
	int			nids;
	int64		touched;
} Erasure;

PG_FUNCTION_INFO_V1(evinbox_erase);
PG_FUNCTION_INFO_V1(evinbox_erase_actor);

extern Datum evinbox_record_event(PG_FUNCTION_ARGS);

static void run(Erasure *erasure);
static void erase_in(Erasure *erasure, const EviPartition *partition, Snapshot snapshot);
static bool is_done(const Erasure *erasure, HeapTuple tuple, TupleDesc desc);
static void add_id(Erasure *erasure, Datum id);
static void blank_deliveries(Erasure *erasure);
static void blank_requests(Datum *ids);
static void blank_batches(text *actor);
static void record(text *subject_type, text *subject_id, int64 touched);
static text *digest(text *actor);

/* the events of a subject */
Datum
evinbox_erase(PG_FUNCTION_ARGS)
{
	text	   *subject_type = PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0);
	text	   *subject_id = PG_ARGISNULL(1) ? NULL : PG_GETARG_TEXT_PP(1);
	Erasure		erasure = {.index = EVI_EVENT_BY_SUBJECT, .nkeys = 2};

	PreventCommandIfReadOnly("erase()");
	evi_event_check(subject_type, subject_id, cstring_to_text(EVI_ERASED), NULL, NULL);
	ScanKeyInit(&erasure.keys[0], Anum_event_subject_type, BTEqualStrategyNumber, F_TEXTEQ,
				PointerGetDatum(subject_type));
	ScanKeyInit(&erasure.keys[1], Anum_event_subject_id, BTEqualStrategyNumber, F_TEXTEQ,
				PointerGetDatum(subject_id));
	run(&erasure);
	record(subject_type, subject_id, erasure.touched);
	PG_RETURN_INT64(erasure.touched);
}

/* the events that somebody is the actor of */
Datum
evinbox_erase_actor(PG_FUNCTION_ARGS)
{
	text	   *actor = PG_ARGISNULL(0) ? NULL : PG_GETARG_TEXT_PP(0);
	Erasure		erasure = {.index = EVI_EVENT_BY_ACTOR, .nkeys = 1, .of_actor = true};

	PreventCommandIfReadOnly("erase_actor()");
	if (actor == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("actor must not be null")));
	ScanKeyInit(&erasure.keys[0], Anum_event_actor, BTEqualStrategyNumber, F_TEXTEQ,
				PointerGetDatum(actor));
	run(&erasure);
	blank_batches(actor);
	record(cstring_to_text(ACTOR_TYPE), digest(actor), erasure.touched);
	PG_RETURN_INT64(erasure.touched);
}

static void
run(Erasure *erasure)
{
	Relation	parent = table_open(evi_relation_oid(EVI_EVENT), RowExclusiveLock);
	Snapshot	snapshot;
	int			count;
	EviPartition *partitions;

	PreventCommandIfParallelMode("erasure");
	evi_blank_lock(ExclusiveLock);
	erasure->context = AllocSetContextCreate(CurrentMemoryContext, "evinbox erasure",
											 ALLOCSET_DEFAULT_SIZES);
	erasure->id = palloc(sizeof(Datum) * CHUNK);

	snapshot = RegisterSnapshot(GetLatestSnapshot());

	/* as they are now: one that is attached meanwhile shifts the others */
	partitions = evi_relation_partitions(&count);
	for (int i = 0; i < count; i++)
		erase_in(erasure, &partitions[i], snapshot);
	UnregisterSnapshot(snapshot);
	blank_deliveries(erasure);

	/* what runners have read, they read again */
	if (erasure->touched > 0)
		CacheInvalidateRelcache(parent);
	CommandCounterIncrement();
	MemoryContextDelete(erasure->context);
	table_close(parent, NoLock);
}

/* What it inserts on the way is newer than the snapshot, and so not met again. */
static void
erase_in(Erasure *erasure, const EviPartition *partition, Snapshot snapshot)
{
	Relation	rel = table_open(partition->relid, RowExclusiveLock);
	TupleDesc	desc = RelationGetDescr(rel);
	EviAdded	added;
	ScanKeyData keys[lengthof(erasure->keys)];
	MemoryContext former;
	EviScan		scan;
	HeapTuple	tuple;

	CheckCmdReplicaIdentity(rel, CMD_UPDATE);
	evi_added_begin(&added, rel);

	/* a scan makes its keys those of its index */
	memcpy(keys, erasure->keys, sizeof(keys));
	evi_scan_begin_index(&scan, partition->relid, partition->index[erasure->index], snapshot,
						 erasure->nkeys, keys);
	while ((tuple = evi_scan_next(&scan, ForwardScanDirection)) != NULL)
	{
		bool		isnull;

		/* not in the scan's own context, which has to last */
		CHECK_FOR_INTERRUPTS();
		former = MemoryContextSwitchTo(erasure->context);
		add_id(erasure, heap_getattr(tuple, Anum_event_id, desc, &isnull));
		if (!is_done(erasure, tuple, desc))
		{
			evi_added_replace(&added, &tuple->t_self, evi_blank_make(tuple, desc));
			erasure->touched++;
		}
		evi_added_reset(&added);
		MemoryContextSwitchTo(former);
		MemoryContextReset(erasure->context);
	}
	evi_scan_end(&scan);
	evi_added_end(&added);
	table_close(rel, NoLock);
}

/* A subject's earlier erasures stay as they are, with who did it; but their actor may be erased. */
static bool
is_done(const Erasure *erasure, HeapTuple tuple, TupleDesc desc)
{
	return evi_blank_is(tuple, desc) ||
		(!erasure->of_actor && evi_blank_is_erasure(tuple, desc));
}

static void
add_id(Erasure *erasure, Datum id)
{
	if (erasure->nids == CHUNK)
		blank_deliveries(erasure);
	erasure->id[erasure->nids++] = Int64GetDatum(DatumGetInt64(id));
}

/* An error may quote the event that it is about. */
static void
blank_deliveries(Erasure *erasure)
{
	static EviQuery update = {
		.sql = "UPDATE evinbox.delivery d SET last_error = NULL, error_context = NULL"
		" WHERE d.event_id OPERATOR(pg_catalog.=) ANY ($1)"
		" AND d.state OPERATOR(pg_catalog.=) ANY ('{retry,dead,skipped}')"
		" AND (d.last_error IS NOT NULL OR d.error_context IS NOT NULL)",
		.expected = SPI_OK_UPDATE,
		.nargs = 1,
		.argtypes = {INT8ARRAYOID},
	};
	Datum		arg;

	if (erasure->nids == 0)
		return;
	arg = PointerGetDatum(construct_array(erasure->id, erasure->nids, INT8OID, sizeof(int64),
										  FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	(void) evi_query_run_latest(&update, &arg);
	blank_requests(&arg);
	pfree(DatumGetPointer(arg));
	erasure->nids = 0;
}

/* A request without a body is not made any more, as the courier hears. What was answered may quote it. */
static void
blank_requests(Datum *ids)
{
	static EviQuery updates[] = {
		{
			.sql = "UPDATE evinbox_internal.request_waiting w SET state = 'dead',"
			" last_error = 'the event was erased' FROM evinbox_internal.request r"
			" WHERE r.event_id OPERATOR(pg_catalog.=) ANY ($1)"
			" AND w.request_id OPERATOR(pg_catalog.=) r.id",
			.expected = SPI_OK_UPDATE,
			.nargs = 1,
			.argtypes = {INT8ARRAYOID},
		},
		{
			.sql = "UPDATE evinbox_internal.webhook_attempt a SET error = NULL, answer = NULL"
			" FROM evinbox_internal.request r WHERE r.event_id OPERATOR(pg_catalog.=) ANY ($1)"
			" AND a.request_id OPERATOR(pg_catalog.=) r.id"
			" AND (a.error IS NOT NULL OR a.answer IS NOT NULL)",
			.expected = SPI_OK_UPDATE,
			.nargs = 1,
			.argtypes = {INT8ARRAYOID},
		},
		{
			.sql = "UPDATE evinbox_internal.request r SET body = NULL, headers = NULL, url = NULL"
			" WHERE r.event_id OPERATOR(pg_catalog.=) ANY ($1) AND r.body IS NOT NULL",
			.expected = SPI_OK_UPDATE,
			.nargs = 1,
			.argtypes = {INT8ARRAYOID},
		},
	};

	for (int i = 0; i < lengthof(updates); i++)
		(void) evi_query_run_latest(&updates[i], ids);

	/* which may have the bodies in memory */
	evi_wakeup_courier();
}

/* those that somebody has begun, with what he called them */
static void
blank_batches(text *actor)
{
	static EviQuery update = {
		.sql = "UPDATE evinbox.batch b SET actor = NULL, description = NULL"
		" WHERE b.actor OPERATOR(pg_catalog.=) $1",
		.expected = SPI_OK_UPDATE,
		.nargs = 1,
		.argtypes = {TEXTOID},
	};
	Datum		arg = PointerGetDatum(actor);

	(void) evi_query_run_latest(&update, &arg);
}

/* The erasure is an event, whatever the subject's type accepts; if there was something to erase. */
static void
record(text *subject_type, text *subject_id, int64 touched)
{
	LOCAL_FCINFO(call, RECORD_ARGS);
	bool		former;

	if (touched == 0)
		return;
	InitFunctionCallInfoData(*call, NULL, RECORD_ARGS, InvalidOid, NULL, NULL);
	for (int i = 0; i < RECORD_ARGS; i++)
		call->args[i] = (NullableDatum) {(Datum) 0, true};
	call->args[ARG_SUBJECT_TYPE] = (NullableDatum) {PointerGetDatum(subject_type), false};
	call->args[ARG_SUBJECT_ID] = (NullableDatum) {PointerGetDatum(subject_id), false};
	call->args[ARG_ACTION] = (NullableDatum) {CStringGetTextDatum(EVI_ERASED), false};
	call->args[ARG_METADATA].value =
		DirectFunctionCall1(jsonb_in, CStringGetDatum(psprintf("{\"events\": " INT64_FORMAT "}", touched)));
	call->args[ARG_METADATA].isnull = false;

	former = evi_event_set_ours(true);
	PG_TRY();
	{
		(void) evinbox_record_event(call);
	}
	PG_FINALLY();
	{
		(void) evi_event_set_ours(former);
	}
	PG_END_TRY();
}

/*
 * By which it can be seen whether somebody was erased. It tells who was only to
 * those who guess it; which is easy for a number.
 */
static text *
digest(text *actor)
{
	uint8		hash[PG_SHA256_DIGEST_LENGTH];
	pg_cryptohash_ctx *context = pg_cryptohash_create(PG_SHA256);
	text	   *result = palloc(VARHDRSZ + 2 * sizeof(hash));

	if (pg_cryptohash_init(context) < 0 ||
		pg_cryptohash_update(context, (uint8 *) VARDATA_ANY(actor), VARSIZE_ANY_EXHDR(actor)) < 0 ||
		pg_cryptohash_final(context, hash, sizeof(hash)) < 0)
		elog(ERROR, "could not compute a hash");
	pg_cryptohash_free(context);
	SET_VARSIZE(result, VARHDRSZ + 2 * sizeof(hash));
	(void) hex_encode((char *) hash, sizeof(hash), VARDATA(result));
	return result;
}
