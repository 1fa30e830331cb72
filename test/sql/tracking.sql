-- Changes of tables that become events by themselves.
\set SHOW_CONTEXT never
SET client_min_messages = error;
CREATE EXTENSION evinbox;
RESET client_min_messages;
SET timezone = 'UTC';
CREATE VIEW events AS SELECT subject_type, subject_id, action, metadata, snapshot FROM evinbox.event ORDER BY id;
-- the events since the last look
CREATE TABLE looks (until bigint NOT NULL);
INSERT INTO looks VALUES (0);
CREATE FUNCTION look() RETURNS TABLE (subject text, action text, metadata jsonb) LANGUAGE sql AS $$
	WITH last AS (UPDATE public.looks SET until = (SELECT coalesce(max(id), until) FROM evinbox.event) RETURNING until)
	SELECT e.subject_type || ' ' || e.subject_id, e.action, e.metadata FROM evinbox.event e, last
		WHERE e.id > (SELECT until FROM public.looks) ORDER BY e.id
$$;

-- the transitions of a state machine
CREATE TABLE issues (id bigint PRIMARY KEY, status text, title text, points numeric, team text, updated_at timestamptz DEFAULT now());
INSERT INTO issues VALUES (1, 'open', 'first', 1, 'red'), (2, 'open', 'second', 2, NULL);
SELECT evinbox.track('issues', '{status}', action => 'status_changed');
SELECT tgname, replace(pg_get_triggerdef(oid), quote_literal(tgrelid::oid), quote_literal('OID')) AS definition FROM pg_trigger WHERE tgrelid = 'issues'::regclass ORDER BY tgname;
UPDATE issues SET status = 'closed' WHERE id = 1;
-- no change is no event, whatever else changes
UPDATE issues SET status = 'closed', title = 'the first' WHERE id = 1;
UPDATE issues SET status = NULL WHERE id = 1;
UPDATE issues SET status = NULL WHERE id = 1;
UPDATE issues SET status = 'open' WHERE id = 1;
INSERT INTO issues VALUES (3, 'open');
DELETE FROM issues WHERE id = 3;
SELECT * FROM look();

-- several columns, another action; each says what has changed
SELECT evinbox.track('issues', '{title,points,team}', action => 'edited', subject_type => 'Issue');
UPDATE issues SET title = 'The first', points = 1.00, status = 'closed' WHERE id = 1;
UPDATE issues SET points = points + 0.5, team = 'blue';
UPDATE issues SET points = points;
SELECT * FROM look();

-- the same action again: in place of the former
SELECT evinbox.track('issues', '{points}', action => 'edited');
UPDATE issues SET points = 7, title = 'x' WHERE id = 2;
-- the other action beside it goes on, until it is replaced itself
UPDATE issues SET status = 'again', points = 7.5, team = 'green' WHERE id = 2;
SELECT evinbox.track('issues', '{team}', action => 'status_changed', events => '{update,delete}');
UPDATE issues SET status = 'unheard', points = 7, team = 'red' WHERE id = 2;
SELECT tgname FROM pg_trigger WHERE tgrelid = 'issues'::regclass ORDER BY tgname COLLATE "C";
SELECT * FROM look();
SELECT evinbox.untrack('issues');
UPDATE issues SET points = 8, title = 'x', status = 'x';
SELECT * FROM look();
SELECT count(*) FROM pg_trigger WHERE tgrelid = 'issues'::regclass;
SELECT evinbox.untrack('issues');

-- what comes and goes, with the whole row: as it is now, and as it was
SELECT evinbox.track('issues', '{}', action => 'created', events => '{insert}', snapshot => true);
SELECT evinbox.track('issues', '{status,title}', events => '{update}', snapshot => true);
SELECT evinbox.track('issues', '{status}', action => 'deleted', events => '{delete,delete}', snapshot => true);
INSERT INTO issues VALUES (4, 'open', 'fourth', NULL, 'red', '2026-01-02 03:04:05');
UPDATE issues SET title = 'the fourth', points = 4 WHERE id = 4;
DELETE FROM issues WHERE id = 4;
COPY issues (id, status, updated_at) FROM STDIN;
5	copied	2026-01-01
\.
INSERT INTO issues VALUES (5, 'x') ON CONFLICT (id) DO UPDATE SET status = 'merged';
INSERT INTO issues VALUES (5, 'y') ON CONFLICT DO NOTHING;
MERGE INTO issues i USING (VALUES (5), (6)) v (id) ON i.id = v.id
	WHEN MATCHED THEN UPDATE SET title = 'fifth' WHEN NOT MATCHED THEN INSERT VALUES (v.id, 'new', NULL, NULL, NULL, '2026-01-01');
TRUNCATE issues;
SELECT action, subject_id, metadata, snapshot FROM events WHERE snapshot IS NOT NULL;
SELECT count(*) FROM look();
SELECT evinbox.untrack('issues');
-- all with one action: a null stands for what is not there
SELECT evinbox.track('issues', '{status,title}', events => '{delete,update,insert}');
INSERT INTO issues VALUES (1, 'open', NULL);
UPDATE issues SET title = 'a';
DELETE FROM issues;
SELECT evinbox.track('issues', '{title}', events => '{insert,delete}');
INSERT INTO issues VALUES (1, 'open', NULL);
UPDATE issues SET title = 'b';
DELETE FROM issues;
SELECT * FROM look();

-- whose world
SELECT evinbox.untrack('issues');
SELECT evinbox.track('issues', '{status}', events => '{insert,update,delete}', scope_column => 'team');
BEGIN;
SET LOCAL evinbox.scope = 'all';
INSERT INTO issues (id, status, team) VALUES (1, 'open', 'red'), (2, 'open', NULL);
UPDATE issues SET status = 'closed', team = 'blue' WHERE id = 1;
UPDATE issues SET team = 'green' WHERE id = 1;
DELETE FROM issues;
SELECT subject_id, scope, metadata FROM evinbox.event WHERE scope IS NOT NULL ORDER BY id;
ROLLBACK;

-- the context, an actor, a batch hold for these events as for others; savepoints take them back
BEGIN;
SELECT evinbox.set_context('{"request": "r1", "to": "forged"}', 'User:7');
INSERT INTO issues (id, status) VALUES (1, 'open');
SAVEPOINT a;
UPDATE issues SET status = 'closed';
ROLLBACK TO a;
UPDATE issues SET status = 'done';
SELECT subject_id, actor, metadata FROM evinbox.event WHERE actor = 'User:7' ORDER BY id;
ROLLBACK;
SELECT * FROM look();

-- a rule sees them in the same transaction
CREATE TABLE seen (id bigint, metadata jsonb);
CREATE FUNCTION note(e evinbox.event) RETURNS void LANGUAGE sql AS $$ INSERT INTO public.seen VALUES (e.id, e.metadata) $$;
INSERT INTO evinbox.inbox (name, actions, handler, dispatch) VALUES ('notes', '{changed}', 'note', 'scheduled');
BEGIN;
INSERT INTO issues (id, status) VALUES (1, 'open'), (2, 'open');
UPDATE issues SET status = 'closed' WHERE id = 2;
SELECT evinbox.run('notes');
SELECT metadata FROM seen ORDER BY id;
ROLLBACK;
-- what a rule changes has a cause
CREATE FUNCTION close(e evinbox.event) RETURNS void LANGUAGE sql AS $$ UPDATE public.issues SET status = 'closed' WHERE id = e.subject_id::bigint $$;
INSERT INTO evinbox.inbox (name, actions, handler, dispatch) VALUES ('close', '{expired}', 'close', 'scheduled');
INSERT INTO issues (id, status) VALUES (1, 'open');
SELECT evinbox.record_event('issues', 1, 'expired') AS cause \gset
SELECT evinbox.run('close');
SELECT caused_by = :cause AS caused, depth FROM evinbox.event WHERE metadata->>'to' = 'closed' ORDER BY id DESC LIMIT 1;
SELECT count(*) > 0 FROM look();

-- a closed type has its say
INSERT INTO evinbox.action VALUES ('issues', 'moved', '{}');
UPDATE issues SET status = 'open';
DELETE FROM evinbox.action;
INSERT INTO evinbox.action VALUES ('issues', 'changed', '{reason}');
UPDATE issues SET status = 'open';
BEGIN;
SELECT evinbox.set_context('{"reason": "none"}');
UPDATE issues SET status = 'open';
SELECT * FROM look();
ROLLBACK;
DELETE FROM evinbox.action;

-- what is a change: by the equality of the type, or of its bytes where it has none
CREATE TYPE mood AS ENUM ('sad', 'happy');
CREATE TYPE pair AS (a int, b text);
CREATE DOMAIN word AS text CHECK (value <> '');
CREATE COLLATION nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE TABLE kinds (id int PRIMARY KEY, n numeric, f float8, j json, jb jsonb, p point, m mood, c pair, w word, a int[], t text COLLATE nocase,
	ts timestamptz, d date, b bytea, i interval, s smallint, o boolean, ch char(5), u uuid, v varchar(10), g text GENERATED ALWAYS AS (upper(v)) STORED);
INSERT INTO kinds VALUES (1, 1.0, 'NaN', '{"a":1}', '{"a":1}', '(1,2)', 'sad', '(1,x)', 'w', '{1,2}', 'text', '2026-01-01', '2026-01-01', '\x01', '1 day',
	1, true, 'ab', '00000000-0000-0000-0000-000000000001', 'v');
SELECT evinbox.track('kinds', (SELECT array_agg(attname ORDER BY attnum) FROM pg_attribute WHERE attrelid = 'kinds'::regclass AND attnum > 1));
UPDATE kinds SET n = 1.00, f = 'NaN', j = '{"a":1}', jb = '{"a": 1.00}', p = '(1,2)', c = ROW(1, 'x'), a = '{1,2}', t = 'TEXT', i = '24 hours', ch = 'ab   ';
SELECT * FROM look();
UPDATE kinds SET j = '{"a": 1}';
UPDATE kinds SET p = '(2,1)', m = 'happy', c = ROW(1, NULL), w = 'word', a = '{1,2,NULL}', t = 'texts', n = 'NaN', f = 1e-300;
UPDATE kinds SET ts = '2026-01-02 03:04:05.06', d = 'infinity', b = '\x02', i = '25 hours', s = -1, o = NULL, ch = 'abc', u = NULL, v = 'w"\é', jb = 'null';
UPDATE kinds SET jb = '"x"', j = '[null]';
UPDATE kinds SET jb = NULL, j = NULL;
SELECT jsonb_pretty(metadata->'changes') FROM look();
-- the same as to_jsonb() says
UPDATE kinds SET n = -0.10, f = 2, j = '3', jb = '[1, {"a": null}]', s = 7, o = false, v = '', d = '2026-03-04', ts = '2026-03-04';
SELECT count(*), bool_and(c.value->'to' = to_jsonb(k.*)->c.key) FROM look() e, jsonb_each(e.metadata->'changes') c, kinds k;
SELECT evinbox.track('kinds', '{v}', snapshot => true);
UPDATE kinds SET v = 'snap';
SELECT snapshot = to_jsonb(k.*) AS whole FROM evinbox.event e, kinds k WHERE e.id = (SELECT max(id) FROM evinbox.event);
SELECT count(*) FROM look();

-- large values, which are not stored in the row
CREATE TABLE pages (id int PRIMARY KEY, body text, seen int);
ALTER TABLE pages ALTER body SET STORAGE EXTERNAL;
INSERT INTO pages VALUES (1, repeat('x', 100000), 0);
SELECT evinbox.track('pages', '{body}');
UPDATE pages SET seen = 1;
UPDATE pages SET body = repeat('x', 100000);
UPDATE pages SET body = repeat('x', 100000) || 'y';
SELECT length(metadata->>'from'), length(metadata->>'to') FROM look();

-- a column that a trigger or the server fills
CREATE FUNCTION shout() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN new.loud := upper(new.quiet); RETURN new; END $$;
CREATE TABLE voices (id int PRIMARY KEY, quiet text, loud text, size int GENERATED ALWAYS AS (length(quiet)) STORED);
CREATE TRIGGER shout BEFORE INSERT OR UPDATE ON voices FOR EACH ROW EXECUTE FUNCTION shout();
INSERT INTO voices VALUES (1, 'a');
SELECT evinbox.track('voices', '{loud,size}');
UPDATE voices SET quiet = 'A';
UPDATE voices SET quiet = 'bb';
SELECT * FROM look();

-- keys: of several columns, and other ones
CREATE TABLE members (team text, person int, since date, role text, PRIMARY KEY (person, team));
SELECT evinbox.track('members', '{role}', events => '{insert,update,delete}');
INSERT INTO members VALUES ('red', 1, '2026-01-01', 'member'), ('a "quoted", one', 2, NULL, 'lead');
SELECT subject_id, subject_id = jsonb_build_array(person, team)::text AS as_json FROM events JOIN members ON role = metadata->>'to'
	WHERE subject_type = 'members';
SELECT evinbox.track('members', '{role}', id_column => 'since', action => 'promoted');
UPDATE members SET role = 'lead' WHERE person = 1;
SET datestyle = 'German';
UPDATE members SET role = 'member' WHERE person = 1;
RESET datestyle;
-- an event has a subject
UPDATE members SET role = 'member' WHERE person = 2;
SELECT * FROM look();
-- a subject that is called otherwise says so, if there is something to say
UPDATE members SET team = 'blue' WHERE person = 1;
UPDATE members SET team = 'green', since = '2026-05-01', role = 'none' WHERE person = 1;
SELECT * FROM look();
UPDATE issues SET id = 100, status = 'renumbered';
SELECT evinbox.track('issues', '{id}', action => 'renumbered');
UPDATE issues SET id = 101;
SELECT * FROM look();
CREATE TABLE odd_keys (k numeric PRIMARY KEY, u uuid DEFAULT '00000000-0000-0000-0000-00000000000a', m mood DEFAULT 'sad', b bool DEFAULT true,
	n int4 DEFAULT -5, s int2 DEFAULT 6, j jsonb DEFAULT '{"a": "b"}', v text);
INSERT INTO odd_keys VALUES (1.50);
SELECT evinbox.track('odd_keys', '{v}', action => 'by ' || key, id_column => key) FROM unnest('{k,u,m,b,n,s,j}'::name[]) key;
UPDATE odd_keys SET v = 'x';
SELECT subject, action FROM look() ORDER BY action COLLATE "C";

-- the same in every session, whatever its settings
CREATE DOMAIN moment AS timestamptz;
CREATE TABLE settled (id int, t timestamptz, m moment, b bytea, i interval, f float8, a date[], r tstzrange, c money, d date, v text, PRIMARY KEY (id, t));
INSERT INTO settled VALUES (1, '2026-01-02 03:04+00', '2026-01-02 03:04+00', '\x00ff', '1 day -02:03', 0.1::float8 + 0.2::float8, '{2026-01-02}',
	'[2026-01-02 00:00+00,)', 1234.5, '2026-01-02', 'a');
SELECT evinbox.track('settled', '{v}', action => 'by ' || key, id_column => key, scope_column => key) FROM unnest('{t,m,b,i,f,a,r,c,d}'::name[]) key;
SELECT evinbox.track('settled', '{v}', action => 'by all');
BEGIN;
UPDATE settled SET v = 'b';
SET LOCAL timezone = 'Asia/Tokyo';
SET LOCAL bytea_output = 'escape';
SET LOCAL intervalstyle = 'iso_8601';
SET LOCAL extra_float_digits = -3;
SET LOCAL datestyle = 'German';
UPDATE settled SET v = 'c';
SELECT count(DISTINCT subject_id) AS ids, count(DISTINCT scope) AS scopes, count(*), action, min(subject_id) FROM evinbox.event
	WHERE subject_type = 'settled' GROUP BY action ORDER BY action COLLATE "C";
SELECT name, setting FROM pg_settings WHERE name IN ('TimeZone', 'bytea_output', 'IntervalStyle', 'extra_float_digits', 'DateStyle') ORDER BY name COLLATE "C";
-- and the former id
UPDATE settled SET t = '2026-01-03 03:04+00', v = 'd';
SELECT metadata->'former_id' AS former FROM evinbox.event WHERE action = 'by all' ORDER BY id DESC LIMIT 1;
COMMIT;
SELECT count(*) FROM look();
DROP TABLE settled;
DROP DOMAIN moment;

-- what a row changes elsewhere, by a foreign key or a trigger
CREATE TABLE comments (id int PRIMARY KEY, issue_id bigint REFERENCES issues ON UPDATE CASCADE ON DELETE SET NULL);
INSERT INTO comments SELECT n, 101 FROM generate_series(1, 2) n;
SELECT evinbox.track('comments', '{issue_id}');
UPDATE issues SET id = 102;
DELETE FROM issues;
SELECT * FROM look() ORDER BY metadata->>'to', subject;

-- many at once
CREATE TABLE many (id int PRIMARY KEY, n int);
INSERT INTO many SELECT n, 0 FROM generate_series(1, 20000) n;
SELECT evinbox.track('many', '{n}');
UPDATE many SET n = id % 2;
SELECT count(*), count(DISTINCT subject), bool_and(metadata = '{"from": 0, "to": 1}' AND split_part(subject, ' ', 2)::int % 2 = 1) FROM look();
-- a session that has seen many triggers does not remember them all
CREATE FUNCTION memory() RETURNS bigint LANGUAGE sql AS $$ SELECT sum(total_bytes)::bigint FROM pg_catalog.pg_backend_memory_contexts WHERE level <= 3 $$;
CREATE TABLE short (id int PRIMARY KEY);
CREATE PROCEDURE track_often(n int) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. n LOOP
		PERFORM evinbox.track('public.short', '{}', events => '{delete}');
		INSERT INTO public.short VALUES (i);
		DELETE FROM public.short;
		COMMIT;
	END LOOP;
END $$;
CALL track_often(10);
SELECT memory() AS before \gset
CALL track_often(1100);
SELECT memory() - :before < 500000 AS is_bounded;
SELECT count(*) FROM look();
DROP TABLE short;
DROP PROCEDURE track_often;
DROP FUNCTION memory;
-- more columns than a function takes
SELECT format('CREATE TABLE wide (%s)', string_agg(format('c%s int', n), ', ' ORDER BY n) || ', PRIMARY KEY (c150)') FROM generate_series(1, 250) n \gexec
SELECT evinbox.track('wide', (SELECT array_agg('c' || n ORDER BY n DESC) FROM generate_series(1, 250) n)::name[], snapshot => true);
INSERT INTO wide (c150) VALUES (1);
UPDATE wide SET c1 = 1, c99 = 99, c200 = 200, c250 = 250;
SELECT * FROM look();

-- a subject as it was
SELECT evinbox.track('issues', '{status}', events => '{insert,update,delete}', snapshot => true);
INSERT INTO issues (id, status, updated_at) VALUES (9, 'one', '2026-01-01');
SELECT occurred_at AS t1 FROM evinbox.event ORDER BY id DESC LIMIT 1 \gset
UPDATE issues SET status = 'two';
SELECT occurred_at AS t2 FROM evinbox.event ORDER BY id DESC LIMIT 1 \gset
SELECT evinbox.record_event('issues', 9, 'seen') > 0 AS recorded;
DELETE FROM issues;
SELECT evinbox.record_event('issues', 9, 'imported', snapshot => '{"status": "old"}', occurred_at => '2020-01-01') > 0 AS recorded;
SELECT evinbox.record_event('issues', 9, 'imported', snapshot => '{"status": "older"}', occurred_at => '2019-01-01') > 0 AS recorded;
SELECT evinbox.record_event('issues', 9, 'imported', snapshot => '{"status": "corrected"}', occurred_at => '2019-01-01') > 0 AS recorded;
SELECT at, evinbox.state_at('issues', '9', at::timestamptz)->>'status' AS status
	FROM unnest('{-infinity,2018-12-31,2019-01-01,2020-01-01,2025-01-01}'::text[]) at;
SELECT evinbox.state_at('issues', '9', :'t1'::timestamptz - '1 us'::interval)->>'status' AS before,
	evinbox.state_at('issues', '9', :'t1')->>'status' AS t1, evinbox.state_at('issues', '9', :'t2'::timestamptz - '1 us'::interval)->>'status' AS between,
	evinbox.state_at('issues', '9', :'t2')->>'status' AS t2, evinbox.state_at('issues', '9', 'infinity')->>'status' AS last,
	evinbox.state_at('issues', '10', 'infinity') AS none, evinbox.state_at('Issue', '9', 'infinity') AS other;
SELECT evinbox.state_at(NULL, '9', now()), evinbox.state_at('issues', '9', NULL);
-- by an index on the subject
INSERT INTO evinbox.event (subject_type, subject_id, action, snapshot) SELECT 'Many', n::text, 'a', '{}' FROM generate_series(1, 5000) n;
ANALYZE evinbox.event;
SELECT pg_stat_force_next_flush();
BEGIN;
SELECT evinbox.state_at('Many', '77', now());
SELECT relname, seq_scan, idx_scan, idx_tup_fetch FROM pg_stat_xact_all_tables
	WHERE schemaname = 'evinbox_internal' AND relname = 'event_1';
COMMIT;

-- the fallback, when somebody has added to evinbox.event
CREATE FUNCTION drop_odd() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN CASE WHEN new.subject_id::int % 2 = 0 THEN new END; END $$;
CREATE TRIGGER odd BEFORE INSERT ON evinbox.event FOR EACH ROW EXECUTE FUNCTION drop_odd();
SELECT count(*) > 0 FROM look();
UPDATE many SET n = 2 WHERE id <= 4;
SELECT * FROM look();
DROP TRIGGER odd ON evinbox.event;

DROP TABLE comments, issues, kinds, pages, voices, members, odd_keys, many, wide, seen, looks;
DROP VIEW events;
SET client_min_messages = error;
DROP EXTENSION evinbox CASCADE;
DROP FUNCTION look, shout, drop_odd;
DROP TYPE mood, pair, word;
DROP COLLATION nocase;
