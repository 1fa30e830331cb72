/*-------------------------------------------------------------------------
 *
 * config.h
 *		The config of rules whose handler is one of our own.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_CONFIG_H
#define EVI_CONFIG_H

#include "utils/jsonb.h"

#define EVI_WEBHOOK_HANDLER "evinbox.webhook"
#define EVI_MAIL_HANDLER "evinbox.mail"

/* NULL for what is not in it */
typedef struct EviConfig
{
	char	   *endpoint;		/* webhook: its name */
	char	   *body;			/* webhook: a function */
	char	   *content_type;	/* webhook */
	char	   *message;		/* mail: a function */
} EviConfig;

extern bool evi_config_is_ours(const char *handler);
extern void evi_config_parse(const char *handler, Jsonb *json, EviConfig *config);
extern void evi_config_check(const char *handler, Jsonb *json);
extern Datum evi_config_call(const char *what, const char *name, Datum event, Jsonb *json,
							 Oid *type, bool *isnull);
extern void evi_config_require_smtp(void);

#endif							/* EVI_CONFIG_H */
