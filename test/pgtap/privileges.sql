-- Nothing is for everyone, and each grant gives what it says and no more.
BEGIN;
SELECT plan(74);

-- the catalogs: no privilege for PUBLIC on anything of ours
SELECT is_empty(
	$$SELECT nspname, privilege_type FROM pg_namespace, aclexplode(coalesce(nspacl, acldefault('n', nspowner)))
		WHERE nspname IN ('evinbox', 'evinbox_internal') AND grantee = 0$$,
	'PUBLIC has no privilege on a schema');
SELECT is_empty(
	$$SELECT c.oid::regclass, privilege_type
		FROM pg_class c, aclexplode(coalesce(relacl, acldefault(CASE relkind WHEN 'S' THEN 's' ELSE 'r' END::"char", relowner)))
		WHERE relnamespace::regnamespace::text IN ('evinbox', 'evinbox_internal')
			AND relkind IN ('r', 'p', 'v', 'S') AND grantee = 0$$,
	'PUBLIC has no privilege on a table, view or sequence');
SELECT is_empty(
	$$SELECT attrelid::regclass, attname, privilege_type
		FROM pg_attribute JOIN pg_class c ON c.oid = attrelid, aclexplode(attacl)
		WHERE relnamespace::regnamespace::text IN ('evinbox', 'evinbox_internal') AND grantee = 0$$,
	'PUBLIC has no privilege on a column');
SELECT is_empty(
	$$SELECT p.oid::regprocedure, privilege_type FROM pg_proc p, aclexplode(coalesce(proacl, acldefault('f', proowner)))
		WHERE pronamespace::regnamespace::text IN ('evinbox', 'evinbox_internal') AND grantee = 0$$,
	'PUBLIC has no privilege on a function');

CREATE FUNCTION handle(e evinbox.event) RETURNS void LANGUAGE sql AS '';
CREATE ROLE evinbox_test_nobody;
CREATE ROLE evinbox_test_schema;
CREATE ROLE evinbox_test_recorder;
CREATE ROLE evinbox_test_writer;
GRANT USAGE ON SCHEMA evinbox TO evinbox_test_schema, evinbox_test_recorder, evinbox_test_writer;
GRANT EXECUTE ON FUNCTION
	evinbox.record_event(text, text, text, text, jsonb, interval, text, jsonb, text, timestamptz),
	evinbox.record_event(text, bigint, text, text, jsonb, interval, text, jsonb, text, timestamptz),
	evinbox.record_event(text, uuid, text, text, jsonb, interval, text, jsonb, text, timestamptz)
	TO evinbox_test_recorder;
GRANT SELECT, INSERT ON evinbox.event TO evinbox_test_writer;
INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES ('privileges', 'handle', 'scheduled');
INSERT INTO evinbox.action VALUES ('Closed', 'done');

-- a role without grants
SET LOCAL ROLE evinbox_test_nobody;
SELECT throws_ok($$SELECT evinbox.record_event('T', 1, 'done')$$, '42501', NULL, 'nobody cannot record');
SELECT throws_ok($$SELECT * FROM evinbox.event$$, '42501', NULL, 'nobody cannot read events');
SELECT throws_ok($$SELECT evinbox.run()$$, '42501', NULL, 'nobody cannot run');
SELECT throws_ok($$SELECT * FROM evinbox_internal.outbox_0$$, '42501', NULL, 'nobody cannot read the outbox');
RESET ROLE;

-- a role that may look into the schema only
SET LOCAL ROLE evinbox_test_schema;
SELECT throws_ok($$SELECT evinbox.record_event('T', 'a', 'done')$$, '42501', NULL, 'USAGE does not let record text ids');
SELECT throws_ok($$SELECT evinbox.record_event('T', 1, 'done')$$, '42501', NULL, 'nor bigint ids');
SELECT throws_ok($$SELECT evinbox.record_event('T', '00000000-0000-0000-0000-000000000000'::uuid, 'done')$$, '42501', NULL,
	'nor uuid ids');
SELECT throws_ok($$SELECT evinbox.run()$$, '42501', NULL, 'nor run');
SELECT throws_ok($$SELECT evinbox.schedule('privileges', '* * * * *')$$, '42501', NULL, 'nor schedule');
SELECT throws_ok($$SELECT evinbox.unschedule('privileges')$$, '42501', NULL, 'nor unschedule');
SELECT throws_ok(format('SELECT evinbox.%s', call), '42501', NULL, 'nor ' || call)
	FROM unnest('{pause(''privileges''),resume(''privileges''),retry(),"discard(''privileges'', 1)","replay(''privileges'', 1, 2)",
		"retry_in(''1 s'')",skip(''no''),give_up(''no'')}'::text[]) call;
SELECT throws_ok(format('SELECT * FROM evinbox_internal.%I', relation), '42501', NULL, 'nor read internal ' || relation)
	FROM unnest('{backlog,cursor_0,cursor_1,halt,attempt}'::text[]) relation;
SELECT throws_ok(format('SELECT * FROM evinbox.%I', relation), '42501', NULL, 'nor read ' || relation)
	FROM unnest('{event,action,inbox,delivery,inbox_status,dead_letter,worker_status}'::text[]) relation;
RESET ROLE;

-- a role that may record
SET LOCAL ROLE evinbox_test_recorder;
SELECT lives_ok($$SELECT evinbox.record_event('Priv', 'a', 'done')$$, 'a recorder records text ids');
SELECT lives_ok($$SELECT evinbox.record_event('Priv', 1, 'done', throttle => '1 hour')$$, 'and bigint ids, throttled');
SELECT is(evinbox.record_event('Priv', 1, 'done', throttle => '1 hour'), NULL, 'and is throttled');
SELECT lives_ok($$SELECT evinbox.record_event('Priv', '00000000-0000-0000-0000-000000000000'::uuid, 'done', 'User:1')$$,
	'and uuid ids');
SELECT lives_ok($$SELECT evinbox.record_event('Closed', 1, 'done')$$, 'also of closed types');
SELECT throws_ok($$SELECT evinbox.record_event('Closed', 1, 'undone')$$, '23514', NULL, 'with the same checks');
SELECT throws_ok($$SELECT * FROM evinbox.event$$, '42501', NULL, 'but does not read events');
SELECT throws_ok($$SELECT subject_type FROM evinbox.action$$, '42501', NULL, 'nor actions');
SELECT throws_ok($$INSERT INTO evinbox.event (subject_type, subject_id, action) VALUES ('T', '1', 'done')$$, '42501', NULL,
	'nor inserts');
SELECT throws_ok($$UPDATE evinbox.event SET actor = NULL$$, '42501', NULL, 'nor updates');
SELECT throws_ok($$DELETE FROM evinbox.event$$, '42501', NULL, 'nor deletes');
SELECT throws_ok($$TRUNCATE evinbox.event$$, '42501', NULL, 'nor truncates');
SELECT throws_ok($$SELECT evinbox.run()$$, '42501', NULL, 'nor runs');
SELECT throws_ok($$INSERT INTO evinbox.inbox (name, handler) VALUES ('mine', 'handle')$$, '42501', NULL, 'nor writes rules');
SELECT throws_ok($$INSERT INTO evinbox.action VALUES ('T', 'done')$$, '42501', NULL, 'nor closes types');
SELECT throws_ok($$SELECT nextval('evinbox.event_id_seq')$$, '42501', NULL, 'nor takes ids');
SELECT throws_ok($$SELECT * FROM evinbox_internal.outbox_0$$, '42501', NULL, 'nor reads the outbox');
SELECT throws_ok($$SELECT evinbox_internal.make_partition()$$, '42501', NULL, 'nor makes partitions');
SELECT is(current_user, 'evinbox_test_recorder', 'and is still who it was');
RESET ROLE;
SELECT results_eq(
	$$SELECT subject_id COLLATE "default", actor COLLATE "default" FROM evinbox.event WHERE subject_type = 'Priv' ORDER BY id$$,
	$$VALUES ('a', NULL), ('1', NULL), ('00000000-0000-0000-0000-000000000000', 'User:1')$$,
	'its events are there');
SELECT is(evinbox.run('privileges'), 4::bigint, 'and are dispatched');

-- a role that may insert needs nothing behind the table
SET LOCAL ROLE evinbox_test_writer;
SELECT lives_ok($$INSERT INTO evinbox.event (subject_type, subject_id, action) VALUES ('Priv', 'inserted', 'done')$$,
	'a writer inserts');
SELECT lives_ok($$INSERT INTO evinbox.event (subject_type, subject_id, action) VALUES ('Closed', 'inserted', 'done')$$,
	'also into closed types');
SELECT throws_ok($$UPDATE evinbox.event SET actor = NULL$$, '42501', NULL, 'but does not update');
SELECT throws_ok($$INSERT INTO evinbox_internal.outbox_0 VALUES ('1', 1)$$, '42501', NULL, 'nor write to the outbox');
SELECT is(count(*), 6::bigint, 'and reads what it may') FROM evinbox.event WHERE subject_type IN ('Priv', 'Closed');
RESET ROLE;
SELECT is(evinbox.run('privileges'), 2::bigint, 'what it inserted is dispatched');

-- a role that watches sees how it goes, and no event
CREATE ROLE evinbox_test_monitor;
GRANT USAGE ON SCHEMA evinbox TO evinbox_test_monitor;
GRANT SELECT ON evinbox.inbox_status, evinbox.worker_status TO evinbox_test_monitor;
GRANT EXECUTE ON FUNCTION evinbox_internal.inbox_progress(integer), evinbox_internal.workers() TO evinbox_test_monitor;
SET LOCAL ROLE evinbox_test_monitor;
SELECT is(name COLLATE "default", 'privileges', 'a monitor sees inboxes') FROM evinbox.inbox_status;
SELECT ok(count(*) > 0, 'and workers') FROM evinbox.worker_status;
SELECT throws_ok($$SELECT * FROM evinbox.event$$, '42501', NULL, 'but no events');
SELECT throws_ok($$SELECT * FROM evinbox.inbox$$, '42501', NULL, 'nor rules');
RESET ROLE;

-- an owner that may operate his inboxes needs nothing behind the functions
CREATE ROLE evinbox_test_operator;
GRANT USAGE ON SCHEMA evinbox TO evinbox_test_operator;
GRANT EXECUTE ON FUNCTION evinbox.pause, evinbox.resume, evinbox.retry, evinbox.discard, evinbox.replay TO evinbox_test_operator;
UPDATE evinbox.inbox SET owner = 'evinbox_test_operator', replayable = true;
INSERT INTO evinbox.delivery (inbox, event_id, state, attempts, created_at, updated_at)
	SELECT 'privileges', 1, 'dead', 1, now(), now();
SET LOCAL ROLE evinbox_test_operator;
SELECT lives_ok($$SELECT evinbox.pause('privileges')$$, 'an operator pauses');
SELECT lives_ok($$SELECT evinbox.resume('privileges')$$, 'and resumes');
SELECT is(evinbox.retry(), 1::bigint, 'and has dead letters tried again');
SELECT lives_ok($$SELECT evinbox.discard('privileges', 1)$$, 'and discards them');
SELECT lives_ok($$SELECT evinbox.replay('privileges', 1, 1)$$, 'and replays');
SELECT throws_ok($$SELECT * FROM evinbox.delivery$$, '42501', NULL, 'but does not read deliveries');
SELECT throws_ok($$UPDATE evinbox.inbox SET enabled = false$$, '42501', NULL, 'nor writes rules');
SELECT throws_ok($$SELECT evinbox.run('privileges')$$, '42501', NULL, 'nor runs them');
SELECT is(current_user, 'evinbox_test_operator', 'and is still who it was');
RESET ROLE;

SELECT * FROM finish();
ROLLBACK;
