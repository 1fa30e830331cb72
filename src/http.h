/*-------------------------------------------------------------------------
 *
 * http.h
 *		Calls to the outside, as the courier sees them.
 *
 * What makes them is a library of its own, evinbox_http, which is loaded by
 * couriers only and knows nothing of PostgreSQL: it is the one place that knows
 * libcurl and OpenSSL. It hands out its functions in a table.
 *
 * All calls are made by one thread, with all signals blocked: the library's
 * threads, which look up names, are born with the caller's mask. No function
 * waits. Strings are the caller's, and must stay until the transfer's result.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_HTTP_H
#define EVI_HTTP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EVI_HTTP_VERSION 1
#define EVI_HTTP_LIBRARY "evinbox_http"
#define EVI_HTTP_ENTRY "evi_http_table"

#define EVI_HTTP_MAX_ANSWER 65536	/* bytes of a body; more is not read */
#define EVI_HTTP_KEPT_ANSWER 4096	/* of which so many are kept */

struct sockaddr;

/* for all transfers of a process */
typedef struct EviHttpOptions
{
	/* may a call by HTTP go to this address? asked within a transfer */
	bool		(*may_connect) (const struct sockaddr *address, void *arg);
	void	   *arg;
	int			max_connections;	/* kept open for the next transfer, at the most */
	const char *user_agent;
	const char *ca_file;		/* NULL for the system's */
} EviHttpOptions;

/* a call, by HTTP or, with a sender, by SMTP */
typedef struct EviHttpRequest
{
	const char *url;
	const char *method;			/* "POST", "PUT", ... */
	const char *const *headers; /* "Name: value", NULL-terminated */
	const char *body;
	size_t		body_length;
	long		timeout_ms;		/* from the start to the last byte of the answer */
	long		connect_timeout_ms; /* look-up, connection and handshake */
	bool		allow_http;		/* without TLS */
	const char *sender;			/* SMTP: the envelope; NULL for HTTP */
	const char *const *recipients;
	const char *user;			/* SMTP */
	const char *password;
} EviHttpRequest;

/* times are in milliseconds since the start; negative for what did not happen */
typedef struct EviHttpResult
{
	void	   *tag;			/* as it was started with */
	int			code;			/* libcurl's; 0 if there was an answer */
	const char *error;			/* what went wrong, or NULL */
	bool		is_refused;		/* the address or the scheme is not allowed */
	long		status;			/* of HTTP or SMTP; 0 if there was no answer */
	long		retry_after_s;	/* as the answer says; -1 if it does not */
	double		dns_ms;
	double		connect_ms;
	double		tls_ms;
	double		first_byte_ms;
	double		total_ms;
	const char *address;		/* that it was connected to, or tried to be; or NULL */
	const char *answer;			/* the first EVI_HTTP_KEPT_ANSWER bytes */
	size_t		answer_length;
} EviHttpResult;

typedef struct EviHttp EviHttp;

typedef struct EviHttpTable
{
	int			version;		/* EVI_HTTP_VERSION */

	/* NULL and a reason, if it cannot be; there is no end to it but the process's */
	EviHttp    *(*open) (const EviHttpOptions *options, const char **error);

	/* readable when perform() has something to do; and how long until it has, or -1 */
	int			(*descriptor) (EviHttp *http);
	long		(*wait_ms) (EviHttp *http);

	/*
	 * False and a reason if it is not made, and has no result; "lasting" if there
	 * cannot be such a call, whenever it is tried.
	 */
	bool		(*start) (EviHttp *http, const EviHttpRequest *request, void *tag,
						  const char **error, bool *is_lasting);
	void		(*perform) (EviHttp *http);

	/* one that has ended, until the next call of any function; false if there is none */
	bool		(*result) (EviHttp *http, EviHttpResult *result);

	/* is this a URL that can be called? NULL if so, else why not */
	const char *(*url_fault) (const char *url, bool allow_http);

	/* "v1,..." of HMAC-SHA256, or "v1a,..." of Ed25519; false if that cannot be made */
	bool		(*sign) (const char *kind, const uint8_t *key, size_t key_length,
						 const char *id, int64_t timestamp, const char *body, size_t body_length,
						 char *signature, size_t size);
} EviHttpTable;

/* the library's only symbol: returns its table */
typedef const EviHttpTable *(*EviHttpEntry) (void);

#endif							/* EVI_HTTP_H */
