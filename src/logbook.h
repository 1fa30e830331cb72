/*-------------------------------------------------------------------------
 *
 * logbook.h
 *		What a courier records.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_LOGBOOK_H
#define EVI_LOGBOOK_H

#include "lib/ilist.h"
#include "parcel.h"

extern void evi_logbook_begin(void);
extern void evi_logbook_add(EviParcel *parcel, TimestampTz now);
extern bool evi_logbook_note(dlist_head *parcels);
extern bool evi_logbook_is_due(TimestampTz now);
extern long evi_logbook_wait_ms(TimestampTz now);
extern void evi_logbook_store(TimestampTz now);
extern void evi_logbook_finish(TimestampTz now);

#endif							/* EVI_LOGBOOK_H */
