/*-------------------------------------------------------------------------
 *
 * roster.c
 *		Who gets a runner.
 *
 * A runner works for one role. As long as there are not more owners of live
 * rules than there may be runners, each has at least one, and those with many
 * lanes have more. Beyond that they take turns: an owner without a runner
 * whose rules have something to do gets the place of one who has nothing to
 * do, or has had it for SLICE_MS. Nobody is interrupted: a runner leaves
 * between two batches.
 *
 * The coordinator alone decides. While there are owners without a runner, it
 * is woken by every commit with events, and looks at what these are for, as far
 * as the rules' lists tell.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "delivery.h"
#include "duty.h"
#include "evinbox.h"
#include "fetch.h"
#include "guc.h"
#include "inbox.h"
#include "incarnation.h"
#include "progress.h"
#include "roster.h"
#include "shmem.h"

#define SLICE_MS 1000
#define UNWANTED_MS 10000		/* how long what no list wants may wait to be passed */

/* an owner who waits for a place */
typedef struct Waiting
{
	Oid			role;
	TimestampTz due_at;			/* when there is something to do for it */
	int64		turn;			/* of its last runner */
} Waiting;

/* the last turn of every owner who ever had to wait */
typedef struct Turn
{
	Oid			role;
	int64		turn;
} Turn;

static bool is_crowded = false;
static List *turns = NIL;
static int64 last_turn = 0;

static bool want_runners(Oid database, List *owners, int places);
static void want_siblings(Oid database, List *owners, int places, bool *fits);
static void let_others_go(Oid database);
static void ask(EviWorker *worker);
static bool stays(Oid database, const EviOwner *owner, int number);
static long take_turns(Oid database, List *owners, int places, Snapshot snapshot);
static List *find_waiting(Oid database, List *owners, Snapshot snapshot, int *served,
						  int *leaving);
static TimestampTz due_time(Oid role, Snapshot snapshot);
static TimestampTz events_due(EviInbox *inbox, int lane, Snapshot snapshot);
static TimestampTz window_due(const EviInbox *inbox, const EviWindow *window, Snapshot snapshot);
static int	compare_waiting(const ListCell *a, const ListCell *b);
static Turn *turn_of(Oid role);
static bool give_place(Oid database, Oid role);
static bool ask_to_leave(Oid database, TimestampTz *next);
static bool has_runner(Oid database, Oid role);

/*
 * Wants the runners that there should be. Returns when to look again, in
 * milliseconds; -1 for not before something happens.
 */
long
evi_roster_update(Oid database)
{
	static bool complained = false;
	MemoryContext context = CurrentMemoryContext;
	int			places = evi_guc_max_runners();
	List	   *owners;
	bool		fits = true;
	long		result = -1;

	StartTransactionCommand();
	MemoryContextSwitchTo(context);

	/* before we look: whatever commits afterwards wakes us */
	evi_duty_watch(true);
	PushActiveSnapshot(GetTransactionSnapshot());
	owners = evi_incarnation_is_quiet() ? NIL : evi_inbox_live_owners(GetActiveSnapshot());
	is_crowded = list_length(owners) > places;
	if (is_crowded)
		result = take_turns(database, owners, places, GetActiveSnapshot());
	else
	{
		evi_duty_watch(false);
		fits = want_runners(database, owners, places);

		/* nobody tells us when another database leaves a place */
		if (!fits)
			result = UNWANTED_MS;
	}
	PopActiveSnapshot();
	CommitTransactionCommand();
	MemoryContextSwitchTo(context);
	evi_shmem_wake(EVI_LAUNCHER, InvalidOid);

	if (!fits && !complained)
		ereport(LOG,
				(errmsg("evinbox wants more runners than it may have workers"),
				 errhint("Raise evinbox.max_workers.")));
	complained = !fits;
	return result;
}

/* Nobody can work: those that are there leave, and none are started. */
void
evi_roster_want_none(Oid database)
{
	evi_duty_watch(false);
	(void) want_runners(database, NIL, 0);
	evi_shmem_wake(EVI_LAUNCHER, InvalidOid);
}

/* Are there more owners than places? */
bool
evi_roster_is_crowded(void)
{
	return is_crowded;
}

/* Each owner gets one, and more as far as there are lanes and places. */
static bool
want_runners(Oid database, List *owners, int places)
{
	bool		fits = true;
	ListCell   *lc;

	evi_shmem_lock(true);
	for (int i = 1; i < evi_shmem_slots(); i++)
	{
		EviWorker  *worker = evi_shmem_slot(i);

		if (worker->state != EVI_WORKER_FREE && worker->kind == EVI_RUNNER &&
			worker->database == database)
			worker->wanted = false;
	}
	foreach(lc, owners)
		fits &= evi_shmem_want(EVI_RUNNER, database, ((EviOwner *) lfirst(lc))->role, 0);
	want_siblings(database, owners, places - list_length(owners), &fits);
	let_others_go(database);
	evi_shmem_unlock();
	return fits;
}

/* Those that are not wanted, but may be in the middle of something, leave by themselves. */
static void
let_others_go(Oid database)
{
	for (int i = 1; i < evi_shmem_slots(); i++)
	{
		EviWorker  *worker = evi_shmem_slot(i);

		if (worker->kind != EVI_RUNNER || worker->database != database ||
			worker->state != EVI_WORKER_RUNNING || worker->wanted)
			continue;
		worker->wanted = true;
		ask(worker);
	}
}

/* to leave */
static void
ask(EviWorker *worker)
{
	pg_atomic_write_u32(&worker->is_to_leave, 1);
	evi_shmem_wake_worker(worker);
}

static void
want_siblings(Oid database, List *owners, int places, bool *fits)
{
	bool		any = true;
	ListCell   *lc;

	for (int number = 1; any && places > 0; number++)
	{
		any = false;
		foreach(lc, owners)
		{
			EviOwner   *owner = lfirst(lc);

			if (places == 0 || (owner->lanes <= number && !stays(database, owner, number)))
				continue;
			*fits &= evi_shmem_want(EVI_RUNNER, database, owner->role, number);
			places--;
			any = true;
		}
	}
}

/*
 * One that is stuck may be at a lane that is no more, and is of no use to the
 * others: for each of these, one that is there may stay.
 */
static bool
stays(Oid database, const EviOwner *owner, int number)
{
	int			lanes = owner->lanes;
	bool		is_there = false;

	for (int i = 1; i < evi_shmem_slots(); i++)
	{
		EviWorker  *worker = evi_shmem_slot(i);

		if (worker->state != EVI_WORKER_RUNNING || worker->kind != EVI_RUNNER ||
			worker->database != database || worker->owner != owner->role)
			continue;
		is_there |= worker->number == number;
		if (pg_atomic_read_u32(&worker->is_stuck) != 0)
			lanes++;
	}
	return is_there && number < lanes;
}

/* There are more owners than places. */
static long
take_turns(Oid database, List *owners, int places, Snapshot snapshot)
{
	TimestampTz now = GetCurrentTimestamp();
	TimestampTz next = DT_NOEND;
	int			served = 0;
	int			leaving = 0;
	List	   *waiting = find_waiting(database, owners, snapshot, &served, &leaving);
	ListCell   *lc;

	/* there may be less places than there were */
	while (served - leaving > places && ask_to_leave(database, &next))
		leaving++;

	list_sort(waiting, compare_waiting);
	foreach(lc, waiting)
	{
		Waiting    *one = lfirst(lc);

		if (one->due_at > now)
			next = Min(next, one->due_at);
		else if (served < places && give_place(database, one->role))
			served++;
		else if (leaving > 0)
			leaving--;
		else if (!ask_to_leave(database, &next))
		{
			next = Min(next, TimestampTzPlusMilliseconds(now, SLICE_MS));
			break;
		}
	}
	return next == DT_NOEND ? -1 : (long) TimestampDifferenceMilliseconds(now, next) + 1;
}

/* Those without a runner; keeps the runners of all others. */
static List *
find_waiting(Oid database, List *owners, Snapshot snapshot, int *served, int *leaving)
{
	List	   *result = NIL;
	List	   *roles = NIL;
	ListCell   *lc;

	evi_shmem_lock(true);
	for (int i = 1; i < evi_shmem_slots(); i++)
	{
		EviWorker  *worker = evi_shmem_slot(i);

		if (worker->state == EVI_WORKER_FREE || worker->kind != EVI_RUNNER ||
			worker->database != database)
			continue;

		/* there is a place for one each; one that is stuck has none, as long as it stays */
		if (worker->number > 0)
		{
			if (worker->state == EVI_WORKER_RUNNING)
				ask(worker);
			else
				worker->wanted = false;
			continue;
		}
		if (worker->wanted || worker->pid != 0)
			(*served)++;
		if (worker->pid != 0 && pg_atomic_read_u32(&worker->is_to_leave) != 0)
			(*leaving)++;
	}
	foreach(lc, owners)
	{
		EviOwner   *owner = lfirst(lc);

		if (!has_runner(database, owner->role))
			roles = lappend_oid(roles, owner->role);
	}
	evi_shmem_unlock();

	foreach(lc, roles)
	{
		Waiting    *one = palloc(sizeof(Waiting));

		one->role = lfirst_oid(lc);
		one->due_at = due_time(one->role, snapshot);
		one->turn = turn_of(one->role)->turn;
		if (one->due_at != DT_NOEND)
			result = lappend(result, one);
	}
	return result;
}

/* when there is something to do for an owner; DT_NOEND for not yet */
static TimestampTz
due_time(Oid role, Snapshot snapshot)
{
	List	   *rules = evi_inbox_load(role, snapshot);
	List	   *halts = evi_halt_all(snapshot);
	TimestampTz result = DT_NOEND;
	ListCell   *lc;
	ListCell   *lh;

	foreach(lc, rules)
	{
		EviInbox   *inbox = lfirst(lc);
		TimestampTz halted_until = DT_NOBEGIN;
		TimestampTz due_at;

		if (!inbox->live || !inbox->enabled)
			continue;
		foreach(lh, halts)
			if (((EviHalt *) lfirst(lh))->inbox_id == inbox->id)
				halted_until = ((EviHalt *) lfirst(lh))->next_look_at;

		due_at = evi_delivery_next(inbox);
		for (int lane = inbox->replayable ? EVI_REPLAY_LANE : 0; lane < inbox->shards; lane++)
			due_at = Min(due_at, events_due(inbox, lane, snapshot));
		result = Min(result, Max(due_at, halted_until));
	}
	return result;
}

/*
 * When a lane has to go on: now, if there are events that its lists want, or
 * so many that there may be.
 */
static TimestampTz
events_due(EviInbox *inbox, int lane, Snapshot snapshot)
{
	EviProgress *progress = evi_progress_create(inbox, lane, CurrentMemoryContext);
	TimestampTz result = DT_NOEND;
	bool		leads_on = evi_progress_read_cursor(progress, snapshot);

	while (leads_on)
	{
		evi_progress_open(progress, evi_snapshot_active(), 0, NULL, snapshot,
						  CurrentMemoryContext);
		leads_on = progress->window && progress->window->count == 0 &&
			evi_progress_pass(progress);
	}
	if (evi_progress_has_events(progress))
		result = window_due(inbox, progress->window, snapshot);
	evi_progress_free(progress);
	return result;
}

static TimestampTz
window_due(const EviInbox *inbox, const EviWindow *window, Snapshot snapshot)
{
	int			fetched;
	EviBatch   *batch;

	if (window->leads_on)
		return DT_NOBEGIN;
	batch = evi_fetch_batch(window->id, window->count, snapshot, &fetched);
	if (fetched < window->count)
		return DT_NOBEGIN;
	for (int i = 0; i < batch->count; i++)
	{
		const EviEventParts *parts = evi_batch_parts(batch, i);

		if (evi_inbox_wants(inbox, parts->subject_type, parts->action))
			return DT_NOBEGIN;
	}
	return batch->count == 0 ? DT_NOEND :
		TimestampTzPlusMilliseconds(evi_batch_parts(batch, 0)->recorded_at, UNWANTED_MS);
}

/* who has waited longest, first */
static int
compare_waiting(const ListCell *a, const ListCell *b)
{
	const Waiting *left = lfirst(a);
	const Waiting *right = lfirst(b);

	return (left->turn > right->turn) - (left->turn < right->turn);
}

static Turn *
turn_of(Oid role)
{
	MemoryContext former;
	Turn	   *turn;
	ListCell   *lc;

	foreach(lc, turns)
		if (((Turn *) lfirst(lc))->role == role)
			return lfirst(lc);

	former = MemoryContextSwitchTo(TopMemoryContext);
	turn = palloc0(sizeof(Turn));
	turn->role = role;
	turns = lappend(turns, turn);
	MemoryContextSwitchTo(former);
	return turn;
}

static bool
give_place(Oid database, Oid role)
{
	bool		result;

	evi_shmem_lock(true);
	result = evi_shmem_want(EVI_RUNNER, database, role, 0);
	evi_shmem_unlock();
	if (result)
		turn_of(role)->turn = ++last_turn;
	return result;
}

/*
 * Asks a runner that sleeps, or else the one that had its place longest, to
 * leave it. Returns false if none can be asked now; next is when one can.
 */
static bool
ask_to_leave(Oid database, TimestampTz *next)
{
	TimestampTz now = GetCurrentTimestamp();
	EviWorker  *best = NULL;
	bool		best_is_idle = false;

	evi_shmem_lock(false);
	for (int i = 1; i < evi_shmem_slots(); i++)
	{
		EviWorker  *worker = evi_shmem_slot(i);
		bool		is_idle = pg_atomic_read_u32(&worker->is_idle) != 0;

		if (worker->state == EVI_WORKER_FREE || worker->kind != EVI_RUNNER ||
			worker->database != database || pg_atomic_read_u32(&worker->is_to_leave) != 0)
			continue;

		/* it has not come yet, and nobody will tell us when it has */
		if (worker->pid == 0)
		{
			*next = Min(*next, TimestampTzPlusMilliseconds(now, SLICE_MS));
			continue;
		}
		if (!is_idle && !TimestampDifferenceExceeds(worker->started_at, now, SLICE_MS))
		{
			*next = Min(*next, TimestampTzPlusMilliseconds(worker->started_at, SLICE_MS + 1));
			continue;
		}
		if (!best || (is_idle && !best_is_idle) ||
			(is_idle == best_is_idle && worker->started_at < best->started_at))
		{
			best = worker;
			best_is_idle = is_idle;
		}
	}
	if (best)
		ask(best);
	evi_shmem_unlock();
	return best != NULL;
}

/* The caller holds the lock. */
static bool
has_runner(Oid database, Oid role)
{
	EviWorker  *first = evi_shmem_find(EVI_RUNNER, database, role, 0);

	return first && first->wanted;
}
