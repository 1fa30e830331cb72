/*-------------------------------------------------------------------------
 *
 * blank.c
 *		Events whose personal part has been blanked.
 *
 * That part is metadata, snapshot and actor. It is blanked by erase.c alone,
 * which goes around the triggers that refuse every other change. A subscriber
 * of logical replication gets the same change from its publisher: there it is
 * let through for the apply worker, which nobody can pretend to be.
 *
 * An error that a handler raises may quote the event. So whoever stores one
 * holds the lock on erasures in share mode, and an erasure holds it alone: it
 * sees what was stored before, and what is stored later knows of it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "miscadmin.h"
#include "replication/logicalworker.h"
#include "utils/builtins.h"
#include "utils/datum.h"
#include "utils/inval.h"
#include "utils/jsonb.h"
#include "utils/rel.h"

#include "blank.h"
#include "evinbox.h"
#include "relation.h"

static const int blanked[] = {Anum_event_actor, Anum_event_metadata, Anum_event_snapshot};

static bool is_blanked(int attno);

/* Has an event nothing personal, or nothing any more? */
bool
evi_blank_is(HeapTuple tuple, TupleDesc desc)
{
	bool		isnull;
	Datum		metadata;

	if (!heap_attisnull(tuple, Anum_event_actor, desc) ||
		!heap_attisnull(tuple, Anum_event_snapshot, desc))
		return false;
	metadata = heap_getattr(tuple, Anum_event_metadata, desc, &isnull);
	return isnull || JB_ROOT_COUNT(DatumGetJsonbP(metadata)) == 0;
}

/* Does it tell of an erasure, and no more than that? */
bool
evi_blank_is_erasure(HeapTuple tuple, TupleDesc desc)
{
	bool		isnull;
	Datum		action = heap_getattr(tuple, Anum_event_action, desc, &isnull);
	Jsonb	   *metadata;
	JsonbValue *count;

	if (strcmp(TextDatumGetCString(action), EVI_ERASED) != 0)
		return false;
	metadata = DatumGetJsonbP(heap_getattr(tuple, Anum_event_metadata, desc, &isnull));
	if (!JB_ROOT_IS_OBJECT(metadata) || JB_ROOT_COUNT(metadata) != 1)
		return false;
	count = getKeyJsonValueFromContainer(&metadata->root, "events", strlen("events"), NULL);
	return count && count->type == jbvNumeric &&
		heap_attisnull(tuple, Anum_event_snapshot, desc);
}

/* The same event without the personal part. One that tells of an erasure loses its actor only. */
HeapTuple
evi_blank_make(HeapTuple tuple, TupleDesc desc)
{
	bool		is_erasure = evi_blank_is_erasure(tuple, desc);
	int			columns[lengthof(blanked)];
	Datum		values[lengthof(blanked)] = {0};
	bool		isnull[lengthof(blanked)];
	int			count = 0;

	for (int i = 0; i < lengthof(blanked); i++)
	{
		bool		is_metadata = blanked[i] == Anum_event_metadata;

		if (is_metadata && is_erasure)
			continue;
		columns[count] = blanked[i];
		isnull[count] = !is_metadata;
		if (is_metadata)
			values[count] = DirectFunctionCall1(jsonb_in, CStringGetDatum("{}"));
		count++;
	}
	return heap_modify_tuple_by_cols(tuple, desc, count, columns, values, isnull);
}

/* Is an UPDATE of a row an erasure that comes by logical replication? */
bool
evi_blank_is_replicated(const TriggerData *trigger)
{
	TupleDesc	desc = RelationGetDescr(trigger->tg_relation);

	if (!IsLogicalWorker() || !TRIGGER_FIRED_FOR_ROW(trigger->tg_event) ||
		!TRIGGER_FIRED_BY_UPDATE(trigger->tg_event))
		return false;

	/* which is refused if a partition has its columns in another order */
	(void) evi_relation_oid(EVI_EVENT);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i);
		bool		was_null;
		bool		isnull;
		Datum		before = heap_getattr(trigger->tg_trigtuple, i + 1, desc, &was_null);
		Datum		after = heap_getattr(trigger->tg_newtuple, i + 1, desc, &isnull);

		if (column->attisdropped || is_blanked(i + 1))
			continue;
		if (was_null != isnull ||
			(!isnull && !datum_image_eq(before, after, column->attbyval, column->attlen)))
			return false;
	}
	return evi_blank_is(trigger->tg_newtuple, desc) ||
		evi_blank_is_erasure(trigger->tg_newtuple, desc);
}

/* Until the end of the transaction; and we hear of what was done before. */
void
evi_blank_lock(LOCKMODE mode)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, evi_relation_oid(EVI_EVENT), InvalidOid, 0);
	(void) LockAcquire(&tag, mode, false, false);
	AcceptInvalidationMessages();
}

static bool
is_blanked(int attno)
{
	for (int i = 0; i < lengthof(blanked); i++)
		if (blanked[i] == attno)
			return true;
	return false;
}
