/*-------------------------------------------------------------------------
 *
 * backoff.c
 *		How long to wait before the next attempt.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "common/pg_prng.h"

#include "backoff.h"

#define JITTER 0.2				/* either way */

/* first_ms after one failure, and double that with each further one */
int64
evi_backoff_ms(int64 first_ms, int failures, int64 most_ms)
{
	int64		result = Max(first_ms, 0);

	for (int i = 1; i < failures && result < most_ms; i++)
		result *= 2;
	return Min(result, most_ms);
}

/* the same, spread, so that what failed together does not return together */
int64
evi_backoff_jittered_ms(int64 first_ms, int failures, int64 most_ms)
{
	double		spread = 1 - JITTER + 2 * JITTER * pg_prng_double(&pg_global_prng_state);

	return (int64) (evi_backoff_ms(first_ms, failures, most_ms) * spread);
}
