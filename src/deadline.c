/*-------------------------------------------------------------------------
 *
 * deadline.c
 *		How long a rule may take in a worker.
 *
 * When the time is over, what runs is cancelled, as by statement_timeout. It
 * can catch that error and go on; so from then on, every error brings the next
 * cancellation with it, which hits outside of the block that has caught the
 * former one, and so on until nothing is left that could catch it. Code that
 * never leaves one block, as a loop in another language may not, is ended
 * with its worker a second later, which is noted in shared memory as no proper
 * end.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include <limits.h>

#include "miscadmin.h"
#include "storage/latch.h"
#include "utils/elog.h"
#include "utils/timeout.h"
#include "utils/timestamp.h"

#include "deadline.h"
#include "shmem.h"

#define GRACE_MS 1000

static TimeoutId overdue_timeout;
static bool is_running = false;
static TimestampTz deadline;
static ErrorContextCallback callback;

static void end_worker(void);
static void cancel_again(void *arg);

/* once in a worker that is going to use the others */
void
evi_deadline_init(void)
{
	overdue_timeout = RegisterTimeout(USER_TIMEOUT, end_worker);
}

/* 0 for no limit */
void
evi_deadline_start(int64 ms)
{
	int			delay_ms = (int) Min(ms, INT_MAX - GRACE_MS);

	Assert(!is_running);
	if (ms <= 0)
		return;
	deadline = TimestampTzPlusMilliseconds(GetCurrentTimestamp(), delay_ms);
	enable_timeout_after(STATEMENT_TIMEOUT, delay_ms);
	enable_timeout_after(overdue_timeout, delay_ms + GRACE_MS);

	callback.callback = cancel_again;
	callback.previous = error_context_stack;
	error_context_stack = &callback;
	is_running = true;
}

/* One that has gone off, but was not looked for, still counts. */
void
evi_deadline_stop(void)
{
	if (!is_running)
		return;
	disable_timeout(overdue_timeout, false);
	disable_timeout(STATEMENT_TIMEOUT, true);
	CHECK_FOR_INTERRUPTS();
	(void) evi_deadline_drop();
}

/*
 * It does not matter any more: the work is done or undone, and a cancellation
 * must not hit what comes next. Returns whether it has been exceeded.
 */
bool
evi_deadline_drop(void)
{
	if (!is_running)
		return false;
	disable_timeout(overdue_timeout, false);
	disable_timeout(STATEMENT_TIMEOUT, false);
	QueryCancelPending = false;
	if (error_context_stack == &callback)
		error_context_stack = callback.previous;
	is_running = false;
	return GetCurrentTimestamp() >= deadline;
}

/* a timeout handler, and so called by a signal */
static void
end_worker(void)
{
	evi_shmem_note_unclean_end();
	InterruptPending = true;
	ProcDiePending = true;
	SetLatch(MyLatch);
}

/* an error context callback: called for every error, and some messages */
static void
cancel_again(void *arg)
{
	if (is_running && GetCurrentTimestamp() >= deadline)
	{
		InterruptPending = true;
		QueryCancelPending = true;
	}
}
