/* test/update/evinbox--1.1test--1.0.sql */

-- the way back

-- complain if script is sourced in psql, rather than via ALTER EXTENSION
\echo Use "ALTER EXTENSION evinbox UPDATE TO '1.0'" to load this file. \quit

DROP FUNCTION evinbox.note_of(text);

ALTER TABLE evinbox.inbox DROP COLUMN note;
ALTER TABLE evinbox.delivery DROP COLUMN note;
ALTER TABLE evinbox_internal.cursor_0 DROP COLUMN note;
ALTER TABLE evinbox_internal.cursor_1 DROP COLUMN note;
ALTER TABLE evinbox_internal.outbox_0 DROP COLUMN note;
ALTER TABLE evinbox_internal.outbox_1 DROP COLUMN note;
ALTER TABLE evinbox_internal.outbox_2 DROP COLUMN note;
ALTER TABLE evinbox_internal.outbox_3 DROP COLUMN note;
ALTER TABLE evinbox_internal.backlog DROP COLUMN note;
