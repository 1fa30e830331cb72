/*-------------------------------------------------------------------------
 *
 * merge.h
 *		The newest events of several keys at once.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_MERGE_H
#define EVI_MERGE_H

#include "access/htup.h"
#include "relation.h"
#include "utils/snapshot.h"

#define EVI_KEY_COLUMNS 2

/* values of the columns before the id in an index of evinbox.event; none is NULL */
typedef struct EviKey
{
	text	   *column[EVI_KEY_COLUMNS];
} EviKey;

extern int	evi_merge_read(Relation event, EviEventIndex which, const EviKey *keys, int nkeys,
						   int64 upto, int most, Snapshot snapshot, HeapTuple *tuples);

#endif							/* EVI_MERGE_H */
