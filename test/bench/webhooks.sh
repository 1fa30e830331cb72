# Requests on their way to a small server on loopback, over plain HTTP.

webhooks()
{
	local port courier first

	cc -O2 -o "$dir/receiver" "$here/receiver.c"
	coproc RECEIVER { exec "$dir/receiver"; }
	read -r port <&"${RECEIVER[0]}"
	sql -c "ALTER SYSTEM SET evinbox.webhook_allow = '127.0.0.0/8'"
	setting evinbox.webhook_allow_http on

	fresh webhooks
	rm -f "$dir"/*.runs
	endpoints "$port" 1 0
	deliver 1000 >/dev/null
	for ((i = 0; i < RUNS; i++)); do
		deliver "$WEBHOOKS" >>"$dir/one.runs"
	done
	sql -c 'DELETE FROM evinbox.endpoint'
	endpoints "$port" 10 0
	for ((i = 0; i < RUNS; i++)); do
		deliver "$WEBHOOKS" >>"$dir/ten.runs"
	done
	sql -c 'DELETE FROM evinbox.endpoint'
	endpoints "$port" 10 1
	for ((i = 0; i < RUNS; i++)); do
		deliver "$WEBHOOKS" >>"$dir/nine.runs"
	done
	printf '| webhooks delivered a second, to one endpoint; to ten | %.0f | %.0f | |\n' \
		"$(rate "$WEBHOOKS" <"$dir/one.runs")" "$(rate "$WEBHOOKS" <"$dir/ten.runs")"
	printf '| the same to nine of ten endpoints, of which the tenth never answers | %.0f | | |\n' \
		"$(rate "$WEBHOOKS" <"$dir/nine.runs")"

	fresh webhooks
	endpoints "$port" 1 0
	deliver 100 >/dev/null
	sql -c 'TRUNCATE evinbox_internal.webhook_attempt, evinbox_internal.request'
	paced webhooks_paced 20 "$WEBHOOK_SECONDS"
	await
	printf '| commit to first byte of the answer, 20 a second, p50 and p95 in ms | %s | %s | |\n' \
		$(sql -F ' ' -c "SELECT round(percentile_cont(0.5) WITHIN GROUP (ORDER BY ms)::numeric, 2),
				round(percentile_cont(0.95) WITHIN GROUP (ORDER BY ms)::numeric, 2)
			FROM (SELECT 1000 * extract(epoch FROM a.started_at - r.created_at) + a.first_byte_ms AS ms
				FROM evinbox_internal.webhook_attempt a JOIN evinbox_internal.request r
					ON r.id = a.request_id) AS x")

	fresh webhooks
	endpoints "$port" 10 0
	for ((i = 0; i < 10; i++)); do
		deliver "$WEBHOOKS" >/dev/null
		courier=$(sql -c "SELECT pid FROM evinbox.worker_status WHERE kind = 'courier' AND database = 'bench'")
		first=${first:-$(private_kb "$courier"), $(descriptors "$courier")}
	done
	printf '| a courier'"'"'s own memory in kB, and descriptors, after %s webhooks; after a tenth of them | %s, %s | %s | |\n' \
		"$((WEBHOOKS * 10))" "$(private_kb "$courier")" "$(descriptors "$courier")" "$first"
	kill "$RECEIVER_PID"
}

# usage: endpoints port count hanging; the first ones hang
endpoints()
{
	sql -c "INSERT INTO evinbox.endpoint (name, url, max_in_flight, timeout)
		SELECT 'e' || n, 'http://127.0.0.1:$1/' || CASE WHEN n <= $3 THEN 'hang' ELSE '' END, 50, '10 min'
		FROM generate_series(1, $2) n"
}

# usage: deliver count; spread over those that do not hang; prints the seconds
deliver()
{
	local start

	sql -c 'TRUNCATE evinbox_internal.webhook_attempt'
	start=$(date +%s%N)
	sql -c "SELECT count(bench.send(name)) FROM evinbox.endpoint WHERE url LIKE '%/hang'" \
		-c "SELECT count(bench.send(e.names[1 + n % cardinality(e.names)]))
		FROM generate_series(1, $1) n,
			(SELECT array_agg(name) AS names FROM evinbox.endpoint WHERE url NOT LIKE '%/hang') AS e" >/dev/null
	await "$1"
	echo $((($(date +%s%N) - start) / 1000)) | awk '{ print $1 / 1e6 }'
}

# usage: await [count]; until so many, or all, are delivered
await()
{
	sql -c "CALL bench.await(${1:-NULL})"
}

descriptors()
{
	ls "/proc/$1/fd" | wc -l
}
