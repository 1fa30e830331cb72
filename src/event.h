/*-------------------------------------------------------------------------
 *
 * event.h
 *		Events: what makes one valid, how one is stored, and its cause.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_EVENT_H
#define EVI_EVENT_H

#include "access/htup.h"
#include "fmgr.h"
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

extern text *evi_event_id_to_text(Datum id, PGFunction out);
extern text *evi_event_json_to_text(const JsonbValue *value);
extern void evi_event_check(text *subject_type, text *subject_id, text *action,
							Jsonb *metadata, Jsonb *snapshot);
extern void evi_event_check_action(text *subject_type, text *action, Jsonb *metadata);
extern bool evi_event_set_ours(bool value);
extern bool evi_event_is_ours(void);
extern int64 evi_event_insert(Datum *values, bool *isnull);
extern bool evi_event_recorded_since(const EviEventKey *key, TimestampTz since,
									 Snapshot snapshot);

/*
 * The event whose handler runs now, and its depth. Id 0 with a depth if it is
 * one of several; depth EVI_NO_CAUSE if none is at work.
 */
#define EVI_NO_CAUSE (-1)
extern void evi_event_set_cause(int64 id, int16 depth);
extern void evi_event_set_cause_of(int64 id, int16 (*depth) (void *arg), void *arg);
extern int64 evi_event_cause(int16 *depth);

#endif							/* EVI_EVENT_H */
