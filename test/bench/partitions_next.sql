-- Moves on into a partition of the size that is set now.
SELECT setval('evinbox.event_id_seq', greatest(pg_sequence_last_value('evinbox.event_id_seq'), 1) + 2000);
DO $$
BEGIN
	FOR i IN 1 .. 200 LOOP
		PERFORM evinbox.record_event('Issue', 1, 'status_changed');
		COMMIT;
		EXIT WHEN (SELECT max(substring(pg_get_expr(c.relpartbound, c.oid) FROM 'TO \(''(\d+)''\)')::bigint)
			FROM pg_class c JOIN pg_inherits h ON h.inhrelid = c.oid WHERE h.inhparent = 'evinbox.event'::regclass)
			- pg_sequence_last_value('evinbox.event_id_seq') > 5000000;
		PERFORM pg_reload_conf();
		PERFORM pg_sleep(0.05);
		COMMIT;
	END LOOP;
END
$$;
