/*-------------------------------------------------------------------------
 *
 * closing.h
 *		What a courier stores about endpoints that fail.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_CLOSING_H
#define EVI_CLOSING_H

extern void evi_closing_load(void);
extern void evi_closing_store(void);

#endif							/* EVI_CLOSING_H */
