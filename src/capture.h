/*-------------------------------------------------------------------------
 *
 * capture.h
 *		What track() tells its triggers.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_CAPTURE_H
#define EVI_CAPTURE_H

/* The arguments of record_change(), all of them text. */
enum
{
	EVI_CAPTURE_ACTION,
	EVI_CAPTURE_SUBJECT_TYPE,
	EVI_CAPTURE_EVENTS,			/* as "insert,update" */
	EVI_CAPTURE_KEYS,			/* so many columns of the condition are the key */
	EVI_CAPTURE_SCOPE,			/* "scope" if the next one is the scope, or "" */
	EVI_CAPTURE_SNAPSHOT,		/* "snapshot", or "" */
	EVI_CAPTURE_TABLE,			/* its OID when track() was called, which tells pairs apart */
	EVI_CAPTURE_ARGS
};

#endif							/* EVI_CAPTURE_H */
