/*-------------------------------------------------------------------------
 *
 * intake.h
 *		Which requests a courier takes into its memory.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_INTAKE_H
#define EVI_INTAKE_H

#include "pace.h"
#include "parcel.h"
#include "snapshot.h"

extern void evi_intake_begin(void);
extern bool evi_intake_read(TimestampTz now);
extern void evi_intake_heed_erasures(void);
extern void evi_intake_make_room(TimestampTz now);
extern long evi_intake_wait_ms(TimestampTz now);
extern bool evi_intake_needs_flush(void);
extern void evi_intake_finish(EviParcel *parcel);
extern const EviSnapshot *evi_intake_position(void);
extern void evi_intake_note_stored(const EviSnapshot *position);

#endif							/* EVI_INTAKE_H */
