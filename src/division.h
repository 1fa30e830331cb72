/*-------------------------------------------------------------------------
 *
 * division.h
 *		How the events of an inbox are divided among its lanes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_DIVISION_H
#define EVI_DIVISION_H

#include "inbox.h"

extern void evi_division_start(int32 inbox_id, int lanes, const char *start_at);
extern void evi_division_change(int32 inbox_id, char *name, int former, int lanes);
extern void evi_division_restart(EviInbox *inbox, bool deliver,
								 const int64 *ids, int count);

#endif							/* EVI_DIVISION_H */
