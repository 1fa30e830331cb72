/*-------------------------------------------------------------------------
 *
 * recording.h
 *		How an event is recorded.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_RECORDING_H
#define EVI_RECORDING_H

#include "utils/timestamp.h"

extern int64 evi_recording_record(Datum *values, bool *isnull,
								  Interval *throttle, text *throttle_by);
extern int64 evi_recording_record_directly(Datum *values, bool *isnull);
extern void evi_recording_complete(Datum *values, bool *isnull);

#endif							/* EVI_RECORDING_H */
