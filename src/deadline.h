/*-------------------------------------------------------------------------
 *
 * deadline.h
 *		How long a rule may take in a worker.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_DEADLINE_H
#define EVI_DEADLINE_H

extern void evi_deadline_init(void);
extern void evi_deadline_start(int64 ms);
extern void evi_deadline_stop(void);
extern bool evi_deadline_drop(void);

#endif							/* EVI_DEADLINE_H */
