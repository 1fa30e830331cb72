-- E-mails: what is queued, and what is refused. Whether they are sent is a matter of the server's settings.
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
RESET client_min_messages;
CREATE FUNCTION mail(e evinbox.event) RETURNS jsonb LANGUAGE sql AS $$ SELECT e.metadata -> 'mail' $$;
-- there is nobody to give them to
INSERT INTO evinbox.inbox (name, handler, dispatch, config) VALUES ('mail', 'evinbox.mail', 'scheduled', '{"message": "mail"}');

ALTER SYSTEM SET evinbox.smtp_url = 'http://x';
ALTER SYSTEM SET evinbox.smtp_url = 'smtp://user:password@mail.example.com';
ALTER SYSTEM SET evinbox.smtp_sender = 'nobody';
ALTER SYSTEM SET evinbox.smtp_sender = E'a@b\r\nBcc: c';
ALTER SYSTEM SET evinbox.webhook_allow = '10.0.0.0/33';
SET evinbox.webhook_allow = '10.0.0.0/8';
SET evinbox.smtp_url = '';
ALTER SYSTEM SET evinbox.smtp_url = 'smtp://localhost:25';
ALTER SYSTEM SET evinbox.smtp_sender = 'evinbox@example.com';
SELECT pg_reload_conf();
\set ECHO none
SELECT 'DO $$ BEGIN IF current_setting(''evinbox.smtp_sender'') = '''' THEN PERFORM pg_sleep(0.01); END IF; END $$'
	FROM generate_series(1, 1000) \gexec
\set ECHO all
SHOW evinbox.smtp_sender;

INSERT INTO evinbox.inbox (name, handler, dispatch, config) VALUES ('x', 'evinbox.mail', 'scheduled', '{}');
INSERT INTO evinbox.inbox (name, handler, dispatch, config) VALUES ('x', 'evinbox.mail', 'scheduled', '{"message": "none"}');
CREATE FUNCTION not_json(e evinbox.event) RETURNS text LANGUAGE sql AS $$ SELECT '' $$;
INSERT INTO evinbox.inbox (name, handler, dispatch, config) VALUES ('x', 'evinbox.mail', 'scheduled', '{"message": "not_json"}');
INSERT INTO evinbox.inbox (name, handler, dispatch, config, max_attempts) VALUES ('mail', 'evinbox.mail', 'scheduled', '{"message": "mail"}', 1);
CREATE FUNCTION record(mail text) RETURNS bigint LANGUAGE sql
	AS $$ SELECT evinbox.record_event('Mail', 1, 'sent', metadata => jsonb_build_object('mail', mail::jsonb)) $$;
SELECT record(m) FROM unnest(ARRAY[
	'{"to": "a@example.com", "subject": "Hello", "body": "How are you?\nFine."}',
	'{"to": ["a@example.com", "b.c+d@example.org"], "subject": "Grüße, und wie ein langer Betreff über mehrere Wörter geht: ää öö üü ßß €", "body": "ü"}',
	'{"to": "a@example.com", "subject": "", "body": ""}',
	'{"to": "a@example.com", "subject": "=?utf-8?q?x?=", "body": ""}',
	'{"to": "a@example.com", "subject": "x", "body": "\r\n.\r\nMAIL FROM:<x@example.com>"}',
	'null', '[]', '{}', '{"to": "a@example.com", "body": ""}', '{"to": "a@example.com", "subject": 1, "body": ""}',
	'{"to": "a@example.com", "subject": ""}', '{"subject": "", "body": ""}', '{"to": [], "subject": "", "body": ""}',
	'{"to": 1, "subject": "", "body": ""}', '{"to": {"a": 1}, "subject": "", "body": ""}', '{"to": ["a@example.com", 1], "subject": "", "body": ""}',
	'{"to": "a", "subject": "", "body": ""}', '{"to": "A <a@example.com>", "subject": "", "body": ""}',
	'{"to": "a@example.com, b@example.com", "subject": "", "body": ""}', '{"to": "a@example.com\r\nBcc: b@example.com", "subject": "", "body": ""}',
	'{"to": "a@example.com> SIZE=1", "subject": "", "body": ""}', '{"to": "a@b@c", "subject": "", "body": ""}', '{"to": "ä@example.com", "subject": "", "body": ""}',
	'{"to": ".a@example.com", "subject": "", "body": ""}', '{"to": "a@example..com", "subject": "", "body": ""}',
	'{"to": "a@example.com", "subject": "a\r\nBcc: b@example.com", "body": ""}', '{"to": "a@example.com", "subject": "a\u007f", "body": ""}']) m;
SELECT record(jsonb_build_object('to', 'a@example.com', 'subject', repeat('x', 999), 'body', '')::text);
SELECT record(jsonb_build_object('to', array_fill('a@example.com'::text, '{101}'), 'subject', '', 'body', '')::text);
-- nothing to send is no failure
SELECT evinbox.record_event('Mail', 1, 'sent');
SELECT evinbox.run('mail');
SELECT event_id, state, last_sqlstate, last_error FROM evinbox.delivery ORDER BY event_id;
SELECT event_id, kind, method, url, headers, content_type, is_signed,
	body LIKE '%' || chr(13) || chr(10) || 'Message-ID: <' || message_id || '@example.com>' || chr(13) || chr(10) || '%' AS message_id,
	body ~ E'\r\nDate: (Mon|Tue|Wed|Thu|Fri|Sat|Sun), \\d\\d [A-Z][a-z]{2} \\d{4} \\d\\d:\\d\\d:\\d\\d \\+0000\r\n' AS date
FROM evinbox_internal.request ORDER BY id;
SELECT event_id, replace(regexp_replace(body, 'Date: [^\r]+|Message-ID: [^\r]+', '...', 'g'), chr(13), '') FROM evinbox_internal.request ORDER BY id;
-- no line without its end, and none that is too long
SELECT count(*) FROM evinbox_internal.request WHERE body ~ '[^\r]\n|\r[^\n]' OR EXISTS (SELECT FROM regexp_split_to_table(body, E'\r\n') l WHERE length(l) > 76);
-- what is decoded is what was meant
SELECT event_id, convert_from(decode(split_part(body, E'\r\n\r\n', 2), 'base64'), 'UTF8') FROM evinbox_internal.request ORDER BY id;
SELECT string_agg(convert_from(decode(m[1], 'base64'), 'UTF8'), '' ORDER BY o)
	FROM evinbox_internal.request, regexp_matches(body, '=\?UTF-8\?B\?([^?]+)\?=', 'g') WITH ORDINALITY t (m, o) WHERE event_id = 2;

DROP FUNCTION mail, not_json, record;
DELETE FROM evinbox.inbox;
DROP EXTENSION evinbox;
ALTER SYSTEM RESET evinbox.smtp_url;
ALTER SYSTEM RESET evinbox.smtp_sender;
ALTER SYSTEM RESET evinbox.enabled;
SELECT pg_reload_conf();
