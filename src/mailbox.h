/*-------------------------------------------------------------------------
 *
 * mailbox.h
 *		E-mail addresses.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_MAILBOX_H
#define EVI_MAILBOX_H

extern bool evi_mailbox_is_valid(const char *address);
extern const char *evi_mailbox_domain(const char *address);

#endif							/* EVI_MAILBOX_H */
