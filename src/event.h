/*-------------------------------------------------------------------------
 *
 * event.h
 *		Events: what makes one valid, and how stored ones are found.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_EVENT_H
#define EVI_EVENT_H

#include "access/htup.h"
#include "utils/jsonb.h"
#include "utils/snapshot.h"
#include "utils/timestamp.h"

typedef struct EviEventKey
{
	text	   *subject_type;
	text	   *subject_id;
	text	   *action;
	bool		with_actor;		/* is the actor part of the key? */
	text	   *actor;			/* may be NULL */
} EviEventKey;

/* events that stand in a row, as values of the type evinbox.event */
typedef struct EviBatch
{
	int			count;
	Size		bytes;
	Datum	   *event;
	int64	   *id;
	int16	   *depth;
	text	  **subject_type;
	text	  **action;
} EviBatch;

extern void evi_event_check(text *subject_type, text *subject_id, text *action,
							Jsonb *metadata);
extern void evi_event_check_action(text *subject_type, text *action, Jsonb *metadata);
extern int64 evi_event_insert(Datum *values, bool *isnull);
extern bool evi_event_recorded_since(const EviEventKey *key, TimestampTz since,
									 Snapshot snapshot);
extern EviBatch *evi_event_fetch(const int64 *ids, int count, Snapshot snapshot,
								 int *fetched);

extern bool evi_event_recorded_at(int64 id, Snapshot snapshot, TimestampTz *recorded_at);

/* the event whose handler runs now; id 0 if none does */
extern void evi_event_set_cause(int64 id, int16 depth);
extern int64 evi_event_cause(int16 *depth);

#endif							/* EVI_EVENT_H */
