-- The contract: names, types, defaults and arguments of all public objects.
BEGIN;
SELECT plan(41);

SELECT has_extension('evinbox');
SELECT is(extversion, '1.0', 'version') FROM pg_extension WHERE extname = 'evinbox';
SELECT is(extnamespace::regnamespace::text, 'pg_catalog', 'schema of the extension')
	FROM pg_extension WHERE extname = 'evinbox';
SELECT set_eq(
	$$SELECT nspname FROM pg_namespace WHERE nspname LIKE 'evinbox%'$$,
	ARRAY['evinbox', 'evinbox_internal']::name[], 'schemas');
SELECT is_empty(
	$$SELECT c.oid::regclass FROM pg_class c
		WHERE c.relnamespace::regnamespace::text IN ('evinbox', 'evinbox_internal')
			AND c.relkind IN ('r', 'p', 'v', 'S') AND NOT EXISTS (
			SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
				AND (d.deptype = 'e' OR d.deptype = 'i'))$$,
	'every relation belongs to the extension, or to a column that does');

SELECT set_eq(
	$$SELECT relname, relkind::text FROM pg_class
		WHERE relnamespace = 'evinbox'::regnamespace AND relkind NOT IN ('i', 'I', 'c', 't')$$,
	$$VALUES ('event'::name, 'p'), ('action', 'r'), ('batch', 'r'), ('inbox', 'r'), ('delivery', 'r'), ('template', 'r'), ('endpoint', 'r'),
		('inbox_status', 'v'), ('dead_letter', 'v'), ('worker_status', 'v'),
		('webhook_delivery', 'v'), ('webhook_attempt', 'v'), ('endpoint_status', 'v'),
		('event_id_seq', 'S'), ('batch_id_seq', 'S'), ('inbox_id_seq', 'S'), ('endpoint_id_seq', 'S')$$,
	'public relations');

-- columns, in their order
CREATE FUNCTION pg_temp.columns_of(relation regclass)
RETURNS TABLE (name name, type text, required boolean, preset text) LANGUAGE sql AS $$
	SELECT attname, format_type(atttypid, atttypmod), attnotnull,
		CASE attidentity WHEN 'a' THEN 'always as identity' WHEN 'd' THEN 'by default as identity'
			ELSE pg_get_expr(adbin, adrelid) END
	FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
	WHERE attrelid = relation AND attnum > 0 AND NOT attisdropped
	ORDER BY attnum
$$;

SELECT results_eq(
	$$SELECT * FROM pg_temp.columns_of('evinbox.event')$$,
	$$VALUES ('id'::name, 'bigint', true, 'always as identity'),
		('subject_type', 'text', true, NULL),
		('subject_id', 'text', true, NULL),
		('action', 'text', true, NULL),
		('actor', 'text', false, NULL),
		('scope', 'text', false, NULL),
		('metadata', 'jsonb', true, $q$'{}'::jsonb$q$),
		('snapshot', 'jsonb', false, NULL),
		('batch_id', 'bigint', false, NULL),
		('caused_by', 'bigint', false, NULL),
		('depth', 'smallint', true, '0'),
		('occurred_at', 'timestamp with time zone', true, NULL),
		('recorded_at', 'timestamp with time zone', true, NULL)$$,
	'columns of event');
SELECT results_eq(
	$$SELECT * FROM pg_temp.columns_of('evinbox.action')$$,
	$$VALUES ('subject_type'::name, 'text', true, NULL),
		('action', 'text', true, NULL),
		('required', 'text[]', true, $q$'{}'::text[]$q$)$$,
	'columns of action');
SELECT results_eq(
	$$SELECT * FROM pg_temp.columns_of('evinbox.batch')$$,
	$$VALUES ('id'::name, 'bigint', true, 'always as identity'),
		('description', 'text', false, NULL),
		('actor', 'text', false, NULL),
		('started_at', 'timestamp with time zone', true, NULL)$$,
	'columns of batch');
SELECT results_eq(
	$$SELECT * FROM pg_temp.columns_of('evinbox.template')$$,
	$$VALUES ('locale'::name, 'text', true, $q$''::text$q$),
		('subject_type', 'text', true, $q$''::text$q$),
		('action', 'text', true, $q$''::text$q$),
		('text', 'text', true, NULL)$$,
	'columns of template');
SELECT results_eq(
	$$SELECT * FROM pg_temp.columns_of('evinbox.inbox')$$,
	$$VALUES ('name'::name, 'text', true, NULL),
		('owner', 'name', true, 'CURRENT_USER'),
		('subject_types', 'text[]', false, NULL),
		('actions', 'text[]', false, NULL),
		('condition', 'text', false, NULL),
		('handler', 'text', false, NULL),
		('statement', 'text', false, NULL),
		('config', 'jsonb', true, $q$'{}'::jsonb$q$),
		('enabled', 'boolean', true, 'true'),
		('dispatch', 'text', true, $q$'live'::text$q$),
		('priority', 'integer', true, '10'),
		('max_attempts', 'integer', true, '5'),
		('backoff', 'interval', true, $q$'00:00:15'::interval$q$),
		('timeout', 'interval', true, $q$'00:00:30'::interval$q$),
		('batch_size', 'integer', true, '1000'),
		('id', 'integer', true, 'always as identity'),
		('search_path', 'text', true, $q$''::text$q$),
		('shards', 'integer', true, '1'),
		('replayable', 'boolean', true, 'false'),
		('start_at', 'text', false, NULL),
		('owner_id', 'oid', true, '0')$$,
	'columns of inbox');
SELECT results_eq(
	$$SELECT * FROM pg_temp.columns_of('evinbox.delivery')$$,
	$$VALUES ('inbox'::name, 'text', true, NULL),
		('event_id', 'bigint', true, NULL),
		('state', 'text', true, NULL),
		('attempts', 'integer', true, NULL),
		('next_at', 'timestamp with time zone', false, NULL),
		('last_error', 'text', false, NULL),
		('last_sqlstate', 'text', false, NULL),
		('error_context', 'text', false, NULL),
		('created_at', 'timestamp with time zone', true, NULL),
		('updated_at', 'timestamp with time zone', true, NULL)$$,
	'columns of delivery');
SELECT results_eq(
	$$SELECT name, type FROM pg_temp.columns_of('evinbox.inbox_status')$$,
	$$VALUES ('name'::name, 'text'), ('owner', 'name'), ('state', 'text'), ('lag_events', 'bigint'),
		('lag', 'interval'), ('last_dispatch', 'timestamp with time zone'), ('retrying', 'bigint'),
		('dead', 'bigint'), ('last_error', 'text'), ('last_error_at', 'timestamp with time zone'),
		('next_look_at', 'timestamp with time zone'), ('backlog', 'bigint'), ('replay_left', 'bigint')$$,
	'columns of inbox_status');
SELECT results_eq(
	$$SELECT name, type FROM pg_temp.columns_of('evinbox.dead_letter')$$,
	$$VALUES ('inbox'::name, 'text'), ('event_id', 'bigint'), ('subject_type', 'text'), ('subject_id', 'text'),
		('action', 'text'), ('actor', 'text'), ('metadata', 'jsonb'), ('recorded_at', 'timestamp with time zone'),
		('attempts', 'integer'), ('last_error', 'text'), ('last_sqlstate', 'text'), ('error_context', 'text'),
		('first_failed_at', 'timestamp with time zone'), ('died_at', 'timestamp with time zone')$$,
	'columns of dead_letter');
SELECT results_eq(
	$$SELECT name, type FROM pg_temp.columns_of('evinbox.worker_status')$$,
	$$VALUES ('kind'::name, 'text'), ('database', 'name'), ('owner', 'name'), ('pid', 'integer'), ('state', 'text'),
		('started_at', 'timestamp with time zone'), ('starts', 'bigint'), ('next_start_at', 'timestamp with time zone')$$,
	'columns of worker_status');

SELECT results_eq(
	$$SELECT * FROM pg_temp.columns_of('evinbox.endpoint')$$,
	$$VALUES ('name'::name, 'text', true, NULL),
		('owner', 'name', true, 'CURRENT_USER'),
		('url', 'text', true, NULL),
		('scope', 'text', false, NULL),
		('subject_types', 'text[]', false, NULL),
		('actions', 'text[]', false, NULL),
		('format', 'text', true, $q$'standard'::text$q$),
		('template', 'text', false, NULL),
		('headers', 'jsonb', true, $q$'{}'::jsonb$q$),
		('enabled', 'boolean', true, 'true'),
		('timeout', 'interval', true, $q$'00:00:15'::interval$q$),
		('max_in_flight', 'integer', true, '10'),
		('rate', 'integer', false, NULL),
		('rate_per', 'interval', true, $q$'00:00:01'::interval$q$),
		('retries', 'interval[]', true, $q$'{00:00:05,00:00:30,00:02:00,00:10:00,00:30:00,02:00:00,05:00:00,10:00:00,24:00:00}'::interval[]$q$),
		('max_attempts', 'integer', true, '12'),
		('rotation', 'interval', true, $q$'24:00:00'::interval$q$),
		('disable_after', 'interval', true, $q$'5 days'::interval$q$),
		('disabled_reason', 'text', false, NULL),
		('id', 'integer', true, 'always as identity'),
		('owner_id', 'oid', true, '0')$$,
	'columns of endpoint');
SELECT results_eq(
	$$SELECT name, type FROM pg_temp.columns_of('evinbox.webhook_delivery')$$,
	$$VALUES ('id'::name, 'bigint'), ('kind', 'text'), ('endpoint', 'text'), ('owner', 'name'), ('inbox', 'text'),
		('event_id', 'bigint'), ('message_id', 'text'), ('created_at', 'timestamp with time zone'), ('state', 'text'),
		('attempts', 'integer'), ('next_at', 'timestamp with time zone'), ('last_attempt_at', 'timestamp with time zone'),
		('last_status', 'integer'), ('last_error', 'text')$$,
	'columns of webhook_delivery');
SELECT results_eq(
	$$SELECT name, type FROM pg_temp.columns_of('evinbox.webhook_attempt')$$,
	$$VALUES ('delivery'::name, 'bigint'), ('number', 'integer'), ('endpoint', 'text'),
		('started_at', 'timestamp with time zone'), ('outcome', 'text'), ('status', 'integer'), ('curl_code', 'integer'),
		('error', 'text'), ('dns_ms', 'double precision'), ('connect_ms', 'double precision'), ('tls_ms', 'double precision'),
		('first_byte_ms', 'double precision'), ('total_ms', 'double precision'), ('address', 'text'), ('answer', 'text')$$,
	'columns of webhook_attempt');
SELECT results_eq(
	$$SELECT name, type FROM pg_temp.columns_of('evinbox.endpoint_status')$$,
	$$VALUES ('name'::name, 'text'), ('owner', 'name'), ('state', 'text'), ('closed_until', 'timestamp with time zone'),
		('disabled_reason', 'text'), ('waiting', 'bigint'), ('dead', 'bigint'), ('delivered_last_hour', 'bigint'),
		('failed_last_hour', 'bigint'), ('failures', 'integer'), ('failing_since', 'timestamp with time zone'), ('has_secret', 'boolean')$$,
	'columns of endpoint_status');

-- keys
SELECT results_eq(
	$$SELECT conrelid::regclass::text COLLATE "default", pg_get_constraintdef(oid) FROM pg_constraint
		WHERE connamespace = 'evinbox'::regnamespace AND contype IN ('p', 'u', 'f') ORDER BY 1, 2$$,
	$$VALUES ('evinbox.action', 'PRIMARY KEY (subject_type, action)'),
		('evinbox.batch', 'PRIMARY KEY (id)'),
		('evinbox.delivery', 'FOREIGN KEY (inbox) REFERENCES evinbox.inbox(name) ON UPDATE CASCADE ON DELETE CASCADE'),
		('evinbox.delivery', 'PRIMARY KEY (inbox, event_id)'),
		('evinbox.endpoint', 'PRIMARY KEY (name)'),
		('evinbox.endpoint', 'UNIQUE (id)'),
		('evinbox.event', 'PRIMARY KEY (id)'),
		('evinbox.inbox', 'PRIMARY KEY (name)'),
		('evinbox.inbox', 'UNIQUE (id)'),
		('evinbox.template', 'PRIMARY KEY (locale, subject_type, action)')$$,
	'keys');
SELECT is(pg_get_partkeydef('evinbox.event'::regclass), 'RANGE (id)', 'event is partitioned by ranges of id');
SELECT is_empty(
	$$SELECT attrelid::regclass, attname FROM pg_attribute
		WHERE attrelid::regclass::text IN ('evinbox.event', 'evinbox.action', 'evinbox.inbox', 'evinbox.delivery', 'evinbox.template')
			AND attnum > 0 AND atttypid = 'text'::regtype AND attcollation <> '"C"'::regcollation
			AND (attrelid::regclass::text, attname) NOT IN (
				('evinbox.inbox', 'condition'), ('evinbox.inbox', 'handler'), ('evinbox.inbox', 'statement'),
				('evinbox.inbox', 'search_path'), ('evinbox.delivery', 'last_error'), ('evinbox.delivery', 'error_context'), ('evinbox.template', 'text'))$$,
	'identifiers are compared bytewise');

-- functions: arguments with their defaults, result, and how they may be called
SELECT results_eq(
	$$SELECT proname::text COLLATE "default", pg_get_function_arguments(oid), pg_get_function_result(oid)
		FROM pg_proc WHERE pronamespace = 'evinbox'::regnamespace ORDER BY 1, 2$$,
	$$VALUES
		('actor_feed', 'actor text, before_id bigint DEFAULT NULL::bigint, max integer DEFAULT 20', 'SETOF evinbox.event'),
		('begin_batch', 'description text', 'bigint'),
		('describe', 'event evinbox.event, locale text DEFAULT ''en''::text', 'text'),
		('discard', 'inbox text, event_id bigint', 'void'),
		('dispatch_replicated', 'enabled boolean', 'void'),
		('end_batch', '', 'void'),
		('erase', 'subject_type text, subject_id text', 'bigint'),
		('erase_actor', 'actor text', 'bigint'),
		('feed', 'subjects jsonb, before_id bigint DEFAULT NULL::bigint, max integer DEFAULT 20', 'SETOF evinbox.event'),
		('give_up', 'reason text', 'void'),
		('grouped_feed', 'subjects jsonb DEFAULT NULL::jsonb, actor text DEFAULT NULL::text, scope text DEFAULT NULL::text, before_id bigint DEFAULT NULL::bigint, max integer DEFAULT 20, gap interval DEFAULT ''00:05:00''::interval, time_zone text DEFAULT NULL::text, group_by text DEFAULT ''actor''::text', 'TABLE(last_id bigint, first_id bigint, count integer, actors text[], action text, first_at timestamp with time zone, last_at timestamp with time zone, day date, event evinbox.event)'),
		('http_request', 'target text, body jsonb, headers jsonb DEFAULT ''{}''::jsonb, method text DEFAULT ''POST''::text, content_type text DEFAULT ''application/json''::text', 'bigint'),
		('http_request', 'target text, body text, headers jsonb DEFAULT ''{}''::jsonb, method text DEFAULT ''POST''::text, content_type text DEFAULT ''text/plain; charset=utf-8''::text', 'bigint'),
		('mail', 'event evinbox.event, config jsonb', 'void'),
		('pause', 'inbox text', 'void'),
		('record_event', 'subject_type text, subject_id bigint, action text, actor text DEFAULT NULL::text, metadata jsonb DEFAULT ''{}''::jsonb, throttle interval DEFAULT NULL::interval, throttle_by text DEFAULT ''subject''::text, snapshot jsonb DEFAULT NULL::jsonb, scope text DEFAULT NULL::text, occurred_at timestamp with time zone DEFAULT NULL::timestamp with time zone', 'bigint'),
		('record_event', 'subject_type text, subject_id text, action text, actor text DEFAULT NULL::text, metadata jsonb DEFAULT ''{}''::jsonb, throttle interval DEFAULT NULL::interval, throttle_by text DEFAULT ''subject''::text, snapshot jsonb DEFAULT NULL::jsonb, scope text DEFAULT NULL::text, occurred_at timestamp with time zone DEFAULT NULL::timestamp with time zone', 'bigint'),
		('record_event', 'subject_type text, subject_id uuid, action text, actor text DEFAULT NULL::text, metadata jsonb DEFAULT ''{}''::jsonb, throttle interval DEFAULT NULL::interval, throttle_by text DEFAULT ''subject''::text, snapshot jsonb DEFAULT NULL::jsonb, scope text DEFAULT NULL::text, occurred_at timestamp with time zone DEFAULT NULL::timestamp with time zone', 'bigint'),
		('record_events', 'events jsonb', 'bigint[]'),
		('recover', 'endpoint text, since timestamp with time zone', 'bigint'),
		('replay', 'inbox text, from_id bigint, to_id bigint', 'void'),
		('resend', 'delivery bigint', 'bigint'),
		('resume', 'inbox text', 'void'),
		('resume_after_restore', 'mode text', 'void'),
		('retry', 'inbox text DEFAULT NULL::text, event_id bigint DEFAULT NULL::bigint', 'bigint'),
		('retry_in', 'delay interval', 'void'),
		('run', 'inbox text DEFAULT NULL::text, max_events integer DEFAULT NULL::integer', 'bigint'),
		('schedule', 'inbox text, schedule text', 'bigint'),
		('scope_feed', 'scope text, before_id bigint DEFAULT NULL::bigint, max integer DEFAULT 20', 'SETOF evinbox.event'),
		('set_context', 'context jsonb, actor text DEFAULT NULL::text', 'void'),
		('set_endpoint_secret', 'name text, secret text DEFAULT NULL::text', 'text'),
		('skip', 'reason text', 'void'),
		('state_at', 'subject_type text, subject_id text, at timestamp with time zone', 'jsonb'),
		('subject_feed', 'subject_type text, subject_id bigint, before_id bigint DEFAULT NULL::bigint, max integer DEFAULT 20', 'SETOF evinbox.event'),
		('subject_feed', 'subject_type text, subject_id text, before_id bigint DEFAULT NULL::bigint, max integer DEFAULT 20', 'SETOF evinbox.event'),
		('subject_feed', 'subject_type text, subject_id uuid, before_id bigint DEFAULT NULL::bigint, max integer DEFAULT 20', 'SETOF evinbox.event'),
		('test_endpoint', 'name text', 'bigint'),
		('track', 'relation regclass, columns name[], action text DEFAULT ''changed''::text, subject_type text DEFAULT NULL::text, id_column name DEFAULT NULL::name, events text[] DEFAULT ''{update}''::text[], scope_column name DEFAULT NULL::name, snapshot boolean DEFAULT false', 'void'),
		('unschedule', 'inbox text', 'void'),
		('untrack', 'relation regclass', 'void'),
		('webhook', 'event evinbox.event, config jsonb', 'void')$$,
	'public functions');
SELECT is_empty(
	$$SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'evinbox'::regnamespace
		AND proname NOT IN ('describe', 'state_at') AND proname NOT LIKE '%feed'
		AND (provolatile <> 'v' OR proparallel <> 'u' OR prolang <> (SELECT oid FROM pg_language WHERE lanname = 'c'))$$,
	'public functions that do something are volatile, parallel unsafe, and in C');
SELECT is_empty(
	$$SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'evinbox'::regnamespace
		AND (proname IN ('describe', 'state_at') OR proname LIKE '%feed') AND (provolatile <> 's' OR proparallel = 'u' OR
			prosqlbody IS NULL AND prolang <> (SELECT oid FROM pg_language WHERE lanname = 'c'))$$,
	'those that show something are stable, and depend on no search_path');
SELECT set_eq(
	$$SELECT DISTINCT proname::text FROM pg_proc WHERE pronamespace = 'evinbox'::regnamespace AND proisstrict$$,
	ARRAY['record_events', 'schedule', 'unschedule', 'pause', 'resume', 'discard', 'replay', 'resume_after_restore', 'dispatch_replicated',
		'untrack', 'state_at', 'test_endpoint', 'resend', 'recover'],
	'strict functions');
SELECT is_empty(
	$$SELECT oid::regprocedure FROM pg_proc
		WHERE pronamespace::regnamespace::text IN ('evinbox', 'evinbox_internal') AND prosecdef$$,
	'no function is SECURITY DEFINER');

-- what keeps events as they are
SELECT results_eq(
	$$SELECT tgname::text COLLATE "default", tgenabled::text FROM pg_trigger
		WHERE tgrelid = 'evinbox.event'::regclass AND NOT tgisinternal ORDER BY 1$$,
	$$VALUES ('event_after_insert', 'A'), ('event_before_insert', 'O'),
		('event_refuse_change', 'A'), ('event_refuse_row_change', 'A')$$,
	'triggers of event');
SELECT is_empty(
	$$SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'evinbox.event'::regclass
		AND NOT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = inhrelid AND tgenabled = 'A' AND tgtype & 32 > 0)$$,
	'no partition can be truncated');

-- pg_upgrade refuses tables that refer to functions and the like by OID
SELECT is_empty(
	$$SELECT attrelid::regclass, attname FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
		WHERE relnamespace::regnamespace::text IN ('evinbox', 'evinbox_internal') AND relkind IN ('r', 'p')
			AND attnum > 0 AND format_type(atttypid, NULL) LIKE 'reg%'$$,
	'no table has a reg* column');
SELECT is_empty(
	$$SELECT c.oid::regclass FROM pg_class c WHERE relnamespace::regnamespace::text IN ('evinbox', 'evinbox_internal')
		AND relkind IN ('r', 'p') AND relpersistence <> 'p'$$,
	'every table is logged');
-- whose rules
SELECT results_eq(
	$$SELECT tgname::text COLLATE "default", tgenabled::text FROM pg_trigger
		WHERE tgrelid = 'evinbox.inbox'::regclass AND NOT tgisinternal ORDER BY 1$$,
	$$VALUES ('inbox_changed', 'O'), ('inbox_check', 'O'), ('inbox_check_delete', 'O'), ('inbox_owners_changed', 'O'),
		('inbox_owners_truncated', 'O'), ('inbox_truncated', 'O'), ('refuse_replicated', 'R'), ('refuse_replicated_truncate', 'R')$$,
	'triggers of inbox');
SELECT results_eq(
	$$SELECT c.oid::regclass::text COLLATE "default" FROM pg_class c
		WHERE relnamespace::regnamespace::text IN ('evinbox', 'evinbox_internal') AND relrowsecurity AND NOT relforcerowsecurity
			AND relname !~ '^request_[0-9]' ORDER BY 1$$,
	$$VALUES ('evinbox.endpoint'), ('evinbox.inbox'), ('evinbox_internal.endpoint_secret'), ('evinbox_internal.request'),
		('evinbox_internal.request_default')$$, 'rules, endpoints, secrets and calls have row security, and nothing else has');
SELECT is(count(*)::int, 0, 'each partition of calls has it')
	FROM pg_inherits JOIN pg_class c ON c.oid = inhrelid WHERE inhparent = 'evinbox_internal.request'::regclass AND NOT relrowsecurity;
SELECT is(concat_ws(' ', polname, polcmd, polpermissive, polroles::regrole[], pg_get_expr(polqual, polrelid), polwithcheck),
		'endpoint_of_own_roles * t {-} pg_has_role(owner_id, ''MEMBER''::text)', 'endpoints by one policy')
	FROM pg_policy WHERE polrelid = 'evinbox.endpoint'::regclass;
SELECT results_eq(
	$$SELECT tgname::text COLLATE "default", tgenabled::text FROM pg_trigger
		WHERE tgrelid = 'evinbox.endpoint'::regclass AND NOT tgisinternal ORDER BY 1$$,
	$$VALUES ('endpoint_changed', 'A'), ('endpoint_check', 'O'), ('endpoint_check_delete', 'O'), ('endpoint_enabled', 'O'),
		('endpoint_owners_changed', 'O'), ('endpoint_owners_truncated', 'O'), ('refuse_replicated', 'R'), ('refuse_replicated_truncate', 'R')$$,
	'triggers of endpoint');
SELECT is(concat_ws(' ', polname, polcmd, polpermissive, polroles::regrole[], pg_get_expr(polqual, polrelid), polwithcheck),
		'inbox_of_own_roles * t {-} pg_has_role(owner_id, ''MEMBER''::text)', 'by one policy')
	FROM pg_policy WHERE polrelid = 'evinbox.inbox'::regclass;
SELECT results_eq(
	$$SELECT c.relname::text COLLATE "default" FROM pg_class c
		WHERE relnamespace = 'evinbox'::regnamespace AND relkind = 'v' AND 'security_barrier=true' = ANY (reloptions) ORDER BY 1$$,
	$$VALUES ('dead_letter'), ('endpoint_status'), ('inbox_status'), ('webhook_attempt'), ('webhook_delivery')$$, 'views that choose among rows keep others'' functions out');

-- what a dump takes along
SELECT set_eq(
	$$SELECT unnest(extconfig)::regclass::text FROM pg_extension WHERE extname = 'evinbox'$$,
	$$SELECT c.oid::regclass::text FROM pg_class c
		WHERE relnamespace::regnamespace::text IN ('evinbox', 'evinbox_internal') AND relkind IN ('r', 'S')
			AND relname NOT IN ('halt', 'attempt', 'cursor_seq', 'backlog_seq_seq', 'endpoint_secret', 'endpoint_state', 'courier')$$,
	'all is dumped that cannot be found out again');
SELECT is_empty(
	$$SELECT unnest(extcondition) FROM pg_extension WHERE extname = 'evinbox' EXCEPT SELECT ''$$, 'and each wholly');
SELECT is(evtname::text, 'evinbox_before_drop', 'the event trigger') FROM pg_event_trigger WHERE evtname LIKE 'evinbox%';

SELECT * FROM finish();
ROLLBACK;
