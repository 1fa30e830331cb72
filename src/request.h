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

/* bytes of a body */
#define EVI_REQUEST_MAX_BODY (1024 * 1024)

/* "msg_" and 27 characters */
#define EVI_MESSAGE_ID_SIZE 32

/* what is to be sent; NULL and 0 where there is none */
typedef struct EviRequest
{
	const char *kind;			/* http, mail */
	int32		endpoint_id;
	Oid			owner_id;
	int64		event_id;		/* 0 for that which is being handled */
	const char *message_id;		/* NULL makes one */
	const char *method;
	const char *url;			/* NULL for the endpoint's */
	Jsonb	   *headers;		/* beside the endpoint's; of a mail, its envelope */
	const char *content_type;
	const char *body;
	bool		is_signed;
} EviRequest;

/* the rule whose code runs now, and when its events were read; 0 for none */
extern void evi_request_set_rule(int32 inbox_id, uint64 changes);
extern bool evi_request_is_outdated(void);

extern void evi_request_make_id(char *message_id);
extern int64 evi_request_add(const EviRequest *request);

#endif							/* EVI_REQUEST_H */
