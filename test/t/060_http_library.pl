# The library that calls the outside: calls that go well, what they send, and that
# many of them cost nothing that stays.

use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);
use EvinboxTest;
use EvinboxHttp;

# Tells in the body what it was asked, and on which of its connections.
my $echo = start_server(
	sub {
		my ($socket) = @_;

		while (my $request = read_request($socket))
		{
			my ($status) = $request->{path} =~ m{/status/(\d+)};

			usleep(200_000) if $request->{path} =~ m{/slow/};
			answer($socket, $status // 200, "$$ $request->{head}$request->{body}",
				$request->{path} =~ m{/after/(.*)$} ? 'Retry-After: ' . $1 =~ s/%20/ /gr : ());
		}
	});
my $url = "http://127.0.0.1:$echo";
my $driver = start_driver(allow => '127.0.0.0/8', max_connections => 10);

# -- one call ---------------------------------------------------------------------

my $result = call_now(
	$driver,
	url => "$url/hook?a=b",
	header => [ 'Content-Type: application/json', 'X-One: 1', 'X-Empty:', 'X-Two:	a b ' ],
	body => '{"test": 1}');
like_result($result,
	{ code => 0, status => 200, is_refused => 0, retry_after => -1, address => '127.0.0.1', error => '-' },
	'a call is answered');
like($result->{answer}, qr{ POST /hook\?a=b HTTP/1\.1\r\n}, 'it asks for what it should');
like($result->{answer}, qr/\r\nHost: 127\.0\.0\.1:$echo\r\n/, 'of whom it should');
like($result->{answer}, qr/\r\nUser-Agent: evinbox-test\r\n/, 'as whom it should');
$result = call_now($driver, url => "$url/", header => [ 'X-One: 1', 'X-Empty:', "X-Two: a b" ]);
like($result->{answer}, qr/\r\nX-One: 1\r\n/, 'headers arrive');
like($result->{answer}, qr/\r\nX-Empty:\r\n/, 'also one without a value');
unlike($result->{answer}, qr/Content-Type/, 'and no type that nobody has said');
cmp_ok($result->{total}, '>', 0, 'it has taken time');
cmp_ok($result->{first_byte}, '>', 0, 'also until the first byte');
like_result($result, { dns => -1, connect => -1, tls => -1 }, 'none to connect, the second time');
like_result(call_now($driver, url => "http://localhost:$echo/"), { status => 200, tls => -1 },
	'a name will do');

foreach my $method (qw(GET PUT PATCH DELETE POST OPTIONS))
{
	my $result = call_now($driver, url => "$url/x", method => $method,
		$method =~ /^P/ ? (body => 'b') : ());

	like($result->{answer}, qr/^\d+ $method /, $method);
	($method =~ /^P/ ? \&like : \&unlike)->($result->{answer}, qr/Content-Length: 1\r/, "its length");
}
like_result(call_now($driver, url => "$url/", method => 'HEAD'), { status => 200, code => 0, answer_length => 0 },
	'HEAD');
$result = call_now($driver, url => "$url/", body_size => 3_000_000);
like_result($result, { code => 0, status => 200, answer_length => 4096 },
	'a large body is sent, and the same as an answer is not read to its end');
unlike($result->{answer}, qr/Expect/, 'nobody is asked whether it is welcome');

# -- answers ------------------------------------------------------------------------

foreach my $status (200, 204, 400, 404, 410, 429, 500, 503)
{
	like_result(call_now($driver, url => "$url/status/$status", method => 'GET'),
		{ code => 0, status => $status, error => '-' }, "an answer of $status is an answer");
}
like_result(call_now($driver, url => "$url/status/503/after/120"), { status => 503, retry_after => 120 },
	'Retry-After in seconds');
like_result(call_now($driver, url => "$url/status/503/after/99999999999999999999"),
	{ retry_after => 2147483647 }, 'of ever so many');
my $later = POSIX::strftime('%a, %d %b %Y %H:%M:%S GMT', gmtime(time + 100)) =~ s/ /%20/gr;
like_result(call_now($driver, url => "$url/status/429/after/$later"), { retry_after => qr/^(9\d|100)$/ },
	'or as a date');
like_result(call_now($driver, url => "$url/after/Wed,%2001%20Jan%202020%2000:00:00%20GMT"),
	{ retry_after => 0 }, 'which may be over');
like_result(call_now($driver, url => "$url/after/soon"), { retry_after => -1 }, 'or nonsense');

# -- connections ----------------------------------------------------------------------

my %connections;
foreach (1 .. 20)
{
	my ($connection) = call_now($driver, url => "$url/")->{answer} =~ /^(\d+)/;
	$connections{$connection}++;
}
is(scalar keys %connections, 1, 'a connection is used again and again');

my (undef, undef, $before) = wait_for_calls($driver);
call($driver, tag => $_, url => "$url/slow/$_") foreach 1 .. 50;
my ($results, undef, $end) = wait_for_calls($driver);
is(scalar(grep { $_->{status} == 200 } values %$results), 50, 'many calls at once');
is(scalar(grep { $results->{$_}{answer} =~ m{ POST /slow/$_ } } keys %$results), 50, 'have their own answers');
is($end->{signals_blocked}, 1, 'with all signals blocked');
cmp_ok($end->{descriptors}, '<=', $before->{descriptors} + 10, 'and only some connections are kept');
call($driver, tag => $_, url => "$url/slow/$_") foreach 1 .. 10;
($results) = wait_for_calls($driver);
is(scalar(grep { $_->{connect} == -1 } values %$results), 10, 'as many as was said');

# One that answers once a connection, and hangs up without saying so.
my $once = start_server(sub { answer($_[0], 200, 'once') if read_request($_[0]) });
is(scalar(grep { call_now($driver, url => "http://127.0.0.1:$once/")->{status} == 200 } 1 .. 10),
	10, 'a connection that was closed meanwhile is made again');

# -- what cannot be called -----------------------------------------------------------

foreach my $header ("X: a\r\nHost: b", "X: a\nb", "X: a\x01", 'X', ': a', 'X Y: a', "X\n: a", "X: \x7f")
{
	like_result(call_now($driver, url => "$url/", header => $header),
		{ word => 'refused', error => qr/^not a header$|control/ },
		'no header is ' . EvinboxHttp::escape($header));
}
foreach my $name (qw(Host Content-Length transfer-encoding Connection Expect TE Trailer Upgrade))
{
	like_result(call_now($driver, url => "$url/", header => "$name: a"),
		{ word => 'refused', error => 'header is reserved' }, "the header $name is not the caller's");
}
foreach my $method ('', 'post', 'CONNECT', 'TRACE', 'GET /', "GET\r\nX: a")
{
	like_result(call_now($driver, url => "$url/", method => $method), { word => 'refused' },
		'no method is ' . EvinboxHttp::escape($method));
}
like_result(call_now($driver, url => "$url/", timeout => 0), { word => 'refused' }, 'no call is without a timeout');
like_result(call_now($driver, url => "$url/", allow_http => 0),
	{ word => 'refused', error => 'URL does not begin with https://' }, 'no call is without TLS');
is((wait_for_calls($driver))[2]{ms}, 0, 'none of these has been made');

# -- signatures ---------------------------------------------------------------------

sub sign_of
{
	my ($kind, $key, @message) = @_;
	my ($line) = ask($driver, 'sign', map { \$_ } $kind, unpack('H*', $key), @message);

	return $line =~ s/^sign\t//r;
}

use MIME::Base64;
my @vector = ('msg_p5jXN8AQM9LWM0D4loKWxJek', 1614265330, '{"test": 2432232314}');
is(sign_of('v1', decode_base64('MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'), @vector),
	'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=', 'the published signature');
is(sign_of('v1', '', @vector), '-', 'no key, no signature');
is(sign_of('v2', 'x' x 32, @vector), '-', 'nor one of a kind that there is not');

# openssl has to agree on what Ed25519 makes of "id.timestamp.body".
my $seed = pack('H*', '9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60');
my $public = pack('H*', 'd75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a');
my $directory = PostgreSQL::Test::Utils::tempdir();
my $signature = sign_of('v1a', $seed, @vector);
append_to_file("$directory/public.der", pack('H*', '302a300506032b6570032100') . $public);
append_to_file("$directory/message", join('.', @vector));
append_to_file("$directory/signature", decode_base64($signature =~ s/^v1a,//r));
like($signature, qr{^v1a,[A-Za-z0-9+/]{86}==$}, 'an Ed25519 signature');
my ($seen) = run_command(
	[ 'openssl', 'pkeyutl', '-verify', '-rawin', '-in', "$directory/message",
		'-sigfile', "$directory/signature", '-pubin', '-keyform', 'DER', '-inkey', "$directory/public.der" ]);
like($seen, qr/Verified Successfully/, 'is one that openssl verifies');
is(sign_of('v1a', $seed . $public, @vector), $signature, 'a key may have its public half with it');
is(sign_of('v1a', $seed . 'x' x 32, @vector), '-', 'but no other');
is(sign_of('v1a', 'x' x 31, @vector), '-', 'a key of another length is none');

# -- what stays --------------------------------------------------------------------

my (undef, $flood) = ask($driver, 'flood', count => 20000, parallel => 8, url => "$url/", body => '{}',
	header => 'Content-Type: application/json');
is($flood->{good}, 20000, '20,000 calls');
cmp_ok($flood->{more_kb}, '<', 1024, 'memory stays what it was');
cmp_ok($flood->{more_descriptors}, '<=', 0, 'so do descriptors');
note "20,000 calls took $flood->{ms} ms, and $flood->{more_kb} kB";

done_testing();
