/*-------------------------------------------------------------------------
 *
 * guc.h
 *		The settings of evinbox.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVI_GUC_H
#define EVI_GUC_H

/* who says who the actor of an event is */
typedef enum EviActorSource
{
	EVI_ACTOR_ANY,
	EVI_ACTOR_CONTEXT,
	EVI_ACTOR_SESSION_USER
} EviActorSource;

extern void evi_guc_define(void);

extern bool evi_guc_enabled(void);
extern int	evi_guc_max_workers(void);
extern int	evi_guc_max_runners(void);
extern int	evi_guc_max_failures(void);
extern int	evi_guc_batch_size(void);
extern int	evi_guc_partition_size(void);
extern int	evi_guc_retention_s(void);
extern int	evi_guc_segment_xids(void);
extern int	evi_guc_max_depth(void);
extern const char *evi_guc_actor(void);
extern const char *evi_guc_context(void);
extern const char *evi_guc_scope(void);
extern const char *evi_guc_batch(void);
extern EviActorSource evi_guc_actor_source(void);
extern const char *evi_guc_webhook_allow(void);
extern bool evi_guc_webhook_allow_http(void);
extern int	evi_guc_webhook_log_retention_s(void);
extern int	evi_guc_webhook_max_in_flight(void);
extern const char *evi_guc_webhook_ca_file(void);
extern const char *evi_guc_smtp_url(void);
extern const char *evi_guc_smtp_sender(void);
extern const char *evi_guc_smtp_user(void);
extern const char *evi_guc_smtp_password(void);

#endif							/* EVI_GUC_H */
