/*-------------------------------------------------------------------------
 *
 * retention.h
 *		Partitions whose events have expired, and go.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_RETENTION_H
#define EVI_RETENTION_H

extern bool evi_retention_detach(void);
extern bool evi_retention_drop(void);
extern bool evi_retention_has_detached(void);
extern long evi_retention_wait_ms(void);

#endif							/* EVI_RETENTION_H */
