-- Tracking: rows that move between partitions with several pairs of triggers, and within moves.
\set SHOW_CONTEXT never
SET client_min_messages = error;
CREATE EXTENSION evinbox;
RESET client_min_messages;
CREATE TABLE looks (until bigint NOT NULL);
INSERT INTO looks VALUES (0);
CREATE FUNCTION look() RETURNS TABLE (subject text, action text, metadata jsonb) LANGUAGE sql AS $$
	WITH last AS (UPDATE public.looks SET until = (SELECT coalesce(max(id), until) FROM evinbox.event) RETURNING until)
	SELECT e.subject_type || ' ' || e.subject_id, e.action, e.metadata FROM evinbox.event e, last
		WHERE e.id > (SELECT until FROM public.looks) ORDER BY e.id
$$;

-- one partition has triggers of its own with the same action, and more columns
CREATE TABLE n (id int, r text, st text, a text, b text, c text, d text, e text, f text, PRIMARY KEY (id, r)) PARTITION BY LIST (r);
CREATE TABLE n1 PARTITION OF n FOR VALUES IN ('a');
CREATE TABLE n2 PARTITION OF n FOR VALUES IN ('b');
INSERT INTO n SELECT g, 'b', 'x', 'a', 'b', 'c', 'd', 'e', 'f' FROM generate_series(1, 3) g;
SELECT evinbox.track('n', '{st}', id_column => 'id');
ALTER TRIGGER evinbox_track_new_changed ON n RENAME TO z_new;
ALTER TRIGGER evinbox_track_old_changed ON n RENAME TO z_old;
SELECT evinbox.track('n1', '{a,b,c,d,e,f}', id_column => 'id', subject_type => 'N1', events => '{insert,update,delete}');
UPDATE n SET r = 'a', st = 'y';
SELECT * FROM look();
UPDATE n SET r = 'b', st = 'z' WHERE id = 1;
UPDATE n SET st = 'stayed', f = 'g' WHERE id = 2;
SELECT * FROM look() ORDER BY subject COLLATE "C";
-- whatever comes first by its name
ALTER TRIGGER z_new ON n RENAME TO a_new;
ALTER TRIGGER z_old ON n RENAME TO a_old;
UPDATE n SET st = 'again', f = 'h' WHERE id = 2;
UPDATE n SET f = 'i', st = 'moved', r = 'a' WHERE id = 1;
SELECT * FROM look() ORDER BY subject COLLATE "C", metadata::text COLLATE "C";
DROP TABLE n;

-- a tracked table that became a part of another one, which is tracked, too
CREATE TABLE q1 (id int, r text, s text, st int, note text, PRIMARY KEY (id, r, s)) PARTITION BY LIST (s);
CREATE TABLE q1a PARTITION OF q1 FOR VALUES IN ('a');
CREATE TABLE q1b PARTITION OF q1 FOR VALUES IN ('b');
SELECT evinbox.track('q1', '{st}', id_column => 'id');
ALTER TRIGGER evinbox_track_new_changed ON q1 RENAME TO inner_new;
ALTER TRIGGER evinbox_track_old_changed ON q1 RENAME TO inner_old;
SELECT evinbox.track('q1', '{st}', id_column => 'id', action => 'inner', events => '{insert,update,delete}');
CREATE TABLE q0 (LIKE q1, PRIMARY KEY (id, r, s)) PARTITION BY LIST (r);
CREATE TABLE q2 PARTITION OF q0 FOR VALUES IN ('y');
ALTER TABLE q0 ATTACH PARTITION q1 FOR VALUES IN ('x');
SELECT evinbox.track('q0', '{r,s,note}', id_column => 'id', subject_type => 'Q0');
INSERT INTO q0 SELECT g, 'x', 'a', 1, 'x' FROM generate_series(1, 3) g;
SELECT subject, action FROM look();
UPDATE q0 SET s = 'b', st = 2 WHERE id = 1;
UPDATE q1 SET s = 'b', note = 'n' WHERE id = 2;
SELECT * FROM look();
-- what leaves the inner one is no event there, what comes is an insert
UPDATE q0 SET r = 'y', note = 'out' WHERE id = 1;
UPDATE q0 SET r = 'x', note = 'in' WHERE id = 1;
SELECT subject, action, metadata->'changes'->'r' AS r, metadata->'changes'->'note' AS note FROM look();
DROP TABLE q0;

-- a move within a move
CREATE TABLE m (id int, r text, st text, PRIMARY KEY (id, r)) PARTITION BY LIST (r);
CREATE TABLE ma PARTITION OF m FOR VALUES IN ('a');
CREATE TABLE mb PARTITION OF m FOR VALUES IN ('b');
SELECT evinbox.track('m', '{r,st}', id_column => 'id', events => '{insert,update,delete}');
CREATE FUNCTION follow() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	UPDATE public.m SET r = 'b', st = 'pulled along' WHERE id = old.id + 10 AND r = 'a';
	RETURN NULL;
END $$;
INSERT INTO m SELECT g * 10 + h, 'a', 'new' FROM generate_series(0, 3) g, generate_series(1, 2) h;
SELECT count(*) FROM look();
-- both before and after the triggers of track()
CREATE TRIGGER a_follow AFTER DELETE ON m FOR EACH ROW EXECUTE FUNCTION follow();
UPDATE m SET r = 'b', st = 'gone' WHERE id < 10;
SELECT * FROM look() ORDER BY subject COLLATE "C";
SET session_replication_role = replica;
UPDATE m SET r = 'a', st = 'new';
RESET session_replication_role;
ALTER TRIGGER a_follow ON m RENAME TO z_follow;
UPDATE m SET r = 'b', st = 'gone' WHERE id < 10;
SELECT * FROM look() ORDER BY subject COLLATE "C";
-- also if the inner one never arrives, and the outer one goes on
CREATE FUNCTION prevent() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN CASE WHEN new.st <> 'pulled along' THEN new END; END $$;
CREATE TRIGGER prevent BEFORE INSERT ON mb FOR EACH ROW EXECUTE FUNCTION prevent();
SET session_replication_role = replica;
UPDATE m SET r = 'a', st = 'new';
RESET session_replication_role;
UPDATE m SET r = 'b', st = 'gone' WHERE id < 10;
INSERT INTO m VALUES (50, 'a', 'come');
SELECT * FROM look() ORDER BY subject COLLATE "C";
-- many that never arrive leave one behind
CREATE FUNCTION lost(n int) RETURNS bigint LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. n LOOP
		INSERT INTO public.m VALUES (1000 + i, 'a', 'new');
		UPDATE public.m SET r = 'b', st = 'pulled along' WHERE id = 1000 + i;
	END LOOP;
	RETURN (SELECT count(*) FROM pg_catalog.pg_backend_memory_contexts WHERE name = 'evinbox moved row');
END $$;
SELECT lost(200);
SELECT count(*), count(DISTINCT metadata) FROM look();

DROP TABLE m, looks;
DROP FUNCTION look, follow, prevent, lost;
SET client_min_messages = error;
DROP EXTENSION evinbox CASCADE;
