/*-------------------------------------------------------------------------
 *
 * partition.h
 *		Partitions of evinbox.event, made ahead of need.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_PARTITION_H
#define EVI_PARTITION_H

extern bool evi_partition_make(void);

#endif							/* EVI_PARTITION_H */
