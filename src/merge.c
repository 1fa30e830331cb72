/*-------------------------------------------------------------------------
 *
 * merge.c
 *		The newest events of several keys at once: a merge of index scans.
 *
 * The partitions are read one after the other, newest ids first, and none of
 * them is opened that is not needed for what was asked for. Only the default
 * partition may have any ids, so that what it has is merged with the rest.
 *
 * Within a partition, each key's events are a stream. First the highest id of
 * each is read, from the index alone; then the stream with the highest one is
 * read a few events at a time. There is one scan, which goes from one stream to
 * the other: a thousand open ones would take a thousand times its memory. The
 * work is a descent of the index for each key, and some more for each key whose
 * events are in the result.
 *
 * Whether the caller may read events is for the caller of this to know.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/itup.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/tupconvert.h"
#include "catalog/pg_type.h"
#include "executor/tuptable.h"
#include "lib/binaryheap.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"

#include "compat.h"
#include "evinbox.h"
#include "merge.h"

/* so many of a stream's events are read first, and twice as many each further time */
#define FIRST_CHUNK 4

/* the events of one key in one partition, from a point on */
typedef struct Stream
{
	const EviKey *key;
	int64		id;				/* none that is still to come has a higher one */
	int			chunk;			/* read so many next */
	bool		is_at_end;		/* there are none but those in ready[] */
	int			next;
	int			nready;
	HeapTuple  *ready;
} Stream;

/* one partition, while it is read */
typedef struct Part
{
	TupleDesc	desc;			/* of evinbox.event */
	Relation	table;
	Relation	index;
	IndexScanDesc scan;
	TupleTableSlot *slot;
	TupleConversionMap *map;
	int			nkeys;
	ScanKeyData keys[EVI_KEY_COLUMNS + 1];
} Part;

static int	read_partition(Relation event, const EviPartition *partition, EviEventIndex which,
						   const EviKey *keys, int nkeys, int64 upto, int most,
						   Snapshot snapshot, HeapTuple *tuples);
static void open_part(Part *part, Relation event, Relation table, const EviPartition *partition,
					  EviEventIndex which, Snapshot snapshot);
static void close_part(Part *part);
static binaryheap *start_streams(Part *part, const EviKey *keys, int nkeys, int64 upto, int most);
static int	take(Part *part, binaryheap *heap, int most, HeapTuple *tuples);
static void seek(Part *part, const EviKey *key, int64 upto);
static bool find_highest(Part *part, Stream *stream, int64 upto);
static void fill(Part *part, Stream *stream);
static int	merge_lists(TupleDesc desc, HeapTuple *tuples, int count, HeapTuple *others, int nothers,
						int most);
static int64 id_of(HeapTuple tuple, TupleDesc desc);
static int	compare_streams(Datum a, Datum b, void *arg);

/*
 * The newest events of some keys, none with a higher id than that, and at most
 * so many, as tuples of evinbox.event; newest first. The keys are distinct.
 * Returns how many there are.
 *
 * What is read stays locked until the transaction's end, as by a query: values
 * may still have to be fetched from behind the tables.
 */
int
evi_merge_read(Relation event, EviEventIndex which, const EviKey *keys, int nkeys,
			   int64 upto, int most, Snapshot snapshot, HeapTuple *tuples)
{
	int			npartitions;
	EviPartition *partitions = evi_relation_partitions(&npartitions);
	HeapTuple  *others = NULL;
	int			nothers = 0;
	int			count = 0;

	for (int n = 0; n < npartitions; n++)
	{
		EviPartition *one = &partitions[n];

		if (one->is_default)
		{
			others = palloc(sizeof(HeapTuple) * most);
			nothers = read_partition(event, one, which, keys, nkeys, upto, most,
									 snapshot, others);
		}
		else if (count < most && one->first <= upto)
			count += read_partition(event, one, which, keys, nkeys, upto, most - count,
									snapshot, tuples + count);
	}
	pfree(partitions);
	if (nothers > 0)
		count = merge_lists(RelationGetDescr(event), tuples, count, others, nothers, most);
	return count;
}

static int
read_partition(Relation event, const EviPartition *partition, EviEventIndex which,
			   const EviKey *keys, int nkeys, int64 upto, int most,
			   Snapshot snapshot, HeapTuple *tuples)
{
	Relation	table = table_open(partition->relid, AccessShareLock);
	Part		part;
	binaryheap *heap;
	int			count;

	if (!OidIsValid(partition->index[which]))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("partition \"%s\" of evinbox.event lacks an index",
						RelationGetRelationName(table)),
				 errhint("Create those indexes of evinbox.event again that were dropped.")));

	/* the newest one often is, and the default one nearly always */
	if (RelationGetNumberOfBlocks(table) == 0)
	{
		table_close(table, AccessShareLock);
		return 0;
	}
	open_part(&part, event, table, partition, which, snapshot);
	heap = start_streams(&part, keys, nkeys, upto, most);
	count = take(&part, heap, most, tuples);
	binaryheap_free(heap);
	close_part(&part);
	return count;
}

static void
open_part(Part *part, Relation event, Relation table, const EviPartition *partition,
		  EviEventIndex which, Snapshot snapshot)
{
	part->desc = RelationGetDescr(event);
	part->table = table;
	part->index = index_open(partition->index[which], AccessShareLock);
	part->nkeys = IndexRelationGetNumberOfKeyAttributes(part->index);
	Assert(part->nkeys <= lengthof(part->keys));

	for (int i = 0; i < part->nkeys - 1; i++)
		ScanKeyInit(&part->keys[i], i + 1, BTEqualStrategyNumber, F_TEXTEQ, (Datum) 0);
	ScanKeyInit(&part->keys[part->nkeys - 1], part->nkeys, BTLessEqualStrategyNumber, F_INT8LE,
				(Datum) 0);
	part->scan = evi_index_beginscan(part->table, part->index, snapshot, part->nkeys);
	part->scan->xs_want_itup = true;
	part->slot = table_slot_create(part->table, NULL);
	part->map = convert_tuples_by_name(RelationGetDescr(part->table), part->desc);
}

static void
close_part(Part *part)
{
	index_endscan(part->scan);
	ExecDropSingleTupleTableSlot(part->slot);
	index_close(part->index, AccessShareLock);
	table_close(part->table, NoLock);
}

/* the streams that have anything, by their highest ids */
static binaryheap *
start_streams(Part *part, const EviKey *keys, int nkeys, int64 upto, int most)
{
	binaryheap *heap = binaryheap_allocate(Max(nkeys, 1), compare_streams, NULL);
	Stream	   *streams = palloc0(sizeof(Stream) * Max(nkeys, 1));

	for (int i = 0; i < nkeys; i++)
	{
		Stream	   *stream = &streams[i];

		CHECK_FOR_INTERRUPTS();
		stream->key = &keys[i];
		stream->id = upto;
		stream->chunk = nkeys == 1 ? most : Min(FIRST_CHUNK, most);

		/* a single one has nobody to be compared with */
		if (nkeys == 1 || find_highest(part, stream, upto))
			binaryheap_add_unordered(heap, PointerGetDatum(stream));
	}
	binaryheap_build(heap);
	return heap;
}

/* Takes events from the streams, newest first. Returns how many. */
static int
take(Part *part, binaryheap *heap, int most, HeapTuple *tuples)
{
	int			count = 0;

	while (count < most && !binaryheap_empty(heap))
	{
		Stream	   *stream = (Stream *) DatumGetPointer(binaryheap_first(heap));

		CHECK_FOR_INTERRUPTS();
		if (stream->next < stream->nready)
			tuples[count++] = stream->ready[stream->next++];
		else
			fill(part, stream);

		if (stream->next < stream->nready)
			stream->id = id_of(stream->ready[stream->next], part->desc);
		else if (!stream->is_at_end)
			stream->id = id_of(stream->ready[stream->nready - 1], part->desc) - 1;
		else
		{
			binaryheap_remove_first(heap);
			continue;
		}
		binaryheap_replace_first(heap, PointerGetDatum(stream));
	}
	return count;
}

/* The scan goes backwards from an id of a key. */
static void
seek(Part *part, const EviKey *key, int64 upto)
{
	for (int i = 0; i < part->nkeys - 1; i++)
		part->keys[i].sk_argument = PointerGetDatum(key->column[i]);
	part->keys[part->nkeys - 1].sk_argument = Int64GetDatum(upto);
	index_rescan(part->scan, part->keys, part->nkeys, NULL, 0);
}

/* The event need not be visible: then there is none with an id as high. */
static bool
find_highest(Part *part, Stream *stream, int64 upto)
{
	bool		isnull;

	seek(part, stream->key, upto);
	if (index_getnext_tid(part->scan, BackwardScanDirection) == NULL)
		return false;
	stream->id = DatumGetInt64(index_getattr(part->scan->xs_itup, part->nkeys,
											 RelationGetDescr(part->index), &isnull));
	return true;
}

/* reads a stream's next events, of which there may be none */
static void
fill(Part *part, Stream *stream)
{
	stream->ready = palloc(sizeof(HeapTuple) * stream->chunk);
	stream->next = stream->nready = 0;

	seek(part, stream->key, stream->id);
	while (stream->nready < stream->chunk &&
		   index_getnext_slot(part->scan, BackwardScanDirection, part->slot))
	{
		HeapTuple	tuple = ExecCopySlotHeapTuple(part->slot);

		CHECK_FOR_INTERRUPTS();
		if (part->map)
			tuple = execute_attr_map_tuple(tuple, part->map);
		stream->ready[stream->nready++] = tuple;
	}
	ExecClearTuple(part->slot);
	stream->is_at_end = stream->nready < stream->chunk;
	stream->chunk *= 2;
}

/* Merges others into a list, which has room for so many. Returns its new length. */
static int
merge_lists(TupleDesc desc, HeapTuple *tuples, int count, HeapTuple *others, int nothers, int most)
{
	HeapTuple  *merged = palloc(sizeof(HeapTuple) * most);
	int			n = 0;
	int			left = 0;
	int			right = 0;

	while (n < most && (left < count || right < nothers))
	{
		if (right >= nothers ||
			(left < count && id_of(tuples[left], desc) > id_of(others[right], desc)))
			merged[n++] = tuples[left++];
		else
			merged[n++] = others[right++];
	}
	memcpy(tuples, merged, sizeof(HeapTuple) * n);
	pfree(merged);
	return n;
}

static int64
id_of(HeapTuple tuple, TupleDesc desc)
{
	bool		isnull;

	return DatumGetInt64(heap_getattr(tuple, Anum_event_id, desc, &isnull));
}

/* the highest id comes first */
static int
compare_streams(Datum a, Datum b, void *arg)
{
	int64		left = ((Stream *) DatumGetPointer(a))->id;
	int64		right = ((Stream *) DatumGetPointer(b))->id;

	return (left > right) - (left < right);
}
