-- Requests of a usual size, and the wait for their delivery.
CREATE EXTENSION evinbox;
CREATE SCHEMA bench;

CREATE FUNCTION bench.send(endpoint text) RETURNS bigint
LANGUAGE sql AS $$
	SELECT evinbox.http_request(endpoint, jsonb_build_object('type', 'issue.opened',
		'timestamp', now(), 'data', jsonb_build_object('id', 1, 'text', repeat('x', 200))))
$$;

CREATE PROCEDURE bench.await(wanted bigint) LANGUAGE plpgsql AS $$
BEGIN
	LOOP
		EXIT WHEN (SELECT count(*) FROM evinbox_internal.webhook_attempt WHERE outcome = 'delivered') >= wanted;
		COMMIT;
		PERFORM pg_sleep(0.02);
	END LOOP;
END $$;
