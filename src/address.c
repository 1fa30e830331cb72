/*-------------------------------------------------------------------------
 *
 * address.c
 *		Which addresses may be called from here.
 *
 * URLs come from users, and this server may reach what they may not: itself,
 * its neighbours, the machine's keeper at 169.254.169.254. So only addresses
 * that everybody can reach are called, and others if a superuser names them.
 *
 * What is judged is the binary address that a connection is about to be made
 * to. However it was written (0x7f.1, 2130706433, a name, full-width digits),
 * it is the same one here. What can still hide is an IPv4 address in an IPv6 one.
 *
 * This is plain C, without the server's headers: it is called from within
 * libcurl, with signals blocked, and must not fail.
 *
 *-------------------------------------------------------------------------
 */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include <arpa/inet.h>
#include <netinet/in.h>

#include "address.h"

#define MAPPED_BITS 96			/* of ::ffff:0:0/96 */

/* addresses of one kind, and how we call that */
typedef struct Special
{
	uint8_t		bytes[16];
	int			bits;
	const char *what;
} Special;

/* IANA's special-purpose registry, but for what anybody can reach */
static const Special special_ipv4[] = {
	{{0}, 8, "an address of no host"},
	{{10}, 8, "a private address"},
	{{100, 64}, 10, "a provider's internal address"},
	{{127}, 8, "a loopback address"},
	{{168, 63, 129, 16}, 32, "a metadata service"},	/* of Azure */
	{{169, 254}, 16, "a link-local address"},	/* most metadata services */
	{{172, 16}, 12, "a private address"},
	{{192, 0, 0}, 24, "a reserved address"},
	{{192, 0, 2}, 24, "a documentation address"},
	{{192, 88, 99}, 24, "a 6to4 relay"},
	{{192, 168}, 16, "a private address"},
	{{198, 18}, 15, "a benchmarking address"},
	{{198, 51, 100}, 24, "a documentation address"},
	{{203, 0, 113}, 24, "a documentation address"},
	{{224}, 4, "a multicast address"},
	{{255, 255, 255, 255}, 32, "the broadcast address"},
	{{240}, 4, "a reserved address"},
};

/* the last one is all that is not yet given to anybody, or has a name of its own above */
static const Special special_ipv6[] = {
	{{0}, 128, "the unspecified address"},
	{{[15] = 1}, 128, "a loopback address"},
	{{0x00, 0x64, 0xff, 0x9b}, 96, "a translated IPv4 address"},
	{{0x00, 0x64, 0xff, 0x9b, 0x00, 0x01}, 48, "a translated IPv4 address"},
	{{[8] = 0xff, [9] = 0xff}, 96, "a translated IPv4 address"},
	{{0x01, 0x00}, 64, "a discard-only address"},
	{{0x20, 0x01, 0x0d, 0xb8}, 32, "a documentation address"},
	{{0x20, 0x01}, 32, "a tunnelled IPv4 address"}, /* Teredo */
	{{0x20, 0x01}, 23, "a reserved address"},
	{{0x20, 0x02}, 16, "a tunnelled IPv4 address"}, /* 6to4 */
	{{0x3f, 0xff}, 20, "a documentation address"},
	{{0xfc}, 7, "a private address"},
	{{0xfe, 0x80}, 10, "a link-local address"},
	{{0xfe, 0xc0}, 10, "a site-local address"},
	{{0xff}, 8, "a multicast address"},
};

static const Special global_ipv6 = {{0x20}, 3, NULL};

static const char *judge(sa_family_t family, const uint8_t *bytes,
						 const EviAddressRange *allowed, int nallowed);
static bool parse_range(const char *begin, const char *end, EviAddressRange *range, const char **error);
static bool has_prefix(const uint8_t *bytes, const uint8_t *prefix, int bits);

/*
 * Why this address may not be called, or NULL if it may. An IPv4 address in an
 * IPv6 one is judged as what it is, by the ranges of IPv4 only.
 */
const char *
evi_address_fault(const struct sockaddr *address, const EviAddressRange *allowed, int nallowed)
{
	static const uint8_t mapped[16] = {[10] = 0xff, [11] = 0xff};
	static const uint8_t zeroes[16] = {0};
	uint8_t		bytes[16];

	if (address->sa_family == AF_INET)
	{
		struct sockaddr_in ipv4;

		memcpy(&ipv4, address, sizeof(ipv4));
		memcpy(bytes, &ipv4.sin_addr, 4);
		return judge(AF_INET, bytes, allowed, nallowed);
	}
	if (address->sa_family == AF_INET6)
	{
		struct sockaddr_in6 ipv6;

		memcpy(&ipv6, address, sizeof(ipv6));
		memcpy(bytes, &ipv6.sin6_addr, 16);

		/* "::" and "::1" look like IPv4-compatible ones, and are not */
		if (has_prefix(bytes, mapped, MAPPED_BITS) ||
			(has_prefix(bytes, zeroes, MAPPED_BITS) && !(has_prefix(bytes, zeroes, 127))))
			return judge(AF_INET, bytes + 12, allowed, nallowed);
		return judge(AF_INET6, bytes, allowed, nallowed);
	}
	return "not an internet address";
}

/*
 * Reads "10.0.0.0/8, fd00::/8, 192.168.1.7" into an array from malloc(), which is
 * NULL if there are none. False and a reason, if that is not such a list.
 */
bool
evi_address_parse_ranges(const char *list, EviAddressRange **ranges, int *count, const char **error)
{
	int			room = 1;
	const char *begin = list;

	*ranges = NULL;
	*count = 0;
	if (list[strspn(list, " \t\r\n")] == '\0')
		return true;
	for (const char *c = list; *c != '\0'; c++)
		room += *c == ',';
	*ranges = calloc(room, sizeof(EviAddressRange));
	if (*ranges == NULL)
	{
		*error = "out of memory";
		return false;
	}

	for (;;)
	{
		const char *end = begin + strcspn(begin, ",");

		if (!parse_range(begin, end, *ranges + *count, error))
		{
			free(*ranges);
			*ranges = NULL;
			*count = 0;
			return false;
		}
		(*count)++;
		if (*end == '\0')
			return true;
		begin = end + 1;
	}
}

static const char *
judge(sa_family_t family, const uint8_t *bytes, const EviAddressRange *allowed, int nallowed)
{
	const Special *special = family == AF_INET ? special_ipv4 : special_ipv6;
	int			nspecial = family == AF_INET ? sizeof(special_ipv4) / sizeof(Special) :
		sizeof(special_ipv6) / sizeof(Special);

	for (int i = 0; i < nallowed; i++)
		if (allowed[i].family == family && has_prefix(bytes, allowed[i].bytes, allowed[i].bits))
			return NULL;
	for (int i = 0; i < nspecial; i++)
		if (has_prefix(bytes, special[i].bytes, special[i].bits))
			return special[i].what;
	if (family == AF_INET6 && !has_prefix(bytes, global_ipv6.bytes, global_ipv6.bits))
		return "a reserved address";
	return NULL;
}

static bool
parse_range(const char *begin, const char *end, EviAddressRange *range, const char **error)
{
	char		text[INET6_ADDRSTRLEN + sizeof("/128")];
	char	   *slash;
	int			most;
	int			bits;
	uint8_t		masked[16] = {0};

	while (begin < end && isspace((unsigned char) *begin))
		begin++;
	while (end > begin && isspace((unsigned char) end[-1]))
		end--;
	*error = "An address is to be like \"10.1.2.3\" or \"fd00::1\", a range like \"10.0.0.0/8\".";
	if ((size_t) (end - begin) >= sizeof(text))
		return false;
	memcpy(text, begin, end - begin);
	text[end - begin] = '\0';
	slash = strchr(text, '/');
	if (slash)
		*slash = '\0';

	memset(range, 0, sizeof(*range));
	if (inet_pton(AF_INET, text, range->bytes) == 1)
		range->family = AF_INET;
	else if (inet_pton(AF_INET6, text, range->bytes) == 1)
		range->family = AF_INET6;
	else
		return false;

	bits = most = range->family == AF_INET ? 32 : 128;
	if (slash)
	{
		size_t		digits = strspn(slash + 1, "0123456789");

		if (digits == 0 || digits > 3 || slash[1 + digits] != '\0')
			return false;
		bits = atoi(slash + 1);
	}
	if (bits > most)
	{
		*error = "A range has at most 32 bits of an IPv4 address, and 128 of an IPv6 one.";
		return false;
	}
	range->bits = (uint8_t) bits;

	/* likely a mistake, which would allow more than was meant */
	for (int i = 0; i < bits; i++)
		masked[i / 8] |= range->bytes[i / 8] & (0x80 >> i % 8);
	if (memcmp(masked, range->bytes, sizeof(masked)) != 0)
	{
		*error = "The bits of an address after those of its range are to be zero.";
		return false;
	}

	/* that is how they are judged */
	if (range->family == AF_INET6 && IN6_IS_ADDR_V4MAPPED((struct in6_addr *) masked) &&
		bits >= MAPPED_BITS)
	{
		range->family = AF_INET;
		range->bits -= MAPPED_BITS;
		memset(range->bytes, 0, sizeof(range->bytes));
		memcpy(range->bytes, masked + 12, 4);
	}
	return true;
}

static bool
has_prefix(const uint8_t *bytes, const uint8_t *prefix, int bits)
{
	int			whole = bits / 8;
	int			rest = bits % 8;

	return memcmp(bytes, prefix, whole) == 0 &&
		(rest == 0 || ((bytes[whole] ^ prefix[whole]) & (0xff00 >> rest) & 0xff) == 0);
}
