/*-------------------------------------------------------------------------
 *
 * throttle.c
 *		At most one event of a key within an interval.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/lock.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "event.h"
#include "throttle.h"

/* advisory locks of users have 1 or 2 here, so ours never meet them */
#define THROTTLE_LOCK_FIELD 3

static TimestampTz throttle_start(Interval *throttle);
static void lock_key(const EviEventKey *key, LOCKTAG *tag);
static uint64 hash_text(text *value, uint64 seed);

/*
 * Has an event with this key been recorded within the interval? If not, the
 * key is locked until the end of the transaction, so that there is at most
 * one. The probe after the lock needs a snapshot of its own: whoever held the
 * lock before us has committed since ours was taken, and at REPEATABLE READ
 * the transaction's snapshot would never show it.
 */
bool
evi_throttle_applies(const EviEventKey *key, Interval *throttle)
{
	LOCKTAG		tag;
	bool		result;

	if (evi_event_recorded_since(key, throttle_start(throttle), GetActiveSnapshot()))
		return true;

	lock_key(key, &tag);
	PushActiveSnapshot(GetLatestSnapshot());
	result = evi_event_recorded_since(key, throttle_start(throttle), GetActiveSnapshot());
	PopActiveSnapshot();

	if (result)
		LockRelease(&tag, ExclusiveLock, false);
	return result;
}

/* NULL for the default */
bool
evi_throttle_is_by_actor(text *throttle_by)
{
	char	   *by = throttle_by ? text_to_cstring(throttle_by) : "subject";

	if (strcmp(by, "subject") != 0 && strcmp(by, "actor") != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unrecognized value for throttle_by: \"%s\"", by),
				 errhint("Use \"subject\" or \"actor\".")));
	return by[0] == 'a';
}

static TimestampTz
throttle_start(Interval *throttle)
{
	Interval	zero = {0};

	if (INTERVAL_NOT_FINITE(throttle))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("throttle must be finite")));
	if (DatumGetInt32(DirectFunctionCall2(interval_cmp, IntervalPGetDatum(throttle),
										  IntervalPGetDatum(&zero))) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("throttle must not be negative"),
				 errhint("Use null for no throttle.")));

	return DatumGetTimestampTz(DirectFunctionCall2(timestamptz_mi_interval,
												   TimestampTzGetDatum(GetCurrentTimestamp()),
												   IntervalPGetDatum(throttle)));
}

static void
lock_key(const EviEventKey *key, LOCKTAG *tag)
{
	uint64		hash = hash_text(key->subject_type, key->with_actor ? 1 : 0);

	hash = hash_text(key->subject_id, hash);
	hash = hash_text(key->action, hash);
	if (key->with_actor && key->actor)
		hash = hash_text(key->actor, hash);

	SET_LOCKTAG_ADVISORY(*tag, MyDatabaseId, (uint32) (hash >> 32), (uint32) hash,
						 THROTTLE_LOCK_FIELD);
	(void) LockAcquire(tag, ExclusiveLock, false, false);
}

static uint64
hash_text(text *value, uint64 seed)
{
	return DatumGetUInt64(hash_any_extended((unsigned char *) VARDATA_ANY(value),
											VARSIZE_ANY_EXHDR(value), seed));
}
