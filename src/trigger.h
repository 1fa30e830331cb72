/*-------------------------------------------------------------------------
 *
 * trigger.h
 *		What every trigger function checks first.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_TRIGGER_H
#define EVI_TRIGGER_H

#include "commands/trigger.h"
#include "fmgr.h"

static inline void
evi_require_trigger(FunctionCallInfo fcinfo)
{
	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("this function can only be called as a trigger")));
}

#endif							/* EVI_TRIGGER_H */
