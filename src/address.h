/*-------------------------------------------------------------------------
 *
 * address.h
 *		Which addresses may be called from here.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_ADDRESS_H
#define EVI_ADDRESS_H

#include <stdbool.h>
#include <stdint.h>

#include <sys/socket.h>

/* the addresses whose first bits are these */
typedef struct EviAddressRange
{
	sa_family_t family;			/* AF_INET or AF_INET6 */
	uint8_t		bits;
	uint8_t		bytes[16];		/* 4 of them for AF_INET; 0 after the bits */
} EviAddressRange;

extern bool evi_address_parse_ranges(const char *list, EviAddressRange **ranges, int *count,
									 const char **error);
extern const char *evi_address_fault(const struct sockaddr *address,
									 const EviAddressRange *allowed, int nallowed);

#endif							/* EVI_ADDRESS_H */
