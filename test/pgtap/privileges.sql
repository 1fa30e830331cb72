-- Nothing is for everyone, and each grant gives what it says and no more.
BEGIN;
SELECT plan(151);

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
		WHERE pronamespace::regnamespace::text IN ('evinbox', 'evinbox_internal') AND grantee = 0
			AND p.oid <> 'evinbox_internal.record_change()'::regprocedure$$,
	'PUBLIC has no privilege on a function, but for the one that comes along with partitions');

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
CREATE TABLE pg_temp.mine (a int PRIMARY KEY);
SELECT throws_ok($$SELECT evinbox.record_event('T', 'a', 'done')$$, '42501', NULL, 'USAGE does not let record text ids');
SELECT throws_ok($$SELECT evinbox.record_event('T', 1, 'done')$$, '42501', NULL, 'nor bigint ids');
SELECT throws_ok($$SELECT evinbox.record_event('T', '00000000-0000-0000-0000-000000000000'::uuid, 'done')$$, '42501', NULL,
	'nor uuid ids');
SELECT throws_ok($$SELECT evinbox.run()$$, '42501', NULL, 'nor run');
SELECT throws_ok($$SELECT evinbox.schedule('privileges', '* * * * *')$$, '42501', NULL, 'nor schedule');
SELECT throws_ok($$SELECT evinbox.unschedule('privileges')$$, '42501', NULL, 'nor unschedule');
SELECT throws_ok(format('SELECT evinbox.%s', call), '42501', NULL, 'nor ' || call)
	FROM unnest('{pause(''privileges''),resume(''privileges''),retry(),"discard(''privileges'', 1)","replay(''privileges'', 1, 2)",
		"erase(''T'', ''1'')",erase_actor(''User:1''),
		"subject_feed(''T'', ''1'')","subject_feed(''T'', 1)",actor_feed(''a''),scope_feed(''a''),feed(''[]''),grouped_feed(),
		"retry_in(''1 s'')",skip(''no''),give_up(''no''),resume_after_restore(''deliver''),dispatch_replicated(true),
		set_endpoint_secret(''e''),"http_request(''https://example.com'', ''{}''::jsonb)","http_request(''https://example.com'', '''')",
		test_endpoint(''e''),resend(1),"recover(''e'', now())","webhook(NULL, NULL)","mail(NULL, NULL)"}'::text[]) call;
SELECT throws_ok($$SELECT evinbox.track('pg_temp.mine', '{a}')$$, '42501', 'permission denied for function track', 'nor track');
SELECT throws_ok($$SELECT evinbox.untrack('pg_temp.mine')$$, '42501', 'permission denied for function untrack', 'nor untrack');
SELECT throws_ok($$SELECT evinbox.state_at('T', '1', now())$$, '42501', 'permission denied for function state_at', 'nor see the past');
SELECT throws_ok(format('SELECT * FROM evinbox_internal.%I', relation), '42501', NULL, 'nor read internal ' || relation)
	FROM unnest('{backlog,cursor_0,cursor_1,halt,attempt,incarnation,waiting,endpoint_secret,endpoint_state,request,request_default,
		webhook_attempt,webhook_attempt_default,request_waiting,courier}'::text[]) relation;
SELECT throws_ok(format('SELECT * FROM evinbox.%I', relation), '42501', NULL, 'nor read ' || relation)
	FROM unnest('{event,action,template,inbox,delivery,inbox_status,dead_letter,worker_status,endpoint,webhook_delivery,webhook_attempt,endpoint_status}'::text[]) relation;
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
SELECT throws_ok($$SET evinbox.actor_source = 'any'$$, '55P02', NULL, 'nor says who says who did it');
SELECT throws_ok($$SET evinbox.installed = off$$, '42501', NULL, 'nor keeps workers away');
SELECT throws_ok(format('SET evinbox.%s', setting), '55P02', NULL, 'nor sets ' || setting)
	FROM unnest('{"webhook_allow = ''10.0.0.0/8''","webhook_allow_http = on","smtp_url = ''smtp://x''"}'::text[]) setting;
SELECT throws_ok(format('SHOW evinbox.%s', setting), '42501', NULL, 'nor sees ' || setting)
	FROM unnest('{smtp_url,smtp_sender,smtp_user,smtp_password,webhook_ca_file}'::text[]) setting;
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

-- a role that may insert what there is to say of an event, and nothing else
CREATE ROLE evinbox_test_inserter;
GRANT USAGE ON SCHEMA evinbox TO evinbox_test_inserter;
GRANT INSERT (subject_type, subject_id, action, actor, scope, metadata, snapshot, batch_id, occurred_at)
	ON evinbox.event TO evinbox_test_inserter;
SET LOCAL ROLE evinbox_test_inserter;
SELECT lives_ok($$INSERT INTO evinbox.event (subject_type, subject_id, action, actor, scope, metadata, snapshot, batch_id, occurred_at)
	VALUES ('Columns', '1', 'done', 'User:1', 'a', '{}', '{}', 1, now())$$, 'an inserter by columns inserts');
SELECT throws_ok(format('INSERT INTO evinbox.event (subject_type, subject_id, action, %1$s) OVERRIDING SYSTEM VALUE
	VALUES (''Columns'', ''2'', ''done'', %2$s)', name, value), '42501', 'permission denied for table event', 'but no ' || name)
	FROM (VALUES ('id', '1'), ('recorded_at', 'now()'), ('caused_by', '1'), ('depth', '1')) v (name, value);
SELECT throws_ok($$INSERT INTO evinbox.event (subject_type, subject_id, action) VALUES ('Columns', '3', 'done') RETURNING id$$,
	'42501', NULL, 'and reads nothing of it');
RESET ROLE;
SELECT is(evinbox.run('privileges'), 1::bigint, 'that is dispatched, too');

-- a role that may insert whole rows: what is not its own to say is not what it says
SET LOCAL ROLE evinbox_test_writer;
SELECT throws_ok($$INSERT INTO evinbox.event (id, subject_type, subject_id, action) OVERRIDING SYSTEM VALUE
	VALUES (1000000, 'Forged', '1', 'done')$$, '42501', 'only superusers may choose the id of an event', 'a writer chooses no id');
SELECT lives_ok($$INSERT INTO evinbox.event (subject_type, subject_id, action, recorded_at, caused_by, depth)
	VALUES ('Forged', '2', 'done', '2000-01-01', 1, 7)$$, 'nor the rest');
SELECT results_eq($$SELECT subject_id COLLATE "default", recorded_at > '2001-01-01', caused_by, depth::int
		FROM evinbox.event WHERE subject_type = 'Forged'$$,
	$$VALUES ('2', true, NULL::bigint, 0)$$, 'which is as it would be without');
RESET ROLE;

-- a role that reads feeds needs to read events, and sentences templates
CREATE ROLE evinbox_test_follower;
GRANT USAGE ON SCHEMA evinbox TO evinbox_test_follower;
GRANT EXECUTE ON FUNCTION evinbox.actor_feed, evinbox.grouped_feed, evinbox.describe TO evinbox_test_follower;
SET LOCAL ROLE evinbox_test_follower;
SELECT throws_ok($$SELECT evinbox.actor_feed('User:1')$$, '42501', 'permission denied for table event', 'a follower reads no feed without reading events');
RESET ROLE;
GRANT SELECT ON evinbox.event TO evinbox_test_follower;
SET LOCAL ROLE evinbox_test_follower;
SELECT is(count(*), 2::bigint, 'and with it does') FROM evinbox.actor_feed('User:1');
SELECT throws_ok($$SELECT evinbox.describe(event) FROM evinbox.grouped_feed(actor => 'User:1')$$, '42501',
	'permission denied for table template', 'but makes no sentence without reading templates');
RESET ROLE;
GRANT SELECT ON evinbox.template TO evinbox_test_follower;
SET LOCAL ROLE evinbox_test_follower;
SELECT is(evinbox.describe(event), 'Columns 1: done by User:1', 'and with it does')
	FROM evinbox.grouped_feed(actor => 'User:1');
RESET ROLE;

-- a role that writes rules of its own
CREATE FUNCTION secret(e evinbox.event) RETURNS void LANGUAGE sql AS '';
REVOKE EXECUTE ON FUNCTION secret FROM PUBLIC;
CREATE ROLE evinbox_test_author;
GRANT USAGE ON SCHEMA evinbox TO evinbox_test_author;
GRANT SELECT, INSERT, UPDATE, DELETE ON evinbox.inbox TO evinbox_test_author;
SET LOCAL ROLE evinbox_test_author;
SELECT lives_ok($$INSERT INTO evinbox.inbox (name, handler, dispatch, config) VALUES ('author', 'handle', 'scheduled', '{"a": 1}')$$,
	'an author writes rules');
SELECT lives_ok($$UPDATE evinbox.inbox SET config = '{"a": 2}', condition = 'e.actor IS NULL', enabled = false$$, 'and changes them');
SELECT results_eq($$SELECT name COLLATE "default", config, enabled FROM evinbox.inbox$$, $$VALUES ('author', '{"a": 2}'::jsonb, false)$$,
	'his own, and sees no others');
SELECT throws_ok($$INSERT INTO evinbox.inbox (name, handler, dispatch, owner) VALUES ('i', 'handle', 'scheduled', 'evinbox_test_writer')$$,
	'42501', 'must be member of role "evinbox_test_writer" to write a rule for it', 'but none for another role');
SELECT throws_ok($$UPDATE evinbox.inbox SET owner = 'evinbox_test_writer'$$, '42501', NULL, 'nor gives his away');
SELECT throws_ok($$INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES ('i', 'secret', 'scheduled')$$, '42501', NULL,
	'nor calls what he may not');
SELECT throws_ok($$INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES ('privileges', 'handle', 'scheduled')$$, '23505', NULL,
	'nor takes another''s name');
SELECT throws_ok($$TRUNCATE evinbox.inbox$$, '42501', NULL, 'nor takes all away');
SELECT throws_ok($$SELECT evinbox.run('author')$$, '42501', NULL, 'nor runs them');
SELECT throws_ok($$SELECT * FROM evinbox.event$$, '42501', NULL, 'nor reads events');
SELECT throws_ok($$SELECT * FROM evinbox.inbox_status$$, '42501', NULL, 'nor how they do');
SELECT lives_ok($$DELETE FROM evinbox.inbox$$, 'and he deletes them');
RESET ROLE;
SELECT results_eq($$SELECT name COLLATE "default" FROM evinbox.inbox$$, $$VALUES ('privileges')$$, 'and no others');

-- a role that watches sees how its own rules do, or everybody's, and no event
CREATE ROLE evinbox_test_monitor;
GRANT USAGE ON SCHEMA evinbox TO evinbox_test_monitor;
GRANT SELECT ON evinbox.inbox_status, evinbox.worker_status TO evinbox_test_monitor;
GRANT EXECUTE ON FUNCTION evinbox_internal.inbox_progress(integer, oid), evinbox_internal.workers() TO evinbox_test_monitor;
INSERT INTO evinbox.inbox (name, handler, dispatch, owner) VALUES ('monitor', 'handle', 'scheduled', 'evinbox_test_monitor');
SET LOCAL ROLE evinbox_test_monitor;
SELECT results_eq($$SELECT name COLLATE "default", state FROM evinbox.inbox_status$$, $$VALUES ('monitor', 'scheduled')$$,
	'an owner sees his inboxes');
SELECT ok(count(*) > 0, 'and workers') FROM evinbox.worker_status;
SELECT throws_ok($$SELECT * FROM evinbox.event$$, '42501', NULL, 'but no events');
SELECT throws_ok($$SELECT * FROM evinbox.inbox$$, '42501', NULL, 'nor rules');
SELECT throws_ok($$SELECT * FROM evinbox.dead_letter$$, '42501', NULL, 'nor dead letters');
RESET ROLE;
CREATE ROLE evinbox_test_all;
GRANT evinbox_test_monitor, pg_monitor TO evinbox_test_all;
GRANT SELECT ON evinbox.dead_letter TO evinbox_test_monitor;
INSERT INTO evinbox.delivery (inbox, event_id, state, attempts, created_at, updated_at)
	SELECT name, 1, 'dead', 1, now(), now() FROM evinbox.inbox;
SET LOCAL ROLE evinbox_test_all;
SELECT results_eq($$SELECT name COLLATE "default", dead FROM evinbox.inbox_status ORDER BY name$$,
	$$VALUES ('monitor', 1::bigint), ('privileges', 1)$$, 'pg_monitor''s members see all inboxes');
SELECT results_eq($$SELECT inbox COLLATE "default" FROM evinbox.dead_letter ORDER BY inbox$$, $$VALUES ('monitor'), ('privileges')$$,
	'and dead letters, if they may');
SET LOCAL ROLE evinbox_test_monitor;
SELECT results_eq($$SELECT inbox COLLATE "default" FROM evinbox.dead_letter$$, $$VALUES ('monitor')$$, 'others see their own');
RESET ROLE;
DELETE FROM evinbox.inbox WHERE name = 'monitor';
DELETE FROM evinbox.delivery;

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
