/*-------------------------------------------------------------------------
 *
 * peer.c
 *		What a courier knows of the endpoints of its database.
 *
 * All of them are kept until one has changed: whoever changes the table of
 * endpoints, or that of their secrets, invalidates the relation cache's entry of
 * it. Whoever keeps a pointer looks it up again after evi_peer_refresh() has
 * said so.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "evinbox.h"
#include "peer.h"
#include "query.h"

/* what holds for requests without an endpoint */
#define DEFAULT_TIMEOUT_MS 15000
#define DEFAULT_MAX_IN_FLIGHT 10
#define DEFAULT_MAX_ATTEMPTS 12

/* a callback sets is_stale at any time, also while this is being read */
static struct
{
	bool		is_known;
	bool		is_stale;
	bool		callback_registered;
	Oid			endpoints;
	Oid			secrets;
	MemoryContext context;
	HTAB	   *peers;		/* EviPeer by its id */
}			cache;

static int64 default_retries_ms[] = {5000, 30000, 120000, 600000, 1800000, 7200000, 18000000,
36000000, 86400000};

static const EviPeer default_peer = {
	.is_enabled = true,
	.timeout_ms = DEFAULT_TIMEOUT_MS,
	.max_in_flight = DEFAULT_MAX_IN_FLIGHT,
	.nretries = lengthof(default_retries_ms),
	.retries_ms = default_retries_ms,
	.max_attempts = DEFAULT_MAX_ATTEMPTS,
};

static void read_peers(void);
static void read_secrets(void);
static char *copy_text(Datum value);
static void forget(Datum arg, Oid relid);

/* Reads them, if they may have changed. SPI is connected, in a section. */
bool
evi_peer_refresh(void)
{
	HASHCTL		ctl = {.keysize = sizeof(int32), .entrysize = sizeof(EviPeer)};

	if (cache.is_known && !cache.is_stale)
		return false;
	if (!cache.callback_registered)
		CacheRegisterRelcacheCallback(forget, (Datum) 0);
	cache.callback_registered = true;
	cache.is_known = cache.is_stale = false;
	cache.endpoints = get_relname_relid("endpoint", get_namespace_oid(EVI_SCHEMA, false));
	cache.secrets = get_relname_relid("endpoint_secret",
									  get_namespace_oid(EVI_INTERNAL_SCHEMA, false));

	if (cache.context)
		MemoryContextDelete(cache.context);
	cache.context = AllocSetContextCreate(TopMemoryContext, "evinbox peers",
										  ALLOCSET_DEFAULT_SIZES);
	ctl.hcxt = cache.context;
	cache.peers = hash_create("evinbox peers", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);

	/* not older than what made us read them anew */
	PushActiveSnapshot(GetLatestSnapshot());
	read_peers();
	read_secrets();
	PopActiveSnapshot();
	cache.is_known = true;
	return true;
}

/* There seem to be others. */
void
evi_peer_forget(void)
{
	cache.is_stale = true;
}

/* NULL if there is no such endpoint */
const EviPeer *
evi_peer_find(int32 id)
{
	if (id <= 0)
		return &default_peer;
	return hash_search(cache.peers, &id, HASH_FIND, NULL);
}

static void
read_peers(void)
{
	static EviQuery select = {
		.sql = "SELECT e.id, e.url, e.headers, e.enabled,"
		" (EXTRACT(epoch FROM e.timeout) OPERATOR(pg_catalog.*) 1000)::pg_catalog.int8,"
		" e.max_in_flight, e.rate,"
		" (EXTRACT(epoch FROM e.rate_per) OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8,"
		" ARRAY(SELECT (EXTRACT(epoch FROM r.wait) OPERATOR(pg_catalog.*) 1000)::pg_catalog.int8"
		"  FROM pg_catalog.unnest(e.retries) WITH ORDINALITY AS r (wait, n)"
		"  WHERE r.wait IS NOT NULL ORDER BY r.n),"
		" e.max_attempts,"
		" (EXTRACT(epoch FROM e.disable_after) OPERATOR(pg_catalog.*) 1000)::pg_catalog.int8"
		" FROM evinbox.endpoint e",
		.expected = SPI_OK_SELECT,
		.nargs = 0,
	};
	uint64		count = evi_query_read(&select, NULL, NULL);

	for (uint64 i = 0; i < count; i++)
	{
		MemoryContext former = MemoryContextSwitchTo(cache.context);
		bool		isnull[11];
		Datum		values[11];
		int32		id;
		EviPeer  *peer;
		Datum	   *retries;

		for (int c = 0; c < lengthof(values); c++)
			values[c] = evi_query_value(i, c + 1, &isnull[c]);
		id = DatumGetInt32(values[0]);
		peer = hash_search(cache.peers, &id, HASH_ENTER, NULL);
		*peer = (EviPeer) {.id = id};
		peer->url = copy_text(values[1]);
		peer->headers = isnull[2] ? NULL : DatumGetJsonbPCopy(values[2]);
		peer->is_enabled = DatumGetBool(values[3]);
		peer->timeout_ms = Max(DatumGetInt64(values[4]), 1);
		peer->max_in_flight = Max(DatumGetInt32(values[5]), 1);
		peer->rate = isnull[6] ? 0 : DatumGetInt32(values[6]);
		peer->rate_per_us = DatumGetInt64(values[7]);
		deconstruct_array(DatumGetArrayTypeP(values[8]), INT8OID, sizeof(int64), FLOAT8PASSBYVAL,
						  TYPALIGN_DOUBLE, &retries, NULL, &peer->nretries);
		peer->retries_ms = palloc(sizeof(int64) * Max(peer->nretries, 1));
		for (int n = 0; n < peer->nretries; n++)
			peer->retries_ms[n] = Max(DatumGetInt64(retries[n]), 0);
		peer->max_attempts = DatumGetInt32(values[9]);
		peer->disable_after_ms = DatumGetInt64(values[10]);
		MemoryContextSwitchTo(former);
	}
	SPI_freetuptable(SPI_tuptable);
}

/* Those that sign, or will have done so for a while. */
static void
read_secrets(void)
{
	static EviQuery select = {
		.sql = "SELECT s.endpoint_id, s.kind, s.secret, s.expires_at"
		" FROM evinbox_internal.endpoint_secret s"
		" ORDER BY s.endpoint_id, s.created_at DESC",
		.expected = SPI_OK_SELECT,
		.nargs = 0,
	};
	uint64		count = evi_query_read(&select, NULL, NULL);

	for (uint64 i = 0; i < count; i++)
	{
		MemoryContext former = MemoryContextSwitchTo(cache.context);
		bool		isnull[4];
		Datum		values[4];
		int32		id;
		EviPeer  *peer;
		EviSecret  *secret;
		bytea	   *key;

		for (int c = 0; c < lengthof(values); c++)
			values[c] = evi_query_value(i, c + 1, &isnull[c]);
		id = DatumGetInt32(values[0]);
		peer = hash_search(cache.peers, &id, HASH_FIND, NULL);
		if (peer)
		{
			peer->secrets = peer->secrets ?
				repalloc(peer->secrets, sizeof(EviSecret) * (peer->nsecrets + 1)) :
				palloc(sizeof(EviSecret));
			secret = &peer->secrets[peer->nsecrets++];
			key = DatumGetByteaPP(values[2]);
			secret->kind = copy_text(values[1]);
			secret->key_length = VARSIZE_ANY_EXHDR(key);
			secret->key = palloc(Max(secret->key_length, 1));
			memcpy(secret->key, VARDATA_ANY(key), secret->key_length);
			secret->expires_at = isnull[3] ? DT_NOEND : DatumGetTimestampTz(values[3]);
		}
		MemoryContextSwitchTo(former);
	}
	SPI_freetuptable(SPI_tuptable);
}

static char *
copy_text(Datum value)
{
	return text_to_cstring(DatumGetTextPP(value));
}

/* a relcache callback: no look-ups in here */
static void
forget(Datum arg, Oid relid)
{
	if (!OidIsValid(relid) || relid == cache.endpoints || relid == cache.secrets)
		cache.is_stale = true;
}
