/*-------------------------------------------------------------------------
 *
 * inbox.h
 *		Rules: checking them as they are written, and loading them.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_INBOX_H
#define EVI_INBOX_H

#include "event.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "nodes/pg_list.h"
#include "utils/snapshot.h"

typedef struct EviInbox
{
	int32		id;
	char	   *name;
	Oid			owner;
	int			nsubject_types; /* -1 for all */
	text	  **subject_types;
	int			nactions;		/* -1 for all */
	text	  **actions;
	char	   *condition;		/* may be NULL */
	char	   *handler;
	Datum		config;
	bool		enabled;
	bool		live;
	int			priority;
	int			max_attempts;
	int64		backoff_ms;
	int64		timeout_ms;		/* 0 for none */
	int			batch_size;
	char	   *search_path;
	bool		keeps_plan;		/* set by whoever will free it */
	SPIPlanPtr	plan;			/* of the condition */
} EviInbox;

/* a rule's handler, ready to be called */
typedef struct EviHandler
{
	FmgrInfo	function;
	int			nargs;
} EviHandler;

extern List *evi_inbox_load(Oid owner, Snapshot snapshot);
extern uint64 evi_inbox_version(Snapshot snapshot);
extern EviInbox *evi_inbox_find(const char *name, Snapshot snapshot);
extern List *evi_inbox_live_owners(Snapshot snapshot);
extern void evi_inbox_forget_plan(EviInbox *inbox);

extern bool evi_inbox_wants(const EviInbox *inbox, text *subject_type, text *action);
extern void evi_inbox_prepare(EviInbox *inbox, EviHandler *handler);
extern void evi_inbox_call(const EviInbox *inbox, EviHandler *handler, Datum event);

#endif							/* EVI_INBOX_H */
