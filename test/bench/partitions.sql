-- A database with :events events, which were recorded in steps that leave the
-- coordinator the time to make partitions.
CREATE EXTENSION evinbox;
CREATE PROCEDURE fill(events bigint) LANGUAGE plpgsql AS $$
DECLARE
	recorded bigint := 0;
	size bigint := current_setting('evinbox.partition_size')::bigint;
	step bigint := least(size / 2, 100000);
BEGIN
	WHILE recorded < events LOOP
		INSERT INTO evinbox.event (subject_type, subject_id, action, actor, metadata)
			SELECT 'Issue', (random() * 1000000)::int::text, 'status_changed', 'User:7', '{"from": "open", "to": "closed"}'
			FROM generate_series(1, step);
		recorded := recorded + step;
		COMMIT;
		FOR i IN 1 .. 200 LOOP
			EXIT WHEN (SELECT max(substring(pg_get_expr(c.relpartbound, c.oid) FROM 'TO \(''(\d+)''\)')::bigint)
				FROM pg_class c JOIN pg_inherits h ON h.inhrelid = c.oid WHERE h.inhparent = 'evinbox.event'::regclass)
				- recorded > size / 2;
			PERFORM pg_reload_conf();
			PERFORM pg_sleep(0.05);
			COMMIT;
		END LOOP;
	END LOOP;
END
$$;
CALL fill(:events);
