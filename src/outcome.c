/*-------------------------------------------------------------------------
 *
 * outcome.c
 *		What an answer, or none, means for a request and for its endpoint.
 *
 * Only 2xx is success. What cannot get better by waiting is dead at once: an
 * address that may not be called, an endpoint that says it is gone, a
 * recipient that a mail server does not take. All else is tried again, until
 * there were enough attempts.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "mb/pg_wchar.h"
#include "utils/memutils.h"

#include "breaker.h"
#include "outcome.h"
#include "pace.h"

#define MAX_RETRY_AFTER_S (24 * 60 * 60)
#define MAX_PAUSE_MS 600000		/* of an endpoint that does not say how long */
#define HTTP_GONE 410
#define HTTP_TOO_MANY 429
#define HTTP_UNAVAILABLE 503

static bool is_delivered(const EviParcel *parcel, const EviHttpResult *result);
static const char *describe(const EviParcel *parcel, const EviHttpResult *result);
static bool is_ours_to_mend(long status);
static bool is_final(const EviParcel *parcel, const EviHttpResult *result);
static void try_again(EviParcel *parcel, long retry_after_s, TimestampTz now);
static void blame(EviParcel *parcel, const EviHttpResult *result, TimestampTz now);
static void blame_for_long(EviRoute *route, TimestampTz now);
static char *make_valid(const char *text, size_t length);

/* A transfer has ended. */
void
evi_outcome_judge(EviParcel *parcel, const EviHttpResult *result, TimestampTz now)
{
	MemoryContext former = MemoryContextSwitchTo(parcel->context);
	EviReport  *report = &parcel->report;

	report->status = (int) result->status;
	report->code = result->code;
	report->dns_ms = result->dns_ms;
	report->connect_ms = result->connect_ms;
	report->tls_ms = result->tls_ms;
	report->first_byte_ms = result->first_byte_ms;
	report->total_ms = result->total_ms;
	report->address = result->address ? make_valid(result->address, strlen(result->address)) : NULL;
	if (result->answer && result->answer_length > 0)
		report->answer = make_valid(result->answer, result->answer_length);
	evi_pace_ended(parcel);

	if (is_delivered(parcel, result))
	{
		report->outcome = EVI_OUTCOME_DELIVERED;
		evi_breaker_succeeded(parcel->route, parcel->started_at);
	}
	else
	{
		report->error = describe(parcel, result);
		if (is_final(parcel, result))
			report->outcome = EVI_OUTCOME_DEAD;
		else
			try_again(parcel, result->retry_after_s, now);
		blame(parcel, result, now);
	}
	MemoryContextSwitchTo(former);
}

/* It is not sent, and never will be. */
void
evi_outcome_refuse(EviParcel *parcel, const char *error, TimestampTz now)
{
	evi_pace_ended(parcel);
	parcel->report = (EviReport) {
		.outcome = EVI_OUTCOME_DEAD,
		.error = MemoryContextStrdup(parcel->context, error),
		.dns_ms = -1,
		.connect_ms = -1,
		.tls_ms = -1,
		.first_byte_ms = -1,
		.total_ms = -1,
	};
}

/* It cannot be sent now, which is nobody's fault but ours. */
void
evi_outcome_put_off(EviParcel *parcel, const char *error, TimestampTz now)
{
	evi_outcome_refuse(parcel, error, now);
	try_again(parcel, -1, now);
}

/* which attempt this one is */
int
evi_outcome_number(const EviParcel *parcel)
{
	return parcel->attempts + (parcel->is_noted ? 0 : 1);
}

static bool
is_delivered(const EviParcel *parcel, const EviHttpResult *result)
{
	if (result->code != 0 || result->error || result->is_refused)
		return false;
	return parcel->is_mail || (result->status >= 200 && result->status <= 299);
}

static const char *
describe(const EviParcel *parcel, const EviHttpResult *result)
{
	if (result->error)
		return make_valid(result->error, strlen(result->error));
	if (result->status >= 300 && result->status <= 399)
		return psprintf("status %ld, and redirects are not followed", result->status);
	return psprintf("status %ld", result->status);
}

/* A mail server wants another login, or a safer connection: the settings may be mended. */
static bool
is_ours_to_mend(long status)
{
	return status == 530 || status == 534 || status == 535 || status == 538;
}

static bool
is_final(const EviParcel *parcel, const EviHttpResult *result)
{
	if (result->is_refused)
		return true;
	if (parcel->is_mail)
		return result->status >= 500 && result->status <= 599 && !is_ours_to_mend(result->status);
	return result->status == HTTP_GONE;
}

/* Until there were enough attempts; not before the time that the endpoint says. */
static void
try_again(EviParcel *parcel, long retry_after_s, TimestampTz now)
{
	EviReport  *report = &parcel->report;
	const EviPeer *peer = parcel->route->peer ? parcel->route->peer : evi_peer_find(0);
	int			number = evi_outcome_number(parcel);

	if (number >= peer->max_attempts)
	{
		report->outcome = EVI_OUTCOME_DEAD;
		return;
	}
	report->outcome = EVI_OUTCOME_RETRY;
	report->next_at = evi_pace_retry_at(parcel->route, number, now);
	if (retry_after_s > 0)
		report->next_at = Max(report->next_at,
							  now + Min(retry_after_s, MAX_RETRY_AFTER_S) * USECS_PER_SEC);
}

/* what it says of the endpoint */
static void
blame(EviParcel *parcel, const EviHttpResult *result, TimestampTz now)
{
	EviRoute   *route = parcel->route;
	bool		asks = result->status == HTTP_TOO_MANY || result->status == HTTP_UNAVAILABLE;

	/* that an address may not be called is no failure of whoever is there */
	if (result->is_refused || parcel->is_mail)
		return;
	if (result->status == HTTP_GONE)
	{
		evi_breaker_disable(route, "the endpoint has answered that it is gone (status 410)");
		return;
	}
	if (!asks || result->retry_after_s <= 0)
		evi_breaker_failed(route, parcel->started_at, now);
	if (asks)
		evi_breaker_asked(route,
					   result->retry_after_s > 0 ?
					   now + Min(result->retry_after_s, MAX_RETRY_AFTER_S) * USECS_PER_SEC :
					   Min(evi_pace_retry_at(route, route->failures, now),
						   TimestampTzPlusMilliseconds(now, MAX_PAUSE_MS)),
					   now);
	blame_for_long(route, now);
}

static void
blame_for_long(EviRoute *route, TimestampTz now)
{
	int64		most_ms = route->peer ? route->peer->disable_after_ms : 0;

	if (most_ms > 0 && route->failing_since != 0 &&
		now - route->failing_since >= most_ms * 1000)
		evi_breaker_disable(route, "the endpoint has failed for longer than disable_after");
}

/* What comes from outside, as text of the database: whatever else is in it becomes '?'. */
static char *
make_valid(const char *text, size_t length)
{
	char	   *result = palloc(length + 1);
	size_t		at = 0;
	bool		is_utf8 = GetDatabaseEncoding() == PG_UTF8;

	while (at < length)
	{
		unsigned char c = text[at];
		int			width = is_utf8 ? pg_utf_mblen((const unsigned char *) text + at) : 1;

		if (c != '\0' && c < 0x80)
			result[at] = c;
		else if (c >= 0x80 && is_utf8 && at + width <= length &&
				 pg_utf8_islegal((const unsigned char *) text + at, width))
		{
			memcpy(result + at, text + at, width);
			at += width;
			continue;
		}
		else
			result[at] = '?';
		at++;
	}
	result[length] = '\0';
	return result;
}
