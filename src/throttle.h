/*-------------------------------------------------------------------------
 *
 * throttle.h
 *		At most one event of a key within an interval.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_THROTTLE_H
#define EVI_THROTTLE_H

#include "event.h"
#include "utils/timestamp.h"

extern bool evi_throttle_applies(const EviEventKey *key, Interval *throttle);
extern bool evi_throttle_is_by_actor(text *throttle_by);

#endif							/* EVI_THROTTLE_H */
