/*-------------------------------------------------------------------------
 *
 * owner.h
 *		Roles as owners of rules and endpoints.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_OWNER_H
#define EVI_OWNER_H

#include "postgres.h"

extern bool evi_owner_exists(Oid role);
extern char *evi_owner_fault(Oid role);
extern bool evi_owner_allows(Oid role);
extern void evi_owner_hold(Oid role);
extern void evi_owner_sync(void);
extern bool evi_owner_mend_names(void);
extern void evi_owner_find_by_name(bool missing_only);
extern void evi_owner_drop_rules(Oid role);
extern void evi_owner_reassign_rules(Oid role, Oid other);

#endif							/* EVI_OWNER_H */
