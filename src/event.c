/*-------------------------------------------------------------------------
 *
 * event.c
 *		Events: what makes one valid, and how stored ones are found.
 *
 * Stored events are read by direct index scans of the partitions, newest
 * first where that helps, with the snapshot that the caller gives.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/tupconvert.h"
#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "event.h"
#include "evinbox.h"
#include "relation.h"

/* a batch stops growing here, so that large events do not exhaust memory */
#define BATCH_MAX_BYTES (16 * 1024 * 1024)

static int64 cause_id = 0;
static int16 cause_depth = 0;

static void check_text(const char *what, text *value);
static void check_required(text *subject_type, text *action, Datum required, Jsonb *metadata);
static bool text_equal(text *a, text *b);
static HeapTuple fetch_event(Relation parent, int64 id, Snapshot snapshot);

/* Refuses what can never be an event. NULL stands for a value not given. */
void
evi_event_check(text *subject_type, text *subject_id, text *action, Jsonb *metadata)
{
	check_text("subject type", subject_type);
	check_text("subject id", subject_id);
	check_text("action", action);

	if (metadata && !JB_ROOT_IS_OBJECT(metadata))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("metadata must be a JSON object"),
				 errhint("Write it as '{\"key\": value}'.")));
}

/* Refuses an action that its subject type, if closed, does not have. */
void
evi_event_check_action(text *subject_type, text *action, Jsonb *metadata)
{
	ScanKeyData key;
	EviScan		scan;
	HeapTuple	tuple;
	bool		closed = false;
	bool		found = false;
	StringInfoData allowed;

	ScanKeyInit(&key, Anum_action_subject_type, BTEqualStrategyNumber, F_TEXTEQ,
				PointerGetDatum(subject_type));
	evi_scan_begin(&scan, EVI_ACTION, GetActiveSnapshot(), 1, &key);
	while (!found && (tuple = evi_scan_next(&scan, ForwardScanDirection)) != NULL)
	{
		TupleDesc	desc = RelationGetDescr(scan.table);
		bool		isnull;
		text	   *one = DatumGetTextPP(heap_getattr(tuple, Anum_action_action, desc, &isnull));

		if (text_equal(one, action))
		{
			check_required(subject_type, action,
						   heap_getattr(tuple, Anum_action_required, desc, &isnull),
						   metadata);
			found = true;
		}
		else
		{
			if (!closed)
				initStringInfo(&allowed);
			appendStringInfo(&allowed, "%s\"%s\"", closed ? ", " : "", text_to_cstring(one));
			closed = true;
		}
	}
	evi_scan_end(&scan);

	if (closed && !found)
		ereport(ERROR,
				(errcode(ERRCODE_CHECK_VIOLATION),
				 errmsg("subject type \"%s\" has no action \"%s\"",
						text_to_cstring(subject_type), text_to_cstring(action)),
				 errhint("Its actions are %s; others have to be added to evinbox.action first.",
						 allowed.data)));
}

/* Is there an event with this key that was recorded later than that? */
bool
evi_event_recorded_since(const EviEventKey *key, TimestampTz since, Snapshot snapshot)
{
	int			npartitions;
	const EviPartition *partition = evi_relation_partitions(&npartitions);
	EviEventIndex which = key->with_actor ? EVI_EVENT_BY_ACTOR : EVI_EVENT_BY_SUBJECT;
	bool		found = false;

	for (int i = 0; i < npartitions && !found; i++)
	{
		ScanKeyData keys[5];
		int			nkeys = 0;
		EviScan		scan;

		if (key->with_actor && key->actor)
			ScanKeyInit(&keys[nkeys++], Anum_event_actor, BTEqualStrategyNumber, F_TEXTEQ,
						PointerGetDatum(key->actor));
		else if (key->with_actor)
			ScanKeyEntryInitialize(&keys[nkeys++], SK_ISNULL | SK_SEARCHNULL,
								   Anum_event_actor, InvalidStrategy, InvalidOid,
								   InvalidOid, InvalidOid, (Datum) 0);
		ScanKeyInit(&keys[nkeys++], Anum_event_subject_type, BTEqualStrategyNumber, F_TEXTEQ,
					PointerGetDatum(key->subject_type));
		ScanKeyInit(&keys[nkeys++], Anum_event_subject_id, BTEqualStrategyNumber, F_TEXTEQ,
					PointerGetDatum(key->subject_id));
		ScanKeyInit(&keys[nkeys++], Anum_event_action, BTEqualStrategyNumber, F_TEXTEQ,
					PointerGetDatum(key->action));
		ScanKeyInit(&keys[nkeys++], Anum_event_recorded_at, BTGreaterStrategyNumber,
					F_TIMESTAMPTZ_GT, TimestampTzGetDatum(since));

		/* the newest matter: an old one in the range is as good, but rarer */
		evi_scan_begin_index(&scan, partition[i].relid, partition[i].index[which],
							 snapshot, nkeys, keys);
		found = evi_scan_next(&scan, BackwardScanDirection) != NULL;
		evi_scan_end(&scan);
	}
	return found;
}

/*
 * Fetches events by id, in the order given; those that are not there any
 * more are left out. Stops early where they are large: "fetched" tells how
 * many of the ids have been looked at.
 */
EviBatch *
evi_event_fetch(const int64 *ids, int count, Snapshot snapshot, int *fetched)
{
	Relation	parent = table_open(evi_relation_oid(EVI_EVENT), AccessShareLock);
	TupleDesc	desc = RelationGetDescr(parent);
	EviBatch   *batch = palloc0(sizeof(EviBatch));
	Size		bytes = 0;

	batch->event = palloc(sizeof(Datum) * Max(count, 1));
	batch->id = palloc(sizeof(int64) * Max(count, 1));
	batch->depth = palloc(sizeof(int16) * Max(count, 1));
	batch->subject_type = palloc(sizeof(text *) * Max(count, 1));
	batch->action = palloc(sizeof(text *) * Max(count, 1));

	for (*fetched = 0; *fetched < count && bytes < BATCH_MAX_BYTES; (*fetched)++)
	{
		int64		id = ids[*fetched];
		HeapTuple	tuple = fetch_event(parent, id, snapshot);
		Datum		values[Natts_event];
		bool		isnull[Natts_event];
		int			n = batch->count;

		CHECK_FOR_INTERRUPTS();
		if (!tuple)
			continue;
		heap_deform_tuple(tuple, desc, values, isnull);
		bytes += tuple->t_len;

		batch->event[n] = heap_copy_tuple_as_datum(tuple, desc);
		batch->id[n] = id;
		batch->depth[n] = DatumGetInt16(values[Anum_event_depth - 1]);
		batch->subject_type[n] = DatumGetTextP(values[Anum_event_subject_type - 1]);
		batch->action[n] = DatumGetTextP(values[Anum_event_action - 1]);
		batch->count++;
	}
	table_close(parent, AccessShareLock);
	return batch;
}

/* false if there is no such event */
bool
evi_event_recorded_at(int64 id, Snapshot snapshot, TimestampTz *recorded_at)
{
	Relation	parent = table_open(evi_relation_oid(EVI_EVENT), AccessShareLock);
	HeapTuple	tuple = fetch_event(parent, id, snapshot);
	bool		isnull;

	if (tuple)
		*recorded_at = DatumGetTimestampTz(heap_getattr(tuple, Anum_event_recorded_at,
														RelationGetDescr(parent), &isnull));
	table_close(parent, AccessShareLock);
	return tuple != NULL;
}

void
evi_event_set_cause(int64 id, int16 depth)
{
	cause_id = id;
	cause_depth = depth;
}

int64
evi_event_cause(int16 *depth)
{
	*depth = cause_depth;
	return cause_id;
}

static void
check_text(const char *what, text *value)
{
	if (value == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("%s must not be null", what)));
	if (VARSIZE_ANY_EXHDR(value) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("%s must not be empty", what)));
}

static void
check_required(text *subject_type, text *action, Datum required, Jsonb *metadata)
{
	Datum	   *keys;
	int			nkeys;

	deconstruct_array(DatumGetArrayTypeP(required), TEXTOID, -1, false, TYPALIGN_INT,
					  &keys, NULL, &nkeys);
	for (int i = 0; i < nkeys; i++)
	{
		if (metadata &&
			DatumGetBool(DirectFunctionCall2(jsonb_exists, JsonbPGetDatum(metadata), keys[i])))
			continue;
		ereport(ERROR,
				(errcode(ERRCODE_CHECK_VIOLATION),
				 errmsg("metadata of action \"%s\" of subject type \"%s\" lacks key \"%s\"",
						text_to_cstring(action), text_to_cstring(subject_type),
						TextDatumGetCString(keys[i])),
				 errdetail("evinbox.action requires it.")));
	}
}

static bool
text_equal(text *a, text *b)
{
	return VARSIZE_ANY_EXHDR(a) == VARSIZE_ANY_EXHDR(b) &&
		memcmp(VARDATA_ANY(a), VARDATA_ANY(b), VARSIZE_ANY_EXHDR(a)) == 0;
}

/* one event, in the layout of the parent; NULL if there is none */
static HeapTuple
fetch_event(Relation parent, int64 id, Snapshot snapshot)
{
	const EviPartition *partition = evi_relation_partition_of(id);
	ScanKeyData key;
	EviScan		scan;
	HeapTuple	tuple;
	HeapTuple	result = NULL;

	ScanKeyInit(&key, Anum_event_id, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(id));
	evi_scan_begin_index(&scan, partition->relid, partition->index[EVI_EVENT_BY_ID],
						 snapshot, 1, &key);
	tuple = evi_scan_next(&scan, ForwardScanDirection);
	if (tuple)
	{
		TupleConversionMap *map = convert_tuples_by_name(RelationGetDescr(scan.table),
														 RelationGetDescr(parent));

		if (map)
		{
			result = execute_attr_map_tuple(tuple, map);
			free_conversion_map(map);
		}
		else
			result = heap_copytuple(tuple);
	}
	evi_scan_end(&scan);
	return result;
}
