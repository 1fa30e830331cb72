/*-------------------------------------------------------------------------
 *
 * feed.h
 *		Feeds: whose events, and the newest of them that the caller may see.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_FEED_H
#define EVI_FEED_H

#include "fmgr.h"
#include "merge.h"
#include "utils/jsonb.h"
#include "utils/rel.h"

typedef struct EviFeed
{
	EviEventIndex index;		/* what kind of feed it is */
	int			nkeys;
	EviKey	   *keys;			/* distinct */
} EviFeed;

extern EviFeed *evi_feed_of_subject(text *subject_type, text *subject_id);
extern EviFeed *evi_feed_of_subjects(Jsonb *subjects);
extern EviFeed *evi_feed_of_actor(text *actor);
extern EviFeed *evi_feed_of_scope(text *scope);
extern int	evi_feed_max(FunctionCallInfo fcinfo, int argno);
extern int64 evi_feed_upto(FunctionCallInfo fcinfo, int argno);
extern Relation evi_feed_open(void);
extern int	evi_feed_read(const EviFeed *feed, Relation event, int64 upto, int most,
						  HeapTuple *tuples);

#endif							/* EVI_FEED_H */
