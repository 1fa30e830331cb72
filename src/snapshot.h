/*-------------------------------------------------------------------------
 *
 * snapshot.h
 *		Sets of finished transactions, as they are stored in cursors.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_SNAPSHOT_H
#define EVI_SNAPSHOT_H

#include "access/transam.h"

/* the same three parts as a pg_snapshot; xids are 64 bits, and xip is sorted */
typedef struct EviSnapshot
{
	uint64		xmin;
	uint64		xmax;
	int			nxip;
	uint64		xip[FLEXIBLE_ARRAY_MEMBER];
} EviSnapshot;

extern EviSnapshot *evi_snapshot_active(void);
extern EviSnapshot *evi_snapshot_everything(void);
extern EviSnapshot *evi_snapshot_with(const EviSnapshot *base, uint64 xid);
extern EviSnapshot *evi_snapshot_without(const EviSnapshot *base, uint64 xid);
extern bool evi_snapshot_sees(const EviSnapshot *snapshot, uint64 xid);
extern bool evi_snapshot_is_ahead(const EviSnapshot *later, const EviSnapshot *earlier);
extern bool evi_snapshot_equal(const EviSnapshot *a, const EviSnapshot *b);
extern EviSnapshot *evi_snapshot_copy(const EviSnapshot *snapshot);
extern Datum evi_snapshot_to_datum(const EviSnapshot *snapshot);
extern EviSnapshot *evi_snapshot_from_datum(Datum datum);

#endif							/* EVI_SNAPSHOT_H */
