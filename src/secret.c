/*-------------------------------------------------------------------------
 *
 * secret.c
 *		SQL entry point of giving endpoints secrets to sign with.
 *
 * A secret is shown once, to whoever has it made, and given to nobody else but
 * the courier. A new one does not end the former at once: for a while messages
 * have the signatures of both, until the receiver knows the new one.
 *
 *-------------------------------------------------------------------------
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"

#include "query.h"
#include "target.h"

#define RANDOM_BYTES 32
#define MAX_BYTES 64

/* an Ed25519 key: the seed, which may be followed by the public key */
#define SEED_BYTES 32
#define KEY_BYTES 64

#define SYMMETRIC_PREFIX "whsec_"
#define PRIVATE_PREFIX "whsk_"

PG_FUNCTION_INFO_V1(evinbox_set_endpoint_secret);

static bytea *make_secret(void);
static bytea *parse_secret(const char *secret, const char **kind);
static bytea *decode(const char *base64);
static void store_secret(const EviTarget *target, const char *kind, bytea *secret);
static void touch_endpoint(const EviTarget *target);

Datum
evinbox_set_endpoint_secret(PG_FUNCTION_ARGS)
{
	EviTarget  *target;
	const char *kind = "v1";
	bytea	   *secret;
	char	   *shown;

	PreventCommandIfReadOnly("set_endpoint_secret()");
	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("name of an endpoint must not be null")));
	target = evi_target_find_allowed(text_to_cstring(PG_GETARG_TEXT_PP(0)));
	if (!PG_ARGISNULL(1))
	{
		secret = parse_secret(text_to_cstring(PG_GETARG_TEXT_PP(1)), &kind);
		store_secret(target, kind, secret);
		PG_RETURN_NULL();
	}

	secret = make_secret();
	store_secret(target, kind, secret);
	shown = TextDatumGetCString(DirectFunctionCall2(binary_encode, PointerGetDatum(secret),
													CStringGetTextDatum("base64")));
	PG_RETURN_TEXT_P(cstring_to_text(psprintf(SYMMETRIC_PREFIX "%s", shown)));
}

static bytea *
make_secret(void)
{
	bytea	   *result = palloc(VARHDRSZ + RANDOM_BYTES);

	SET_VARSIZE(result, VARHDRSZ + RANDOM_BYTES);
	if (!pg_strong_random(VARDATA(result), RANDOM_BYTES))
		ereport(ERROR,
				(errcode(ERRCODE_INTERNAL_ERROR),
				 errmsg("could not generate random values")));
	return result;
}

/* as Standard Webhooks writes it; short ones are those of others, who had them before */
static bytea *
parse_secret(const char *secret, const char **kind)
{
	bytea	   *result;
	int			length;

	if (strncmp(secret, SYMMETRIC_PREFIX, strlen(SYMMETRIC_PREFIX)) == 0)
	{
		result = decode(secret + strlen(SYMMETRIC_PREFIX));
		length = VARSIZE_ANY_EXHDR(result);
		if (length < 1 || length > MAX_BYTES)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("secret must have 24 to %d bytes", MAX_BYTES),
					 errdetail("It has %d. Fewer than 24 are taken, but should be replaced.", length)));
		*kind = "v1";
		return result;
	}
	if (strncmp(secret, PRIVATE_PREFIX, strlen(PRIVATE_PREFIX)) == 0)
	{
		result = decode(secret + strlen(PRIVATE_PREFIX));
		length = VARSIZE_ANY_EXHDR(result);
		if (length != SEED_BYTES && length != KEY_BYTES)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("private key must have %d or %d bytes", SEED_BYTES, KEY_BYTES),
					 errdetail("It has %d.", length)));
		*kind = "v1a";
		return result;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("secret must begin with \"" SYMMETRIC_PREFIX "\" or \"" PRIVATE_PREFIX "\""),
			 errhint("Write it as \"" SYMMETRIC_PREFIX "\" and its bytes in base64, or leave it out to have one made.")));
	return NULL;
}

/* an error of the server's own would show what is wrong in it */
static bytea *
decode(const char *base64)
{
	size_t		length = strlen(base64);
	size_t		digits = strspn(base64, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/");
	size_t		padding = strspn(base64 + digits, "=");

	if (digits + padding != length || length % 4 != 0 || padding > 2)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("secret is not valid base64")));
	return DatumGetByteaPP(DirectFunctionCall2(binary_decode, CStringGetTextDatum(base64),
											   CStringGetTextDatum("base64")));
}

/* The endpoint's row is written, too: one after the other, and the courier is told. */
static void
store_secret(const EviTarget *target, const char *kind, bytea *secret)
{
	static EviQuery expire = {
		.sql = "UPDATE evinbox_internal.endpoint_secret s"
		" SET expires_at = pg_catalog.clock_timestamp() OPERATOR(pg_catalog.+) p.rotation"
		" FROM evinbox.endpoint p WHERE p.id OPERATOR(pg_catalog.=) $1"
		" AND s.endpoint_id OPERATOR(pg_catalog.=) p.id AND s.expires_at IS NULL",
		.expected = SPI_OK_UPDATE,
		.nargs = 1,
		.argtypes = {INT4OID},
	};

	/* a message has only so many signatures */
	static EviQuery delete = {
		.sql = "DELETE FROM evinbox_internal.endpoint_secret s WHERE s.endpoint_id OPERATOR(pg_catalog.=) $1"
		" AND (s.expires_at OPERATOR(pg_catalog.<=) pg_catalog.clock_timestamp()"
		" OR s.secret OPERATOR(pg_catalog.=) $2"
		" OR (SELECT pg_catalog.count(*) FROM evinbox_internal.endpoint_secret o"
		" WHERE o.endpoint_id OPERATOR(pg_catalog.=) $1"
		" AND o.expires_at OPERATOR(pg_catalog.>) s.expires_at) OPERATOR(pg_catalog.>=) 4)",
		.expected = SPI_OK_DELETE,
		.nargs = 2,
		.argtypes = {INT4OID, BYTEAOID},
	};
	static EviQuery insert = {
		.sql = "INSERT INTO evinbox_internal.endpoint_secret (endpoint_id, kind, secret) VALUES ($1, $3, $2)",
		.expected = SPI_OK_INSERT,
		.nargs = 3,
		.argtypes = {INT4OID, BYTEAOID, TEXTOID},
	};
	Datum		args[] = {Int32GetDatum(target->id), PointerGetDatum(secret), CStringGetTextDatum(kind)};
	EviSection	section;

	evi_query_open();
	touch_endpoint(target);
	evi_section_enter(&section);
	(void) evi_query_run(&expire, args, NULL, 0);
	(void) evi_query_run(&delete, args, NULL, 0);
	(void) evi_query_run(&insert, args, NULL, 0);
	evi_section_leave(&section);
	evi_query_close();
}

/* Without triggers that others have added, which would run as the extension's owner. */
static void
touch_endpoint(const EviTarget *target)
{
	static EviQuery touch = {
		.sql = "UPDATE evinbox.endpoint p SET enabled = p.enabled WHERE p.id OPERATOR(pg_catalog.=) $1",
		.expected = SPI_OK_UPDATE,
		.nargs = 1,
		.argtypes = {INT4OID},
	};
	Datum		arg = Int32GetDatum(target->id);
	EviSection	section;

	evi_section_enter(&section);
	(void) set_config_option("session_replication_role", "replica", PGC_SUSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	if (evi_query_run(&touch, &arg, NULL, 0) == 0)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("endpoint \"%s\" does not exist any more", target->name)));
	evi_section_leave(&section);
}
