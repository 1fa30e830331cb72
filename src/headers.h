/*-------------------------------------------------------------------------
 *
 * headers.h
 *		Headers that somebody wants to have sent along.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_HEADERS_H
#define EVI_HEADERS_H

#include "utils/jsonb.h"

extern void evi_headers_check(Jsonb *headers, bool is_for_all);
extern void evi_headers_check_value(const char *name, const char *value, int length);

#endif							/* EVI_HEADERS_H */
