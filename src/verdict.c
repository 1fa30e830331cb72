/*-------------------------------------------------------------------------
 *
 * verdict.c
 *		What a handler may say about an event by raising an error.
 *
 * These functions raise errors of their own SQLSTATEs, so that whatever the
 * handler has done is undone, and so that it ends there in any language. The
 * codes may be used without the functions; only a delay needs one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/timestamp.h"

#include "compat.h"
#include "verdict.h"

/* class VE is free for implementations */
#define ERRCODE_RETRY MAKE_SQLSTATE('V', 'E', '0', '0', '1')
#define ERRCODE_SKIP MAKE_SQLSTATE('V', 'E', '0', '0', '2')
#define ERRCODE_GIVE_UP MAKE_SQLSTATE('V', 'E', '0', '0', '3')

PG_FUNCTION_INFO_V1(evinbox_retry_in);
PG_FUNCTION_INFO_V1(evinbox_skip);
PG_FUNCTION_INFO_V1(evinbox_give_up);

/* what the last call of retry_in() has said */
static int64 asked_delay_ms = -1;

static const char *reason_of(FunctionCallInfo fcinfo);

Datum
evinbox_retry_in(PG_FUNCTION_ARGS)
{
	Interval   *delay;
	int64		ms;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("delay must not be null")));
	delay = PG_GETARG_INTERVAL_P(0);
	if (INTERVAL_NOT_FINITE(delay))
		ms = -1;
	else
		ms = (delay->month * (int64) DAYS_PER_MONTH + delay->day) * SECS_PER_DAY * 1000 +
			delay->time / 1000;
	if (ms < 0 || ms > INT64CONST(366) * SECS_PER_DAY * 1000)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("delay must be between 0 and 1 year")));

	asked_delay_ms = ms;
	ereport(ERROR,
			(errcode(ERRCODE_RETRY),
			 errmsg("to be tried again in %s",
					DatumGetCString(DirectFunctionCall1(interval_out, IntervalPGetDatum(delay))))));
	PG_RETURN_VOID();
}

Datum
evinbox_skip(PG_FUNCTION_ARGS)
{
	evi_verdict_skip(reason_of(fcinfo));
	PG_RETURN_VOID();
}

Datum
evinbox_give_up(PG_FUNCTION_ARGS)
{
	ereport(ERROR, (errcode(ERRCODE_GIVE_UP), errmsg_internal("%s", reason_of(fcinfo))));
	PG_RETURN_VOID();
}

/* what a handler does, we may do for it */
void
evi_verdict_skip(const char *reason)
{
	ereport(ERROR, (errcode(ERRCODE_SKIP), errmsg_internal("%s", reason)));
}

/* what was said before, and did not become the end of its handler, is void */
void
evi_verdict_forget(void)
{
	asked_delay_ms = -1;
}

/* delay_ms is negative if none was given */
EviVerdict
evi_verdict_of(const ErrorData *error, int64 *delay_ms)
{
	*delay_ms = asked_delay_ms;
	asked_delay_ms = -1;
	switch (error->sqlerrcode)
	{
		case ERRCODE_RETRY:
			return EVI_VERDICT_RETRY;
		case ERRCODE_SKIP:
			return EVI_VERDICT_SKIP;
		case ERRCODE_GIVE_UP:
			return EVI_VERDICT_GIVE_UP;
		default:
			return EVI_VERDICT_FAILED;
	}
}

static const char *
reason_of(FunctionCallInfo fcinfo)
{
	return PG_ARGISNULL(0) ? "no reason given" : text_to_cstring(PG_GETARG_TEXT_PP(0));
}
