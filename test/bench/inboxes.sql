\ir common.sql

CREATE FUNCTION bench.burn(e evinbox.event) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
	x bigint := 0;
BEGIN
	FOR i IN 1..5000 LOOP
		x := x + i;
	END LOOP;
END
$$;

CREATE FUNCTION bench.doze(e evinbox.event) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_sleep(0.01);
END
$$;
