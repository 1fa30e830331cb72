-- Every public object says what it is.
BEGIN;
SELECT plan(6);

SELECT is_empty(
	$$SELECT nspname FROM pg_namespace
		WHERE nspname IN ('evinbox', 'evinbox_internal') AND obj_description(oid, 'pg_namespace') IS NULL$$,
	'schemas');
SELECT is_empty(
	$$SELECT oid::regclass FROM pg_class WHERE relnamespace = 'evinbox'::regnamespace AND relkind IN ('r', 'p', 'v', 'm', 'f')
		AND obj_description(oid, 'pg_class') IS NULL$$,
	'tables and views');
SELECT is_empty(
	$$SELECT attrelid::regclass, attname FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
		WHERE relnamespace = 'evinbox'::regnamespace AND relkind IN ('r', 'p') AND attnum > 0 AND NOT attisdropped
			AND col_description(attrelid, attnum) IS NULL$$,
	'columns of tables');
SELECT is_empty(
	$$SELECT attname FROM pg_attribute WHERE attrelid = 'evinbox.inbox_status'::regclass AND attnum > 0
		AND attname NOT IN ('name', 'owner', 'last_error_at') AND col_description(attrelid, attnum) IS NULL$$,
	'columns of inbox_status');
SELECT is_empty(
	$$SELECT oid::regprocedure FROM pg_proc WHERE pronamespace = 'evinbox'::regnamespace
		AND obj_description(oid, 'pg_proc') IS NULL$$,
	'functions');
SELECT is_empty(
	$$SELECT format('%s %s', classoid::regclass, description) FROM pg_description d
		WHERE EXISTS (SELECT FROM pg_depend e WHERE e.refclassid = 'pg_extension'::regclass AND e.deptype = 'e'
				AND e.classid = d.classoid AND e.objid = d.objoid
				AND e.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'evinbox'))
			AND (btrim(description) = '' OR description <> btrim(description) OR description LIKE '%.')$$,
	'none is blank, and none ends with a full stop');

SELECT * FROM finish();
ROLLBACK;
