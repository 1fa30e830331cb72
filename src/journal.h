/*-------------------------------------------------------------------------
 *
 * journal.h
 *		Partitions of what was sent, by the day.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_JOURNAL_H
#define EVI_JOURNAL_H

extern bool evi_journal_keep(void);
extern long evi_journal_wait_ms(void);

#endif							/* EVI_JOURNAL_H */
