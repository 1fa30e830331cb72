-- What an application would write: its tables, and a rule for each.  Run as the
-- role "demo", an ordinary one.

CREATE SCHEMA demo;

-- The input, numbered by time.
CREATE TABLE demo.upload (
	n bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	source text NOT NULL,
	version text NOT NULL,
	distribution text NOT NULL,
	urgency text NOT NULL,
	closes integer[] NOT NULL,
	maintainer text NOT NULL,
	uploaded_at timestamptz NOT NULL
);

-- Says which upload is to be recorded next.
CREATE SEQUENCE demo.next_upload;

------------------------------------------------------------------------------
-- An activity feed
------------------------------------------------------------------------------

CREATE TABLE demo.feed (
	event_id bigint PRIMARY KEY,
	occurred_at timestamptz NOT NULL,
	sentence text NOT NULL,
	-- for the measurement only
	recorded_at timestamptz NOT NULL,
	handled_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE FUNCTION demo.add_to_feed(e evinbox.event) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO demo.feed (event_id, occurred_at, sentence, recorded_at)
	VALUES (
		e.id,
		e.occurred_at,
		format('%s uploaded %s %s to %s',
			regexp_replace(e.actor, '^Maintainer:(.*) <.*>$', '\1'),
			e.subject_id,
			e.metadata->>'version',
			e.metadata->>'distribution')
			|| CASE jsonb_array_length(e.metadata->'closes')
				WHEN 0 THEN ''
				WHEN 1 THEN format(', closing #%s', e.metadata->'closes'->0)
				ELSE format(', closing %s bugs', jsonb_array_length(e.metadata->'closes'))
			END,
		e.recorded_at);
END
$$;

------------------------------------------------------------------------------
-- A counter for each maintainer
------------------------------------------------------------------------------

CREATE TABLE demo.maintainer (
	actor text PRIMARY KEY,
	uploads bigint NOT NULL,
	bugs_closed bigint NOT NULL
);

CREATE FUNCTION demo.count_upload(e evinbox.event) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO demo.maintainer AS m (actor, uploads, bugs_closed)
	VALUES (e.actor, 1, jsonb_array_length(e.metadata->'closes'))
	ON CONFLICT (actor) DO UPDATE
	SET uploads = m.uploads + 1,
		bugs_closed = m.bugs_closed + excluded.bugs_closed;
END
$$;

------------------------------------------------------------------------------
-- Urgent uploads: a rule with a condition
------------------------------------------------------------------------------

CREATE TABLE demo.urgent (
	event_id bigint PRIMARY KEY,
	occurred_at timestamptz NOT NULL,
	source text NOT NULL,
	version text NOT NULL,
	distribution text NOT NULL,
	urgency text NOT NULL
);

CREATE FUNCTION demo.note_urgent(e evinbox.event) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO demo.urgent
	VALUES (e.id, e.occurred_at, e.subject_id, e.metadata->>'version',
		e.metadata->>'distribution', e.metadata->>'urgency');
END
$$;

INSERT INTO evinbox.inbox (name, subject_types, actions, condition, handler)
VALUES
	('activity feed', '{Package}', '{uploaded}', NULL, 'demo.add_to_feed'),
	('uploads per maintainer', '{Package}', '{uploaded}', NULL, 'demo.count_upload'),
	('urgent uploads', '{Package}', '{uploaded}',
		$$e.metadata->>'urgency' IN ('high', 'critical', 'emergency')$$,
		'demo.note_urgent');
