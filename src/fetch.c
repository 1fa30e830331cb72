/*-------------------------------------------------------------------------
 *
 * fetch.c
 *		Stored events, and how they are found.
 *
 * They are read by direct index scans of the partitions, with the snapshot
 * that the caller gives. Whoever goes through the partitions has evinbox.event
 * locked: then none of them goes meanwhile.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/tupconvert.h"
#include "commands/sequence.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/fmgroids.h"
#include "utils/rel.h"

#include "evinbox.h"
#include "fetch.h"
#include "relation.h"

/* a batch stops growing here, so that large events do not exhaust memory */
#define BATCH_MAX_BYTES (16 * 1024 * 1024)

/* ids that are further apart are looked up by themselves */
#define MAX_GAP 16

/* so many events may be worth reading whole pages, if there are so many on each */
#define MIN_PAGED 64
#define MIN_ON_PAGE 4

/* a range of pages */
typedef struct Pages
{
	BlockNumber first;
	BlockNumber last;
} Pages;

static int	fetch_run(Relation parent, const int64 *ids, int count, Snapshot snapshot,
					  EviBatch *batch);
static int	fetch_indexed(Relation parent, const EviPartition *partition, const int64 *ids,
						  int length, Snapshot snapshot, EviBatch *batch);
static void fetch_astray(Relation parent, const EviPartition *partition, int64 id,
						 Snapshot snapshot, EviBatch *batch);
static bool find_pages(const EviPartition *partition, const int64 *ids, int length,
					   Snapshot snapshot, Pages *pages);
static bool fetch_paged(Relation parent, const EviPartition *partition, const Pages *pages,
						const int64 *ids, int length, Snapshot snapshot, EviBatch *batch);
static void begin_range(EviScan *scan, const EviPartition *partition, int64 first, int64 last,
						Snapshot snapshot, ScanKeyData *keys);
static int	scan_ids(const EviPartition *partition, int64 first, int64 last, int most,
					 Snapshot snapshot, int64 *ids);
static int	run_length(const int64 *ids, int count);
static uint32 hash_text(text *value);
static void add_to_batch(EviBatch *batch, int64 id, HeapTuple tuple, TupleDesc desc);

/*
 * Fetches events by sorted ids; those that are not there any more are left
 * out. Stops early where they are large: "fetched" tells how many of the ids
 * have been looked at.
 */
EviBatch *
evi_fetch_batch(const int64 *ids, int count, Snapshot snapshot, int *fetched)
{
	Relation	parent = evi_relation_open(EVI_EVENT, AccessShareLock);
	EviBatch   *batch = palloc0(sizeof(EviBatch));

	batch->event = palloc(sizeof(Datum) * Max(count, 1));
	batch->id = palloc(sizeof(int64) * Max(count, 1));
	batch->parts = palloc0(sizeof(EviEventParts) * Max(count, 1));
	batch->desc = CreateTupleDescCopy(RelationGetDescr(parent));

	*fetched = 0;
	while (*fetched < count && batch->bytes < BATCH_MAX_BYTES)
		*fetched += fetch_run(parent, ids + *fetched, count - *fetched, snapshot, batch);

	table_close(parent, AccessShareLock);
	return batch;
}

/*
 * The ids of the events in a range: the lowest ones, at most so many. Returns
 * their number.
 */
int
evi_fetch_ids(int64 first, int64 last, int most, Snapshot snapshot, int64 **ids)
{
	Relation	parent = table_open(evi_relation_oid(EVI_EVENT), AccessShareLock);
	int			npartitions;
	EviPartition *partitions = evi_relation_partitions(&npartitions);
	int			count = 0;

	/* oldest first; in the default partition, which is the last, there may be any ids */
	*ids = palloc(sizeof(int64) * 2 * most);
	for (int n = npartitions - 2; n >= 0 && count < most; n--)
		count += scan_ids(&partitions[n], first, last, most - count, snapshot, *ids + count);
	count += scan_ids(&partitions[npartitions - 1], first, last, most, snapshot, *ids + count);
	pfree(partitions);
	table_close(parent, AccessShareLock);

	qsort(*ids, count, sizeof(int64), evi_compare_ids);
	return Min(count, most);
}

/*
 * An id such that practically no event before it was recorded since a time.
 * Ids grow with the time of recording, but for what happened at once.
 */
int64
evi_fetch_first_since(TimestampTz since, int64 last, Snapshot snapshot)
{
	int64		low = 1;
	int64		high = last;
	TimestampTz earlier = since - 60 * USECS_PER_SEC;

	while (low < high)
	{
		int64		middle = low + (high - low) / 2;
		int64	   *ids;
		TimestampTz recorded_at;

		/* the next event there tells on which side it is */
		if (evi_fetch_ids(middle, high, 1, snapshot, &ids) == 0 ||
			!evi_fetch_recorded_at(ids[0], snapshot, &recorded_at) ||
			recorded_at >= earlier)
			high = middle;
		else
			low = ids[0] + 1;
	}
	return low;
}

/* the last id that was given, whether anybody sees its event or not */
int64
evi_fetch_last_given(void)
{
	Relation	sequence = evi_relation_open(EVI_EVENT_SEQ, AccessShareLock);
	Buffer		buffer = ReadBuffer(sequence, 0);
	HeapTupleData tuple;
	Page		page;
	ItemId		item;
	Form_pg_sequence_data data;
	int64		result;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	page = BufferGetPage(buffer);
	item = PageGetItemId(page, FirstOffsetNumber);
	tuple.t_data = (HeapTupleHeader) PageGetItem(page, item);
	data = (Form_pg_sequence_data) GETSTRUCT(&tuple);
	result = data->is_called ? data->last_value : data->last_value - 1;
	UnlockReleaseBuffer(buffer);
	table_close(sequence, AccessShareLock);
	return result;
}

/* the highest id of an event that is there; 0 if there is none */
int64
evi_fetch_highest(Snapshot snapshot)
{
	Relation	parent = table_open(evi_relation_oid(EVI_EVENT), AccessShareLock);
	EviPartition partition;
	int64		result = 0;

	for (int n = 0; evi_relation_partition(n, &partition); n++)
	{
		EviScan		scan;
		HeapTuple	tuple;
		bool		isnull;

		evi_scan_begin_index(&scan, partition.relid, partition.index[EVI_EVENT_BY_ID],
							 snapshot, 0, NULL);
		tuple = evi_scan_next(&scan, BackwardScanDirection);
		if (tuple)
			result = Max(result, DatumGetInt64(heap_getattr(tuple, Anum_event_id,
															RelationGetDescr(scan.table), &isnull)));
		evi_scan_end(&scan);
	}
	table_close(parent, AccessShareLock);
	return result;
}

/* Takes an event apart, if that was not done before. */
const EviEventParts *
evi_batch_parts(EviBatch *batch, int n)
{
	EviEventParts *parts = &batch->parts[n];
	HeapTupleData tuple;
	Datum		values[MaxTupleAttributeNumber];
	bool		isnull[MaxTupleAttributeNumber];

	if (parts->is_filled)
		return parts;

	/* somebody may have added columns */
	tuple = evi_batch_tuple(batch, n);
	heap_deform_tuple(&tuple, batch->desc, values, isnull);
	parts->depth = DatumGetInt16(values[Anum_event_depth - 1]);
	parts->recorded_at = DatumGetTimestampTz(values[Anum_event_recorded_at - 1]);
	parts->subject_type = DatumGetTextPP(values[Anum_event_subject_type - 1]);
	parts->subject_id = DatumGetTextPP(values[Anum_event_subject_id - 1]);
	parts->action = DatumGetTextPP(values[Anum_event_action - 1]);
	parts->is_filled = true;
	return parts;
}

/* what decides which lane a subject's events belong to */
uint32
evi_batch_subject_hash(EviBatch *batch, int n)
{
	const EviEventParts *parts = evi_batch_parts(batch, n);

	return hash_combine(hash_text(parts->subject_type), hash_text(parts->subject_id));
}

/* an event as a tuple of evinbox.event */
HeapTupleData
evi_batch_tuple(const EviBatch *batch, int n)
{
	HeapTupleHeader header = DatumGetHeapTupleHeader(batch->event[n]);
	HeapTupleData tuple = {0};

	tuple.t_len = HeapTupleHeaderGetDatumLength(header);
	ItemPointerSetInvalid(&tuple.t_self);
	tuple.t_data = header;
	return tuple;
}

/* false if there is no such event */
bool
evi_fetch_recorded_at(int64 id, Snapshot snapshot, TimestampTz *recorded_at)
{
	int			fetched;
	EviBatch   *batch = evi_fetch_batch(&id, 1, snapshot, &fetched);

	if (batch->count == 0)
		return false;
	*recorded_at = evi_batch_parts(batch, 0)->recorded_at;
	return true;
}

/*
 * Adds the first events of a list to a batch, as far as these are close
 * together and in one partition. Returns how many of the list are done with.
 */
static int
fetch_run(Relation parent, const int64 *ids, int count, Snapshot snapshot, EviBatch *batch)
{
	int			length = run_length(ids, count);
	EviPartition partition;
	Pages		pages = {0};

	evi_relation_partition_of(ids[0], &partition);
	if (length >= MIN_PAGED && find_pages(&partition, ids, length, snapshot, &pages) &&
		fetch_paged(parent, &partition, &pages, ids, length, snapshot, batch))
		return length;
	return fetch_indexed(parent, &partition, ids, length, snapshot, batch);
}

/* by one scan of the index over the range of their ids */
static int
fetch_indexed(Relation parent, const EviPartition *partition, const int64 *ids, int length,
			  Snapshot snapshot, EviBatch *batch)
{
	int			done = 0;
	ScanKeyData keys[2];
	EviScan		scan;
	HeapTuple	tuple;
	TupleConversionMap *map;

	begin_range(&scan, partition, ids[0], ids[length - 1], snapshot, keys);
	map = convert_tuples_by_name(RelationGetDescr(scan.table), RelationGetDescr(parent));
	while (done < length && batch->bytes < BATCH_MAX_BYTES &&
		   (tuple = evi_scan_next(&scan, ForwardScanDirection)) != NULL)
	{
		int64		id;
		bool		isnull;

		CHECK_FOR_INTERRUPTS();
		if (map)
			tuple = execute_attr_map_tuple(tuple, map);
		id = DatumGetInt64(heap_getattr(tuple, Anum_event_id, RelationGetDescr(parent), &isnull));
		while (ids[done] < id && batch->bytes < BATCH_MAX_BYTES)
			fetch_astray(parent, partition, ids[done++], snapshot, batch);
		if (ids[done] == id && batch->bytes < BATCH_MAX_BYTES)
		{
			add_to_batch(batch, id, tuple, RelationGetDescr(parent));
			done++;
		}
	}
	evi_scan_end(&scan);
	while (done < length && batch->bytes < BATCH_MAX_BYTES)
		fetch_astray(parent, partition, ids[done++], snapshot, batch);

	return done;
}

/*
 * What is not where it should be: gone, or in the default partition, if it was
 * recorded at the moment when the other one was attached.
 */
static void
fetch_astray(Relation parent, const EviPartition *partition, int64 id, Snapshot snapshot,
			 EviBatch *batch)
{
	int			npartitions;
	EviPartition *partitions = evi_relation_partitions(&npartitions);
	EviPartition *last = &partitions[npartitions - 1];

	if (!partition->is_default && last->is_default)
		(void) fetch_indexed(parent, last, &id, 1, snapshot, batch);
	pfree(partitions);
}

/*
 * Where the events of a list are, if these are about as many pages as events
 * fill: what was recorded together is together.
 */
static bool
find_pages(const EviPartition *partition, const int64 *ids, int length, Snapshot snapshot,
		   Pages *pages)
{
	bool		found = true;

	for (int end = 0; end < 2 && found; end++)
	{
		int64		id = end == 0 ? ids[0] : ids[length - 1];
		ScanKeyData keys[2];
		EviScan		scan;
		HeapTuple	tuple;

		begin_range(&scan, partition, id, id, snapshot, keys);
		tuple = evi_scan_next(&scan, ForwardScanDirection);
		found = tuple != NULL;
		if (found && end == 0)
			pages->first = ItemPointerGetBlockNumber(&tuple->t_self);
		else if (found)
			pages->last = ItemPointerGetBlockNumber(&tuple->t_self);
		evi_scan_end(&scan);
	}
	return found && pages->last >= pages->first &&
		(pages->last - pages->first) * MIN_ON_PAGE <= length;
}

/*
 * By a look at these pages, each as a whole, which is much quicker than one by
 * one. Returns false, with nothing added, if not all of them are there, or not
 * in their order, or if they are large.
 */
static bool
fetch_paged(Relation parent, const EviPartition *partition, const Pages *pages,
			const int64 *ids, int length, Snapshot snapshot, EviBatch *batch)
{
	Relation	rel = table_open(partition->relid, AccessShareLock);
	TableScanDesc scan = table_beginscan_strat(rel, snapshot, 0, NULL, false, false);
	bool		same = convert_tuples_by_name(RelationGetDescr(rel), RelationGetDescr(parent)) == NULL;
	int			before = batch->count;
	Size		bytes_before = batch->bytes;
	int			done = 0;
	HeapTuple	tuple;

	heap_setscanlimits(scan, pages->first, pages->last - pages->first + 1);
	while (same && done < length && batch->bytes < BATCH_MAX_BYTES &&
		   (tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		int64		id;
		bool		isnull;

		CHECK_FOR_INTERRUPTS();
		id = DatumGetInt64(heap_getattr(tuple, Anum_event_id, RelationGetDescr(rel), &isnull));
		if (id == ids[done])
		{
			add_to_batch(batch, id, tuple, RelationGetDescr(parent));
			done++;
		}
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	if (done == length)
		return true;

	for (int i = before; i < batch->count; i++)
		pfree(DatumGetPointer(batch->event[i]));
	batch->count = before;
	batch->bytes = bytes_before;
	return false;
}

static void
begin_range(EviScan *scan, const EviPartition *partition, int64 first, int64 last,
			Snapshot snapshot, ScanKeyData *keys)
{
	ScanKeyInit(&keys[0], Anum_event_id, BTGreaterEqualStrategyNumber, F_INT8GE,
				Int64GetDatum(first));
	ScanKeyInit(&keys[1], Anum_event_id, BTLessEqualStrategyNumber, F_INT8LE,
				Int64GetDatum(last));
	evi_scan_begin_index(scan, partition->relid, partition->index[EVI_EVENT_BY_ID],
						 snapshot, 2, keys);
}

/*
 * How many ids are close together, and in one partition. A range is in one
 * piece; of the default partition, each id has to be asked for.
 */
static int
run_length(const int64 *ids, int count)
{
	int			length = 1;
	EviPartition first;
	EviPartition last;

	while (length < count && ids[length] - ids[length - 1] <= MAX_GAP)
		length++;
	evi_relation_partition_of(ids[0], &first);
	evi_relation_partition_of(ids[length - 1], &last);
	if (last.relid == first.relid && !first.is_default)
		return length;

	for (int i = 1; i < length; i++)
	{
		evi_relation_partition_of(ids[i], &last);
		if (last.relid != first.relid)
			return i;
	}
	return length;
}

/* the lowest ids of a range that one partition has */
static int
scan_ids(const EviPartition *partition, int64 first, int64 last, int most,
		 Snapshot snapshot, int64 *ids)
{
	ScanKeyData keys[2];
	EviScan		scan;
	HeapTuple	tuple;
	int			count = 0;

	begin_range(&scan, partition, first, last, snapshot, keys);
	while (count < most && (tuple = evi_scan_next(&scan, ForwardScanDirection)) != NULL)
	{
		bool		isnull;

		CHECK_FOR_INTERRUPTS();
		ids[count++] = DatumGetInt64(heap_getattr(tuple, Anum_event_id,
												  RelationGetDescr(scan.table), &isnull));
	}
	evi_scan_end(&scan);
	return count;
}

static void
add_to_batch(EviBatch *batch, int64 id, HeapTuple tuple, TupleDesc desc)
{
	int			n = batch->count++;

	/* as it is in memory, where nothing is stored apart */
	batch->event[n] = heap_copy_tuple_as_datum(tuple, desc);
	batch->id[n] = id;
	batch->bytes += HeapTupleHeaderGetDatumLength(DatumGetHeapTupleHeader(batch->event[n]));
}

static uint32
hash_text(text *value)
{
	return hash_bytes((unsigned char *) VARDATA_ANY(value), VARSIZE_ANY_EXHDR(value));
}
