-- Writing rules: what is refused, and how a rule is stored.
\set SHOW_CONTEXT never
SET client_min_messages = error;
CREATE EXTENSION evinbox;
RESET client_min_messages;
CREATE FUNCTION one(e evinbox.event) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION two(e evinbox.event, config jsonb) RETURNS text LANGUAGE plpgsql AS 'BEGIN RETURN 1; END';

-- defaults
INSERT INTO evinbox.inbox (name, handler) VALUES ('defaults', 'one');
SELECT owner = current_user AS mine, subject_types, actions, condition, statement, config, enabled, dispatch,
		priority, max_attempts, backoff, timeout, batch_size, shards, replayable, start_at
	FROM evinbox.inbox;
DELETE FROM evinbox.inbox;

-- the handler's name is stored in full, quoted where it must be
CREATE SCHEMA "Odd schema";
CREATE FUNCTION "Odd schema"."Odd ""name"""(e evinbox.event) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION "Odd schema".one(e evinbox.event) RETURNS void LANGUAGE sql AS '';
INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES
	('one argument', 'one', 'scheduled'),
	('two arguments', 'public.two', 'scheduled'),
	('folded', '  PUBLIC . One ', 'scheduled'),
	('odd', '"Odd schema"."Odd ""name"""', 'scheduled');
SET search_path = "Odd schema", public;
INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES ('by path', 'one', 'scheduled');
SELECT name, handler, search_path FROM evinbox.inbox ORDER BY name;
RESET search_path;
-- changing something else does not move it
UPDATE evinbox.inbox SET priority = 5 WHERE name = 'by path' RETURNING handler, search_path;
-- as writing it again does
UPDATE evinbox.inbox SET handler = 'one' WHERE name = 'by path' RETURNING handler, search_path;

-- the path and the id are not the writer's to choose
UPDATE evinbox.inbox SET search_path = 'pg_temp' WHERE name = 'odd' RETURNING search_path;
INSERT INTO evinbox.inbox (name, handler, dispatch, search_path) VALUES ('p', 'one', 'scheduled', 'pg_temp')
	RETURNING search_path;
INSERT INTO evinbox.inbox (name, handler, id) VALUES ('id', 'one', 77);
UPDATE evinbox.inbox SET id = 77 WHERE name = 'odd';
CREATE TABLE ids AS SELECT name, id FROM evinbox.inbox;
UPDATE evinbox.inbox SET id = DEFAULT WHERE name = 'odd';
UPDATE evinbox.inbox SET name = 'renamed' WHERE name = 'folded';
SELECT count(*) AS ids_kept FROM evinbox.inbox JOIN ids USING (id);
DROP TABLE ids;
DELETE FROM evinbox.inbox;
DROP SCHEMA "Odd schema" CASCADE;

-- handlers that do not fit
INSERT INTO evinbox.inbox (name, handler) VALUES ('i', 'missing');
INSERT INTO evinbox.inbox (name, handler) VALUES ('i', 'nowhere.missing');
INSERT INTO evinbox.inbox (name, handler) VALUES ('i', 'otherdb.public.one');
INSERT INTO evinbox.inbox (name, handler) VALUES ('i', '');
INSERT INTO evinbox.inbox (name, handler) VALUES ('i', 'one(evinbox.event)');
INSERT INTO evinbox.inbox (name, handler) VALUES ('i', 'one; DROP TABLE evinbox.event');
INSERT INTO evinbox.inbox (name, handler) VALUES ('i', 'a.b.c.d');
CREATE FUNCTION no_argument() RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION record_argument(e record) RETURNS void LANGUAGE plpgsql AS 'BEGIN END';
CREATE FUNCTION wrong_second(e evinbox.event, config json) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION three(e evinbox.event, config jsonb, more int) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION a_set(e evinbox.event) RETURNS SETOF int LANGUAGE sql AS 'SELECT 1';
CREATE PROCEDURE a_procedure(e evinbox.event) LANGUAGE sql AS '';
CREATE FUNCTION step(count int, e evinbox.event) RETURNS int LANGUAGE sql AS 'SELECT count + 1';
CREATE AGGREGATE an_aggregate(evinbox.event) (sfunc = step, stype = int, initcond = 0);
INSERT INTO evinbox.inbox (name, handler) VALUES ('i', 'no_argument');
INSERT INTO evinbox.inbox (name, handler) VALUES ('i', 'record_argument');
INSERT INTO evinbox.inbox (name, handler) VALUES ('i', 'wrong_second');
INSERT INTO evinbox.inbox (name, handler) VALUES ('i', 'three');
INSERT INTO evinbox.inbox (name, handler) VALUES ('i', 'a_set');
INSERT INTO evinbox.inbox (name, handler) VALUES ('i', 'a_procedure');
INSERT INTO evinbox.inbox (name, handler) VALUES ('i', 'an_aggregate');

-- a handler or a statement: one of the two
INSERT INTO evinbox.inbox (name) VALUES ('i');
INSERT INTO evinbox.inbox (name, handler, statement) VALUES ('i', 'one', 'SELECT 1');

-- values out of range
INSERT INTO evinbox.inbox (name, handler) VALUES ('', 'one');
INSERT INTO evinbox.inbox (name, handler) VALUES (NULL, 'one');
INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES ('i', 'one', 'Live');
INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES ('i', 'one', '');
INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES ('i', 'one', NULL);
INSERT INTO evinbox.inbox (name, handler, max_attempts) VALUES ('i', 'one', 0);
INSERT INTO evinbox.inbox (name, handler, max_attempts) VALUES ('i', 'one', 1001);
INSERT INTO evinbox.inbox (name, handler, batch_size) VALUES ('i', 'one', 0);
INSERT INTO evinbox.inbox (name, handler, batch_size) VALUES ('i', 'one', 1000001);
INSERT INTO evinbox.inbox (name, handler, shards) VALUES ('i', 'one', 0);
INSERT INTO evinbox.inbox (name, handler, shards) VALUES ('i', 'one', 65);
INSERT INTO evinbox.inbox (name, handler, shards) VALUES ('i', 'one', NULL);
INSERT INTO evinbox.inbox (name, handler, replayable) VALUES ('i', 'one', NULL);
INSERT INTO evinbox.inbox (name, handler, backoff) VALUES ('i', 'one', '-1 second');
INSERT INTO evinbox.inbox (name, handler, backoff) VALUES ('i', 'one', '367 days');
INSERT INTO evinbox.inbox (name, handler, timeout) VALUES ('i', 'one', '-1 second');
INSERT INTO evinbox.inbox (name, handler, timeout) VALUES ('i', 'one', '2 years');
INSERT INTO evinbox.inbox (name, handler, config) VALUES ('i', 'one', NULL);
INSERT INTO evinbox.inbox (name, handler, enabled) VALUES ('i', 'one', NULL);
INSERT INTO evinbox.inbox (name, handler, subject_types) VALUES ('i', 'one', '{}');
INSERT INTO evinbox.inbox (name, handler, subject_types) VALUES ('i', 'one', '{A,NULL}');
INSERT INTO evinbox.inbox (name, handler, actions) VALUES ('i', 'one', '{}');
INSERT INTO evinbox.inbox (name, handler, actions) VALUES ('i', 'one', '{{a,b},{c,d}}');
SELECT count(*) FROM evinbox.inbox;

-- the same for an UPDATE; all stays as it was
INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES ('i', 'one', 'scheduled');
INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES ('i', 'two', 'scheduled');
UPDATE evinbox.inbox SET handler = 'missing';
UPDATE evinbox.inbox SET handler = NULL;
UPDATE evinbox.inbox SET statement = 'SELECT 1';
UPDATE evinbox.inbox SET condition = 'nonsense(';
UPDATE evinbox.inbox SET dispatch = 'never';
UPDATE evinbox.inbox SET batch_size = -1;
UPDATE evinbox.inbox SET shards = 65;
UPDATE evinbox.inbox SET actions = '{}';
SELECT name, handler, condition, statement, dispatch, batch_size, actions FROM evinbox.inbox;

-- one row of several
INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES ('a', 'one', 'scheduled'), ('b', 'missing', 'scheduled');
SELECT count(*) FROM evinbox.inbox;

-- a rule whose handler is gone can still be paused, renamed and deleted
DROP FUNCTION one;
UPDATE evinbox.inbox SET enabled = false, name = 'j', config = '{"a": 1}';
UPDATE evinbox.inbox SET handler = handler, enabled = true RETURNING name, handler, enabled;
UPDATE evinbox.inbox SET handler = 'one';
UPDATE evinbox.inbox SET condition = 'true';
DELETE FROM evinbox.inbox;

-- TRUNCATE takes deliveries along, and says so
TRUNCATE evinbox.inbox;

SET client_min_messages = warning;
DROP EXTENSION evinbox CASCADE;
DROP FUNCTION no_argument, record_argument;
