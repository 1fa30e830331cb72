/*-------------------------------------------------------------------------
 *
 * guard.c
 *		Connections are made, and used again, only where the caller allows it.
 *
 * A name may resolve to anything, and to something else a moment later. So the
 * very address that a socket is for is judged before there is a socket; and as
 * the rules may change while a connection is kept, its address is judged again
 * before each request.
 *
 *-------------------------------------------------------------------------
 */
#include <stdio.h>
#include <string.h>

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include "library.h"

static bool may_connect(EviTransfer *transfer, const struct sockaddr *address);
static void note_refused(EviTransfer *transfer, const char *address);
static void write_address(const struct sockaddr *address, char text[INET6_ADDRSTRLEN]);

/* A socket for an address, or none. libcurl goes on to the next address then. */
curl_socket_t
evi_guard_open(void *arg, curlsocktype purpose, struct curl_sockaddr *address)
{
	EviTransfer *transfer = arg;
	char		text[INET6_ADDRSTRLEN];

	write_address(&address->addr, text);
	if (purpose != CURLSOCKTYPE_IPCXN || !may_connect(transfer, &address->addr))
	{
		note_refused(transfer, text);
		return CURL_SOCKET_BAD;
	}
	strcpy(transfer->address, text);
	transfer->opened++;
	return socket(address->family, address->socktype | SOCK_CLOEXEC, address->protocol);
}

/* Before a request is sent. If it is not, by a connection that was there, one is made. */
int
evi_guard_request(void *arg, char *address, char *local_address, int port, int local_port)
{
	EviTransfer *transfer = arg;
	struct sockaddr_in ipv4 = {.sin_family = AF_INET};
	struct sockaddr_in6 ipv6 = {.sin6_family = AF_INET6};
	bool		is_allowed = false;

	(void) local_address;
	(void) port;
	(void) local_port;
	if (inet_pton(AF_INET, address, &ipv4.sin_addr) == 1)
		is_allowed = may_connect(transfer, (struct sockaddr *) &ipv4);
	else if (inet_pton(AF_INET6, address, &ipv6.sin6_addr) == 1)
		is_allowed = may_connect(transfer, (struct sockaddr *) &ipv6);
	if (is_allowed)
	{
		snprintf(transfer->address, sizeof(transfer->address), "%s", address);
		return CURL_PREREQFUNC_OK;
	}
	transfer->is_stale = transfer->opened == 0;
	transfer->opened = 0;		/* nothing has come of it */
	transfer->address[0] = '\0';
	note_refused(transfer, address);
	return CURL_PREREQFUNC_ABORT;
}

static bool
may_connect(EviTransfer *transfer, const struct sockaddr *address)
{
	const EviHttpOptions *options = &transfer->http->options;

	/* where mails go is not for users to say */
	return transfer->is_mail || options->may_connect(address, options->arg);
}

static void
note_refused(EviTransfer *transfer, const char *address)
{
	transfer->refused++;
	snprintf(transfer->fault_buffer, sizeof(transfer->fault_buffer),
			 "connecting to %s is not allowed", address);
}

static void
write_address(const struct sockaddr *address, char text[INET6_ADDRSTRLEN])
{
	const void *bytes = NULL;

	if (address->sa_family == AF_INET)
		bytes = &((const struct sockaddr_in *) address)->sin_addr;
	else if (address->sa_family == AF_INET6)
		bytes = &((const struct sockaddr_in6 *) address)->sin6_addr;
	if (bytes == NULL || inet_ntop(address->sa_family, bytes, text, INET6_ADDRSTRLEN) == NULL)
		strcpy(text, "it");
}
