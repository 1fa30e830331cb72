/*-------------------------------------------------------------------------
 *
 * lifecycle.h
 *		Databases and the extension itself, coming and going.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_LIFECYCLE_H
#define EVI_LIFECYCLE_H

extern void evi_lifecycle_init(void);

#endif							/* EVI_LIFECYCLE_H */
