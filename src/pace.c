/*-------------------------------------------------------------------------
 *
 * pace.c
 *		When which request is sent.
 *
 * Each endpoint has a queue of its own, so that one that is slow, closed or
 * dead keeps nobody else waiting. The queues take turns. Of the places for
 * transfers, a queue may have as many as are left free, and no more than the
 * endpoint allows: so there is always one left for somebody else. What has no
 * endpoint is spread over some queues by the host that it goes to.
 *
 * There is nothing of a database in here.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "common/pg_prng.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "breaker.h"
#include "pace.h"

#define SHARES 16				/* of what has no endpoint */
#define MAX_QUEUED 4096			/* in a queue */
#define MAX_QUEUED_BYTES (16 * 1024 * 1024)
#define LOW_WATER 64			/* with fewer in it, a queue is filled from what waits */
#define MAX_PARCELS 20000		/* of all queues */
#define MAX_BYTES (64 * 1024 * 1024)
#define STALE_MS 5000			/* who queues for longer stands aside */
#define SOON_MS 1000			/* a queue that opens so soon is worth joining */
#define AHEAD_MS 10000			/* what a rate allows in this time is read */

#define DEFAULT_RETRY_MS 5000	/* if the endpoint has none */
#define JITTER 0.2				/* of retries, either way */
#define MAX_STARTS 1000			/* that a rate is counted by */

static HTAB *routes = NULL;
static dlist_head ready = DLIST_STATIC_INIT(ready);
static int	in_flight = 0;
static bool has_stranger = false;

static EviRoute *route_for(const EviParcel *parcel);
static void set_peer(EviRoute *route);
static EviRoute *stale_route(TimestampTz now);
static bool grows_stale(const EviParcel *parcel);
static bool is_closed_for_long(const EviRoute *route, TimestampTz now);
static EviParcel *take(EviRoute *route, bool is_started, TimestampTz now);
static bool is_open(const EviRoute *route, TimestampTz now);
static bool may_start(const EviRoute *route, int most_in_flight, TimestampTz now);
static bool can_read(const EviRoute *route, TimestampTz now);
static bool is_full(void);
static TimestampTz next_start_at(const EviRoute *route);
static int64 rate_window_us(const EviRoute *route);
static int64 starts_within(const EviRoute *route, int64 ms);
static void note_start(EviRoute *route, TimestampTz now);
static TimestampTz look_again_at(const EviRoute *route, int most_in_flight, TimestampTz now);

/* Found, or made. */
EviRoute *
evi_pace_route(int32 key)
{
	EviRoute   *route;
	bool		found;

	if (!routes)
	{
		HASHCTL		ctl = {.keysize = sizeof(int32), .entrysize = sizeof(EviRoute)};

		ctl.hcxt = TopMemoryContext;
		routes = hash_create("evinbox routes", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	route = hash_search(routes, &key, HASH_ENTER, &found);
	if (!found)
	{
		*route = (EviRoute) {.key = key, .next_due = DT_NOEND};
		dlist_init(&route->queue);
		set_peer(route);
		has_stranger |= route->peer == NULL;
	}
	return route;
}

/* Is there one whose endpoint is not known? Asked once. */
bool
evi_pace_has_stranger(void)
{
	bool		result = has_stranger;

	has_stranger = false;
	return result;
}

static EviRoute *
route_for(const EviParcel *parcel)
{
	const char *host;

	if (parcel->endpoint_id > 0)
		return evi_pace_route(parcel->endpoint_id);
	host = parcel->url ? strstr(parcel->url, "://") : NULL;
	if (!host)
		return evi_pace_route(-1);
	host += strlen("://");
	return evi_pace_route(-2 - (int32) (hash_bytes((const unsigned char *) host,
												   strcspn(host, "/?#")) % (SHARES - 1)));
}

/* Endpoints were read anew. */
void
evi_pace_refresh(void)
{
	HASH_SEQ_STATUS scan;
	EviRoute   *route;

	if (!routes)
		return;
	hash_seq_init(&scan, routes);
	while ((route = hash_seq_search(&scan)) != NULL)
	{
		set_peer(route);

		evi_breaker_review(route);
		if (!route->peer && route->held == 0 && route->next_due == DT_NOEND)
			(void) hash_search(routes, &route->key, HASH_REMOVE, NULL);
	}
}

/* False if there is no room for it, or it would wait for long. */
bool
evi_pace_add(EviParcel *parcel, TimestampTz now)
{
	EviRoute   *route = route_for(parcel);

	parcel->route = route;
	if (route->peer)
	{
		if (!route->peer->is_enabled || route->fault || route->queued >= MAX_QUEUED ||
			route->queued_bytes >= MAX_QUEUED_BYTES || (is_full() && route->queued > 0))
			return false;

		/* those that stand aside come first */
		if (!parcel->is_waiting &&
			(route->aside > 0 || is_closed_for_long(route, now)))
			return false;
	}
	parcel->queued_at = now;
	parcel->is_held = true;
	route->held++;
	if (route->queued == 0)
		dlist_push_tail(&ready, &route->ready_node);
	dlist_push_tail(&route->queue, &parcel->node);
	route->queued++;
	route->queued_bytes += parcel->size;
	return true;
}

/* It is about to leave the memory. */
void
evi_pace_forget(EviParcel *parcel)
{
	if (parcel->is_held)
		parcel->route->held--;
}

/* One that is to be sent now; NULL if there is none. */
EviParcel *
evi_pace_next(int most_in_flight, TimestampTz now)
{
	dlist_iter	iter;

	if (in_flight >= most_in_flight)
		return NULL;
	dlist_foreach(iter, &ready)
	{
		EviRoute   *route = dlist_container(EviRoute, ready_node, iter.cur);

		if (may_start(route, most_in_flight, now))
			return take(route, true, now);
	}
	return NULL;
}

/* Is there one that is not sent before long, and should not stay in memory? */
bool
evi_pace_has_stale(TimestampTz now)
{
	return stale_route(now) != NULL;
}

/* such a one; NULL if there is none */
EviParcel *
evi_pace_take_stale(TimestampTz now)
{
	EviRoute   *route = stale_route(now);

	return route ? take(route, false, now) : NULL;
}

/*
 * A queue that is to be filled from what waits; NULL if there is none. They
 * take turns: one that is filled and has more to read is due only now.
 */
EviRoute *
evi_pace_due(TimestampTz now)
{
	HASH_SEQ_STATUS scan;
	EviRoute   *route;
	EviRoute   *first = NULL;

	if (!routes)
		return NULL;
	hash_seq_init(&scan, routes);
	while ((route = hash_seq_search(&scan)) != NULL)
	{
		if (route->next_due <= now && (!first || route->next_due < first->next_due) &&
			can_read(route, now))
			first = route;
	}
	return first;
}

/* how many are to be read for it, not counting those that are in memory */
int
evi_pace_room(const EviRoute *route)
{
	if (evi_breaker_is_probing(route))
		return 1;
	if (is_full())
		return LOW_WATER;
	if (route->nstarts > 0)
		return (int) Max(LOW_WATER, Min(MAX_QUEUED / 4, starts_within(route, AHEAD_MS)));
	return MAX_QUEUED / 4;
}

/* Something waits for it until then. */
void
evi_pace_note_due(EviRoute *route, TimestampTz next_at)
{
	EviRoute   *holder = route->key < 0 ? evi_pace_route(0) : route;

	holder->next_due = Min(holder->next_due, next_at);
}

/* One whose state is to be stored; NULL if there is none. */
EviRoute *
evi_pace_changed(void)
{
	HASH_SEQ_STATUS scan;
	EviRoute   *route;

	if (!routes)
		return NULL;
	hash_seq_init(&scan, routes);
	while ((route = hash_seq_search(&scan)) != NULL)
	{
		if (route->is_changed)
		{
			hash_seq_term(&scan);
			return route;
		}
	}
	return NULL;
}

/* how long there is nothing to do here, unless a transfer ends; -1 for ever */
long
evi_pace_wait_ms(int most_in_flight, TimestampTz now)
{
	HASH_SEQ_STATUS scan;
	EviRoute   *route;
	TimestampTz next = DT_NOEND;

	if (!routes)
		return -1;
	hash_seq_init(&scan, routes);
	while ((route = hash_seq_search(&scan)) != NULL)
		next = Min(next, look_again_at(route, most_in_flight, now));
	return next == DT_NOEND ? -1 : (long) TimestampDifferenceMilliseconds(now, next);
}

/* Is nothing under way, or in a queue? */
bool
evi_pace_is_idle(void)
{
	return in_flight == 0 && dlist_is_empty(&ready);
}

/* Its attempt is over, whatever came of it. */
void
evi_pace_ended(EviParcel *parcel)
{
	parcel->route->in_flight--;
	in_flight--;
}

/* when to try again, after so many attempts */
TimestampTz
evi_pace_retry_at(const EviRoute *route, int attempts, TimestampTz now)
{
	const EviPeer *peer = route->peer ? route->peer : evi_peer_find(0);
	double		spread = 1 - JITTER + 2 * JITTER * pg_prng_double(&pg_global_prng_state);
	int64		ms = DEFAULT_RETRY_MS;

	if (peer->nretries > 0)
		ms = peer->retries_ms[Min(Max(attempts, 1), peer->nretries) - 1];
	return now + (int64) (ms * spread * 1000);
}

static void
set_peer(EviRoute *route)
{
	const EviPeer *peer = evi_peer_find(route->key);
	int			nstarts = peer ? Min(Max(peer->rate, 0), MAX_STARTS) : 0;

	route->peer = peer;
	if (nstarts == route->nstarts)
		return;
	if (route->starts)
		pfree(route->starts);
	route->starts = nstarts > 0 ?
		MemoryContextAllocZero(TopMemoryContext, sizeof(TimestampTz) * nstarts) : NULL;
	route->nstarts = nstarts;
	route->next_start = 0;
}

/* one with a request at the head of its queue that should not stay in memory */
static EviRoute *
stale_route(TimestampTz now)
{
	dlist_iter	iter;

	dlist_foreach(iter, &ready)
	{
		EviRoute   *route = dlist_container(EviRoute, ready_node, iter.cur);
		const EviParcel *first = dlist_head_element(EviParcel, node, &route->queue);

		if (route->peer &&
			(!route->peer->is_enabled || route->fault || is_closed_for_long(route, now) ||
			 (grows_stale(first) &&
			  TimestampDifferenceExceeds(first->queued_at, now, STALE_MS))))
			return route;
	}
	return NULL;
}

/* What has a row in the table already may stay for longer, while there is room. */
static bool
grows_stale(const EviParcel *parcel)
{
	return !parcel->is_waiting || is_full();
}

static bool
is_closed_for_long(const EviRoute *route, TimestampTz now)
{
	return route->closed_until > TimestampTzPlusMilliseconds(now, SOON_MS);
}

/* The queue goes behind the others. */
static EviParcel *
take(EviRoute *route, bool is_started, TimestampTz now)
{
	EviParcel  *parcel = dlist_container(EviParcel, node, dlist_pop_head_node(&route->queue));

	route->queued--;
	route->queued_bytes -= parcel->size;
	dlist_delete(&route->ready_node);
	if (route->queued > 0)
		dlist_push_tail(&ready, &route->ready_node);
	if (is_started)
	{
		route->in_flight++;
		in_flight++;
		note_start(route, now);
	}
	return parcel;
}

/* What goes to no endpoint any more is to be dealt with as well. */
static bool
is_open(const EviRoute *route, TimestampTz now)
{
	if (!route->peer)
		return true;
	return route->peer->is_enabled && !route->fault && route->closed_until <= now;
}

static bool
may_start(const EviRoute *route, int most_in_flight, TimestampTz now)
{
	int			most = most_in_flight - in_flight;

	if (route->peer)
		most = Min(most, route->peer->max_in_flight);
	if (evi_breaker_is_probing(route))
		most = Min(most, 1);
	return is_open(route, now) && route->in_flight < most && next_start_at(route) <= now;
}

static bool
can_read(const EviRoute *route, TimestampTz now)
{
	if (!is_open(route, now))
		return false;

	/* whose next failure closes it again */
	if (evi_breaker_is_probing(route))
		return route->queued + route->in_flight == 0;
	return route->queued < (is_full() ? 1 : LOW_WATER) &&
		route->queued_bytes < MAX_QUEUED_BYTES / 2;
}

static bool
is_full(void)
{
	return evi_parcel_count() >= MAX_PARCELS || evi_parcel_bytes() >= MAX_BYTES;
}

/* when its rate allows the next attempt */
static TimestampTz
next_start_at(const EviRoute *route)
{
	TimestampTz former = route->nstarts > 0 ? route->starts[route->next_start] : 0;

	return former == 0 ? 0 : former + rate_window_us(route);
}

/* the time in which there may be as many attempts as are counted */
static int64
rate_window_us(const EviRoute *route)
{
	return (int64) ((double) route->peer->rate_per_us * route->nstarts / route->peer->rate);
}

/* how many attempts its rate allows in a time */
static int64
starts_within(const EviRoute *route, int64 ms)
{
	return (int64) ((double) route->peer->rate * ms * 1000 / route->peer->rate_per_us);
}

static void
note_start(EviRoute *route, TimestampTz now)
{
	if (route->nstarts == 0)
		return;
	route->starts[route->next_start] = now;
	route->next_start = (route->next_start + 1) % route->nstarts;
}

/* when a route has something to do, as far as time tells */
static TimestampTz
look_again_at(const EviRoute *route, int most_in_flight, TimestampTz now)
{
	TimestampTz result = DT_NOEND;
	TimestampTz opens_at = 0;

	if (route->peer)
	{
		if (!route->peer->is_enabled || route->fault)
			return route->queued > 0 ? now : DT_NOEND;
		opens_at = Max(route->closed_until, now);
	}

	/* with a full queue, the end of a transfer is what is waited for */
	if (route->next_due != DT_NOEND && (opens_at > now || can_read(route, now)))
		result = Max(route->next_due, opens_at);
	if (route->queued > 0)
	{
		const EviParcel *first = dlist_head_element(EviParcel, node,
													 unconstify(dlist_head *, &route->queue));

		if (route->peer && is_closed_for_long(route, now))
			return now;
		if (grows_stale(first))
			result = Min(result, TimestampTzPlusMilliseconds(first->queued_at, STALE_MS + 1));
		if (opens_at > now || next_start_at(route) > now)
			result = Min(result, Max(opens_at, next_start_at(route)));
		else if (may_start(route, most_in_flight, now))
			result = now;
	}
	return result;
}
