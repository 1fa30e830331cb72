/*-------------------------------------------------------------------------
 *
 * guc.c
 *		The settings of evinbox, defined once when the library is loaded.
 *
 * The variables stay in here; the others ask for their values.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "miscadmin.h"
#include "utils/guc.h"

#include "guc.h"

static bool enabled = true;
static bool installed = false;
static int	max_workers = 32;
static int	max_runners = 4;
static int	max_failures = 50;
static int	batch_size = 10000;
static int	partition_size = 10000000;
static int	retention_s = -1;
static int	segment_xids = 65536;
static int	max_depth = 8;
static char *actor = NULL;
static char *context = NULL;
static char *scope = NULL;
static char *batch = NULL;
static int	actor_source = EVI_ACTOR_ANY;

static const struct config_enum_entry actor_sources[] = {
	{"any", EVI_ACTOR_ANY, false},
	{"context", EVI_ACTOR_CONTEXT, false},
	{"session_user", EVI_ACTOR_SESSION_USER, false},
	{NULL, 0, false}
};

void
evi_guc_define(void)
{
	DefineCustomBoolVariable("evinbox.enabled",
							 "Lets background workers dispatch events.",
							 "Recording and run() work also when it is off.",
							 &enabled, true,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomBoolVariable("evinbox.installed",
							 "Set for a database by CREATE EXTENSION, so that the launcher finds it.",
							 NULL,
							 &installed, false,
							 PGC_SUSET, GUC_NOT_IN_SAMPLE | GUC_DISALLOW_IN_FILE,
							 NULL, NULL, NULL);
	DefineCustomIntVariable("evinbox.max_runners",
							"Most runners in one database.",
							"Owners, or lanes, beyond that take turns.",
							&max_runners, 4, 1, 256,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("evinbox.max_failures_in_a_row",
							"Number of events of an inbox that may fail in a row before it is halted.",
							"0 for no such limit.",
							&max_failures, 50, 0, INT_MAX,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("evinbox.batch_size",
							"Most events that one transaction handles, whatever the inbox allows.",
							NULL,
							&batch_size, 10000, 1, 1000000,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("evinbox.partition_size",
							"Number of event ids in each new partition of evinbox.event.",
							NULL,
							&partition_size, 10000000, 1000, INT_MAX,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("evinbox.retention",
							"How long events are kept: partitions of evinbox.event are dropped when all of theirs are older.",
							"-1 and 0 for ever. What an inbox has still to handle is kept.",
							&retention_s, -1, -1, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("evinbox.segment_xids",
							"Number of transaction ids after which the outbox goes on to its next segment.",
							"May be changed at any time: readers look at all segments.",
							&segment_xids, 65536, 16, 1 << 30,
							PGC_SIGHUP, GUC_NOT_IN_SAMPLE, NULL, NULL, NULL);

	DefineCustomIntVariable("evinbox.max_depth",
							"Longest chain of events that each were recorded by a handler of the one before.",
							"What a handler would record beyond it is not, and its delivery is skipped.",
							&max_depth, 8, 0, 1000,
							PGC_SIGHUP, 0, NULL, NULL, NULL);

	DefineCustomStringVariable("evinbox.actor",
							   "Actor of events that are recorded without one.",
							   NULL,
							   &actor, "",
							   PGC_USERSET, GUC_NOT_IN_SAMPLE, NULL, NULL, NULL);
	DefineCustomStringVariable("evinbox.context",
							   "JSON object that goes over the metadata of all events that are recorded.",
							   "set_context() sets it for a transaction.",
							   &context, "",
							   PGC_USERSET, GUC_NOT_IN_SAMPLE, NULL, NULL, NULL);
	DefineCustomStringVariable("evinbox.scope",
							   "Scope of events that are recorded without one.",
							   NULL,
							   &scope, "",
							   PGC_USERSET, GUC_NOT_IN_SAMPLE, NULL, NULL, NULL);
	DefineCustomStringVariable("evinbox.batch",
							   "Batches that have begun in this transaction, the innermost first.",
							   "begin_batch() and end_batch() set it.",
							   &batch, "",
							   PGC_INTERNAL, GUC_NOT_IN_SAMPLE | GUC_DISALLOW_IN_FILE, NULL, NULL, NULL);
	DefineCustomEnumVariable("evinbox.actor_source",
							 "Who says who the actor of an event is.",
							 "\"any\": whoever records; \"context\": evinbox.actor alone; \"session_user\": nobody.",
							 &actor_source, EVI_ACTOR_ANY, actor_sources,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);

	if (process_shared_preload_libraries_in_progress)
		DefineCustomIntVariable("evinbox.max_workers",
								"Most background workers of evinbox beside its launcher.",
								"They come out of max_worker_processes.",
								&max_workers, 32, 2, 1024,
								PGC_POSTMASTER, 0, NULL, NULL, NULL);

	MarkGUCPrefixReserved("evinbox");
}

bool
evi_guc_enabled(void)
{
	return enabled;
}

int
evi_guc_max_workers(void)
{
	return max_workers;
}

int
evi_guc_max_runners(void)
{
	return max_runners;
}

int
evi_guc_max_failures(void)
{
	return max_failures;
}

int
evi_guc_batch_size(void)
{
	return batch_size;
}

int
evi_guc_partition_size(void)
{
	return partition_size;
}

/* in seconds; none for ever */
int
evi_guc_retention_s(void)
{
	return retention_s;
}

int
evi_guc_segment_xids(void)
{
	return segment_xids;
}

int
evi_guc_max_depth(void)
{
	return max_depth;
}

/* these are never NULL */
const char *
evi_guc_actor(void)
{
	return actor ? actor : "";
}

const char *
evi_guc_context(void)
{
	return context ? context : "";
}

const char *
evi_guc_scope(void)
{
	return scope ? scope : "";
}

const char *
evi_guc_batch(void)
{
	return batch ? batch : "";
}

EviActorSource
evi_guc_actor_source(void)
{
	return (EviActorSource) actor_source;
}
