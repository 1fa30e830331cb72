/*-------------------------------------------------------------------------
 *
 * fetch.h
 *		Stored events, and how they are found.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_FETCH_H
#define EVI_FETCH_H

#include "access/htup.h"
#include "access/tupdesc.h"
#include "utils/snapshot.h"
#include "utils/timestamp.h"

/* what we need of an event; it points into the event */
typedef struct EviEventParts
{
	bool		is_filled;
	int16		depth;
	TimestampTz recorded_at;
	text	   *subject_type;
	text	   *subject_id;
	text	   *action;
} EviEventParts;

/* events that stand in a row, as values of the type evinbox.event */
typedef struct EviBatch
{
	int			count;
	Size		bytes;
	Datum	   *event;
	int64	   *id;
	EviEventParts *parts;		/* once asked for, by evi_batch_parts() */
	TupleDesc	desc;
} EviBatch;

extern EviBatch *evi_fetch_batch(const int64 *ids, int count, Snapshot snapshot,
								 int *fetched);
extern int	evi_fetch_ids(int64 first, int64 last, int most, Snapshot snapshot, int64 **ids);
extern int64 evi_fetch_first_since(TimestampTz since, int64 last, Snapshot snapshot);
extern int64 evi_fetch_last_given(void);
extern int64 evi_fetch_highest(Snapshot snapshot);
extern const EviEventParts *evi_batch_parts(EviBatch *batch, int n);
extern uint32 evi_batch_subject_hash(EviBatch *batch, int n);
extern HeapTupleData evi_batch_tuple(const EviBatch *batch, int n);
extern bool evi_fetch_recorded_at(int64 id, Snapshot snapshot, TimestampTz *recorded_at);

#endif							/* EVI_FETCH_H */
