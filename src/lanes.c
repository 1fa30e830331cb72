/*-------------------------------------------------------------------------
 *
 * lanes.c
 *		The lanes of a runner's rules.
 *
 * They are kept from look to look, and brought up to date when a rule has
 * changed, when others have moved them, and when somebody has ended in the
 * middle of its work.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "evinbox.h"
#include "lanes.h"
#include "setback.h"
#include "shmem.h"

/* the rules in a context of their own */
static MemoryContext rules_context = NULL;
static List *lanes = NIL;		/* of EviProgress, in the order of turns */
static uint64 rules_version = 0;	/* none has that one */
static uint32 seen_moves = 0;	/* of others */
static TimestampTz seen_unclean_end = 0;

static void load_rules(MemoryContext parent, Snapshot snapshot);
static void load_lane(EviInbox *inbox, int lane, List **former, MemoryContext parent,
					  Snapshot snapshot);
static EviProgress *find_progress(List *list, int32 inbox_id, int lane);
static void read_halts(Snapshot snapshot, bool is_new_chance);
static void refresh_lanes(Snapshot snapshot);
static bool reread_if_moved(EviProgress *progress, Snapshot snapshot);
static void suspect_lanes(void);

/*
 * The lanes as a snapshot shows them, as EviProgress, in the order of turns.
 * "moves" was read before the snapshot was taken.
 */
List *
evi_lanes_load(MemoryContext parent, uint32 moves, Snapshot snapshot)
{
	uint64		version = evi_inbox_version(snapshot);

	if (version != rules_version)
		load_rules(parent, snapshot);
	else if (moves != seen_moves)
		refresh_lanes(snapshot);
	rules_version = version;
	seen_moves = moves;
	if (evi_shmem_unclean_end() != seen_unclean_end)
		suspect_lanes();
	return lanes;
}

/* What a lane has done stays with it. */
static void
load_rules(MemoryContext parent, Snapshot snapshot)
{
	MemoryContext former_rules = rules_context;
	MemoryContext context;
	List	   *former = lanes;
	List	   *rules;
	ListCell   *lc;

	/* their rules are about to go */
	foreach(lc, former)
		evi_inbox_forget_plans(((EviProgress *) lfirst(lc))->inbox);

	rules_context = AllocSetContextCreate(parent, "evinbox rules",
										  ALLOCSET_DEFAULT_SIZES);
	context = MemoryContextSwitchTo(rules_context);
	rules = evi_inbox_load(GetAuthenticatedUserId(), snapshot);
	lanes = NIL;
	foreach(lc, rules)
	{
		EviInbox   *inbox = lfirst(lc);

		inbox->keeps_plan = true;
		for (int lane = 0; lane < inbox->shards; lane++)
			load_lane(inbox, lane, &former, parent, snapshot);
		if (inbox->replayable)
			load_lane(inbox, EVI_REPLAY_LANE, &former, parent, snapshot);
	}
	MemoryContextSwitchTo(context);

	foreach(lc, former)
		evi_progress_free(lfirst(lc));
	if (former_rules)
		MemoryContextDelete(former_rules);
	read_halts(snapshot, true);
}

static void
load_lane(EviInbox *inbox, int lane, List **former, MemoryContext parent,
		  Snapshot snapshot)
{
	EviProgress *progress = find_progress(*former, inbox->id, lane);

	if (progress)
	{
		*former = list_delete_ptr(*former, progress);
		reread_if_moved(progress, snapshot);
	}
	else
	{
		progress = evi_progress_create(inbox, lane, parent);
		progress->suspects = evi_shmem_unclean_end() != 0 ? EVI_MAX_SUSPECTS : 0;
	}
	progress->inbox = inbox;
	progress->limit = 0;
	if (!progress->cursor.done && !evi_progress_read_cursor(progress, snapshot))
	{
		if (lane != EVI_REPLAY_LANE)
			ereport(LOG,
					(errmsg("inbox \"%s\" has no cursor", inbox->name),
					 errhint("Delete it and create it again.")));
		evi_progress_free(progress);
		return;
	}
	if (lane == 0)
		progress->retry_at = evi_delivery_next(inbox);
	lanes = lappend(lanes, progress);
}

static EviProgress *
find_progress(List *list, int32 inbox_id, int lane)
{
	ListCell   *lc;

	foreach(lc, list)
	{
		EviProgress *progress = lfirst(lc);

		if (progress->inbox->id == inbox_id && progress->lane == lane)
			return progress;
	}
	return NULL;
}

/* A changed rule gets a fresh chance. */
static void
read_halts(Snapshot snapshot, bool is_new_chance)
{
	List	   *halts = evi_halt_all(snapshot);
	ListCell   *lc;
	ListCell   *lh;

	foreach(lc, lanes)
	{
		EviProgress *progress = lfirst(lc);

		progress->halts = 0;
		progress->halted_until = 0;
		foreach(lh, halts)
		{
			EviHalt    *halt = lfirst(lh);

			if (halt->inbox_id != progress->inbox->id)
				continue;
			progress->halts = halt->looks;
			progress->halted_until = is_new_chance ? 0 : halt->next_look_at;
		}
	}
}

/* Other runners have been at work. */
static void
refresh_lanes(Snapshot snapshot)
{
	ListCell   *lc;

	foreach(lc, lanes)
	{
		EviProgress *progress = lfirst(lc);

		/* lane 0 does the retries of all */
		if (reread_if_moved(progress, snapshot) &&
			(progress = find_progress(lanes, progress->inbox->id, 0)) != NULL)
			progress->retry_at = evi_delivery_next(progress->inbox);
	}
	read_halts(snapshot, false);
}

static bool
reread_if_moved(EviProgress *progress, Snapshot snapshot)
{
	if (evi_cursor_seq(progress->inbox->id, progress->lane, snapshot) == progress->cursor.seq)
		return false;
	(void) evi_progress_read_cursor(progress, snapshot);
	return true;
}

/* A worker has ended in the middle of a handler: which event was it? */
static void
suspect_lanes(void)
{
	ListCell   *lc;

	foreach(lc, lanes)
		((EviProgress *) lfirst(lc))->suspects = EVI_MAX_SUSPECTS;
	seen_unclean_end = evi_shmem_unclean_end();
}
