/* test/update/evinbox--1.0--1.1test.sql */

-- A newer version as the tests want it: columns at the end of tables that are
-- read and written all the time, and a function.

-- complain if script is sourced in psql, rather than via ALTER EXTENSION
\echo Use "ALTER EXTENSION evinbox UPDATE TO '1.1test'" to load this file. \quit

ALTER TABLE evinbox.inbox ADD COLUMN note text;
ALTER TABLE evinbox.delivery ADD COLUMN note text;
ALTER TABLE evinbox_internal.cursor_0 ADD COLUMN note text;
ALTER TABLE evinbox_internal.cursor_1 ADD COLUMN note text;
ALTER TABLE evinbox_internal.outbox_0 ADD COLUMN note text;
ALTER TABLE evinbox_internal.outbox_1 ADD COLUMN note text;
ALTER TABLE evinbox_internal.outbox_2 ADD COLUMN note text;
ALTER TABLE evinbox_internal.outbox_3 ADD COLUMN note text;
ALTER TABLE evinbox_internal.backlog ADD COLUMN note text;

CREATE FUNCTION evinbox.note_of(inbox text) RETURNS text
LANGUAGE sql STABLE STRICT PARALLEL SAFE
BEGIN ATOMIC
	SELECT i.note FROM evinbox.inbox i WHERE i.name = note_of.inbox;
END;
REVOKE ALL ON FUNCTION evinbox.note_of(text) FROM PUBLIC;
