/*-------------------------------------------------------------------------
 *
 * event.c
 *		Events: what makes one valid, how one is stored, and its cause.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_am.h"
#include "catalog/pg_index.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "commands/trigger.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "nodes/execnodes.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"

#include "added.h"
#include "event.h"
#include "evinbox.h"
#include "fetch.h"
#include "relation.h"

/* an event larger than this would be in the way of others, again and again */
#define MAX_EVENT_BYTES (32 * 1024 * 1024)

/* ids and times may be so far from the same order */
#define TOLERANCE (60 * USECS_PER_SEC)

static bool is_ours = false;	/* is it evinbox itself that records? */
static int64 cause_id = 0;
static int16 cause_depth = EVI_NO_CAUSE;
static int16 (*ask_depth) (void *arg) = NULL;	/* if it is not known yet */
static void *ask_depth_arg;

static void check_text(const char *what, text *value);
static void check_required(text *subject_type, text *action, Datum required, Jsonb *metadata);
static bool partition_has(const EviPartition *partition, const EviEventKey *key,
						  TimestampTz since, Snapshot snapshot);
static bool was_opened_before(const EviPartition *partition, TimestampTz since);
static Relation open_partition_of(int64 id, EviPartition *partition);
static bool is_plain(Relation rel, const bool *isnull);
static bool open_indexes(Relation rel, const EviPartition *partition, Relation *indexes);
static void close_indexes(Relation *indexes, int count, LOCKMODE lock);
static bool is_plain_index(Relation index, EviEventIndex which);
static bool leaves_out_nulls(EviEventIndex which);
static void insert_into_index(Relation rel, Relation index, EviEventIndex which, ItemPointer tid,
							  const Datum *values, const bool *isnull);
static void insert_into_any_indexes(Relation rel, HeapTuple tuple);
static bool has_only_our_triggers(Relation rel);

/* A subject's id is a text; of another type, it is what that is written as. */
text *
evi_event_id_to_text(Datum id, PGFunction out)
{
	if (!out)
		return DatumGetTextPP(id);
	return cstring_to_text(DatumGetCString(DirectFunctionCall1(out, id)));
}

/* In JSON, it is a string or a number; NULL if it is neither. */
text *
evi_event_json_to_text(const JsonbValue *value)
{
	if (value->type == jbvString)
		return cstring_to_text_with_len(value->val.string.val, value->val.string.len);
	if (value->type == jbvNumeric)
		return evi_event_id_to_text(NumericGetDatum(value->val.numeric), numeric_out);
	return NULL;
}

/* Refuses what can never be an event. NULL stands for a value not given. */
void
evi_event_check(text *subject_type, text *subject_id, text *action, Jsonb *metadata,
				Jsonb *snapshot)
{
	Size		size = (metadata ? VARSIZE(metadata) : 0) + (snapshot ? VARSIZE(snapshot) : 0);

	check_text("subject type", subject_type);
	check_text("subject id", subject_id);
	check_text("action", action);

	if (metadata && !JB_ROOT_IS_OBJECT(metadata))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("metadata must be a JSON object"),
				 errhint("Write it as '{\"key\": value}'.")));

	if (size > MAX_EVENT_BYTES)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("event is too large"),
				 errdetail("Metadata and snapshot take %zu bytes, and may take %d.",
						   size, MAX_EVENT_BYTES),
				 errhint("Store what is large elsewhere, and record where.")));
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

	if (is_ours || evi_relation_is_empty(EVI_ACTION))
		return;
	ScanKeyInit(&key, Anum_action_subject_type, BTEqualStrategyNumber, F_TEXTEQ,
				PointerGetDatum(subject_type));
	evi_scan_begin(&scan, EVI_ACTION, GetActiveSnapshot(), 1, &key);
	while (!found && (tuple = evi_scan_next(&scan, ForwardScanDirection)) != NULL)
	{
		TupleDesc	desc = RelationGetDescr(scan.table);
		bool		isnull;
		text	   *one = DatumGetTextPP(heap_getattr(tuple, Anum_action_action, desc, &isnull));

		if (evi_text_equal(one, action))
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

/* From now on, a closed type takes what evinbox says of it. Returns what it was. */
bool
evi_event_set_ours(bool value)
{
	bool		former = is_ours;

	is_ours = value;
	return former;
}

bool
evi_event_is_ours(void)
{
	return is_ours;
}

/*
 * Inserts an event that is complete but for its id, which is returned. It
 * goes right into its partition, and no trigger runs. Returns 0 if that would
 * not be the same as an INSERT, because somebody has added something but
 * indexes to the table or to the partition.
 */
int64
evi_event_insert(Datum *values, bool *isnull)
{
	static EviSeries inserted = {0};
	Relation	parent = evi_relation_open(EVI_EVENT, RowExclusiveLock);
	int64		id;
	EviPartition partition;
	Relation	rel;
	Relation	indexes[EVI_EVENT_INDEXES];

	/* the table is locked first, as by an INSERT, and by DROP EXTENSION */
	id = nextval_internal(evi_relation_oid(EVI_EVENT_SEQ), false);
	rel = open_partition_of(id, &partition);
	values[Anum_event_id - 1] = Int64GetDatum(id);
	isnull[Anum_event_id - 1] = false;

	if (is_plain(parent, isnull) && is_plain(rel, isnull))
	{
		HeapTuple	tuple = heap_form_tuple(RelationGetDescr(rel), values, isnull);

		simple_heap_insert(rel, tuple);
		if (open_indexes(rel, &partition, indexes))
		{
			for (int i = 0; i < EVI_EVENT_INDEXES; i++)
				insert_into_index(rel, indexes[i], i, &tuple->t_self, values, isnull);
			close_indexes(indexes, EVI_EVENT_INDEXES, evi_relation_lock_left(&inserted));
		}
		else
			insert_into_any_indexes(rel, tuple);
		heap_freetuple(tuple);
	}
	else
		id = 0;
	table_close(rel, NoLock);
	table_close(parent, NoLock);
	return id;
}

/*
 * Is there an event with this key that was recorded later than that? Ids grow
 * with the time of recording, so partitions from before that time are left
 * out: those that were full when a newer one got its first event. The default
 * one may have any ids.
 */
bool
evi_event_recorded_since(const EviEventKey *key, TimestampTz since, Snapshot snapshot)
{
	/* locked first, as always: or a partition could be dropped before it is opened */
	Relation	parent = evi_relation_open(EVI_EVENT, AccessShareLock);
	int64		last = evi_fetch_last_given();
	EviPartition partition;
	bool		is_before = false;
	bool		found = false;

	for (int n = 0; !found && evi_relation_partition(n, &partition); n++)
	{
		if (is_before && !partition.is_default)
			continue;
		found = partition_has(&partition, key, since, snapshot);
		if (!found && !partition.is_default && partition.first <= last)
			is_before = was_opened_before(&partition, since);
	}
	table_close(parent, AccessShareLock);
	return found;
}

void
evi_event_set_cause(int64 id, int16 depth)
{
	cause_id = id;
	cause_depth = depth;
	ask_depth = NULL;
}

/* The depth is asked for when it is needed. */
void
evi_event_set_cause_of(int64 id, int16 (*depth) (void *arg), void *arg)
{
	cause_id = id;
	ask_depth = depth;
	ask_depth_arg = arg;
}

int64
evi_event_cause(int16 *depth)
{
	if (ask_depth)
		cause_depth = ask_depth(ask_depth_arg);
	ask_depth = NULL;
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
partition_has(const EviPartition *partition, const EviEventKey *key, TimestampTz since,
			  Snapshot snapshot)
{
	EviEventIndex which = key->with_actor ? EVI_EVENT_BY_ACTOR : EVI_EVENT_BY_SUBJECT;
	ScanKeyData keys[5];
	int			nkeys = 0;
	EviScan		scan;
	bool		found;

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
	evi_scan_begin_index(&scan, partition->relid, partition->index[which],
						 snapshot, nkeys, keys);
	found = evi_scan_next(&scan, BackwardScanDirection) != NULL;
	evi_scan_end(&scan);
	return found;
}

/* With some tolerance for who was given an id and took his time, and for clocks. */
static bool
was_opened_before(const EviPartition *partition, TimestampTz since)
{
	TimestampTz opened_at = partition->opened_at;

	if (opened_at == 0)
	{
		EviScan		scan;
		HeapTuple	tuple;
		bool		isnull;

		evi_scan_begin_index(&scan, partition->relid, partition->index[EVI_EVENT_BY_ID],
							 GetActiveSnapshot(), 0, NULL);
		tuple = evi_scan_next(&scan, ForwardScanDirection);
		if (tuple)
			opened_at = DatumGetTimestampTz(heap_getattr(tuple, Anum_event_recorded_at,
														 RelationGetDescr(scan.table), &isnull));
		evi_scan_end(&scan);
		evi_relation_note_opened(partition->relid, opened_at);
	}
	return opened_at != 0 && opened_at < since - TOLERANCE;
}

/*
 * The partition for a new event, locked. One may have been attached while we
 * waited for the lock on the default partition, which then is not for it.
 */
static Relation
open_partition_of(int64 id, EviPartition *partition)
{
	Relation	rel = NULL;

	do
	{
		if (rel)
			table_close(rel, RowExclusiveLock);
		evi_relation_partition_of(id, partition);
		rel = table_open(partition->relid, RowExclusiveLock);
		evi_relation_partition_of(id, partition);
	} while (RelationGetRelid(rel) != partition->relid);
	return rel;
}

/* Has a table no more than the extension has given it, for a row like this? */
static bool
is_plain(Relation rel, const bool *isnull)
{
	TupleDesc	desc = RelationGetDescr(rel);
	bool		result = desc->natts == Natts_event &&
		(!desc->constr || (desc->constr->num_check == 0 && !desc->constr->has_generated_stored)) &&
		!rel->rd_rel->relrowsecurity && !rel->rd_rel->relhasrules && has_only_our_triggers(rel);

	for (int i = 0; i < Natts_event && result; i++)
		result = !isnull[i] || !TupleDescAttr(desc, i)->attnotnull;
	return result;
}

/*
 * Opens a partition's indexes, if they are those that the extension has given
 * it, of the kind that insert_into_index() knows.
 */
static bool
open_indexes(Relation rel, const EviPartition *partition, Relation *indexes)
{
	List	   *list = RelationGetIndexList(rel);
	bool		result = list_length(list) == EVI_EVENT_INDEXES;
	int			nopen = 0;

	for (int i = 0; i < EVI_EVENT_INDEXES && result; i++)
	{
		result = list_member_oid(list, partition->index[i]);
		if (!result)
			break;
		indexes[nopen++] = index_open(partition->index[i], RowExclusiveLock);
		result = is_plain_index(indexes[i], i);
	}
	list_free(list);
	if (!result)
		close_indexes(indexes, nopen, RowExclusiveLock);
	return result;
}

static void
close_indexes(Relation *indexes, int count, LOCKMODE lock)
{
	for (int i = 0; i < count; i++)
		index_close(indexes[i], lock);
}

/* one on columns; those for feeds may leave out rows that are in none */
static bool
is_plain_index(Relation index, EviEventIndex which)
{
	Form_pg_index form = index->rd_index;
	bool		result = index->rd_rel->relam == BTREE_AM_OID &&
		(leaves_out_nulls(which) || heap_attisnull(index->rd_indextuple, Anum_pg_index_indpred, NULL));

	for (int i = 0; i < form->indnatts && result; i++)
		result = form->indkey.values[i] > 0;
	return result;
}

static bool
leaves_out_nulls(EviEventIndex which)
{
	return which == EVI_EVENT_FEED_OF_ACTOR || which == EVI_EVENT_FEED_OF_SCOPE;
}

/* To know all this beforehand saves the insertion a third of its time. */
static void
insert_into_index(Relation rel, Relation index, EviEventIndex which, ItemPointer tid,
				  const Datum *values, const bool *isnull)
{
	Form_pg_index form = index->rd_index;
	Datum		keys[INDEX_MAX_KEYS];
	bool		keys_isnull[INDEX_MAX_KEYS];
	IndexInfo	info = {.type = T_IndexInfo};

	for (int i = 0; i < form->indnatts; i++)
	{
		keys[i] = values[form->indkey.values[i] - 1];
		keys_isnull[i] = isnull[form->indkey.values[i] - 1];
	}
	if (!leaves_out_nulls(which) || !keys_isnull[0])
		(void) index_insert(index, keys, keys_isnull, tid, rel,
							form->indisunique ? UNIQUE_CHECK_YES : UNIQUE_CHECK_NO,
							false, &info);
}

/* Somebody has added one, or rebuilds one of ours beside it. */
static void
insert_into_any_indexes(Relation rel, HeapTuple tuple)
{
	EviAdded	added;

	evi_added_begin(&added, rel);
	evi_added_index(&added, tuple);
	evi_added_end(&added);
}

/* Our two triggers for rows are there and would fire, and no others. */
static bool
has_only_our_triggers(Relation rel)
{
	TriggerDesc *triggers = rel->trigdesc;
	int			nours = 0;

	for (int i = 0; triggers && i < triggers->numtriggers; i++)
	{
		Trigger    *trigger = &triggers->triggers[i];

		if (!TRIGGER_FOR_INSERT(trigger->tgtype))
			continue;
		if (strcmp(trigger->tgname, "event_before_insert") != 0 &&
			strcmp(trigger->tgname, "event_after_insert") != 0)
			return false;
		if (trigger->tgenabled == TRIGGER_FIRES_ON_ORIGIN ||
			trigger->tgenabled == TRIGGER_FIRES_ALWAYS)
			nours++;
	}
	return nours == 2 && SessionReplicationRole != SESSION_REPLICATION_ROLE_REPLICA;
}
