/*-------------------------------------------------------------------------
 *
 * breaker.h
 *		Which endpoints are left alone for a while, because they fail.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_BREAKER_H
#define EVI_BREAKER_H

#include "pace.h"

extern bool evi_breaker_is_probing(const EviRoute *route);
extern void evi_breaker_succeeded(EviRoute *route, TimestampTz started_at);
extern void evi_breaker_failed(EviRoute *route, TimestampTz started_at, TimestampTz now);
extern void evi_breaker_asked(EviRoute *route, TimestampTz until, TimestampTz now);
extern void evi_breaker_disable(EviRoute *route, const char *fault);
extern void evi_breaker_review(EviRoute *route);

#endif							/* EVI_BREAKER_H */
