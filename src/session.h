/*-------------------------------------------------------------------------
 *
 * session.h
 *		The state of a runner's session, which no rule leaves to another.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_SESSION_H
#define EVI_SESSION_H

extern void evi_session_use(void);
extern void evi_session_reset(void);

#endif							/* EVI_SESSION_H */
