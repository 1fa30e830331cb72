/* test/update/evinbox--0.9test--1.0.sql */

-- the same as in sql/evinbox--1.0.sql

-- complain if script is sourced in psql, rather than via ALTER EXTENSION
\echo Use "ALTER EXTENSION evinbox UPDATE TO '1.0'" to load this file. \quit

CREATE TABLE evinbox_internal.waiting (event_id bigint NOT NULL);
SELECT pg_catalog.pg_extension_config_dump('evinbox_internal.waiting', '');
