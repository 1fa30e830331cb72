# No message goes where its sender could not go, however that place is written, and
# whatever a name stands for. All addresses are this machine's own here: what is
# sent by mistake arrives in a trap, and nowhere else.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);
use EvinboxParties;
use EvinboxTest;

need_modules();
need_program('dnsmasq');
need_own_network();

my $trap = start_receiver('::', 80);
my $receiver = start_receiver('127.0.0.1');
my $hostile = start_hostile();
my $names = start_names();
my $port = $receiver->{port};

# What a server's environment says is not for messages.
my $proxy = 'http://169.254.0.1:80';
local @ENV{qw(http_proxy https_proxy HTTPS_PROXY all_proxy ALL_PROXY)} = ($proxy) x 5;
my $node = evinbox_node('main', <<'EOS');
evinbox.webhook_allow = '127.0.0.1'
evinbox.webhook_allow_http = on
log_min_messages = warning
EOS
my $db = 'app';

$node->safe_psql('postgres', "CREATE DATABASE $db TEMPLATE template0 ENCODING 'UTF8'");
$node->safe_psql($db, 'CREATE EXTENSION evinbox');

sub request
{
	my ($url) = @_;

	return $node->safe_psql($db, "SELECT evinbox.http_request('$url', '{}'::jsonb)");
}

sub error_of
{
	my ($delivery) = @_;

	return $node->safe_psql($db, "SELECT error FROM evinbox.webhook_attempt WHERE delivery = $delivery ORDER BY number DESC LIMIT 1");
}

# -- addresses --------------------------------------------------------------------

wait_for_attempts($node, $db, request("http://127.0.0.1:$port/plain/x"), '1 delivered 204', 'where it may go');

my %requests = map { $_ => request("http://$_/") } (
	qw(0.0.0.0 10.0.0.1 100.64.0.1 100.100.100.200 127.0.0.2 127.255.255.254 168.63.129.16 169.254.169.254
	  169.254.170.2 172.16.0.1 172.31.255.255 192.0.0.192 192.168.0.1 198.18.0.1 224.0.0.1 240.0.0.1
	  255.255.255.255),
	map { "[$_]" } qw(:: ::1 ::ffff:127.0.0.2 ::ffff:10.0.0.1 ::ffff:169.254.169.254 ::10.0.0.1 64:ff9b::a9fe:a9fe
	  64:ff9b:1::a9fe:a9fe 2002:a9fe:a9fe:: 2001:0:a9fe:a9fe:: fd00::1 fd00:ec2::254 fe80::1 fec0::1 ff02::1));
foreach my $address (sort keys %requests)
{
	wait_for_attempts($node, $db, $requests{$address}, '1 dead', "$address: the first attempt is the last");
	like(error_of($requests{$address}), qr/not allowed/, "$address: as it is not allowed");
}

# These are no addresses, or others than they seem to be.
foreach my $host ('2130706433', '0x7f000002', '0x7f.2', '0177.0.0.2', '127.2', '10.1', '169.254.43518',
	'127.0.0.2@127.0.0.1', '127.0.0.1%2f@10.0.0.1', '[fe80::1%25lo]', '[::ffff:a9fe:a9fe]', '127。0。0。2')
{
	my ($status, $out, $err) = $node->psql($db, "SELECT evinbox.http_request('http://$host/', '{}'::jsonb)");
	if ($status == 0)
	{
		wait_for_attempts($node, $db, $out, '1 dead', "$host: is not called");
	}
	else
	{
		like($err, qr/URL cannot be called/, "$host: is refused");
	}
}

# -- names --------------------------------------------------------------------------

my %addresses = (
	'metadata.test' => ['169.254.169.254'],
	'mapped.test' => ['::ffff:169.254.169.254'],
	'private.test' => [ '10.0.0.1', 'fd00::1' ],
	'six.test' => ['::1'],
);
foreach my $name (sort keys %addresses)
{
	$names->set($name => $addresses{$name});
	my $delivery = request("http://$name/");
	wait_for_attempts($node, $db, $delivery, '1 dead', "$name: the first attempt is the last");
	like(error_of($delivery), qr/not allowed/, "$name: as it is not allowed");
}
my $localhost = request('http://localhost:80/');
wait_for_attempts($node, $db, $localhost, qr/^1/, 'localhost may go to the one address that is allowed');

$names->set('both.test' => [ '127.0.0.1', '169.254.169.254' ]);
foreach (1 .. 10)
{
	wait_for_attempts($node, $db, request("http://both.test:$port/plain/both"), '1 delivered 204',
		"of two addresses, it takes the one that is allowed, $_");
}

# -- a name that stands for something else a moment later ---------------------------------

# Names are remembered for a while, by each courier for itself.
sub forget_names
{
	my ($pid) = pids_of($node, 'courier', $db);

	$node->safe_psql($db, "SELECT pg_terminate_backend($pid, 10000)");
}

$names->set('rebinding.test' => ['127.0.0.1']);
my $rebinding = "http://rebinding.test:$hostile->{port}/fleeting";
wait_for_attempts($node, $db, request($rebinding), '1 delivered 200', 'a name for what is allowed');
$names->set('rebinding.test' => ['169.254.169.254']);
wait_for_attempts($node, $db, request($rebinding), qr/\A1 (delivered 200|dead)\z/, 'and for something else');
forget_names();
wait_for_attempts($node, $db, request($rebinding), '1 dead', 'is not called then');

# what waits for its next attempt
$names->set('rebinding.test' => ['127.0.0.1']);
add_endpoint($node, $db, 'waiting', "http://rebinding.test:$port/standard/waiting", retries => '{2 s}');
forget_names();
my $waiting = $node->safe_psql($db, "SELECT evinbox.test_endpoint('waiting')");
wait_for_attempts($node, $db, $waiting, qr/\A1 retry 400/, 'an attempt fails');
$names->set('rebinding.test' => ['10.0.0.1']);
forget_names();
wait_for_attempts($node, $db, $waiting, qr/\A(\d+ retry 400, )+\d+ dead\z/, 'and the next one is not made where the name leads now');

# -- redirects, and proxies -----------------------------------------------------------------

wait_for_attempts($node, $db, request("http://127.0.0.1:$hostile->{port}/redirect"), qr/\A1 retry 307/, 'a redirect');

# -- names that nobody knows, or that nobody tells ------------------------------------------------

add_endpoint($node, $db, 'nobody', 'http://nobody.test/', max_attempts => 2);
wait_for_attempts($node, $db, $node->safe_psql($db, "SELECT evinbox.test_endpoint('nobody')"), '1 retry, 2 dead',
	'a name that does not exist may do so later');

# Each look-up takes longer than any of these may.
foreach my $silent (1 .. 20)
{
	add_endpoint($node, $db, "silent$silent", "http://number$silent.silent/", max_attempts => 2, timeout => '500 ms');
	$node->safe_psql($db, "SELECT evinbox.test_endpoint('silent$silent') FROM generate_series(1, 2)");
}
forget($receiver);
foreach (1 .. 40)
{
	request("http://127.0.0.1:$port/plain/meanwhile");
	usleep(50_000);
}
wait_for_received($receiver, qr/meanwhile/, 40, 'others are called');
wait_for($node, $db, "SELECT count(*) = 40 FROM evinbox.webhook_delivery WHERE endpoint LIKE 'silent%' AND state = 'dead'",
	'names that are looked up in vain are given up');
wait_for($node, $db, "SELECT count(*) = 40 FROM evinbox.webhook_delivery d JOIN evinbox.webhook_attempt a ON a.delivery = d.id"
	  . " WHERE d.endpoint IS NULL AND d.created_at > (SELECT max(created_at) FROM evinbox.webhook_delivery WHERE endpoint LIKE 'silent%')"
	  . " AND a.outcome = 'delivered' AND a.started_at - d.created_at < interval '2 s' AND a.total_ms < 2000",
	'they keep nobody waiting');

# -- a connection that was made before it was forbidden ---------------------------------------------

wait_for_attempts($node, $db, request("http://127.0.0.1:$port/plain/x"), '1 delivered 204', 'a connection');
$node->append_conf('postgresql.conf', "evinbox.webhook_allow = '10.9.0.0/16'");
$node->reload;
wait_for($node, 'postgres', "SELECT current_setting('evinbox.webhook_allow') = '10.9.0.0/16'", 'a change of what is allowed');
my $kept;
foreach (1 .. 20)    # the courier may learn of it a moment later
{
	forget($receiver);
	$kept = request("http://127.0.0.1:$port/plain/x");
	wait_for_attempts($node, $db, $kept, qr/^1/, 'a request');
	last if attempts($node, $db, $kept) eq '1 dead';
}
is(attempts($node, $db, $kept), '1 dead', 'is not used after that is forbidden');
is(scalar received($receiver), 0, 'nothing comes of it');

# -- the trap works -------------------------------------------------------------------------------------

is(join(' ', grep { $_ ne '::ffff:127.0.0.1' } connections($trap)), '', 'until now nobody was caught');
wait_for_attempts($node, $db, request('http://10.9.8.7/plain/x'), '1 delivered 204', 'what is allowed is done');
is(scalar(grep { $_ eq '::ffff:10.9.8.7' } connections($trap)), 1, 'and caught');

my $stopped = time;
$node->safe_psql($db, "SELECT evinbox.http_request('http://last.silent/', '{}'::jsonb)");
is_healthy($node);
$node->stop;
cmp_ok(time - $stopped, '<', 8, 'a look-up does not keep the server from stopping');
done_testing();
