/*-------------------------------------------------------------------------
 *
 * compat.h
 *		One API for all supported server versions, the newest one's.
 *
 * The floor is PostgreSQL 15. PG_VERSION_NUM is tested nowhere else. Each
 * entry says since which version the server has it, and why we need it.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_COMPAT_H
#define EVI_COMPAT_H

#include "access/xact.h"
#include "catalog/pg_class.h"
#include "catalog/pg_database.h"
#include "catalog/pg_proc.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "utils/acl.h"
#include "utils/guc.h"
#include "utils/relcache.h"
#include "utils/timestamp.h"

/* 16: one object_aclcheck() for all kinds of objects; we ask for databases and functions */
#if PG_VERSION_NUM < 160000
#define object_aclcheck(classid, objectid, roleid, mode) \
	((classid) == DatabaseRelationId ? \
	 pg_database_aclcheck((objectid), (roleid), (mode)) : \
	 pg_proc_aclcheck((objectid), (roleid), (mode)))
#endif

/* 16: being a member of a role is one thing, being allowed to become it another */
#if PG_VERSION_NUM < 160000
#define member_can_set_role(member, role) is_member_of_role((member), (role))
#endif

/* 16: likewise object_ownercheck(); we ask for databases, extensions and tables */
#if PG_VERSION_NUM < 160000
#define object_ownercheck(classid, objectid, roleid) \
	((classid) == DatabaseRelationId ? \
	 pg_database_ownercheck((objectid), (roleid)) : \
	 (classid) == RelationRelationId ? \
	 pg_class_ownercheck((objectid), (roleid)) : \
	 pg_extension_ownercheck((objectid), (roleid)))
#endif

/* 16: parsing of names can report errors softly, which we never ask for */
#if PG_VERSION_NUM < 160000
#define stringToQualifiedNameList(string, escontext) stringToQualifiedNameList(string)
#endif

/* 16: an update may be of no interest to indexes that only summarize */
#if PG_VERSION_NUM < 160000
#define evi_heap_update(rel, tid, tuple) simple_heap_update((rel), (tid), (tuple))
#define evi_insert_index_tuples(info, slot, estate) \
	ExecInsertIndexTuples((info), (slot), (estate), false, false, NULL, NIL)
#else
#define evi_heap_update(rel, tid, tuple) \
	do { \
		TU_UpdateIndexes updated; \
		simple_heap_update((rel), (tid), (tuple), &updated); \
	} while (0)
#define evi_insert_index_tuples(info, slot, estate) \
	ExecInsertIndexTuples((info), (slot), (estate), false, false, NULL, NIL, false)
#endif

/* 17: interval has infinities, which earlier versions cannot express */
#if PG_VERSION_NUM < 170000
#define INTERVAL_NOT_FINITE(i) false
#endif

/* 17: waits of extensions have names in pg_stat_activity */
#if PG_VERSION_NUM < 170000
#define WaitEventExtensionNew(name) PG_WAIT_EXTENSION
#endif

/* 17: a set of events to wait for may belong to a resource owner */
#if PG_VERSION_NUM < 170000
#define evi_create_wait_event_set(nevents) \
	CreateWaitEventSet(TopMemoryContext, (nevents))
#else
#define evi_create_wait_event_set(nevents) CreateWaitEventSet(NULL, (nevents))
#endif

/* 17: the number of a backend's current transaction is part of a struct */
#if PG_VERSION_NUM < 170000
#define EVI_MY_LXID (MyProc->lxid)
#else
#define EVI_MY_LXID (MyProc->vxid.lxid)
#endif

/* 17: a background worker may run as a role that cannot log in */
#if PG_VERSION_NUM < 170000
#define EVI_WORKER_NEEDS_LOGIN true
#define BGWORKER_BYPASS_ROLELOGINCHECK 0
#else
#define EVI_WORKER_NEEDS_LOGIN false
#endif

/* 17: transaction_timeout */
#if PG_VERSION_NUM < 170000
#define evi_disable_transaction_timeout() ((void) 0)
#else
#define evi_disable_transaction_timeout() \
	SetConfigOption("transaction_timeout", "0", PGC_SUSET, PGC_S_OVERRIDE)
#endif

/* 18: a scan of an index may be instrumented */
#if PG_VERSION_NUM < 180000
#define evi_index_beginscan(table, index, snapshot, nkeys) \
	index_beginscan((table), (index), (snapshot), (nkeys), 0)
#else
#define evi_index_beginscan(table, index, snapshot, nkeys) \
	index_beginscan((table), (index), (snapshot), NULL, (nkeys), 0)
#endif

/* 18: a deferrable primary key may be asked for, too, which we never do */
#if PG_VERSION_NUM < 180000
#define RelationGetPrimaryKeyIndex(rel, deferrable_ok) RelationGetPrimaryKeyIndex(rel)
#endif

/* 18: what does not return is said so in front of a declaration */
#if PG_VERSION_NUM < 180000
#define pg_noreturn pg_attribute_noreturn()
#endif

/* 18: a library can say its name and version */
#if PG_VERSION_NUM < 180000
#define EVI_MODULE_MAGIC PG_MODULE_MAGIC
#else
#define EVI_MODULE_MAGIC PG_MODULE_MAGIC_EXT(.name = "evinbox", .version = "1.0")
#endif

#endif							/* EVI_COMPAT_H */
