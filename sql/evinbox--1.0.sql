/* sql/evinbox--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION evinbox" to load this file. \quit

CREATE SCHEMA evinbox;
COMMENT ON SCHEMA evinbox IS 'evinbox: record what happened, and say what to do about it';

CREATE SCHEMA evinbox_internal;
COMMENT ON SCHEMA evinbox_internal IS 'evinbox: private tables and functions, reached only by the extension''s own C code';

-- Identifiers are compared byte by byte: quicker, and no upgrade of the
-- operating system's locales can reorder an index under us.

------------------------------------------------------------------------------
-- What happened
------------------------------------------------------------------------------

CREATE TABLE evinbox.event (
	id bigint GENERATED ALWAYS AS IDENTITY,
	subject_type text COLLATE "C" NOT NULL,
	subject_id text COLLATE "C" NOT NULL,
	action text COLLATE "C" NOT NULL,
	actor text COLLATE "C",
	scope text COLLATE "C",
	metadata jsonb NOT NULL DEFAULT '{}',
	snapshot jsonb,
	batch_id bigint,
	caused_by bigint,
	depth smallint NOT NULL DEFAULT 0,
	occurred_at timestamptz NOT NULL,
	recorded_at timestamptz NOT NULL,
	CONSTRAINT event_pkey PRIMARY KEY (id)
) PARTITION BY RANGE (id);

-- The probes of a throttle: is there one since then?
CREATE INDEX event_subject_action_idx ON evinbox.event
	(subject_type, subject_id, action, recorded_at);
CREATE INDEX event_actor_subject_action_idx ON evinbox.event
	(actor, subject_type, subject_id, action, recorded_at);

-- Feeds: the newest ones of a subject, an actor, a scope. event.c knows that the
-- partial ones leave out rows without a value for their first column.
CREATE INDEX event_subject_feed_idx ON evinbox.event (subject_type, subject_id, id);
CREATE INDEX event_actor_feed_idx ON evinbox.event (actor, id) WHERE actor IS NOT NULL;
CREATE INDEX event_scope_feed_idx ON evinbox.event (scope, id) WHERE scope IS NOT NULL;

COMMENT ON TABLE evinbox.event IS 'What happened: immutable facts, append-only, partitioned by ranges of id';
COMMENT ON COLUMN evinbox.event.id IS 'Grows in the order of recording, which is not the order of commit';
COMMENT ON COLUMN evinbox.event.subject_type IS 'What kind of thing it happened to, e.g. Issue';
COMMENT ON COLUMN evinbox.event.subject_id IS 'Which one of its kind';
COMMENT ON COLUMN evinbox.event.action IS 'What happened to it, in the past tense, e.g. status_changed';
COMMENT ON COLUMN evinbox.event.actor IS 'Who did it, e.g. User:7; NULL for the system';
COMMENT ON COLUMN evinbox.event.scope IS 'Whose world it belongs to, e.g. a tenant';
COMMENT ON COLUMN evinbox.event.metadata IS 'What else is known: a JSON object';
COMMENT ON COLUMN evinbox.event.snapshot IS 'The subject as it was then, if the caller gave it';
COMMENT ON COLUMN evinbox.event.batch_id IS 'The batch of events that it belongs to';
COMMENT ON COLUMN evinbox.event.caused_by IS 'The event whose handler recorded this one; set by evinbox';
COMMENT ON COLUMN evinbox.event.depth IS 'How many causes stand before this one; set by evinbox';
COMMENT ON COLUMN evinbox.event.occurred_at IS 'When it happened; the time of recording unless given';
COMMENT ON COLUMN evinbox.event.recorded_at IS 'When it was recorded; set by evinbox';

CREATE TABLE evinbox.action (
	subject_type text COLLATE "C" NOT NULL,
	action text COLLATE "C" NOT NULL,
	required text[] COLLATE "C" NOT NULL DEFAULT '{}',
	CONSTRAINT action_pkey PRIMARY KEY (subject_type, action),
	CONSTRAINT action_not_empty CHECK (subject_type <> '' AND action <> ''),
	CONSTRAINT action_required_keys CHECK (array_position(required, NULL) IS NULL)
);

COMMENT ON TABLE evinbox.action IS 'The actions of closed subject types: a type with a row here accepts no others';
COMMENT ON COLUMN evinbox.action.subject_type IS 'The closed type';
COMMENT ON COLUMN evinbox.action.action IS 'An action that it has';
COMMENT ON COLUMN evinbox.action.required IS 'Keys that an event''s metadata must have';

CREATE TABLE evinbox.batch (
	id bigint GENERATED ALWAYS AS IDENTITY,
	description text,
	actor text COLLATE "C",
	started_at timestamptz NOT NULL,
	CONSTRAINT batch_pkey PRIMARY KEY (id)
);

COMMENT ON TABLE evinbox.batch IS 'Events that belong together: those recorded between begin_batch() and end_batch()';
COMMENT ON COLUMN evinbox.batch.id IS 'What the events have as batch_id';
COMMENT ON COLUMN evinbox.batch.description IS 'What begin_batch() was told';
COMMENT ON COLUMN evinbox.batch.actor IS 'Who acted when it began';
COMMENT ON COLUMN evinbox.batch.started_at IS 'When it began';

------------------------------------------------------------------------------
-- What to do about it
------------------------------------------------------------------------------

CREATE TABLE evinbox.inbox (
	name text COLLATE "C" NOT NULL,
	owner name NOT NULL DEFAULT CURRENT_USER,
	subject_types text[] COLLATE "C",
	actions text[] COLLATE "C",
	condition text,
	handler text,
	statement text,
	config jsonb NOT NULL DEFAULT '{}',
	enabled boolean NOT NULL DEFAULT true,
	dispatch text COLLATE "C" NOT NULL DEFAULT 'live',
	priority integer NOT NULL DEFAULT 10,
	max_attempts integer NOT NULL DEFAULT 5,
	backoff interval NOT NULL DEFAULT '15 seconds',
	timeout interval NOT NULL DEFAULT '30 seconds',
	batch_size integer NOT NULL DEFAULT 1000,
	id integer GENERATED ALWAYS AS IDENTITY,
	search_path text NOT NULL DEFAULT '',
	shards integer NOT NULL DEFAULT 1,
	replayable boolean NOT NULL DEFAULT false,
	start_at text COLLATE "C",
	owner_id oid NOT NULL DEFAULT 0,
	CONSTRAINT inbox_pkey PRIMARY KEY (name),
	CONSTRAINT inbox_id_key UNIQUE (id)
);

COMMENT ON TABLE evinbox.inbox IS 'Rules: which events, and what to do about them';
COMMENT ON COLUMN evinbox.inbox.name IS 'What it is called by; may be changed';
COMMENT ON COLUMN evinbox.inbox.owner IS 'The role that condition and handler run as';
COMMENT ON COLUMN evinbox.inbox.subject_types IS 'Events of these subject types; NULL for all';
COMMENT ON COLUMN evinbox.inbox.actions IS 'Events with these actions; NULL for all';
COMMENT ON COLUMN evinbox.inbox.condition IS 'A SQL boolean expression over e, the event; NULL for true';
COMMENT ON COLUMN evinbox.inbox.handler IS 'A function f(evinbox.event) or f(evinbox.event, jsonb), called for each event';
COMMENT ON COLUMN evinbox.inbox.statement IS 'One SQL statement, run once a batch over the relation events';
COMMENT ON COLUMN evinbox.inbox.config IS 'The handler''s second argument';
COMMENT ON COLUMN evinbox.inbox.enabled IS 'False pauses the inbox: its events wait for it';
COMMENT ON COLUMN evinbox.inbox.dispatch IS '''live'': by a worker, right after commit; ''scheduled'': by run(name)';
COMMENT ON COLUMN evinbox.inbox.priority IS 'Inboxes of one owner take turns in this order, lowest first';
COMMENT ON COLUMN evinbox.inbox.max_attempts IS 'How often a failing event is tried before it is a dead letter';
COMMENT ON COLUMN evinbox.inbox.backoff IS 'Wait after the first failure; doubles with each further one';
COMMENT ON COLUMN evinbox.inbox.timeout IS 'Longest time in the worker for a handler''s one event, or a statement''s or condition''s batch; 0 for no limit';
COMMENT ON COLUMN evinbox.inbox.batch_size IS 'Most events that one transaction handles';
COMMENT ON COLUMN evinbox.inbox.id IS 'Set by evinbox; stays when the inbox is renamed';
COMMENT ON COLUMN evinbox.inbox.shards IS 'How many runners may work for it at once, each for some of the subjects';
COMMENT ON COLUMN evinbox.inbox.replayable IS 'Whether replay() may offer past events to it again';
COMMENT ON COLUMN evinbox.inbox.start_at IS 'Which past events it was given first: ''beginning'', or a time; NULL for none';
COMMENT ON COLUMN evinbox.inbox.owner_id IS 'The owner''s OID: rules follow a role that is renamed; set by evinbox';
COMMENT ON COLUMN evinbox.inbox.search_path IS 'The search_path of the rule''s writing, in force when it runs; set by evinbox';

CREATE TABLE evinbox.delivery (
	inbox text COLLATE "C" NOT NULL,
	event_id bigint NOT NULL,
	state text COLLATE "C" NOT NULL,
	attempts integer NOT NULL,
	next_at timestamptz,
	last_error text,
	last_sqlstate text COLLATE "C",
	error_context text,
	created_at timestamptz NOT NULL,
	updated_at timestamptz NOT NULL,
	CONSTRAINT delivery_pkey PRIMARY KEY (inbox, event_id),
	CONSTRAINT delivery_inbox_fkey FOREIGN KEY (inbox) REFERENCES evinbox.inbox
		ON UPDATE CASCADE ON DELETE CASCADE,
	CONSTRAINT delivery_state_check CHECK (state IN ('retry', 'dead', 'skipped')),
	CONSTRAINT delivery_next_at_check CHECK ((state = 'retry') = (next_at IS NOT NULL))
);

CREATE INDEX delivery_state_idx ON evinbox.delivery (inbox, state, updated_at);
CREATE INDEX delivery_due_idx ON evinbox.delivery (inbox, next_at) WHERE state = 'retry';

COMMENT ON TABLE evinbox.delivery IS 'Events that an inbox could not handle, yet or at all; plain success leaves no row';
COMMENT ON COLUMN evinbox.delivery.inbox IS 'The inbox that could not handle it';
COMMENT ON COLUMN evinbox.delivery.event_id IS 'The event';
COMMENT ON COLUMN evinbox.delivery.state IS '''retry'': will be tried again at next_at; ''dead'': given up; ''skipped'': not wanted';
COMMENT ON COLUMN evinbox.delivery.attempts IS 'How often it has failed';
COMMENT ON COLUMN evinbox.delivery.next_at IS 'When it is tried again';
COMMENT ON COLUMN evinbox.delivery.last_error IS 'Message of the last failure, or why it was skipped';
COMMENT ON COLUMN evinbox.delivery.last_sqlstate IS 'SQLSTATE of the last failure';
COMMENT ON COLUMN evinbox.delivery.error_context IS 'Where that happened: the call stack of the handler';
COMMENT ON COLUMN evinbox.delivery.created_at IS 'When it failed first';
COMMENT ON COLUMN evinbox.delivery.updated_at IS 'When it failed last';

------------------------------------------------------------------------------
-- The engine's own tables
------------------------------------------------------------------------------

-- One row for each event of a transaction. A segment is chosen by the
-- transaction's own xid, and truncated when every cursor is past its rows: a
-- vacuum would have nothing to do. Every 1,024th row says what was finished
-- when it was written, so that a backlog can be taken in steps.
CREATE TABLE evinbox_internal.outbox_0 (xid xid8 NOT NULL, event_id bigint NOT NULL, checkpoint pg_snapshot)
	WITH (autovacuum_enabled = false);
CREATE TABLE evinbox_internal.outbox_1 (xid xid8 NOT NULL, event_id bigint NOT NULL, checkpoint pg_snapshot)
	WITH (autovacuum_enabled = false);
CREATE TABLE evinbox_internal.outbox_2 (xid xid8 NOT NULL, event_id bigint NOT NULL, checkpoint pg_snapshot)
	WITH (autovacuum_enabled = false);
CREATE TABLE evinbox_internal.outbox_3 (xid xid8 NOT NULL, event_id bigint NOT NULL, checkpoint pg_snapshot)
	WITH (autovacuum_enabled = false);
CREATE INDEX outbox_0_idx ON evinbox_internal.outbox_0 (xid, event_id);
CREATE INDEX outbox_1_idx ON evinbox_internal.outbox_1 (xid, event_id);
CREATE INDEX outbox_2_idx ON evinbox_internal.outbox_2 (xid, event_id);
CREATE INDEX outbox_3_idx ON evinbox_internal.outbox_3 (xid, event_id);

-- How far each lane of an inbox has come: its newest row counts. An inbox has
-- a lane for each of its shards, and lane -1 for replays. Everything visible
-- in "done" is handled, and what "taking" sees beyond it up to "position", and
-- the events of "own_xid" up to "own_position"; but not what is in the lane's
-- backlog from "backlog_position" in its row "backlog_seq" on.
CREATE TABLE evinbox_internal.cursor_0 (
	inbox_id integer NOT NULL,
	lane integer NOT NULL,
	seq bigint NOT NULL,
	lanes integer NOT NULL,
	done pg_snapshot NOT NULL,
	taking pg_snapshot,
	position bigint,
	own_xid xid8,
	own_position bigint,
	backlog_seq bigint NOT NULL,
	backlog_position bigint NOT NULL,
	dispatched_at timestamptz,
	streak integer NOT NULL
) WITH (autovacuum_enabled = false);
CREATE TABLE evinbox_internal.cursor_1 (LIKE evinbox_internal.cursor_0)
	WITH (autovacuum_enabled = false);
CREATE INDEX cursor_0_idx ON evinbox_internal.cursor_0 (inbox_id, lane, seq);
CREATE INDEX cursor_1_idx ON evinbox_internal.cursor_1 (inbox_id, lane, seq);
CREATE SEQUENCE evinbox_internal.cursor_seq;

-- Ranges of event ids that a lane has yet to handle, in the order of seq: past
-- events for a new inbox, replays, and what the outbox did not wait with. All
-- events of an exact range belong to it; of another one, those that are in no
-- later range. If there is a former lane, only what it was to handle does.
CREATE TABLE evinbox_internal.backlog (
	inbox_id integer NOT NULL,
	lane integer NOT NULL,
	seq bigint GENERATED ALWAYS AS IDENTITY,
	first_id bigint NOT NULL,
	last_id bigint NOT NULL,
	exact boolean NOT NULL,
	since timestamptz,
	former_lane integer,
	former_lanes integer
);
CREATE INDEX backlog_idx ON evinbox_internal.backlog (inbox_id, lane, seq);

-- Inboxes whose rule cannot run as it stands, and why; and when to look again.
CREATE TABLE evinbox_internal.halt (
	inbox_id integer NOT NULL,
	reason text NOT NULL,
	halted_at timestamptz NOT NULL,
	looks integer NOT NULL,
	next_look_at timestamptz NOT NULL,
	CONSTRAINT halt_pkey PRIMARY KEY (inbox_id),
	CONSTRAINT halt_inbox_fkey FOREIGN KEY (inbox_id) REFERENCES evinbox.inbox (id)
		ON DELETE CASCADE
);

-- Events that are being handled, written only after a server or a worker has
-- ended in the middle of a handler: which one was it?
CREATE TABLE evinbox_internal.attempt (
	inbox_id integer NOT NULL,
	event_id bigint NOT NULL,
	attempts integer NOT NULL,
	started_at timestamptz NOT NULL,
	CONSTRAINT attempt_pkey PRIMARY KEY (inbox_id, event_id),
	CONSTRAINT attempt_inbox_fkey FOREIGN KEY (inbox_id) REFERENCES evinbox.inbox (id)
		ON DELETE CASCADE
);

-- Where this database is: the server's system identifier and the database's
-- OID. A row that came along with a copy, or with a dump, tells of elsewhere.
CREATE TABLE evinbox_internal.incarnation (
	system_identifier bigint NOT NULL,
	database_id oid NOT NULL,
	catalog_version integer NOT NULL,
	since timestamptz NOT NULL,
	dispatch_replicated boolean NOT NULL
);

-- Events that were recorded in a copy before it was said what is to become of
-- them: see resume_after_restore().
CREATE TABLE evinbox_internal.waiting (event_id bigint NOT NULL);

CREATE FUNCTION evinbox_internal.incarnation_changed() RETURNS trigger
AS 'MODULE_PATHNAME', 'evinbox_incarnation_changed'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
CREATE TRIGGER incarnation_changed
	AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON evinbox_internal.incarnation
	FOR EACH STATEMENT EXECUTE FUNCTION evinbox_internal.incarnation_changed();
ALTER TABLE evinbox_internal.incarnation ENABLE ALWAYS TRIGGER incarnation_changed;

-- A publication of all tables may publish deletes and updates, and then they
-- need it; it costs nothing else. The other tables have a primary key.
ALTER TABLE evinbox_internal.backlog REPLICA IDENTITY FULL;
ALTER TABLE evinbox_internal.incarnation REPLICA IDENTITY FULL;

-- What the engine knows of one server is wrong on any other, and so are the
-- OIDs of rules' owners.
CREATE FUNCTION evinbox_internal.refuse_replicated() RETURNS trigger
AS 'MODULE_PATHNAME', 'evinbox_refuse_replicated'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION evinbox_internal.refuse_replicated_into(relation regclass) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE
AS $$
BEGIN
	EXECUTE pg_catalog.format(
		'CREATE TRIGGER refuse_replicated BEFORE INSERT OR UPDATE OR DELETE ON %s'
		' FOR EACH ROW EXECUTE FUNCTION evinbox_internal.refuse_replicated()', relation);
	EXECUTE pg_catalog.format(
		'CREATE TRIGGER refuse_replicated_truncate BEFORE TRUNCATE ON %s'
		' FOR EACH STATEMENT EXECUTE FUNCTION evinbox_internal.refuse_replicated()', relation);
	EXECUTE pg_catalog.format(
		'ALTER TABLE %s ENABLE REPLICA TRIGGER refuse_replicated,'
		' ENABLE REPLICA TRIGGER refuse_replicated_truncate', relation);
END $$;

SELECT evinbox_internal.refuse_replicated_into(c.oid) FROM pg_catalog.pg_class c
WHERE c.relkind = 'r' AND (c.relnamespace = 'evinbox_internal'::regnamespace
	OR c.oid IN ('evinbox.inbox'::regclass, 'evinbox.delivery'::regclass));

CREATE FUNCTION evinbox_internal.claim_database() RETURNS void
AS 'MODULE_PATHNAME', 'evinbox_claim_database'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

------------------------------------------------------------------------------
-- Recording
------------------------------------------------------------------------------

CREATE FUNCTION evinbox.record_event(
	subject_type text, subject_id text, action text,
	actor text DEFAULT NULL, metadata jsonb DEFAULT '{}',
	throttle interval DEFAULT NULL, throttle_by text DEFAULT 'subject',
	snapshot jsonb DEFAULT NULL, scope text DEFAULT NULL,
	occurred_at timestamptz DEFAULT NULL)
RETURNS bigint
AS 'MODULE_PATHNAME', 'evinbox_record_event'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION evinbox.record_event(
	subject_type text, subject_id bigint, action text,
	actor text DEFAULT NULL, metadata jsonb DEFAULT '{}',
	throttle interval DEFAULT NULL, throttle_by text DEFAULT 'subject',
	snapshot jsonb DEFAULT NULL, scope text DEFAULT NULL,
	occurred_at timestamptz DEFAULT NULL)
RETURNS bigint
AS 'MODULE_PATHNAME', 'evinbox_record_event_int8'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION evinbox.record_event(
	subject_type text, subject_id uuid, action text,
	actor text DEFAULT NULL, metadata jsonb DEFAULT '{}',
	throttle interval DEFAULT NULL, throttle_by text DEFAULT 'subject',
	snapshot jsonb DEFAULT NULL, scope text DEFAULT NULL,
	occurred_at timestamptz DEFAULT NULL)
RETURNS bigint
AS 'MODULE_PATHNAME', 'evinbox_record_event_uuid'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

COMMENT ON FUNCTION evinbox.record_event(text, text, text, text, jsonb, interval, text, jsonb, text, timestamptz)
	IS 'Records an event and returns its id, or NULL if it was throttled';
COMMENT ON FUNCTION evinbox.record_event(text, bigint, text, text, jsonb, interval, text, jsonb, text, timestamptz)
	IS 'Records an event and returns its id, or NULL if it was throttled';
COMMENT ON FUNCTION evinbox.record_event(text, uuid, text, text, jsonb, interval, text, jsonb, text, timestamptz)
	IS 'Records an event and returns its id, or NULL if it was throttled';

CREATE FUNCTION evinbox.record_events(events jsonb) RETURNS bigint[]
AS 'MODULE_PATHNAME', 'evinbox_record_events'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION evinbox.record_events(jsonb)
	IS 'Records the events of a JSON array and returns their ids, with NULL for those that were throttled';

CREATE FUNCTION evinbox.set_context(context jsonb, actor text DEFAULT NULL) RETURNS void
AS 'MODULE_PATHNAME', 'evinbox_set_context'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION evinbox.set_context(jsonb, text)
	IS 'Until the end of the transaction, what goes over the metadata of its events, and who acts';

CREATE FUNCTION evinbox.begin_batch(description text) RETURNS bigint
AS 'MODULE_PATHNAME', 'evinbox_begin_batch'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION evinbox.begin_batch(text)
	IS 'Makes what is recorded from now on, in this transaction, belong together; returns the batch''s id';

CREATE FUNCTION evinbox.end_batch() RETURNS void
AS 'MODULE_PATHNAME', 'evinbox_end_batch'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION evinbox.end_batch() IS 'Ends the batch that has begun last';

CREATE FUNCTION evinbox_internal.event_before_insert() RETURNS trigger
AS 'MODULE_PATHNAME', 'evinbox_event_before_insert'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION evinbox_internal.event_after_insert() RETURNS trigger
AS 'MODULE_PATHNAME', 'evinbox_event_after_insert'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION evinbox_internal.event_refuse_change() RETURNS trigger
AS 'MODULE_PATHNAME', 'evinbox_event_refuse_change'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE TRIGGER event_before_insert BEFORE INSERT ON evinbox.event
	FOR EACH ROW EXECUTE FUNCTION evinbox_internal.event_before_insert();
CREATE TRIGGER event_after_insert AFTER INSERT ON evinbox.event
	FOR EACH ROW EXECUTE FUNCTION evinbox_internal.event_after_insert();

-- The statement's trigger answers also where no row matches; the rows' one is
-- inherited by the partitions; neither yields to session_replication_role.
CREATE TRIGGER event_refuse_change BEFORE UPDATE OR DELETE OR TRUNCATE ON evinbox.event
	FOR EACH STATEMENT EXECUTE FUNCTION evinbox_internal.event_refuse_change();
CREATE TRIGGER event_refuse_row_change BEFORE UPDATE OR DELETE ON evinbox.event
	FOR EACH ROW EXECUTE FUNCTION evinbox_internal.event_refuse_change();
ALTER TABLE evinbox.event ENABLE ALWAYS TRIGGER event_after_insert;
ALTER TABLE evinbox.event ENABLE ALWAYS TRIGGER event_refuse_change;
ALTER TABLE evinbox.event ENABLE ALWAYS TRIGGER event_refuse_row_change;

-- Partitions are made ahead of need; what no partition takes goes to the
-- default one, so that recording never fails for the lack of a partition.
CREATE FUNCTION evinbox_internal.make_partition() RETURNS void
AS 'MODULE_PATHNAME', 'evinbox_make_partition'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE TABLE evinbox_internal.event_default PARTITION OF evinbox.event DEFAULT;
CREATE TRIGGER event_refuse_truncate BEFORE TRUNCATE ON evinbox_internal.event_default
	FOR EACH STATEMENT EXECUTE FUNCTION evinbox_internal.event_refuse_change();
ALTER TABLE evinbox_internal.event_default ENABLE ALWAYS TRIGGER event_refuse_truncate;
SELECT evinbox_internal.make_partition();
SELECT evinbox_internal.claim_database();

------------------------------------------------------------------------------
-- Rules
------------------------------------------------------------------------------

CREATE FUNCTION evinbox_internal.inbox_check() RETURNS trigger
AS 'MODULE_PATHNAME', 'evinbox_inbox_check'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION evinbox_internal.inbox_check_delete() RETURNS trigger
AS 'MODULE_PATHNAME', 'evinbox_inbox_check_delete'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION evinbox_internal.inbox_owners_changed() RETURNS trigger
AS 'MODULE_PATHNAME', 'evinbox_inbox_owners_changed'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION evinbox_internal.inbox_changed() RETURNS trigger
AS 'MODULE_PATHNAME', 'evinbox_inbox_changed'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE TRIGGER inbox_check BEFORE INSERT OR UPDATE ON evinbox.inbox
	FOR EACH ROW EXECUTE FUNCTION evinbox_internal.inbox_check();
CREATE TRIGGER inbox_changed AFTER INSERT OR UPDATE OR DELETE ON evinbox.inbox
	FOR EACH ROW EXECUTE FUNCTION evinbox_internal.inbox_changed();
CREATE TRIGGER inbox_truncated AFTER TRUNCATE ON evinbox.inbox
	FOR EACH STATEMENT EXECUTE FUNCTION evinbox_internal.inbox_changed();
CREATE TRIGGER inbox_check_delete BEFORE DELETE ON evinbox.inbox
	FOR EACH ROW EXECUTE FUNCTION evinbox_internal.inbox_check_delete();
CREATE TRIGGER inbox_owners_changed AFTER INSERT OR UPDATE OF owner OR DELETE ON evinbox.inbox
	FOR EACH STATEMENT EXECUTE FUNCTION evinbox_internal.inbox_owners_changed();
CREATE TRIGGER inbox_owners_truncated AFTER TRUNCATE ON evinbox.inbox
	FOR EACH STATEMENT EXECUTE FUNCTION evinbox_internal.inbox_owners_changed();

-- Others' rules, and what is in their config, are nobody's business.
ALTER TABLE evinbox.inbox ENABLE ROW LEVEL SECURITY;
CREATE POLICY inbox_of_own_roles ON evinbox.inbox
	USING (pg_catalog.pg_has_role(owner_id, 'MEMBER'));

CREATE FUNCTION evinbox.run(inbox text DEFAULT NULL, max_events integer DEFAULT NULL)
RETURNS bigint
AS 'MODULE_PATHNAME', 'evinbox_run'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION evinbox.run(text, integer)
	IS 'Dispatches here and now, in this transaction: one inbox, or all live ones of the caller; returns how many events were handled';

CREATE FUNCTION evinbox.pause(inbox text) RETURNS void
AS 'MODULE_PATHNAME', 'evinbox_pause'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION evinbox.pause(text)
	IS 'Stops an inbox; its events wait, and so do replays';

CREATE FUNCTION evinbox.resume(inbox text) RETURNS void
AS 'MODULE_PATHNAME', 'evinbox_resume'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION evinbox.resume(text)
	IS 'Lets a paused or halted inbox go on at once';

CREATE FUNCTION evinbox.retry(inbox text DEFAULT NULL, event_id bigint DEFAULT NULL) RETURNS bigint
AS 'MODULE_PATHNAME', 'evinbox_retry'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION evinbox.retry(text, bigint)
	IS 'Has failed and dead events tried again now: one, an inbox''s, or all; a skipped one if it is named; returns how many';

CREATE FUNCTION evinbox.discard(inbox text, event_id bigint) RETURNS void
AS 'MODULE_PATHNAME', 'evinbox_discard'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION evinbox.discard(text, bigint)
	IS 'Gives up an event that has failed, without a dead letter';

CREATE FUNCTION evinbox.replay(inbox text, from_id bigint, to_id bigint) RETURNS void
AS 'MODULE_PATHNAME', 'evinbox_replay'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION evinbox.replay(text, bigint, bigint)
	IS 'Offers past events to a replayable inbox again, in the background';

CREATE FUNCTION evinbox.retry_in(delay interval) RETURNS void
AS 'MODULE_PATHNAME', 'evinbox_retry_in'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION evinbox.retry_in(interval)
	IS 'In a handler: undo this, and try the event again after so long';

CREATE FUNCTION evinbox.skip(reason text) RETURNS void
AS 'MODULE_PATHNAME', 'evinbox_skip'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION evinbox.skip(text)
	IS 'In a handler: undo this, and leave the event alone';

CREATE FUNCTION evinbox.give_up(reason text) RETURNS void
AS 'MODULE_PATHNAME', 'evinbox_give_up'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION evinbox.give_up(text)
	IS 'In a handler: undo this, and make the event a dead letter without further attempts';

CREATE FUNCTION evinbox.schedule(inbox text, schedule text) RETURNS bigint
AS 'MODULE_PATHNAME', 'evinbox_schedule'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION evinbox.schedule(text, text)
	IS 'Has pg_cron call run(inbox) on a schedule; returns the job''s id';

CREATE FUNCTION evinbox.unschedule(inbox text) RETURNS void
AS 'MODULE_PATHNAME', 'evinbox_unschedule'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION evinbox.unschedule(text)
	IS 'Takes back schedule(inbox, ...)';

------------------------------------------------------------------------------
-- How it goes
------------------------------------------------------------------------------

CREATE FUNCTION evinbox_internal.inbox_progress(
	inbox_id integer, owner_id oid, OUT lag_events bigint, OUT lag interval,
	OUT last_dispatch timestamptz, OUT backlog bigint, OUT replay_left bigint,
	OUT owner_fault text, OUT is_quiet boolean)
AS 'MODULE_PATHNAME', 'evinbox_inbox_progress'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION evinbox_internal.workers(
	OUT kind text, OUT database_id oid, OUT owner_id oid, OUT pid integer, OUT state text,
	OUT started_at timestamptz, OUT starts bigint, OUT next_start_at timestamptz)
RETURNS SETOF record
AS 'MODULE_PATHNAME', 'evinbox_workers'
LANGUAGE C STRICT VOLATILE PARALLEL RESTRICTED;

-- Counting stops at 10,000 rows: a status must not cost more as things get worse.
CREATE VIEW evinbox.inbox_status WITH (security_barrier) AS
SELECT i.name,
	COALESCE(o.rolname, i.owner) AS owner,
	CASE
		WHEN p.is_quiet THEN 'quiet'
		WHEN NOT i.enabled THEN 'paused'
		WHEN h.inbox_id IS NOT NULL OR o.oid IS NULL
			OR (p.owner_fault IS NOT NULL AND i.dispatch = 'live') THEN 'halted'
		WHEN i.dispatch = 'scheduled' THEN 'scheduled'
		WHEN w.running THEN 'running'
		ELSE 'no worker'
	END AS state,
	p.lag_events,
	p.lag,
	p.last_dispatch,
	(SELECT pg_catalog.count(*)
		FROM (SELECT FROM evinbox.delivery d
			WHERE d.inbox = i.name AND d.state = 'retry' LIMIT 10000) AS x) AS retrying,
	(SELECT pg_catalog.count(*)
		FROM (SELECT FROM evinbox.delivery d
			WHERE d.inbox = i.name AND d.state = 'dead' LIMIT 10000) AS x) AS dead,
	CASE
		WHEN o.oid IS NULL THEN pg_catalog.format('role "%s" does not exist', i.owner)
		WHEN i.dispatch = 'live' AND p.owner_fault IS NOT NULL THEN p.owner_fault
		ELSE COALESCE(h.reason, l.last_error)
	END AS last_error,
	COALESCE(h.halted_at, l.updated_at) AS last_error_at,
	h.next_look_at,
	p.backlog,
	p.replay_left
FROM evinbox.inbox i
	LEFT JOIN pg_catalog.pg_roles o ON o.oid = i.owner_id
	LEFT JOIN evinbox_internal.halt h ON h.inbox_id = i.id
	CROSS JOIN LATERAL evinbox_internal.inbox_progress(i.id, i.owner_id) p
	LEFT JOIN LATERAL (
		SELECT d.last_error, d.updated_at
		FROM (VALUES ('retry'), ('dead')) AS s (state)
			CROSS JOIN LATERAL (
				SELECT d1.last_error, d1.updated_at
				FROM evinbox.delivery d1
				WHERE d1.inbox = i.name AND d1.state = s.state
				ORDER BY d1.updated_at DESC LIMIT 1) d
		ORDER BY d.updated_at DESC LIMIT 1) l ON true
	CROSS JOIN LATERAL (
		SELECT pg_catalog.count(*) > 0 AS running
		FROM evinbox_internal.workers() k
			JOIN pg_catalog.pg_database b ON b.oid = k.database_id
		WHERE k.kind = 'runner' AND k.state = 'running'
			AND k.owner_id = o.oid AND b.datname = pg_catalog.current_database()) w
WHERE pg_catalog.pg_has_role(i.owner_id, 'MEMBER') OR pg_catalog.pg_has_role('pg_monitor', 'MEMBER');

COMMENT ON VIEW evinbox.inbox_status IS 'Each inbox of one''s roles, or all for pg_monitor: its state, how far it is behind, what fails';
COMMENT ON COLUMN evinbox.inbox_status.state IS 'running, scheduled, paused, halted (the rule cannot work; see last_error), no worker, or quiet (see resume_after_restore())';
COMMENT ON COLUMN evinbox.inbox_status.lag_events IS 'Committed events that the inbox has not looked at yet; an estimate from 10,000 on';
COMMENT ON COLUMN evinbox.inbox_status.lag IS 'Age of the oldest of these; 0 if there is none';
COMMENT ON COLUMN evinbox.inbox_status.last_dispatch IS 'When it last handled an event';
COMMENT ON COLUMN evinbox.inbox_status.retrying IS 'Events that failed and will be tried again; 10000 stands for that many or more';
COMMENT ON COLUMN evinbox.inbox_status.dead IS 'Dead letters; 10000 stands for that many or more';
COMMENT ON COLUMN evinbox.inbox_status.next_look_at IS 'When a halted inbox looks whether its rule works again';
COMMENT ON COLUMN evinbox.inbox_status.backlog IS 'How many of these are not taken from the outbox any more, but from evinbox.event';
COMMENT ON COLUMN evinbox.inbox_status.replay_left IS 'How many ids a replay has still to look at; 0 if there is none';
COMMENT ON COLUMN evinbox.inbox_status.last_error IS 'Why the inbox is halted, else its newest failure that is still open';

CREATE VIEW evinbox.dead_letter WITH (security_barrier) AS
SELECT d.inbox,
	d.event_id,
	e.subject_type,
	e.subject_id,
	e.action,
	e.actor,
	e.metadata,
	e.recorded_at,
	d.attempts,
	d.last_error,
	d.last_sqlstate,
	d.error_context,
	d.created_at AS first_failed_at,
	d.updated_at AS died_at
FROM evinbox.delivery d
	JOIN evinbox.inbox i ON i.name = d.inbox
	LEFT JOIN evinbox.event e ON e.id = d.event_id
WHERE d.state = 'dead'
	AND (pg_catalog.pg_has_role(i.owner_id, 'MEMBER') OR pg_catalog.pg_has_role('pg_monitor', 'MEMBER'));
COMMENT ON VIEW evinbox.dead_letter IS 'Events that an inbox of one''s roles has given up on, with the error; all for pg_monitor';

CREATE VIEW evinbox.worker_status AS
SELECT k.kind,
	b.datname AS database,
	r.rolname AS owner,
	k.pid,
	k.state,
	k.started_at,
	k.starts,
	k.next_start_at
FROM evinbox_internal.workers() k
	LEFT JOIN pg_catalog.pg_database b ON b.oid = k.database_id
	LEFT JOIN pg_catalog.pg_roles r ON r.oid = k.owner_id;
COMMENT ON VIEW evinbox.worker_status IS 'The background workers of evinbox in this server, wanted and running';
COMMENT ON COLUMN evinbox.worker_status.state IS 'starting, running, stopping, or waiting (for next_start_at, after a failure)';
COMMENT ON COLUMN evinbox.worker_status.starts IS 'How often it was started since the server''s start';

------------------------------------------------------------------------------
-- Erasing, and keeping
------------------------------------------------------------------------------

CREATE FUNCTION evinbox.erase(subject_type text, subject_id text) RETURNS bigint
AS 'MODULE_PATHNAME', 'evinbox_erase'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION evinbox.erase(text, text)
	IS 'Blanks metadata, snapshot and actor of all events of a subject, and records that; returns of how many';

CREATE FUNCTION evinbox.erase_actor(actor text) RETURNS bigint
AS 'MODULE_PATHNAME', 'evinbox_erase_actor'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION evinbox.erase_actor(text)
	IS 'Blanks metadata, snapshot and actor of all events of an actor, and records that; returns of how many';

-- Deliveries are found by their event, too, when that is erased or dropped.
CREATE INDEX delivery_event_idx ON evinbox.delivery (state, event_id);

-- So are an actor's batches.
CREATE INDEX batch_actor_idx ON evinbox.batch (actor);

------------------------------------------------------------------------------
-- Feeds and sentences
------------------------------------------------------------------------------

-- They run with the caller's rights: who may read evinbox.event may read feeds.
CREATE FUNCTION evinbox.subject_feed(
	subject_type text, subject_id text,
	before_id bigint DEFAULT NULL, max integer DEFAULT 20)
RETURNS SETOF evinbox.event
AS 'MODULE_PATHNAME', 'evinbox_subject_feed'
LANGUAGE C STABLE PARALLEL RESTRICTED ROWS 20;

CREATE FUNCTION evinbox.subject_feed(
	subject_type text, subject_id bigint,
	before_id bigint DEFAULT NULL, max integer DEFAULT 20)
RETURNS SETOF evinbox.event
AS 'MODULE_PATHNAME', 'evinbox_subject_feed_int8'
LANGUAGE C STABLE PARALLEL RESTRICTED ROWS 20;

CREATE FUNCTION evinbox.subject_feed(
	subject_type text, subject_id uuid,
	before_id bigint DEFAULT NULL, max integer DEFAULT 20)
RETURNS SETOF evinbox.event
AS 'MODULE_PATHNAME', 'evinbox_subject_feed_uuid'
LANGUAGE C STABLE PARALLEL RESTRICTED ROWS 20;

CREATE FUNCTION evinbox.actor_feed(
	actor text,
	before_id bigint DEFAULT NULL, max integer DEFAULT 20)
RETURNS SETOF evinbox.event
AS 'MODULE_PATHNAME', 'evinbox_actor_feed'
LANGUAGE C STABLE PARALLEL RESTRICTED ROWS 20;

CREATE FUNCTION evinbox.scope_feed(
	scope text,
	before_id bigint DEFAULT NULL, max integer DEFAULT 20)
RETURNS SETOF evinbox.event
AS 'MODULE_PATHNAME', 'evinbox_scope_feed'
LANGUAGE C STABLE PARALLEL RESTRICTED ROWS 20;

CREATE FUNCTION evinbox.feed(
	subjects jsonb,
	before_id bigint DEFAULT NULL, max integer DEFAULT 20)
RETURNS SETOF evinbox.event
AS 'MODULE_PATHNAME', 'evinbox_feed'
LANGUAGE C STABLE PARALLEL RESTRICTED ROWS 20;

CREATE FUNCTION evinbox.grouped_feed(
	subjects jsonb DEFAULT NULL, actor text DEFAULT NULL, scope text DEFAULT NULL,
	before_id bigint DEFAULT NULL, max integer DEFAULT 20,
	gap interval DEFAULT '5 minutes', time_zone text DEFAULT NULL,
	group_by text DEFAULT 'actor')
RETURNS TABLE (
	last_id bigint, first_id bigint, count integer, actors text[], action text,
	first_at timestamptz, last_at timestamptz, day date, event evinbox.event)
AS 'MODULE_PATHNAME', 'evinbox_grouped_feed'
LANGUAGE C STABLE PARALLEL RESTRICTED ROWS 20;

COMMENT ON FUNCTION evinbox.subject_feed(text, text, bigint, integer)
	IS 'A subject''s newest events, of those with lower ids than before_id if that is given';
COMMENT ON FUNCTION evinbox.subject_feed(text, bigint, bigint, integer)
	IS 'A subject''s newest events, of those with lower ids than before_id if that is given';
COMMENT ON FUNCTION evinbox.subject_feed(text, uuid, bigint, integer)
	IS 'A subject''s newest events, of those with lower ids than before_id if that is given';
COMMENT ON FUNCTION evinbox.actor_feed(text, bigint, integer)
	IS 'An actor''s newest events, of those with lower ids than before_id if that is given';
COMMENT ON FUNCTION evinbox.scope_feed(text, bigint, integer)
	IS 'A scope''s newest events, of those with lower ids than before_id if that is given';
COMMENT ON FUNCTION evinbox.feed(jsonb, bigint, integer)
	IS 'The newest events of many subjects, given as [[type, id], ...]';
COMMENT ON FUNCTION evinbox.grouped_feed(jsonb, text, text, bigint, integer, interval, text, text)
	IS 'A feed of subjects, an actor or a scope, with runs of like events as one entry; goes on before the last entry''s first_id';

-- Sentences of no particular locale, subject type or action have '' there.
CREATE TABLE evinbox.template (
	locale text COLLATE "C" NOT NULL DEFAULT '',
	subject_type text COLLATE "C" NOT NULL DEFAULT '',
	action text COLLATE "C" NOT NULL DEFAULT '',
	text text NOT NULL,
	CONSTRAINT template_pkey PRIMARY KEY (locale, subject_type, action),
	CONSTRAINT template_locale CHECK (locale ~ '^([A-Za-z0-9]+([-_][A-Za-z0-9]+)*)?$'),
	CONSTRAINT template_not_empty CHECK (text <> ''),
	CONSTRAINT template_placeholders CHECK (
		pg_catalog.regexp_replace(text, '%%|%\{[^{}|]+(\|[^{}]*)?\}', ' ', 'g') !~ '%\{')
);

COMMENT ON TABLE evinbox.template IS 'Sentences that describe() makes of events';
COMMENT ON COLUMN evinbox.template.locale IS 'The language, e.g. de or de-AT; empty for one that serves where there is none';
COMMENT ON COLUMN evinbox.template.subject_type IS 'For events of this subject type; empty for any';
COMMENT ON COLUMN evinbox.template.action IS 'For events with this action; empty for any';
COMMENT ON COLUMN evinbox.template.text IS 'The sentence, with %{key} for what the event has there, %{key|otherwise}, and %% for %';

-- Each locale is looked for before the more general one, and there what fits
-- type and action before what fits any. The text is cut into pieces once, and
-- what takes the place of a piece is not looked at again.
CREATE FUNCTION evinbox.describe(event evinbox.event, locale text DEFAULT 'en')
RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
	WITH RECURSIVE wanted (locale, rank) AS (
		SELECT describe.locale, 1
		UNION ALL
		SELECT pg_catalog.regexp_replace(w.locale, '[-_]?[^-_]*$', ''), w.rank + 1
		FROM wanted w
		WHERE w.locale ~ '[-_]' AND w.rank < 8
	), candidate (text, rank, any_action, any_type) AS (
		SELECT t.text, w.rank, t.action = '', t.subject_type = ''
		FROM (SELECT w.locale, w.rank FROM wanted w WHERE w.locale <> ''
				UNION ALL VALUES ('', 10), ('en', 11)) w
			JOIN evinbox.template t ON t.locale = w.locale
		WHERE t.subject_type IN ((describe.event).subject_type, '')
			AND t.action IN ((describe.event).action, '')
		UNION ALL
		VALUES ('%{subject_type} %{subject_id}: %{action} by %{actor}', 12, false, false),
			('%{subject_type} %{subject_id}: %{action}', 13, false, false)
	)
	SELECT s.sentence
	FROM candidate c
		CROSS JOIN LATERAL (
			SELECT pg_catalog.string_agg(p.piece, '' ORDER BY p.n),
				pg_catalog.bool_and(p.piece IS NOT NULL)
			FROM (
				SELECT m.n,
					CASE
						WHEN m.match[1] = '%%' THEN '%'
						WHEN m.match[2] IS NULL THEN m.match[1]
						ELSE COALESCE(
							CASE m.match[2]
								WHEN 'subject_type' THEN (describe.event).subject_type
								WHEN 'subject_id' THEN (describe.event).subject_id
								WHEN 'action' THEN (describe.event).action
								WHEN 'actor' THEN (describe.event).actor
								WHEN 'scope' THEN (describe.event).scope
								ELSE (describe.event).metadata ->> m.match[2]
							END,
							m.match[3])
					END
				FROM pg_catalog.regexp_matches(c.text, '(%%|%\{([^{}|]+)(?:\|([^{}]*))?\}|[^%]+|%)', 'g')
					WITH ORDINALITY AS m (match, n)) AS p (n, piece)) AS s (sentence, is_complete)
	WHERE s.is_complete
	ORDER BY c.rank, c.any_action, c.any_type
	LIMIT 1;
END;
COMMENT ON FUNCTION evinbox.describe(evinbox.event, text)
	IS 'An event as a sentence, by evinbox.template';

------------------------------------------------------------------------------
-- Tracking
------------------------------------------------------------------------------

CREATE FUNCTION evinbox_internal.record_change() RETURNS trigger
AS 'MODULE_PATHNAME', 'evinbox_record_change'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION evinbox.track(
	relation regclass, columns name[], action text DEFAULT 'changed',
	subject_type text DEFAULT NULL, id_column name DEFAULT NULL,
	events text[] DEFAULT '{update}', scope_column name DEFAULT NULL,
	snapshot boolean DEFAULT false)
RETURNS void
AS 'MODULE_PATHNAME', 'evinbox_track'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION evinbox.track(regclass, name[], text, text, name, text[], name, boolean)
	IS 'From now on, changes of a table''s columns are recorded as events, by whomever they are made';

CREATE FUNCTION evinbox.untrack(relation regclass) RETURNS void
AS 'MODULE_PATHNAME', 'evinbox_untrack'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION evinbox.untrack(regclass)
	IS 'Takes back all that track() has said of a table';

CREATE FUNCTION evinbox.state_at(subject_type text, subject_id text, at timestamptz) RETURNS jsonb
LANGUAGE sql STRICT STABLE PARALLEL SAFE
RETURN (
	SELECT e.snapshot
	FROM evinbox.event e
	WHERE e.subject_type = state_at.subject_type AND e.subject_id = state_at.subject_id
		AND e.occurred_at <= state_at.at AND e.snapshot IS NOT NULL
	ORDER BY e.occurred_at DESC, e.id DESC
	LIMIT 1);
COMMENT ON FUNCTION evinbox.state_at(text, text, timestamptz)
	IS 'A subject as it was then: the newest snapshot of its events up to that time';

------------------------------------------------------------------------------
-- Calls to the outside
------------------------------------------------------------------------------

CREATE TABLE evinbox.endpoint (
	name text COLLATE "C" NOT NULL,
	owner name NOT NULL DEFAULT CURRENT_USER,
	url text NOT NULL,
	scope text COLLATE "C",
	subject_types text[] COLLATE "C",
	actions text[] COLLATE "C",
	format text COLLATE "C" NOT NULL DEFAULT 'standard',
	template text,
	headers jsonb NOT NULL DEFAULT '{}',
	enabled boolean NOT NULL DEFAULT true,
	timeout interval NOT NULL DEFAULT '15 seconds',
	max_in_flight integer NOT NULL DEFAULT 10,
	rate integer,
	rate_per interval NOT NULL DEFAULT '1 second',
	retries interval[] NOT NULL DEFAULT '{5 s,30 s,2 min,10 min,30 min,2 h,5 h,10 h,24 h}',
	max_attempts integer NOT NULL DEFAULT 12,
	rotation interval NOT NULL DEFAULT '24 hours',
	disable_after interval NOT NULL DEFAULT '5 days',
	disabled_reason text,
	id integer GENERATED ALWAYS AS IDENTITY,
	owner_id oid NOT NULL DEFAULT 0,
	CONSTRAINT endpoint_pkey PRIMARY KEY (name),
	CONSTRAINT endpoint_id_key UNIQUE (id)
);

COMMENT ON TABLE evinbox.endpoint IS 'Where webhooks go';
COMMENT ON COLUMN evinbox.endpoint.name IS 'What it is called by; may be changed';
COMMENT ON COLUMN evinbox.endpoint.owner IS 'The role whose rules may send to it';
COMMENT ON COLUMN evinbox.endpoint.url IS 'Where to; https, unless evinbox.webhook_allow_http is on';
COMMENT ON COLUMN evinbox.endpoint.scope IS 'Events of this scope; NULL for all';
COMMENT ON COLUMN evinbox.endpoint.subject_types IS 'Events of these subject types; NULL for all';
COMMENT ON COLUMN evinbox.endpoint.actions IS 'Events with these actions; NULL for all';
COMMENT ON COLUMN evinbox.endpoint.format IS 'Of the body: ''standard'' (Standard Webhooks), ''cloudevents'', ''slack''';
COMMENT ON COLUMN evinbox.endpoint.template IS 'The text of format ''slack'', as in evinbox.template; NULL for that of describe()';
COMMENT ON COLUMN evinbox.endpoint.headers IS 'Further headers: {"name": "value"}';
COMMENT ON COLUMN evinbox.endpoint.enabled IS 'False: nothing new is sent to it, and what waits for it goes on waiting';
COMMENT ON COLUMN evinbox.endpoint.timeout IS 'Of one attempt, from its start to the end of the answer';
COMMENT ON COLUMN evinbox.endpoint.max_in_flight IS 'So many attempts at once, at the most';
COMMENT ON COLUMN evinbox.endpoint.rate IS 'So many attempts in rate_per, at the most; NULL for no limit';
COMMENT ON COLUMN evinbox.endpoint.rate_per IS 'See rate';
COMMENT ON COLUMN evinbox.endpoint.retries IS 'Waits after the first, second, ... failed attempt; the last one is repeated';
COMMENT ON COLUMN evinbox.endpoint.max_attempts IS 'How often a delivery is tried before it is dead';
COMMENT ON COLUMN evinbox.endpoint.rotation IS 'How long the former secret still signs after a new one was set';
COMMENT ON COLUMN evinbox.endpoint.disable_after IS 'An endpoint that has failed for so long, without a success, is disabled; 0 for never';
COMMENT ON COLUMN evinbox.endpoint.disabled_reason IS 'Why evinbox has disabled it';
COMMENT ON COLUMN evinbox.endpoint.id IS 'Set by evinbox; stays when the endpoint is renamed';
COMMENT ON COLUMN evinbox.endpoint.owner_id IS 'The owner''s OID: endpoints follow a role that is renamed; set by evinbox';

-- Which of an owner's may want an event, by its scope.
CREATE INDEX endpoint_owner_idx ON evinbox.endpoint (owner_id, scope);

-- The current one of an endpoint has no end.
CREATE TABLE evinbox_internal.endpoint_secret (
	endpoint_id integer NOT NULL REFERENCES evinbox.endpoint (id) ON DELETE CASCADE,
	kind text COLLATE "C" NOT NULL,
	secret bytea NOT NULL,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	expires_at timestamptz,
	CONSTRAINT endpoint_secret_kind_check CHECK (kind IN ('v1', 'v1a'))
);

CREATE INDEX endpoint_secret_idx ON evinbox_internal.endpoint_secret (endpoint_id);

-- What couriers find out about endpoints that fail; no row for those that do not.
CREATE TABLE evinbox_internal.endpoint_state (
	endpoint_id integer PRIMARY KEY REFERENCES evinbox.endpoint (id) ON DELETE CASCADE,
	failures integer NOT NULL,
	failing_since timestamptz NOT NULL,
	closed_until timestamptz
);

-- Calls to be made, never changed, and dropped by the day. Which of them a courier
-- has not seen, it finds by xid, as runners do in the outbox. One without a body
-- was of an event that is erased; it is not made any more.
CREATE TABLE evinbox_internal.request (
	id bigint GENERATED ALWAYS AS IDENTITY,
	created_at timestamptz NOT NULL DEFAULT pg_catalog.now(),
	xid xid8 NOT NULL DEFAULT pg_catalog.pg_current_xact_id(),
	kind text COLLATE "C" NOT NULL,
	endpoint_id integer,
	owner_id oid NOT NULL,
	inbox_id integer,
	event_id bigint,
	message_id text COLLATE "C" NOT NULL,
	method text COLLATE "C" NOT NULL,
	url text,
	headers jsonb,
	content_type text,
	body text,
	is_signed boolean NOT NULL,
	CONSTRAINT request_kind_check CHECK (kind IN ('http', 'mail')),
	CONSTRAINT request_pkey PRIMARY KEY (id, created_at)
) PARTITION BY RANGE (created_at);

CREATE INDEX request_xid_idx ON evinbox_internal.request (xid, id);
CREATE INDEX request_event_idx ON evinbox_internal.request (event_id) WHERE event_id IS NOT NULL;
CREATE TABLE evinbox_internal.request_default PARTITION OF evinbox_internal.request DEFAULT;

-- What was tried, likewise.
CREATE TABLE evinbox_internal.webhook_attempt (
	request_id bigint NOT NULL,
	number integer NOT NULL,
	endpoint_id integer,
	owner_id oid NOT NULL,
	started_at timestamptz NOT NULL,
	outcome text COLLATE "C" NOT NULL,
	status integer,
	curl_code integer,
	error text,
	dns_ms double precision,
	connect_ms double precision,
	tls_ms double precision,
	first_byte_ms double precision,
	total_ms double precision,
	address text,
	answer text,
	CONSTRAINT webhook_attempt_outcome_check CHECK (outcome IN ('delivered', 'retry', 'dead')),
	CONSTRAINT webhook_attempt_pkey PRIMARY KEY (request_id, number, started_at)
) PARTITION BY RANGE (started_at);

CREATE INDEX webhook_attempt_endpoint_idx ON evinbox_internal.webhook_attempt (endpoint_id, started_at);
CREATE TABLE evinbox_internal.webhook_attempt_default PARTITION OF evinbox_internal.webhook_attempt DEFAULT;

-- Requests that are not done with after their first attempt, or had to stand
-- aside before it. Plain success leaves no row.
CREATE TABLE evinbox_internal.request_waiting (
	request_id bigint PRIMARY KEY,
	created_at timestamptz NOT NULL,
	endpoint_id integer NOT NULL,
	state text COLLATE "C" NOT NULL,
	attempts integer NOT NULL,
	next_at timestamptz NOT NULL,
	last_error text,
	CONSTRAINT request_waiting_state_check CHECK (state IN ('pending', 'retry', 'dead'))
);

CREATE INDEX request_waiting_idx ON evinbox_internal.request_waiting (endpoint_id, next_at) WHERE state <> 'dead';
CREATE INDEX request_waiting_dead_idx ON evinbox_internal.request_waiting (endpoint_id, created_at) WHERE state = 'dead';

-- All requests that this snapshot shows are done with, or are waiting (one row).
CREATE TABLE evinbox_internal.courier (done pg_snapshot NOT NULL);

-- Secrets, and what is sent in somebody's name, are not even for those who may
-- read or write all data. Without a policy, only the extension's owner and
-- superusers pass. Each partition needs its own.
ALTER TABLE evinbox_internal.endpoint_secret ENABLE ROW LEVEL SECURITY;
ALTER TABLE evinbox_internal.request ENABLE ROW LEVEL SECURITY;
ALTER TABLE evinbox_internal.request_default ENABLE ROW LEVEL SECURITY;

ALTER TABLE evinbox_internal.endpoint_secret REPLICA IDENTITY FULL;
ALTER TABLE evinbox_internal.courier REPLICA IDENTITY FULL;
SELECT evinbox_internal.refuse_replicated_into(relation) FROM pg_catalog.unnest(
	'{evinbox.endpoint,evinbox_internal.endpoint_secret,evinbox_internal.endpoint_state,
	evinbox_internal.request,evinbox_internal.webhook_attempt,evinbox_internal.request_waiting,
	evinbox_internal.courier}'::regclass[]) AS relation;
DROP FUNCTION evinbox_internal.refuse_replicated_into(regclass);

CREATE FUNCTION evinbox_internal.endpoint_check() RETURNS trigger
AS 'MODULE_PATHNAME', 'evinbox_endpoint_check'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION evinbox_internal.endpoint_check_delete() RETURNS trigger
AS 'MODULE_PATHNAME', 'evinbox_endpoint_check_delete'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION evinbox_internal.endpoint_enabled() RETURNS trigger
AS 'MODULE_PATHNAME', 'evinbox_endpoint_enabled'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE FUNCTION evinbox_internal.endpoint_changed() RETURNS trigger
AS 'MODULE_PATHNAME', 'evinbox_endpoint_changed'
LANGUAGE C VOLATILE PARALLEL UNSAFE;

CREATE TRIGGER endpoint_check BEFORE INSERT OR UPDATE ON evinbox.endpoint
	FOR EACH ROW EXECUTE FUNCTION evinbox_internal.endpoint_check();
CREATE TRIGGER endpoint_check_delete BEFORE DELETE ON evinbox.endpoint
	FOR EACH ROW EXECUTE FUNCTION evinbox_internal.endpoint_check_delete();
CREATE TRIGGER endpoint_enabled AFTER UPDATE ON evinbox.endpoint
	FOR EACH ROW WHEN (NEW.enabled AND NOT OLD.enabled) EXECUTE FUNCTION evinbox_internal.endpoint_enabled();
CREATE TRIGGER endpoint_changed AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON evinbox.endpoint
	FOR EACH STATEMENT EXECUTE FUNCTION evinbox_internal.endpoint_changed();
CREATE TRIGGER endpoint_secret_changed
	AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON evinbox_internal.endpoint_secret
	FOR EACH STATEMENT EXECUTE FUNCTION evinbox_internal.endpoint_changed();
ALTER TABLE evinbox.endpoint ENABLE ALWAYS TRIGGER endpoint_changed;
CREATE TRIGGER endpoint_owners_changed AFTER INSERT OR UPDATE OF owner OR DELETE ON evinbox.endpoint
	FOR EACH STATEMENT EXECUTE FUNCTION evinbox_internal.inbox_owners_changed();
CREATE TRIGGER endpoint_owners_truncated AFTER TRUNCATE ON evinbox.endpoint
	FOR EACH STATEMENT EXECUTE FUNCTION evinbox_internal.inbox_owners_changed();

-- Others' endpoints, and the tokens in their URLs and headers, are nobody's business.
ALTER TABLE evinbox.endpoint ENABLE ROW LEVEL SECURITY;
CREATE POLICY endpoint_of_own_roles ON evinbox.endpoint
	USING (pg_catalog.pg_has_role(owner_id, 'MEMBER'));

CREATE FUNCTION evinbox.set_endpoint_secret(name text, secret text DEFAULT NULL) RETURNS text
AS 'MODULE_PATHNAME', 'evinbox_set_endpoint_secret'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION evinbox.set_endpoint_secret(text, text)
	IS 'Gives an endpoint a secret to sign with, beside its former one for a while; makes one and returns it if none is given';

CREATE FUNCTION evinbox.webhook(event evinbox.event, config jsonb) RETURNS void
AS 'MODULE_PATHNAME', 'evinbox_webhook'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION evinbox.webhook(evinbox.event, jsonb)
	IS 'A rule''s handler: sends the event to the endpoint of the rule''s config, or to all of the owner''s that want it';

CREATE FUNCTION evinbox.mail(event evinbox.event, config jsonb) RETURNS void
AS 'MODULE_PATHNAME', 'evinbox_mail'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION evinbox.mail(evinbox.event, jsonb)
	IS 'A rule''s handler: sends the e-mail that the function of the rule''s config makes of the event';

CREATE FUNCTION evinbox.http_request(
	target text, body jsonb, headers jsonb DEFAULT '{}',
	method text DEFAULT 'POST', content_type text DEFAULT 'application/json')
RETURNS bigint
AS 'MODULE_PATHNAME', 'evinbox_http_request_jsonb'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION evinbox.http_request(text, jsonb, jsonb, text, text)
	IS 'Has a URL, or an endpoint of that name, called once the transaction is committed; returns the delivery''s id';

CREATE FUNCTION evinbox.http_request(
	target text, body text, headers jsonb DEFAULT '{}',
	method text DEFAULT 'POST', content_type text DEFAULT 'text/plain; charset=utf-8')
RETURNS bigint
AS 'MODULE_PATHNAME', 'evinbox_http_request_text'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION evinbox.http_request(text, text, jsonb, text, text)
	IS 'Has a URL, or an endpoint of that name, called once the transaction is committed; returns the delivery''s id';

CREATE FUNCTION evinbox.test_endpoint(name text) RETURNS bigint
AS 'MODULE_PATHNAME', 'evinbox_test_endpoint'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION evinbox.test_endpoint(text)
	IS 'Sends a message of type evinbox.test to an endpoint; returns the delivery''s id';

CREATE FUNCTION evinbox.resend(delivery bigint) RETURNS bigint
AS 'MODULE_PATHNAME', 'evinbox_resend'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION evinbox.resend(bigint)
	IS 'Sends what a delivery was about once more, as the same message; returns the new delivery''s id';

CREATE FUNCTION evinbox.recover(endpoint text, since timestamptz) RETURNS bigint
AS 'MODULE_PATHNAME', 'evinbox_recover'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION evinbox.recover(text, timestamptz)
	IS 'Sends all once more to an endpoint that were queued since then and are dead; returns how many';

-- One row a request that is still on record.
CREATE VIEW evinbox.webhook_delivery WITH (security_barrier) AS
SELECT r.id,
	r.kind,
	p.name AS endpoint,
	COALESCE(o.rolname, p.owner) AS owner,
	i.name AS inbox,
	r.event_id,
	r.message_id,
	r.created_at,
	CASE
		WHEN w.state IS NOT NULL THEN w.state
		WHEN a.outcome = 'delivered' THEN 'delivered'
		WHEN a.outcome = 'dead' THEN 'dead'
		ELSE 'pending'
	END AS state,
	COALESCE(w.attempts, a.number, 0) AS attempts,
	CASE WHEN w.state <> 'dead' THEN w.next_at END AS next_at,
	a.started_at AS last_attempt_at,
	a.status AS last_status,
	COALESCE(w.last_error, a.error) AS last_error
FROM evinbox_internal.request r
	LEFT JOIN evinbox.endpoint p ON p.id = r.endpoint_id
	LEFT JOIN evinbox.inbox i ON i.id = r.inbox_id
	LEFT JOIN pg_catalog.pg_roles o ON o.oid = r.owner_id
	LEFT JOIN evinbox_internal.request_waiting w ON w.request_id = r.id
	LEFT JOIN LATERAL (
		SELECT t.number, t.started_at, t.outcome, t.status, t.error
		FROM evinbox_internal.webhook_attempt t
		WHERE t.request_id = r.id
		ORDER BY t.number DESC, t.started_at DESC LIMIT 1) a ON true
WHERE pg_catalog.pg_has_role(r.owner_id, 'MEMBER') OR pg_catalog.pg_has_role('pg_monitor', 'MEMBER');

COMMENT ON VIEW evinbox.webhook_delivery IS 'Calls and mails of one''s roles, or all for pg_monitor: whether they have arrived';
COMMENT ON COLUMN evinbox.webhook_delivery.kind IS '''http'' or ''mail''';
COMMENT ON COLUMN evinbox.webhook_delivery.endpoint IS 'NULL for a mail, and for a call of a URL';
COMMENT ON COLUMN evinbox.webhook_delivery.inbox IS 'The rule that it is from, if it is';
COMMENT ON COLUMN evinbox.webhook_delivery.event_id IS 'The event that was handled then, if there was one';
COMMENT ON COLUMN evinbox.webhook_delivery.message_id IS 'What the receiver sees as webhook-id: the same for all attempts, and when it is sent again';
COMMENT ON COLUMN evinbox.webhook_delivery.created_at IS 'The time of the transaction that it was queued in';
COMMENT ON COLUMN evinbox.webhook_delivery.state IS 'pending, retry, delivered or dead';
COMMENT ON COLUMN evinbox.webhook_delivery.attempts IS 'How many were made';
COMMENT ON COLUMN evinbox.webhook_delivery.next_at IS 'When it is tried the next time, at the earliest';
COMMENT ON COLUMN evinbox.webhook_delivery.last_status IS 'What was answered to the last attempt, e.g. 500; NULL if nothing was';
COMMENT ON COLUMN evinbox.webhook_delivery.last_error IS 'Why the last attempt has failed';

CREATE VIEW evinbox.webhook_attempt WITH (security_barrier) AS
SELECT a.request_id AS delivery,
	a.number,
	p.name AS endpoint,
	a.started_at,
	a.outcome,
	a.status,
	a.curl_code,
	a.error,
	a.dns_ms,
	a.connect_ms,
	a.tls_ms,
	a.first_byte_ms,
	a.total_ms,
	a.address,
	a.answer
FROM evinbox_internal.webhook_attempt a
	LEFT JOIN evinbox.endpoint p ON p.id = a.endpoint_id
WHERE pg_catalog.pg_has_role(a.owner_id, 'MEMBER') OR pg_catalog.pg_has_role('pg_monitor', 'MEMBER');

COMMENT ON VIEW evinbox.webhook_attempt IS 'What was tried for deliveries of one''s roles, or all for pg_monitor; kept for evinbox.webhook_log_retention';
COMMENT ON COLUMN evinbox.webhook_attempt.delivery IS 'The id of the delivery';
COMMENT ON COLUMN evinbox.webhook_attempt.number IS 'Which attempt it was';
COMMENT ON COLUMN evinbox.webhook_attempt.outcome IS 'delivered; retry (it has failed, and is tried again); dead (it has failed, and is not)';
COMMENT ON COLUMN evinbox.webhook_attempt.status IS 'What was answered, e.g. 200; NULL if nothing was';
COMMENT ON COLUMN evinbox.webhook_attempt.curl_code IS 'libcurl''s code for the error; 0 if there was an answer';
COMMENT ON COLUMN evinbox.webhook_attempt.error IS 'What went wrong';
COMMENT ON COLUMN evinbox.webhook_attempt.dns_ms IS 'Milliseconds from the start until the name was looked up; NULL if it was not, and so on';
COMMENT ON COLUMN evinbox.webhook_attempt.connect_ms IS 'Until the connection was made';
COMMENT ON COLUMN evinbox.webhook_attempt.tls_ms IS 'Until TLS was agreed on';
COMMENT ON COLUMN evinbox.webhook_attempt.first_byte_ms IS 'Until the answer began';
COMMENT ON COLUMN evinbox.webhook_attempt.total_ms IS 'Until the end';
COMMENT ON COLUMN evinbox.webhook_attempt.address IS 'The address that was connected to';
COMMENT ON COLUMN evinbox.webhook_attempt.answer IS 'The first 4 kB of it';

-- Counting stops at 10,000 rows, as in inbox_status.
CREATE VIEW evinbox.endpoint_status WITH (security_barrier) AS
SELECT p.name,
	COALESCE(o.rolname, p.owner) AS owner,
	CASE
		WHEN NOT p.enabled THEN 'disabled'
		WHEN s.closed_until > pg_catalog.clock_timestamp() THEN 'closed'
		ELSE 'open'
	END AS state,
	CASE WHEN p.enabled AND s.closed_until > pg_catalog.clock_timestamp() THEN s.closed_until END AS closed_until,
	p.disabled_reason,
	(SELECT pg_catalog.count(*)
		FROM (SELECT FROM evinbox_internal.request_waiting w
			WHERE w.endpoint_id = p.id AND w.state <> 'dead' LIMIT 10000) AS x) AS waiting,
	(SELECT pg_catalog.count(*)
		FROM (SELECT FROM evinbox_internal.request_waiting w
			WHERE w.endpoint_id = p.id AND w.state = 'dead' LIMIT 10000) AS x) AS dead,
	h.delivered AS delivered_last_hour,
	h.failed AS failed_last_hour,
	s.failures,
	s.failing_since,
	EXISTS (SELECT FROM evinbox_internal.endpoint_secret k
		WHERE k.endpoint_id = p.id AND k.expires_at IS NULL) AS has_secret
FROM evinbox.endpoint p
	LEFT JOIN pg_catalog.pg_roles o ON o.oid = p.owner_id
	LEFT JOIN evinbox_internal.endpoint_state s ON s.endpoint_id = p.id
	CROSS JOIN LATERAL (
		SELECT pg_catalog.count(*) FILTER (WHERE x.outcome = 'delivered') AS delivered,
			pg_catalog.count(*) FILTER (WHERE x.outcome <> 'delivered') AS failed
		FROM (SELECT a.outcome
			FROM evinbox_internal.webhook_attempt a
			WHERE a.endpoint_id = p.id
				AND a.started_at > pg_catalog.clock_timestamp() - interval '1 hour'
			ORDER BY a.started_at DESC LIMIT 10000) x) h
WHERE pg_catalog.pg_has_role(p.owner_id, 'MEMBER') OR pg_catalog.pg_has_role('pg_monitor', 'MEMBER');

COMMENT ON VIEW evinbox.endpoint_status IS 'Each endpoint of one''s roles, or all for pg_monitor: its state, what waits for it, what fails';
COMMENT ON COLUMN evinbox.endpoint_status.state IS 'open, closed (until closed_until, after failures), or disabled';
COMMENT ON COLUMN evinbox.endpoint_status.closed_until IS 'Nothing is sent before then; what waits for it loses no attempts';
COMMENT ON COLUMN evinbox.endpoint_status.disabled_reason IS 'Why evinbox has disabled it';
COMMENT ON COLUMN evinbox.endpoint_status.waiting IS 'Deliveries that stand aside or will be tried again; 10000 stands for that many or more';
COMMENT ON COLUMN evinbox.endpoint_status.dead IS 'Deliveries that were given up, see recover(); 10000 stands for that many or more';
COMMENT ON COLUMN evinbox.endpoint_status.delivered_last_hour IS 'Attempts that have succeeded, of the last 10,000';
COMMENT ON COLUMN evinbox.endpoint_status.failed_last_hour IS 'Attempts that have failed, of the last 10,000';
COMMENT ON COLUMN evinbox.endpoint_status.failures IS 'How many attempts in a row have failed; NULL if the last one has not';
COMMENT ON COLUMN evinbox.endpoint_status.failing_since IS 'When the first of these was';
COMMENT ON COLUMN evinbox.endpoint_status.has_secret IS 'Whether what is sent to it is signed';

------------------------------------------------------------------------------
-- Coming and going
------------------------------------------------------------------------------

-- The launcher finds databases by a setting in the shared catalogs.
CREATE FUNCTION evinbox_internal.register_database() RETURNS void
AS 'MODULE_PATHNAME', 'evinbox_register_database'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;
SELECT evinbox_internal.register_database();

-- Loads the library, whose hook takes the registration back, into a session
-- that is about to drop the extension without having used it.
CREATE FUNCTION evinbox_internal.before_drop() RETURNS event_trigger
AS 'MODULE_PATHNAME', 'evinbox_before_drop'
LANGUAGE C VOLATILE PARALLEL UNSAFE;
CREATE EVENT TRIGGER evinbox_before_drop ON ddl_command_start
	WHEN TAG IN ('DROP EXTENSION', 'DROP OWNED')
	EXECUTE FUNCTION evinbox_internal.before_drop();

CREATE FUNCTION evinbox.resume_after_restore(mode text) RETURNS void
AS 'MODULE_PATHNAME', 'evinbox_resume_after_restore'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION evinbox.resume_after_restore(text)
	IS 'In a restored or copied database: dispatches from now on, and what was not dispatched (''deliver''), or forgets that (''discard'')';

CREATE FUNCTION evinbox.dispatch_replicated(enabled boolean) RETURNS void
AS 'MODULE_PATHNAME', 'evinbox_dispatch_replicated'
LANGUAGE C STRICT VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION evinbox.dispatch_replicated(boolean)
	IS 'Whether events that come by logical replication are dispatched here';

------------------------------------------------------------------------------
-- Dumps
------------------------------------------------------------------------------

-- All that cannot be found out again; halts and attempts can, and so can the
-- two sequences of our own, which resume_after_restore() sets. Secrets are not
-- for a file that anybody may come by. Each partition is added when it is made.
SELECT pg_catalog.pg_extension_config_dump('evinbox.action', '');
SELECT pg_catalog.pg_extension_config_dump('evinbox.batch', '');
SELECT pg_catalog.pg_extension_config_dump('evinbox.batch_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('evinbox.template', '');
SELECT pg_catalog.pg_extension_config_dump('evinbox.inbox', '');
SELECT pg_catalog.pg_extension_config_dump('evinbox.delivery', '');
SELECT pg_catalog.pg_extension_config_dump('evinbox.event_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('evinbox.inbox_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('evinbox_internal.event_default', '');
SELECT pg_catalog.pg_extension_config_dump('evinbox_internal.outbox_0', '');
SELECT pg_catalog.pg_extension_config_dump('evinbox_internal.outbox_1', '');
SELECT pg_catalog.pg_extension_config_dump('evinbox_internal.outbox_2', '');
SELECT pg_catalog.pg_extension_config_dump('evinbox_internal.outbox_3', '');
SELECT pg_catalog.pg_extension_config_dump('evinbox_internal.cursor_0', '');
SELECT pg_catalog.pg_extension_config_dump('evinbox_internal.cursor_1', '');
SELECT pg_catalog.pg_extension_config_dump('evinbox_internal.backlog', '');
SELECT pg_catalog.pg_extension_config_dump('evinbox_internal.incarnation', '');
SELECT pg_catalog.pg_extension_config_dump('evinbox_internal.waiting', '');
SELECT pg_catalog.pg_extension_config_dump('evinbox.endpoint', '');
SELECT pg_catalog.pg_extension_config_dump('evinbox.endpoint_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('evinbox_internal.request_default', '');
SELECT pg_catalog.pg_extension_config_dump('evinbox_internal.request_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('evinbox_internal.request_waiting', '');
SELECT pg_catalog.pg_extension_config_dump('evinbox_internal.webhook_attempt_default', '');

------------------------------------------------------------------------------
-- Privileges: nothing for PUBLIC
------------------------------------------------------------------------------

REVOKE ALL ON ALL TABLES IN SCHEMA evinbox, evinbox_internal FROM PUBLIC;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA evinbox, evinbox_internal FROM PUBLIC;
REVOKE ALL ON SCHEMA evinbox, evinbox_internal FROM PUBLIC;

-- Except that whoever makes a partition gets the triggers of track() along with
-- it, which is checked. Without USAGE on the schema, nobody can name this
-- function in a CREATE TRIGGER of his own.
GRANT EXECUTE ON FUNCTION evinbox_internal.record_change() TO PUBLIC;
