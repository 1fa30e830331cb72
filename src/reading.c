/*-------------------------------------------------------------------------
 *
 * reading.c
 *		Reading the outbox: what one snapshot shows and another does not.
 *
 * The segments are read side by side, in the order of transaction ids. What is
 * needed of a large difference is only its beginning; see evi_reading_run().
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "lib/qunique.h"
#include "miscadmin.h"
#include "nodes/pg_list.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/xid8.h"

#include "evinbox.h"
#include "reading.h"

/* unfinished transactions this close below xmax are read in one scan with it */
#define NEAR_XIDS 1024

/* so many rows in a row are passed one by one, before a search for the next */
#define PASSED_ROWS 16

typedef struct Row
{
	uint64		xid;
	int64		id;
} Row;

/* the rows of one segment in a range of transactions, in order */
typedef struct Stream
{
	EviTable	segment;
	uint64		to;				/* the range's end */
	EviEntries	entries;
	bool		is_open;		/* does it stand at a row? */
	bool		in_one;			/* is it searching within one transaction? */
	Row			row;
	EviSnapshot *checkpoint;	/* of the row; may be NULL */
} Stream;

/* what has been read so far */
typedef struct RowList
{
	EviReading *reading;
	Snapshot	snapshot;
	Row		   *row;
	int			count;
	int			room;
	uint64		xid;			/* of the last row; or 0 */
	bool		xid_is_wanted;	/* are rows of that transaction? */
	int			of_this_xid;	/* how many of them are in the list */
	int			passed;			/* how many there were, if they are not wanted */
	List	   *cut;			/* Row pointers: where transactions were left */
	List	   *checkpoints;	/* that can be a step */
	const EviSnapshot *step;	/* the one that is; or NULL */
} RowList;

static void read_range(RowList *list, uint64 from, uint64 to);
static Stream *first_stream(Stream *streams);
static void open_stream(Stream *stream, RowList *list, uint64 from);
static void advance(Stream *stream, RowList *list);
static bool read_row(Stream *stream, bool by_index);
static void begin_range(Stream *stream, uint64 from, Snapshot snapshot);
static void begin_rest(Stream *stream, uint64 xid, int64 after, Snapshot snapshot);
static void set_range(ScanKeyData *keys, uint64 from, uint64 to);
static void set_rest(ScanKeyData *keys, uint64 xid, int64 after);
static void add_row(RowList *list, const Stream *stream);
static void consider_checkpoint(RowList *list, EviSnapshot *checkpoint);
static void choose_step(RowList *list, uint64 xid);
static void finish_reading(RowList *list);
static bool is_between(const EviReading *reading, uint64 xid);
static bool is_in_range(const EviReading *reading, const Row *row);
/*
 * Reads the ids of the events that upper sees and lower does not.
 *
 * A large difference is cut in two ways. If there are checkpoints between the
 * two snapshots, upper becomes one of them, such that there are not many more
 * ids than asked for: so a backlog is taken in steps that keep the order of
 * commits. And of one transaction, only the first ids are read: then the
 * result ends where the first of these transactions was left.
 */
void
evi_reading_run(EviReading *reading, Snapshot snapshot)
{
	RowList		list = {.reading = reading, .snapshot = snapshot};
	const EviSnapshot *lower = reading->lower;
	uint64		from = lower->xmax;
	int			far = lower->nxip;

	/*
	 * What was unfinished in lower comes in addition to the range above it.
	 * One that is open for long must not make us read all that has passed
	 * since: it is looked up by itself.
	 */
	while (far > 0 && lower->xip[far - 1] + NEAR_XIDS >= lower->xmax)
		from = lower->xip[--far];

	for (int i = 0; i < far; i++)
		read_range(&list, lower->xip[i], lower->xip[i] + 1);
	read_range(&list, from, reading->upper->xmax);
	finish_reading(&list);
}

/* the rows of the transactions from one up to, but not including, another */
void
evi_reading_begin(EviScan *scan, EviTable segment, uint64 from, uint64 to, Snapshot snapshot)
{
	ScanKeyData keys[2];

	set_range(keys, from, to);
	evi_scan_begin(scan, segment, snapshot, 2, keys);
}

/* the rows of one transaction behind an id */
void
evi_reading_begin_rest(EviScan *scan, EviTable segment, uint64 xid, int64 after, Snapshot snapshot)
{
	ScanKeyData keys[2];

	set_rest(keys, xid, after);
	evi_scan_begin(scan, segment, snapshot, 2, keys);
}

static void
set_range(ScanKeyData *keys, uint64 from, uint64 to)
{
	ScanKeyInit(&keys[0], Anum_outbox_xid, BTGreaterEqualStrategyNumber, F_XID8GE,
				FullTransactionIdGetDatum(FullTransactionIdFromU64(from)));
	ScanKeyInit(&keys[1], Anum_outbox_xid, BTLessStrategyNumber, F_XID8LT,
				FullTransactionIdGetDatum(FullTransactionIdFromU64(to)));
}

static void
set_rest(ScanKeyData *keys, uint64 xid, int64 after)
{
	ScanKeyInit(&keys[0], Anum_outbox_xid, BTEqualStrategyNumber, F_XID8EQ,
				FullTransactionIdGetDatum(FullTransactionIdFromU64(xid)));
	ScanKeyInit(&keys[1], Anum_outbox_event_id, BTGreaterStrategyNumber, F_INT8GT,
				Int64GetDatum(after));
}

/* from all segments: their size may have been changed meanwhile */
static void
read_range(RowList *list, uint64 from, uint64 to)
{
	EviReading *reading = list->reading;
	Stream		streams[EVI_OUTBOX_SEGMENTS];
	Stream	   *stream;

	for (int i = 0; i < EVI_OUTBOX_SEGMENTS; i++)
	{
		streams[i] = (Stream) {.segment = EVI_OUTBOX + i, .to = to};
		open_stream(&streams[i], list, from);
	}

	while ((stream = first_stream(streams)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		if ((reading->stop > 0 && list->count >= reading->stop) ||
			(list->step && stream->row.xid >= list->step->xmax))
			break;

		add_row(list, stream);
		if (stream->checkpoint && reading->may_step)
			consider_checkpoint(list, stream->checkpoint);
		if (reading->may_step && list->count > reading->step)
			choose_step(list, stream->row.xid);

		if (list->passed > PASSED_ROWS)
		{
			evi_entries_end(&stream->entries);
			open_stream(stream, list, list->xid + 1);
		}
		else if (list->of_this_xid < reading->step)
			advance(stream, list);
		else
		{
			Row		   *left = palloc(sizeof(Row));

			*left = stream->row;
			list->cut = lappend(list->cut, left);
			evi_entries_end(&stream->entries);
			open_stream(stream, list, left->xid + 1);
		}
	}

	for (int i = 0; i < EVI_OUTBOX_SEGMENTS; i++)
		if (streams[i].is_open)
			evi_entries_end(&streams[i].entries);
}

/* the one with the lowest transaction id; NULL if none has rows left */
static Stream *
first_stream(Stream *streams)
{
	Stream	   *first = NULL;

	for (int i = 0; i < EVI_OUTBOX_SEGMENTS; i++)
		if (streams[i].is_open && (!first || streams[i].row.xid < first->row.xid))
			first = &streams[i];
	return first;
}

/* goes to the first row from a transaction on */
static void
open_stream(Stream *stream, RowList *list, uint64 from)
{
	stream->in_one = false;
	begin_range(stream, from, list->snapshot);
	advance(stream, list);
}

/*
 * Goes to the next row that is not before the reading's begin. A transaction
 * with many rows before it is entered by a scan of its own.
 */
static void
advance(Stream *stream, RowList *list)
{
	int64		after = list->reading->after;
	uint64		passing = 0;
	int			npassed = 0;

	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		stream->is_open = read_row(stream, list->reading->by_index);
		if (stream->is_open)
		{
			if (stream->row.id > after)
				return;
			npassed = stream->row.xid == passing ? npassed + 1 : 1;
			passing = stream->row.xid;
			if (npassed <= PASSED_ROWS || stream->in_one)
				continue;
		}

		evi_entries_end(&stream->entries);
		if (!stream->is_open && !stream->in_one)
			return;
		stream->in_one = stream->is_open;
		if (stream->in_one)
			begin_rest(stream, passing, after, list->snapshot);
		else
			begin_range(stream, stream->row.xid + 1, list->snapshot);
	}
}

/*
 * Takes the next row; false if there is none. All that we want is in the index,
 * but for the checkpoints, and whether the row is visible.
 */
static bool
read_row(Stream *stream, bool by_index)
{
	TupleDesc	desc = RelationGetDescr(stream->entries.index);
	IndexTuple	entry;

	while ((entry = evi_entries_next(&stream->entries)) != NULL)
	{
		bool		isnull;
		Datum		xid = index_getattr(entry, Anum_outbox_xid, desc, &isnull);
		TupleTableSlot *row;
		Datum		checkpoint;

		stream->row.xid = U64FromFullTransactionId(DatumGetFullTransactionId(xid));
		stream->row.id = DatumGetInt64(index_getattr(entry, Anum_outbox_event_id, desc, &isnull));
		stream->checkpoint = NULL;
		if (by_index && stream->row.id % EVI_CHECKPOINT_IDS != 0)
			return true;

		row = evi_entries_row(&stream->entries);
		if (!row)
			continue;
		checkpoint = slot_getattr(row, Anum_outbox_checkpoint, &isnull);
		if (!isnull)
			stream->checkpoint = evi_snapshot_from_datum(checkpoint);
		return true;
	}
	return false;
}

/* the rows from a transaction on, up to the stream's end */
static void
begin_range(Stream *stream, uint64 from, Snapshot snapshot)
{
	ScanKeyData keys[2];

	set_range(keys, from, stream->to);
	evi_entries_begin(&stream->entries, stream->segment, snapshot, 2, keys);
}

/* the rows of one transaction behind an id */
static void
begin_rest(Stream *stream, uint64 xid, int64 after, Snapshot snapshot)
{
	ScanKeyData keys[2];

	set_rest(keys, xid, after);
	evi_entries_begin(&stream->entries, stream->segment, snapshot, 2, keys);
}

static void
add_row(RowList *list, const Stream *stream)
{
	if (list->xid != stream->row.xid)
	{
		list->xid = stream->row.xid;
		list->xid_is_wanted = is_between(list->reading, list->xid);
		list->of_this_xid = list->passed = 0;
	}
	if (!list->xid_is_wanted)
		list->passed++;
	if (!list->xid_is_wanted || !is_in_range(list->reading, &stream->row))
		return;
	list->of_this_xid++;
	if (list->count == list->room)
	{
		list->room = Max(64, list->room * 2);
		list->row = list->row ?
			repalloc_huge(list->row, sizeof(Row) * list->room) :
			palloc(sizeof(Row) * list->room);
	}
	list->row[list->count++] = stream->row;
}

/* A step has to get us on, and not beyond where we want to go. */
static void
consider_checkpoint(RowList *list, EviSnapshot *checkpoint)
{
	if (evi_snapshot_is_ahead(checkpoint, list->reading->lower) &&
		evi_snapshot_is_ahead(list->reading->upper, checkpoint))
		list->checkpoints = lappend(list->checkpoints, checkpoint);
}

/*
 * There are too many rows before a transaction. The best step is the last one
 * whose rows have all been read; else the first one beyond, unless a better
 * one comes.
 */
static void
choose_step(RowList *list, uint64 xid)
{
	const EviSnapshot *last = NULL;
	const EviSnapshot *next = NULL;
	ListCell   *lc;

	if (list->step && list->step->xmax <= xid)
		return;
	foreach(lc, list->checkpoints)
	{
		const EviSnapshot *one = lfirst(lc);

		if (one->xmax <= xid && (!last || one->xmax > last->xmax))
			last = one;
		if (one->xmax > xid && (!next || one->xmax < next->xmax))
			next = one;
	}
	list->step = last ? last : next;
}

/* the ids of what upper sees, as far as all transactions were read */
static void
finish_reading(RowList *list)
{
	EviReading *reading = list->reading;
	int64		end = PG_INT64_MAX;
	ListCell   *lc;

	if (list->step)
		reading->upper = list->step;
	foreach(lc, list->cut)
	{
		const Row  *left = lfirst(lc);

		if (evi_snapshot_sees(reading->upper, left->xid))
			end = Min(end, left->id);
	}
	reading->is_cut = end != PG_INT64_MAX;

	reading->count = 0;
	reading->id = MemoryContextAllocHuge(CurrentMemoryContext,
										 sizeof(int64) * Max(list->count, 1));
	for (int i = 0; i < list->count; i++)
		if (list->row[i].id <= end &&
			(!list->step || evi_snapshot_sees(reading->upper, list->row[i].xid)))
			reading->id[reading->count++] = list->row[i].id;
	qsort(reading->id, reading->count, sizeof(int64), evi_compare_ids);

	/* an explicit id may have been rolled back, and used again */
	reading->count = (int) qunique(reading->id, reading->count, sizeof(int64), evi_compare_ids);
	if (list->row)
		pfree(list->row);
}

static bool
is_between(const EviReading *reading, uint64 xid)
{
	return evi_snapshot_sees(reading->upper, xid) && !evi_snapshot_sees(reading->lower, xid);
}

static bool
is_in_range(const EviReading *reading, const Row *row)
{
	return row->id > reading->after && (reading->until == 0 || row->id <= reading->until) &&
		(row->xid != reading->skip_xid || row->id > reading->skip_until);
}
