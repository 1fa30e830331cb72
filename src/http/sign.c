/*-------------------------------------------------------------------------
 *
 * sign.c
 *		Signatures as Standard Webhooks has them.
 *
 * What is signed is "id.timestamp.body".
 *
 *-------------------------------------------------------------------------
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>

#include "library.h"

#define SEED_LENGTH 32			/* of Ed25519 */
#define PUBLIC_LENGTH 32
#define MAX_DIGEST 64			/* bytes of a signature before they are written as text */

static EVP_PKEY *make_key(const char *kind, const uint8_t *key, size_t length);
static bool sign_text(EVP_PKEY *pkey, const EVP_MD *digest, const char *text, size_t length,
					  unsigned char *raw, size_t *raw_length);

/* "v1" by HMAC-SHA256, or "v1a" by Ed25519, whose key is a seed, with or without the public key */
bool
evi_sign(const char *kind, const uint8_t *key, size_t key_length,
		 const char *id, int64_t timestamp, const char *body, size_t body_length,
		 char *signature, size_t size)
{
	const EVP_MD *digest = strcmp(kind, "v1") == 0 ? EVP_sha256() : NULL;
	EVP_PKEY   *pkey = make_key(kind, key, key_length);
	size_t		id_length = strlen(id);
	char	   *text = malloc(id_length + body_length + 32);
	unsigned char raw[MAX_DIGEST];
	size_t		raw_length = sizeof(raw);
	bool		is_signed = false;

	if (pkey && text)
	{
		int			length;

		memcpy(text, id, id_length);
		length = snprintf(text + id_length, 32, ".%" PRId64 ".", timestamp);
		if (body_length > 0)
			memcpy(text + id_length + length, body, body_length);
		is_signed = sign_text(pkey, digest, text, id_length + length + body_length,
							  raw, &raw_length);
	}
	free(text);
	EVP_PKEY_free(pkey);
	ERR_clear_error();			/* the process has other users of OpenSSL */

	if (!is_signed || strlen(kind) + 1 + (raw_length + 2) / 3 * 4 + 1 > size)
		return false;
	EVP_EncodeBlock((unsigned char *) signature + sprintf(signature, "%s,", kind),
					raw, (int) raw_length);
	return true;
}

/* NULL if that is not such a key */
static EVP_PKEY *
make_key(const char *kind, const uint8_t *key, size_t length)
{
	EVP_PKEY   *pkey;
	uint8_t		public[PUBLIC_LENGTH];
	size_t		public_length = sizeof(public);

	if (strcmp(kind, "v1") == 0)
		return length > 0 ? EVP_PKEY_new_raw_private_key(EVP_PKEY_HMAC, NULL, key, length) : NULL;
	if (strcmp(kind, "v1a") != 0 ||
		(length != SEED_LENGTH && length != SEED_LENGTH + PUBLIC_LENGTH))
		return NULL;
	pkey = EVP_PKEY_new_raw_private_key(EVP_PKEY_ED25519, NULL, key, SEED_LENGTH);

	/* nobody could verify what the one has signed by the other */
	if (pkey && length > SEED_LENGTH &&
		(EVP_PKEY_get_raw_public_key(pkey, public, &public_length) != 1 ||
		 CRYPTO_memcmp(public, key + SEED_LENGTH, PUBLIC_LENGTH) != 0))
	{
		EVP_PKEY_free(pkey);
		return NULL;
	}
	return pkey;
}

static bool
sign_text(EVP_PKEY *pkey, const EVP_MD *digest, const char *text, size_t length,
		  unsigned char *raw, size_t *raw_length)
{
	EVP_MD_CTX *context = EVP_MD_CTX_new();
	bool		is_signed;

	is_signed = context != NULL &&
		EVP_DigestSignInit(context, NULL, digest, NULL, pkey) == 1 &&
		EVP_DigestSign(context, raw, raw_length, (const unsigned char *) text, length) == 1;
	EVP_MD_CTX_free(context);
	return is_signed;
}
