/*-------------------------------------------------------------------------
 *
 * entry.c
 *		What the server sees of the library evinbox_http.
 *
 * All else in it is hidden, and has nothing of PostgreSQL.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "fmgr.h"

#include "library.h"

#ifdef __GNUC__
#pragma GCC visibility push(default)
#endif

PG_MODULE_MAGIC;

extern const EviHttpTable *evi_http_table(void);

const EviHttpTable *
evi_http_table(void)
{
	return &evi_http_functions;
}

#ifdef __GNUC__
#pragma GCC visibility pop
#endif
