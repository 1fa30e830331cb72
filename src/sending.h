/*-------------------------------------------------------------------------
 *
 * sending.h
 *		How a request is made a call to the outside.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_SENDING_H
#define EVI_SENDING_H

#include "http.h"
#include "parcel.h"

extern int	evi_sending_open(void);
extern bool evi_sending_refresh(void);
extern bool evi_sending_start(EviParcel *parcel, TimestampTz now, const char **error,
							  bool *is_lasting);
extern void evi_sending_perform(void);
extern EviParcel *evi_sending_ended(EviHttpResult *result);
extern long evi_sending_wait_ms(void);

#endif							/* EVI_SENDING_H */
