# What was sent is kept in partitions by the day, which come and go by themselves.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use EvinboxReceiver;
use EvinboxTest;

my $node = evinbox_node('main', <<'EOS');
log_min_messages = warning
evinbox.webhook_allow = '127.0.0.0/8'
evinbox.webhook_allow_http = on
EOS
my $db = 'app';
my $receiver = EvinboxReceiver->new($node->basedir);

$node->safe_psql('postgres', "CREATE DATABASE $db");
install_evinbox($node, $db);

sub keep_for
{
	my ($time) = @_;

	$node->safe_psql('postgres', "ALTER SYSTEM SET evinbox.webhook_log_retention = '$time'");
	$node->reload;
}

# -- ahead ---------------------------------------------------------------------------

my $partitions = "SELECT count(*) FROM pg_inherits WHERE inhparent = ANY"
  . " ('{evinbox_internal.request,evinbox_internal.webhook_attempt}'::regclass[])";
wait_for($node, $db, "SELECT ($partitions) = 8", 'there are partitions for three days ahead');
is_sql($node, $db, <<'EOQ', '2|t', 'tomorrow has its own');
SELECT count(*), bool_and(c.oid = ANY (e.extconfig)) FROM pg_class c, pg_extension e
WHERE extname = 'evinbox' AND relkind = 'r' AND relname IN
	(SELECT t || to_char(now() AT TIME ZONE 'UTC' + interval '1 day', '"_"YYYYMMDD') FROM unnest('{request,webhook_attempt}'::text[]) t)
EOQ
$node->safe_psql($db, <<"EOS");
INSERT INTO evinbox.endpoint (name, url, retries, max_attempts)
VALUES ('fine', '@{[ $receiver->url('/fine') ]}', '{50 ms}', 5),
	('later', '@{[ $receiver->url('/status/500') ]}', '{1 h}', 5),
	('bad', '@{[ $receiver->url('/status/500?bad') ]}', '{1 h}', 1);
SELECT evinbox.http_request(name, 'x'::text) FROM evinbox.endpoint;
EOS
wait_for($node, $db, 'SELECT count(*) = 3 FROM evinbox_internal.webhook_attempt', 'requests are sent');

# -- and back --------------------------------------------------------------------------

# Partitions as they would be there had the extension been here for long.  What is
# moved there is as old as its partition.
sub make_old
{
	my ($day) = @_;
	my $name = $day =~ s/-//gr;

	$node->safe_psql($db, "CREATE TABLE evinbox_internal.${_}_$name PARTITION OF evinbox_internal.$_"
		  . " FOR VALUES FROM ('$day 00:00:00+00') TO (timestamptz '$day 00:00:00+00' + '1 day');"
		  . " ALTER EXTENSION evinbox ADD TABLE evinbox_internal.${_}_$name")
	  foreach qw(request webhook_attempt);
}

sub move
{
	my ($endpoint, $day) = @_;

	$node->safe_psql($db, <<"EOS");
UPDATE evinbox_internal.request_waiting SET created_at = '$day 12:00:00+00'
	WHERE endpoint_id = (SELECT id FROM evinbox.endpoint WHERE name = '$endpoint');
UPDATE evinbox_internal.webhook_attempt SET started_at = '$day 12:00:00+00'
	WHERE endpoint_id = (SELECT id FROM evinbox.endpoint WHERE name = '$endpoint');
UPDATE evinbox_internal.request SET created_at = '$day 12:00:00+00'
	WHERE endpoint_id = (SELECT id FROM evinbox.endpoint WHERE name = '$endpoint');
EOS
}

wait_for($node, $db, 'SELECT bool_and(pg_visible_in_snapshot(xid, done)) FROM evinbox_internal.request, evinbox_internal.courier',
	'the position is stored');
make_old($_) foreach '2020-01-01', '2020-01-02', '2020-01-03';
move('bad', '2020-01-01');
move('later', '2020-01-02');
move('fine', '2020-01-03');
keep_for('1d');
my $old = "SELECT string_agg(relname, ' ' ORDER BY relname) FROM pg_class WHERE relkind = 'r' AND relname LIKE '%_2020010_'";
wait_for($node, $db, "SELECT ($old) = 'request_20200102 webhook_attempt_20200102 webhook_attempt_20200103'",
	'old partitions go, but for one with a request that waits, and attempts from then on');
wait_for($node, $db, "SELECT string_agg(state, ' ') = 'retry' FROM evinbox_internal.request_waiting",
	'dead letters go with their requests');

sub deliver_later
{
	$node->safe_psql($db, "UPDATE evinbox.endpoint SET url = '@{[ $receiver->url('/fine') ]}' WHERE name = 'later'");
	$node->safe_psql($db, 'UPDATE evinbox_internal.request_waiting SET next_at = now()');
	$node->safe_psql($db, "SELECT pg_terminate_backend(pid) FROM evinbox.worker_status WHERE kind = 'courier'");
	wait_for($node, $db, 'SELECT count(*) = 0 FROM evinbox_internal.request_waiting', 'it is delivered');
}

deliver_later();
keep_for('2d');
wait_for($node, $db, "SELECT ($old) IS NULL", 'and then they go, too');

# -- the default partition ------------------------------------------------------------------

$node->safe_psql($db, "SELECT evinbox.http_request('fine', 'x'::text) FROM generate_series(1, 3)");
$receiver->wait_for('/fine', 5, 'more requests');
wait_for($node, $db, 'SELECT bool_and(pg_visible_in_snapshot(xid, done)) FROM evinbox_internal.request, evinbox_internal.courier',
	'the position is stored again');
keep_for('3d');
is_sql($node, $db, 'SELECT count(*) FROM evinbox_internal.request_default', '3', 'the default partition is kept');
$node->safe_psql($db, "UPDATE evinbox_internal.request SET created_at = '2020-01-01';"
	  . "UPDATE evinbox_internal.webhook_attempt SET started_at = '2020-01-01'");
keep_for('4d');
wait_for($node, $db, "SELECT pg_relation_size('evinbox_internal.request_default') = 0"
	  . " AND pg_relation_size('evinbox_internal.webhook_attempt_default') = 0", 'and emptied when all in it has expired');

# One that waits there keeps its attempts: they are what tells that it was sent.
$node->safe_psql($db, "UPDATE evinbox.endpoint SET url = '@{[ $receiver->url('/status/500') ]}' WHERE name = 'later';"
	  . "SELECT evinbox.http_request('later', 'x'::text)");
wait_for($node, $db, "SELECT count(*) = 1 FROM evinbox_internal.request_waiting WHERE state = 'retry'", 'one waits');
wait_for($node, $db, 'SELECT bool_and(pg_visible_in_snapshot(xid, done)) FROM evinbox_internal.request, evinbox_internal.courier',
	'the position is stored once more');
make_old('2020-01-10');
move('later', '2020-01-15');
keep_for('5d');
wait_for($node, $db, "SELECT count(*) = 0 FROM pg_class WHERE relname LIKE '%_20200110'", 'what is older goes');
is_sql($node, $db, 'SELECT (SELECT count(*) FROM evinbox_internal.request_default), count(*) FROM evinbox_internal.webhook_attempt_default',
	'1|1', 'a request that waits in the default partition stays, and its attempt');
deliver_later();
$node->safe_psql($db, "UPDATE evinbox_internal.webhook_attempt SET started_at = '2020-01-16'");
keep_for('6d');
wait_for($node, $db, "SELECT pg_relation_size('evinbox_internal.request_default') = 0"
	  . " AND pg_relation_size('evinbox_internal.webhook_attempt_default') = 0", 'and then they go, too');

# -- somebody who reads -----------------------------------------------------------------------

make_old('2020-02-01');
my $reader = $node->background_psql($db);
$reader->query_safe('BEGIN; SELECT count(*) FROM evinbox_internal.request');
keep_for('7d');
foreach (1 .. 10)
{
	$node->safe_psql($db, "SELECT evinbox.http_request('fine', 'x'::text)");
}
$receiver->wait_for('/fine', 16, 'nobody waits for a partition that cannot be dropped now');

# with nothing else to do, the coordinator tries again ever more rarely
my $transactions = "SELECT xact_commit FROM pg_stat_database WHERE datname = '$db'";
my $before = $node->safe_psql($db, "SELECT pg_sleep(1); $transactions") =~ s/\n//gr;
my $after = $node->safe_psql($db, "SELECT pg_sleep(2); $transactions") =~ s/\n//gr;
cmp_ok($after - $before, '<', 100, 'and the coordinator rests');
is_sql($node, $db, "SELECT count(*) FROM pg_class WHERE relname LIKE 'webhook_attempt_20200201'", '1',
	'attempts stay as long as their requests');
$reader->query_safe('COMMIT');
$reader->quit;
wait_for($node, $db, "SELECT count(*) = 0 FROM pg_class WHERE relname LIKE '%_20200201'", 'it goes afterwards');

is_healthy($node);
$node->stop;
done_testing();
