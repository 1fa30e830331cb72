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

#include "datatype/timestamp.h"
#include "miscadmin.h"
#include "utils/guc.h"

#include "address.h"
#include "guc.h"
#include "mailbox.h"

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
static char *webhook_allow = NULL;
static bool webhook_allow_http = false;
static int	webhook_log_retention_s = 7 * SECS_PER_DAY;
static int	webhook_max_in_flight = 100;
static char *webhook_ca_file = NULL;
static char *smtp_url = NULL;
static char *smtp_sender = NULL;
static char *smtp_user = NULL;
static char *smtp_password = NULL;

static const struct config_enum_entry actor_sources[] = {
	{"any", EVI_ACTOR_ANY, false},
	{"context", EVI_ACTOR_CONTEXT, false},
	{"session_user", EVI_ACTOR_SESSION_USER, false},
	{NULL, 0, false}
};

static void define_webhooks(void);
static bool check_allow(char **value, void **extra, GucSource source);
static bool check_smtp_url(char **value, void **extra, GucSource source);
static bool check_smtp_sender(char **value, void **extra, GucSource source);
static const char *show_password(void);
static const char *or_empty(const char *value);

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

	define_webhooks();
	if (process_shared_preload_libraries_in_progress)
		DefineCustomIntVariable("evinbox.max_workers",
								"Most background workers of evinbox beside its launcher.",
								"They come out of max_worker_processes.",
								&max_workers, 32, 2, 1024,
								PGC_POSTMASTER, 0, NULL, NULL, NULL);

	MarkGUCPrefixReserved("evinbox");
}

static void
define_webhooks(void)
{
	DefineCustomStringVariable("evinbox.webhook_allow",
							   "Addresses that may be called though not everybody can reach them.",
							   "Ranges like 10.1.0.0/16, fd00::/8, with commas between them.",
							   &webhook_allow, "",
							   PGC_SIGHUP, GUC_LIST_INPUT, check_allow, NULL, NULL);
	DefineCustomBoolVariable("evinbox.webhook_allow_http",
							 "Lets URLs be called without TLS.",
							 NULL,
							 &webhook_allow_http, false,
							 PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("evinbox.webhook_log_retention",
							"How long it is kept what was sent, and what was answered.",
							NULL,
							&webhook_log_retention_s, 7 * SECS_PER_DAY, SECS_PER_HOUR, INT_MAX,
							PGC_SIGHUP, GUC_UNIT_S, NULL, NULL, NULL);
	DefineCustomIntVariable("evinbox.webhook_max_in_flight",
							"Most calls that a database makes at once.",
							NULL,
							&webhook_max_in_flight, 100, 1, 1000,
							PGC_SIGHUP, 0, NULL, NULL, NULL);
	DefineCustomStringVariable("evinbox.webhook_ca_file",
							   "File with the certificates of the authorities that are trusted.",
							   "Empty for those of the system.",
							   &webhook_ca_file, "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
	DefineCustomStringVariable("evinbox.smtp_url",
							   "Server that takes e-mails, as smtp://host:port or smtps://host:port.",
							   "Empty: none is sent.",
							   &smtp_url, "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY, check_smtp_url, NULL, NULL);
	DefineCustomStringVariable("evinbox.smtp_sender",
							   "Address that e-mails are from.",
							   NULL,
							   &smtp_sender, "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY, check_smtp_sender, NULL, NULL);
	DefineCustomStringVariable("evinbox.smtp_user",
							   "User that the server for e-mails is told.",
							   NULL,
							   &smtp_user, "",
							   PGC_SIGHUP, GUC_SUPERUSER_ONLY, NULL, NULL, NULL);
	DefineCustomStringVariable("evinbox.smtp_password",
							   "Password that the server for e-mails is told.",
							   NULL,
							   &smtp_password, "",
							   PGC_SIGHUP,
							   GUC_SUPERUSER_ONLY | GUC_NO_SHOW_ALL | GUC_NOT_IN_SAMPLE,
							   NULL, NULL, show_password);
}

static bool
check_allow(char **value, void **extra, GucSource source)
{
	EviAddressRange *ranges = NULL;
	int			count;
	const char *error;
	bool		is_valid = evi_address_parse_ranges(*value ? *value : "", &ranges, &count, &error);

	if (!is_valid)
		GUC_check_errdetail("%s", error);
	free(ranges);
	return is_valid;
}

/* user and password have settings of their own, which nobody sees */
static bool
check_smtp_url(char **value, void **extra, GucSource source)
{
	const char *url = or_empty(*value);

	if (url[0] == '\0')
		return true;
	if ((strncmp(url, "smtp://", strlen("smtp://")) == 0 ||
		 strncmp(url, "smtps://", strlen("smtps://")) == 0) && !strpbrk(url, "@ \"<>\\^`{|}#?"))
		return true;
	GUC_check_errdetail("It must be like smtp://host:port or smtps://host:port.");
	return false;
}

static bool
check_smtp_sender(char **value, void **extra, GucSource source)
{
	const char *sender = or_empty(*value);

	if (sender[0] == '\0' || evi_mailbox_is_valid(sender))
		return true;
	GUC_check_errdetail("It must be an address like name@example.com.");
	return false;
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
	return or_empty(actor);
}

const char *
evi_guc_context(void)
{
	return or_empty(context);
}

const char *
evi_guc_scope(void)
{
	return or_empty(scope);
}

const char *
evi_guc_batch(void)
{
	return or_empty(batch);
}

EviActorSource
evi_guc_actor_source(void)
{
	return (EviActorSource) actor_source;
}

/* these are never NULL */
const char *
evi_guc_webhook_allow(void)
{
	return or_empty(webhook_allow);
}

bool
evi_guc_webhook_allow_http(void)
{
	return webhook_allow_http;
}

int
evi_guc_webhook_log_retention_s(void)
{
	return webhook_log_retention_s;
}

int
evi_guc_webhook_max_in_flight(void)
{
	return webhook_max_in_flight;
}

const char *
evi_guc_webhook_ca_file(void)
{
	return or_empty(webhook_ca_file);
}

const char *
evi_guc_smtp_url(void)
{
	return or_empty(smtp_url);
}

const char *
evi_guc_smtp_sender(void)
{
	return or_empty(smtp_sender);
}

const char *
evi_guc_smtp_user(void)
{
	return or_empty(smtp_user);
}

const char *
evi_guc_smtp_password(void)
{
	return or_empty(smtp_password);
}

/* that there is one, whoever asks: pg_monitor may see all settings */
static const char *
show_password(void)
{
	return *evi_guc_smtp_password() ? "********" : "";
}

static const char *
or_empty(const char *value)
{
	return value ? value : "";
}
