# Whatever those that are called do, it costs them their own messages only, and
# evinbox nothing but a bounded time and memory.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use EvinboxParties;
use EvinboxTest;

need_program('node');

my $hostile = start_hostile();
my $base = "http://127.0.0.1:$hostile->{port}";
my $node = evinbox_node('main', <<'EOS');
evinbox.webhook_allow = '127.0.0.0/8'
evinbox.webhook_allow_http = on
log_min_messages = warning
EOS
my $db = 'app';

$node->safe_psql('postgres', "CREATE DATABASE $db TEMPLATE template0 ENCODING 'UTF8'");
$node->safe_psql($db, 'CREATE EXTENSION evinbox');

# Each has an endpoint of its own, and one attempt.
sub request
{
	my ($path) = @_;

	(my $name = $path) =~ s/\W/_/g;
	add_endpoint($node, $db, $name, "$base/$path", max_attempts => 1, timeout => '1 s');
	return $node->safe_psql($db, "SELECT evinbox.http_request('$name', '{}'::jsonb)");
}

# -- one by one ---------------------------------------------------------------------

my %expected = (
	reset => '1 dead',
	empty => '1 dead',
	half => '1 dead 200',
	silence => '1 dead',
	slow_headers => '1 dead 200',
	slow_body => '1 dead 200',
	endless_chunks => '1 delivered 200',
	endless_body => '1 delivered 200',
	endless_header => qr/\A1 dead( 200)?\z/,
	interim_flood => qr/\A1 dead( 103)?\z/,
	garbage => '1 dead',
	bad_chunk => '1 dead 200',
	two_lengths => qr/\A1 (dead|delivered) 200\z/,
	zeroes => '1 dead 500',
	redirect => '1 dead 307',
	redirect_here => '1 dead 302',
	'headers/100' => '1 delivered 200',
	'headers/10000' => '1 dead 200',
	'size/65535' => '1 delivered 200',
	'size/65536' => '1 delivered 200',
	'size/65537' => '1 delivered 200',
	'size/1048575' => '1 delivered 200',
	'size/1048576' => '1 delivered 200',
	'size/1048577' => '1 delivered 200',
	'chunked/65536' => '1 delivered 200',
	'chunked/65537' => '1 delivered 200',
	'chunked/1048577' => '1 delivered 200',
	'status/100' => '1 dead 100',
	'status/101' => qr/\A1 dead( 101)?\z/,
	'status/204' => '1 delivered 204',
	'status/299' => '1 delivered 299',
	'status/304' => '1 dead 304',
	'status/401' => '1 dead 401',
	'status/599' => '1 dead 599',
	'status/999' => '1 dead 999',
);
my %deliveries = map { $_ => request($_) } sort keys %expected;
my ($courier) = pids_of($node, 'courier', $db);

wait_for_attempts($node, $db, $deliveries{$_}, $expected{$_}, $_) foreach sort keys %expected;
is_sql($node, $db, 'SELECT max(total_ms) < 3000 FROM evinbox.webhook_attempt', 't', 'none of them has taken long');
is_sql($node, $db, 'SELECT max(octet_length(answer)) FROM evinbox.webhook_attempt', '4096', 'so much is kept of an answer');
is_sql($node, $db, "SELECT count(*) FROM evinbox.webhook_attempt WHERE outcome = 'dead' AND coalesce(error, '') = ''",
	'0', 'each failure has a reason');
is(join(' ', map { $_->{path} } grep { $_->{path} =~ /fine|meta-data/ } received($hostile)), '', 'redirects lead nowhere');
my %called = map { $_->{path} => 1 } received($hostile);
is(scalar(keys %called), scalar(keys %expected), 'each was called');

my $fine = request('fine');
wait_for_attempts($node, $db, $fine, '1 delivered 200', 'others are called');
is(join(' ', pids_of($node, 'courier', $db)), $courier, 'by the same process');

# -- those that do not want to hear all of it -----------------------------------------

add_endpoint($node, $db, $_, "$base/$_", max_attempts => 1, timeout => '1 s') foreach qw(early deaf);
my %large = map { $_ => $node->safe_psql($db, "SELECT evinbox.http_request('$_', repeat('x', 1048576))") } qw(early deaf);
wait_for_attempts($node, $db, $large{early}, qr/\A1 dead( 413)?\z/, 'an answer before the end of the request');
wait_for_attempts($node, $db, $large{deaf}, '1 dead', 'a request that is not read');

# -- pauses that nobody can mean ----------------------------------------------------------

# In seconds, or none: then it is the endpoint's own 30, more or less.
my %pause = (
	'99999999999999999999' => 86400,
	'Fri, 31 Dec 9999 23:59:59 GMT' => 86400,
	'86401' => 86400,
	'3600' => 3600,
	'-5' => undef,
	'0' => undef,
	'Fri, 31 Dec 1999 23:59:59 GMT' => undef,
	'soon' => undef,
	'1e9' => undef,
	'' => undef,
);
my $number = 0;
foreach my $text (sort keys %pause)
{
	my $name = 'pause' . ++$number;
	my ($least, $most) = defined $pause{$text} ? ($pause{$text} - 2, $pause{$text} + 2) : (20, 40);

	(my $encoded = $text) =~ s/([^A-Za-z0-9])/sprintf '%%%02x', ord $1/ge;
	add_endpoint($node, $db, $name, "$base/retry_after/$encoded", retries => '{30 s}', max_attempts => 3);
	wait_for_attempts($node, $db, $node->safe_psql($db, "SELECT evinbox.test_endpoint('$name')"), '1 retry 503', "Retry-After: $text");
	is_sql($node, $db, "SELECT extract(epoch FROM next_at - last_attempt_at) BETWEEN $least AND $most FROM evinbox.webhook_delivery"
		  . " WHERE endpoint = '$name'", 't', "Retry-After: $text: when it is tried again");
	is_sql($node, $db, "SELECT state, extract(epoch FROM closed_until - now()) BETWEEN $least - 15 AND $most FROM evinbox.endpoint_status"
		  . " WHERE name = '$name'", 'closed|t', "Retry-After: $text: and the endpoint");
}

# -- connections that are closed just as they are used again -------------------------

# What a request that was not answered may have done, is not known: it may be made
# twice. But none is lost, and each of them is known by its id.
foreach my $path (qw(fleeting race close_after/1 close_after/5))
{
	my $count = 200;

	(my $name = $path) =~ s/\W/_/g;
	add_endpoint($node, $db, $name, "$base/$path", max_in_flight => 3, max_attempts => 20, retries => '{20 ms}',
		format => 'standard');
	forget($hostile);
	$node->safe_psql($db, "SELECT count(evinbox.test_endpoint('$name')) FROM generate_series(1, $count)");
	wait_for($node, $db, "SELECT count(*) = $count FROM evinbox.webhook_delivery"
		  . " WHERE endpoint = '$name' AND state = 'delivered'", "$path: all arrive");
	my %ids = map { $_->{headers}{'webhook-id'} => 1 } received($hostile);
	is(scalar(keys %ids), $count, "$path: each with an id of its own");
	note "$path: " . received($hostile) . " requests, " . $node->safe_psql($db,
		"SELECT count(*) FROM evinbox.webhook_attempt WHERE endpoint = '$name'") . ' attempts';
}

# -- many at once, and memory ---------------------------------------------------------

sub memory_kb
{
	slurp_file("/proc/$courier/status") =~ /^RssAnon:\s+(\d+) kB/m or die 'no courier';
	return $1;
}

sub descriptors
{
	return scalar(() = glob "/proc/$courier/fd/*");
}

my @misdeeds = qw(endless_chunks endless_body endless_header interim_flood size_1048577 headers_10000);

my $these = join ', ', map { "'$_'" } @misdeeds;
my $before = memory_kb();
$node->safe_psql($db, "SELECT count(evinbox.http_request(name, '{}'::jsonb)) FROM evinbox.endpoint,"
	  . " generate_series(1, 10) WHERE name IN ($these)");
wait_for($node, $db, "SELECT count(*) = 66 FROM evinbox.webhook_delivery WHERE endpoint IN ($these) AND state IN ('dead', 'delivered')",
	'many that never end do, all at once');
note "$before kB before, " . memory_kb() . ' kB after';
cmp_ok(memory_kb() - $before, '<', 30_000, 'and do not fill the memory');
cmp_ok(descriptors(), '<', 150, 'nor keep connections open');
is(join(' ', pids_of($node, 'courier', $db)), $courier, 'all by one process');

is_healthy($node);
$node->stop;
done_testing();
