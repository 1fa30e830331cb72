/*-------------------------------------------------------------------------
 *
 * relation.h
 *		The extension's own tables, by number, and direct access to them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_RELATION_H
#define EVI_RELATION_H

#include "access/genam.h"
#include "access/itup.h"
#include "access/skey.h"
#include "datatype/timestamp.h"
#include "executor/tuptable.h"
#include "storage/lockdefs.h"
#include "utils/rel.h"
#include "utils/snapshot.h"

#define EVI_OUTBOX_SEGMENTS 4
#define EVI_CURSOR_SEGMENTS 2

typedef enum EviTable
{
	EVI_EVENT,
	EVI_EVENT_SEQ,
	EVI_ACTION,
	EVI_INBOX,
	EVI_INBOX_SEQ,
	EVI_OUTBOX,					/* EVI_OUTBOX_SEGMENTS of them */
	EVI_CURSOR = EVI_OUTBOX + EVI_OUTBOX_SEGMENTS,	/* EVI_CURSOR_SEGMENTS */
	EVI_CURSOR_SEQ = EVI_CURSOR + EVI_CURSOR_SEGMENTS,
	EVI_BACKLOG,
	EVI_BACKLOG_SEQ,
	EVI_DELIVERY,
	EVI_ATTEMPT,
	EVI_HALT,
	EVI_INCARNATION,
	EVI_WAITING,
	EVI_ENDPOINT,
	EVI_ENDPOINT_SEQ,
	EVI_REQUEST,
	EVI_TABLES
} EviTable;

/* which index of evinbox.event, on each of its partitions */
typedef enum EviEventIndex
{
	EVI_EVENT_BY_ID,
	EVI_EVENT_BY_SUBJECT,
	EVI_EVENT_BY_ACTOR,
	EVI_EVENT_FEED_OF_SUBJECT,
	EVI_EVENT_FEED_OF_ACTOR,
	EVI_EVENT_FEED_OF_SCOPE,
	EVI_EVENT_INDEXES
} EviEventIndex;

typedef struct EviPartition
{
	Oid			relid;
	bool		is_default;		/* it has whatever no range has */
	int64		first;			/* the range of its ids */
	int64		last;
	TimestampTz opened_at;		/* when its first event was recorded; 0 if not known */
	Oid			index[EVI_EVENT_INDEXES];
} EviPartition;

/* one open scan of a table by an index */
typedef struct EviScan
{
	Relation	table;
	Relation	index;
	SysScanDesc scan;
} EviScan;

/* one open scan of a table's own index, which need not visit the table */
typedef struct EviEntries
{
	Relation	table;
	Relation	index;
	IndexScanDesc scan;
	TupleTableSlot *row;
} EviEntries;

/* insertions of the same kind, one after the other */
typedef struct EviSeries
{
	LocalTransactionId lxid;	/* of the last one */
} EviSeries;

extern bool evi_relation_installed(void);
extern uint64 evi_relation_changes(void);
extern Oid	evi_relation_oid(EviTable table);
extern Relation evi_relation_open(EviTable table, LOCKMODE mode);
extern void evi_relation_check_id(EviTable sequence, int64 id, const char *of_what);
extern bool evi_relation_partition(int n, EviPartition *partition);
extern void evi_relation_note_opened(Oid partition, TimestampTz opened_at);
extern EviPartition *evi_relation_partitions(int *count);
extern void evi_relation_partition_of(int64 event_id, EviPartition *partition);

extern void evi_scan_begin(EviScan *scan, EviTable table, Snapshot snapshot,
						   int nkeys, ScanKey keys);
extern void evi_scan_begin_index(EviScan *scan, Oid table, Oid index, Snapshot snapshot,
								 int nkeys, ScanKey keys);
extern HeapTuple evi_scan_next(EviScan *scan, ScanDirection direction);
extern void evi_scan_end(EviScan *scan);
extern void evi_entries_begin(EviEntries *entries, EviTable table, Snapshot snapshot,
							  int nkeys, ScanKey keys);
extern IndexTuple evi_entries_next(EviEntries *entries);
extern TupleTableSlot *evi_entries_row(EviEntries *entries);
extern void evi_entries_end(EviEntries *entries);
extern void evi_relation_insert(EviTable table, const Datum *values, const bool *isnull);
extern LOCKMODE evi_relation_lock_left(EviSeries *series);
extern int	evi_relation_count(EviTable table, Snapshot snapshot);
extern bool evi_relation_is_empty(EviTable table);
extern void evi_relation_deform(EviTable table, HeapTuple tuple, TupleDesc desc,
								Datum *values, bool *isnull);

#endif							/* EVI_RELATION_H */
