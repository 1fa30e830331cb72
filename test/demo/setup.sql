-- What an administrator would write, in a database of the role "demo".

CREATE EXTENSION evinbox;

GRANT USAGE ON SCHEMA evinbox TO demo;
GRANT SELECT, INSERT ON evinbox.inbox TO demo;
GRANT EXECUTE ON FUNCTION evinbox.record_event(text, text, text, text, jsonb,
	interval, text, jsonb, text, timestamptz) TO demo;

-- For the demonstration: when is all of it done?  Each look is a transaction of
-- its own, so that nothing is held open meanwhile.
CREATE PROCEDURE public.wait_until_dispatched(patience interval)
LANGUAGE plpgsql AS $$
DECLARE
	deadline CONSTANT timestamptz := clock_timestamp() + patience;
BEGIN
	WHILE EXISTS (SELECT FROM evinbox.inbox_status WHERE lag_events > 0)
	LOOP
		IF clock_timestamp() > deadline THEN
			RAISE EXCEPTION 'not dispatched after %', patience
				USING DETAIL = (SELECT jsonb_pretty(jsonb_agg(to_jsonb(s)))
					FROM evinbox.inbox_status s);
		END IF;
		COMMIT;
		PERFORM pg_sleep(0.01);
	END LOOP;
END
$$;
