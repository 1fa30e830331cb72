/*-------------------------------------------------------------------------
 *
 * incarnation.h
 *		Is this database the one that its events were recorded in?
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_INCARNATION_H
#define EVI_INCARNATION_H

extern bool evi_incarnation_is_quiet(void);
extern bool evi_incarnation_look(void);
extern void evi_incarnation_require(void);
extern void evi_incarnation_expect_copy(void);
extern void evi_incarnation_stamp(void);
extern void evi_incarnation_claim(void);
extern bool evi_incarnation_dispatches_replicated(void);

#endif							/* EVI_INCARNATION_H */
