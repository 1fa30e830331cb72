/*-------------------------------------------------------------------------
 *
 * roster.h
 *		Who gets a runner.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_ROSTER_H
#define EVI_ROSTER_H

extern long evi_roster_update(Oid database);
extern bool evi_roster_is_crowded(void);
extern void evi_roster_want_none(Oid database);

#endif							/* EVI_ROSTER_H */
