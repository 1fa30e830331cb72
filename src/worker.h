/*-------------------------------------------------------------------------
 *
 * worker.h
 *		What the background workers have in common.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_WORKER_H
#define EVI_WORKER_H

#include "shmem.h"

#define EVI_LAUNCHER_MAIN "evi_launcher_main"
#define EVI_SCOUT_MAIN "evi_scout_main"
#define EVI_COORDINATOR_MAIN "evi_coordinator_main"
#define EVI_RUNNER_MAIN "evi_runner_main"
#define EVI_COURIER_MAIN "evi_courier_main"

extern void evi_launcher_register(void);

extern void evi_worker_start(int slot, Oid *database, Oid *owner);
extern void evi_worker_name(const char *name);
extern void evi_worker_watch(int descriptor);
extern bool evi_worker_wait(long timeout_ms, const char *what);
extern void evi_worker_settle(void);

#endif							/* EVI_WORKER_H */
