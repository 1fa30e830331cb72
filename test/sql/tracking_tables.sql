-- Tracking: what kinds of tables, who may, and what becomes of columns.
\set SHOW_CONTEXT never
SET client_min_messages = error;
CREATE EXTENSION evinbox;
RESET client_min_messages;
CREATE TABLE looks (until bigint NOT NULL);
INSERT INTO looks VALUES (0);
CREATE FUNCTION look() RETURNS TABLE (subject text, action text, metadata jsonb, snapshot jsonb) LANGUAGE sql AS $$
	WITH last AS (UPDATE public.looks SET until = (SELECT coalesce(max(id), until) FROM evinbox.event) RETURNING until)
	SELECT e.subject_type || ' ' || e.subject_id, e.action, e.metadata, e.snapshot FROM evinbox.event e, last
		WHERE e.id > (SELECT until FROM public.looks) ORDER BY e.id
$$;
CREATE FUNCTION triggers_of(relation regclass) RETURNS TABLE (name text, condition text) LANGUAGE sql AS $$
	SELECT tgname, substring(pg_get_triggerdef(oid) FROM 'AFTER .* EXECUTE') FROM pg_trigger WHERE tgrelid = relation AND NOT tgisinternal ORDER BY 1
$$;

-- renamed columns, tables and schemas go on
CREATE TABLE tasks (id int PRIMARY KEY, gone int, state text, note text, grp text);
ALTER TABLE tasks DROP gone;
SELECT evinbox.track('tasks', '{state,note}', scope_column => 'grp');
INSERT INTO tasks VALUES (1, 'new', 'a', 'red');
ALTER TABLE tasks RENAME state TO status;
ALTER TABLE tasks RENAME id TO number;
ALTER TABLE tasks RENAME grp TO "Team";
ALTER TABLE tasks RENAME TO jobs;
ALTER TABLE jobs ADD extra int;
UPDATE jobs SET status = 'done';
SELECT * FROM look();
-- a column that is tracked is needed
ALTER TABLE jobs DROP status;
ALTER TABLE jobs ALTER status TYPE varchar;
ALTER TABLE jobs DROP CONSTRAINT tasks_pkey;
UPDATE jobs SET status = 'still';
SELECT count(*) FROM look();
-- with CASCADE, the tracking goes with it, and wholly
ALTER TABLE jobs DROP status CASCADE;
SELECT * FROM triggers_of('jobs');
UPDATE jobs SET note = 'unheard';
SELECT * FROM look();
SELECT evinbox.track('jobs', '{note}');
SELECT evinbox.track('jobs', '{note}', id_column => 'number');
-- one trigger alone does nothing
DELETE FROM pg_depend WHERE classid = 'pg_trigger'::regclass AND refclassid = 'pg_trigger'::regclass
	AND objid IN (SELECT oid FROM pg_trigger WHERE tgrelid = 'jobs'::regclass);
DROP TRIGGER evinbox_track_old_changed ON jobs;
UPDATE jobs SET note = 'unheard, too';
SELECT * FROM look();
SELECT evinbox.track('jobs', '{note}', id_column => 'number');
UPDATE jobs SET note = 'heard';
SELECT * FROM look();
-- disabled as others are
ALTER TABLE jobs DISABLE TRIGGER USER;
UPDATE jobs SET note = 'unheard';
ALTER TABLE jobs ENABLE TRIGGER USER;
SET session_replication_role = replica;
UPDATE jobs SET note = 'replicated';
RESET session_replication_role;
SELECT * FROM look();

-- what cannot be tracked
CREATE VIEW a_view AS SELECT * FROM jobs;
CREATE MATERIALIZED VIEW a_matview AS SELECT * FROM jobs;
CREATE SEQUENCE a_sequence;
CREATE FOREIGN DATA WRAPPER nothing;
CREATE SERVER nowhere FOREIGN DATA WRAPPER nothing;
CREATE FOREIGN TABLE elsewhere (id int, note text) SERVER nowhere;
CREATE TABLE animals (id int PRIMARY KEY, name text);
SELECT evinbox.track('a_view', '{note}', id_column => 'number');
SELECT evinbox.track('a_matview', '{note}', id_column => 'number');
SELECT evinbox.track('a_sequence', '{last_value}', id_column => 'log_cnt');
SELECT evinbox.track('elsewhere', '{note}', id_column => 'id');
SELECT evinbox.track('animals_pkey', '{id}', id_column => 'id');
SELECT evinbox.track('pg_class', '{relname}');
SELECT evinbox.track('evinbox.event', '{actor}');
SELECT evinbox.track('evinbox.inbox', '{name}');
SELECT evinbox.track('evinbox_internal.event_1', '{actor}');
SELECT evinbox.track('evinbox_internal.outbox_0', '{event_id}', id_column => 'event_id');
SELECT evinbox.track(0::regclass, '{note}');
-- and how not
SELECT evinbox.track(NULL, '{note}');
SELECT evinbox.track('jobs', NULL, id_column => 'number');
SELECT evinbox.track('jobs', '{note}', NULL, id_column => 'number');
SELECT evinbox.track('jobs', '{note}', events => NULL, id_column => 'number');
SELECT evinbox.track('jobs', '{note}', snapshot => NULL, id_column => 'number');
SELECT evinbox.track('jobs', '{note}', '', id_column => 'number');
SELECT evinbox.track('jobs', '{note}', subject_type => '', id_column => 'number');
SELECT evinbox.track('jobs', '{}', id_column => 'number');
SELECT evinbox.track('jobs', '{}', id_column => 'number', events => '{insert,update}');
SELECT evinbox.track('jobs', '{note,NULL}', id_column => 'number');
SELECT evinbox.track('jobs', '{note,note}', id_column => 'number');
SELECT evinbox.track('jobs', '{status}', id_column => 'number');
SELECT evinbox.track('jobs', '{........pg.dropped.4........}', id_column => 'number');
SELECT evinbox.track('jobs', '{ctid}', id_column => 'number');
SELECT evinbox.track('jobs', '{note}', id_column => 'id');
SELECT evinbox.track('jobs', '{note}', id_column => 'tableoid');
SELECT evinbox.track('jobs', '{note}', id_column => 'number', scope_column => 'nowhere');
SELECT evinbox.track('jobs', '{note}', id_column => 'number', events => '{}');
SELECT evinbox.track('jobs', '{note}', id_column => 'number', events => '{update,truncate}');
SELECT evinbox.track('jobs', '{note}', id_column => 'number', events => '{NULL}');
SELECT evinbox.untrack(NULL);
SELECT evinbox.untrack('a_view');
-- a long action has a name of its own, and others' triggers are left alone
SELECT evinbox.track('jobs', '{note}', repeat('very ', 20) || 'long', id_column => 'number');
SELECT evinbox.track('jobs', '{note}', repeat('very ', 20) || 'longer', id_column => 'number');
SELECT evinbox.track('jobs', '{note}', repeat('very ', 20) || 'long', id_column => 'number');
SELECT evinbox.track('jobs', '{note}', 'Odd "one" ''\', id_column => 'number');
SELECT name FROM triggers_of('jobs');
UPDATE jobs SET note = 'x';
SELECT action, count(*) FROM look() GROUP BY action ORDER BY action COLLATE "C";
CREATE FUNCTION nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER evinbox_track_new_taken AFTER UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION nothing();
SELECT evinbox.track('jobs', '{note}', 'taken', id_column => 'number');
SELECT evinbox.untrack('jobs');
SELECT name FROM triggers_of('jobs');
-- the trigger function is for track() alone
CREATE TRIGGER mine AFTER UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION evinbox_internal.record_change();
UPDATE jobs SET note = 'y';
DROP TRIGGER mine ON jobs;
CREATE TRIGGER mine BEFORE UPDATE ON jobs FOR EACH STATEMENT EXECUTE FUNCTION evinbox_internal.record_change('a', 'b', 'update', '1', '', '', '');
UPDATE jobs SET note = 'y';
SELECT evinbox.untrack('jobs');
SELECT evinbox_internal.record_change();

-- temporary and unlogged tables are tables
CREATE TEMPORARY TABLE scratch (id int PRIMARY KEY, v int);
CREATE UNLOGGED TABLE fast (id int PRIMARY KEY, v int);
SELECT evinbox.track('scratch', '{v}'), evinbox.track('fast', '{v}');
INSERT INTO scratch VALUES (1, 1);
INSERT INTO fast VALUES (1, 1);
UPDATE scratch SET v = 2;
UPDATE fast SET v = 2;
BEGIN READ ONLY;
UPDATE scratch SET v = 3;
ROLLBACK;
SELECT * FROM look();
DROP TABLE scratch, fast;

-- a table that others inherit from is tracked by itself
CREATE TABLE dogs (breed text, PRIMARY KEY (id)) INHERITS (animals);
SELECT evinbox.track('animals', '{name}', snapshot => true);
INSERT INTO animals VALUES (1, 'cat');
INSERT INTO dogs VALUES (2, 'dog', 'terrier');
UPDATE animals SET name = upper(name);
SELECT * FROM look();
SELECT evinbox.track('dogs', '{name}', subject_type => 'animals', snapshot => true);
UPDATE animals SET name = lower(name);
SELECT * FROM look();
SELECT evinbox.untrack('dogs'), evinbox.untrack('animals');

-- a partitioned table: whatever the numbers of the columns, however it is written to
CREATE TABLE orders (id int, gone int, status text, region text, note text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
ALTER TABLE orders DROP gone;
CREATE TABLE orders_north PARTITION OF orders FOR VALUES IN ('north');
CREATE TABLE orders_south (note text, extra int, region text NOT NULL, id int NOT NULL, status text);
ALTER TABLE orders_south DROP extra;
ALTER TABLE orders ATTACH PARTITION orders_south FOR VALUES IN ('south');
SELECT evinbox.track('orders', '{status,note}', id_column => 'id', snapshot => true);
SELECT * FROM triggers_of('orders');
CREATE TABLE orders_rest PARTITION OF orders FOR VALUES IN ('east', 'west') PARTITION BY LIST (region);
CREATE TABLE orders_east PARTITION OF orders_rest FOR VALUES IN ('east');
CREATE TABLE orders_west PARTITION OF orders_rest FOR VALUES IN ('west');
INSERT INTO orders SELECT n, 'new', region FROM unnest('{north,south,east,west}'::text[]) WITH ORDINALITY r (region, n);
UPDATE orders SET status = 'paid';
UPDATE orders_south SET note = 'directly';
DELETE FROM orders WHERE id = 4;
SELECT * FROM look();
-- a row that moves has changed, and neither come nor gone
UPDATE orders SET region = 'south', status = 'sent' WHERE region = 'north';
UPDATE orders SET region = 'west', note = 'moved' WHERE id = 2;
UPDATE orders SET region = CASE region WHEN 'south' THEN 'north' ELSE 'south' END WHERE id IN (1, 3);
SELECT * FROM look();
SELECT evinbox.track('orders', '{region}', events => '{insert,update,delete}', action => 'moved', subject_type => 'Order');
SELECT evinbox.track('orders', '{}', events => '{insert,delete}', action => 'come or gone');
UPDATE orders SET region = CASE region WHEN 'north' THEN 'south' WHEN 'south' THEN 'east' ELSE 'north' END, note = 'round';
SELECT subject, action, metadata FROM look();
INSERT INTO orders VALUES (5, 'new', 'north');
DELETE FROM orders WHERE id = 5;
SELECT subject, action, metadata FROM look();
-- some move, some come, in one command; a savepoint in between
BEGIN;
SAVEPOINT a;
UPDATE orders SET region = 'west' WHERE id = 1;
ROLLBACK TO a;
MERGE INTO orders o USING (VALUES (1), (7)) v (id) ON o.id = v.id
	WHEN MATCHED THEN UPDATE SET region = 'west' WHEN NOT MATCHED THEN INSERT (id, status, region) VALUES (v.id, 'new', 'west');
SELECT subject, action, metadata FROM look();
ROLLBACK;
-- a move that somebody prevents half-way is none, and is not taken for another one's
CREATE FUNCTION prevent() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER prevent BEFORE INSERT ON orders_west FOR EACH ROW EXECUTE FUNCTION prevent();
SELECT id, region FROM orders ORDER BY id;
BEGIN;
UPDATE orders SET region = 'west' WHERE id < 3;
INSERT INTO orders VALUES (8, 'new', 'north');
UPDATE orders SET region = 'north', note = 'x' WHERE id = 3;
SELECT subject, action, metadata FROM look();
ROLLBACK;
DROP TRIGGER prevent ON orders_west;
-- in a second table with the same action
CREATE TABLE others (id int, v int, w int, PRIMARY KEY (id, v)) PARTITION BY LIST (v);
CREATE TABLE others_1 PARTITION OF others FOR VALUES IN (1);
CREATE TABLE others_2 PARTITION OF others FOR VALUES IN (2);
INSERT INTO others VALUES (1, 1), (2, 2);
SELECT evinbox.track('others', '{v}', action => 'moved');
WITH o AS (UPDATE orders SET region = CASE region WHEN 'north' THEN 'south' ELSE 'north' END RETURNING 1) UPDATE others SET v = 3 - v;
SELECT subject, action, metadata FROM look() WHERE action = 'moved' ORDER BY subject COLLATE "C";
-- many
INSERT INTO others SELECT n, 1 FROM generate_series(10, 5000) n;
UPDATE others SET v = 3 - v;
SELECT count(*), count(DISTINCT subject), min(metadata::text), max(metadata::text) FROM look();
-- partitions have their triggers from the table
SELECT evinbox.untrack('orders_north');
SELECT evinbox.track('orders_north', '{note}', id_column => 'id');
SELECT evinbox.track('orders_rest', '{note}', id_column => 'id');
SELECT evinbox.track('orders_north', '{note}', id_column => 'id', action => 'northern');
UPDATE orders SET note = 'north' WHERE region = 'north';
SELECT subject, action FROM look() ORDER BY 2, 1;
ALTER TABLE orders DETACH PARTITION orders_south;
SELECT evinbox.untrack('orders');
SELECT * FROM triggers_of('orders_south');
SELECT name FROM triggers_of('orders_north');
DROP TABLE orders, orders_south, others;

-- who may: the owner, if he may call it
CREATE ROLE regress_evinbox_owner;
CREATE ROLE regress_evinbox_writer;
CREATE SCHEMA theirs AUTHORIZATION regress_evinbox_owner;
GRANT USAGE ON SCHEMA theirs TO regress_evinbox_writer;
SET ROLE regress_evinbox_owner;
CREATE TABLE theirs.cards (id int PRIMARY KEY, pin text);
GRANT SELECT, INSERT, UPDATE, DELETE, TRIGGER ON theirs.cards TO regress_evinbox_writer;
SELECT evinbox.track('theirs.cards', '{pin}');
RESET ROLE;
GRANT USAGE ON SCHEMA evinbox TO regress_evinbox_owner;
SET ROLE regress_evinbox_owner;
SELECT evinbox.track('theirs.cards', '{pin}');
RESET ROLE;
GRANT EXECUTE ON FUNCTION evinbox.track, evinbox.untrack TO regress_evinbox_owner;
SET ROLE regress_evinbox_owner;
SELECT evinbox.track('theirs.cards', '{pin}', events => '{insert,update,delete}');
SELECT evinbox.track('public.jobs', '{note}', id_column => 'number');
SELECT evinbox.untrack('public.jobs');
SELECT evinbox.track('pg_catalog.pg_class', '{relname}');
SELECT evinbox.track('evinbox.event', '{actor}');
-- the trigger is his, its function is not
ALTER TRIGGER evinbox_track_new_changed ON theirs.cards RENAME TO my_own_name;
CREATE TRIGGER mine AFTER UPDATE ON theirs.cards FOR EACH ROW EXECUTE FUNCTION evinbox_internal.record_change('a', 'b', 'update', '1', '', '', '');
SELECT current_user;
REVOKE TRIGGER ON theirs.cards FROM regress_evinbox_owner;
SELECT evinbox.track('theirs.cards', '{pin}');
GRANT TRIGGER ON theirs.cards TO regress_evinbox_owner;
-- nor are others' partitions, unless they say so
CREATE TABLE theirs.decks (id int PRIMARY KEY, suit text) PARTITION BY LIST (id);
CREATE TABLE theirs.decks_1 PARTITION OF theirs.decks FOR VALUES IN (1) PARTITION BY LIST (id);
CREATE TABLE theirs.decks_1_1 PARTITION OF theirs.decks_1 FOR VALUES IN (1);
RESET ROLE;
ALTER TABLE theirs.decks_1_1 OWNER TO regress_evinbox_writer;
SET ROLE regress_evinbox_owner;
SELECT evinbox.track('theirs.decks', '{suit}');
RESET ROLE;
GRANT TRIGGER ON theirs.decks_1_1 TO regress_evinbox_owner;
SET ROLE regress_evinbox_owner;
SELECT evinbox.track('theirs.decks', '{suit}');
RESET ROLE;
-- who may write needs no right to anything of ours, and has none by it
GRANT USAGE ON SCHEMA evinbox TO regress_evinbox_writer;
GRANT EXECUTE ON FUNCTION evinbox.track TO regress_evinbox_writer;
SET ROLE regress_evinbox_writer;
SELECT evinbox.track('theirs.cards', '{pin}');
RESET ROLE;
REVOKE ALL ON FUNCTION evinbox.track FROM regress_evinbox_writer;
REVOKE ALL ON SCHEMA evinbox FROM regress_evinbox_writer;
SET ROLE regress_evinbox_writer;
INSERT INTO theirs.cards VALUES (1, '1234');
UPDATE theirs.cards SET pin = '4321';
DELETE FROM theirs.cards;
SELECT * FROM evinbox.event;
RESET ROLE;
SELECT * FROM look();
-- rows are converted as the writer
CREATE TYPE theirs.spy AS ENUM ('x');
CREATE FUNCTION theirs.whoami(theirs.spy) RETURNS json LANGUAGE sql AS $$ SELECT to_json(current_user::text || ' ' || current_setting('is_superuser')) $$;
CREATE CAST (theirs.spy AS json) WITH FUNCTION theirs.whoami(theirs.spy);
ALTER TABLE theirs.cards ADD spy theirs.spy;
SELECT evinbox.track('theirs.cards', '{spy}', events => '{insert}', snapshot => true);
SET ROLE regress_evinbox_writer;
INSERT INTO theirs.cards VALUES (2, '1', 'x');
RESET ROLE;
SELECT * FROM look();
-- row security hides no change, and shows none
ALTER TABLE theirs.cards ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON theirs.cards TO regress_evinbox_writer USING (id > 1) WITH CHECK (true);
SET ROLE regress_evinbox_writer;
INSERT INTO theirs.cards VALUES (1, '1', 'x'), (3, '3', NULL);
DELETE FROM theirs.cards;
RESET ROLE;
SELECT * FROM look();
-- a writer who may not insert meets what others have added to evinbox.event
CREATE TRIGGER nothing AFTER INSERT ON evinbox.event FOR EACH ROW EXECUTE FUNCTION nothing();
SET ROLE regress_evinbox_writer;
INSERT INTO theirs.cards VALUES (10, '1', NULL);
RESET ROLE;
DROP TRIGGER nothing ON evinbox.event;
-- what was is for those who may read events
GRANT EXECUTE ON FUNCTION evinbox.state_at TO regress_evinbox_owner;
SET ROLE regress_evinbox_owner;
SELECT evinbox.state_at('cards', '2', now());
RESET ROLE;
GRANT SELECT ON evinbox.event TO regress_evinbox_owner;
SET ROLE regress_evinbox_owner;
SELECT evinbox.state_at('cards', '2', now());
SELECT evinbox.untrack('theirs.cards');
RESET ROLE;
DROP SCHEMA theirs CASCADE;
DROP OWNED BY regress_evinbox_owner, regress_evinbox_writer;
DROP ROLE regress_evinbox_owner, regress_evinbox_writer;

UPDATE jobs SET note = 'z';
-- the extension does not go while tables are tracked
DROP VIEW a_view;
DROP MATERIALIZED VIEW a_matview;
SELECT evinbox.track('jobs', '{note}', id_column => 'number');
DROP EXTENSION evinbox;
DROP EXTENSION evinbox CASCADE;
UPDATE jobs SET note = 'alone';
SELECT name FROM triggers_of('jobs');
DROP TABLE jobs, looks, animals, dogs;
DROP SEQUENCE a_sequence;
DROP FOREIGN DATA WRAPPER nothing CASCADE;
DROP FUNCTION look, triggers_of, nothing, prevent;
