/*
 * A small and fast HTTP server, which takes webhooks: prints its port, and
 * answers each request with status 200, but those to /hang with nothing.
 */
#define _GNU_SOURCE
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define MAX_REQUEST 262144

typedef struct Connection
{
	int			socket;
	size_t		length;
	char		buffer[MAX_REQUEST + 1];
} Connection;

static const char answer[] = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/* the length of the first request, or 0 if it is not complete */
static size_t
request_length(const Connection *connection)
{
	const char *end = strstr(connection->buffer, "\r\n\r\n");
	const char *field = strcasestr(connection->buffer, "\r\ncontent-length:");
	size_t		length;

	if (!end)
		return 0;
	length = end + 4 - connection->buffer;
	if (field && field < end)
		length += strtoul(field + 17, NULL, 10);
	return length <= connection->length ? length : 0;
}

/* returns whether it goes on */
static int
serve(Connection *connection)
{
	ssize_t		size = read(connection->socket, connection->buffer + connection->length,
							MAX_REQUEST - connection->length);
	size_t		length;

	if (size <= 0)
		return 0;
	connection->length += size;
	connection->buffer[connection->length] = '\0';
	while ((length = request_length(connection)) > 0)
	{
		if (!strstr(connection->buffer, " /hang ") &&
			write(connection->socket, answer, sizeof(answer) - 1) < 0)
			return 0;
		connection->length -= length;
		memmove(connection->buffer, connection->buffer + length, connection->length + 1);
	}
	return connection->length < MAX_REQUEST;
}

int
main(void)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	socklen_t	size = sizeof(address);
	struct epoll_event event = {.events = EPOLLIN};
	int			listener = socket(AF_INET, SOCK_STREAM, 0);
	int			epoll = epoll_create1(0);

	address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	if (bind(listener, (struct sockaddr *) &address, sizeof(address)) != 0 ||
		listen(listener, 1024) != 0 ||
		getsockname(listener, (struct sockaddr *) &address, &size) != 0 ||
		epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &event) != 0)
		return 1;
	printf("%d\n", ntohs(address.sin_port));
	fflush(stdout);

	for (;;)
	{
		Connection *connection;

		if (epoll_wait(epoll, &event, 1, -1) != 1)
			continue;
		connection = event.data.ptr;
		if (!connection)
		{
			connection = calloc(1, sizeof(Connection));
			connection->socket = accept(listener, NULL, NULL);
			event.events = EPOLLIN;
			event.data.ptr = connection;
			epoll_ctl(epoll, EPOLL_CTL_ADD, connection->socket, &event);
		}
		else if (!serve(connection))
		{
			close(connection->socket);
			free(connection);
		}
	}
}
