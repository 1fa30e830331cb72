/*-------------------------------------------------------------------------
 *
 * reading.h
 *		Reading the outbox: what one snapshot shows and another does not.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_READING_H
#define EVI_READING_H

#include "relation.h"
#include "snapshot.h"

/* what is to be read, and what was */
typedef struct EviReading
{
	const EviSnapshot *lower;	/* what it sees is left out */
	const EviSnapshot *upper;	/* and what this one does not */
	bool		by_index;		/* may ids be among them whose events are not there? */
	bool		may_step;		/* may upper become a checkpoint before it? */
	uint64		skip_xid;		/* leave out its events up to skip_until; or 0 */
	int64		skip_until;
	int64		after;			/* leave out ids up to there */
	int64		until;			/* and those behind there; 0 for no limit */
	int			step;			/* most ids of one transaction; about how many of all */
	int			stop;			/* stop at so many ids, whichever; 0 for no such limit */

	/* results */
	int64	   *id;				/* sorted */
	int			count;
	bool		is_cut;			/* are there more, with higher ids? */
} EviReading;

/* every so many ids, a row carries a checkpoint */
#define EVI_CHECKPOINT_IDS 1024

extern void evi_reading_run(EviReading *reading, Snapshot snapshot);

extern void evi_reading_begin(EviScan *scan, EviTable segment, uint64 from, uint64 to,
							  Snapshot snapshot);
extern void evi_reading_begin_rest(EviScan *scan, EviTable segment, uint64 xid, int64 after,
								   Snapshot snapshot);

#endif							/* EVI_READING_H */
