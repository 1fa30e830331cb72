/*-------------------------------------------------------------------------
 *
 * brief.h
 *		Strong locks and commands that nobody has to wait for long.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_BRIEF_H
#define EVI_BRIEF_H

extern bool evi_brief_lock(Oid event, Oid default_partition, Oid partition);
extern bool evi_brief_try(bool (*work) (void *arg), void *arg, const char *what);

#endif							/* EVI_BRIEF_H */
