/*-------------------------------------------------------------------------
 *
 * message.h
 *		Events as messages to the outside.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_MESSAGE_H
#define EVI_MESSAGE_H

#include "evinbox.h"
#include "target.h"
#include "utils/jsonb.h"

/* an event, taken apart */
typedef struct EviEventRow
{
	Datum		event;
	int64		id;				/* 0 if it was not recorded */
	Datum		values[Natts_event];
	bool		isnull[Natts_event];
} EviEventRow;

extern void evi_message_read(EviEventRow *row, Datum event);
extern char *evi_message_text(const EviEventRow *row, int attno);
extern char *evi_message_body(const EviEventRow *row, const EviTarget *target);
extern char *evi_message_test_body(const EviTarget *target);
extern const char *evi_message_content_type(EviFormat format);
extern Jsonb *evi_message_headers(const EviEventRow *row);

#endif							/* EVI_MESSAGE_H */
