-- What is queued to be sent: by rules, by hand, and by whom.
\set SHOW_CONTEXT never
-- nothing is to be sent
LOAD 'evinbox';
ALTER SYSTEM SET evinbox.enabled = off;
SELECT pg_reload_conf();
\set ECHO none
SELECT 'DO $$ BEGIN IF current_setting(''evinbox.enabled'')::boolean THEN PERFORM pg_sleep(0.01); END IF; END $$'
	FROM generate_series(1, 1000) \gexec
\set ECHO all
SHOW evinbox.enabled;
SET client_min_messages = error;
CREATE EXTENSION evinbox;
SELECT current_user AS superuser \gset
CREATE ROLE regress_evinbox_anna LOGIN;
CREATE ROLE regress_evinbox_bert LOGIN;
CREATE ROLE regress_evinbox_users ROLE regress_evinbox_anna, regress_evinbox_bert;
RESET client_min_messages;
GRANT USAGE ON SCHEMA evinbox TO regress_evinbox_users;
GRANT SELECT, INSERT, UPDATE, DELETE ON evinbox.inbox, evinbox.endpoint TO regress_evinbox_users;
GRANT SELECT ON evinbox.webhook_delivery, evinbox.webhook_attempt, evinbox.endpoint_status TO regress_evinbox_users;
GRANT EXECUTE ON FUNCTION evinbox.run, evinbox.webhook,
	evinbox.record_event(text, bigint, text, text, jsonb, interval, text, jsonb, text, timestamptz),
	evinbox.http_request(text, jsonb, jsonb, text, text), evinbox.http_request(text, text, jsonb, text, text),
	evinbox.test_endpoint, evinbox.resend, evinbox.recover TO regress_evinbox_users;
GRANT CREATE ON SCHEMA public TO regress_evinbox_users;
CREATE VIEW queued AS
SELECT r.id, p.name AS endpoint, r.owner_id::regrole AS owner, i.name AS inbox, r.event_id, method, r.url, r.headers, content_type, is_signed,
	message_id ~ '^msg_[0-9A-Za-z]{27}$' AS message_id
FROM evinbox_internal.request r LEFT JOIN evinbox.endpoint p ON p.id = r.endpoint_id LEFT JOIN evinbox.inbox i ON i.id = r.inbox_id
ORDER BY r.id;
-- bodies, with times that are always the same
CREATE VIEW bodies AS
SELECT r.id, p.name AS endpoint, regexp_replace(replace(body, 'test-20', '20'), '"(id|occurred_at|recorded_at|timestamp|time)":"202[1-9][-0-9:T.]+Z"', '"\1":"..."', 'g') AS body
FROM evinbox_internal.request r LEFT JOIN evinbox.endpoint p ON p.id = r.endpoint_id ORDER BY r.id;

\c - regress_evinbox_anna
INSERT INTO evinbox.endpoint (name, url, subject_types, actions, scope, format, template) VALUES
	('all', 'https://localhost/all', NULL, NULL, NULL, 'standard', NULL),
	('issues', 'https://localhost/issues', '{Issue,Note}', NULL, NULL, 'cloudevents', NULL),
	('opened', 'https://localhost/opened', NULL, '{opened}', NULL, 'slack', NULL),
	('tenant', 'https://localhost/tenant', NULL, NULL, 'T:1', 'slack', '%{actor|somebody} <https://x/%{subject_id}|%{action}> %{title}'),
	('other', 'https://localhost/other', NULL, NULL, 'T:2', 'standard', NULL);
INSERT INTO evinbox.endpoint (name, url, enabled) VALUES ('off', 'https://localhost/off', false);
\c - regress_evinbox_bert
INSERT INTO evinbox.endpoint (name, url) VALUES ('bert''s', 'https://localhost/bert');

-- rules that cannot work are refused when they are written
\c - regress_evinbox_anna
INSERT INTO evinbox.inbox (name, handler, dispatch, config) VALUES ('x', 'evinbox.webhook', 'scheduled', '[]');
INSERT INTO evinbox.inbox (name, handler, dispatch, config) VALUES ('x', 'evinbox.webhook', 'scheduled', '{"endpoint": 1}');
INSERT INTO evinbox.inbox (name, handler, dispatch, config) VALUES ('x', 'evinbox.webhook', 'scheduled', '{"endpoint": "none"}');
INSERT INTO evinbox.inbox (name, handler, dispatch, config) VALUES ('x', 'evinbox.webhook', 'scheduled', '{"endpoint": "bert''s"}');
INSERT INTO evinbox.inbox (name, handler, dispatch, config) VALUES ('x', 'evinbox.webhook', 'scheduled', '{"body": "none"}');
INSERT INTO evinbox.inbox (name, handler, dispatch, config) VALUES ('x', 'evinbox.webhook', 'scheduled', '{"content_type": "a\nb"}');
INSERT INTO evinbox.inbox (name, handler, dispatch, config) VALUES ('x', 'evinbox.mail', 'scheduled', '{}');
CREATE FUNCTION nothing(e evinbox.event) RETURNS int LANGUAGE sql AS 'SELECT 1';
INSERT INTO evinbox.inbox (name, handler, dispatch, config) VALUES ('x', 'evinbox.webhook', 'scheduled', '{"body": "nothing"}');
DROP FUNCTION nothing;
INSERT INTO evinbox.inbox (name, handler, dispatch, config) VALUES ('hooks', 'evinbox.webhook', 'scheduled', '{}') RETURNING handler;
UPDATE evinbox.inbox SET config = '{"endpoint": "bert''s"}';
UPDATE evinbox.inbox SET config = '{"endpoint": "off", "mine": 1}';
UPDATE evinbox.inbox SET config = '{}';

-- to all that want it
\c - :superuser
SELECT evinbox.record_event('Issue', 1, 'opened', 'User:1', '{"title": "<Fire> & water", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=1,b=2"}',
	scope => 'T:1', occurred_at => '2020-01-02 03:04:05.6+00', snapshot => '{"a": [1, "ü"]}');
SELECT evinbox.record_event('Billing::InvoiceLine', 2, 'PDFSent', metadata => '{"traceparent": "00-0"}');
\c - regress_evinbox_anna
SELECT evinbox.run('hooks');
\c - :superuser
TABLE queued;
TABLE bodies;
DELETE FROM evinbox_internal.request;
-- what is undone was never queued
\c - regress_evinbox_anna
BEGIN;
SELECT count(evinbox.record_event('Issue', 1, 'closed'));
SELECT evinbox.run('hooks');
SELECT endpoint, event_id IS NOT NULL AS has_event FROM evinbox.webhook_delivery ORDER BY endpoint;
ROLLBACK;
SELECT endpoint FROM evinbox.webhook_delivery;
SELECT evinbox.run('hooks');
\c - :superuser
TABLE queued;

-- to one, whatever it is for; one that is disabled; one that is another's by now; with a body of one's own
\c - regress_evinbox_anna
CREATE FUNCTION one(e evinbox.event) RETURNS jsonb LANGUAGE sql AS $$ SELECT jsonb_build_object('id', e.subject_id) WHERE e.action <> 'kept' $$;
CREATE FUNCTION two(e evinbox.event, config jsonb) RETURNS text LANGUAGE sql AS $$ SELECT e.subject_id || (config ->> 'mine') $$;
UPDATE evinbox.inbox SET config = '{"endpoint": "other"}';
INSERT INTO evinbox.inbox (name, handler, dispatch, config) VALUES
	('disabled', 'evinbox.webhook', 'scheduled', '{"endpoint": "off"}'),
	('one', 'evinbox.webhook', 'scheduled', '{"endpoint": "all", "body": "one"}'),
	('two', 'evinbox.webhook', 'scheduled', '{"endpoint": "tenant", "body": "two", "mine": "!", "content_type": "text/x"}');
SELECT count(evinbox.record_event('Note', 3, a)) FROM unnest('{opened,kept}'::text[]) a;
SELECT evinbox.run(n) FROM unnest('{hooks,disabled,one,two}'::text[]) n;
\c - :superuser
SELECT endpoint, inbox, content_type, is_signed FROM queued;
TABLE bodies;
SELECT inbox, event_id, state, last_error FROM evinbox.delivery;
DELETE FROM evinbox_internal.request;
UPDATE evinbox.endpoint SET owner = 'regress_evinbox_bert' WHERE name = 'other';
\c - regress_evinbox_anna
SELECT evinbox.record_event('Note', 4, 'opened');
SELECT evinbox.run('hooks');
\c - :superuser
SELECT name, state, last_error FROM evinbox.inbox_status WHERE name = 'hooks';
-- the event of one call among many
\c - regress_evinbox_anna
INSERT INTO evinbox.inbox (name, statement, dispatch) VALUES
	('statement', 'SELECT evinbox.webhook(e, ''{"endpoint": "all"}'') FROM events e', 'scheduled');
SELECT count(evinbox.record_event('Note', i, 'opened')) FROM generate_series(5, 6) i;
SELECT evinbox.run('statement');
SELECT inbox, event_id, state, attempts FROM evinbox.webhook_delivery ORDER BY id;
-- by hand, without a rule
SELECT evinbox.webhook(NULL, '{}');
SELECT evinbox.webhook(ROW(1, 'A', '1', NULL, NULL, NULL, '{}', NULL, NULL, NULL, 0::smallint, now(), now()), '{}');
SELECT evinbox.webhook(ROW(1, 'A', '1', 'b', NULL, NULL, '{}', NULL, NULL, NULL, 0::smallint, 'infinity', '-infinity'), '{"endpoint": "off"}');
SELECT evinbox.webhook(ROW(NULL, '::Ä', '1', '..HTTPServer2Started__', NULL, NULL, '{}', NULL, NULL, NULL, 0::smallint, 'infinity', '-infinity'), '{"endpoint": "all"}');
\c - :superuser
SELECT inbox, event_id FROM queued ORDER BY id DESC LIMIT 1;
SELECT body FROM bodies ORDER BY id DESC LIMIT 1;
DELETE FROM evinbox_internal.request;

-- by hand
\c - regress_evinbox_anna
SELECT evinbox.http_request('https://localhost/x', '{"a": 1}'::jsonb) IS NOT NULL AS queued;
SELECT evinbox.http_request('https://localhost/x', 'text', '{"X-Y": "z", "traceparent": "x"}', 'put') IS NOT NULL AS queued;
SELECT evinbox.http_request('https://localhost/x', NULL, method => 'GET') IS NOT NULL AS queued;
SELECT evinbox.http_request('https://localhost/x', 'a=b', NULL, content_type => 'application/x-www-form-urlencoded') IS NOT NULL AS queued;
SELECT evinbox.http_request('all', '{}'::jsonb) IS NOT NULL AS queued;
SELECT evinbox.test_endpoint(n) IS NOT NULL AS queued FROM unnest('{all,issues,opened}'::text[]) n;
SELECT evinbox.http_request(NULL, '');
SELECT evinbox.http_request('none', '');
SELECT evinbox.http_request('bert''s', '');
SELECT evinbox.http_request('off', '');
SELECT evinbox.http_request('http://example.com', '');
SELECT evinbox.http_request('https://x:y@example.com', '');
SELECT evinbox.http_request('https://example.com', '', '{"host": "x"}');
SELECT evinbox.http_request('https://example.com', '', '[]');
SELECT evinbox.http_request('https://example.com', '', method => 'CONNECT');
SELECT evinbox.http_request('https://example.com', '', method => NULL);
SELECT evinbox.http_request('https://example.com', '', content_type => E'a\nb');
SELECT evinbox.http_request('https://example.com', repeat('x', 1048577));
SELECT evinbox.test_endpoint('none');
SELECT evinbox.test_endpoint('bert''s');
SELECT evinbox.test_endpoint('off');
\c - :superuser
SELECT endpoint, owner, method, url, headers, content_type, is_signed FROM queued;
TABLE bodies;
-- a handler's own call knows its event
\c - regress_evinbox_anna
CREATE FUNCTION call(e evinbox.event) RETURNS bigint LANGUAGE sql AS $$ SELECT evinbox.http_request('https://localhost/', e.subject_id) $$;
INSERT INTO evinbox.inbox (name, handler, dispatch) VALUES ('call', 'call', 'scheduled');
SELECT evinbox.record_event('Note', 9, 'opened') AS event \gset
SELECT evinbox.run('call');
SELECT inbox, event_id = :event AS event FROM evinbox.webhook_delivery ORDER BY id DESC LIMIT 1;

-- what has become of it, as the courier would say; who sees it
\c - :superuser
SELECT min(id) AS id FROM evinbox_internal.request \gset
INSERT INTO evinbox_internal.webhook_attempt (request_id, number, endpoint_id, owner_id, started_at, outcome, status, error, answer)
	SELECT r.id, n.number, r.endpoint_id, r.owner_id, now() - n.ago::interval, n.outcome, n.status, n.error, 'answer'
	FROM (VALUES (0, 1, '9 min', 'retry', 500, 'failed'), (0, 2, '8 min', 'delivered', 200, NULL), (1, 1, '7 min', 'retry', NULL, 'no route'),
		(2, 1, '6 min', 'dead', 410, 'gone'), (4, 1, '61 min', 'retry', 500, NULL), (4, 2, '5 min', 'delivered', 200, NULL),
		(5, 1, '4 min', 'retry', 503, 'busy')) n (k, number, ago, outcome, status, error)
		JOIN evinbox_internal.request r ON r.id = :id + n.k;
INSERT INTO evinbox_internal.request_waiting
	SELECT r.id, r.created_at, COALESCE(r.endpoint_id, 0), n.state, n.attempts, 'infinity', n.error
	FROM (VALUES (1, 'retry', 1, 'no route'), (2, 'dead', 1, 'gone'), (5, 'dead', 3, 'busy'), (6, 'pending', 0, NULL)) n (k, state, attempts, error)
		JOIN evinbox_internal.request r ON r.id = :id + n.k;
\c - regress_evinbox_anna
SELECT id - :id AS id, endpoint, owner, state, attempts, next_at, last_status, last_error FROM evinbox.webhook_delivery ORDER BY id;
SELECT delivery - :id AS id, number, endpoint, outcome, status, error, answer FROM evinbox.webhook_attempt ORDER BY 1, 2;
SELECT name, state, waiting, dead, delivered_last_hour, failed_last_hour FROM evinbox.endpoint_status ORDER BY name;
\c - regress_evinbox_bert
SELECT count(*) FROM evinbox.webhook_delivery;
SELECT count(*) FROM evinbox.webhook_attempt;
SELECT name FROM evinbox.endpoint_status ORDER BY name;
SELECT evinbox.resend(:id);
SELECT evinbox.recover('all', '-infinity');

-- once more
\c - regress_evinbox_anna
SELECT evinbox.resend(0);
SELECT evinbox.resend(:id + 2) - :id > 2 AS resent;
SELECT a.message_id = b.message_id AS same_message, a.state, b.state FROM evinbox.webhook_delivery a
	JOIN evinbox.webhook_delivery b USING (message_id) WHERE a.id = :id + 2 AND b.id > a.id;
SELECT evinbox.recover('all', 'infinity');
SELECT evinbox.recover('all', '-infinity');
SELECT evinbox.recover('all', '-infinity');
SELECT count(DISTINCT message_id), count(*) FROM evinbox.webhook_delivery WHERE endpoint = 'all';
SELECT name, dead FROM evinbox.endpoint_status WHERE name = 'all';
SELECT evinbox.recover('off', '-infinity');
SELECT evinbox.recover('none', '-infinity');
-- an endpoint that is another's by now
\c - :superuser
UPDATE evinbox.endpoint SET owner = 'regress_evinbox_bert' WHERE name = 'all';
\c - regress_evinbox_anna
SELECT evinbox.resend(:id + 4);
\c - regress_evinbox_bert
SELECT evinbox.resend(:id + 4) AS resent \gset
SELECT id = :resent AS resent, owner FROM evinbox.webhook_delivery;
\c - :superuser
UPDATE evinbox.endpoint SET owner = 'regress_evinbox_anna' WHERE name = 'all';
INSERT INTO evinbox_internal.request_waiting SELECT id, created_at, endpoint_id, 'dead', 1, 'infinity', NULL
	FROM evinbox_internal.request WHERE id = :resent;
\c - regress_evinbox_anna
SELECT evinbox.recover('all', '-infinity');
SELECT endpoint, owner FROM evinbox.webhook_delivery ORDER BY id DESC LIMIT 1;

-- one that cannot be called
UPDATE evinbox.endpoint SET enabled = false WHERE name = 'all';
SELECT evinbox.resend(:id + 4);
DELETE FROM evinbox.endpoint WHERE name = 'all';
SELECT evinbox.resend(:id + 4);

-- nobody but members of its owner, and nobody the tables behind
SELECT * FROM evinbox_internal.request;
INSERT INTO evinbox_internal.request (kind, owner_id, message_id, method, body, is_signed) VALUES ('http', 0, '', '', '', false);
SELECT * FROM evinbox_internal.webhook_attempt;
SELECT * FROM evinbox_internal.request_waiting;

-- erasing
\c - :superuser
DELETE FROM evinbox_internal.request_waiting;
SELECT evinbox.record_event('Person', 1, 'opened', metadata => '{"name": "Eve"}') AS event \gset
\c - regress_evinbox_anna
SELECT evinbox.run(n) FROM unnest('{call,two}'::text[]) n;
\c - :superuser
INSERT INTO evinbox_internal.request_waiting SELECT id, created_at, COALESCE(endpoint_id, 0), 'retry', 1, now(), 'Eve' FROM evinbox_internal.request WHERE event_id = :event;
INSERT INTO evinbox_internal.webhook_attempt (request_id, number, owner_id, started_at, outcome, error, answer)
	SELECT id, 1, owner_id, now(), 'retry', 'Eve', 'Eve' FROM evinbox_internal.request WHERE event_id = :event;
SELECT evinbox.erase('Person', '1');
SELECT body, url, headers FROM evinbox_internal.request WHERE event_id = :event;
SELECT state, attempts, last_status, last_error FROM evinbox.webhook_delivery WHERE event_id = :event;
SELECT a.error, answer FROM evinbox.webhook_attempt a JOIN evinbox.webhook_delivery d ON d.id = delivery WHERE event_id = :event;
SELECT evinbox.resend(min(id)) FROM evinbox.webhook_delivery WHERE event_id = :event;

DROP OWNED BY regress_evinbox_anna, regress_evinbox_bert, regress_evinbox_users;
SELECT count(*) FROM evinbox.endpoint;
DROP VIEW queued, bodies;
DROP ROLE regress_evinbox_anna, regress_evinbox_bert, regress_evinbox_users;
DROP EXTENSION evinbox;
ALTER SYSTEM RESET evinbox.enabled;
SELECT pg_reload_conf();
