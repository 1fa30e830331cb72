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

static const char *const blanked[] = {"actor", "metadata", "snapshot"};

static Datum value_of(HeapTuple tuple, TupleDesc desc, const char *column, bool *isnull);
static int	number_of(const char *column, TupleDesc desc);
static bool is_blanked(const char *column);

/* Has an event nothing personal, or nothing any more? */
bool
evi_blank_is(HeapTuple tuple, TupleDesc desc)
{
	bool		has_no_actor;
	bool		has_no_snapshot;
	bool		has_no_metadata;
	Datum		metadata = value_of(tuple, desc, "metadata", &has_no_metadata);

	(void) value_of(tuple, desc, "actor", &has_no_actor);
	(void) value_of(tuple, desc, "snapshot", &has_no_snapshot);
	return has_no_actor && has_no_snapshot &&
		(has_no_metadata || JB_ROOT_COUNT(DatumGetJsonbP(metadata)) == 0);
}

/* Does it tell of an erasure, and no more than that? */
bool
evi_blank_is_erasure(HeapTuple tuple, TupleDesc desc)
{
	bool		isnull;
	Datum		action = value_of(tuple, desc, "action", &isnull);
	Jsonb	   *metadata;
	JsonbValue *count;

	if (strcmp(TextDatumGetCString(action), EVI_ERASED) != 0)
		return false;
	metadata = DatumGetJsonbP(value_of(tuple, desc, "metadata", &isnull));
	if (!JB_ROOT_IS_OBJECT(metadata) || JB_ROOT_COUNT(metadata) != 1)
		return false;
	count = getKeyJsonValueFromContainer(&metadata->root, "events", strlen("events"), NULL);
	(void) value_of(tuple, desc, "snapshot", &isnull);
	return count && count->type == jbvNumeric && isnull;
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
		bool		is_metadata = strcmp(blanked[i], "metadata") == 0;

		if (is_metadata && is_erasure)
			continue;
		columns[count] = number_of(blanked[i], desc);
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
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i);
		bool		was_null;
		bool		isnull;
		Datum		before = heap_getattr(trigger->tg_trigtuple, i + 1, desc, &was_null);
		Datum		after = heap_getattr(trigger->tg_newtuple, i + 1, desc, &isnull);

		if (column->attisdropped || is_blanked(NameStr(column->attname)))
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

static Datum
value_of(HeapTuple tuple, TupleDesc desc, const char *column, bool *isnull)
{
	return heap_getattr(tuple, number_of(column, desc), desc, isnull);
}

/* a partition that somebody has attached may have them in another order */
static int
number_of(const char *column, TupleDesc desc)
{
	for (int i = 0; i < desc->natts; i++)
		if (!TupleDescAttr(desc, i)->attisdropped &&
			namestrcmp(&TupleDescAttr(desc, i)->attname, column) == 0)
			return i + 1;
	elog(ERROR, "evinbox.event has no column \"%s\"", column);
}

static bool
is_blanked(const char *column)
{
	for (int i = 0; i < lengthof(blanked); i++)
		if (strcmp(blanked[i], column) == 0)
			return true;
	return false;
}
