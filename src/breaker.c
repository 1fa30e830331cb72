/*-------------------------------------------------------------------------
 *
 * breaker.c
 *		Which endpoints are left alone for a while, because they fail.
 *
 * An endpoint that fails BREAK_AFTER times in a row is closed for a while, and
 * then tried with one request at a time: with each further failure it is closed
 * for twice as long, and with a success it is open. Failures of what was under
 * way when it was closed do not count. One that asks for a pause is closed for
 * that time. What has no endpoint is not closed.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "backoff.h"
#include "breaker.h"

#define BREAK_AFTER 5
#define FIRST_BREAK_MS 10000
#define MAX_BREAK_MS 600000

/* Has it failed so often that one request at a time is enough? */
bool
evi_breaker_is_probing(const EviRoute *route)
{
	return route->failures >= BREAK_AFTER;
}

void
evi_breaker_succeeded(EviRoute *route, TimestampTz started_at)
{
	if (route->key <= 0)
		return;
	route->is_changed |= route->is_stored || route->failures > 0;
	route->failures = 0;
	route->failing_since = 0;

	/* what was under way does not know what it has asked for meanwhile */
	if (!route->is_asked || started_at >= route->closed_at)
	{
		route->closed_until = 0;
		route->is_asked = false;
	}
}

void
evi_breaker_failed(EviRoute *route, TimestampTz started_at, TimestampTz now)
{
	if (route->key <= 0)
		return;
	route->is_changed = true;
	if (route->failing_since == 0)
		route->failing_since = now;
	if (started_at < route->closed_at)
		return;
	route->failures++;
	if (route->failures < BREAK_AFTER)
		return;
	route->closed_at = now;
	route->closed_until =
		TimestampTzPlusMilliseconds(now, evi_backoff_ms(FIRST_BREAK_MS,
														route->failures - BREAK_AFTER + 1,
														MAX_BREAK_MS));
}

/* It has asked for a pause. */
void
evi_breaker_asked(EviRoute *route, TimestampTz until, TimestampTz now)
{
	if (route->key <= 0)
		return;
	if (route->failing_since == 0)
		route->failing_since = now;
	route->closed_at = now;
	route->closed_until = Max(route->closed_until, until);
	route->is_asked = true;
	route->is_changed = true;
}

/* Nothing goes there any more, until somebody enables it. */
void
evi_breaker_disable(EviRoute *route, const char *fault)
{
	if (route->key <= 0 || route->fault)
		return;
	route->fault = fault;
	route->is_changed = true;
}

/* Whoever enables an endpoint begins with it anew. */
void
evi_breaker_review(EviRoute *route)
{
	if (!route->peer)
		return;
	if (route->is_told)
		route->fault = NULL;
	route->is_told = false;
	if (route->peer->is_enabled && route->was_off)
	{
		route->failures = 0;
		route->failing_since = 0;
		route->closed_until = 0;
		route->is_asked = false;
		route->is_changed = true;
	}
	route->was_off = !route->peer->is_enabled;
}
