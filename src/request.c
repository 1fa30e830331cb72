/*-------------------------------------------------------------------------
 *
 * request.c
 *		Calls to the outside that are to be made once the transaction is committed.
 *
 * A request is a row that the transaction inserts: it is there if the
 * transaction commits, and so a rule's requests are exactly as many as its
 * events. At the commit the courier is told.
 *
 * A request may quote the event that is being handled. So, as with errors that
 * are stored (see blank.c), the lock on erasures is held in share mode: an
 * erasure sees all that was queued before, and what is queued later knows of it.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"

#include "blank.h"
#include "event.h"
#include "fetch.h"
#include "query.h"
#include "relation.h"
#include "request.h"
#include "wakeup.h"

static const char alphabet[] = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

static int32 rule_id = 0;
static uint64 rule_changes = 0;

static void refuse_erased(int64 event_id);

void
evi_request_set_rule(int32 inbox_id, uint64 changes)
{
	rule_id = inbox_id;
	rule_changes = changes;
}

/*
 * May the event that is being handled have been erased since it was read? From
 * now on, until the end of the transaction, nobody erases anything.
 */
bool
evi_request_is_outdated(void)
{
	evi_blank_lock(ShareLock);
	return rule_id != 0 && rule_changes != evi_relation_changes();
}

/* The 27 characters have 160 bits. */
void
evi_request_make_id(char *message_id)
{
	const int	prefix = strlen("msg_");
	int			made = prefix;

	strlcpy(message_id, "msg_", EVI_MESSAGE_ID_SIZE);
	while (made < EVI_MESSAGE_ID_SIZE - 1)
	{
		uint8		bytes[EVI_MESSAGE_ID_SIZE];

		if (!pg_strong_random(bytes, sizeof(bytes)))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate random values")));

		/* 6 bits each, of which 62 values are of use */
		for (int i = 0; i < sizeof(bytes) && made < EVI_MESSAGE_ID_SIZE - 1; i++)
			if ((bytes[i] & 63) < sizeof(alphabet) - 1)
				message_id[made++] = alphabet[bytes[i] & 63];
	}
	message_id[made] = '\0';
}

/*
 * A rule's own code may have made something of an event that was erased
 * meanwhile. It is called again, with what is left.
 */
static void
refuse_erased(int64 event_id)
{
	EviBatch   *batch;
	HeapTupleData tuple;
	int			fetched;

	if (!evi_request_is_outdated())
		return;
	PushActiveSnapshot(GetLatestSnapshot());
	batch = evi_fetch_batch(&event_id, 1, GetActiveSnapshot(), &fetched);
	if (batch->count > 0)
	{
		tuple = evi_batch_tuple(batch, 0);
		if (evi_blank_is(&tuple, batch->desc))
			ereport(ERROR,
					(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
					 errmsg("event " INT64_FORMAT " was erased while it was handled", event_id)));
	}
	PopActiveSnapshot();
}

/* Returns its id. */
int64
evi_request_add(const EviRequest *request)
{
	static EviQuery insert = {
		.sql = "INSERT INTO evinbox_internal.request (kind, endpoint_id, owner_id, inbox_id, event_id,"
		" message_id, method, url, headers, content_type, body, is_signed)"
		" VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) RETURNING id",
		.expected = SPI_OK_INSERT_RETURNING,
		.nargs = 12,
		.argtypes = {TEXTOID, INT4OID, OIDOID, INT4OID, INT8OID, TEXTOID, TEXTOID, TEXTOID,
		JSONBOID, TEXTOID, TEXTOID, BOOLOID},
	};
	int16		depth;
	int64		event_id = request->event_id ? request->event_id : evi_event_cause(&depth);
	char		message_id[EVI_MESSAGE_ID_SIZE];
	char		nulls[12];
	Datum		args[12] = {0};
	EviSection	section;
	int64		id;
	bool		isnull;

	if (strlen(request->body) > EVI_REQUEST_MAX_BODY)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("body of a request cannot be larger than %d bytes", EVI_REQUEST_MAX_BODY),
				 errhint("Send a reference to what is large, and let the receiver fetch it.")));
	if (!request->message_id)
		evi_request_make_id(message_id);
	if (event_id != 0)
		evi_blank_lock(ShareLock);
	if (event_id != 0 && request->event_id == 0)
		refuse_erased(event_id);

	memset(nulls, ' ', sizeof(nulls));
	args[0] = CStringGetTextDatum(request->kind);
	args[1] = Int32GetDatum(request->endpoint_id);
	nulls[1] = request->endpoint_id ? ' ' : 'n';
	args[2] = ObjectIdGetDatum(request->owner_id);
	args[3] = Int32GetDatum(rule_id);
	nulls[3] = rule_id ? ' ' : 'n';
	args[4] = Int64GetDatum(event_id);
	nulls[4] = event_id ? ' ' : 'n';
	args[5] = CStringGetTextDatum(request->message_id ? request->message_id : message_id);
	args[6] = CStringGetTextDatum(request->method);
	if (request->url)
		args[7] = CStringGetTextDatum(request->url);
	nulls[7] = request->url ? ' ' : 'n';
	if (request->headers)
		args[8] = JsonbPGetDatum(request->headers);
	nulls[8] = request->headers ? ' ' : 'n';
	if (request->content_type)
		args[9] = CStringGetTextDatum(request->content_type);
	nulls[9] = request->content_type ? ' ' : 'n';
	args[10] = CStringGetTextDatum(request->body);
	args[11] = BoolGetDatum(request->is_signed);

	evi_query_open();
	evi_section_enter(&section);
	(void) evi_query_run(&insert, args, nulls, 0);
	id = DatumGetInt64(evi_query_value(0, 1, &isnull));
	evi_section_leave(&section);
	evi_query_close();
	evi_wakeup_courier();
	return id;
}
