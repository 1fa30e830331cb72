-- What a handler may say about an event: later, never, or not for me.
\set SHOW_CONTEXT never
SET client_min_messages = error;
CREATE EXTENSION evinbox;
RESET client_min_messages;
CREATE TABLE seen (n serial, subject text);
CREATE TABLE verdict (subject text, say text);
CREATE FUNCTION judge(e evinbox.event) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	say text;
BEGIN
	INSERT INTO public.seen (subject) VALUES (e.subject_id);
	FOR say IN SELECT v.say FROM public.verdict v WHERE v.subject = e.subject_id LOOP
		EXECUTE 'SELECT evinbox.' || say;
	END LOOP;
END $$;
CREATE VIEW result AS SELECT string_agg(subject, ' ' ORDER BY n) AS handled FROM seen;
CREATE VIEW failed AS
	SELECT e.subject_id, d.state, d.attempts, d.last_error, d.last_sqlstate,
		d.next_at - d.updated_at > '4 minutes' AS later, d.next_at - d.updated_at < '6 minutes' AS soon
	FROM evinbox.delivery d JOIN evinbox.event e ON e.id = d.event_id ORDER BY e.id;
INSERT INTO evinbox.inbox (name, handler, dispatch, max_attempts) VALUES ('s', 'judge', 'scheduled', 2);

-- the effects are undone, the others go through, and nothing is a failure
INSERT INTO verdict VALUES ('2', 'retry_in(''5 minutes'')'), ('4', 'skip(''not for me'')'), ('6', 'give_up(''nobody can'')'),
	('7', 'retry_in(''0'')');
SELECT count(evinbox.record_event('T', n, 'done')) FROM generate_series(1, 8) n;
SELECT evinbox.run('s');
TABLE result;
TABLE failed;
SELECT subject_id, attempts, last_error, last_sqlstate, error_context FROM evinbox.dead_letter;
SELECT retrying, dead, last_error FROM evinbox.inbox_status;
-- later does not count as an attempt, however often it is said
SELECT evinbox.run('s');
SELECT evinbox.run('s');
SELECT * FROM failed WHERE subject_id = '7';
-- then it fails; then it is skipped
UPDATE verdict SET say = 'record_event(NULL, 1, NULL)' WHERE subject = '7';
\set VERBOSITY sqlstate
SELECT evinbox.run('s');
\set VERBOSITY default
SELECT * FROM failed WHERE subject_id = '7';
UPDATE verdict SET say = 'skip(''enough'')' WHERE subject = '7';
SELECT evinbox.retry('s');
SELECT evinbox.run('s');
TABLE failed;
TABLE result;
-- a delay that was said with another event is no matter of this one
TRUNCATE verdict, seen;
CREATE FUNCTION raise(e evinbox.event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN
	CASE e.subject_id
		WHEN '1' THEN RAISE 'again' USING errcode = 'VE001';
		WHEN '2' THEN
			BEGIN
				PERFORM evinbox.retry_in('5 minutes');
			EXCEPTION WHEN SQLSTATE 'VE001' THEN
				RAISE 'caught';
			END;
		WHEN '3' THEN RAISE 'again' USING errcode = 'VE001';
		WHEN '4' THEN RAISE 'not for me' USING errcode = 'VE002';
		WHEN '5' THEN RAISE 'nobody can' USING errcode = 'VE003';
		WHEN '6' THEN
			BEGIN
				PERFORM evinbox.skip('not for me');
			EXCEPTION WHEN OTHERS THEN
				NULL;
			END;
		WHEN '7' THEN
			BEGIN
				PERFORM evinbox.retry_in('5 minutes');
			EXCEPTION WHEN OTHERS THEN
				NULL;
			END;
		WHEN '8' THEN RAISE 'again' USING errcode = 'VE001';
	END CASE;
END $$;
UPDATE evinbox.inbox SET handler = 'raise', max_attempts = 5;
DELETE FROM evinbox.delivery;
SELECT count(evinbox.record_event('T', n, 'done')) FROM generate_series(1, 8) n;
\set VERBOSITY sqlstate
SELECT evinbox.run('s');
\set VERBOSITY default
TABLE failed;
DELETE FROM evinbox.delivery;

-- what they do not accept is a failure like any other
UPDATE evinbox.inbox SET handler = 'judge';
INSERT INTO verdict VALUES ('1', 'retry_in(NULL)'), ('2', 'retry_in(''-1 second'')'), ('3', 'retry_in(''367 days'')'),
	('4', 'skip(NULL)'), ('5', 'give_up(NULL)'), ('6', 'retry_in(''1 year'')'), ('7', 'skip('''')'), ('8', 'skip(''100 %s'')');
SELECT count(evinbox.record_event('T', n, 'done')) FROM generate_series(1, 8) n;
\set VERBOSITY sqlstate
SELECT evinbox.run('s');
\set VERBOSITY default
SELECT subject_id, state, attempts, last_error, last_sqlstate FROM failed;
DELETE FROM evinbox.delivery;
TRUNCATE verdict, seen;

-- from a function in SQL, and deeper
CREATE FUNCTION deeper(id text) RETURNS void LANGUAGE sql AS $$ SELECT evinbox.skip('number ' || id) $$;
CREATE FUNCTION judge_in_sql(e evinbox.event) RETURNS void LANGUAGE sql AS $$
	INSERT INTO public.seen (subject) VALUES (e.subject_id);
	SELECT CASE WHEN e.subject_id = '2' THEN deeper(e.subject_id) END;
	SELECT CASE WHEN e.subject_id = '3' THEN evinbox.retry_in('5 minutes') END;
$$;
UPDATE evinbox.inbox SET handler = 'judge_in_sql';
SELECT count(evinbox.record_event('T', n, 'done')) FROM generate_series(1, 4) n;
SELECT evinbox.run('s');
TABLE result;
TABLE failed;
DELETE FROM evinbox.delivery;
TRUNCATE seen;

-- from a condition
UPDATE evinbox.inbox SET condition = 'CASE e.subject_id WHEN ''2'' THEN evinbox.skip(''not for me'') IS NULL ELSE true END';
SELECT count(evinbox.record_event('T', n, 'done')) FROM generate_series(1, 4) n;
SELECT evinbox.run('s');
TABLE result;
TABLE failed;
DELETE FROM evinbox.inbox;
TRUNCATE seen;

-- in a statement, for whichever event it is
INSERT INTO verdict VALUES ('3', 'skip'), ('6', 'later'), ('7', 'never');
CREATE FUNCTION say(subject text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN
	CASE (SELECT v.say FROM public.verdict v WHERE v.subject = $1)
		WHEN 'skip' THEN PERFORM evinbox.skip('not for me');
		WHEN 'later' THEN PERFORM evinbox.retry_in('5 minutes');
		WHEN 'never' THEN PERFORM evinbox.give_up('nobody can');
		ELSE
	END CASE;
	RETURN subject;
END $$;
INSERT INTO evinbox.inbox (name, statement, dispatch) VALUES ('s', 'INSERT INTO seen (subject) SELECT say(subject_id) FROM events', 'scheduled');
SELECT count(evinbox.record_event('T', n, 'done')) FROM generate_series(1, 10) n;
SELECT evinbox.run('s');
TABLE result;
TABLE failed;
DELETE FROM evinbox.inbox;

-- in nobody's handler they are errors
SELECT evinbox.retry_in('1 day 02:00');
SELECT evinbox.skip('not for me');
SELECT evinbox.give_up(NULL);

SET client_min_messages = warning;
DROP EXTENSION evinbox CASCADE;
DROP TABLE seen, verdict CASCADE;
DROP FUNCTION say, deeper;
