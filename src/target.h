/*-------------------------------------------------------------------------
 *
 * target.h
 *		Endpoints, for whoever has something to send.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_TARGET_H
#define EVI_TARGET_H

#include "nodes/pg_list.h"

/* "standard", "cloudevents", "slack" */
typedef enum EviFormat
{
	EVI_FORMAT_STANDARD,
	EVI_FORMAT_CLOUDEVENTS,
	EVI_FORMAT_SLACK,
	EVI_FORMATS
} EviFormat;

typedef struct EviTarget
{
	int32		id;
	char	   *name;
	Oid			owner;
	EviFormat	format;
	char	   *template;		/* may be NULL */
	bool		enabled;
} EviTarget;

extern bool evi_format_parse(const char *name, EviFormat *format);
extern EviTarget *evi_target_find_allowed(const char *name);
extern EviTarget *evi_target_find_own(const char *name);
extern List *evi_targets_of(Oid owner, const char *scope, const char *subject_type,
							const char *action);

#endif							/* EVI_TARGET_H */
