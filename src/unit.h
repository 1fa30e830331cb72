/*-------------------------------------------------------------------------
 *
 * unit.h
 *		What happens as a whole or not at all.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_UNIT_H
#define EVI_UNIT_H

#include "utils/elog.h"
#include "utils/palloc.h"
#include "utils/resowner.h"

typedef struct EviUnit
{
	bool		in_worker;
	MemoryContext context;
	ResourceOwner owner;
} EviUnit;

extern void evi_unit_begin(EviUnit *unit, bool in_worker);
extern void evi_unit_commit(EviUnit *unit);
extern ErrorData *evi_unit_undo(EviUnit *unit);
extern void evi_unit_run(bool in_worker, void (*work) (void *arg), void *arg);
extern bool evi_unit_is_open(void);
extern int	evi_unit_opened(void);
extern bool evi_unit_exhausted(void);

#endif							/* EVI_UNIT_H */
