/*-------------------------------------------------------------------------
 *
 * delivery.h
 *		Events that an inbox could not handle, yet or at all.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_DELIVERY_H
#define EVI_DELIVERY_H

#include "inbox.h"
#include "utils/elog.h"
#include "utils/timestamp.h"

/* what becomes of an event that was not handled */
typedef struct EviOutcome
{
	const char *state;
	int			attempts;
	TimestampTz next_at;		/* DT_NOEND for never */
	bool		is_failure;		/* else it was the handler's wish */
} EviOutcome;

typedef struct EviDue
{
	int64		event_id;
	int			attempts;
	TimestampTz failed_at;
} EviDue;

/* an inbox whose rule does not work */
typedef struct EviHalt
{
	int32		inbox_id;
	int			looks;
	TimestampTz next_look_at;
} EviHalt;

extern void evi_delivery_fail(const EviInbox *inbox, int64 event_id, const EviOutcome *outcome,
							  const ErrorData *error);
extern bool evi_delivery_done(const EviInbox *inbox, int64 event_id);
extern int	evi_delivery_attempts(const EviInbox *inbox, int64 event_id);
extern int	evi_delivery_due(const EviInbox *inbox, int most, MemoryContext context, EviDue **due);
extern TimestampTz evi_delivery_next(const EviInbox *inbox);

extern void evi_halt_set(const EviInbox *inbox, const char *reason, int looks,
						 TimestampTz next_look_at);
extern List *evi_halt_all(Snapshot snapshot);
extern void evi_halt_clear(int32 inbox_id);

extern int	evi_attempt_count(const EviInbox *inbox, int64 event_id);
extern int	evi_attempt_begin(const EviInbox *inbox, int64 event_id);
extern void evi_attempt_end(const EviInbox *inbox, int64 event_id);

#endif							/* EVI_DELIVERY_H */
