-- CREATE EXTENSION and DROP EXTENSION: what comes goes again.
CREATE FUNCTION traces() RETURNS TABLE (kind text, name text)
LANGUAGE sql BEGIN ATOMIC
	SELECT 'schema', nspname::text FROM pg_namespace WHERE nspname LIKE 'evinbox%'
	UNION ALL
	SELECT 'event trigger', evtname::text FROM pg_event_trigger
	UNION ALL
	SELECT 'setting', setting FROM pg_db_role_setting, unnest(setconfig) AS setting
		WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
			AND setting LIKE 'evinbox.%'
	UNION ALL
	SELECT 'extension', extname::text FROM pg_extension WHERE extname = 'evinbox'
	UNION ALL
	SELECT 'function', proname::text FROM pg_proc WHERE probin LIKE '%evinbox'
	UNION ALL
	SELECT 'dependency', deptype::text FROM pg_depend
		WHERE refclassid = 'pg_extension'::regclass
			AND refobjid NOT IN (SELECT oid FROM pg_extension);
END;
-- others may have settings for this database too; they are not ours to change
CREATE TABLE settings_before AS
	SELECT cardinality(setconfig) AS settings FROM pg_db_role_setting
	WHERE setrole = 0 AND setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database());
SELECT * FROM traces();

SET client_min_messages = error;	-- a warning depends on shared_preload_libraries
CREATE EXTENSION evinbox;
SELECT kind, name FROM traces() WHERE kind <> 'function' ORDER BY kind COLLATE "C", name COLLATE "C";
SELECT extversion, nspname, extrelocatable
	FROM pg_extension JOIN pg_namespace n ON n.oid = extnamespace WHERE extname = 'evinbox';
CREATE EXTENSION evinbox;
ALTER EXTENSION evinbox SET SCHEMA public;
CREATE EXTENSION IF NOT EXISTS evinbox;

-- a DROP that is taken back changes nothing
BEGIN;
DROP EXTENSION evinbox;
SELECT * FROM traces();
ROLLBACK;
SELECT count(*) > 4 AS still_there FROM traces();
SELECT evinbox.record_event('T', 1, 'done');

-- what users have built on it needs CASCADE; tables with data do not
CREATE FUNCTION on_event(e evinbox.event) RETURNS void LANGUAGE sql AS '';
INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES ('i', 'on_event', 'scheduled');
SELECT evinbox.record_event('T', 1, 'done');
DROP EXTENSION evinbox;
DROP FUNCTION on_event;
DROP EXTENSION evinbox;
SELECT * FROM traces();
SELECT evinbox.record_event('T', 1, 'done');

-- from the beginning, in the same session, and in a transaction
CREATE EXTENSION evinbox;
SELECT evinbox.record_event('T', 1, 'done');
SELECT count(*) FROM evinbox.event;
SELECT count(*) FROM evinbox.inbox;
BEGIN;
DROP EXTENSION evinbox;
CREATE EXTENSION evinbox;
SELECT evinbox.record_event('T', 2, 'done');
COMMIT;
SELECT id, subject_id FROM evinbox.event;
SELECT name FROM traces() WHERE kind = 'setting';

-- by a session that has not used it before
\c
DROP EXTENSION evinbox;
SELECT * FROM traces();

-- an installation that is taken back
SET client_min_messages = error;
BEGIN;
CREATE EXTENSION evinbox;
SELECT evinbox.record_event('T', 1, 'done');
ROLLBACK;
SELECT * FROM traces();

-- by way of its owner, whose other objects go as well
CREATE ROLE regress_evinbox_owner SUPERUSER;
SET ROLE regress_evinbox_owner;
CREATE EXTENSION evinbox;
RESET ROLE;
DROP OWNED BY regress_evinbox_owner;
SELECT * FROM traces();
DROP ROLE regress_evinbox_owner;

-- other settings of the database stay
ALTER DATABASE :"DBNAME" SET evinbox_test.mark = 'mine';
CREATE EXTENSION evinbox;
DROP EXTENSION evinbox;
SELECT * FROM traces();
SELECT setting FROM pg_db_role_setting, unnest(setconfig) AS setting
	WHERE setrole = 0 AND setting LIKE 'evinbox%'
		AND setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database());
ALTER DATABASE :"DBNAME" RESET evinbox_test.mark;
SELECT settings = (SELECT cardinality(setconfig) FROM pg_db_role_setting
	WHERE setrole = 0 AND setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database()))
	AS as_before
	FROM settings_before;

DROP TABLE settings_before;
DROP FUNCTION traces;
