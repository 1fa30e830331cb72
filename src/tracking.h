/*-------------------------------------------------------------------------
 *
 * tracking.h
 *		The triggers of a tracked table.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_TRACKING_H
#define EVI_TRACKING_H

#include "nodes/pg_list.h"
#include "utils/relcache.h"

/* what is to be tracked; names of columns are strings */
typedef struct EviTracking
{
	const char *action;
	const char *subject_type;
	int16		events;			/* TRIGGER_TYPE_... */
	List	   *keys;
	List	   *scope;			/* one or none */
	List	   *columns;
	bool		has_snapshot;
} EviTracking;

extern void evi_tracking_make(Relation rel, const EviTracking *tracking);
extern bool evi_tracking_exists(Oid relid, const char *action);
extern int	evi_tracking_drop(Relation rel, const char *action);

#endif							/* EVI_TRACKING_H */
