/*-------------------------------------------------------------------------
 *
 * parcel.c
 *		Requests in a courier's memory.
 *
 * Each has a memory context of its own, with all that belongs to it, and is
 * found by the request's id: what waits in a table is not taken twice.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/detoast.h"
#include "catalog/namespace.h"
#include "mb/pg_wchar.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "parcel.h"
#include "request.h"

typedef struct Entry
{
	int64		id;
	EviParcel  *parcel;
} Entry;

static MemoryContext parcels_context = NULL;
static HTAB *parcels = NULL;
static Size bytes = 0;

static EviParcel *create(int64 id);
static char *copy_text(Datum value, bool isnull);
static void copy_body(EviParcel *parcel, Datum value);
static char *to_utf8(char *text);

/* One that is not in memory yet, as a query has found it. */
EviParcel *
evi_parcel_read(SPITupleTable *rows, uint64 row)
{
	Datum		values[EVI_PARCEL_NCOLUMNS];
	bool		isnull[EVI_PARCEL_NCOLUMNS];
	EviParcel  *parcel;
	MemoryContext former;
	char	   *kind;

	for (int i = 0; i < EVI_PARCEL_NCOLUMNS; i++)
		values[i] = SPI_getbinval(rows->vals[row], rows->tupdesc, i + 1, &isnull[i]);
	parcel = create(DatumGetInt64(values[0]));
	former = MemoryContextSwitchTo(parcel->context);
	parcel->created_at = DatumGetTimestampTz(values[1]);
	kind = copy_text(values[2], false);
	parcel->is_mail = strcmp(kind, "mail") == 0;
	parcel->endpoint_id = isnull[3] ? 0 : DatumGetInt32(values[3]);
	parcel->owner_id = DatumGetObjectId(values[4]);
	parcel->message_id = copy_text(values[5], false);
	parcel->method = copy_text(values[6], false);
	parcel->url = copy_text(values[7], isnull[7]);
	parcel->headers = isnull[8] ? NULL : DatumGetJsonbPCopy(values[8]);
	parcel->content_type = copy_text(values[9], isnull[9]);
	if (isnull[10])
		parcel->fault = EVI_PARCEL_ERASED;
	else
		copy_body(parcel, values[10]);
	parcel->is_signed = DatumGetBool(values[11]);
	MemoryContextSwitchTo(former);

	parcel->size = MemoryContextMemAllocated(parcel->context, false);
	bytes += parcel->size;
	return parcel;
}

static EviParcel *
create(int64 id)
{
	MemoryContext context;
	EviParcel  *parcel;
	Entry	   *entry;

	if (!parcels)
	{
		HASHCTL		ctl = {.keysize = sizeof(int64), .entrysize = sizeof(Entry)};

		parcels_context = AllocSetContextCreate(TopMemoryContext, "evinbox parcels",
												ALLOCSET_DEFAULT_SIZES);
		ctl.hcxt = parcels_context;
		parcels = hash_create("evinbox parcels", 1024, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	context = AllocSetContextCreate(parcels_context, "evinbox parcel", ALLOCSET_SMALL_SIZES);
	parcel = MemoryContextAllocZero(context, sizeof(EviParcel));
	parcel->id = id;
	parcel->context = context;
	entry = hash_search(parcels, &id, HASH_ENTER, NULL);
	entry->parcel = parcel;
	return parcel;
}

/* NULL if it is not in memory */
EviParcel *
evi_parcel_find(int64 id)
{
	Entry	   *entry = parcels ? hash_search(parcels, &id, HASH_FIND, NULL) : NULL;

	return entry ? entry->parcel : NULL;
}

void
evi_parcel_free(EviParcel *parcel)
{
	bytes -= parcel->size;
	(void) hash_search(parcels, &parcel->id, HASH_REMOVE, NULL);
	MemoryContextDelete(parcel->context);
}

/* All of them, in any order, until there are no more. */
void
evi_parcel_scan(EviParcelScan *scan)
{
	scan->is_over = parcels == NULL;
	if (parcels)
		hash_seq_init(&scan->entries, parcels);
}

EviParcel *
evi_parcel_scan_next(EviParcelScan *scan)
{
	Entry	   *entry = scan->is_over ? NULL : hash_seq_search(&scan->entries);

	scan->is_over = entry == NULL;
	return entry ? entry->parcel : NULL;
}

int
evi_parcel_count(void)
{
	return parcels ? (int) hash_get_num_entries(parcels) : 0;
}

/* that they take */
Size
evi_parcel_bytes(void)
{
	return bytes;
}

static char *
copy_text(Datum value, bool isnull)
{
	return isnull ? NULL : text_to_cstring(DatumGetTextPP(value));
}

static void
copy_body(EviParcel *parcel, Datum value)
{
	if (toast_raw_datum_size(value) > EVI_REQUEST_MAX_BODY + VARHDRSZ)
	{
		parcel->fault = "the body is too large";
		return;
	}
	parcel->body = to_utf8(text_to_cstring(DatumGetTextPP(value)));
	if (parcel->body)
		parcel->body_length = strlen(parcel->body);
	else
		parcel->fault = "the body cannot be converted to UTF-8";
}

/* As all is outside. NULL if it cannot be, which must not be an error that comes again and again. */
static char *
to_utf8(char *text)
{
	int			encoding = GetDatabaseEncoding();
	int			length = (int) strlen(text);
	int			size = length * MAX_CONVERSION_GROWTH + 1;
	unsigned char *result;
	Oid			conversion;

	if (encoding == PG_UTF8 || encoding == PG_SQL_ASCII)
		return text;
	conversion = FindDefaultConversionProc(encoding, PG_UTF8);
	if (!OidIsValid(conversion))
		return NULL;
	result = palloc(size);
	if (pg_do_encoding_conversion_buf(conversion, encoding, PG_UTF8, (unsigned char *) text,
									  length, result, size, true) < length)
		return NULL;
	pfree(text);
	return (char *) result;
}
