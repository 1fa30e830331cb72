# The library that calls the outside, as it sends mail.

use strict;
use warnings;
use PostgreSQL::Test::Utils;
use Test::More;
use EvinboxTest;
use EvinboxHttp;

my $directory = PostgreSQL::Test::Utils::tempdir();

# A relay that says yes, unless it was told otherwise, and notes all it is told.
#
# usage: serve_smtp($log, %answers)($socket)
sub serve_smtp
{
	my ($log, %answers) = @_;

	return sub {
		my ($socket) = @_;

		print $socket "220 relay.test ESMTP\r\n";
		while (my $line = <$socket>)
		{
			my ($verb) = $line =~ /^(\w+)/;

			append_to_file($log, $line);
			if ($answers{$verb})
			{
				print $socket "$answers{$verb}\r\n";
			}
			elsif ($verb eq 'EHLO')
			{
				print $socket "250-relay.test\r\n250-AUTH GSSAPI PLAIN LOGIN\r\n250 SIZE 1000000\r\n";
			}
			elsif ($verb eq 'AUTH')
			{
				print $socket "334 \r\n";
				append_to_file($log, scalar <$socket>);
				print $socket "235 2.7.0 welcome\r\n";
			}
			elsif ($verb eq 'DATA')
			{
				print $socket "354 go on\r\n";
				while (my $line = <$socket>)
				{
					append_to_file($log, $line);
					last if $line eq ".\r\n";
				}
				print $socket $answers{'.'} // '250 2.0.0 queued as 42', "\r\n";
			}
			else
			{
				print $socket $verb eq 'QUIT' ? "221 2.0.0 bye\r\n" : "250 2.0.0 well\r\n";
			}
			return if $verb eq 'QUIT';
		}
	};
}

# where mails go, the list of addresses does not say
my $driver = start_driver(allow => '', max_connections => 10);
my @envelope = (sender => 'from@example.com', recipient => 'to@example.com');
my $nlogs = 0;

# Returns the result, and what the relay was told.
sub mail
{
	my ($answers, %call) = @_;
	my $log = "$directory/log" . $nlogs++;
	my $port = start_server(serve_smtp($log, %$answers));

	append_to_file($log, '');
	my $result = call_now($driver, url => "smtp://127.0.0.1:$port/client.test", @envelope, %call);
	return ($result, slurp_file($log));
}

# -- what arrives -----------------------------------------------------------------------

my ($result, $log) = mail(
	{},
	recipient => [ 'one@example.com', 'two@example.com' ],
	body => "Subject: a\r\n\r\nfirst\nsecond\r\n.\r\n.third\rfourth\n.\nQUIT\n\xc3\xa4");
like_result($result, { code => 0, status => 250, error => '-', is_refused => 0, retry_after => -1,
		address => '127.0.0.1', answer => "250 2.0.0 queued as 42\r\n" }, 'a mail is taken');
like($log, qr/^EHLO client\.test\r\n/, 'with a name for us');
like($log, qr/\r\nMAIL FROM:<from\@example\.com>/, 'with its sender');
like($log, qr/\r\nRCPT TO:<one\@example\.com>\r\nRCPT TO:<two\@example\.com>\r\nDATA\r\n/, 'and its recipients');
unlike($log, qr/AUTH/, 'without a login');
my ($body) = $log =~ /DATA\r\n(.*?)(?:QUIT\r\n)?\z/s;
is($body, "Subject: a\r\n\r\nfirst\r\nsecond\r\n..\r\n..third\r\nfourth\r\n..\r\nQUIT\r\n\xc3\xa4\r\n.\r\n",
	'all of its lines end as they should, and none of them ends it');
like_result((mail({}, body => ''))[0], { code => 0, status => 250 }, 'an empty one');
($result, $log) = mail({}, body_size => 300_000);
like_result($result, { code => 0, status => 250 }, 'a large one');
is($log =~ /\r\n(x+)\r\n\.\r\n/ && length $1, 300_000, 'is whole');

# Line ends at the ends of what libcurl asks for at a time
($result, $log) = mail({}, body => "ab\n" x 8000);
is(scalar(() = $log =~ /^ab\r$/mg), 8000, 'many lines');

# -- logging in --------------------------------------------------------------------------

($result, $log) = mail({}, user => 'me@example.com', password => 'secret', body => 'x');
like_result($result, { code => 0, status => 250 }, 'with a login');
like($log, qr/\r\nAUTH PLAIN/, 'which needs no third party');
($result, $log) = mail({}, user => 'me', password => 'secret', allow_http => 0, body => 'x');
like_result($result, { code => 64 }, 'a password does not go out in the clear');
unlike($log, qr/AUTH/, 'not at all');
($result, $log) = mail({}, allow_http => 0, body => 'x');
like_result($result, { code => 0, status => 250 }, 'a mail without one may');
like_result((mail({ AUTH => '535 5.7.8 no' }, user => 'me', password => 'wrong', body => 'x'))[0],
	{ code => 67, status => 535, answer => "535 5.7.8 no\r\n", error => qr/^(?!.*wrong)/ }, 'a login that fails');

# -- answers --------------------------------------------------------------------------

like_result((mail({ RCPT => '550 5.1.1 no such user' }))[0],
	{ code => 55, status => 550, answer => "550 5.1.1 no such user\r\n" }, 'no such recipient');
like_result((mail({ MAIL => '451 4.7.1 come back later' }))[0],
	{ code => 55, status => 451, answer => "451 4.7.1 come back later\r\n" }, 'not now');
like_result((mail({ '.' => '552 5.2.2 full' }, body => 'x'))[0],
	{ code => qr/^[1-9]/, status => 552, answer => "552 5.2.2 full\r\n" }, 'not that');
like_result((mail({ EHLO => join "\r\n", ('250-x') x 5000 }))[0],
	{ code => qr/^(8|23|56)$/, error => qr/too (many|large)/i }, 'a relay that says too much');
like_result(call_now($driver, @envelope, timeout => 500,
		url => 'smtp://127.0.0.1:' . start_server(sub { sleep 30 })),
	{ code => 28, status => 0 }, 'a relay that says nothing');

# -- what cannot be a mail -------------------------------------------------------------

foreach my $address ('', "a\@b\r\nRCPT TO:<c\@d>", "a\@b\n", 'a@b> SIZE=1', '<a@b>', 'a b@c')
{
	my $name = EvinboxHttp::escape($address);

	like_result(call_now($driver, url => 'smtp://127.0.0.1:9', @envelope, sender => $address),
		{ word => 'refused', error => 'not a mail address' }, "no sender: $name");
	like_result(call_now($driver, url => 'smtp://127.0.0.1:9', @envelope, recipient => [ 'a@b', $address ]),
		{ word => 'refused', error => 'not a mail address' }, "no recipient: $name");
}
like_result(call_now($driver, url => 'smtp://127.0.0.1:9', sender => 'a@b'),
	{ word => 'refused', error => 'there is no recipient' }, 'nobody');
like_result(call_now($driver, url => 'https://127.0.0.1:9', @envelope), { word => 'refused', error => qr/smtp/ },
	'a mail by HTTP');
like_result(call_now($driver, url => 'smtp://127.0.0.1:9'), { word => 'refused', error => qr/http/ },
	'a call by SMTP');

done_testing();
