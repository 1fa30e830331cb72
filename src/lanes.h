/*-------------------------------------------------------------------------
 *
 * lanes.h
 *		The lanes of a runner's rules.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_LANES_H
#define EVI_LANES_H

#include "nodes/pg_list.h"
#include "utils/snapshot.h"

extern List *evi_lanes_load(MemoryContext parent, uint32 moves, Snapshot snapshot);

#endif							/* EVI_LANES_H */
