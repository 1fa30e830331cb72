/*-------------------------------------------------------------------------
 *
 * unit.c
 *		What happens as a whole or not at all.
 *
 * In a worker, a unit is a transaction of its own. In run(), it is a
 * subtransaction of the caller's, of which there is never more than one at a
 * time. The caller's memory context is current again after either end.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/timeout.h"

#include "event.h"
#include "unit.h"

static bool is_open = false;

void
evi_unit_begin(EviUnit *unit, bool in_worker)
{
	Assert(!is_open);
	unit->in_worker = in_worker;
	unit->context = CurrentMemoryContext;
	unit->owner = CurrentResourceOwner;
	if (in_worker)
	{
		SetCurrentStatementStartTimestamp();
		StartTransactionCommand();
	}
	else
	{
		BeginInternalSubTransaction(NULL);
		MemoryContextSwitchTo(unit->context);
	}
	is_open = true;
}

void
evi_unit_commit(EviUnit *unit)
{
	if (unit->in_worker)
		CommitTransactionCommand();
	else
	{
		ReleaseCurrentSubTransaction();
		CurrentResourceOwner = unit->owner;
	}
	MemoryContextSwitchTo(unit->context);
	is_open = false;
}

/* in a PG_CATCH block; returns the error, which is handled by that */
ErrorData *
evi_unit_undo(EviUnit *unit)
{
	ErrorData  *error;

	MemoryContextSwitchTo(unit->context);
	error = CopyErrorData();
	FlushErrorState();

	evi_event_set_cause(0, 0);
	if (unit->in_worker)
	{
		/* a cancel that came too late to matter must not hit what comes next */
		disable_timeout(STATEMENT_TIMEOUT, false);
		QueryCancelPending = false;
		AbortCurrentTransaction();
	}
	else
	{
		RollbackAndReleaseCurrentSubTransaction();
		CurrentResourceOwner = unit->owner;
	}
	MemoryContextSwitchTo(unit->context);
	is_open = false;
	return error;
}

/* A whole unit. An error in it undoes it and is passed on. */
void
evi_unit_run(bool in_worker, void (*work) (void *arg), void *arg)
{
	EviUnit		unit;

	evi_unit_begin(&unit, in_worker);
	PG_TRY();
	{
		work(arg);
		evi_unit_commit(&unit);
	}
	PG_CATCH();
	{
		ReThrowError(evi_unit_undo(&unit));
	}
	PG_END_TRY();
}

/* Are we in the middle of one, that is, is this called by a rule? */
bool
evi_unit_is_open(void)
{
	return is_open;
}
