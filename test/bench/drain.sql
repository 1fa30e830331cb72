-- One drain of a backlog and one plain loop over the same events, in turns.
\set QUIET on
\pset tuples_only on
\pset format unaligned
TRUNCATE bench.handled;
UPDATE evinbox.inbox SET enabled = false;
INSERT INTO evinbox.event (subject_type, subject_id, action, actor, metadata)
SELECT 'Issue', i, 'status_changed', 'User:7', '{"from": "open", "to": "closed"}'
FROM generate_series(1, :events) i;
SELECT max(id) AS last FROM evinbox.event \gset

SELECT clock_timestamp() AS loop_start \gset
DO $$
DECLARE
	e evinbox.event;
BEGIN
	FOR e IN SELECT * FROM evinbox.event ORDER BY id DESC LIMIT current_setting('bench.events')::bigint LOOP
		PERFORM bench.handle(e);
	END LOOP;
END
$$;
SELECT extract(epoch FROM clock_timestamp() - :'loop_start') AS loop_seconds \gset

TRUNCATE bench.handled;
SELECT clock_timestamp() AS drain_start \gset
UPDATE evinbox.inbox SET enabled = true WHERE name = 'bench';
CALL bench.wait_for(:events);
SELECT extract(epoch FROM max(handled_at) - :'drain_start') AS drain_seconds FROM bench.handled \gset
SELECT round(:events / :loop_seconds), round(:events / :drain_seconds);
