-- Programs go by SQLSTATEs: those of all refusals.
BEGIN;
SELECT plan(209);
CREATE FUNCTION one(e evinbox.event) RETURNS void LANGUAGE sql AS '';
CREATE FUNCTION a_set(e evinbox.event) RETURNS SETOF int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION guarded(e evinbox.event) RETURNS void LANGUAGE sql AS '';
REVOKE EXECUTE ON FUNCTION guarded FROM PUBLIC;
INSERT INTO evinbox.action VALUES ('Closed', 'done', '{reason}');

-- recording, by each of its ways
SELECT throws_ok($$SELECT evinbox.record_event(NULL, '1', 'done')$$, '22004', 'subject type must not be null');
SELECT throws_ok($$SELECT evinbox.record_event('T', NULL::text, 'done')$$, '22004', 'subject id must not be null');
SELECT throws_ok($$SELECT evinbox.record_event('T', NULL::bigint, 'done')$$, '22004', 'subject id must not be null');
SELECT throws_ok($$SELECT evinbox.record_event('T', NULL::uuid, 'done')$$, '22004', 'subject id must not be null');
SELECT throws_ok($$SELECT evinbox.record_event('T', '1', NULL)$$, '22004', 'action must not be null');
SELECT throws_ok($$SELECT evinbox.record_event('', '1', 'done')$$, '22023', 'subject type must not be empty');
SELECT throws_ok($$SELECT evinbox.record_event('T', '', 'done')$$, '22023', 'subject id must not be empty');
SELECT throws_ok($$SELECT evinbox.record_event('T', '1', '')$$, '22023', 'action must not be empty');
SELECT throws_ok($$SELECT evinbox.record_event('T', '1', 'done', metadata => '[]')$$, '22023', 'metadata must be a JSON object');
SELECT throws_ok($$SELECT evinbox.record_event('Closed', '1', 'other')$$, '23514', 'subject type "Closed" has no action "other"');
SELECT throws_ok($$SELECT evinbox.record_event('Closed', '1', 'done')$$, '23514',
	'metadata of action "done" of subject type "Closed" lacks key "reason"');
SELECT throws_ok($$SELECT evinbox.record_event('T', '1', 'done', throttle => '-1 second')$$, '22023', 'throttle must not be negative');
SELECT throws_ok($$SELECT evinbox.record_event('T', '1', 'done', throttle => '10000 years')$$, '22008');
SELECT throws_ok($$SELECT evinbox.record_event('T', '1', 'done', throttle_by => 'both')$$, '22023',
	'unrecognized value for throttle_by: "both"');
SELECT throws_ok($$INSERT INTO evinbox.event (subject_id, action) VALUES ('1', 'done')$$, '22004', 'subject type must not be null');
SELECT throws_ok($$INSERT INTO evinbox.event (subject_type, subject_id, action) VALUES ('T', '', 'done')$$, '22023',
	'subject id must not be empty');
SELECT throws_ok($$INSERT INTO evinbox.event (subject_type, subject_id, action) VALUES ('Closed', '1', 'other')$$, '23514');
SELECT throws_ok($$INSERT INTO evinbox.event (subject_type, subject_id, action, metadata) VALUES ('T', '1', 'done', '1')$$, '22023');
SELECT throws_ok($$INSERT INTO evinbox.event (id, subject_type, subject_id, action) VALUES (1, 'T', '1', 'done')$$, '428C9');
CREATE ROLE evinbox_test_inserter;
GRANT USAGE ON SCHEMA evinbox TO evinbox_test_inserter;
GRANT INSERT ON evinbox.event TO evinbox_test_inserter;
SET LOCAL ROLE evinbox_test_inserter;
SELECT throws_ok($$INSERT INTO evinbox.event (id, subject_type, subject_id, action) OVERRIDING SYSTEM VALUE VALUES (1, 'T', '1', 'done')$$,
	'42501', 'only superusers may choose the id of an event');
RESET ROLE;
SELECT throws_ok($$SET evinbox.actor_source = 'context'$$, '55P02');
SELECT throws_ok($$SET evinbox.unknown = 'context'$$, '42602');

-- events stay as they are
SELECT throws_ok($$UPDATE evinbox.event SET actor = NULL$$, '23001', 'evinbox.event is append-only');
SELECT throws_ok($$DELETE FROM evinbox.event$$, '23001', 'evinbox.event is append-only');
SELECT throws_ok($$TRUNCATE evinbox.event$$, '23001', 'evinbox.event is append-only');
SELECT throws_ok($$MERGE INTO evinbox.event e USING (VALUES (1)) v (id) ON e.id = v.id WHEN MATCHED THEN DELETE$$, '23001');
SELECT throws_ok($$INSERT INTO evinbox.event (subject_type, subject_id, action) VALUES ('T', '1', 'done')
	ON CONFLICT (id) DO UPDATE SET actor = NULL$$, '23001');

-- actions
SELECT throws_ok($$INSERT INTO evinbox.action VALUES ('', 'done')$$, '23514');
SELECT throws_ok($$INSERT INTO evinbox.action VALUES ('T', '')$$, '23514');
SELECT throws_ok($$INSERT INTO evinbox.action VALUES ('T', 'done', '{NULL}')$$, '23514');
SELECT throws_ok($$INSERT INTO evinbox.action VALUES ('Closed', 'done')$$, '23505');

-- rules
CREATE FUNCTION pg_temp.insert_rule(VARIADIC text[]) RETURNS text LANGUAGE sql AS $$
	SELECT format('INSERT INTO evinbox.inbox (name, dispatch, %s) VALUES (''i'', ''scheduled'', %s)',
		(SELECT string_agg(quote_ident($1[n]), ', ' ORDER BY n) FROM generate_series(1, cardinality($1), 2) n),
		(SELECT string_agg(quote_nullable($1[n + 1]), ', ' ORDER BY n) FROM generate_series(1, cardinality($1), 2) n))
$$;
SELECT throws_ok(pg_temp.insert_rule('handler', 'missing'), '42883', NULL, 'no such handler');
SELECT throws_ok(pg_temp.insert_rule('handler', 'a_set'), '42809', NULL, 'a handler that returns a set');
SELECT throws_ok(pg_temp.insert_rule('handler', ''), '42602', NULL, 'an empty handler');
SELECT throws_ok(pg_temp.insert_rule('priority', '1'), '22023', NULL, 'neither handler nor statement');
SELECT throws_ok(pg_temp.insert_rule('handler', 'one', 'statement', 'SELECT 1'), '22023', NULL, 'both');
SELECT throws_ok(pg_temp.insert_rule('statement', ''), '42601', NULL, 'an empty statement');
SELECT throws_ok(pg_temp.insert_rule('statement', 'SELEC'), '42601', NULL, 'a statement that does not parse');
SELECT throws_ok(pg_temp.insert_rule('statement', 'SELECT 1; SELECT 2'), '42601', NULL, 'two statements in one');
SELECT throws_ok(pg_temp.insert_rule('statement', 'DROP TABLE events'), '0A000', NULL, 'a command that is no query');
SELECT throws_ok(pg_temp.insert_rule('statement', 'SELECT * INTO t FROM events'), '0A000', NULL, 'a query that makes a table');
SELECT throws_ok(pg_temp.insert_rule('statement', 'SELECT $1 FROM events'), '42P02', NULL, 'a statement with a parameter');
SELECT throws_ok(pg_temp.insert_rule('statement', 'TABLE missing'), '42P01', NULL, 'a statement on no table');
SELECT throws_ok(pg_temp.insert_rule('statement', 'SELECT missing FROM events'), '42703', NULL, 'a statement on no column');
SELECT throws_ok(pg_temp.insert_rule('statement', 'SELECT missing(id) FROM events'), '42883', NULL, 'a statement of no function');
SELECT throws_ok(pg_temp.insert_rule('handler', 'one', 'condition', 'e.id ='), '42601', NULL, 'a condition that does not parse');
SELECT throws_ok(pg_temp.insert_rule('handler', 'one', 'condition', 'true; DROP TABLE t'), '42601', NULL, 'two statements');
SELECT throws_ok(pg_temp.insert_rule('handler', 'one', 'condition', 'true, true'), '42601', NULL, 'two expressions');
SELECT throws_ok(pg_temp.insert_rule('handler', 'one', 'condition', 'e.id'), '42804', NULL, 'a condition that is not boolean');
SELECT throws_ok(pg_temp.insert_rule('handler', 'one', 'condition', 'e.missing'), '42703', NULL, 'a condition on no column');
SELECT throws_ok(pg_temp.insert_rule('handler', 'one', 'condition', 'missing(e)'), '42883', NULL, 'a condition of no function');
SELECT throws_ok(pg_temp.insert_rule('handler', 'one', 'condition', 'EXISTS (TABLE missing)'), '42P01', NULL, 'a condition on no table');
SELECT throws_ok(pg_temp.insert_rule('handler', 'one', 'batch_size', '0'), '22023', NULL, 'batch_size');
SELECT throws_ok(pg_temp.insert_rule('handler', 'one', 'max_attempts', '0'), '22023', NULL, 'max_attempts');
SELECT throws_ok(pg_temp.insert_rule('handler', 'one', 'backoff', '-1 s'), '22023', NULL, 'backoff');
SELECT throws_ok(pg_temp.insert_rule('handler', 'one', 'timeout', '-1 s'), '22023', NULL, 'timeout');
SELECT throws_ok(pg_temp.insert_rule('handler', 'one', 'shards', '0'), '22023', NULL, 'too few shards');
SELECT throws_ok(pg_temp.insert_rule('handler', 'one', 'shards', '65'), '22023', NULL, 'too many shards');
SELECT throws_ok(pg_temp.insert_rule('handler', 'one', 'start_at', 'never'), '22007', NULL, 'a start at no time');
SELECT throws_ok(pg_temp.insert_rule('handler', 'one', 'actions', '{}'), '22023', NULL, 'an empty list');
SELECT throws_ok(pg_temp.insert_rule('handler', 'one', 'config', NULL), '23502', NULL, 'a null');
SELECT throws_ok(pg_temp.insert_rule('handler', 'one', 'owner', 'evinbox_test_nobody'), '42704', NULL, 'an owner that does not exist');
SELECT throws_ok($$INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES ('i', 'one', 'sometimes')$$, '22023', NULL, 'dispatch');
SELECT throws_ok($$INSERT INTO evinbox.inbox (name, handler) VALUES ('', 'one')$$, '22023', NULL, 'no name');
CREATE ROLE evinbox_test_owner NOLOGIN;
CREATE ROLE evinbox_test_writer NOLOGIN;
GRANT USAGE ON SCHEMA evinbox TO evinbox_test_writer;
GRANT SELECT, INSERT ON evinbox.inbox TO evinbox_test_writer;
GRANT EXECUTE ON FUNCTION evinbox.run, evinbox.schedule, evinbox.pause, evinbox.resume, evinbox.retry, evinbox.discard,
	evinbox.replay TO evinbox_test_writer;
-- from 17 on, a worker can run as a role that cannot log in
SELECT CASE WHEN current_setting('server_version_num')::int < 170000
		THEN throws_ok(sql, '55000', NULL, 'an owner that cannot log in') ELSE lives_ok(sql, 'an owner that cannot log in') END
	FROM (VALUES ($$INSERT INTO evinbox.inbox (name, handler, owner) VALUES ('nologin', 'one', 'evinbox_test_owner')$$)) v (sql);
DELETE FROM evinbox.inbox WHERE name = 'nologin';
SELECT throws_ok(pg_temp.insert_rule('handler', 'guarded', 'owner', 'evinbox_test_owner'), '42501', NULL,
	'a handler that is not the owner''s to execute');
CREATE FUNCTION others(e evinbox.event) RETURNS void LANGUAGE sql AS '';
ALTER FUNCTION others OWNER TO evinbox_test_writer;
SELECT throws_ok(pg_temp.insert_rule('handler', 'others', 'owner', 'evinbox_test_owner'), '42501', NULL, 'a handler that is another''s');
SELECT throws_ok(pg_temp.insert_rule('handler', 'others'), '42501', NULL, 'for a superuser as well');
CREATE ROLE evinbox_test_login LOGIN;
SELECT throws_ok(format($$
		DO 'BEGIN REVOKE CONNECT ON DATABASE %I FROM PUBLIC;
			INSERT INTO evinbox.inbox (name, handler, owner) VALUES (''i'', ''one'', ''evinbox_test_login''); END'$$, current_database()),
	'55000', NULL, 'an owner that may not connect');
INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES ('i', 'one', 'scheduled');
SELECT throws_ok(pg_temp.insert_rule('handler', 'one'), '23505', NULL, 'a name that is taken');
SELECT throws_ok($$UPDATE evinbox.inbox SET start_at = 'beginning'$$, '55000', 'start_at cannot be changed');

-- feeds and sentences
SELECT throws_ok(format('SELECT evinbox.%s', call), '22023', message)
	FROM (VALUES ('actor_feed(''a'', max => 0)', 'max must be between 1 and 1000'),
		('feed(''{}'')', 'subjects must be a JSON array'),
		('feed(''["Issue", 1]'')', 'subject number 1 is not a pair of type and id'),
		('grouped_feed()', 'a grouped feed is of either subjects, an actor, or a scope'),
		('grouped_feed(actor => ''a'', gap => ''-1 s'')', 'gap must not be negative'),
		('grouped_feed(actor => ''a'', group_by => ''day'')', 'unrecognized value for group_by: "day"'),
		('grouped_feed(actor => ''a'', group_by => NULL)', 'group_by must not be null'),
		('grouped_feed(actor => ''a'', time_zone => ''nowhere'')', 'time zone "nowhere" not recognized')) v (call, message);
SELECT throws_ok($$SELECT evinbox.feed((SELECT jsonb_agg('["T", 1]'::jsonb) FROM generate_series(1, 10001)))$$, '54000',
	'a feed has at most 10000 subjects');
SELECT throws_ok($$INSERT INTO evinbox.template (text) VALUES ('')$$, '23514', NULL, 'an empty template');
SELECT throws_ok($$INSERT INTO evinbox.template (text) VALUES ('%{actor')$$, '23514', NULL, 'a placeholder without end');
SELECT throws_ok($$INSERT INTO evinbox.template (locale, text) VALUES ('de AT', 'x')$$, '23514', NULL, 'no locale');

-- dispatching
SELECT throws_ok($$SELECT evinbox.run('missing')$$, '42704', 'inbox "missing" does not exist');
SELECT throws_ok($$SELECT evinbox.run('i', 0)$$, '22023', 'max_events must be positive');
SELECT throws_ok($$SELECT evinbox.schedule('missing', '* * * * *')$$, '42704', 'inbox "missing" does not exist');
SELECT throws_ok($$SELECT evinbox.schedule('i', '* * * * *')$$, '55000', 'pg_cron is not installed in this database');
SELECT throws_ok($$SELECT evinbox.unschedule('i')$$, '55000', 'pg_cron is not installed in this database');

-- where nothing may be written
SELECT throws_ok(format('DO $d$ BEGIN SET LOCAL transaction_read_only = on; PERFORM evinbox.%s; END $d$', call), '25006', NULL,
		call || ' in a read-only transaction')
	FROM unnest('{run(),run(''i''),"record_event(''T'', 1, ''done'')",pause(''i''),resume(''i''),retry(),retry(''i''),"discard(''i'', 1)",
		"replay(''i'', 1, 2)","schedule(''i'', ''* * * * *'')",resume_after_restore(''deliver''),dispatch_replicated(true)}'::text[]) call;

-- in a copy, and where there is none
SELECT throws_ok($$SELECT evinbox.resume_after_restore('deliver')$$, '55000', 'dispatch is not quiet in this database');
SELECT throws_ok($$SELECT evinbox.resume_after_restore('keep')$$, '22023', 'unrecognized value for mode: "keep"');
CREATE FUNCTION pg_temp.in_copy(sql text) RETURNS text LANGUAGE sql AS $$
	SELECT format('DO $d$ BEGIN UPDATE evinbox_internal.incarnation SET database_id = 1; %s;
		RAISE ''it works'' USING errcode = ''EV000''; END $d$', $1)
$$;
UPDATE evinbox.inbox SET replayable = true;
SELECT evinbox.record_event('T', '1', 'done') AS recorded \gset
SELECT throws_ok(pg_temp.in_copy(call), '55000', 'dispatch is quiet in this database, which was restored or copied from another')
	FROM unnest(ARRAY[$$PERFORM evinbox.run()$$, $$PERFORM evinbox.run('i')$$, $$PERFORM evinbox.replay('i', 1, 2)$$,
		$$INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES ('j', 'one', 'scheduled')$$]) call;
SELECT throws_ok(pg_temp.in_copy(call), 'EV000', 'it works', 'but ' || call)
	FROM unnest(ARRAY[$$PERFORM evinbox.record_event('T', '1', 'done')$$, $$PERFORM evinbox.pause('i')$$,
		$$UPDATE evinbox.inbox SET priority = 1$$, $$PERFORM evinbox.resume_after_restore('deliver')$$]) call;
SELECT is(evinbox.run('i') > 0, true, 'and not in the original');
UPDATE evinbox.inbox SET replayable = false;

-- operating
SELECT throws_ok(format('SELECT evinbox.%s', call), '42704', 'inbox "missing" does not exist')
	FROM unnest('{pause(''missing''),resume(''missing''),retry(''missing''),"discard(''missing'', 1)","replay(''missing'', 1, 2)"}'::text[]) call;
SELECT throws_ok(format('SELECT evinbox.%s', call), '22004', NULL, call)
	FROM unnest('{"erase(null, ''1'')","erase(''T'', null)",erase_actor(null)}'::text[]) call;
SELECT throws_ok(format('SELECT evinbox.%s', call), '22023', NULL, call)
	FROM unnest(ARRAY[$$erase('', '1')$$, $$erase('T', '')$$]) call;
SELECT throws_ok(format('DO $d$ BEGIN SET LOCAL transaction_read_only = on; PERFORM evinbox.%s; END $d$', call), '25006', NULL,
		call || ' in a read-only transaction')
	FROM unnest('{"erase(''T'', ''1'')",erase_actor(''User:1'')}'::text[]) call;
SELECT throws_ok($$SELECT evinbox.discard('i', 1)$$, '42704', 'event 1 has not failed in inbox "i"');
SELECT throws_ok($$SELECT evinbox.replay('i', 1, 2)$$, '55000', 'inbox "i" is not replayable');
UPDATE evinbox.inbox SET replayable = true;
SELECT throws_ok($$SELECT evinbox.replay('i', 2, 1)$$, '22023', 'from_id must not be greater than to_id');

-- verdicts are errors of their own
SELECT throws_ok($$SELECT evinbox.retry_in('1 minute')$$, 'VE001');
SELECT throws_ok($$SELECT evinbox.retry_in(NULL)$$, '22004', 'delay must not be null');
SELECT throws_ok($$SELECT evinbox.retry_in('-1 second')$$, '22023', 'delay must be between 0 and 1 year');
SELECT throws_ok($$SELECT evinbox.retry_in('2 years')$$, '22023', 'delay must be between 0 and 1 year');
SELECT throws_ok($$SELECT evinbox.skip('not ours')$$, 'VE002', 'not ours');
SELECT throws_ok($$SELECT evinbox.skip(NULL)$$, 'VE002');
SELECT throws_ok($$SELECT evinbox.give_up('too late')$$, 'VE003', 'too late');
SELECT throws_ok($$SELECT evinbox.give_up(NULL)$$, 'VE003');

-- others' inboxes
SET LOCAL ROLE evinbox_test_writer;
SELECT throws_ok($$INSERT INTO evinbox.inbox (name, handler, dispatch, owner) VALUES ('j', 'one', 'scheduled', 'evinbox_test_owner')$$,
	'42501', 'must be member of role "evinbox_test_owner" to write a rule for it');
SELECT throws_ok($$SELECT evinbox.run('i')$$, '42501', NULL, 'run() in another''s session');
SELECT throws_ok($$SELECT evinbox.schedule('i', '* * * * *')$$, '42501', 'inbox "i" belongs to another role');
SELECT throws_ok(format('SELECT evinbox.%s', call), '42501', 'must be member of the owner of inbox "i"')
	FROM unnest('{pause(''i''),resume(''i''),retry(''i''),"discard(''i'', 1)","replay(''i'', 1, 2)"}'::text[]) call;
RESET ROLE;

-- what a handler raises is kept
CREATE FUNCTION fail(e evinbox.event) RETURNS void LANGUAGE plpgsql AS $$ BEGIN RAISE 'no' USING errcode = 'EV001'; END $$;
INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES ('fail', 'fail', 'scheduled');
SELECT evinbox.record_event('T', '1', 'done') AS failing \gset
SET LOCAL client_min_messages = error;
SELECT evinbox.run('fail') AS handled \gset
SELECT is(last_sqlstate, 'EV001', 'a delivery has the handler''s SQLSTATE') FROM evinbox.delivery WHERE event_id = :failing;

-- tracking
CREATE TABLE tracked (id int PRIMARY KEY, v int);
CREATE TABLE keyless (v int);
CREATE VIEW viewed AS TABLE tracked;
CREATE ROLE evinbox_test_tracker;
GRANT USAGE ON SCHEMA evinbox TO evinbox_test_tracker;
GRANT EXECUTE ON FUNCTION evinbox.track, evinbox.untrack TO evinbox_test_tracker;
SELECT throws_ok(format('SELECT evinbox.track(%s)', call), state, NULL, state || ': track(' || call || ')')
	FROM (VALUES ('NULL, ''{v}''', '22004'), ('''tracked'', NULL', '22004'), ('''tracked'', ''{NULL}''', '22004'),
		('''tracked'', ''{}''', '22023'), ('''tracked'', ''{v}'', ''''', '22023'), ('''tracked'', ''{v}'', events => ''{truncate}''', '22023'),
		('''tracked'', ''{v}'', events => ''{}''', '22023'), ('''tracked'', ''{w}''', '42703'), ('''tracked'', ''{v}'', id_column => ''w''', '42703'),
		('''tracked'', ''{v,v}''', '42701'), ('''tracked'', ''{ctid}''', '0A000'), ('''keyless'', ''{v}''', '55000'), ('''viewed'', ''{v}''', '42809'),
		('''evinbox.event'', ''{actor}''', '42809'), ('''pg_class'', ''{relname}''', '42501'), ('''nothing'', ''{v}''', '42P01')) v (call, state);
SELECT throws_ok($$SELECT evinbox.untrack('tracked')$$, '42704', '"tracked" is not tracked');
SET LOCAL ROLE evinbox_test_tracker;
SELECT throws_ok($$SELECT evinbox.track('tracked', '{v}')$$, '42501', 'must be owner of table tracked');
SELECT throws_ok($$SELECT evinbox.untrack('tracked')$$, '42501', 'must be owner of table tracked');
RESET ROLE;
SELECT lives_ok($$SELECT evinbox.track('tracked', '{v}', action => 'no such', subject_type => 'Closed', events => '{insert}')$$);
SELECT throws_ok($$INSERT INTO tracked VALUES (1, 1)$$, '23514', 'subject type "Closed" has no action "no such"');
SELECT throws_ok($$ALTER TABLE tracked DROP v$$, '2BP01');
SELECT throws_ok($$DROP EXTENSION evinbox$$, '2BP01');

-- calls to the outside
CREATE FUNCTION pg_temp.insert_endpoint(VARIADIC text[]) RETURNS text LANGUAGE sql AS $$
	SELECT format('INSERT INTO evinbox.endpoint (%s) VALUES (%s)',
		(SELECT string_agg(quote_ident($1[n]), ', ' ORDER BY n) FROM generate_series(1, cardinality($1), 2) n),
		(SELECT string_agg(coalesce(quote_literal($1[n + 1]), 'NULL'), ', ' ORDER BY n) FROM generate_series(1, cardinality($1), 2) n))
$$;
SELECT lives_ok(pg_temp.insert_endpoint('name', 'e', 'url', 'https://localhost/'), 'an endpoint');
SELECT lives_ok(pg_temp.insert_endpoint('name', 'off', 'url', 'https://localhost/', 'enabled', 'false'), 'a disabled one');
SELECT throws_ok(pg_temp.insert_endpoint('name', '', 'url', 'https://localhost/'), '22023', 'name of an endpoint must not be empty');
SELECT throws_ok(pg_temp.insert_endpoint('name', 'a://b', 'url', 'https://localhost/'), '22023', 'name of an endpoint must not have "://" in it');
SELECT throws_ok(pg_temp.insert_endpoint('name', 'e', 'url', 'https://localhost/'), '23505');
SELECT throws_ok(pg_temp.insert_endpoint('name', 'i', 'url', NULL), '23502', '"url" of an endpoint must not be null');
SELECT throws_ok(pg_temp.insert_endpoint('name', 'i', 'url', 'http://localhost/'), '22023', 'URL cannot be called: it is not encrypted');
SELECT throws_ok(pg_temp.insert_endpoint('name', 'i', 'url', 'https://localhost/', 'owner', 'evinbox_test_none'), '42704');
SELECT throws_ok(pg_temp.insert_endpoint('name', 'i', 'url', 'https://localhost/', 'owner_id', '10'), '0A000');
SELECT throws_ok(pg_temp.insert_endpoint('name', 'i', 'url', 'https://localhost/', 'headers', '{"host": ""}'), '22023', 'header "host" is set by evinbox');
SELECT throws_ok(pg_temp.insert_endpoint('name', 'i', 'url', 'https://localhost/', 'headers', format('{"a": "%s"}', repeat('x', 9000))), '54000');
SELECT throws_ok(pg_temp.insert_endpoint('name', 'i', 'url', 'https://localhost/', 'scope', repeat('x', 70000)), '54000', 'endpoint is too large');
SELECT throws_ok(pg_temp.insert_endpoint('name', 'i', 'url', 'https://localhost/', 'format', 'xml'), '22023');
SELECT throws_ok($$SELECT evinbox.set_endpoint_secret(NULL)$$, '22004', 'name of an endpoint must not be null');
SELECT throws_ok($$SELECT evinbox.set_endpoint_secret('none')$$, '42704', 'endpoint "none" does not exist');
SELECT throws_ok($$SELECT evinbox.set_endpoint_secret('e', 'x')$$, '22023');
SELECT throws_ok($$SELECT evinbox.set_endpoint_secret('e', 'whsec_!')$$, '22023', 'secret is not valid base64');
SELECT throws_ok($$SELECT evinbox.http_request(NULL, '')$$, '22004', 'target must not be null');
SELECT throws_ok($$SELECT evinbox.http_request('none', '')$$, '42704', 'endpoint "none" does not exist');
SELECT throws_ok($$SELECT evinbox.http_request('off', '')$$, '55000', 'endpoint "off" is disabled');
SELECT throws_ok($$SELECT evinbox.http_request('http://localhost', '')$$, '22023');
SELECT throws_ok($$SELECT evinbox.http_request('https://localhost', '', '[]')$$, '22023', 'headers must be a JSON object');
SELECT throws_ok($$SELECT evinbox.http_request('https://localhost', '', method => 'TRACE')$$, '22023', 'unrecognized value for method: "TRACE"');
SELECT throws_ok($$SELECT evinbox.http_request('https://localhost', repeat('x', 2000000))$$, '54000');
SELECT throws_ok($$SELECT evinbox.test_endpoint('none')$$, '42704', 'endpoint "none" does not exist');
SELECT throws_ok($$SELECT evinbox.test_endpoint('off')$$, '55000', 'endpoint "off" is disabled');
SELECT throws_ok($$SELECT evinbox.resend(0)$$, '42704', 'delivery 0 does not exist');
SELECT throws_ok($$SELECT evinbox.recover('none', now())$$, '42704', 'endpoint "none" does not exist');
SELECT throws_ok($$SELECT evinbox.recover('off', now())$$, '55000', 'endpoint "off" is disabled');
SELECT throws_ok($$SELECT evinbox.webhook(NULL, '{}')$$, '22004', 'event must not be null');
SELECT throws_ok(pg_temp.insert_rule('handler', 'evinbox.webhook', 'config', '[]'), '42P17', 'config of evinbox.webhook must be a JSON object');
SELECT throws_ok(pg_temp.insert_rule('handler', 'evinbox.webhook', 'config', '{"endpoint": "none"}'), '42704', 'endpoint "none" does not exist');
SELECT throws_ok(pg_temp.insert_rule('handler', 'evinbox.webhook', 'config', '{"body": "none"}'), '42883');
SELECT throws_ok(pg_temp.insert_rule('handler', 'evinbox.mail', 'config', '{}'), '42P17', 'config of evinbox.mail lacks "message"');
SELECT throws_ok(pg_temp.insert_rule('handler', 'evinbox.mail', 'config', '{"message": "one"}'), '42704', 'this server sends no e-mail');
CREATE ROLE evinbox_test_stranger;
GRANT USAGE ON SCHEMA evinbox TO evinbox_test_stranger;
GRANT INSERT ON evinbox.endpoint TO evinbox_test_stranger;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA evinbox TO evinbox_test_stranger;
SELECT evinbox.http_request('e', '') AS delivery \gset
SET LOCAL ROLE evinbox_test_stranger;
SELECT throws_ok(format('SELECT evinbox.%s', call), '42501', message, call)
	FROM (VALUES ('set_endpoint_secret(''e'')', 'must be member of the owner of endpoint "e"'),
		('http_request(''e'', '''')', 'must be member of the owner of endpoint "e"'),
		('test_endpoint(''e'')', 'must be member of the owner of endpoint "e"'),
		('recover(''e'', now())', 'must be member of the owner of endpoint "e"'),
		('webhook(ROW(1, ''A'', ''1'', ''b'', NULL, NULL, ''{}'', NULL, NULL, NULL, 0::smallint, now(), now()), ''{"endpoint": "e"}'')',
			'endpoint "e" belongs to another role than the rule')) v (call, message);
SELECT throws_ok(format('SELECT evinbox.resend(%s)', :delivery), '42501');
SELECT throws_ok(pg_temp.insert_endpoint('name', 'i', 'url', 'https://localhost/', 'owner', session_user), '42501');
SELECT throws_ok($$INSERT INTO evinbox.endpoint (name, url, id) OVERRIDING SYSTEM VALUE VALUES ('i', 'https://localhost/', 1000)$$, '42501',
	'only superusers may choose the id of an endpoint');
RESET ROLE;

SELECT * FROM finish();
ROLLBACK;
