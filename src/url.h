/*-------------------------------------------------------------------------
 *
 * url.h
 *		Is something a URL that can be called?
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_URL_H
#define EVI_URL_H

extern void evi_url_check(const char *url);

#endif							/* EVI_URL_H */
