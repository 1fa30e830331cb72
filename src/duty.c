/*-------------------------------------------------------------------------
 *
 * duty.c
 *		How the runners of one role share its lanes.
 *
 * One that starts with a lane claims it, for others to look elsewhere. The
 * first of them that is not stuck in a long turn is on duty: it is woken by
 * commits, and it alone; when it gets stuck, it wakes the next one. So a busy
 * server runs all quick rules in one process, without any contention, and a
 * slow one is in nobody's way.
 *
 * These are hints, read and written without a lock: what keeps two from the
 * same lane is the lane's own lock.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"

#include "duty.h"
#include "evinbox.h"
#include "shmem.h"

static bool is_sibling(const EviWorker *worker, const EviWorker *of);
static bool is_on_duty(EviWorker *worker);
static uint64 claim_of(int32 inbox_id, int lane);

/*
 * Wakes those of a database's runners that are on duty; and its coordinator, if
 * there are owners without a runner. One that is stuck will look by itself.
 */
void
evi_duty_wake(Oid database)
{
	for (int i = 1; i < evi_shmem_slots(); i++)
	{
		EviWorker  *worker = evi_shmem_slot(i);

		if (worker->database != database)
			continue;
		if (worker->kind == EVI_COORDINATOR && pg_atomic_read_u32(&worker->watches) != 0)
			evi_shmem_wake_worker(worker);
		if (worker->kind == EVI_RUNNER && is_on_duty(worker))
			evi_shmem_wake_worker(worker);
	}
}

/* Is another runner at a lane? */
bool
evi_duty_is_claimed(int32 inbox_id, int lane)
{
	for (int i = 1; i < evi_shmem_slots(); i++)
	{
		EviWorker  *worker = evi_shmem_slot(i);

		if (worker != evi_shmem_my_slot() && is_sibling(worker, evi_shmem_my_slot()) &&
			pg_atomic_read_u64(&worker->claim) == claim_of(inbox_id, lane))
			return true;
	}
	return false;
}

void
evi_duty_claim(int32 inbox_id, int lane)
{
	pg_atomic_write_u64(&evi_shmem_my_slot()->claim, claim_of(inbox_id, lane));
}

void
evi_duty_unclaim(void)
{
	pg_atomic_write_u64(&evi_shmem_my_slot()->claim, 0);
}

/* This worker has stored something that runners have to read anew. */
void
evi_duty_note_move(void)
{
	pg_atomic_fetch_add_u32(&evi_shmem_my_slot()->moves, 1);
}

/* another number whenever the coordinator, a session, or another runner has done so */
uint32
evi_duty_others_moves(void)
{
	uint32		result = evi_shmem_session_moves();

	for (int i = 1; i < evi_shmem_slots(); i++)
	{
		EviWorker  *worker = evi_shmem_slot(i);

		if (worker != evi_shmem_my_slot() &&
			(is_sibling(worker, evi_shmem_my_slot()) ||
			 (worker->kind == EVI_COORDINATOR && worker->database == MyDatabaseId)))
			result += pg_atomic_read_u32(&worker->moves);
	}
	return result;
}

/* This runner's turn takes long: somebody else go on duty. Called by a signal. */
void
evi_duty_call_for_help(void)
{
	pg_atomic_exchange_u32(&evi_shmem_my_slot()->is_stuck, 1);
	for (int i = 1; i < evi_shmem_slots(); i++)
		if (is_sibling(evi_shmem_slot(i), evi_shmem_my_slot()) &&
			is_on_duty(evi_shmem_slot(i)))
			evi_shmem_wake_worker(evi_shmem_slot(i));
}

/* The turn is over. If it took long, there may have been commits meanwhile. */
bool
evi_duty_was_stuck(void)
{
	return pg_atomic_exchange_u32(&evi_shmem_my_slot()->is_stuck, 0) != 0;
}

bool
evi_duty_is_mine(void)
{
	return is_on_duty(evi_shmem_my_slot());
}

/* This runner is not to be there any more. */
void
evi_duty_leave(void)
{
	pg_atomic_write_u32(&evi_shmem_my_slot()->is_to_leave, 1);
}

bool
evi_duty_is_to_leave(void)
{
	return pg_atomic_read_u32(&evi_shmem_my_slot()->is_to_leave) != 0;
}

/* Does this coordinator want to know of every commit with events? */
void
evi_duty_watch(bool watches)
{
	pg_atomic_write_u32(&evi_shmem_my_slot()->watches, watches);
}

/* runners of the same role in the same database */
static bool
is_sibling(const EviWorker *worker, const EviWorker *of)
{
	return worker->kind == EVI_RUNNER && worker->database == of->database &&
		worker->owner == of->owner;
}

/* the first of its siblings that is there and not stuck */
static bool
is_on_duty(EviWorker *worker)
{
	if (pg_atomic_read_u32(&worker->procno) == 0 || pg_atomic_read_u32(&worker->is_stuck) != 0)
		return false;
	for (EviWorker *other = evi_shmem_slot(1); other < worker; other++)
		if (is_sibling(other, worker) && pg_atomic_read_u32(&other->procno) != 0 &&
			pg_atomic_read_u32(&other->is_stuck) == 0)
			return false;
	return true;
}

static uint64
claim_of(int32 inbox_id, int lane)
{
	return ((uint64) (uint32) inbox_id << 32) | (uint32) (lane - EVI_REPLAY_LANE + 1);
}
