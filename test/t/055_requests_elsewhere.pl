# Calls to the outside in restored and copied databases, and on subscribers:
# nothing goes out before somebody says so, and secrets stay where they are.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use EvinboxTest;

# Nothing is to be sent by this test; who would do it is told to stay away.
my $conf = <<'EOS';
evinbox.enabled = off
wal_level = logical
log_min_messages = warning
EOS
my $db = 'app';
my $source = evinbox_node('source', $conf, allows_streaming => 'logical');
my $target = evinbox_node('target', $conf);
my $dumps = PostgreSQL::Test::Utils::tempdir;

# On the other server, their numbers are one another's.
$source->safe_psql('postgres', 'CREATE ROLE clerk LOGIN; CREATE ROLE agent LOGIN');
$target->safe_psql('postgres', 'CREATE ROLE agent LOGIN; CREATE ROLE clerk LOGIN');
is_sql($target, 'postgres', "SELECT 'agent'::regrole::oid", $source->safe_psql('postgres', "SELECT 'clerk'::regrole::oid"),
	'a number of two roles');
$source->safe_psql('postgres', "CREATE DATABASE $db");
install_evinbox($source, $db);

# -- a database with requests in all states ---------------------------------------------

# Transaction ids that are still to come on the other server.
$source->safe_psql($db, 'DO $$ BEGIN FOR i IN 1 .. 3000 LOOP PERFORM pg_current_xact_id(); COMMIT; END LOOP; END $$');
$source->safe_psql($db, <<'EOS');
INSERT INTO evinbox.endpoint (name, url, owner, headers) VALUES ('hook', 'https://localhost/hook', 'clerk', '{"X-Token": "a\\t\"b"}');
INSERT INTO evinbox.endpoint (name, url, enabled, disabled_reason) VALUES ('off', 'https://localhost/off', false, 'gone');
SELECT evinbox.set_endpoint_secret('hook');
GRANT USAGE ON SCHEMA evinbox TO clerk, agent;
GRANT SELECT ON evinbox.webhook_delivery, evinbox.webhook_attempt TO clerk, agent;
INSERT INTO evinbox_internal.endpoint_state SELECT id, 3, now(), now() FROM evinbox.endpoint WHERE name = 'hook';
SELECT evinbox.http_request('hook', 'request ' || i) FROM generate_series(1, 6) i;
SELECT evinbox.http_request('https://localhost/', '{"request": 7}'::jsonb);
INSERT INTO evinbox_internal.webhook_attempt (request_id, number, endpoint_id, owner_id, started_at, outcome, error)
	SELECT r.id, v.number, r.endpoint_id, r.owner_id, now(), v.outcome, 'tried'
	FROM (VALUES (1, 1, 'delivered'), (2, 1, 'retry'), (3, 1, 'retry'), (3, 2, 'delivered'), (4, 1, 'dead'), (5, 1, 'retry'))
		v (id, number, outcome) JOIN evinbox_internal.request r USING (id);
INSERT INTO evinbox_internal.request_waiting
	SELECT r.id, r.created_at, r.endpoint_id, v.state, 1, 'infinity', 'tried'
	FROM (VALUES (2, 'retry'), (4, 'dead')) v (id, state) JOIN evinbox_internal.request r USING (id);
EOS
my $deliveries = 'SELECT id, endpoint, owner, state, attempts, last_error FROM evinbox.webhook_delivery ORDER BY id';
my $own = 'SELECT (SELECT count(*) FROM evinbox.webhook_delivery), (SELECT count(*) FROM evinbox.webhook_attempt)';
my $known = <<'EOS';
1|hook|clerk|delivered|1|tried
2|hook|clerk|retry|1|tried
3|hook|clerk|delivered|2|tried
4|hook|clerk|dead|1|tried
5|hook|clerk|pending|1|tried
6|hook|clerk|pending|0|
7|||pending|0|
EOS
chomp($known);
$known =~ s/^7\|\|\|/7||@{[ $source->safe_psql($db, 'SELECT current_user') ]}|/m;
is_sql($source, $db, $deliveries, $known, 'requests in all states');
is_sql($source, $db, "SET ROLE clerk; $own", '6|6', "which are their owner's");
my $contents = <<'EOS';
SELECT md5(string_agg(t, chr(10))) FROM (
	SELECT (to_jsonb(p) - 'owner_id')::text FROM evinbox.endpoint p
	UNION ALL SELECT (to_jsonb(r) - 'owner_id')::text FROM evinbox_internal.request r
	UNION ALL SELECT (to_jsonb(a) - 'owner_id')::text FROM evinbox_internal.webhook_attempt a
	UNION ALL SELECT w::text FROM evinbox_internal.request_waiting w ORDER BY 1) x (t)
EOS
my $expected = $source->safe_psql($db, $contents);

# -- a dump ---------------------------------------------------------------------------

command_ok([ 'pg_dump', '-Fc', '-d', $source->connstr($db), '-f', "$dumps/$db" ], 'a dump');
foreach my $name (qw(deliver discard))
{
	$target->safe_psql('postgres', "CREATE DATABASE $name");
	command_ok([ 'pg_restore', '--exit-on-error', '-d', $target->connstr($name), "$dumps/$db" ], "$name: restored");
	is_sql($target, $name, $contents, $expected, "$name: all is the same");
	is_sql($target, $name, "SELECT owner_id::regrole FROM evinbox.endpoint WHERE name = 'hook'", 'clerk', "$name: its owner's");
	is_sql($target, $name, 'SELECT count(*) FROM evinbox_internal.endpoint_secret', '0', "$name: but for secrets");
	is_sql($target, $name, "SELECT has_secret FROM evinbox.endpoint_status WHERE name = 'hook'", 'f', "$name: which can be seen");

	is_sql($target, $name, "SET ROLE $_; $own", '0|0', "$name: not yet anybody's: $_") foreach 'agent', 'clerk';

	# a partition that is not there goes where it belongs
	$target->safe_psql($name, <<'EOS');
COPY evinbox_internal.request_20200101 (id, created_at, xid, kind, endpoint_id, owner_id, message_id, method, body, is_signed) FROM stdin;
100	2020-01-01 12:00:00+00	999999	http	1	0	msg_0	POST	old	t
\.
COPY evinbox_internal.webhook_attempt_20200101 (request_id, number, endpoint_id, owner_id, started_at, outcome) FROM stdin;
100	1	1	0	2020-01-01 12:00:00+00	delivered
\.
EOS
	is_sql($target, $name, 'SELECT tableoid::regclass FROM evinbox_internal.request WHERE id = 100', 'evinbox_internal.request_default',
		"$name: a day that has no partition here");

	# an application goes on; its request is another one, and waits
	is_sql($target, $name, "SELECT evinbox.http_request('hook', 'request 8')", '8', "$name: a request while all is quiet");
}
foreach my $name (qw(deliver discard))
{
	my $session = $target->background_psql($name);

	# a snapshot takes the transaction for one that is over as soon as a later one is
	$session->query_safe("BEGIN; SELECT evinbox.http_request('hook', 'of the same transaction')");
	$target->safe_psql($name, 'SELECT pg_current_xact_id()');
	$session->query_safe("SELECT evinbox.resume_after_restore('$name')");
	$session->query_safe("SELECT evinbox.http_request('hook', 'behind all that came with the dump'); COMMIT");
	$session->quit;
	my ($waiting, $error) = $name eq 'deliver' ? ('pending', '') : ('dead', 'discarded by resume_after_restore()');
	my $retry = $name eq 'deliver' ? 'retry|1|tried' : 'dead|1|discarded by resume_after_restore()';
	my $tried = $name eq 'deliver' ? 'tried' : $error;

	is_sql($target, $name, "SELECT id, state, attempts, last_error FROM evinbox.webhook_delivery WHERE id < 9 ORDER BY id", <<EOS =~ s/\n\z//r, "$name: what was not sent is $waiting");
1|delivered|1|tried
2|$retry
3|delivered|2|tried
4|dead|1|tried
5|$waiting|1|$tried
6|$waiting|0|$error
7|$waiting|0|$error
8|$waiting|0|$error
EOS
	is_sql($target, $name, 'SELECT count(*) FROM evinbox_internal.request_waiting', '6', "$name: and nothing else");
	is_sql($target, $name, "SELECT id, state FROM evinbox.webhook_delivery WHERE id >= 9 ORDER BY id", "9|pending\n100|delivered\n101|pending",
		"$name: ids go on behind those that there are");
	is_sql($target, $name, <<'EOS', 't|2|1', "$name: a courier finds what is new, and nothing else, now or one day");
SELECT bool_and(r.xid < pg_snapshot_xmin(pg_current_snapshot())), count(*) FILTER (WHERE NOT pg_visible_in_snapshot(r.xid, c.done)),
	(SELECT count(*) FROM evinbox_internal.courier)
FROM evinbox_internal.request r, evinbox_internal.courier c
EOS
	is_sql($target, $name, "SET ROLE clerk; $own", '10|7', "$name: what was sent is its owner's again");
	is_sql($target, $name, "SET ROLE agent; $own", '0|0', "$name: and nobody else's");
	is_sql($target, $name, 'SELECT count(*) FROM evinbox_internal.endpoint_state', '0', "$name: endpoints begin anew");
}
is_sql($target, 'discard', "SELECT evinbox.recover('hook', '-infinity')", '5', 'what was discarded can be recovered');
is_sql($target, 'discard', 'SELECT count(*) FROM evinbox_internal.request_waiting', '1', 'but for what is of no endpoint');

# which is not sent twice when that is copied again
$target->safe_psql('postgres', 'CREATE DATABASE again TEMPLATE discard');
$target->safe_psql('again', "SELECT evinbox.resume_after_restore('deliver')");
is_sql($target, 'again', "SELECT request_id, state FROM evinbox_internal.request_waiting WHERE request_id < 9 ORDER BY 1", '7|dead',
	'what was recovered does not wait beside the new request');
is_sql($target, 'again', "SELECT count(*), count(DISTINCT message_id) FROM evinbox_internal.request_waiting JOIN evinbox_internal.request ON id = request_id
	WHERE state = 'pending'", '7|7', 'which does');

# beside what is there, it would mean something else
$target->safe_psql('postgres', 'CREATE DATABASE used');
install_evinbox($target, 'used');
$target->safe_psql('used', "INSERT INTO evinbox.endpoint (name, url) VALUES ('other', 'https://localhost/')");
my ($status, $out, $error) =
  $target->psql('used', 'COPY evinbox.endpoint (name, owner, url, id, owner_id) FROM stdin');
like($error, qr/cannot restore a dump into a database that has rules, endpoints or events/, 'a database with endpoints takes no dump');

# -- a copy of the files ----------------------------------------------------------------

$source->safe_psql('postgres', "CREATE DATABASE copy TEMPLATE $db");
is_sql($source, 'copy', $contents, $expected, 'a copy has all');
$source->safe_psql('copy', "SELECT evinbox.resume_after_restore('deliver')");
is_sql($source, 'copy', "SELECT id, state FROM evinbox.webhook_delivery WHERE state IN ('pending', 'retry') ORDER BY id",
	"2|retry\n5|pending\n6|pending\n7|pending", 'and what was not sent waits there, too');

# -- a subscriber -------------------------------------------------------------------------

my $subscriber = evinbox_node('subscriber', "$conf\nwal_retrieve_retry_interval = 100ms");
$subscriber->safe_psql('postgres', "CREATE DATABASE $db");
install_evinbox($subscriber, $db);
my $connection = $source->connstr . " dbname=$db";
my %changes = (
	'evinbox.endpoint' => q{INSERT INTO evinbox.endpoint (name, url) VALUES ('other', 'https://localhost/')},
	'evinbox_internal.endpoint_secret' => q{SELECT evinbox.set_endpoint_secret('hook')},
	'evinbox_internal.request' => q{SELECT evinbox.http_request('hook', '')},
	'evinbox_internal.webhook_attempt' => q{INSERT INTO evinbox_internal.webhook_attempt SELECT (a).* FROM
		(SELECT jsonb_populate_record(a, '{"number": 9}') AS a FROM evinbox_internal.webhook_attempt a LIMIT 1) x},
	'evinbox_internal.request_waiting' =>
	  q{INSERT INTO evinbox_internal.request_waiting SELECT id, created_at, 0, 'pending', 0, now() FROM evinbox_internal.request WHERE id = 6},
	'evinbox_internal.endpoint_state' => q{INSERT INTO evinbox_internal.endpoint_state SELECT id, 1, now(), now() FROM evinbox.endpoint
		WHERE name = 'off'},
	'evinbox_internal.courier' => q{INSERT INTO evinbox_internal.courier VALUES (pg_current_snapshot())});
foreach my $table (sort keys %changes)
{
	my $offset = -s $subscriber->logfile;

	$source->safe_psql($db, "CREATE PUBLICATION one FOR TABLE $table WITH (publish_via_partition_root = true)");
	$subscriber->safe_psql($db,
		"CREATE SUBSCRIPTION one CONNECTION '$connection' PUBLICATION one WITH (copy_data = false)");
	$source->safe_psql($db, $changes{$table});
	ok($subscriber->wait_for_log(qr/cannot replicate table "\w+" of evinbox/, $offset), "$table is refused");
	$subscriber->safe_psql($db, 'DROP SUBSCRIPTION one');
	$source->safe_psql($db, 'DROP PUBLICATION one');
	is_sql($subscriber, $db, "SELECT count(*) FROM $table", '0', "$table: nothing is stored");
}

$source->safe_psql($_, 'DROP EXTENSION evinbox CASCADE') foreach ($db, 'copy');
is_healthy($_) foreach ($source, $target, $subscriber);
done_testing();
