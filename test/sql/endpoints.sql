-- Endpoints: what is refused, whose they are, secrets.
\set SHOW_CONTEXT never
SET client_min_messages = error;
CREATE EXTENSION evinbox;
SELECT current_user AS superuser, current_database() AS db \gset
CREATE ROLE regress_evinbox_anna LOGIN;
CREATE ROLE regress_evinbox_bert LOGIN;
CREATE ROLE regress_evinbox_carl LOGIN IN ROLE regress_evinbox_anna;
CREATE ROLE regress_evinbox_dora LOGIN;
CREATE ROLE regress_evinbox_users ROLE regress_evinbox_anna, regress_evinbox_bert;
RESET client_min_messages;
GRANT USAGE ON SCHEMA evinbox TO regress_evinbox_users, regress_evinbox_dora;
GRANT SELECT, INSERT, UPDATE, DELETE ON evinbox.endpoint TO regress_evinbox_users;
GRANT SELECT ON evinbox.endpoint_status TO regress_evinbox_users, regress_evinbox_dora;
GRANT EXECUTE ON FUNCTION evinbox.set_endpoint_secret TO regress_evinbox_users;
CREATE FUNCTION endpoint(url text, VARIADIC more text[] DEFAULT '{}') RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE format('INSERT INTO evinbox.endpoint (name, url%s) VALUES (''e'', $1%s)',
		(SELECT string_agg(', ' || split_part(m, '=', 1), '') FROM unnest(more) m),
		(SELECT string_agg(', ' || substr(m, strpos(m, '=') + 1), '') FROM unnest(more) m)) USING url;
	DELETE FROM evinbox.endpoint WHERE name = 'e';
	RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
	RETURN sqlstate || ' ' || sqlerrm;
END $$;

-- URLs
SELECT url, endpoint(url) FROM unnest(ARRAY[
	'https://example.com', 'https://example.com/', 'https://example.com:8443/a?b=c', 'HTTPS://Example.COM/%20',
	'https://a-b.c_d.example.com./x', 'https://192.0.2.1/', 'https://[2001:db8::1]:443/', 'https://localhost',
	'http://example.com/', 'ftp://example.com/', 'example.com', '', 'https:/example.com', 'https://',
	'https:///path', 'https://:443/', 'https://user:password@example.com/', 'https://user@example.com/',
	'https://example.com/#fragment', 'https://example.com:0/', 'https://example.com:65536/', 'https://example.com:/',
	'https://example.com:80a/', 'https://example.com:080443/', 'https://[::1', 'https://[::1]x/', 'https://[v1.a]/',
	'https://[fe80::1%25eth0]/', 'https://example..com/', 'https://.example.com/', 'https://-example.com/',
	'https://example-.com/', 'https://exämple.com/', E'https://example.com/\r\nHost: x', 'https://example.com/ x',
	'https://example.com/"', 'https://example.com\@example.org/', 'https://exa_mple.com/%zz', 'https://2130706433/',
	'https://0x7f000001/', 'https://127.1/', 'https://0177.0.0.1/', 'https://1.2.3.4.5/', 'https://256.1.1.1/',
	'https://1.2.3.4:443/', 'https://example.com?@example.org']) url;
SELECT endpoint('https://example.com/' || repeat('x', 2028)), endpoint('https://example.com/' || repeat('x', 2029));
SELECT endpoint('https://' || repeat('a', 63) || '.com'), endpoint('https://' || repeat('a', 64) || '.com');
INSERT INTO evinbox.endpoint (name, url) VALUES ('e', 'http://example.com');

-- the other columns
SELECT m, endpoint('https://example.com', m) FROM unnest(ARRAY[
	'owner=''no_such_role''', 'owner_id=10', 'headers=null', 'retries=null',
	'subject_types=''{}''', 'subject_types=''{a,null}''', 'actions=''{}''', 'actions=''{done}''', 'scope=''''',
	'format=''xml''', 'format=''slack''', 'template=''%{action}''',
	'max_in_flight=0', 'max_in_flight=1001', 'rate=0', 'rate=1000001', 'rate=1', 'rate_per=''0''', 'rate_per=''1 day 1 s''',
	'rate_per=''1 day''', 'rate_per=''1 month''', 'timeout=''0''', 'timeout=''-1 s''', 'timeout=''10 min''',
	'timeout=''11 min''', 'timeout=''1 day''', 'retries=''{}''', 'retries=''{null}''', 'retries=''{-1 s}''', 'retries=''{31 days}''',
	'retries=''{0,30 days}''', 'retries=array_fill(interval ''1 s'', ''{101}'')', 'retries=''{{1 s},{2 s}}''',
	'max_attempts=0', 'max_attempts=1001', 'rotation=''-1 s''', 'rotation=''2 years''', 'rotation=''0''',
	'disable_after=''-1 s''', 'disable_after=''0''', 'subject_types=array_fill(repeat(''x'', 1000), ''{70}'')']) m;
SELECT t, endpoint('https://example.com', 'format=''slack''', 'template=' || quote_literal(t)) FROM unnest(ARRAY[
	'%{a}', '%{a|}', '%{a|b} 100%', '%%{', '', '%{', '%{}', '%{a', '%{a|b', '%{a{b}', '%{a|b{c}', '%{|b}']) t;

-- headers
SELECT h, endpoint('https://example.com', 'headers=' || quote_literal(h)) FROM unnest(ARRAY[
	'{}', '{"Authorization": "Bearer x y"}', '{"x": ""}', '[]', '"x: y"', '{"x": 1}', '{"x": null}', '{"x": {}}', '{"x": ["y"]}',
	'{"": "y"}', '{"x y": "z"}', '{"x:": "y"}', '{"x\r\n": "y"}', '{"x": "y\r\nz: 1"}', '{"x": "y\nz"}', '{"x": " y"}', '{"x": "y "}',
	'{"x": "ä"}', '{"ä": "x"}', '{"x": "\u007f"}', '{"x": "a\tb"}', '{"Host": "x"}', '{"content-length": "1"}', '{"Content-Type": "x"}',
	'{"Transfer-Encoding": "chunked"}', '{"CONNECTION": "close"}', '{"webhook-id": "x"}', '{"Webhook-Signature": "x"}',
	'{"svix-id": "x"}', '{"User-Agent": "x"}', '{"Expect": "x"}', '{"proxy-authorization": "x"}', '{"hostess": "x"}',
	'{"te": "x"}', '{"tea": "x"}', '{"Traceparent": "x"}']) h;
SELECT endpoint('https://example.com', format('headers=%L', (SELECT json_object_agg('x' || i, 'y') FROM generate_series(1, 51) i)));
SELECT endpoint('https://example.com', format('headers=%L', json_build_object('x', repeat('y', 8192))));
SELECT endpoint('https://example.com', format('headers=%L', json_build_object(repeat('x', 101), 'y')));

INSERT INTO evinbox.endpoint (name, url) VALUES ('', 'https://example.com');
INSERT INTO evinbox.endpoint (name, url) VALUES ('https://x', 'https://example.com');
INSERT INTO evinbox.endpoint (name, url) VALUES ('e', NULL);
INSERT INTO evinbox.endpoint (name, url) VALUES (NULL, 'https://example.com');
INSERT INTO evinbox.endpoint (name, url, format) VALUES ('e', 'https://example.com', 'xml');
INSERT INTO evinbox.endpoint (name, url, headers) VALUES ('e', 'https://example.com', '[]');
INSERT INTO evinbox.endpoint (name, url, format, template) VALUES ('e', 'https://example.com', 'slack', '%{');
INSERT INTO evinbox.endpoint (name, url, subject_types) VALUES ('e', 'https://example.com', '{}');
INSERT INTO evinbox.endpoint (name, url, owner_id) VALUES ('e', 'https://example.com', 10);

-- what evinbox sets
INSERT INTO evinbox.endpoint (name, url, disabled_reason) VALUES ('crm', 'https://example.com', 'none')
	RETURNING owner = current_user AS own, owner_id = current_user::regrole AS own_id, disabled_reason;
SELECT id AS id FROM evinbox.endpoint \gset
UPDATE evinbox.endpoint SET enabled = false, disabled_reason = 'gone', id = DEFAULT WHERE name = 'crm' RETURNING id = :id AS same_id, disabled_reason;
INSERT INTO evinbox_internal.endpoint_state VALUES (:id, 3, now(), now() + interval '1 hour');
SELECT name, state, closed_until IS NULL AS never, disabled_reason, failures FROM evinbox.endpoint_status;
UPDATE evinbox.endpoint SET max_in_flight = 5 WHERE name = 'crm' RETURNING disabled_reason;
SELECT count(*) FROM evinbox_internal.endpoint_state;
-- enabling it again is another chance
UPDATE evinbox.endpoint SET enabled = true WHERE name = 'crm' RETURNING disabled_reason;
SELECT count(*) FROM evinbox_internal.endpoint_state;
-- it stands still what is not written; the server's settings may have changed
SET session_replication_role = replica;
UPDATE evinbox.endpoint SET url = 'http://example.com' WHERE name = 'crm';
RESET session_replication_role;
UPDATE evinbox.endpoint SET enabled = false WHERE name = 'crm' RETURNING url;
UPDATE evinbox.endpoint SET url = 'http://example.org' WHERE name = 'crm';
DELETE FROM evinbox.endpoint;

-- others' endpoints are out of sight
\c - regress_evinbox_anna
INSERT INTO evinbox.endpoint (name, url, headers) VALUES ('anna''s', 'https://example.com/token', '{"Authorization": "Bearer anna"}');
\c - regress_evinbox_bert
INSERT INTO evinbox.endpoint (name, url) VALUES ('bert''s', 'https://example.com/');
SELECT name, owner FROM evinbox.endpoint;
SELECT name, owner, state, has_secret FROM evinbox.endpoint_status;
UPDATE evinbox.endpoint SET url = 'https://example.com/bert' WHERE name = 'anna''s';
DELETE FROM evinbox.endpoint WHERE name = 'anna''s';
INSERT INTO evinbox.endpoint (name, url, owner) VALUES ('x', 'https://example.com/', 'regress_evinbox_anna');
UPDATE evinbox.endpoint SET owner = 'regress_evinbox_anna';
SELECT evinbox.set_endpoint_secret('anna''s');
SELECT evinbox.set_endpoint_secret('nobody''s');
SELECT evinbox.set_endpoint_secret(NULL);
SELECT * FROM evinbox_internal.endpoint_secret;
INSERT INTO evinbox.endpoint (name, url, id) OVERRIDING SYSTEM VALUE VALUES ('x', 'https://example.com/', 77);
\c - regress_evinbox_carl
SELECT name, owner FROM evinbox.endpoint;
\c - regress_evinbox_dora
SELECT * FROM evinbox.endpoint;
SELECT evinbox.set_endpoint_secret('anna''s');
SELECT name FROM evinbox.endpoint_status;
\c - :superuser
GRANT pg_monitor TO regress_evinbox_dora;
\c - regress_evinbox_dora
SELECT name, owner FROM evinbox.endpoint_status ORDER BY name;

-- secrets
\c - regress_evinbox_carl
SELECT evinbox.set_endpoint_secret('anna''s') ~ '^whsec_[A-Za-z0-9+/]{43}=$' AS made;
SELECT evinbox.set_endpoint_secret('anna''s', 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw') IS NULL AS silent;
SELECT evinbox.set_endpoint_secret('anna''s', s) FROM unnest('{whsec_}'::text[]) s;
SELECT evinbox.set_endpoint_secret('anna''s', '');
SELECT evinbox.set_endpoint_secret('anna''s', 'secret');
SELECT evinbox.set_endpoint_secret('anna''s', 'whsec_!!!!');
SELECT evinbox.set_endpoint_secret('anna''s', 'whsec_MfK');
SELECT evinbox.set_endpoint_secret('anna''s', 'whsec_MfK=MfKQ');
SELECT evinbox.set_endpoint_secret('anna''s', 'whsec_' || encode(convert_to(repeat('x', 65), 'UTF8'), 'base64'));
SELECT evinbox.set_endpoint_secret('anna''s', 'whsec_' || replace(encode(convert_to(repeat('x', 65), 'UTF8'), 'base64'), E'\n', ''));
SELECT evinbox.set_endpoint_secret('anna''s', 'whsk_' || encode(convert_to(repeat('x', 31), 'UTF8'), 'base64'));
SELECT evinbox.set_endpoint_secret('anna''s', 'whsk_' || encode(convert_to(repeat('x', 32), 'UTF8'), 'base64')) IS NULL AS silent;
SELECT evinbox.set_endpoint_secret('anna''s', 'whsec_' || encode('x', 'base64')) IS NULL AS silent;
SELECT name, has_secret FROM evinbox.endpoint_status;
\c - :superuser
SELECT kind, length(secret), s.expires_at IS NULL AS current, s.expires_at - now() BETWEEN '23:59' AND '24:00' AS former
	FROM evinbox_internal.endpoint_secret s JOIN evinbox.endpoint p ON p.id = endpoint_id ORDER BY s.expires_at;
-- the same one again is one; some former ones stay
SELECT evinbox.set_endpoint_secret('anna''s', 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw');
SELECT count(*), count(DISTINCT secret) FROM evinbox_internal.endpoint_secret;
SELECT count(evinbox.set_endpoint_secret('anna''s')) FROM generate_series(1, 10);
SELECT count(*), count(*) FILTER (WHERE expires_at IS NULL) FROM evinbox_internal.endpoint_secret;
-- a rotation of 0 is none
UPDATE evinbox.endpoint SET rotation = '0' WHERE name = 'anna''s';
SELECT evinbox.set_endpoint_secret('anna''s') IS NOT NULL AS made;
SELECT count(*) FROM evinbox_internal.endpoint_secret WHERE expires_at IS NULL OR expires_at > clock_timestamp();
-- with the endpoint, they go
BEGIN;
DELETE FROM evinbox.endpoint WHERE name = 'anna''s';
SELECT count(*) FROM evinbox_internal.endpoint_secret;
ROLLBACK;
BEGIN;
TRUNCATE evinbox.endpoint CASCADE;
SELECT count(*) FROM evinbox_internal.endpoint_secret;
ROLLBACK;

-- triggers that others have added would run as the extension's owner: they do not
CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE NOTICE 'a trigger'; RETURN NEW; END $$;
CREATE TRIGGER tell BEFORE UPDATE ON evinbox.endpoint FOR EACH ROW EXECUTE FUNCTION tell();
UPDATE evinbox.endpoint SET timeout = timeout WHERE name = 'anna''s';
SELECT evinbox.set_endpoint_secret('anna''s') IS NOT NULL AS made;
DROP TRIGGER tell ON evinbox.endpoint;
DROP FUNCTION tell;

-- roles that come and go
DROP ROLE regress_evinbox_anna;
ALTER ROLE regress_evinbox_anna RENAME TO regress_evinbox_annika;
SELECT name, owner_id::regrole FROM evinbox.endpoint ORDER BY name;
REASSIGN OWNED BY regress_evinbox_bert TO regress_evinbox_annika;
SELECT name, owner_id::regrole, enabled FROM evinbox.endpoint ORDER BY name;
DROP OWNED BY regress_evinbox_bert;
DROP ROLE regress_evinbox_bert;
DROP OWNED BY regress_evinbox_annika;
SELECT count(*) FROM evinbox.endpoint;
DROP ROLE regress_evinbox_annika;
DROP OWNED BY regress_evinbox_users, regress_evinbox_dora;
DROP ROLE regress_evinbox_carl, regress_evinbox_dora, regress_evinbox_users;

DROP FUNCTION endpoint;
DROP EXTENSION evinbox;
