/*-------------------------------------------------------------------------
 *
 * wakeup.h
 *		Tells the workers at the end of a transaction what it has changed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_WAKEUP_H
#define EVI_WAKEUP_H

extern void evi_wakeup_runners(void);
extern void evi_wakeup_runners_at_any_end(void);
extern void evi_wakeup_coordinator(void);
extern void evi_wakeup_courier(void);
extern void evi_wakeup_everybody(void);
extern void evi_wakeup_launcher(void);
extern void evi_wakeup_let_in(void);

#endif							/* EVI_WAKEUP_H */
