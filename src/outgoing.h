/*-------------------------------------------------------------------------
 *
 * outgoing.h
 *		What the handlers that send something are called with.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_OUTGOING_H
#define EVI_OUTGOING_H

#include "fmgr.h"
#include "message.h"

extern Jsonb *evi_outgoing_config(FunctionCallInfo fcinfo, int arg);
extern void evi_outgoing_event(FunctionCallInfo fcinfo, int arg, EviEventRow *row);

#endif							/* EVI_OUTGOING_H */
