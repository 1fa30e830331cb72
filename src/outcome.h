/*-------------------------------------------------------------------------
 *
 * outcome.h
 *		What an answer, or none, means for a request and for its endpoint.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_OUTCOME_H
#define EVI_OUTCOME_H

#include "http.h"
#include "parcel.h"

extern void evi_outcome_judge(EviParcel *parcel, const EviHttpResult *result, TimestampTz now);
extern void evi_outcome_refuse(EviParcel *parcel, const char *error, TimestampTz now);
extern void evi_outcome_put_off(EviParcel *parcel, const char *error, TimestampTz now);
extern int	evi_outcome_number(const EviParcel *parcel);

#endif							/* EVI_OUTCOME_H */
