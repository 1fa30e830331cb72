/*-------------------------------------------------------------------------
 *
 * evinbox.c
 *		The library's entry point, and a table of its contents.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"
#include "miscadmin.h"

#include "compat.h"
#include "guc.h"
#include "lifecycle.h"
#include "shmem.h"
#include "worker.h"

EVI_MODULE_MAGIC;

PGDLLEXPORT void _PG_init(void);

void
_PG_init(void)
{
	evi_guc_define();
	evi_lifecycle_init();

	/*
	 * Without preload, events are recorded, and dispatched by run() only. While
	 * pg_upgrade is at work, nothing must be.
	 */
	if (!process_shared_preload_libraries_in_progress || IsBinaryUpgrade)
		return;
	evi_shmem_init();
	evi_launcher_register();
}
