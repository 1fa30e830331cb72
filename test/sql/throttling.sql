-- Throttling in one session. Races are for the isolation tests.
\set SHOW_CONTEXT never
SET client_min_messages = error;
CREATE EXTENSION evinbox;
RESET client_min_messages;
-- an id, or null: what counts here is which
CREATE FUNCTION rec(subject_id text, action text, throttle interval, actor text = NULL, by text = 'subject',
		subject_type text = 'T')
RETURNS text LANGUAGE sql VOLATILE AS $$
	SELECT CASE WHEN evinbox.record_event(subject_type, subject_id, action, actor, throttle => throttle,
		throttle_by => by) IS NULL THEN 'suppressed' ELSE 'recorded' END
$$;

-- one event for a subject and an action, whoever the actor is
SELECT rec('1', 'seen', '1 hour');
SELECT rec('1', 'seen', '1 hour');
SELECT rec('1', 'seen', '1 hour', 'User:1');
SELECT rec('2', 'seen', '1 hour') AS other_subject, rec('1', 'left', '1 hour') AS other_action,
	rec('1', 'seen', '1 hour', subject_type => 'U') AS other_type;
SELECT rec('1', 'seen', NULL) AS not_throttled, rec('1', 'seen', '0') AS not_throttled_either;

-- counted from the last event, throttled or not
SELECT rec('3', 'seen', NULL), rec('3', 'seen', '1 hour');
SELECT count(*) FROM evinbox.event WHERE subject_id = '3';
INSERT INTO evinbox.event (subject_type, subject_id, action) VALUES ('T', '4', 'seen');
SELECT rec('4', 'seen', '1 hour');

-- occurred_at is not what counts
SELECT evinbox.record_event('T', '5', 'seen', occurred_at => '2001-01-01') IS NOT NULL AS recorded;
SELECT rec('5', 'seen', '1 hour');

-- an interval that is over; a suppressed call does not extend it
SELECT rec('6', 'seen', NULL);
DO $$
DECLARE
	recorded timestamptz = (SELECT recorded_at FROM evinbox.event WHERE subject_id = '6');
BEGIN
	-- until the interval is over; each call would start a new one, if it could
	WHILE clock_timestamp() < recorded + interval '200 milliseconds' LOOP
		PERFORM evinbox.record_event('T', '6', 'seen', throttle => '200 milliseconds');
	END LOOP;
	PERFORM evinbox.record_event('T', '6', 'seen', throttle => '200 milliseconds');
END $$;
SELECT count(*) > 1 AS recorded_again FROM evinbox.event WHERE subject_id = '6';

-- with the actor in the key, also if there is none
SELECT rec('7', 'seen', '1 hour', 'User:1', 'actor');
SELECT rec('7', 'seen', '1 hour', 'User:1', 'actor');
SELECT rec('7', 'seen', '1 hour', 'User:2', 'actor');
SELECT rec('7', 'seen', '1 hour', NULL, 'actor');
SELECT rec('7', 'seen', '1 hour', NULL, 'actor');
SELECT rec('7', 'seen', '1 hour', '', 'actor');
SELECT rec('7', 'seen', '1 hour', 'User:3');
SELECT actor, count(*) FROM evinbox.event WHERE subject_id = '7' GROUP BY actor ORDER BY actor;

-- many calls in one statement
SELECT rec('8', 'seen', '1 hour'), count(*) FROM generate_series(1, 5) GROUP BY 1 ORDER BY 1;
SELECT evinbox.record_event('T', '9', 'seen', throttle => '1 hour') IS NULL AS suppressed
	FROM generate_series(1, 3);
SELECT evinbox.record_event('T', 10 + n % 2, 'seen', throttle => '1 hour') IS NULL AS suppressed
	FROM generate_series(1, 4) n;

-- in one transaction
BEGIN;
SELECT rec('20', 'seen', '1 hour');
SELECT rec('20', 'seen', '1 hour');
COMMIT;
SELECT rec('20', 'seen', '1 hour');

-- what is rolled back suppresses nobody
BEGIN;
SELECT rec('21', 'seen', '1 hour');
ROLLBACK;
BEGIN;
SAVEPOINT s;
SELECT rec('21', 'seen', '1 hour');
SELECT rec('21', 'seen', '1 hour');
ROLLBACK TO s;
SELECT rec('21', 'seen', '1 hour');
SAVEPOINT s;
SELECT rec('21', 'seen', '1 hour');
ROLLBACK TO s;
SELECT rec('21', 'seen', '1 hour');
COMMIT;
SELECT count(*) FROM evinbox.event WHERE subject_id = '21';

-- at the other isolation levels
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT rec('22', 'seen', '1 hour');
SELECT rec('22', 'seen', '1 hour');
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT rec('22', 'seen', '1 hour');
SELECT rec('23', 'seen', '1 hour');
SELECT rec('23', 'seen', '1 hour');
COMMIT;

-- no lock is left behind, and a suppressed call takes none
BEGIN;
SELECT rec('23', 'seen', '1 hour');
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid();
SELECT rec('24', 'seen', '1 hour');
SELECT rec('24', 'seen', '1 hour');
SELECT mode, granted FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid();
COMMIT;
SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid();

-- a suppressed call needs no transaction id ...
BEGIN;
SELECT evinbox.record_event('T', '1', 'seen', throttle => '1 hour') IS NULL AS suppressed;
SELECT pg_current_xact_id_if_assigned() IS NULL AS no_xid;
COMMIT;
BEGIN READ ONLY;
SELECT evinbox.record_event('T', '1', 'seen', throttle => '1 hour') IS NULL AS suppressed;
COMMIT;
-- ... and writes no WAL; others may, so it has to be seen once only
SELECT bool_or(lsn_before = lsn_after) AS no_wal, bool_and(suppressed) AS suppressed
	FROM (SELECT pg_current_wal_insert_lsn() AS lsn_before,
			evinbox.record_event('T', '1', 'seen', throttle => '1 hour') IS NULL AS suppressed,
			pg_current_wal_insert_lsn() AS lsn_after
		FROM generate_series(1, 20) OFFSET 0) AS calls;

-- what makes no sense
SELECT rec('30', 'seen', '-1 second');
SELECT rec('30', 'seen', '1 month -31 days');
SELECT rec('30', 'seen', '10000 years');
SELECT evinbox.record_event('T', '30', 'seen', throttle => '1 hour', throttle_by => 'Actor');
SELECT evinbox.record_event('T', '30', 'seen', throttle => '1 hour', throttle_by => '');
SELECT evinbox.record_event('T', '30', 'seen', throttle_by => 'nobody');
SELECT evinbox.record_event('T', '1', '', throttle => '1 hour');
SELECT evinbox.record_event('T', '1', 'seen', metadata => '[]', throttle => '1 hour');
SELECT count(*) FROM evinbox.event WHERE subject_id = '30';
-- long ones do
SELECT rec('31', 'seen', '4000 years'), rec('31', 'seen', '4000 years');

DROP FUNCTION rec;
DROP EXTENSION evinbox;
