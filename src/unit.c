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
#include "storage/proc.h"

#include "compat.h"
#include "event.h"
#include "request.h"
#include "unit.h"

/* a session's snapshots tell so many subtransactions of its own; beyond, all get slow */
#define MAX_OPENED 60

static bool is_open = false;

/* the caller's transaction, and how many subtransactions we have opened in it */
static LocalTransactionId counted_lxid = InvalidLocalTransactionId;
static int	opened = 0;

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
		opened = evi_unit_opened() + 1;
		counted_lxid = EVI_MY_LXID;
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

	evi_event_set_cause(0, EVI_NO_CAUSE);
	evi_request_set_rule(0, 0);
	if (unit->in_worker)
		AbortCurrentTransaction();
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

/* how many subtransactions the units of this transaction were */
int
evi_unit_opened(void)
{
	return counted_lxid == EVI_MY_LXID ? opened : 0;
}

/* Are there as many as there should be? */
bool
evi_unit_exhausted(void)
{
	return evi_unit_opened() >= MAX_OPENED;
}
