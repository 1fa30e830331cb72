/*-------------------------------------------------------------------------
 *
 * pace.h
 *		When which request is sent.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_PACE_H
#define EVI_PACE_H

#include "lib/ilist.h"
#include "parcel.h"
#include "peer.h"
#include "utils/timestamp.h"

/*
 * The queue to an endpoint; or of a share of the requests that have none, by a
 * negative key. Key 0 has no queue: it stands for all of those that wait.
 */
typedef struct EviRoute
{
	int32		key;
	const EviPeer *peer;	/* NULL if there is no such endpoint */

	dlist_node	ready_node;		/* while its queue is not empty */
	dlist_head	queue;
	int			queued;
	Size		queued_bytes;
	int			in_flight;
	int			held;			/* of those in memory, so many are its own */

	TimestampTz next_due;		/* when something in request_waiting is; DT_NOEND for never */
	int			aside;			/* so many of it are in state pending; or more */

	int			failures;		/* in a row */
	TimestampTz failing_since;
	TimestampTz closed_at;
	TimestampTz closed_until;
	bool		is_asked;		/* it has asked for that itself */
	bool		is_stored;		/* it has a row in endpoint_state */
	bool		is_changed;		/* which does not say all this */
	const char *fault;			/* why it is to be disabled */
	bool		is_told;		/* the table of endpoints says so, too */
	bool		was_off;		/* it did not take part when it was last looked at */

	TimestampTz *starts;		/* a ring of the last ones, if there is a rate */
	int			nstarts;
	int			next_start;
} EviRoute;

extern EviRoute *evi_pace_route(int32 key);
extern bool evi_pace_has_stranger(void);
extern void evi_pace_refresh(void);
extern bool evi_pace_add(EviParcel *parcel, TimestampTz now);
extern void evi_pace_forget(EviParcel *parcel);
extern EviParcel *evi_pace_next(int most_in_flight, TimestampTz now);
extern bool evi_pace_has_stale(TimestampTz now);
extern EviParcel *evi_pace_take_stale(TimestampTz now);
extern EviRoute *evi_pace_due(TimestampTz now);
extern int	evi_pace_room(const EviRoute *route);
extern void evi_pace_note_due(EviRoute *route, TimestampTz next_at);
extern EviRoute *evi_pace_changed(void);
extern long evi_pace_wait_ms(int most_in_flight, TimestampTz now);
extern bool evi_pace_is_idle(void);

extern void evi_pace_ended(EviParcel *parcel);
extern TimestampTz evi_pace_retry_at(const EviRoute *route, int attempts, TimestampTz now);

#endif							/* EVI_PACE_H */
