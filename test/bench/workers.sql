-- Work that does not end by itself: so many seconds of sleep, or a loop for none;
-- in a session, and in a handler.
\ir common.sql

CREATE FUNCTION bench.busy(seconds double precision) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_sleep(seconds);
	WHILE seconds = 0 LOOP
	END LOOP;
END
$$;

CREATE FUNCTION bench.busy(e evinbox.event, seconds jsonb) RETURNS void
LANGUAGE sql AS $$
	SELECT bench.busy(seconds::double precision)
$$;
