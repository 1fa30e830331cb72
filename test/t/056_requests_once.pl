# Each event is queued exactly once for each endpoint that wants it, whoever is
# killed meanwhile.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use EvinboxTest;

my $db = 'app';
my $node = evinbox_node('node', 'restart_after_crash = on');
$node->safe_psql('postgres', "CREATE DATABASE $db");
install_evinbox($node, $db);

# Addresses that are refused, so that nothing is called.
$node->safe_psql($db, <<'EOS');
INSERT INTO evinbox.endpoint (name, url, subject_types, disable_after) VALUES
	('all', 'https://127.0.0.1:9/', NULL, '0'), ('things', 'https://127.0.0.1:9/', '{Thing}', '0'), ('others', 'https://127.0.0.1:9/', '{Other}', '0');
CREATE FUNCTION public.body(e evinbox.event) RETURNS jsonb LANGUAGE sql AS $$ SELECT jsonb_build_object('id', e.id) $$;
INSERT INTO evinbox.inbox (name, handler) VALUES ('hooks', 'evinbox.webhook');
INSERT INTO evinbox.inbox (name, handler, config, shards) VALUES ('bodies', 'evinbox.webhook', '{"endpoint": "all", "body": "public.body"}', 2);
EOS

# Every event of a kind is there once, for each endpoint and rule.
sub is_queued_once
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $events = $node->safe_psql($db, "SELECT count(*) FROM evinbox.event WHERE subject_type = 'Thing'");

	wait_for($node, $db, "SELECT count(*) >= 3 * $events FROM evinbox_internal.request", "$name: they are queued");
	is_sql($node, $db, <<'EOS', "bodies|all|$events|$events\nhooks|all|$events|$events\nhooks|things|$events|$events", "$name: once each");
SELECT i.name, p.name, count(*), count(DISTINCT r.event_id)
FROM evinbox_internal.request r JOIN evinbox.inbox i ON i.id = r.inbox_id JOIN evinbox.endpoint p ON p.id = r.endpoint_id
	JOIN evinbox.event e ON e.id = r.event_id WHERE e.subject_type = 'Thing'
GROUP BY 1, 2 ORDER BY 1, 2
EOS
	is_sql($node, $db, 'SELECT count(*) - count(DISTINCT message_id) FROM evinbox_internal.request', '0', "$name: each a message of its own");
}

record_many($node, $db, 500);
is_queued_once('at rest');

my $bench = start_pgbench($node, $db, <<'EOS', '-c', 3, '-t', 150);
BEGIN;
SELECT evinbox.record_event('Thing', 'bench ' || :client_id, 'happened');
SELECT evinbox.record_event('Thing', 'bench ' || :client_id, 'happened');
COMMIT;
EOS
foreach (1 .. 3)
{
	wait_for($node, $db, "SELECT count(*) > 0 FROM pg_stat_activity WHERE backend_type = 'evinbox runner'", 'a runner is at work');
	$node->safe_psql($db, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'evinbox runner' LIMIT 1");
}
ok(finish($bench), 'writers');
is_queued_once('with runners that end');

# a transaction that is undone has queued nothing
$node->safe_psql($db, "BEGIN; SELECT evinbox.http_request('all', 'never'), evinbox.test_endpoint('all'); ROLLBACK");
is_sql($node, $db, "SELECT count(*) FROM evinbox_internal.request WHERE body = 'never' OR event_id IS NULL", '0', 'what is undone is not queued');

record_many($node, $db, 500);
kill 'KILL', (pids_of($node, 'runner', $db))[0];
$node->poll_query_until('postgres', 'SELECT true');
is_queued_once('after a crash');
$node->stop('immediate');
$node->start;
record_many($node, $db, 100);
is_queued_once('after another one');
done_testing();
