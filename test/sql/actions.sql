-- evinbox.action: closed subject types and required metadata.
\set SHOW_CONTEXT never
SET client_min_messages = error;
CREATE EXTENSION evinbox;
RESET client_min_messages;
-- a type without rows is open
SELECT evinbox.record_event('Issue', 1, 'anything');

INSERT INTO evinbox.action VALUES ('Issue', 'opened'), ('Order', 'paid');
INSERT INTO evinbox.action (subject_type, action, required)
	VALUES ('Issue', 'closed', '{reason}'), ('Issue', 'moved', '{from,to}');
SELECT evinbox.record_event('Issue', 1, 'opened') > 0 AS recorded;
SELECT evinbox.record_event('Issue', 1, 'anything');
SELECT evinbox.record_event('Issue', 1, 'Opened');
SELECT evinbox.record_event('Issue', 1, 'paid');
SELECT evinbox.record_event('Order', 1, 'opened');
SELECT evinbox.record_event('issue', 1, 'anything') > 0 AS recorded;
SELECT evinbox.record_event('Issu', 1, 'anything') > 0 AS recorded;

-- keys of the metadata, whatever their values are
SELECT evinbox.record_event('Issue', 1, 'closed');
SELECT evinbox.record_event('Issue', 1, 'closed', metadata => NULL);
SELECT evinbox.record_event('Issue', 1, 'closed', metadata => '{"Reason": "done", "x": {"reason": 1}}');
SELECT evinbox.record_event('Issue', 1, 'closed', metadata => '{"reason": "done", "x": 1}') > 0 AS recorded;
SELECT evinbox.record_event('Issue', 1, 'closed', metadata => '{"reason": null}') > 0 AS recorded;
SELECT evinbox.record_event('Issue', 1, 'moved', metadata => '{"to": 1}');
SELECT evinbox.record_event('Issue', 1, 'moved', metadata => '{"from": 1}');
SELECT evinbox.record_event('Issue', 1, 'moved', metadata => '{"from": 1, "to": 2}') > 0 AS recorded;

-- INSERT and COPY
INSERT INTO evinbox.event (subject_type, subject_id, action) VALUES ('Order', '1', 'paid');
INSERT INTO evinbox.event (subject_type, subject_id, action) VALUES ('Order', '1', 'opened');
INSERT INTO evinbox.event (subject_type, subject_id, action) VALUES ('Issue', '1', 'closed');
COPY evinbox.event (subject_type, subject_id, action) FROM stdin;
Order	2	paid
Order	2	opened
\.
COPY evinbox.event (subject_type, subject_id, action, metadata) FROM stdin;
Issue	1	moved	{"from": 1}
\.
COPY evinbox.event (subject_type, subject_id, action, metadata) FROM stdin;
Issue	2	moved	{"from": 1, "to": 2}
\.
SELECT subject_type, subject_id, action FROM evinbox.event ORDER BY id;

-- in the transaction that closes a type, and as soon as it is open again
BEGIN;
INSERT INTO evinbox.action VALUES ('Late', 'done');
SELECT evinbox.record_event('Late', 1, 'done') > 0 AS recorded;
SAVEPOINT s;
SELECT evinbox.record_event('Late', 1, 'undone');
ROLLBACK TO s;
UPDATE evinbox.action SET action = 'undone' WHERE subject_type = 'Late';
SELECT evinbox.record_event('Late', 1, 'undone') > 0 AS recorded;
DELETE FROM evinbox.action WHERE subject_type = 'Late';
SELECT evinbox.record_event('Late', 1, 'whatever') > 0 AS recorded;
COMMIT;

-- names of all kinds stand in the hint
INSERT INTO evinbox.action VALUES ('it''s "odd"', 'naïve"'), ('it''s "odd"', 'a b');
SELECT evinbox.record_event('it''s "odd"', 1, 'c');

-- a throttled call that is refused otherwise
SELECT evinbox.record_event('Order', 1, 'opened', throttle => '1 hour');

-- rows that make no sense
INSERT INTO evinbox.action VALUES ('', 'done');
INSERT INTO evinbox.action VALUES ('T', '');
INSERT INTO evinbox.action VALUES (NULL, 'done');
INSERT INTO evinbox.action VALUES ('T', NULL);
INSERT INTO evinbox.action VALUES ('T', 'done', NULL);
INSERT INTO evinbox.action VALUES ('T', 'done', '{a,NULL}');
INSERT INTO evinbox.action VALUES ('Order', 'paid');
TABLE evinbox.action ORDER BY subject_type, action;

DROP EXTENSION evinbox;
