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

typedef struct EviDue
{
	int64		event_id;
	int			attempts;
} EviDue;

extern TimestampTz evi_delivery_fail(const EviInbox *inbox, int64 event_id, int attempts,
									 const ErrorData *error);
extern void evi_delivery_done(const EviInbox *inbox, int64 event_id);
extern int	evi_delivery_attempts(const EviInbox *inbox, int64 event_id);
extern int	evi_delivery_due(const EviInbox *inbox, int most, MemoryContext context, EviDue **due);
extern TimestampTz evi_delivery_next(const EviInbox *inbox);

extern void evi_halt_set(const EviInbox *inbox, const char *reason);
extern bool evi_halt_exists(int32 inbox_id);
extern void evi_halt_clear(int32 inbox_id);

#endif							/* EVI_DELIVERY_H */
