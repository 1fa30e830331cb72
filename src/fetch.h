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
#include "utils/snapshot.h"
#include "utils/timestamp.h"

/* events that stand in a row, as values of the type evinbox.event */
typedef struct EviBatch
{
	int			count;
	Size		bytes;
	Datum	   *event;
	int64	   *id;
	int16	   *depth;
	TimestampTz *recorded_at;
	text	  **subject_type;
	text	  **subject_id;
	text	  **action;
	Datum	   *values;			/* room to take a tuple apart */
	bool	   *isnull;
} EviBatch;

extern EviBatch *evi_fetch_batch(const int64 *ids, int count, Snapshot snapshot,
								 int *fetched);
extern int	evi_fetch_ids(int64 first, int64 last, int most, Snapshot snapshot, int64 **ids);
extern int64 evi_fetch_first_since(TimestampTz since, int64 last, Snapshot snapshot);
extern int64 evi_fetch_last_given(void);
extern int64 evi_fetch_highest(Snapshot snapshot);
extern uint32 evi_batch_subject_hash(const EviBatch *batch, int n);
extern HeapTupleData evi_batch_tuple(const EviBatch *batch, int n);
extern bool evi_fetch_recorded_at(int64 id, Snapshot snapshot, TimestampTz *recorded_at);

#endif							/* EVI_FETCH_H */
