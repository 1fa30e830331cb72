\ir common.sql

CREATE TABLE bench.daily_count (
	action text,
	day date,
	events bigint NOT NULL,
	PRIMARY KEY (action, day)
);

-- the same text for a rule and by hand, but for what it reads
CREATE FUNCTION bench.statement(relation text) RETURNS text
LANGUAGE sql IMMUTABLE AS $$
	SELECT format('INSERT INTO bench.daily_count AS d
		SELECT action, recorded_at::date, count(*) FROM %s GROUP BY 1, 2
		ON CONFLICT (action, day) DO UPDATE SET events = d.events + excluded.events', relation)
$$;

INSERT INTO evinbox.inbox (name, enabled, statement)
VALUES ('count', false, bench.statement('events'));

CREATE PROCEDURE bench.by_hand(INOUT seconds double precision DEFAULT NULL)
LANGUAGE plpgsql AS $$
DECLARE
	start timestamptz := clock_timestamp();
BEGIN
	EXECUTE bench.statement('evinbox.event');
	seconds := extract(epoch FROM clock_timestamp() - start);
END
$$;
