-- What all figures use: a table of what was handled, a handler that fills it,
-- and ways to have events waiting and to see how long they wait.
CREATE EXTENSION evinbox;

CREATE SCHEMA bench;

CREATE TABLE bench.handled (
	event_id bigint NOT NULL,
	recorded_at timestamptz NOT NULL,
	handled_at timestamptz NOT NULL
);

CREATE FUNCTION bench.handle(e evinbox.event) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO bench.handled VALUES (e.id, e.recorded_at, clock_timestamp());
END
$$;

-- records events, so many in a transaction
CREATE PROCEDURE bench.record(events bigint, in_one bigint)
LANGUAGE plpgsql AS $$
BEGIN
	FOR done IN 0..events - 1 BY in_one LOOP
		PERFORM evinbox.record_event('Issue', n, 'action_' || n % 10, 'User:7',
			'{"from": "open", "to": "closed"}')
		FROM generate_series(done + 1, least(done + in_one, events)) n;
		COMMIT;
	END LOOP;
END
$$;

-- returns when nothing waits; counting what was handled would take a core
CREATE PROCEDURE bench.wait()
LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1..60000 LOOP
		IF NOT EXISTS (SELECT FROM evinbox.inbox_status WHERE lag_events > 0) THEN
			RETURN;
		END IF;
		COMMIT;
		PERFORM pg_sleep(0.01);
	END LOOP;
	RAISE EXCEPTION 'events are waiting for ten minutes';
END
$$;

-- switches all inboxes on; how many seconds does it take until nothing waits?
CREATE PROCEDURE bench.drain(INOUT seconds double precision DEFAULT NULL)
LANGUAGE plpgsql AS $$
DECLARE
	start timestamptz := clock_timestamp();
BEGIN
	UPDATE evinbox.inbox SET enabled = true;
	COMMIT;
	CALL bench.wait();
	SELECT extract(epoch FROM max(last_dispatch) - start) INTO seconds FROM evinbox.inbox_status;
END
$$;
