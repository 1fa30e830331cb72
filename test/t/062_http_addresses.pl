# Which addresses may be called, however they are written; and which URLs.

use strict;
use warnings;
use Test::More;
use EvinboxTest;
use EvinboxHttp;

my $driver = start_driver(allow => '', max_connections => 10);

# -- addresses ------------------------------------------------------------------------

# Anybody may be called; else, what it is.
my @policy = (
	[ '1.1.1.1', '-' ],
	[ '9.255.255.255', '-' ],
	[ '11.0.0.0', '-' ],
	[ '100.63.255.255', '-' ],
	[ '100.128.0.0', '-' ],
	[ '126.255.255.255', '-' ],
	[ '128.0.0.0', '-' ],
	[ '169.253.255.255', '-' ],
	[ '169.255.0.0', '-' ],
	[ '172.15.255.255', '-' ],
	[ '172.32.0.0', '-' ],
	[ '192.0.1.0', '-' ],
	[ '192.167.255.255', '-' ],
	[ '192.169.0.0', '-' ],
	[ '198.17.255.255', '-' ],
	[ '198.20.0.0', '-' ],
	[ '223.255.255.255', '-' ],
	[ '0.0.0.0', 'no host' ],
	[ '0.255.255.255', 'no host' ],
	[ '10.0.0.0', 'private' ],
	[ '10.255.255.255', 'private' ],
	[ '100.64.0.0', 'internal' ],
	[ '100.100.100.200', 'internal' ],    # metadata of Alibaba
	[ '100.127.255.255', 'internal' ],
	[ '127.0.0.1', 'loopback' ],
	[ '127.255.255.255', 'loopback' ],
	[ '168.63.129.16', 'metadata' ],
	[ '169.254.0.0', 'link-local' ],
	[ '169.254.169.254', 'link-local' ],
	[ '169.254.170.2', 'link-local' ],
	[ '172.16.0.0', 'private' ],
	[ '172.31.255.255', 'private' ],
	[ '192.0.0.0', 'reserved' ],
	[ '192.0.0.192', 'reserved' ],        # metadata of Oracle
	[ '192.0.2.1', 'documentation' ],
	[ '192.88.99.1', '6to4' ],
	[ '192.168.0.0', 'private' ],
	[ '192.168.255.255', 'private' ],
	[ '198.18.0.0', 'benchmarking' ],
	[ '198.19.255.255', 'benchmarking' ],
	[ '198.51.100.1', 'documentation' ],
	[ '203.0.113.1', 'documentation' ],
	[ '224.0.0.1', 'multicast' ],
	[ '239.255.255.255', 'multicast' ],
	[ '240.0.0.0', 'reserved' ],
	[ '255.255.255.254', 'reserved' ],
	[ '255.255.255.255', 'broadcast' ],

	[ '2606:4700:4700::1111', '-' ],
	[ '2001:4860:4860::8888', '-' ],
	[ '2001:200::', '-' ],
	[ '2a00::', '-' ],
	[ '3ffe:ffff::1', '-' ],
	[ '::', 'unspecified' ],
	[ '::1', 'loopback' ],
	[ 'fe80::1', 'link-local' ],
	[ 'febf:ffff::1', 'link-local' ],
	[ 'fec0::1', 'site-local' ],
	[ 'feff::1', 'site-local' ],
	[ 'fc00::1', 'private' ],
	[ 'fd00:ec2::254', 'private' ],       # metadata of Amazon
	[ 'fdff:ffff::1', 'private' ],
	[ 'ff02::1', 'multicast' ],
	[ 'ffff::1', 'multicast' ],
	[ '100::1', 'discard' ],
	[ '2001:db8::1', 'documentation' ],
	[ '3fff::1', 'documentation' ],
	[ '2001:2::1', 'reserved' ],
	[ '2001:10::1', 'reserved' ],
	[ '5f00::1', 'reserved' ],
	[ '4000::1', 'reserved' ],
	[ '1fff::1', 'reserved' ],
	[ 'e000::1', 'reserved' ],

	# an IPv4 address in an IPv6 one
	[ '::ffff:1.1.1.1', '-' ],
	[ '::ffff:127.0.0.1', 'loopback' ],
	[ '::ffff:7f00:1', 'loopback' ],
	[ '::ffff:169.254.169.254', 'link-local' ],
	[ '::ffff:0.0.0.0', 'no host' ],
	[ '::ffff:10.0.0.1', 'private' ],
	[ '::1.1.1.1', '-' ],
	[ '::127.0.0.1', 'loopback' ],
	[ '::10.0.0.1', 'private' ],
	[ '::2', 'no host' ],
	[ '::ffff:0:127.0.0.1', 'translated' ],
	[ '64:ff9b::127.0.0.1', 'translated' ],
	[ '64:ff9b::8.8.8.8', 'translated' ],
	[ '64:ff9b:1::10.0.0.1', 'translated' ],
	[ '64:ff9b:1:ffff::', 'translated' ],
	[ '64:ff9b:2::1', 'reserved' ],
	[ '2002:7f00:1::', 'tunnelled' ],
	[ '2002:808:808::', 'tunnelled' ],
	[ '2001::1', 'tunnelled' ],
	[ '2001:0:7f00:1::', 'tunnelled' ],

	[ 'unix', 'not an internet address' ],
);

sub judge
{
	my ($address, $ranges) = @_;
	my ($line) = ask($driver, 'address', \$address, \($ranges // ''));

	return $line =~ s/^\w+\t//r;
}

foreach my $case (@policy)
{
	my ($address, $what) = @$case;

	like(judge($address), $what eq '-' ? qr/^-$/ : qr/\Q$what/, "$address: $what");
}

# Those that a superuser names.
my @allowed = (
	[ '127.0.0.1', '127.0.0.0/8', '-' ],
	[ '127.0.0.1', ' 10.0.0.0/8 ,127.0.0.1 ', '-' ],
	[ '127.0.0.2', '127.0.0.1', 'loopback' ],
	[ '127.0.0.1', '127.0.0.1/32', '-' ],
	[ '10.1.2.3', '10.1.2.0/23', '-' ],
	[ '10.1.3.3', '10.1.2.0/23', '-' ],
	[ '10.1.4.0', '10.1.2.0/23', 'private' ],
	[ '10.1.1.255', '10.1.2.0/23', 'private' ],
	[ '10.1.2.3', '0.0.0.0/0', '-' ],
	[ '::1', '0.0.0.0/0', 'loopback' ],
	[ '::1', '::1', '-' ],
	[ '::1', '::/0', '-' ],
	[ 'fd00::1', 'fd00::/8', '-' ],
	[ 'fc00::1', 'fd00::/8', 'private' ],
	[ 'fd12:3456::1', 'fd12:3400::/22', '-' ],
	[ 'fd12:3800::1', 'fd12:3400::/22', 'private' ],

	# one within another is what it is
	[ '::ffff:127.0.0.1', '127.0.0.1', '-' ],
	[ '::127.0.0.1', '127.0.0.1', '-' ],
	[ '::ffff:127.0.0.1', '::/0', 'loopback' ],
	[ '::127.0.0.1', '::/0', 'loopback' ],
	[ '::ffff:127.0.0.1', '::1', 'loopback' ],
	[ '127.0.0.1', '::ffff:127.0.0.0/104', '-' ],
	[ '::ffff:127.0.0.1', '::ffff:127.0.0.0/104', '-' ],
	[ '64:ff9b::8.8.8.8', '64:ff9b::/96', '-' ],
	[ 'unix', '0.0.0.0/0, ::/0', 'not an internet address' ],
);

foreach my $case (@allowed)
{
	my ($address, $ranges, $what) = @$case;

	like(judge($address, $ranges), $what eq '-' ? qr/^-$/ : qr/\Q$what/, "$address with $ranges: $what");
}

foreach my $list (
	'x', 'localhost', '10.0.0.0/8,', ',10.0.0.0/8', '10.0.0.0/8,,::1', '10.0.0.0/33', '::/129', '10.0.0.0/',
	'10.0.0.0/-1', '10.0.0.0/8x', '10.0.0.0/0008', '10.0.0.1/8', '::1/64', '10.0.0', '010.0.0.1', '0x7f.0.0.1',
	'10.0.0.0 /8', '10.0.0.0/8 ::1', 'fe80::1%lo', '[::1]', '1.2.3.4:80', '/8', '::ffff:10.0.0.1/97')
{
	like(judge('127.0.0.1', $list), qr/^(An address|A range|The bits)/, "no ranges: $list");
}
is(judge('1.1.1.1', $_), '-', 'an empty list is one') foreach '', ' ', "\n";

# -- however it is written ------------------------------------------------------------------

# Nobody is called here: the addresses are refused, and no name leaves the driver.
command_allow('');
foreach my $host (
	'127.0.0.1', '127.1', '127.0.1', '2130706433', '0x7f000001', '0x7f.1', '017700000001', '0177.0.0.1',
	'127.0.0.1.', 'localhost', 'LOCALHOST', 'localhost.', 'any.localhost', 'any.test', '[::1]', '[::]', '0', '0.0.0.0',
	'[::ffff:127.0.0.1]', '[::ffff:7f00:1]', '[::127.0.0.1]', '[0:0:0:0:0:0:0:1]', '[64:ff9b::127.0.0.1]',
	'[2002:7f00:1::]', '[fe80::1]', '[fe80::1%25lo]', '[fe80::1%25lo]', '169.254.169.254', '0xa9fea9fe', '2852039166',
	'[::ffff:a9fe:a9fe]', '[fd00:ec2::254]', '10.0.0.1', '192.168.1.1', '255.255.255.255', '224.0.0.1',
	"\xef\xbc\x91\xef\xbc\x92\xef\xbc\x97.0.0.1",    # full-width digits
	"\xe2\x91\xa0\xe2\x91\xa1\xe2\x91\xa6.0.0.1",    # digits in circles
	'127%2e0%2e0%2e1', '%31%32%37.0.0.1')
{
	call($driver, tag => $host, url => "http://$host:9/", timeout => 2000);
	call($driver, tag => "s$host", url => "https://$host:9/", timeout => 2000, allow_http => 0);
}
my ($results) = wait_for_calls($driver);

# Some are no host at all, or none that there is, which is as well.
foreach my $host (sort keys %$results)
{
	my $result = $results->{$host};

	ok(    $result->{word} eq 'refused'
		|| ($result->{is_refused} && $result->{error} =~ /is not allowed$/)
		|| $result->{code} == 6
		|| $result->{code} == 3,
		'not called: ' . EvinboxHttp::escape($host))
	  or diag explain $result;
	is($result->{address} // '-', '-', 'not even tried');
}
cmp_ok(scalar(grep { $_->{is_refused} } values %$results), '>', 40, 'most for where they are');
like_result($results->{'127.0.0.1'},
	{ code => 7, is_refused => 1, status => 0, connect => -1, error => 'connecting to 127.0.0.1 is not allowed' },
	'the reason names it');
like_result($results->{'0x7f.1'}, { error => 'connecting to 127.0.0.1 is not allowed' }, 'as what it is');

# -- connections that are there ----------------------------------------------------------------

my $port = start_server(sub { 1 while read_request($_[0]) && answer($_[0], 200, $$) });
command_allow('127.0.0.1');
my $first = call_now($driver, url => "http://any.test:$port/");
like_result($first, { status => 200, is_refused => 0 }, 'who is allowed is called');
like_result(call_now($driver, url => "http://any.test:$port/"), { answer => $first->{answer}, connect => -1 },
	'again on the same connection');
command_allow('');
like_result(call_now($driver, url => "http://any.test:$port/"),
	{ code => 7, is_refused => 1, status => 0, answer_length => 0, error => 'connecting to 127.0.0.1 is not allowed' },
	'which is of no use when that is not allowed any more');
command_allow('127.0.0.1');
like_result(call_now($driver, url => "http://any.test:$port/"), { status => 200 }, 'and is when it is again');
like_result(call_now($driver, url => "http://both.test:$port/"), { status => 200, address => '127.0.0.1', is_refused => 0 },
	'of two addresses, the one that may be called is');
command_allow('127.0.0.2');
like_result(call_now($driver, url => "http://both.test:$port/"), { code => 7, is_refused => 0, status => 0 },
	'or tried, whatever connection there was');

# -- URLs --------------------------------------------------------------------------------------

my @urls = (
	[ 'https://example.com/', '-' ],
	[ 'https://example.com:8443/a/b?c=d&e=%0d%0a#f', '-' ],
	[ 'HTTPS://Example.COM', '-' ],
	[ 'https://[2001:db8::1]:443/', '-' ],
	[ "https://b\xc3\xbccher.example/", '-' ],
	[ 'http://example.com/', qr/https/ ],
	[ 'ftp://example.com/', qr/https/ ],
	[ 'file:///etc/passwd', qr/https|host|not a URL/ ],
	[ 'gopher://example.com/', qr/https/ ],
	[ 'smtp://example.com/', qr/https/ ],
	[ 'javascript:alert(1)', qr/https|not a URL/ ],
	[ 'example.com', qr/not a URL/ ],
	[ '//example.com/', qr/not a URL/ ],
	[ '/path', qr/not a URL/ ],
	[ '', qr/not a URL/ ],
	[ 'https://', qr/not a URL|no host/ ],
	[ 'https:///path', qr/no host/ ],
	[ 'https:/path', qr/not a URL/ ],
	[ 'https:path', qr/not a URL/ ],
	[ 'https://:443/', qr/not a URL|no host/ ],
	[ 'https://user@example.com/', qr/user name/ ],
	[ 'https://user:password@example.com/', qr/user name/ ],
	[ 'https://:@example.com/', qr/user name/ ],
	[ 'https://example.com:99999/', qr/not a URL/ ],
	[ 'https://example.com:0/', qr/not a URL|port/ ],
	[ 'https://example.com:x/', qr/not a URL/ ],
	[ 'https://exa mple.com/', qr/blank/ ],
	[ 'https://example.com/a b', qr/blank/ ],
	[ "https://example.com/\r\nHost: b", qr/control/ ],
	[ "https://example.com/a\n", qr/control/ ],
	[ "https://example.com/a\tb", qr/control/ ],
	[ "https://example.com/\x7f", qr/control/ ],
	[ 'https://[::1', qr/not a URL/ ],
	[ 'https://example.com/' . 'x' x 8200, qr/too long/ ],
);

foreach my $case (@urls)
{
	my ($url, $fault) = @$case;
	my ($line) = ask($driver, 'url', \$url);

	like($line, ref $fault ? qr/^url\t.*$fault/ : qr/^url\t-$/, EvinboxHttp::escape(substr $url, 0, 60));
}
my ($line) = ask($driver, 'url', \'http://example.com/', allow_http => 1);
is($line, "url\t-", 'without TLS if that is allowed');
($line) = ask($driver, 'url', \'ftp://example.com/', allow_http => 1);
like($line, qr{http://}, 'nothing else is');

sub command_allow
{
	my ($ranges) = @_;

	EvinboxHttp::command($driver, 'allow', \$ranges);
}

done_testing();
