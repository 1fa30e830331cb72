/*-------------------------------------------------------------------------
 *
 * brief.c
 *		Strong locks and commands that nobody has to wait for long.
 *
 * To take a partition away from evinbox.event, or to put another one in its
 * place, everybody has to be out of it for a moment. Whoever waits for that
 * lock holds up all that come later. So we wait MAX_WAIT at the most, for any
 * lock, and try again another time.
 *
 * What we do then may meet things of others: a view on a partition, an event
 * trigger. An error must not end the coordinator, so all is in a subtransaction.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "brief.h"

/* with what is done under the lock, this has to stay well below 100 ms */
#define MAX_WAIT "25ms"

static const char *const what[EVI_BRIEF_WORKS] = {
	[EVI_BRIEF_MAKE] = "make a partition of evinbox.event",
	[EVI_BRIEF_DETACH] = "detach an expired partition of evinbox.event",
	[EVI_BRIEF_DROP] = "drop an expired partition of evinbox.event",
	[EVI_BRIEF_TURN_DEFAULT] = "empty the default partition of evinbox.event",
	[EVI_BRIEF_MAKE_DAY] = "make a partition for webhooks",
	[EVI_BRIEF_DROP_DAY] = "drop an expired partition of webhooks",
	[EVI_BRIEF_EMPTY_DAYS] = "empty a default partition of webhooks",
	[EVI_BRIEF_STORE_ENDPOINT] = "store that an endpoint fails",
};

static bool lock_event(void *arg);
static bool run_apart(bool (*work) (void *arg), void *arg, ErrorData **error);

/* All three exclusively, until the end of the (sub)transaction; or none that matters. */
bool
evi_brief_lock(Oid event, Oid default_partition, Oid partition)
{
	/* those who have only a partition locked look something up, and are gone soon */
	if (!ConditionalLockRelationOid(event, AccessExclusiveLock) &&
		!evi_brief_unless_locked(lock_event, &event))
		return false;
	return (!OidIsValid(default_partition) ||
			ConditionalLockRelationOid(default_partition, AccessExclusiveLock)) &&
		(!OidIsValid(partition) || ConditionalLockRelationOid(partition, AccessExclusiveLock));
}

/* Does something as a whole or not at all; false if it says so, or somebody is in the way. */
bool
evi_brief_unless_locked(bool (*work) (void *arg), void *arg)
{
	ErrorData  *error = NULL;
	bool		result = run_apart(work, arg, &error);

	if (error && error->sqlerrcode != ERRCODE_LOCK_NOT_AVAILABLE)
		ReThrowError(error);
	return result;
}

/*
 * Does something as a whole or not at all; false if it says so, or fails. Of
 * failures of one kind in a row, the first is logged, unless it is that others
 * are in the way.
 */
bool
evi_brief_try(EviBriefWork which, bool (*work) (void *arg), void *arg)
{
	static bool is_failing[EVI_BRIEF_WORKS] = {false};
	ErrorData  *error = NULL;
	bool		result = run_apart(work, arg, &error);

	if (error && error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE)
		return false;
	if (error && !is_failing[which])
		ereport(LOG,
				(errcode(error->sqlerrcode),
				 errmsg("could not %s: %s", what[which], error->message),
				 error->detail ? errdetail_internal("%s", error->detail) : 0,
				 errhint("This is tried again.")));
	is_failing[which] = error != NULL;
	return result;
}

static bool
lock_event(void *arg)
{
	LockRelationOid(*(Oid *) arg, AccessExclusiveLock);
	return true;
}

/* In a subtransaction, which goes if the work says false, or fails. */
static bool
run_apart(bool (*work) (void *arg), void *arg, ErrorData **error)
{
	MemoryContext context = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	volatile bool result = false;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(context);
	PG_TRY();
	{
		int			guc_level = NewGUCNestLevel();

		(void) set_config_option("lock_timeout", MAX_WAIT, PGC_USERSET, PGC_S_SESSION,
								 GUC_ACTION_SAVE, true, 0, false);
		result = work(arg);
		AtEOXact_GUC(true, guc_level);
		if (result)
			ReleaseCurrentSubTransaction();
		else
			RollbackAndReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(context);
		*error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
		result = false;

		/* we are told to leave */
		if (ERRCODE_TO_CATEGORY((*error)->sqlerrcode) == ERRCODE_TO_CATEGORY(ERRCODE_ADMIN_SHUTDOWN))
			ReThrowError(*error);
	}
	PG_END_TRY();
	MemoryContextSwitchTo(context);
	CurrentResourceOwner = owner;
	return result;
}
