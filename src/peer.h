/*-------------------------------------------------------------------------
 *
 * peer.h
 *		What a courier knows of the endpoints of its database.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_PEER_H
#define EVI_PEER_H

#include "utils/jsonb.h"
#include "utils/timestamp.h"

typedef struct EviSecret
{
	char	   *kind;			/* v1, v1a */
	uint8	   *key;
	int			key_length;
	TimestampTz expires_at;		/* DT_NOEND for the current one */
} EviSecret;

typedef struct EviPeer
{
	int32		id;				/* 0 for what has no endpoint */
	char	   *url;
	Jsonb	   *headers;		/* may be NULL */
	bool		is_enabled;
	int64		timeout_ms;
	int			max_in_flight;
	int			rate;			/* in rate_per_us; 0 for no limit */
	int64		rate_per_us;
	int			nretries;
	int64	   *retries_ms;
	int			max_attempts;
	int64		disable_after_ms;	/* 0 for never */
	int			nsecrets;
	EviSecret  *secrets;
} EviPeer;

extern bool evi_peer_refresh(void);
extern void evi_peer_forget(void);
extern const EviPeer *evi_peer_find(int32 id);

#endif							/* EVI_PEER_H */
