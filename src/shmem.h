/*-------------------------------------------------------------------------
 *
 * shmem.h
 *		What the processes of evinbox share: a table of workers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_SHMEM_H
#define EVI_SHMEM_H

#include "datatype/timestamp.h"
#include "port/atomics.h"

typedef enum EviWorkerKind
{
	EVI_LAUNCHER,
	EVI_SCOUT,
	EVI_COORDINATOR,
	EVI_RUNNER,
	EVI_COURIER
} EviWorkerKind;

typedef enum EviWorkerState
{
	EVI_WORKER_FREE,			/* the slot is unused */
	EVI_WORKER_WAITING,			/* to be started, not before next_start_at */
	EVI_WORKER_STARTING,		/* the postmaster was asked for it */
	EVI_WORKER_RUNNING
} EviWorkerState;

/*
 * A slot. All fields but the atomic ones are read and written under the
 * table's lock; who writes them stands beside them. The atomic ones are also
 * read without.
 */
typedef struct EviWorker
{
	EviWorkerKind kind;			/* whoever takes the slot */
	Oid			database;		/* likewise */
	Oid			owner;			/* likewise; a runner's role, else invalid */
	int			number;			/* likewise; which of the owner's runners it is */
	bool		wanted;			/* launcher, scout, coordinator; whoever keeps out or leaves */
	EviWorkerState state;		/* launcher; the worker itself, coming and going */
	int			pid;			/* the worker; 0 while it is not there */
	TimestampTz started_at;		/* the worker; the launcher, when it has left */
	TimestampTz next_start_at;	/* launcher */
	int64		starts;			/* launcher */
	int			failures;		/* launcher: exits in a row soon after a start */
	bool		is_ready;		/* the worker: it has got so far as to work, or was told to end; launcher */
	pg_atomic_uint32 procno;	/* the worker: index of its PGPROC plus one, or 0 */
	pg_atomic_uint32 wakeups;	/* wakers: how many there were */
	pg_atomic_uint32 turn;		/* the coordinator: which segments it has looked after */
	pg_atomic_uint32 is_idle;	/* the worker: it sleeps */
	pg_atomic_uint32 is_stuck;	/* a runner: its turn takes long */
	pg_atomic_uint64 claim;		/* a runner: the lane that it is at, or 0 */
	pg_atomic_uint32 moves;		/* a runner or coordinator: how often it has changed what others know */
	pg_atomic_uint32 is_to_leave;	/* the coordinator, the runner itself: somebody else needs the place */
	pg_atomic_uint32 watches;	/* the coordinator: there are owners without a runner */
	pg_atomic_uint64 failed_at; /* a courier: when one has ended by an error; or 0 */
} EviWorker;

extern void evi_shmem_init(void);
extern bool evi_shmem_available(void);

extern void evi_shmem_lock(bool exclusive);
extern void evi_shmem_unlock(void);
extern int	evi_shmem_slots(void);
extern EviWorker *evi_shmem_slot(int slot);
extern EviWorker *evi_shmem_my_slot(void);
extern EviWorker *evi_shmem_find(EviWorkerKind kind, Oid database, Oid owner, int number);
extern bool evi_shmem_want(EviWorkerKind kind, Oid database, Oid owner, int number);
extern void evi_shmem_attach(int slot);
extern void evi_shmem_note_ready(void);

extern void evi_shmem_wake(EviWorkerKind kind, Oid database);
extern void evi_shmem_wake_courier(Oid database);
extern void evi_shmem_wake_worker(EviWorker *worker);
extern uint32 evi_shmem_wakeups(void);
extern void evi_shmem_set_idle(bool is_idle);

extern void evi_shmem_note_session_move(void);
extern uint32 evi_shmem_session_moves(void);

extern void evi_shmem_note_unclean_end(void);
extern TimestampTz evi_shmem_unclean_end(void);

extern void evi_shmem_note_look(uint64 turn);
extern bool evi_shmem_needs_look(Oid database, uint64 turn);
extern void evi_shmem_note_told_to_end(void);
extern void evi_shmem_retry_starts(void);
extern void evi_shmem_tell_databases_changed(void);
extern bool evi_shmem_databases_changed(void);
extern bool evi_shmem_may_complain(void);

extern void evi_shmem_keep_out(Oid database);
extern void evi_shmem_let_in(void);
extern bool evi_shmem_kept_out(Oid database);

#endif							/* EVI_SHMEM_H */
