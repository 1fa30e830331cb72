-- Two equal tables: one is tracked by evinbox, one has the usual audit trigger,
-- written in PL/pgSQL, which keeps the old and the new row as jsonb.
\ir common.sql

CREATE TABLE bench.audit (
	id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	table_name text NOT NULL,
	row_id text NOT NULL,
	operation text NOT NULL,
	actor text,
	old_row jsonb,
	new_row jsonb,
	at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX ON bench.audit (table_name, row_id, at);

CREATE FUNCTION bench.audit() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO bench.audit (table_name, row_id, operation, actor, old_row, new_row)
	VALUES (TG_TABLE_NAME, NEW.id::text, TG_OP, current_setting('bench.actor', true), to_jsonb(OLD), to_jsonb(NEW));
	RETURN NULL;
END
$$;

CREATE TABLE bench.tracked (
	id bigint PRIMARY KEY,
	title text NOT NULL,
	body text NOT NULL,
	status text NOT NULL,
	assignee_id bigint,
	priority integer NOT NULL,
	due_on date,
	created_at timestamptz NOT NULL,
	updated_at timestamptz NOT NULL
) WITH (fillfactor = 50);
INSERT INTO bench.tracked
SELECT n, 'Issue number ' || n, repeat('What is wrong, and since when. ', 6), 'open', n % 1000, n % 5, '2026-01-01', now(), now()
FROM generate_series(1, 100000) n;
CREATE TABLE bench.audited (LIKE bench.tracked INCLUDING ALL) WITH (fillfactor = 50);
INSERT INTO bench.audited SELECT * FROM bench.tracked;
CREATE TABLE bench.plain (LIKE bench.tracked INCLUDING ALL) WITH (fillfactor = 50);
INSERT INTO bench.plain SELECT * FROM bench.tracked;

SELECT evinbox.track('bench.tracked', '{status}', action => 'status_changed', subject_type => 'Issue');
CREATE TRIGGER audit AFTER UPDATE ON bench.audited
	FOR EACH ROW EXECUTE FUNCTION bench.audit();
VACUUM ANALYZE bench.tracked, bench.audited, bench.plain;

-- all rows of a table in one statement; how many seconds does it take?
CREATE PROCEDURE bench.update_all(relation regclass, INOUT seconds double precision DEFAULT NULL)
LANGUAGE plpgsql AS $$
DECLARE
	start timestamptz := clock_timestamp();
BEGIN
	EXECUTE format('UPDATE %s SET status = CASE status WHEN ''open'' THEN ''closed'' ELSE ''open'' END', relation);
	COMMIT;
	seconds := extract(epoch FROM clock_timestamp() - start);
END
$$;
