/* test/update/evinbox--1.0--0.9test.sql */

-- What an older script would have left, which the library cannot work with.

-- complain if script is sourced in psql, rather than via ALTER EXTENSION
\echo Use "ALTER EXTENSION evinbox UPDATE TO '0.9test'" to load this file. \quit

DROP TABLE evinbox_internal.waiting;
