# The library that calls the outside: others that answer late, badly or without end
# cost a bounded time and nothing else, and nobody else's calls.

use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Socket;
use Test::More;
use Time::HiRes qw(usleep);
use EvinboxTest;
use EvinboxHttp;

# What a path makes of a connection, after the request has been read.
my %misbehave = (
	silence => sub { sleep 60 },
	slow_headers => sub {
		print { $_[0] } "HTTP/1.1 200 OK\r\n";
		for (my $i = 0; print { $_[0] } "X-$i: x\r\n"; $i++) { usleep(50_000) }
	},
	slow_body => sub {
		print { $_[0] } "HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n";
		usleep(50_000) while print { $_[0] } 'x';
	},
	slow_chunks => sub {
		print { $_[0] } "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
		usleep(50_000) while print { $_[0] } "1\r\nx\r\n";
	},
	endless_chunks => sub {
		print { $_[0] } "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
		1 while print { $_[0] } "400\r\n" . 'x' x 1024 . "\r\n";
	},
	endless_body => sub {
		print { $_[0] } "HTTP/1.1 200 OK\r\n\r\n";
		1 while print { $_[0] } 'x' x 1024;
	},
	endless_header => sub {
		print { $_[0] } "HTTP/1.1 200 OK\r\nX: ";
		1 while print { $_[0] } 'x' x 1024;
	},
	endless_trailer => sub {
		print { $_[0] } "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n";
		1 while print { $_[0] } "X: x\r\n" x 100;
	},
	endless_interim => sub { 1 while print { $_[0] } "HTTP/1.1 103 Early Hints\r\n\r\n" x 100 },
	endless_chunk_extension => sub {
		print { $_[0] } "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;";
		usleep(10_000) while print { $_[0] } 'x' x 1024;
	},
	some_interim => sub {
		print { $_[0] } "HTTP/1.1 102 Processing\r\nRetry-After: 7\r\n\r\n" x 10,
		  "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
	},
	headers_10000 => sub {
		print { $_[0] } "HTTP/1.1 200 OK\r\n", (map { "X-$_: x\r\n" } 1 .. 10_000), "Content-Length: 0\r\n\r\n";
	},
	short_headers => sub {
		print { $_[0] } "HTTP/1.1 200 OK\r\n", "X: x\r\n" x 1000, "Content-Length: 0\r\n\r\n";
	},
	long_header => sub {
		print { $_[0] } "HTTP/1.1 200 OK\r\n", (map { "X-$_: " . 'x' x 30_000 . "\r\n" } 1 .. 3), "Content-Length: 0\r\n\r\n";
	},
	some_headers => sub {
		print { $_[0] } "HTTP/1.1 200 OK\r\n", "X: x\r\n" x 990, "Content-Length: 0\r\n\r\n";
	},
	reset => sub {
		setsockopt($_[0], SOL_SOCKET, SO_LINGER, pack('ii', 1, 0));
		close $_[0];
	},
	empty => sub { },
	garbage => sub { print { $_[0] } "\x00\xff\x80 no such thing\r\n\r\n" x 10 },
	old_garbage => sub { print { $_[0] } 'hello' },
	half => sub { print { $_[0] } "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf" },
	bad_chunk => sub { print { $_[0] } "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n" },
	bad_length => sub { print { $_[0] } "HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n" },
	two_lengths => sub { print { $_[0] } "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc" },
	upgrade => sub { print { $_[0] } "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n"; sleep 60 },
	zeroes => sub { print { $_[0] } "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 3\r\n\r\na\0b" },
	gzip => sub {
		answer($_[0], 200, 'not compressed', 'Content-Encoding: gzip');
	},
	redirect => sub {
		answer($_[0], 302, 'moved', "Location: http://127.0.0.1:" . $_[0]->sockport . '/fine');
	},
	redirect_to_metadata => sub {
		answer($_[0], 307, '', "Location: http://169.254.169.254/latest/meta-data/");
	},
	early => sub { answer($_[0], 413, 'too much', 'Connection: close') },
	fine => sub { answer($_[0], 200, 'fine') },
);

my $server = start_server(
	sub {
		my ($socket) = @_;

		while (my $request = read_request($socket))
		{
			my ($what, $size) = $request->{path} =~ m{^/(\w+?)(?:-(\d+))?$};

			if ($what eq 'size')
			{
				answer($socket, 200, 'x' x $size);
			}
			elsif ($what eq 'chunked')
			{
				print $socket "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
				  sprintf("%x\r\n%s\r\n0\r\n\r\n", $size, 'x' x $size);
			}
			else
			{
				$misbehave{$what}->($socket);
				return unless $what =~ /fine|redirect|some_interim|gzip|zeroes/;
			}
		}
	});
my $url = "http://127.0.0.1:$server";
my $driver = start_driver(allow => '127.0.0.0/8', max_connections => 50);

# -- what is not one answer --------------------------------------------------------

my %expected = (
	silence => { code => 28, status => 0, error => qr/timed out/, first_byte => -1 },
	slow_headers => { code => 28 },
	slow_body => { code => 28, status => 200, answer => qr/^x+$/ },
	slow_chunks => { code => 28, status => 200, answer => qr/^x+$/ },
	endless_chunks => { code => 0, status => 200, answer_length => 4096 },
	endless_body => { code => 0, status => 200, answer_length => 4096 },
	endless_header => { code => qr/^(23|27|56|100)$/ },
	endless_trailer => { code => 23, error => 'the answer has too many headers' },
	endless_interim => { code => 23, error => 'the answer has too many headers' },
	endless_chunk_extension => { code => qr/^(28|56)$/ },
	some_interim => { code => 0, status => 200, answer => 'ok', retry_after => -1 },
	headers_10000 => { code => 23, error => 'the answer has too many headers' },
	short_headers => { code => 23, error => 'the answer has too many headers' },
	long_header => { code => 23, error => 'the answer has too many headers' },
	some_headers => { code => 0, status => 200 },
	reset => { code => qr/^(52|55|56)$/, status => 0 },
	empty => { code => 52, status => 0, error => qr/Empty reply/ },
	garbage => { code => 1, error => qr{HTTP/0\.9} },
	old_garbage => { code => 1, error => qr{HTTP/0\.9} },
	half => { code => 18, answer => 'half' },
	bad_chunk => { code => 56 },
	bad_length => { code => qr/^(8|56)$/ },
	gzip => { code => 0, status => 200, answer => 'not compressed' },
	zeroes => { code => qr/^(0|8|43)$/ },
	redirect => { code => 0, status => 302, answer => 'moved', is_refused => 0 },
	redirect_to_metadata => { code => 0, status => 307, address => '127.0.0.1' },
);

call($driver, tag => $_, url => "$url/$_", body => '{}', timeout => 1500) foreach sort keys %expected;
call($driver, tag => 'upgrade', url => "$url/upgrade", timeout => 1500);
call($driver, tag => 'two_lengths', url => "$url/two_lengths", timeout => 1500);
call($driver, tag => 'fine', url => "$url/fine");
my ($results, undef, $end) = wait_for_calls($driver);

foreach my $what (sort keys %expected)
{
	like_result($results->{$what}, $expected{$what}, $what);
	cmp_ok($results->{$what}{total}, '<', 3000, 'within its time');
}
like_result($results->{fine}, { code => 0, status => 200, answer => 'fine' }, 'who answers meanwhile is heard');
cmp_ok($results->{fine}{total}, '<', 1000, 'at once');
ok(exists $results->{$_}, "$_ ends") foreach qw(upgrade two_lengths);
cmp_ok($end->{ms}, '<', 4000, 'all of it takes no longer than the slowest');
like_result(call_now($driver, url => "$url/early", body_size => 20_000_000), { code => qr/^(0|55|56)$/ },
	'an answer before all is sent');

# -- sizes --------------------------------------------------------------------------

foreach my $kind (qw(size chunked))
{
	like_result(call_now($driver, url => "$url/$kind-$_"), { code => 0, status => 200, answer_length => 4096 },
		"$kind of $_ bytes") foreach 65_535, 65_536, 65_537, 1_048_575, 1_048_576, 1_048_577;
	like_result(call_now($driver, url => "$url/$kind-4095"), { answer_length => 4095 }, 'less is kept as it is');
}

# -- nobody there ---------------------------------------------------------------------

my $nobody = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1);
my $closed = $nobody->sockport;
close $nobody;
like_result(call_now($driver, url => "http://127.0.0.1:$closed/"),
	{ code => 7, status => 0, is_refused => 0, connect => -1, error => qr/connect/i },
	'nobody listens');

# A full queue of connections looks like a host that does not answer.
my $full = IO::Socket::INET->new(LocalAddr => '127.0.0.1', Listen => 1);
my @queued = map {
	IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $full->sockport, Blocking => 0)
} 1 .. 5;
my $result = call_now($driver, url => 'http://127.0.0.1:' . $full->sockport . '/',
	connect_timeout => 500, timeout => 5000);
like_result($result, { code => 28, connect => -1, is_refused => 0 }, 'nobody accepts');
cmp_ok($result->{total}, '<', 1500, 'and that has a timeout of its own');

# -- names -----------------------------------------------------------------------------

like_result(call_now($driver, url => 'http://none.test/'), { code => 6, status => 0, dns => -1, address => '-' },
	'a name that there is not');

# The look-ups go on, in threads, when the calls have ended; and when the driver ends.
call($driver, tag => "hang$_", url => "http://hang.test:$_/", timeout => 1000) foreach 1 .. 40;
call($driver, tag => $_, url => "http://name$_.test:$server/fine") foreach 1 .. 20;
($results, undef, $end) = wait_for_calls($driver);
is(scalar(grep { $results->{$_}{status} == 200 && $results->{$_}{total} < 900 } 1 .. 20), 20,
	'look-ups that hang delay nobody else');
is(scalar(grep { $results->{"hang$_"}{code} == 28 } 1 .. 40), 40, 'and end in time');
is($end->{signals_blocked}, 1, 'threads are born deaf to signals');
cmp_ok($end->{ms}, '<', 3000, 'nobody waits for them');
cmp_ok($end->{rounds}, '<', 500, 'nor asks all the time whether they have ended');
like_result(call_now($driver, url => "$url/fine"), { status => 200 }, 'it goes on meanwhile');

close $driver->{in};
my $begin = Time::HiRes::time();
waitpid $driver->{pid}, 0;
is($?, 0, 'the end of the process is a clean one');
cmp_ok(Time::HiRes::time() - $begin, '<', 2, 'and waits for no look-up');

done_testing();
