# Endpoints that hang, have a rate, or get very much: each at its pace, and in no
# other's way.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
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

# -- one that hangs ------------------------------------------------------------------------

add_endpoint('hanging', url => $receiver->url('/hang'), timeout => '10 min', max_in_flight => 200);
add_endpoint("fine$_") foreach 1 .. 9;
$node->safe_psql($db, "SELECT count(evinbox.http_request('hanging', g::text)) FROM generate_series(1, 300) g");
$node->safe_psql($db, "SELECT count(evinbox.http_request('fine' || (g % 9 + 1), g::text)) FROM generate_series(1, 900) g");
$receiver->wait_for("/fine$_", 100, "fine$_ gets all") foreach 1 .. 9;
cmp_ok(scalar $receiver->received('/hang'), '<=', 99, 'a place is left free');
cmp_ok(scalar $receiver->received('/hang'), '>=', 40, 'others are used');

wait_for($node, $db, "SELECT count(*) = 300 FROM evinbox_internal.request_waiting w JOIN evinbox.endpoint e ON e.id = w.endpoint_id"
	  . " WHERE e.name = 'hanging' AND w.state = 'pending'", 'what takes long is put on record');
wait_for($node, $db, 'SELECT bool_and(pg_visible_in_snapshot(xid, done)) FROM evinbox_internal.request, evinbox_internal.courier',
	'and does not hold the position');

# -- rates -----------------------------------------------------------------------------------

add_endpoint('slow', rate => 5, rate_per => '300 ms');
$node->safe_psql($db, "SELECT count(evinbox.http_request('slow', g::text)) FROM generate_series(1, 20) g");
$receiver->wait_for('/slow', 20, 'an endpoint with a rate gets all');
my @slow = map { $_->{t} } $receiver->received('/slow');
cmp_ok($slow[5 * $_] - $slow[5 * ($_ - 1)], '>=', 0.25, "not more in a time than it may, $_") foreach 1 .. 3;

# -- many at once -----------------------------------------------------------------------------

$node->safe_psql($db, "SELECT count(evinbox.http_request('fine1', g::text)) FROM generate_series(1, 6000) g");
$receiver->wait_for('/fine1', 6100, 'more than there is room for in memory');
wait_for($node, $db, "SELECT count(*) = 6000 + 100 FROM evinbox_internal.webhook_attempt a"
	  . " JOIN evinbox.endpoint e ON e.id = a.endpoint_id WHERE e.name = 'fine1' AND outcome = 'delivered'",
	'each is on record');
is(scalar $receiver->received('/fine1'), 6100, 'each is sent once');

is_healthy($node);
$node->stop;
done_testing();
