/*-------------------------------------------------------------------------
 *
 * library.h
 *		What the parts of the library evinbox_http share.
 *
 * Nothing of it is seen from outside but the table of http.h.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_HTTP_LIBRARY_H
#define EVI_HTTP_LIBRARY_H

#include <curl/curl.h>
#include <netinet/in.h>

#include "../http.h"

/* as the server's headers have it */
#ifndef lengthof
#define lengthof(array) (sizeof(array) / sizeof((array)[0]))
#endif

/* one call, or the place for one */
typedef struct EviTransfer
{
	struct EviTransfer *next;	/* in the list that it is in, if any */
	EviHttp    *http;
	CURL	   *easy;			/* used again and again */
	void	   *tag;
	struct curl_slist *headers;
	struct curl_slist *recipients;

	bool		is_mail;
	const char *body;			/* of a mail; the caller's */
	size_t		body_length;
	size_t		body_read;
	bool		is_after_cr;	/* so that a line feed has been sent already */

	int			opened;			/* addresses that a connection was tried to */
	int			refused;		/* and those where it may not be */
	bool		is_stale;		/* a connection that was there may not be used any more */
	char		address[INET6_ADDRSTRLEN];	/* the last one that was tried, or the one it is */
	size_t		header_bytes;	/* of all answers, interim ones included */
	int			header_lines;
	size_t		answer_bytes;
	bool		is_cut;			/* there was more than we read of an answer */

	CURLcode	code;
	const char *fault;			/* ours, which says more than libcurl's */
	char		fault_buffer[128];
	char		error[CURL_ERROR_SIZE];
	char		answer[EVI_HTTP_KEPT_ANSWER + 1];
	size_t		answer_length;
} EviTransfer;

struct EviHttp
{
	EviHttpOptions options;		/* the strings are copies; ca_file is NULL for libcurl's way */
	CURLM	   *multi;
	int			epoll;
	int64_t		deadline_ms;	/* when libcurl wants to be called; -1 for never */
	EviTransfer *idle;
	int			nidle;
	EviTransfer *done;			/* the first of those that have ended */
	EviTransfer **done_end;
	EviTransfer *shown;			/* the one whose result the caller looks at */
	char		error[CURL_ERROR_SIZE];
};

/* check.c */
extern const char *evi_check_url(const char *url, bool is_mail, bool allow_http);
extern const char *evi_check_request(const EviHttpRequest *request);
extern bool evi_check_is_empty_header(const char *header);
extern bool evi_check_is_header(const char *header, const char *name);

/* guard.c */
extern curl_socket_t evi_guard_open(void *arg, curlsocktype purpose, struct curl_sockaddr *address);
extern int	evi_guard_request(void *arg, char *address, char *local_address, int port, int local_port);

/* mail.c */
extern CURLcode evi_mail_prepare(EviTransfer *transfer, const EviHttpRequest *request);

/* sign.c */
extern bool evi_sign(const char *kind, const uint8_t *key, size_t key_length,
					 const char *id, int64_t timestamp, const char *body, size_t body_length,
					 char *signature, size_t size);

/* transfer.c */
extern EviTransfer *evi_transfer_new(EviHttp *http);
extern void evi_transfer_free(EviTransfer *transfer);
extern CURLcode evi_transfer_prepare(EviTransfer *transfer, const EviHttpRequest *request);
extern void evi_transfer_clear(EviTransfer *transfer);
extern void evi_transfer_result(EviTransfer *transfer, EviHttpResult *result);

/* loop.c */
extern const EviHttpTable evi_http_functions;

#endif							/* EVI_HTTP_LIBRARY_H */
