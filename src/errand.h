/*-------------------------------------------------------------------------
 *
 * errand.h
 *		Does a database need a courier?
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_ERRAND_H
#define EVI_ERRAND_H

extern bool evi_errand_is_wanted(void);
extern bool evi_errand_look(void);
extern void evi_errand_want_none(void);

#endif							/* EVI_ERRAND_H */
