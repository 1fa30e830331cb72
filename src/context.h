/*-------------------------------------------------------------------------
 *
 * context.h
 *		What is said once and holds for all events that are recorded then.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_CONTEXT_H
#define EVI_CONTEXT_H

#include "utils/jsonb.h"

extern text *evi_context_actor(text *given);
extern text *evi_context_scope(void);
extern Jsonb *evi_context_metadata(Jsonb *metadata);
extern int64 evi_context_batch(void);

#endif							/* EVI_CONTEXT_H */
