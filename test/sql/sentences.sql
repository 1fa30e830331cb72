-- Events as sentences, by templates.
\set SHOW_CONTEXT never
SET client_min_messages = error;
CREATE EXTENSION evinbox;
RESET client_min_messages;
SELECT evinbox.record_event('Issue', 42, 'status_changed', 'User:7', '{"from": "open", "to": "closed"}', scope => 'acme') AS changed \gset
SELECT evinbox.record_event('Issue', 42, 'viewed') AS viewed \gset
CREATE FUNCTION say(id bigint, locale text DEFAULT 'en') RETURNS text LANGUAGE sql AS
	$$ SELECT evinbox.describe(e, locale) FROM evinbox.event e WHERE e.id = say.id $$;

-- without templates
SELECT say(:changed), say(:viewed), say(:changed, NULL), say(:changed, '');

-- the more special one first, in each locale; then the more general locale, then those without one, then English ones
CREATE TABLE said (added text, en text, de text, de_at text, fr text);
CREATE FUNCTION add(locale text, subject_type text, action text) RETURNS void LANGUAGE sql AS $$
	INSERT INTO evinbox.template VALUES (locale, subject_type, action, concat_ws(' ', nullif(locale, ''), coalesce(nullif(subject_type, ''), '*'),
		coalesce(nullif(action, ''), '*')) || ': %{from}')
$$;
CREATE PROCEDURE try() LANGUAGE plpgsql AS $$
DECLARE
	t record;
BEGIN
	FOR t IN SELECT * FROM (VALUES (1, 'en', '', ''), (2, '', '', ''), (3, '', 'Issue', ''), (4, '', '', 'status_changed'),
			(5, 'de', '', ''), (6, 'en', 'Issue', 'status_changed'), (7, 'de', 'Issue', 'status_changed'), (8, 'de-AT', '', 'status_changed'),
			(9, 'de-AT', 'Issue', 'viewed'), (10, 'de', 'Project', 'status_changed'), (11, '', 'Issue', 'status_changed'))
			v (n, locale, subject_type, action) ORDER BY n
	LOOP
		PERFORM add(t.locale, t.subject_type, t.action);
		INSERT INTO said SELECT concat_ws('/', t.locale, t.subject_type, t.action), evinbox.describe(e), evinbox.describe(e, 'de'), evinbox.describe(e, 'de-AT'), evinbox.describe(e, 'fr_CA')
			FROM evinbox.event e WHERE action = 'status_changed';
	END LOOP;
END
$$;
CALL try();
TABLE said;
-- a locale with many parts, and parts of none
SELECT say(:changed, 'de-AT-1996-x-y-z'), say(:changed, 'de_AT'), say(:changed, '-de-'), say(:changed, repeat('-', 100000)),
	say(:changed, $$de' OR true --$$);

-- what there is to fill in
DELETE FROM evinbox.template;
INSERT INTO evinbox.template (action, text) VALUES ('tested', 'x');
CREATE FUNCTION fill(template text, metadata jsonb DEFAULT '{}', actor text DEFAULT 'User:7') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	result text;
BEGIN
	UPDATE evinbox.template SET text = fill.template WHERE action = 'tested';
	SELECT evinbox.describe(ROW(1, 'Issue', '42', 'tested', fill.actor, 'acme', fill.metadata, NULL, NULL, NULL, 0, now(), now())::evinbox.event) INTO result;
	RETURN result;
END
$$;
SELECT fill('%{actor} %{subject_type} %{subject_id} %{scope} %{action}');
SELECT fill('%{actor} changed status from %{from} to %{to}', '{"from": "open", "to": "closed"}');
SELECT fill('%{text}, %{number}, %{truth}, %{list}, %{object}, %{empty}.', '{"text": "a \"b\"", "number": 1.50, "truth": false, "list": [1, "a"], "object": {"a": 1}, "empty": ""}');
SELECT fill('%{ä ö}, %{$1}, %{a.b}, %{a}%{a}', '{"ä ö": "1", "$1": "2", "a.b": "3", "a": "4"}');
-- columns come before metadata
SELECT fill('%{actor} %{scope} %{id}', '{"actor": "forged", "scope": "forged", "id": "from metadata"}');
-- per cent signs
SELECT fill('100% of 5%% at %%{actor} and %%%{actor}%%%%, %'), fill('%'), fill('%%'), fill('% {actor}'), fill('{actor} %d %s %1$s');
-- several lines, and pieces at the ends
SELECT fill(E'%{a}\n%{a}', '{"a": "one"}'), fill(E'\\1 \\\\ \\&%{a}', '{"a": "\\1 & \\0"}');
-- what is filled in is not looked at again, be it placeholder, SQL or format
SELECT fill('%{a} %{b}', '{"a": "%{b} %% %{a}", "b": "''; DROP TABLE evinbox.template; -- %{actor|x}"}', 'User:%{a}');
SELECT fill('%{a|%%}', '{}'), fill('%{a|$1 \1}', '{}');
-- otherwise
SELECT fill('%{actor|Somebody} came', '{}', NULL), fill('%{actor|Somebody} came'), fill('%{b|}!'), fill('%{a|x}', '{"a": ""}'), fill('%{a|x|y}');
-- a sentence without what it needs is not said: the next more general one is
SELECT fill('%{actor} came', '{}', NULL), fill('%{from} to %{to}', '{"from": 1}'), fill('%{from} to %{to}', '{"from": 1, "to": null}');
INSERT INTO evinbox.template (text) VALUES ('%{subject_type} %{subject_id} was %{action}');
SELECT fill('%{actor} came', '{}', NULL);
SELECT evinbox.describe(NULL), evinbox.describe(NULL::evinbox.event, 'de');
-- long ones
SELECT length(fill(repeat('%{a} ', 1000), jsonb_build_object('a', repeat('%{a}', 1000))));

-- templates are checked when they are written
INSERT INTO evinbox.template (text) VALUES (NULL);
INSERT INTO evinbox.template (action, text) VALUES ('a', '');
INSERT INTO evinbox.template (action, text) VALUES ('a', '%{actor changed');
INSERT INTO evinbox.template (action, text) VALUES ('a', '%{} changed');
INSERT INTO evinbox.template (action, text) VALUES ('a', '%{a{b}} changed');
INSERT INTO evinbox.template (action, text) VALUES ('a', '%%%{');
INSERT INTO evinbox.template (action, text) VALUES ('a', '%{|x}');
INSERT INTO evinbox.template (locale, text) VALUES ('de AT', 'x');
INSERT INTO evinbox.template (locale, text) VALUES ('-', 'x');
INSERT INTO evinbox.template (text) VALUES ('twice');
INSERT INTO evinbox.template (action, text) VALUES ('a', '%%{ %{a|}%{b}{}%%');

-- with the caller's rights
CREATE ROLE evinbox_test_reader;
GRANT USAGE ON SCHEMA evinbox TO evinbox_test_reader;
GRANT EXECUTE ON FUNCTION evinbox.describe TO evinbox_test_reader;
GRANT SELECT ON evinbox.event TO evinbox_test_reader;
SET ROLE evinbox_test_reader;
SELECT evinbox.describe(e) FROM evinbox.event e;
RESET ROLE;
GRANT SELECT ON evinbox.template TO evinbox_test_reader;
-- and whatever else has such names
CREATE FUNCTION public.regexp_matches(text, text, text) RETURNS SETOF text[] LANGUAGE sql AS 'SELECT ARRAY[''evil'']';
CREATE TEMP TABLE template (locale text, subject_type text, action text, text text);
SET ROLE evinbox_test_reader;
SET search_path = pg_temp, public;
SELECT evinbox.describe(e) FROM evinbox.event e;
RESET search_path;
RESET ROLE;

SET client_min_messages = warning;
DROP EXTENSION evinbox CASCADE;
DROP OWNED BY evinbox_test_reader;
DROP ROLE evinbox_test_reader;
DROP TABLE said, template;
DROP FUNCTION say, add, fill, public.regexp_matches(text, text, text);
DROP PROCEDURE try;
