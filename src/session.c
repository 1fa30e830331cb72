/*-------------------------------------------------------------------------
 *
 * session.c
 *		The state of a runner's session, which no rule leaves to another.
 *
 * The same as DISCARD ALL, but for cached plans, which hold no state. What a
 * procedural language keeps in its own variables is out of our reach.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/namespace.h"
#include "commands/async.h"
#include "commands/prepare.h"
#include "commands/sequence.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/guc.h"
#include "utils/portal.h"
#include "utils/snapmgr.h"

#include "session.h"

/* has a rule run since the last reset? */
static bool is_used = false;

static bool has_temp_tables(void);

/* A rule is about to run. */
void
evi_session_use(void)
{
	is_used = true;
}

/* Called between two batches, outside of any transaction. */
void
evi_session_reset(void)
{
	MemoryContext context = CurrentMemoryContext;

	if (!is_used)
		return;
	is_used = false;
	StartTransactionCommand();

	/* also takes back SET ROLE */
	if (GetUserId() != GetAuthenticatedUserId() || GetSessionUserId() != GetAuthenticatedUserId())
		SetPGVariable("session_authorization", NIL, false);
	PortalHashTableDeleteAll();
	ResetAllOptions();
	DropAllPreparedStatements();
	Async_UnlistenAll();
	LockReleaseAll(USER_LOCKMETHOD, true);
	if (has_temp_tables())
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		ResetTempTableNamespace();
		PopActiveSnapshot();
	}
	ResetSequenceCaches();
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
}

static bool
has_temp_tables(void)
{
	Oid			schema;
	Oid			toast_schema;

	GetTempNamespaceState(&schema, &toast_schema);
	return OidIsValid(schema);
}
