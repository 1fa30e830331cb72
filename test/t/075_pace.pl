# Endpoints that take nothing, with much that waits for them: they cost nothing, and
# keep nobody else waiting.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);
use EvinboxReceiver;
use EvinboxTest;

my $node = evinbox_node('main', <<'EOS');
evinbox.webhook_allow = '127.0.0.0/8'
evinbox.webhook_allow_http = on
log_min_messages = warning
EOS
my $db = 'app';
my $receiver = EvinboxReceiver->new($node->basedir);

$node->safe_psql('postgres', "CREATE DATABASE $db");
install_evinbox($node, $db);

sub add_endpoint
{
	my ($name, @columns) = @_;

	$receiver->add_endpoint($node, $db, $name, @columns);
}

# the courier's, in seconds
sub cpu_time
{
	my ($pid) = pids_of($node, 'courier', $db);
	my @fields = split / /, slurp_file("/proc/$pid/stat") =~ s/^.*\) //sr;

	return ($fields[11] + $fields[12]) / 100;
}

# what the courier has allocated
sub memory
{
	my ($pid) = pids_of($node, 'courier', $db);
	my $from = -s $node->logfile;
	my $log = '';

	$node->safe_psql($db, "SELECT pg_log_backend_memory_contexts($pid)");
	foreach (1 .. 100 * $PostgreSQL::Test::Utils::timeout_default)
	{
		$log = slurp_file($node->logfile, $from);
		last if $log =~ /Grand total: (\d+) bytes/;
		usleep(10_000);
	}
	$log =~ /Grand total: (\d+) bytes/ or die 'the courier does not tell';
	return $1;
}

# -- large bodies wait for an endpoint that hangs -----------------------------------------

add_endpoint('hanging', url => $receiver->url('/hang'), timeout => '10 min', max_in_flight => 1);
add_endpoint('flaky', url => $receiver->url('/flaky/1'));
$node->safe_psql($db, "SELECT count(evinbox.http_request('hanging', repeat('x', 1000000))) FROM generate_series(1, 40) g");
$receiver->wait_for('/hang', 1, 'an endpoint hangs');

my $before = cpu_time();
my $started = time;
$node->safe_psql($db, "SELECT count(evinbox.http_request('flaky', g::text)) FROM generate_series(1, 4) g");
$receiver->wait_for('/flaky/1', 8, 'another one is served, retries included');
cmp_ok(time - $started, '<', 5, 'without delay');
usleep(100_000) while time - $started < 3;
cmp_ok(cpu_time() - $before, '<', 0.5 * (time - $started), 'and there is no work with what cannot be sent');

# -- many endpoints are closed when they have queues in memory ----------------------------

my $empty = memory();
add_endpoint("closing$_", url => $receiver->url("/pause/4/1/$_"), max_in_flight => 1) foreach 1 .. 12;
$node->safe_psql($db, "SELECT count(evinbox.http_request('closing' || g, 'x'::text)) FROM generate_series(1, 12) g");
$receiver->wait_for("/pause/4/1/$_", 1, "endpoint $_ is closed") foreach 1 .. 12;
wait_for($node, $db, "SELECT count(*) = 12 FROM evinbox_internal.endpoint_state s JOIN evinbox.endpoint e ON e.id = s.endpoint_id"
	  . " WHERE e.name ~ '^closing' AND s.closed_until > now()", 'all are');
$node->safe_psql($db, "SELECT count(evinbox.http_request('closing' || g, repeat('x', 500000)))"
	  . " FROM generate_series(1, 12) g, generate_series(1, 6)");
wait_for($node, $db, "SELECT count(*) = 6 * 12 FROM evinbox_internal.request_waiting w JOIN evinbox.endpoint e ON e.id = w.endpoint_id"
	  . " WHERE e.name ~ '^closing' AND w.state = 'pending'", 'what comes then stands aside');

# they do not lead where they did, before they open again
$node->safe_psql($db, "UPDATE evinbox.endpoint SET url = replace(url, '/4/', '/600/') WHERE name ~ '^closing'");
$receiver->wait_for("/pause/600/1/$_", 1, "endpoint $_ is closed again") foreach 1 .. 12;
wait_for($node, $db, "SELECT count(*) = 12 FROM evinbox_internal.endpoint_state s JOIN evinbox.endpoint e ON e.id = s.endpoint_id"
	  . " WHERE e.name ~ '^closing' AND s.closed_until > now() + interval '5 minutes'",
	'for longer');
my $held;
foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
{
	$held = memory() - $empty;
	last if $held < 10_000_000;
	usleep(100_000);
}
cmp_ok($held, '<', 10_000_000, 'nothing of that stays in memory');

add_endpoint('fine');
$started = time;
$node->safe_psql($db, "SELECT count(evinbox.http_request('fine', g::text)) FROM generate_series(1, 500) g");
$receiver->wait_for('/fine', 500, 'an endpoint that works gets all');
cmp_ok(time - $started, '<', 5, 'without delay');

# -- a pause that nobody has asked for by name -----------------------------------------------

add_endpoint('busy', url => $receiver->url('/status/503'), retries => '{1 day}');
$node->safe_psql($db, "SELECT evinbox.http_request('busy', 'x'::text)");
wait_for($node, $db, "SELECT s.closed_until < now() + interval '11 minutes' FROM evinbox_internal.endpoint_state s"
	  . " JOIN evinbox.endpoint e ON e.id = s.endpoint_id WHERE e.name = 'busy'",
	'an endpoint that does not say for how long is not closed for as long as a request waits');

# -- a predecessor has done all ---------------------------------------------------------------

sub wait_for_position
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return wait_for($node, $db,
		'SELECT bool_and(pg_visible_in_snapshot(xid, done)) FROM evinbox_internal.request, evinbox_internal.courier', $name);
}

wait_for_position('the position passes what is done with');
my ($pid) = pids_of($node, 'courier', $db);
$node->safe_psql($db, "UPDATE evinbox_internal.courier SET done = '3:3:'; SELECT pg_terminate_backend($pid)");
wait_for_position('a successor finds that out again');

# -- very much without an endpoint --------------------------------------------------------------

$node->safe_psql($db, "SELECT count(evinbox.http_request('@{[ $receiver->url('/hang') ]}', 'x'::text)) FROM generate_series(1, 25000) g");
wait_for($node, $db, "SELECT max(next_at) > now() + interval '14 seconds' FROM evinbox_internal.request_waiting WHERE endpoint_id = 0",
	'what has no place comes back the later, the more there is of it');

is_healthy($node);
$node->stop;
done_testing();
