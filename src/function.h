/*-------------------------------------------------------------------------
 *
 * function.h
 *		Functions of events that rules name.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_FUNCTION_H
#define EVI_FUNCTION_H

#include "fmgr.h"

extern Oid	evi_function_find(const char *what, const char *name, int *nargs);
extern Datum evi_function_call(FmgrInfo *function, int nargs, Datum event, Datum config, bool *isnull);

#endif							/* EVI_FUNCTION_H */
