-- Which events: lists and conditions.
\set SHOW_CONTEXT never
SET client_min_messages = error;
CREATE EXTENSION evinbox;
RESET client_min_messages;
CREATE TABLE seen (n serial, inbox text, id bigint);
CREATE FUNCTION note(e evinbox.event, config jsonb) RETURNS void LANGUAGE sql
	AS $$ INSERT INTO public.seen (inbox, id) VALUES (config ->> 'as', e.id) $$;
CREATE TABLE issue (id text, urgent boolean);
CREATE FUNCTION is_even(e evinbox.event) RETURNS boolean LANGUAGE sql AS 'SELECT e.id % 2 = 0';

INSERT INTO evinbox.inbox (name, handler, dispatch, subject_types, actions, condition)
	SELECT name, 'note', 'scheduled', subject_types::text[], actions::text[], condition
	FROM (VALUES
		('all', NULL, NULL, NULL),
		('types', '{A}', NULL, NULL),
		('actions', NULL, '{x}', NULL),
		('types and actions', '{A,B}', '{y,z}', NULL),
		('no such type', '{a,AA,""}', NULL, NULL),
		('true', NULL, NULL, 'true'),
		('false', NULL, NULL, 'false'),
		('null', NULL, NULL, 'NULL'),
		('column', NULL, NULL, 'e.actor = ''User:1'''),
		('metadata', NULL, NULL, 'e.metadata ->> ''urgency'' IN (''high'', ''emergency'')'),
		('all columns', NULL, NULL, '(e.id, e.depth) >= (2, 0) AND e.recorded_at IS NOT NULL AND e.scope IS NULL'),
		('row', NULL, NULL, 'is_even(e)'),
		('notation', NULL, NULL, 'e.is_even'),
		('live table', NULL, NULL, 'EXISTS (SELECT FROM issue i WHERE i.id = e.subject_id AND i.urgent)'),
		('several rows', NULL, NULL, 'e.subject_id IN (SELECT id FROM issue)'),
		('list and condition', '{A}', NULL, 'is_even(e)'),
		('or', NULL, NULL, 'false OR e.id = 1 OR e.id = 3'),
		('comment', NULL, NULL, 'e.id = 4 -- and nothing else'),
		('lines', NULL, NULL, E'e.id = 1\n\tOR e.id = 6\n'),
		('semicolon', NULL, NULL, 'e.action <> '';'' AND e.id = 5'),
		('quotes', NULL, NULL, 'e.action = $$it''s$$'),
		('unqualified', NULL, NULL, 'id = 2')
	) AS v (name, subject_types, actions, condition);
UPDATE evinbox.inbox SET config = jsonb_build_object('as', name);

INSERT INTO issue VALUES ('2', true), ('3', false), ('3', true), ('5', false), ('6', NULL), ('6', NULL);
SELECT evinbox.record_event('A', 1, 'x'), evinbox.record_event('B', 2, 'x', 'User:1'),
	evinbox.record_event('A', 3, 'y', metadata => '{"urgency": "high"}'),
	evinbox.record_event('B', 4, 'z', 'User:2', metadata => '{"urgency": null}'),
	evinbox.record_event('C', 5, 'it''s', scope => 's'), evinbox.record_event('C', 6, 'x');
SELECT name, evinbox.run(name) FROM (SELECT name FROM evinbox.inbox ORDER BY name OFFSET 0) i;
SELECT name, (SELECT string_agg(s.id::text, ' ' ORDER BY s.n) FROM seen s WHERE s.inbox = i.name) AS events
	FROM evinbox.inbox i ORDER BY name;
-- what they do not want is done with as well
SELECT sum(evinbox.run(name)) FROM evinbox.inbox;
SELECT name, lag_events FROM evinbox.inbox_status WHERE lag_events <> 0;

-- a condition sees the tables as they are when it runs
TRUNCATE seen;
SELECT evinbox.record_event('A', 7, 'x') > 0 AS recorded;
INSERT INTO issue VALUES ('7', true);
SELECT evinbox.run('live table');
SELECT evinbox.record_event('A', 7, 'x') > 0 AS recorded;
DELETE FROM issue;
SELECT evinbox.run('live table');

-- and with the search_path of the rule's writing
CREATE SCHEMA decoy;
CREATE TABLE decoy.issue AS SELECT '8' AS id, true AS urgent;
CREATE FUNCTION decoy.note(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE 'decoy'; END $$;
SET search_path = decoy, public;
SELECT evinbox.record_event('A', 8, 'x') > 0 AS recorded;
SELECT evinbox.run('live table'), evinbox.run('true') > 0 AS handled;
SHOW search_path;
RESET search_path;
-- what a handler sets lasts as long as the batch at most
CREATE FUNCTION path(e evinbox.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	RAISE NOTICE '%', current_setting('search_path');
	SET search_path = decoy;
	PERFORM set_config('evinbox_test.mark', e.subject_id, false);
END $$;
INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES ('path', 'path', 'scheduled');
SELECT evinbox.record_event('A', 9, 'x') > 0 AS recorded FROM generate_series(1, 2);
SELECT evinbox.run('path');
SHOW search_path;
DELETE FROM evinbox.inbox;
SET client_min_messages = warning;
DROP SCHEMA decoy CASCADE;
RESET client_min_messages;

-- not a condition
CREATE FUNCTION pg_temp.write(condition text) RETURNS void LANGUAGE sql
	AS $$ INSERT INTO evinbox.inbox (name, handler, dispatch, condition) VALUES ('i', 'note', 'scheduled', condition) $$;
\set VERBOSITY terse
SELECT pg_temp.write('');
SELECT pg_temp.write('  -- nothing');
SELECT pg_temp.write('e.id');
SELECT pg_temp.write('e');
SELECT pg_temp.write('e.missing = 1');
SELECT pg_temp.write('f.id = 1');
SELECT pg_temp.write('e.id = ');
SELECT pg_temp.write('e.id = 1, true');
SELECT pg_temp.write('is_odd(e)');
SELECT pg_temp.write('EXISTS (SELECT FROM missing)');
SELECT pg_temp.write('count(*) > 1');
SELECT pg_temp.write('generate_series(1, 2) = 1');
SELECT pg_temp.write('row_number() OVER () = 1');
SELECT pg_temp.write('true) OR (true');
SELECT pg_temp.write('true) --');
SELECT pg_temp.write('true /*');
SELECT pg_temp.write('(true');
SELECT pg_temp.write('true; DROP TABLE issue');
SELECT pg_temp.write('true;');
SELECT pg_temp.write('true FROM issue');
SELECT pg_temp.write('true WHERE false');
SELECT pg_temp.write('true LIMIT 1');
SELECT pg_temp.write('true ORDER BY 1');
SELECT pg_temp.write('true FOR UPDATE');
SELECT pg_temp.write('DISTINCT true');
SELECT pg_temp.write('true INTO x');
SELECT pg_temp.write('true UNION ALL SELECT true');
SELECT pg_temp.write('SELECT true');
SELECT pg_temp.write('true AS x');
SELECT pg_temp.write('*');
SELECT pg_temp.write('e.id IN (DELETE FROM issue RETURNING 1)');
-- the batch of events behind e is not the rule's business
\set VERBOSITY sqlstate
SELECT pg_temp.write('$1 IS NOT NULL');
SELECT pg_temp.write('$2 = 1');
SELECT count(*) FROM evinbox.inbox;
\set VERBOSITY default
-- as it looks to whoever writes one
INSERT INTO evinbox.inbox (name, handler, dispatch, condition) VALUES ('i', 'note', 'scheduled', 'e.id = 1 OR e.subject = 1');
INSERT INTO evinbox.inbox (name, handler, dispatch, condition) VALUES ('i', 'note', 'scheduled', 'true) OR (true');
INSERT INTO evinbox.inbox (name, handler, dispatch, condition) VALUES ('i', 'note', 'scheduled', 'true, true');
SELECT count(*) FROM evinbox.inbox;

DROP TABLE issue;
DROP FUNCTION is_even;

SET client_min_messages = warning;
DROP EXTENSION evinbox CASCADE;
DROP TABLE seen;
