-- schedule() and unschedule() where there is no pg_cron.
\set SHOW_CONTEXT never
SET client_min_messages = error;
CREATE EXTENSION evinbox;
RESET client_min_messages;
CREATE FUNCTION ignore(e evinbox.event) RETURNS void LANGUAGE sql AS '';
INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES ('s', 'ignore', 'scheduled');
SELECT evinbox.schedule('s', '0 8 * * *');
SELECT evinbox.schedule('s', '10 seconds');
SELECT evinbox.unschedule('s');
SELECT evinbox.schedule('missing', '0 8 * * *');
SELECT evinbox.unschedule('missing');
SELECT evinbox.schedule(NULL, '0 8 * * *');
SELECT evinbox.schedule('s', NULL);
SELECT evinbox.unschedule(NULL);

-- pg_cron in another database of this server, whose name differs from server
-- to server
CREATE FUNCTION complaint(call text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	hint text;
BEGIN
	EXECUTE call;
	RETURN 'none';
EXCEPTION WHEN object_not_in_prerequisite_state THEN
	GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
	RETURN replace(SQLERRM, current_database(), 'here') || E'\n' || hint;
END $$;
SET cron.database_name = 'elsewhere';
SELECT complaint('SELECT evinbox.schedule(''s'', ''0 8 * * *'')');
SELECT complaint('SELECT evinbox.unschedule(''s'')');
RESET cron.database_name;
DROP FUNCTION complaint;

SET client_min_messages = warning;
DROP EXTENSION evinbox CASCADE;
