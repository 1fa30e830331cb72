/*-------------------------------------------------------------------------
 *
 * registry.h
 *		Which databases have the extension.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_REGISTRY_H
#define EVI_REGISTRY_H

#include "nodes/pg_list.h"

extern List *evi_registry_databases(void);
extern void evi_registry_set(Oid database, bool is_registered);

#endif							/* EVI_REGISTRY_H */
