/*-------------------------------------------------------------------------
 *
 * driver.c
 *		Does with the library evinbox_http what it is told, for tests.
 *
 * usage: driver evinbox_http.so
 *
 * Reads commands, one a line, and writes lines of answers: words and name=value
 * with tabs between them, in which \t, \n, \r, \\ and \xHH stand for what they
 * stand for in C.
 *
 *	open	allow=RANGES ca_file=FILE max_connections=N
 *	allow	RANGES							from now on
 *	call	tag=T url=U method=M header=H... body=B body_size=N timeout=MS
 *			connect_timeout=MS allow_http=1 sender=S recipient=R... user=U password=P
 *	wait									until all calls have ended, and tells of each
 *	flood	count=N parallel=N and as call	the same call again and again
 *	url		U allow_http=1
 *	sign	KIND HEX ID TIMESTAMP BODY
 *	address	A RANGES
 *
 * Names are looked up in here only, so that no packet leaves the machine:
 * hang.test takes HANG_S seconds, none.test does not exist, both.test is
 * 127.0.0.2 and 127.0.0.1, and all else below test is 127.0.0.1.
 *
 *-------------------------------------------------------------------------
 */
#include <ctype.h>
#include <dirent.h>
#include <dlfcn.h>
#include <netdb.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <sys/un.h>

#include "src/address.h"
#include "src/http.h"

#define HANG_S 5
#define MAX_FIELDS 64
#define MAX_LINE 65536

typedef struct Call
{
	EviHttpRequest request;
	const char *tag;
	const char *headers[MAX_FIELDS];
	const char *recipients[MAX_FIELDS];
	char	   *line;			/* that all of it is in */
	char	   *body;
} Call;

static const EviHttpTable *table;
static EviHttp *http;
static EviAddressRange *ranges;
static int	nranges;
static int	running;
static int	rounds;				/* of waiting */
static bool were_signals_blocked = true;

static void run_command(char *line);
static void run_open(char **fields);
static void run_call(char **fields, char *line);
static void run_wait(void);
static void run_flood(char **fields, char *line);
static void run_sign(char **fields);
static void run_address(const char *text);
static void set_ranges(const char *list);
static bool make_address(const char *text, struct sockaddr_storage *address);
static Call *make_call(char **fields, char *line);
static void free_call(Call *call);
static void print_result(const EviHttpResult *result);
static void print_text(const char *name, const char *text, size_t length);
static void wait_and_perform(void);
static bool may_connect(const struct sockaddr *address, void *arg);
static void split(char *line, char **fields);
static const char *field(char **fields, const char *name);
static long number(char **fields, const char *name, long otherwise);
static void unescape(char *text);
static void note_signals(void);
static int	count_descriptors(void);
static long resident_kb(void);
static double now_ms(void);

int
main(int argc, char **argv)
{
	void	   *library;
	EviHttpEntry entry;
	static char line[MAX_LINE];

	/* as the server loads it */
	library = argc == 2 ? dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL) : NULL;
	if (library == NULL)
	{
		fprintf(stderr, "%s\n", argc == 2 ? dlerror() : "usage: driver evinbox_http.so");
		return 1;
	}
	*(void **) &entry = dlsym(library, EVI_HTTP_ENTRY);
	table = entry();
	signal(SIGPIPE, SIG_IGN);
	setvbuf(stdout, NULL, _IOLBF, 0);
	while (fgets(line, sizeof(line), stdin))
		run_command(line);
	return 0;
}

static void
run_command(char *line)
{
	char	   *copy;
	char	   *fields[MAX_FIELDS];

	line[strcspn(line, "\n")] = '\0';
	copy = strdup(line);
	split(copy, fields);
	if (strcmp(fields[0], "call") == 0)
	{
		run_call(fields, copy);
		return;					/* which keeps the copy */
	}
	if (strcmp(fields[0], "flood") == 0)
	{
		run_flood(fields, copy);
		return;
	}
	if (strcmp(fields[0], "open") == 0)
		run_open(fields);
	else if (strcmp(fields[0], "allow") == 0)
		set_ranges(fields[1] ? fields[1] : "");
	else if (strcmp(fields[0], "wait") == 0)
		run_wait();
	else if (strcmp(fields[0], "url") == 0)
	{
		const char *fault = table->url_fault(fields[1], number(fields, "allow_http", 0));

		printf("url\t%s\n", fault ? fault : "-");
	}
	else if (strcmp(fields[0], "sign") == 0)
		run_sign(fields);
	else if (strcmp(fields[0], "address") == 0)
	{
		set_ranges(fields[2] ? fields[2] : "");
		run_address(fields[1]);
	}
	else
		printf("unknown command\n");
	free(copy);
}

static void
run_open(char **fields)
{
	EviHttpOptions options = {
		.may_connect = may_connect,
		.max_connections = number(fields, "max_connections", 10),
		.user_agent = "evinbox-test",
		.ca_file = field(fields, "ca_file"),
	};
	const char *error = NULL;
	const char *allow = field(fields, "allow");

	set_ranges(allow ? allow : "");
	http = table->open(&options, &error);
	printf("open\t%s\tversion=%d\n", http ? "-" : error, table->version);
}

/* -- calls ---------------------------------------------------------------------- */

static void
run_call(char **fields, char *line)
{
	Call	   *call = make_call(fields, line);
	const char *error = NULL;
	bool		is_lasting;

	if (table->start(http, &call->request, call, &error, &is_lasting))
	{
		running++;
		return;
	}
	printf("refused\ttag=%s\terror=%s\n", call->tag, error);
	free_call(call);
}

static void
run_wait(void)
{
	EviHttpResult result;
	double		begin = now_ms();

	rounds = 0;
	while (running > 0)
	{
		wait_and_perform();
		while (table->result(http, &result))
		{
			running--;
			print_result(&result);
			free_call(result.tag);
		}
	}
	printf("end\trounds=%d\tms=%.0f\tsignals_blocked=%d\tdescriptors=%d\n",
		   rounds, now_ms() - begin, were_signals_blocked, count_descriptors());
}

/* Tells what it has cost since a tenth of it was done. */
static void
run_flood(char **fields, char *line)
{
	long		count = number(fields, "count", 1);
	long		parallel = number(fields, "parallel", 1);
	Call	   *call = make_call(fields, line);
	EviHttpResult result;
	long		started = 0;
	long		ended = 0;
	long		good = 0;
	long		kb = 0;
	int			descriptors = 0;
	double		begin = now_ms();

	while (ended < count)
	{
		const char *error = NULL;
		bool		is_lasting;

		while (running < parallel && started < count)
		{
			if (!table->start(http, &call->request, call, &error, &is_lasting))
			{
				printf("refused\terror=%s\n", error);
				return;
			}
			started++;
			running++;
		}
		wait_and_perform();
		while (table->result(http, &result))
		{
			running--;
			ended++;
			good += result.error == NULL && result.status >= 200 && result.status < 300;
			if (ended == count / 10)
			{
				kb = resident_kb();
				descriptors = count_descriptors();
			}
		}
	}
	printf("flood\tgood=%ld\tms=%.0f\tmore_kb=%ld\tmore_descriptors=%d\n",
		   good, now_ms() - begin, resident_kb() - kb, count_descriptors() - descriptors);
	free_call(call);
}

static Call *
make_call(char **fields, char *line)
{
	Call	   *call = calloc(1, sizeof(Call));
	EviHttpRequest *request = &call->request;
	const char *body = field(fields, "body");
	int			nheaders = 0;
	int			nrecipients = 0;

	call->line = line;
	call->tag = field(fields, "tag") ? field(fields, "tag") : "";
	request->url = field(fields, "url");
	request->method = field(fields, "method") ? field(fields, "method") : "POST";
	request->timeout_ms = number(fields, "timeout", 10000);
	request->connect_timeout_ms = number(fields, "connect_timeout", 5000);
	request->allow_http = number(fields, "allow_http", 1);
	request->sender = field(fields, "sender");
	request->user = field(fields, "user");
	request->password = field(fields, "password");
	request->body = body;
	request->body_length = body ? strlen(body) : 0;
	if (number(fields, "body_size", 0) > 0)
	{
		request->body_length = number(fields, "body_size", 0);
		request->body = call->body = malloc(request->body_length);
		memset(call->body, 'x', request->body_length);
	}
	for (int i = 1; fields[i]; i++)
	{
		if (strncmp(fields[i], "header=", 7) == 0)
			call->headers[nheaders++] = fields[i] + 7;
		if (strncmp(fields[i], "recipient=", 10) == 0)
			call->recipients[nrecipients++] = fields[i] + 10;
	}
	request->headers = call->headers;
	request->recipients = call->recipients;
	return call;
}

static void
free_call(Call *call)
{
	free(call->body);
	free(call->line);
	free(call);
}

static void
print_result(const EviHttpResult *result)
{
	const Call *call = result->tag;

	printf("result\ttag=%s\tcode=%d\tstatus=%ld\tis_refused=%d\tretry_after=%ld\taddress=%s"
		   "\tdns=%g\tconnect=%g\ttls=%g\tfirst_byte=%g\ttotal=%g",
		   call->tag, result->code, result->status, result->is_refused, result->retry_after_s,
		   result->address ? result->address : "-", result->dns_ms, result->connect_ms,
		   result->tls_ms, result->first_byte_ms, result->total_ms);
	print_text("error", result->error ? result->error : "-",
			   result->error ? strlen(result->error) : 1);
	printf("\tanswer_length=%zu", result->answer_length);
	print_text("answer", result->answer, result->answer_length < 600 ? result->answer_length : 600);
	printf("\n");
}

static void
print_text(const char *name, const char *text, size_t length)
{
	printf("\t%s=", name);
	for (size_t i = 0; i < length; i++)
		if (isprint((unsigned char) text[i]) && text[i] != '\\')
			putchar(text[i]);
		else
			printf("\\x%02x", (unsigned char) text[i]);
}

/* As the courier does: the descriptor is one of several that it waits for. */
static void
wait_and_perform(void)
{
	struct pollfd fd = {.fd = table->descriptor(http), .events = POLLIN};
	sigset_t	before;
	sigset_t	after;

	(void) poll(&fd, 1, (int) table->wait_ms(http));
	rounds++;
	sigprocmask(SIG_SETMASK, NULL, &before);
	table->perform(http);
	sigprocmask(SIG_SETMASK, NULL, &after);
	if (sigismember(&before, SIGTERM) != sigismember(&after, SIGTERM))
		were_signals_blocked = false;
}

/* -- the rest of the library, and addresses ------------------------------------------- */

static void
run_sign(char **fields)
{
	uint8_t		key[128];
	size_t		length = 0;
	char		signature[128];

	for (const char *c = fields[2]; c[0] && c[1] && length < sizeof(key); c += 2)
		(void) sscanf(c, "%2hhx", &key[length++]);
	printf("sign\t%s\n",
		   table->sign(fields[1], key, length, fields[3], atoll(fields[4]),
					   fields[5], strlen(fields[5]), signature, sizeof(signature)) ? signature : "-");
}

static void
run_address(const char *text)
{
	struct sockaddr_storage address;
	const char *fault;

	if (ranges == NULL && nranges < 0)
		return;					/* said already */
	if (!make_address(text, &address))
	{
		printf("address\tunknown\n");
		return;
	}
	fault = evi_address_fault((struct sockaddr *) &address, ranges, nranges);
	printf("address\t%s\n", fault ? fault : "-");
}

static void
set_ranges(const char *list)
{
	const char *error = NULL;

	free(ranges);
	if (!evi_address_parse_ranges(list, &ranges, &nranges, &error))
	{
		printf("ranges\t%s\n", error);
		nranges = -1;
	}
}

static bool
make_address(const char *text, struct sockaddr_storage *address)
{
	struct sockaddr_in *ipv4 = (struct sockaddr_in *) address;
	struct sockaddr_in6 *ipv6 = (struct sockaddr_in6 *) address;

	memset(address, 0, sizeof(*address));
	if (strcmp(text, "unix") == 0)
		address->ss_family = AF_UNIX;
	else if (inet_pton(AF_INET, text, &ipv4->sin_addr) == 1)
		address->ss_family = AF_INET;
	else if (inet_pton(AF_INET6, text, &ipv6->sin6_addr) == 1)
		address->ss_family = AF_INET6;
	else
		return false;
	return true;
}

/* Called by the library. */
static bool
may_connect(const struct sockaddr *address, void *arg)
{
	(void) arg;
	note_signals();
	return evi_address_fault(address, ranges, nranges < 0 ? 0 : nranges) == NULL;
}

/* Called by libcurl, in a thread, instead of the system's. */
__attribute__((visibility("default")))
int
getaddrinfo(const char *name, const char *service, const struct addrinfo *hints,
			struct addrinfo **found)
{
	int			(*real) (const char *, const char *, const struct addrinfo *, struct addrinfo **);
	struct addrinfo numeric = *hints;
	size_t		length = strlen(name);
	int			code;

	note_signals();
	*(void **) &real = dlsym(RTLD_NEXT, "getaddrinfo");
	numeric.ai_flags |= AI_NUMERICHOST;
	if (strcasecmp(name, "hang.test") == 0)
	{
		sleep(HANG_S);
		return EAI_AGAIN;
	}
	if (strcasecmp(name, "none.test") == 0)
		return EAI_NONAME;
	if (length < 5 || strcasecmp(name + length - 5, ".test") != 0)
		return real(name, service, &numeric, found);
	numeric.ai_family = AF_INET;
	if (strcasecmp(name, "both.test") != 0)
		return real("127.0.0.1", service, &numeric, found);
	code = real("127.0.0.2", service, &numeric, found);
	return code != 0 ? code : real("127.0.0.1", service, &numeric, &(*found)->ai_next);
}

/* -- helpers ----------------------------------------------------------------------- */

static void
split(char *line, char **fields)
{
	int			count = 0;

	while (line && count < MAX_FIELDS - 1)
		fields[count++] = strsep(&line, "\t");
	fields[count] = NULL;
	for (int i = 0; i < count; i++)
		unescape(fields[i]);
}

/* NULL if there is none */
static const char *
field(char **fields, const char *name)
{
	size_t		length = strlen(name);

	for (int i = 1; fields[i]; i++)
		if (strncmp(fields[i], name, length) == 0 && fields[i][length] == '=')
			return fields[i] + length + 1;
	return NULL;
}

static long
number(char **fields, const char *name, long otherwise)
{
	const char *value = field(fields, name);

	return value ? atol(value) : otherwise;
}

static void
unescape(char *text)
{
	char	   *to = text;

	for (char *from = text; *from; from++)
	{
		unsigned int byte;

		if (*from != '\\')
		{
			*to++ = *from;
			continue;
		}
		from++;
		if (*from == 'x' && sscanf(from + 1, "%2x", &byte) == 1)
		{
			*to++ = (char) byte;
			from += 2;
		}
		else
			*to++ = *from == 'n' ? '\n' : *from == 'r' ? '\r' : *from == 't' ? '\t' : *from;
	}
	*to = '\0';
}

/* Is this thread deaf, as it has to be within the library? */
static void
note_signals(void)
{
	sigset_t	mask;

	pthread_sigmask(SIG_SETMASK, NULL, &mask);
	if (!sigismember(&mask, SIGTERM) || !sigismember(&mask, SIGUSR1) || !sigismember(&mask, SIGALRM))
		were_signals_blocked = false;
}

static int
count_descriptors(void)
{
	DIR		   *directory = opendir("/proc/self/fd");
	int			count = 0;

	while (readdir(directory))
		count++;
	closedir(directory);
	return count;
}

static long
resident_kb(void)
{
	FILE	   *file = fopen("/proc/self/statm", "r");
	long		pages = 0;

	if (fscanf(file, "%*d %ld", &pages) != 1)
		pages = 0;
	fclose(file);
	return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

static double
now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1e3 + now.tv_nsec / 1e6;
}
