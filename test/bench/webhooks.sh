# Requests on their way to servers on loopback: over plain HTTP to one of our own,
# over TLS to nginx. wrk shows what these can take.
#
# A load is queued in one transaction, so that most of it has to stand aside for a
# while, and counts from its commit until the last result is on record.

CONNECTIONS=50                  # to one endpoint, at the most

webhooks()
{
	local http https watch

	start_receiver
	start_nginx
	sql -c "ALTER SYSTEM SET evinbox.webhook_allow = '127.0.0.0/8'" \
		-c "ALTER SYSTEM SET evinbox.webhook_ca_file = '$dir/authority.pem'"
	setting evinbox.webhook_allow_http on
	psql -X -q -A -t -d postgres -o "$dir/ages" <<-SQL &
		SELECT max(extract(epoch FROM clock_timestamp() - xact_start)) FROM pg_stat_activity
		WHERE backend_type = 'evinbox courier' AND backend_xmin IS NOT NULL \watch 0.2
	SQL
	watch=$!
	servers+=("$watch")

	compare_wrk "webhooks over http delivered a second; requests a second by wrk, $CONNECTIONS connections each" "$http"
	compare_wrk 'the same over TLS' "$https"
	compare_hanging "$http"
	first_byte "$http"
	stay_small "$http"
	kill "$watch"
	awk '$1 > age { age = $1 } END {
		printf "| the oldest backend_xmin of a courier meanwhile, in ms, looked at every 0.2 s | %.0f | | |\n", 1000 * age
	}' "$dir/ages"
	kill "${servers[@]}" 2>/dev/null || true
	servers=()
}

# usage: compare_wrk title url
compare_wrk()
{
	local i

	with_endpoints "$2" 1
	rm -f "$dir"/*.runs
	for ((i = 0; i < RUNS; i++)); do
		wrk -t 1 -c "$CONNECTIONS" -d "$SECONDS_A_RUN" -s "$here/webhooks.lua" "$2" |
			awk '/^Requests\/sec/ { print $2 }' >>"$dir/theirs.runs"
		deliver "$WEBHOOKS" 1 >>"$dir/ours.runs"
	done
	row "$1" "$(rate "$WEBHOOKS" <"$dir/ours.runs")" "$(median <"$dir/theirs.runs")"
	expect "$(sql -c "SELECT count(connect_ms) <= $CONNECTIONS FROM evinbox_internal.webhook_attempt")" t
}

# Nine endpoints, without and with a tenth that gets as many and never answers. Loads
# are short, so there are three in a row.
compare_hanging()
{
	local i each=$((WEBHOOKS / 9))

	rm -f "$dir"/*.runs
	for ((i = 0; i < RUNS; i++)); do
		with_endpoints "$1" 9
		for _ in {1..3}; do
			deliver "$each" 9 >>"$dir/theirs.runs"
		done
		with_endpoints "$1" 10 1
		for _ in {1..3}; do
			deliver "$each" 10 1 >>"$dir/ours.runs"
		done
	done
	row 'over http to nine of ten endpoints, of which the tenth never answers; to nine without it' \
		"$(rate $((each * 9)) <"$dir/ours.runs")" "$(rate $((each * 9)) <"$dir/theirs.runs")"
}

first_byte()
{
	with_endpoints "$1" 1
	sql -c 'TRUNCATE evinbox_internal.webhook_attempt, evinbox_internal.request'
	paced webhooks_paced 20 "$WEBHOOK_SECONDS"
	await "$(sql -c 'SELECT count(*) FROM evinbox_internal.request')"
	printf '| commit to first byte of the answer, 20 a second over http, p50 and p95 in ms | %s, %s | | |\n' \
		$(sql -F ' ' -c "SELECT round(percentile_cont(0.5) WITHIN GROUP (ORDER BY ms)::numeric, 2),
				round(percentile_cont(0.95) WITHIN GROUP (ORDER BY ms)::numeric, 2)
			FROM (SELECT 1000 * extract(epoch FROM a.started_at - r.created_at) + a.first_byte_ms AS ms
				FROM evinbox_internal.webhook_attempt a JOIN evinbox_internal.request r
					ON r.id = a.request_id) AS x")
}

stay_small()
{
	local i courier first

	with_endpoints "$1" 10
	for ((i = 0; i < 10; i++)); do
		deliver "$((WEBHOOKS / 10))" 10 >/dev/null
		courier=$(sql -c "SELECT pid FROM evinbox.worker_status WHERE kind = 'courier' AND database = 'bench'")
		first=${first:-$(private_kb "$courier"), $(descriptors "$courier")}
	done
	printf '| a courier'"'"'s own memory in kB, and descriptors, after %s webhooks; after a tenth of them | %s, %s | %s | |\n' \
		"$((WEBHOOKS * 10))" "$(private_kb "$courier")" "$(descriptors "$courier")" "$first"
}

# A new database with endpoints, which have been used.
#
# usage: with_endpoints url count [hanging]; the last ones hang
with_endpoints()
{
	fresh webhooks
	sql -c "INSERT INTO evinbox.endpoint (name, url, max_in_flight, timeout)
		SELECT 'e' || n, '$1' || CASE WHEN n > $2 - ${3:-0} THEN 'hang' ELSE '' END, $CONNECTIONS, '10 min'
		FROM generate_series(1, $2) n" \
		-c 'SELECT count(evinbox.set_endpoint_secret(name)) FROM evinbox.endpoint' >/dev/null
	deliver 200 "$2" "${3:-0}" >/dev/null
}

# So many to each; prints the seconds until all have got there but those to the ones that hang.
#
# usage: deliver each count [hanging]
deliver()
{
	local start

	sql -c 'TRUNCATE evinbox_internal.webhook_attempt' \
		-c "SELECT count(bench.send('e' || 1 + n % $2)) FROM generate_series(1, $1 * $2) n" >/dev/null
	start=$(date +%s%N)
	await $(($1 * ($2 - ${3:-0})))
	echo $((($(date +%s%N) - start) / 1000)) | awk '{ print $1 / 1e6 }'
}

# usage: await count; until so many are delivered
await()
{
	sql -c "CALL bench.await($1)"
}

descriptors()
{
	ls "/proc/$1/fd" | wc -l
}

# -- servers ------------------------------------------------------------------------

start_receiver()
{
	local port

	cc -O2 -o "$dir/receiver" "$here/receiver.c"
	coproc RECEIVER { exec "$dir/receiver"; }
	servers+=("$RECEIVER_PID")
	read -r port <&"${RECEIVER[0]}"
	http=http://127.0.0.1:$port/
}

# It cannot choose a port, so we do: one that is not given to those that do not choose.
start_nginx()
{
	local port

	make_certificates
	for _ in {1..10}; do
		port=$((20000 + RANDOM % 12000))
		nginx_configuration "$port" >"$dir/nginx.conf"
		nginx -p "$dir" -c nginx.conf -e nginx.log || continue
		until [[ -s $dir/nginx.pid ]]; do
			sleep 0.05
		done
		servers+=("$(<"$dir/nginx.pid")")
		https=https://127.0.0.1:$port/
		return
	done
	return 1
}

# usage: nginx_configuration port
nginx_configuration()
{
	cat <<-CONF
		master_process off;
		pid nginx.pid;
		events { worker_connections 1000; }
		http {
			access_log off;
			keepalive_requests 1000000;
			$(printf '%s_temp_path nginx;\n' client_body proxy fastcgi uwsgi scgi)
			server {
				listen 127.0.0.1:$1 ssl;
				ssl_certificate server.pem;
				ssl_certificate_key server.key;
				return 204;
			}
		}
	CONF
}

# an authority, and what it says about this machine
make_certificates()
{
	local new=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)

	openssl req -x509 "${new[@]}" -days 2 -subj /CN=authority \
		-keyout "$dir/authority.key" -out "$dir/authority.pem"
	openssl req "${new[@]}" -subj /CN=server -keyout "$dir/server.key" -out "$dir/server.csr"
	echo 'subjectAltName = IP:127.0.0.1' >"$dir/server.ext"
	openssl x509 -req -in "$dir/server.csr" -CA "$dir/authority.pem" -CAkey "$dir/authority.key" \
		-CAcreateserial -extfile "$dir/server.ext" -days 2 -out "$dir/server.pem"
} 2>/dev/null
