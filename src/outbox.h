/*-------------------------------------------------------------------------
 *
 * outbox.h
 *		The queue of committed events, in segments addressed by xid.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_OUTBOX_H
#define EVI_OUTBOX_H

#include "snapshot.h"
#include "utils/snapshot.h"

extern void evi_outbox_add(int64 event_id);
extern int64 evi_outbox_last_of(uint64 xid, Snapshot snapshot);
extern bool evi_outbox_waits_for(const EviSnapshot *done, Snapshot snapshot);
extern void evi_outbox_close_until(uint64 xid, int64 event_id);
extern void evi_outbox_hold(void);
extern bool evi_outbox_truncate(void);

#endif							/* EVI_OUTBOX_H */
