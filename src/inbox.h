/*-------------------------------------------------------------------------
 *
 * inbox.h
 *		Rules as rows: loading them, and calling what they name.
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
#include "utils/tuplestore.h"

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
	char	   *handler;		/* either this, */
	char	   *statement;		/* or that; else NULL */
	Datum		config;
	bool		enabled;
	bool		live;
	int			priority;
	int			max_attempts;
	int64		backoff_ms;
	int64		timeout_ms;		/* 0 for none */
	int			batch_size;
	char	   *search_path;
	int			shards;
	bool		replayable;
	bool		keeps_plan;		/* set by whoever will free them */
	SPIPlanPtr	plan;			/* of the condition */
	SPIPlanPtr	plan_of_statement;
	int			planned_for;	/* how many events that plan was made for */
} EviInbox;

/* what a rule does, ready to be done */
typedef struct EviHandler
{
	FmgrInfo	function;		/* of a handler */
	int			nargs;
	Tuplestorestate *events;	/* of a statement: what it is to see */
} EviHandler;

/* an owner of rules, and how many lanes these have */
typedef struct EviOwner
{
	Oid			role;
	int			lanes;
} EviOwner;

extern List *evi_inbox_load(Oid owner, Snapshot snapshot);
extern List *evi_inbox_all(Snapshot snapshot);
extern uint64 evi_inbox_version(Snapshot snapshot);
extern EviInbox *evi_inbox_find(const char *name, Snapshot snapshot);
extern List *evi_inbox_live_owners(Snapshot snapshot);
extern void evi_inbox_forget_plans(EviInbox *inbox);

extern bool evi_inbox_wants(const EviInbox *inbox, text *subject_type, text *action);
extern void evi_inbox_prepare(EviInbox *inbox, int nevents, EviHandler *handler);
extern void evi_inbox_call(const EviInbox *inbox, EviHandler *handler, Datum event);

#endif							/* EVI_INBOX_H */
