/*-------------------------------------------------------------------------
 *
 * loop.c
 *		All calls of a process, and the functions that its courier has for them.
 *
 * libcurl says which sockets it waits for, and until when. The sockets are put
 * into one epoll descriptor, which the courier waits for beside its own things;
 * nothing in here waits.
 *
 * Whatever goes into libcurl or OpenSSL does so with all signals blocked: a
 * thread that is born there, to look up a name, must never run a handler of the
 * server's. There is no end to it: a thread that still looks something up when
 * the process exits is nobody's business, and tidying up would wait for it.
 *
 *-------------------------------------------------------------------------
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <openssl/crypto.h>
#include <sys/epoll.h>

#include "library.h"

#define OLDEST_LIBCURL 0x075500 /* 7.85: CURLOPT_PROTOCOLS_STR */
#define MAX_RESOLVERS 1000L		/* threads that look up names at a time */
#define MAX_ROUNDS 16			/* of perform(), before the courier has its turn */

static EviHttp *open_http(const EviHttpOptions *options, const char **error);
static int	descriptor(EviHttp *http);
static long wait_ms(EviHttp *http);
static bool start(EviHttp *http, const EviHttpRequest *request, void *tag, const char **error,
				  bool *is_lasting);
static void perform(EviHttp *http);
static bool result(EviHttp *http, EviHttpResult *result);
static const char *url_fault(const char *url, bool allow_http);
static bool sign(const char *kind, const uint8_t *key, size_t key_length,
				 const char *id, int64_t timestamp, const char *body, size_t body_length,
				 char *signature, size_t size);

static const char *check_libcurl(void);
static bool set_up(EviHttp *http, const EviHttpOptions *options);
static char *find_ca_file(const EviHttpOptions *options);
static const char *start_transfer(EviHttp *http, EviTransfer *transfer, const EviHttpRequest *request);
static void perform_rounds(EviHttp *http);
static void collect(EviHttp *http);
static bool restart_fresh(EviHttp *http, EviTransfer *transfer);
static EviTransfer *take_idle(EviHttp *http);
static void put_idle(EviHttp *http, EviTransfer *transfer);
static void end_shown(EviHttp *http);
static int	watch_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *known);
static int	set_timer(CURLM *multi, long timeout_ms, void *arg);
static int64_t now_ms(void);
static void block_signals(sigset_t *former);
static void unblock_signals(const sigset_t *former);

const EviHttpTable evi_http_functions = {
	.version = EVI_HTTP_VERSION,
	.open = open_http,
	.descriptor = descriptor,
	.wait_ms = wait_ms,
	.start = start,
	.perform = perform,
	.result = result,
	.url_fault = url_fault,
	.sign = sign,
};

/* -- the functions of the table ------------------------------------------------- */

static EviHttp *
open_http(const EviHttpOptions *options, const char **error)
{
	EviHttp    *http;
	sigset_t	former;

	block_signals(&former);

	/* libcurl would have OpenSSL tidy up at exit */
	(void) OPENSSL_init_crypto(OPENSSL_INIT_NO_ATEXIT, NULL);
	*error = curl_global_init(CURL_GLOBAL_DEFAULT) == CURLE_OK ? check_libcurl() :
		"could not initialize libcurl";
	http = *error ? NULL : calloc(1, sizeof(EviHttp));
	if (http == NULL || !set_up(http, options))
	{
		if (*error == NULL)
			*error = "could not set up libcurl";
		free(http);
		http = NULL;
	}
	unblock_signals(&former);
	return http;
}

static int
descriptor(EviHttp *http)
{
	return http->epoll;
}

static long
wait_ms(EviHttp *http)
{
	int64_t		wait;

	if (http->done)
		return 0;
	if (http->deadline_ms < 0)
		return -1;
	wait = http->deadline_ms - now_ms();
	return wait > 0 ? (long) wait : 0;
}

static bool
start(EviHttp *http, const EviHttpRequest *request, void *tag, const char **error,
	  bool *is_lasting)
{
	EviTransfer *transfer;
	sigset_t	former;

	block_signals(&former);
	end_shown(http);
	*error = evi_check_request(request);
	*is_lasting = *error != NULL;
	if (*error == NULL)
	{
		transfer = take_idle(http);
		if (transfer)
		{
			transfer->tag = tag;
			*error = start_transfer(http, transfer, request);
		}
		else
			*error = "out of memory";
	}
	unblock_signals(&former);
	return *error == NULL;
}

static void
perform(EviHttp *http)
{
	sigset_t	former;
	long		timeout_ms = -1;

	block_signals(&former);
	end_shown(http);
	perform_rounds(http);

	/* should libcurl's clock be behind ours, it does not say so again */
	if (http->deadline_ms < 0 &&
		curl_multi_timeout(http->multi, &timeout_ms) == CURLM_OK && timeout_ms >= 0)
		(void) set_timer(http->multi, timeout_ms, http);
	collect(http);
	unblock_signals(&former);
}

static bool
result(EviHttp *http, EviHttpResult *result)
{
	EviTransfer *transfer;
	sigset_t	former;

	block_signals(&former);
	end_shown(http);
	transfer = http->done;
	if (transfer)
	{
		http->done = transfer->next;
		if (http->done == NULL)
			http->done_end = &http->done;
		http->shown = transfer;
		evi_transfer_result(transfer, result);
	}
	unblock_signals(&former);
	return transfer != NULL;
}

static const char *
url_fault(const char *url, bool allow_http)
{
	const char *fault;
	sigset_t	former;

	block_signals(&former);
	fault = evi_check_url(url, false, allow_http);
	unblock_signals(&former);
	return fault;
}

static bool
sign(const char *kind, const uint8_t *key, size_t key_length,
	 const char *id, int64_t timestamp, const char *body, size_t body_length,
	 char *signature, size_t size)
{
	bool		is_signed;
	sigset_t	former;

	block_signals(&former);
	is_signed = evi_sign(kind, key, key_length, id, timestamp, body, body_length, signature, size);
	unblock_signals(&former);
	return is_signed;
}

/* -- opening -------------------------------------------------------------------- */

/* It may be another one than we were built with. */
static const char *
check_libcurl(void)
{
	const curl_version_info_data *version = curl_version_info(CURLVERSION_NOW);

	if (version->version_num < OLDEST_LIBCURL)
		return "libcurl is older than 7.85";
	if (!(version->features & CURL_VERSION_SSL))
		return "libcurl has no TLS";
	if (!(version->features & CURL_VERSION_ASYNCHDNS))
		return "libcurl would wait for look-ups of names";
	return NULL;
}

static bool
set_up(EviHttp *http, const EviHttpOptions *options)
{
	CURLM	   *multi = curl_multi_init();

	http->options = *options;
	http->options.user_agent = options->user_agent ? strdup(options->user_agent) : NULL;
	http->options.ca_file = find_ca_file(options);
	http->multi = multi;
	http->deadline_ms = -1;
	http->done_end = &http->done;
	http->epoll = epoll_create1(EPOLL_CLOEXEC);

	/* 8.20: there are 20 at the most, unless we say so; that many names may hang */
#if LIBCURL_VERSION_NUM >= 0x081400
	(void) curl_multi_setopt(multi, CURLMOPT_RESOLVE_THREADS_MAX, MAX_RESOLVERS);
#endif

	return multi != NULL && http->epoll >= 0 &&
		curl_multi_setopt(multi, CURLMOPT_SOCKETFUNCTION, watch_socket) == CURLM_OK &&
		curl_multi_setopt(multi, CURLMOPT_SOCKETDATA, http) == CURLM_OK &&
		curl_multi_setopt(multi, CURLMOPT_TIMERFUNCTION, set_timer) == CURLM_OK &&
		curl_multi_setopt(multi, CURLMOPT_TIMERDATA, http) == CURLM_OK &&
		curl_multi_setopt(multi, CURLMOPT_MAXCONNECTS, (long) options->max_connections) == CURLM_OK;
}

/*
 * The caller's file of certificates, or the one that libcurl was built with, if it
 * is there. NULL leaves it to libcurl. A file alone is read once; with a directory
 * beside it, as libcurl may have by default, it is for each connection.
 */
static char *
find_ca_file(const EviHttpOptions *options)
{
	CURL	   *easy;
	char	   *file = NULL;
	char	   *copy = NULL;

	if (options->ca_file)
		return strdup(options->ca_file);
	easy = curl_easy_init();
	if (easy && curl_easy_getinfo(easy, CURLINFO_CAINFO, &file) == CURLE_OK &&
		file && access(file, R_OK) == 0)
		copy = strdup(file);
	curl_easy_cleanup(easy);
	return copy;
}

/* -- going on ------------------------------------------------------------------- */

/* NULL if it has been started, else why not */
static const char *
start_transfer(EviHttp *http, EviTransfer *transfer, const EviHttpRequest *request)
{
	CURLcode	code = evi_transfer_prepare(transfer, request);

	if (code == CURLE_OK && curl_multi_add_handle(http->multi, transfer->easy) == CURLM_OK)
		return NULL;
	snprintf(http->error, sizeof(http->error), "%s",
			 curl_easy_strerror(code == CURLE_OK ? CURLE_FAILED_INIT : code));
	put_idle(http, transfer);
	return http->error;
}

static void
perform_rounds(EviHttp *http)
{
	struct epoll_event events[64];
	int			running;

	for (int round = 0; round < MAX_ROUNDS; round++)
	{
		int			nevents = epoll_wait(http->epoll, events, lengthof(events), 0);
		bool		is_due = http->deadline_ms >= 0 && http->deadline_ms <= now_ms();

		if (nevents <= 0 && !is_due)
			return;

		/* one that an earlier one of them has had closed is not known any more */
		for (int i = 0; i < nevents; i++)
			(void) curl_multi_socket_action(http->multi, events[i].data.fd,
											(events[i].events & EPOLLIN ? CURL_CSELECT_IN : 0) |
											(events[i].events & EPOLLOUT ? CURL_CSELECT_OUT : 0),
											&running);
		if (is_due)
		{
			http->deadline_ms = -1;
			(void) curl_multi_socket_action(http->multi, CURL_SOCKET_TIMEOUT, 0, &running);
		}
	}
}

/* Those that have ended wait for result() in the order that they have. */
static void
collect(EviHttp *http)
{
	CURLMsg    *message;
	int			left;

	while ((message = curl_multi_info_read(http->multi, &left)) != NULL)
	{
		CURLcode	code = message->data.result;
		CURL	   *easy = message->easy_handle;
		char	   *private = NULL;
		EviTransfer *transfer;

		if (message->msg != CURLMSG_DONE)
			continue;
		(void) curl_easy_getinfo(easy, CURLINFO_PRIVATE, &private);
		(void) curl_multi_remove_handle(http->multi, easy);
		transfer = (EviTransfer *) private;

		/* nothing has been sent, and the name may be of another address by now */
		if (transfer->is_stale && restart_fresh(http, transfer))
			continue;
		transfer->code = code;
		transfer->next = NULL;
		*http->done_end = transfer;
		http->done_end = &transfer->next;
	}
}

static bool
restart_fresh(EviHttp *http, EviTransfer *transfer)
{
	transfer->is_stale = false;
	transfer->refused = 0;
	return curl_easy_setopt(transfer->easy, CURLOPT_FRESH_CONNECT, 1L) == CURLE_OK &&
		curl_multi_add_handle(http->multi, transfer->easy) == CURLM_OK;
}

/* -- places for calls ------------------------------------------------------------ */

static EviTransfer *
take_idle(EviHttp *http)
{
	EviTransfer *transfer = http->idle;

	if (transfer == NULL)
		return evi_transfer_new(http);
	http->idle = transfer->next;
	http->nidle--;
	transfer->next = NULL;
	return transfer;
}

static void
put_idle(EviHttp *http, EviTransfer *transfer)
{
	if (http->nidle >= http->options.max_connections)
	{
		evi_transfer_free(transfer);
		return;
	}
	evi_transfer_clear(transfer);
	transfer->next = http->idle;
	http->idle = transfer;
	http->nidle++;
}

/* The caller has seen the result. */
static void
end_shown(EviHttp *http)
{
	if (http->shown)
		put_idle(http, http->shown);
	http->shown = NULL;
}

/* -- what libcurl calls ---------------------------------------------------------- */

/* libcurl wants to know of a socket, in another way than before, or no more. */
static int
watch_socket(CURL *easy, curl_socket_t fd, int what, void *arg, void *known)
{
	EviHttp    *http = arg;
	struct epoll_event event = {.data.fd = fd};

	(void) easy;
	(void) known;
	if (what == CURL_POLL_REMOVE)
	{
		/* it may be closed already, and is gone then */
		(void) epoll_ctl(http->epoll, EPOLL_CTL_DEL, fd, &event);
		return 0;
	}
	event.events = (what & CURL_POLL_IN ? EPOLLIN : 0) | (what & CURL_POLL_OUT ? EPOLLOUT : 0);
	if (epoll_ctl(http->epoll, EPOLL_CTL_MOD, fd, &event) != 0 && errno == ENOENT &&
		epoll_ctl(http->epoll, EPOLL_CTL_ADD, fd, &event) != 0)
		return -1;
	return 0;
}

static int
set_timer(CURLM *multi, long timeout_ms, void *arg)
{
	EviHttp    *http = arg;

	(void) multi;

	/* not before libcurl thinks so, which counts parts of a millisecond */
	http->deadline_ms = timeout_ms < 0 ? -1 : now_ms() + timeout_ms + (timeout_ms > 0);
	return 0;
}

/* -- helpers ----------------------------------------------------------------------- */

static int64_t
now_ms(void)
{
	struct timespec now;

	(void) clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t) now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void
block_signals(sigset_t *former)
{
	sigset_t	all;

	sigfillset(&all);
	(void) pthread_sigmask(SIG_SETMASK, &all, former);
}

static void
unblock_signals(const sigset_t *former)
{
	(void) pthread_sigmask(SIG_SETMASK, former, NULL);
}
