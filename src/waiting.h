/*-------------------------------------------------------------------------
 *
 * waiting.h
 *		Requests that wait in a table, and not in a courier's memory.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_WAITING_H
#define EVI_WAITING_H

#include "pace.h"
#include "parcel.h"

typedef struct EviAside EviAside;

extern void evi_waiting_load(void);
extern bool evi_waiting_fill(EviRoute *route, TimestampTz now);
extern EviAside *evi_waiting_open(void);
extern void evi_waiting_add(EviAside *aside, EviParcel *parcel);
extern void evi_waiting_store(EviAside *aside);
extern void evi_waiting_delete(Datum *ids, int count);

#endif							/* EVI_WAITING_H */
