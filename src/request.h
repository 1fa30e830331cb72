/*-------------------------------------------------------------------------
 *
 * request.h
 *		Calls to the outside that are to be made once the transaction is committed.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_REQUEST_H
#define EVI_REQUEST_H

#include "postgres.h"

#include "utils/jsonb.h"

/* what is to be sent; NULL and 0 where there is none */
typedef struct EviRequest
{
	const char *kind;			/* http, mail */
	int32		endpoint_id;
	Oid			owner_id;
	int32		inbox_id;
	int64		event_id;
	const char *message_id;		/* of an earlier one that this repeats; NULL makes one */
	const char *method;
	const char *url;			/* NULL for the endpoint's */
	Jsonb	   *headers;		/* beside the endpoint's */
	const char *content_type;
	const char *body;
	bool		is_signed;
} EviRequest;

extern int64 evi_request_add(const EviRequest *request);

#endif							/* EVI_REQUEST_H */
