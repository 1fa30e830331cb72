/*-------------------------------------------------------------------------
 *
 * verdict.h
 *		What a handler may say about an event by raising an error.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_VERDICT_H
#define EVI_VERDICT_H

#include "utils/elog.h"

#include "compat.h"

typedef enum EviVerdict
{
	EVI_VERDICT_FAILED,			/* nothing: it is an error like any other */
	EVI_VERDICT_RETRY,
	EVI_VERDICT_SKIP,
	EVI_VERDICT_GIVE_UP
} EviVerdict;

pg_noreturn extern void evi_verdict_skip(const char *reason);
extern void evi_verdict_forget(void);
extern EviVerdict evi_verdict_of(const ErrorData *error, int64 *delay_ms);

#endif							/* EVI_VERDICT_H */
