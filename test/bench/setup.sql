-- What the runs compare evinbox with: a table of the same columns, indexes and
-- partitioning as evinbox.event, and a queue worked off by SKIP LOCKED.
\ir common.sql

CREATE TABLE bench.event (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
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
	occurred_at timestamptz NOT NULL DEFAULT now(),
	recorded_at timestamptz NOT NULL DEFAULT now()
) PARTITION BY RANGE (id);
CREATE INDEX ON bench.event (subject_type, subject_id, action, recorded_at);
CREATE INDEX ON bench.event (actor, subject_type, subject_id, action, recorded_at);
CREATE INDEX ON bench.event (subject_type, subject_id, id);
CREATE INDEX ON bench.event (actor, id) WHERE actor IS NOT NULL;
CREATE INDEX ON bench.event (scope, id) WHERE scope IS NOT NULL;
CREATE TABLE bench.event_1 PARTITION OF bench.event FOR VALUES FROM (1) TO (10000001);
CREATE TABLE bench.event_default PARTITION OF bench.event DEFAULT;

-- the usual hand-written queue: a row per job, a loop that takes what is free
CREATE TABLE bench.queue (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	payload jsonb NOT NULL,
	created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE PROCEDURE bench.work_queue(seconds double precision, pause double precision)
LANGUAGE plpgsql AS $$
DECLARE
	stop_at timestamptz := clock_timestamp() + seconds * interval '1 second';
	taken bigint;
BEGIN
	WHILE clock_timestamp() < stop_at LOOP
		WITH job AS (
			DELETE FROM bench.queue q
			WHERE q.id IN (SELECT id FROM bench.queue ORDER BY id LIMIT 100 FOR UPDATE SKIP LOCKED)
			RETURNING q.id, q.created_at)
		INSERT INTO bench.handled SELECT id, created_at, clock_timestamp() FROM job;
		GET DIAGNOSTICS taken = ROW_COUNT;
		COMMIT;
		IF taken = 0 THEN
			PERFORM pg_sleep(pause);
		END IF;
	END LOOP;
END
$$;

-- returns when so many events are handled, each once
CREATE PROCEDURE bench.wait_for(events bigint)
LANGUAGE plpgsql AS $$
DECLARE
	done bigint;
BEGIN
	FOR i IN 1..6000 LOOP
		SELECT count(*) INTO done FROM bench.handled;
		EXIT WHEN done >= events;
		PERFORM pg_sleep(0.05);
		COMMIT;
	END LOOP;
	IF done <> events OR done <> (SELECT count(DISTINCT event_id) FROM bench.handled) THEN
		RAISE EXCEPTION '% of % events handled', done, events;
	END IF;
END
$$;

INSERT INTO evinbox.inbox (name, handler) VALUES ('bench', 'bench.handle');

-- what a throttle finds: the same event just now, and one among many others
SELECT evinbox.record_event('Quiet', 42, 'viewed'), evinbox.record_event('Busy', 42, 'viewed');
SELECT count(evinbox.record_event('Busy', 42, 'commented', 'User:' || i))
FROM generate_series(1, 100000) i;
CALL bench.wait();
