/*-------------------------------------------------------------------------
 *
 * wakeup.c
 *		Tells the workers at the end of a transaction what it has changed.
 *
 * The latches are set when the transaction's resources have been released.
 * By then it is visible to others and its locks are free: a worker that wakes
 * finds both. A commit callback would be too early for the locks.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/resowner.h"

#include "compat.h"
#include "duty.h"
#include "shmem.h"
#include "wakeup.h"

/* what to do at commit; void if the transaction aborts */
static bool wake_runners = false;
static bool wake_coordinator = false;
static bool wake_courier = false;
static bool wake_launcher = false;
static bool wake_everybody = false;

/* what to do at the end in any case */
static bool let_in = false;
static bool wake_runners_at_any_end = false;

static void note(bool *what);
static void end_transaction(ResourceReleasePhase phase, bool is_commit,
							bool is_top_level, void *arg);

/* there may be work for the runners of this database */
void
evi_wakeup_runners(void)
{
	note(&wake_runners);
}

/* a runner may have turned away from an inbox because of this transaction */
void
evi_wakeup_runners_at_any_end(void)
{
	note(&wake_runners_at_any_end);
}

/* there may be work for the coordinator of this database */
void
evi_wakeup_coordinator(void)
{
	note(&wake_coordinator);
}

/* there may be something to send from this database */
void
evi_wakeup_courier(void)
{
	note(&wake_courier);
}

/* what all databases share has changed, such as roles */
void
evi_wakeup_everybody(void)
{
	note(&wake_everybody);
}

/* a database came or went */
void
evi_wakeup_launcher(void)
{
	note(&wake_launcher);
}

/* workers were kept out of a database for this transaction only */
void
evi_wakeup_let_in(void)
{
	note(&let_in);
}

static void
note(bool *what)
{
	static bool registered = false;

	if (!evi_shmem_available())
		return;
	if (!registered)
	{
		RegisterResourceReleaseCallback(end_transaction, NULL);
		registered = true;
	}
	*what = true;
}

static void
end_transaction(ResourceReleasePhase phase, bool is_commit, bool is_top_level, void *arg)
{
	if (!is_top_level || phase != RESOURCE_RELEASE_AFTER_LOCKS)
		return;

	if (wake_runners_at_any_end)
		evi_shmem_note_session_move();
	if ((is_commit && wake_runners) || wake_runners_at_any_end)
		evi_duty_wake(MyDatabaseId);
	if (is_commit && wake_coordinator)
		evi_shmem_wake(EVI_COORDINATOR, MyDatabaseId);
	if (is_commit && wake_courier)
		evi_shmem_wake_courier(MyDatabaseId);
	for (int i = 1; is_commit && wake_everybody && i < evi_shmem_slots(); i++)
		evi_shmem_wake_worker(evi_shmem_slot(i));
	if (is_commit && wake_everybody)
		evi_shmem_retry_starts();
	if (is_commit && wake_launcher)
		evi_shmem_tell_databases_changed();
	if (let_in)
		evi_shmem_let_in();

	wake_runners = wake_coordinator = wake_courier = wake_launcher = wake_everybody = false;
	wake_runners_at_any_end = let_in = false;
}
