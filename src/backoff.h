/*-------------------------------------------------------------------------
 *
 * backoff.h
 *		How long to wait before the next attempt.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_BACKOFF_H
#define EVI_BACKOFF_H

/* no event waits longer than that for its next attempt */
#define EVI_MAX_BACKOFF_MS (24 * INT64CONST(3600) * 1000)

extern int64 evi_backoff_ms(int64 first_ms, int failures, int64 most_ms);
extern int64 evi_backoff_jittered_ms(int64 first_ms, int failures, int64 most_ms);

#endif							/* EVI_BACKOFF_H */
