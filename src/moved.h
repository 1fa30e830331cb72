/*-------------------------------------------------------------------------
 *
 * moved.h
 *		Rows that an UPDATE moves from one partition to another.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_MOVED_H
#define EVI_MOVED_H

#include "commands/trigger.h"

#include "change.h"

extern bool evi_moved_is_away(TriggerData *trigger);
extern void evi_moved_note(TriggerData *trigger, const EviChangeRow *row, const EviColumn *columns,
						   int ncolumns);
extern EviChangeRow *evi_moved_find(TriggerData *trigger, const EviColumn *columns, int ncolumns);

#endif							/* EVI_MOVED_H */
