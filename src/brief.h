/*-------------------------------------------------------------------------
 *
 * brief.h
 *		Strong locks and commands that nobody has to wait for long.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_BRIEF_H
#define EVI_BRIEF_H

typedef enum EviBriefWork
{
	EVI_BRIEF_MAKE,
	EVI_BRIEF_DETACH,
	EVI_BRIEF_DROP,
	EVI_BRIEF_TURN_DEFAULT,
	EVI_BRIEF_MAKE_DAY,
	EVI_BRIEF_DROP_DAY,
	EVI_BRIEF_EMPTY_DAYS,
	EVI_BRIEF_STORE_ENDPOINT,
	EVI_BRIEF_WORKS
} EviBriefWork;

extern bool evi_brief_lock(Oid event, Oid default_partition, Oid partition);
extern bool evi_brief_unless_locked(bool (*work) (void *arg), void *arg);
extern bool evi_brief_try(EviBriefWork which, bool (*work) (void *arg), void *arg);

#endif							/* EVI_BRIEF_H */
