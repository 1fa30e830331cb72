/*-------------------------------------------------------------------------
 *
 * evinbox.h
 *		What every module of evinbox may know: names and row layouts.
 *
 * The column numbers follow sql/evinbox--1.0.sql; an upgrade script may add
 * columns at the end of a table, and never renumbers these.
 *
 *-------------------------------------------------------------------------
 */
#ifndef EVINBOX_H
#define EVINBOX_H

#include "postgres.h"

#include "access/htup_details.h"

#define EVI_EXTENSION "evinbox"
#define EVI_SCHEMA "evinbox"
#define EVI_INTERNAL_SCHEMA "evinbox_internal"

#define Anum_event_id 1
#define Anum_event_subject_type 2
#define Anum_event_subject_id 3
#define Anum_event_action 4
#define Anum_event_actor 5
#define Anum_event_scope 6
#define Anum_event_metadata 7
#define Anum_event_snapshot 8
#define Anum_event_batch_id 9
#define Anum_event_caused_by 10
#define Anum_event_depth 11
#define Anum_event_occurred_at 12
#define Anum_event_recorded_at 13
#define Natts_event 13

#define Anum_action_subject_type 1
#define Anum_action_action 2
#define Anum_action_required 3
#define Natts_action 3

#define Anum_inbox_name 1
#define Anum_inbox_owner 2
#define Anum_inbox_subject_types 3
#define Anum_inbox_actions 4
#define Anum_inbox_condition 5
#define Anum_inbox_handler 6
#define Anum_inbox_statement 7
#define Anum_inbox_config 8
#define Anum_inbox_enabled 9
#define Anum_inbox_dispatch 10
#define Anum_inbox_priority 11
#define Anum_inbox_max_attempts 12
#define Anum_inbox_backoff 13
#define Anum_inbox_timeout 14
#define Anum_inbox_batch_size 15
#define Anum_inbox_id 16
#define Anum_inbox_search_path 17
#define Anum_inbox_shards 18
#define Anum_inbox_replayable 19
#define Anum_inbox_start_at 20
#define Anum_inbox_owner_id 21
#define Natts_inbox 21

#define Anum_outbox_xid 1
#define Anum_outbox_event_id 2
#define Anum_outbox_checkpoint 3
#define Natts_outbox 3

#define Anum_cursor_inbox_id 1
#define Anum_cursor_lane 2
#define Anum_cursor_seq 3
#define Anum_cursor_lanes 4
#define Anum_cursor_done 5
#define Anum_cursor_taking 6
#define Anum_cursor_position 7
#define Anum_cursor_own_xid 8
#define Anum_cursor_own_position 9
#define Anum_cursor_backlog_seq 10
#define Anum_cursor_backlog_position 11
#define Anum_cursor_dispatched_at 12
#define Anum_cursor_streak 13
#define Natts_cursor 13

#define Anum_backlog_inbox_id 1
#define Anum_backlog_lane 2
#define Anum_backlog_seq 3
#define Anum_backlog_first_id 4
#define Anum_backlog_last_id 5
#define Anum_backlog_exact 6
#define Anum_backlog_since 7
#define Anum_backlog_former_lane 8
#define Anum_backlog_former_lanes 9
#define Natts_backlog 9

#define Anum_halt_inbox_id 1
#define Anum_halt_reason 2
#define Anum_halt_halted_at 3
#define Anum_halt_looks 4
#define Anum_halt_next_look_at 5
#define Natts_halt 5
#define Natts_delivery 10
#define Natts_attempt 4

#define Anum_incarnation_system_identifier 1
#define Anum_incarnation_database_id 2
#define Anum_incarnation_catalog_version 3
#define Anum_incarnation_since 4
#define Anum_incarnation_dispatch_replicated 5
#define Natts_incarnation 5

#define Anum_waiting_event_id 1
#define Natts_waiting 1

#define Anum_endpoint_name 1
#define Anum_endpoint_owner 2
#define Anum_endpoint_url 3
#define Anum_endpoint_scope 4
#define Anum_endpoint_subject_types 5
#define Anum_endpoint_actions 6
#define Anum_endpoint_format 7
#define Anum_endpoint_template 8
#define Anum_endpoint_headers 9
#define Anum_endpoint_enabled 10
#define Anum_endpoint_timeout 11
#define Anum_endpoint_max_in_flight 12
#define Anum_endpoint_rate 13
#define Anum_endpoint_rate_per 14
#define Anum_endpoint_retries 15
#define Anum_endpoint_max_attempts 16
#define Anum_endpoint_rotation 17
#define Anum_endpoint_disable_after 18
#define Anum_endpoint_disabled_reason 19
#define Anum_endpoint_id 20
#define Anum_endpoint_owner_id 21
#define Natts_endpoint 21

/* the lane of an inbox that replays; the others count from 0 */
#define EVI_REPLAY_LANE (-1)

/* for qsort() of event ids */
static inline int
evi_compare_ids(const void *a, const void *b)
{
	int64		left = *(const int64 *) a;
	int64		right = *(const int64 *) b;

	return (left > right) - (left < right);
}

static inline bool
evi_text_equal(const text *a, const text *b)
{
	return VARSIZE_ANY_EXHDR(a) == VARSIZE_ANY_EXHDR(b) &&
		memcmp(VARDATA_ANY(a), VARDATA_ANY(b), VARSIZE_ANY_EXHDR(a)) == 0;
}

#endif							/* EVINBOX_H */
