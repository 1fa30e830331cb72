# Messages go out by TLS, to those only who prove that they are who is meant.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use EvinboxParties;
use EvinboxTest;

need_modules();
need_program('nginx');

my $authority = make_authority('authority');
make_authority('stranger');
make_certificate('right', 'authority', 'DNS:localhost, IP:127.0.0.1');
make_certificate('elsewhere', 'authority', 'DNS:elsewhere.test');
make_certificate('strange', 'stranger', 'DNS:localhost');

# Some versions of OpenSSL take a number of days below zero, others an end.
my $help = join '', run_command([ 'openssl', 'x509', '-help' ]);
make_certificate('expired', 'authority', 'DNS:localhost',
	$help =~ /-not_after/
	? ('-not_before', '20240101000000Z', '-not_after', '20240102000000Z')
	: ('-days', '-1'));

my $receiver = start_receiver();
my ($nginx, %port);
($nginx, @port{qw(right expired elsewhere strange own old middle new brief two)}) = start_nginx(
	$receiver,
	{ name => 'right' },
	{ name => 'expired' },
	{ name => 'elsewhere' },
	{ name => 'strange' },
	{ name => 'stranger' },
	{ name => 'right', options => 'ssl_protocols TLSv1.1; ssl_ciphers ALL:@SECLEVEL=0;' },
	{ name => 'right', options => 'ssl_protocols TLSv1.2;' },
	{ name => 'right', options => 'ssl_protocols TLSv1.3;' },
	{ name => 'right', options => 'keepalive_requests 3;' },
	{ name => 'right', listen => 'http2', options => 'keepalive_requests 7;' });

my $node = evinbox_node('main', <<'EOS');
evinbox.webhook_allow = '127.0.0.0/8'
log_min_messages = warning
EOS
my $db = 'app';

$node->safe_psql('postgres', "CREATE DATABASE $db TEMPLATE template0 ENCODING 'UTF8'");
$node->safe_psql($db, 'CREATE EXTENSION evinbox');

my %secrets;
foreach my $name (sort keys %port)
{
	$secrets{$name} = [
		add_endpoint($node, $db, $name, "https://localhost:$port{$name}/standard/$name", max_attempts => 1, timeout => '5 s') ];
}
set_secrets($receiver, %secrets);

sub tested
{
	my ($name) = @_;

	return $node->safe_psql($db, "SELECT evinbox.test_endpoint('$name')");
}

# -- without the authority, nobody is known --------------------------------------------

my $unknown = tested('right');
wait_for_attempts($node, $db, $unknown, '1 dead', 'an authority that is not known');
is(scalar received($receiver), 0, 'nothing is sent');

my ($courier) = pids_of($node, 'courier', $db);
$node->append_conf('postgresql.conf', "evinbox.webhook_ca_file = '$authority'");
$node->reload;
wait_for($node, 'postgres', "SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type = 'evinbox courier'"
	  . " AND pid <> $courier", 'another authority takes another courier');

# -- with it -----------------------------------------------------------------------------

foreach my $name (qw(right middle new))
{
	wait_for_attempts($node, $db, tested($name), '1 delivered 204', "$name: the message arrives");
}
is(scalar(grep { $_->{verified} } received($receiver)), 3, 'all are verified');
is_sql($node, $db, "SELECT count(*) FROM evinbox.webhook_attempt WHERE outcome = 'delivered'"
	  . " AND dns_ms <= connect_ms AND connect_ms < tls_ms AND tls_ms < first_byte_ms AND first_byte_ms <= total_ms"
	  . " AND address LIKE '127.0.0.1%'", '3', 'the times are in order');

forget($receiver);
my %fault = (
	expired => 'expired',
	elsewhere => 'match',
	strange => 'issuer',
	own => 'self',
	old => 'protocol',
);
foreach my $name (sort keys %fault)
{
	my $delivery = tested($name);

	wait_for_attempts($node, $db, $delivery, '1 dead', "$name: there is no call");
	my $error = $node->safe_psql($db, "SELECT error FROM evinbox.webhook_attempt WHERE delivery = $delivery");
	like($error, qr/$fault{$name}/i, "$name: and a reason");
}
is(scalar received($receiver), 0, 'none of them is sent anything');

# by its address, too
add_endpoint($node, $db, 'address', "https://127.0.0.1:$port{right}/plain/address", max_attempts => 1);
wait_for_attempts($node, $db, tested('address'), '1 delivered 204', 'an address in the certificate');

# -- many ------------------------------------------------------------------------------------

# By connections that are used again; that are closed after some requests each; and
# by those of HTTP/2.
foreach my $name (qw(new brief two))
{
	forget($receiver);
	$node->safe_psql($db, "SELECT count(evinbox.test_endpoint('$name')) FROM generate_series(1, 500)");
	my @many = wait_for_received($receiver, qr/$name/, 500, "$name: many");
	is(scalar(grep { $_->{verified} } @many), scalar @many, "$name: all are verified");
	is(scalar(keys %{ { map { $_->{headers}{'webhook-id'} => 1 } @many } }), 500, "$name: all of them arrive");
	wait_for($node, $db, "SELECT count(*) = 0 FROM evinbox.webhook_delivery WHERE state <> 'delivered' AND endpoint = '$name'",
		"$name: and are on record");
	note "$name: " . @many . ' requests, ' . $node->safe_psql($db,
		"SELECT count(*), count(*) FILTER (WHERE tls_ms > 0) FROM evinbox.webhook_attempt WHERE endpoint = '$name'");
}
is_sql($node, $db, "SELECT count(*) <= 20 FROM evinbox.webhook_attempt WHERE endpoint = 'new' AND tls_ms > 0", 't',
	'connections are used again');

# -- not without TLS ----------------------------------------------------------------------------

my ($status, $out, $err) =
  $node->psql($db, "INSERT INTO evinbox.endpoint (name, url) VALUES ('plain', 'http://127.0.0.1:$receiver->{port}/')");
like($err, qr/it is not encrypted/, 'an endpoint without TLS is refused');
set_conf($node, 'evinbox.webhook_allow_http', 'on');
add_endpoint($node, $db, 'plain', "http://127.0.0.1:$receiver->{port}/plain/plain", max_attempts => 1);
wait_for_attempts($node, $db, tested('plain'), '1 delivered 204', 'unless that is allowed');
set_conf($node, 'evinbox.webhook_allow_http', 'off');
forget($receiver);
wait_for_attempts($node, $db, tested('plain'), '1 dead', 'not after it is forbidden again');
is(scalar received($receiver), 0, 'nothing is sent');

is_healthy($node);
$node->stop;
done_testing();
