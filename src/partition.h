/*-------------------------------------------------------------------------
 *
 * partition.h
 *		Partitions of evinbox.event, made ahead of need.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_PARTITION_H
#define EVI_PARTITION_H

/* after so many events, a look is due whether it is time for a new one */
#define EVI_PARTITION_LOOK 65536

extern bool evi_partition_make(void);
extern void evi_partition_note(int64 id);
extern void evi_partition_make_at(const char *name);
extern bool evi_partition_is_ours(Oid relid);
extern bool evi_partition_is_referenced(Oid relid);

#endif							/* EVI_PARTITION_H */
