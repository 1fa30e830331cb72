-- What belongs to whom: others' rules, and what becomes of rules whose owner
-- changes, is renamed, or goes.
\set SHOW_CONTEXT never
SET client_min_messages = error;
CREATE EXTENSION evinbox;
SELECT current_user AS superuser, current_database() AS db \gset
CREATE ROLE regress_evinbox_anna LOGIN;
CREATE ROLE regress_evinbox_bert LOGIN;
CREATE ROLE regress_evinbox_carl LOGIN IN ROLE regress_evinbox_anna;
CREATE ROLE regress_evinbox_users ROLE regress_evinbox_anna, regress_evinbox_bert;
RESET client_min_messages;
GRANT USAGE ON SCHEMA evinbox TO regress_evinbox_users;
GRANT SELECT, INSERT, UPDATE, DELETE ON evinbox.inbox TO regress_evinbox_users;
GRANT EXECUTE ON FUNCTION evinbox.run TO regress_evinbox_users;
CREATE SCHEMA work;
GRANT USAGE, CREATE ON SCHEMA work TO regress_evinbox_users;
CREATE FUNCTION handle(e evinbox.event) RETURNS void LANGUAGE sql AS '';
CREATE VIEW status AS SELECT name, owner, state, last_error FROM evinbox.inbox_status ORDER BY name;
-- who owns what; the name of an owner that was renamed is mended by a worker, if there is one
CREATE VIEW owned AS SELECT name, owner_id::regrole AS owner FROM evinbox.inbox ORDER BY name;

\c - regress_evinbox_anna
INSERT INTO evinbox.inbox (name, handler, dispatch, config) VALUES
	('anna''s', 'handle', 'scheduled', '{"secret": "anna''s"}'), ('anna''s other', 'handle', 'scheduled', '{}');
\c - regress_evinbox_bert
INSERT INTO evinbox.inbox (name, handler, dispatch, config) VALUES ('bert''s', 'handle', 'scheduled', '{"secret": "bert''s"}');

-- others' rules are out of sight, and so is what is in them
SELECT name, owner, config FROM evinbox.inbox ORDER BY name;
CREATE FUNCTION work.peep(config jsonb) RETURNS boolean LANGUAGE plpgsql COST 0.0001
	AS $$ BEGIN RAISE NOTICE 'seen: %', config; RETURN true; END $$;
SELECT count(*) FROM evinbox.inbox WHERE work.peep(config);
UPDATE evinbox.inbox SET priority = 1 WHERE work.peep(config) RETURNING name;
UPDATE evinbox.inbox SET config = '{}' WHERE name LIKE 'anna%' RETURNING config;
DELETE FROM evinbox.inbox WHERE name LIKE 'anna%' RETURNING config;
SELECT FROM evinbox.inbox FOR UPDATE;
MERGE INTO evinbox.inbox i USING (VALUES ('anna''s')) v (name) ON i.name = v.name
	WHEN MATCHED THEN DELETE WHEN NOT MATCHED THEN DO NOTHING;
-- but their names are taken
INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES ('anna''s', 'handle', 'scheduled');
INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES ('anna''s', 'handle', 'scheduled')
	ON CONFLICT (name) DO UPDATE SET priority = 1;
INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES ('anna''s', 'handle', 'scheduled')
	ON CONFLICT (name) DO NOTHING RETURNING config;
UPDATE evinbox.inbox SET name = 'anna''s';
-- nobody writes a rule for another role
INSERT INTO evinbox.inbox (name, handler, dispatch, owner) VALUES ('i', 'handle', 'scheduled', 'regress_evinbox_anna');
UPDATE evinbox.inbox SET owner = 'regress_evinbox_anna' RETURNING owner;
\copy evinbox.inbox (name, handler, owner) FROM /dev/null
-- nor chooses what stands for it
INSERT INTO evinbox.inbox (name, handler, dispatch, owner_id) VALUES ('i', 'handle', 'scheduled', 'regress_evinbox_anna'::regrole)
	RETURNING owner, owner_id::regrole;
INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES ('i', 'handle', 'scheduled')
	RETURNING owner, owner_id::regrole;
UPDATE evinbox.inbox SET owner_id = 'regress_evinbox_anna'::regrole WHERE name = 'i' RETURNING owner, owner_id::regrole;
UPDATE evinbox.inbox SET owner_id = 0 WHERE name = 'i' RETURNING owner, owner_id::regrole;
DELETE FROM evinbox.inbox WHERE name = 'i';
-- row security is not the writer's to switch off
SET row_security = off;
SELECT count(*) FROM evinbox.inbox;
RESET row_security;
ALTER TABLE evinbox.inbox DISABLE ROW LEVEL SECURITY;

-- a member may all that the owner may, but not run them
\c - regress_evinbox_carl
SELECT name, owner FROM evinbox.inbox ORDER BY name;
UPDATE evinbox.inbox SET priority = 2 WHERE name = 'anna''s' RETURNING owner, owner_id::regrole;
UPDATE evinbox.inbox SET owner = 'regress_evinbox_carl' WHERE name = 'anna''s other' RETURNING owner, owner_id::regrole;
SELECT evinbox.run('anna''s');
-- what was given away is gone
\c - regress_evinbox_anna
SELECT name FROM evinbox.inbox ORDER BY name;
\c - regress_evinbox_carl
UPDATE evinbox.inbox SET owner = 'regress_evinbox_anna' WHERE name = 'anna''s other' RETURNING owner, owner_id::regrole;
\c - :superuser

-- a superuser sees and may all
TABLE owned;
UPDATE evinbox.inbox SET priority = 3;
SELECT name, priority FROM evinbox.inbox ORDER BY name;
BEGIN;
DELETE FROM evinbox.inbox;
ROLLBACK;

-- a handler is the owner's or a superuser's, or else its owner could act as the rule's
\c - regress_evinbox_bert
CREATE FUNCTION work.berts(e evinbox.event) RETURNS void LANGUAGE sql AS '';
\c - regress_evinbox_anna
CREATE FUNCTION work.annas(e evinbox.event) RETURNS void LANGUAGE sql AS '';
INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES ('i', 'work.berts', 'scheduled');
UPDATE evinbox.inbox SET handler = 'work.berts' WHERE name = 'anna''s';
UPDATE evinbox.inbox SET handler = 'work.annas' WHERE name = 'anna''s' RETURNING handler;
\c - :superuser
INSERT INTO evinbox.inbox (name, handler, dispatch, owner) VALUES ('i', 'work.berts', 'scheduled', 'regress_evinbox_anna');
UPDATE evinbox.inbox SET owner = 'regress_evinbox_bert' WHERE name = 'anna''s';
-- not even a role that the owner is a member of
ALTER FUNCTION work.annas(evinbox.event) OWNER TO regress_evinbox_users;
SELECT evinbox.record_event('T', 1, 'done');
\c - regress_evinbox_anna
SELECT evinbox.run('anna''s'), evinbox.run('anna''s other');
-- it goes on when that is so again
\c - :superuser
SELECT * FROM status WHERE name LIKE 'anna%';
ALTER FUNCTION work.annas(evinbox.event) OWNER TO regress_evinbox_anna;
\c - regress_evinbox_anna
SELECT evinbox.run('anna''s');
\c - :superuser
SELECT * FROM status WHERE name LIKE 'anna%';
-- a superuser's, as long as it is one
CREATE ROLE regress_evinbox_root SUPERUSER;
ALTER FUNCTION work.annas(evinbox.event) OWNER TO regress_evinbox_root;
SELECT evinbox.record_event('T', 2, 'done');
\c - regress_evinbox_anna
SELECT evinbox.run('anna''s');
\c - :superuser
ALTER ROLE regress_evinbox_root NOSUPERUSER;
SELECT evinbox.record_event('T', 3, 'done');
\c - regress_evinbox_anna
SELECT evinbox.run('anna''s');
\c - :superuser
SELECT * FROM status WHERE name = 'anna''s';
ALTER FUNCTION work.annas(evinbox.event) OWNER TO regress_evinbox_anna;
DROP ROLE regress_evinbox_root;

-- a worker has to be able to connect as the owner of a live rule. Here it is never
-- visible to one.
BEGIN;
INSERT INTO evinbox.inbox (name, handler, owner) VALUES ('live', 'handle', 'regress_evinbox_bert');
REVOKE CONNECT ON DATABASE :"db" FROM PUBLIC;
SELECT * FROM status WHERE name IN ('live', 'bert''s');
-- pausing it needs nothing
SELECT evinbox.pause('live');
SELECT * FROM status WHERE name = 'live';
SELECT evinbox.resume('live');
SAVEPOINT s;
INSERT INTO evinbox.inbox (name, handler, owner) VALUES ('i', 'handle', 'regress_evinbox_bert');
ROLLBACK TO s;
UPDATE evinbox.inbox SET dispatch = 'live' WHERE name = 'bert''s';
ROLLBACK TO s;
UPDATE evinbox.inbox SET owner = 'regress_evinbox_anna' WHERE name = 'live';
ROLLBACK TO s;
INSERT INTO evinbox.inbox (name, handler, dispatch, owner) VALUES ('i', 'handle', 'scheduled', 'regress_evinbox_bert');
GRANT CONNECT ON DATABASE :"db" TO regress_evinbox_anna;
UPDATE evinbox.inbox SET owner = 'regress_evinbox_anna' WHERE name = 'live';
SELECT owner, state IN ('running', 'no worker') AS works, last_error FROM status WHERE name = 'live';
ROLLBACK;

-- rules follow a role that is renamed
ALTER ROLE regress_evinbox_anna RENAME TO regress_evinbox_anne;
TABLE owned;
SELECT name, owner FROM status WHERE name LIKE 'anna%';
CREATE ROLE regress_evinbox_anna LOGIN IN ROLE regress_evinbox_users;
SELECT name, owner FROM status WHERE name LIKE 'anna%';
\c - regress_evinbox_anne
SELECT name FROM evinbox.inbox ORDER BY name;
UPDATE evinbox.inbox SET priority = 4 WHERE name = 'anna''s' RETURNING owner_id::regrole;
SELECT evinbox.run('anna''s');
-- and no other one of its former name
\c - regress_evinbox_anna
SELECT name FROM evinbox.inbox ORDER BY name;
SELECT evinbox.run('anna''s');
UPDATE evinbox.inbox SET owner = 'regress_evinbox_anna' WHERE name = 'anna''s' RETURNING name;
\c - :superuser
-- nor does that get them by an update that leaves the name as it is
UPDATE evinbox.inbox SET owner = owner, priority = 4 WHERE name LIKE 'anna%' RETURNING owner_id::regrole;
TABLE owned;
DROP ROLE regress_evinbox_anna;

-- a role that has rules is not dropped
CREATE ROLE regress_evinbox_dora LOGIN;
INSERT INTO evinbox.inbox (name, handler, dispatch, owner) VALUES ('dora''s', 'handle', 'scheduled', 'regress_evinbox_dora');
DROP ROLE regress_evinbox_dora;
BEGIN;
UPDATE evinbox.inbox SET owner = 'regress_evinbox_bert' WHERE name = 'dora''s';
DROP ROLE regress_evinbox_dora;
ROLLBACK;
BEGIN;
DELETE FROM evinbox.inbox WHERE name = 'dora''s';
DROP ROLE regress_evinbox_dora;
ROLLBACK;
BEGIN;
TRUNCATE evinbox.inbox CASCADE;
DROP ROLE regress_evinbox_dora;
ROLLBACK;
DROP ROLE regress_evinbox_dora;
-- what is undone leaves nothing
BEGIN;
SAVEPOINT s;
UPDATE evinbox.inbox SET owner = 'regress_evinbox_dora' WHERE name IN ('bert''s', 'anna''s other');
ROLLBACK TO s;
UPDATE evinbox.inbox SET owner = 'regress_evinbox_bert' WHERE name = 'dora''s';
COMMIT;
DROP ROLE regress_evinbox_dora;

-- DROP OWNED takes rules along, in a session that has not used evinbox as well
\c - regress_evinbox_bert
\set VERBOSITY terse
DROP OWNED BY regress_evinbox_anne;
\set VERBOSITY default
\c - :superuser
DROP OWNED BY regress_evinbox_anne;
SELECT evinbox.run() AS loaded;
TABLE owned;
DROP ROLE regress_evinbox_anne;
\c - regress_evinbox_bert
SELECT name FROM evinbox.inbox ORDER BY name;

-- REASSIGN OWNED gives them to another, with what they call
UPDATE evinbox.inbox SET handler = 'work.berts' WHERE name = 'bert''s';
\c - :superuser
GRANT regress_evinbox_users TO regress_evinbox_carl;
-- a session that has used evinbox, where it is not preloaded
SELECT evinbox.run() AS loaded;
REASSIGN OWNED BY regress_evinbox_bert TO regress_evinbox_carl;
SELECT name, owner, state FROM status;
DROP OWNED BY regress_evinbox_bert;
DROP ROLE regress_evinbox_bert;
-- paused, as he could not have written them for that role; now it lets them go on
UPDATE evinbox.inbox SET enabled = true;
SELECT name, owner, state FROM status;
-- those of a member of the new owner just go on, even if they do not work there
CREATE ROLE regress_evinbox_emil LOGIN;
GRANT regress_evinbox_emil TO regress_evinbox_carl;
REASSIGN OWNED BY regress_evinbox_carl TO regress_evinbox_emil;
SELECT name, owner, state FROM status;
REASSIGN OWNED BY regress_evinbox_emil TO regress_evinbox_carl;
UPDATE evinbox.inbox SET enabled = true;
DROP ROLE regress_evinbox_emil;

-- a role that is gone, as if its rules had been restored without it
SET session_replication_role = replica;
UPDATE evinbox.inbox SET owner_id = 0;
RESET session_replication_role;
SELECT name, state FROM status;
-- they belong to nobody, not to a role of that name either
\c - regress_evinbox_carl
SELECT count(*) FROM evinbox.inbox;
UPDATE evinbox.inbox SET owner = 'regress_evinbox_carl' RETURNING name;
SELECT evinbox.run('bert''s');
SELECT evinbox.run();
\c - :superuser
SELECT evinbox.run('bert''s');
-- until a superuser says whose they are
UPDATE evinbox.inbox SET priority = 5 WHERE name = 'bert''s' RETURNING owner, owner_id;
SELECT state FROM status WHERE name = 'bert''s';
UPDATE evinbox.inbox SET owner = owner, handler = 'handle';
TABLE owned;
SELECT name, owner, state FROM status;
\c - regress_evinbox_carl
SELECT name FROM evinbox.inbox ORDER BY name;
\c - :superuser

SET client_min_messages = error;
DROP EXTENSION evinbox CASCADE;
DROP SCHEMA work CASCADE;
DROP ROLE regress_evinbox_carl, regress_evinbox_users;
