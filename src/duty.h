/*-------------------------------------------------------------------------
 *
 * duty.h
 *		How the runners of one role share its lanes.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_DUTY_H
#define EVI_DUTY_H

extern void evi_duty_wake(Oid database);
extern bool evi_duty_is_claimed(int32 inbox_id, int lane);
extern void evi_duty_claim(int32 inbox_id, int lane);
extern void evi_duty_unclaim(void);
extern void evi_duty_note_move(void);
extern uint32 evi_duty_others_moves(void);
extern void evi_duty_call_for_help(void);
extern bool evi_duty_was_stuck(void);
extern bool evi_duty_is_mine(void);
extern void evi_duty_leave(void);
extern bool evi_duty_is_to_leave(void);
extern void evi_duty_watch(bool watches);

#endif							/* EVI_DUTY_H */
