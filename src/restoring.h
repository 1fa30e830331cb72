/*-------------------------------------------------------------------------
 *
 * restoring.h
 *		The COPY by which a dump comes back.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_RESTORING_H
#define EVI_RESTORING_H

#include "nodes/parsenodes.h"

extern bool evi_restoring(void);
extern bool evi_restoring_set(bool is_restoring);
extern bool evi_restoring_is(const CopyStmt *statement);
extern int	evi_restoring_prepare(CopyStmt *statement);
extern void evi_restoring_finish(const CopyStmt *statement, int guc_level);

#endif							/* EVI_RESTORING_H */
