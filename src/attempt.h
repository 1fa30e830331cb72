/*-------------------------------------------------------------------------
 *
 * attempt.h
 *		A rule's work on some events, which is done as a whole or not at all.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_ATTEMPT_H
#define EVI_ATTEMPT_H

#include "progress.h"
#include "unit.h"

/* whose fault an error is */
typedef enum EviPhase
{
	EVI_PHASE_OURS,
	EVI_PHASE_RULE,
	EVI_PHASE_EVENT
} EviPhase;

/* what one unit is to do, and how far it has come */
typedef struct EviAttempt
{
	EviProgress *progress;
	bool		in_worker;
	TimestampTz turn_end;		/* 0 for never */
	EviPhase		phase;

	/* the unit, as indexes in the window */
	int			from;
	int			end;			/* it may go up to there */
	int			to;				/* where it has come, when its batch is done */
	int64		first_id;		/* of the events that it has for the rule */
	int			nevents;		/* so many of these, its batch included */
	int			nhandled;

	/* the batch */
	EviBatch   *batch;
	uint64		changes;		/* of stored events, when it was read */
	int		   *chosen;			/* indexes into the batch */
	int			nchosen;
	int			room;			/* so many there may be */
	int			at;				/* which of the chosen is being handled, or -1 */
} EviAttempt;

extern void evi_attempt_choose(EviAttempt *attempt);
extern bool evi_attempt_is_for_inbox(EviAttempt *attempt, int n);
extern bool evi_attempt_is_outdated(const EviAttempt *attempt);
extern void evi_attempt_handle(EviAttempt *attempt);
extern void evi_attempt_commit(EviAttempt *attempt, EviUnit *unit);

#endif							/* EVI_ATTEMPT_H */
