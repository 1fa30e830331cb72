/*-------------------------------------------------------------------------
 *
 * parcel.h
 *		Requests in a courier's memory.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_PARCEL_H
#define EVI_PARCEL_H

#include "executor/spi.h"
#include "lib/ilist.h"
#include "utils/hsearch.h"
#include "utils/jsonb.h"
#include "utils/timestamp.h"

struct EviRoute;
struct EviStretch;

typedef enum EviAttemptOutcome
{
	EVI_OUTCOME_NONE,
	EVI_OUTCOME_DELIVERED,
	EVI_OUTCOME_RETRY,
	EVI_OUTCOME_DEAD
} EviAttemptOutcome;

/* what became of an attempt; times in ms, negative for what did not happen */
typedef struct EviReport
{
	EviAttemptOutcome outcome;
	TimestampTz next_at;		/* of a retry */
	int			status;			/* 0 for none */
	int			code;			/* libcurl's; 0 for none */
	const char *error;
	double		dns_ms;
	double		connect_ms;
	double		tls_ms;
	double		first_byte_ms;
	double		total_ms;
	const char *address;
	const char *answer;
} EviReport;

/* Whoever takes one out of a list has it. */
typedef struct EviParcel
{
	int64		id;				/* of the request; the key */
	dlist_node	node;			/* of the one list that it is in */
	MemoryContext context;		/* of all that it points to */
	struct EviRoute *route;
	struct EviStretch *stretch; /* that it was read in, if it was not waiting */
	TimestampTz created_at;
	TimestampTz queued_at;
	TimestampTz started_at;
	int32		endpoint_id;	/* 0 for none */
	Oid			owner_id;
	bool		is_mail;
	bool		is_signed;
	bool		is_held;		/* it counts among its route's */
	bool		is_waiting;		/* it has a row in request_waiting */
	bool		is_noted;		/* its attempt is on record before it is made */
	int			attempts;		/* so far, with one that is noted */
	Size		size;
	const char *message_id;
	const char *method;
	const char *url;			/* NULL for the endpoint's */
	const char *content_type;	/* NULL for none */
	const char *fault;			/* why it is never sent; or NULL */
	const char *body;			/* in UTF-8; NULL if there is a fault */
	Size		body_length;
	Jsonb	   *headers;		/* NULL for none */
	EviReport	report;
} EviParcel;

/* what evi_parcel_read() reads, of a request r */
#define EVI_PARCEL_COLUMNS "r.id, r.created_at, r.kind, r.endpoint_id, r.owner_id, r.message_id," \
	" r.method, r.url, r.headers, r.content_type, r.body, r.is_signed"
#define EVI_PARCEL_NCOLUMNS 12

/* the fault of one whose event was erased */
#define EVI_PARCEL_ERASED "the event was erased"

typedef struct EviParcelScan
{
	HASH_SEQ_STATUS entries;
	bool		is_over;
} EviParcelScan;

extern EviParcel *evi_parcel_read(SPITupleTable *rows, uint64 row);
extern EviParcel *evi_parcel_find(int64 id);
extern void evi_parcel_free(EviParcel *parcel);
extern void evi_parcel_scan(EviParcelScan *scan);
extern EviParcel *evi_parcel_scan_next(EviParcelScan *scan);
extern int	evi_parcel_count(void);
extern Size evi_parcel_bytes(void);

#endif							/* EVI_PARCEL_H */
