# The library that calls the outside makes sure whom it talks to.

use strict;
use warnings;
use IO::Socket::INET;
use IPC::Open2;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);
use EvinboxTest;
use EvinboxHttp;

my $directory = PostgreSQL::Test::Utils::tempdir();
my @servers;

END
{
	my $status = $?;

	foreach my $pid (@servers)
	{
		kill 'KILL', $pid;
		waitpid $pid, 0;
	}
	$? = $status;
}

# An authority, and certificates of it; or of nobody.
sub make_authority
{
	my ($name) = @_;

	make_with('req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2',
		'-subj', "/CN=$name", '-keyout', "$directory/$name.key", '-out', "$directory/$name.pem");
}

sub make_certificate
{
	my ($name, $authority, $alternatives, $days) = @_;

	append_to_file("$directory/$name.ext", "subjectAltName = $alternatives\n");
	make_with('req', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-subj', "/CN=$name",
		'-keyout', "$directory/$name.key", '-out', "$directory/$name.csr");
	make_with('x509', '-req', '-in', "$directory/$name.csr", '-CA', "$directory/$authority.pem",
		'-CAkey', "$directory/$authority.key", '-CAcreateserial', '-days', $days // 2,
		'-extfile', "$directory/$name.ext", '-out', "$directory/$name.pem");
}

sub make_with
{
	my ($out, $err) = run_command([ 'openssl', @_ ]);

	note $err if $err =~ /error/i;
}

# usage: start_tls($certificate, @options)
# returns the port, and what the server hears and says, if it is not -www
sub start_tls
{
	my ($name, @options) = @_;
	my $port = PostgreSQL::Test::Cluster::get_free_port();
	my ($out, $in);

	push @servers, open2($out, $in, 'openssl', 's_server', '-quiet', '-accept', "127.0.0.1:$port",
		'-cert', "$directory/$name.pem", '-key', "$directory/$name.key", @options);

	# A connection would be taken for a client's.
	foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		last if slurp_file('/proc/net/tcp') =~ sprintf '0100007F:%04X 00000000:0000 0A', $port;
		usleep(100_000);
	}
	return ($port, $out, $in);
}

make_authority('authority');
make_authority('stranger');
make_certificate('right', 'authority', 'DNS:right.test, IP:127.0.0.1');
make_certificate('expired', 'authority', 'DNS:right.test, IP:127.0.0.1', 0);
make_certificate('strange', 'stranger', 'DNS:right.test, IP:127.0.0.1');

# OpenSSL would take anything, if it were for this.
append_to_file("$directory/openssl.cnf", <<'EOC');
openssl_conf = default
[default]
ssl_conf = ssl
[ssl]
system_default = all
[all]
MinProtocol = None
CipherString = ALL:@SECLEVEL=0
EOC
$ENV{OPENSSL_CONF} = "$directory/openssl.cnf";

my ($right) = start_tls('right', '-www');
my ($strange) = start_tls('strange', '-www');
my ($expired) = start_tls('expired', '-www');
my ($own) = start_tls('stranger', '-www');
my ($old) = start_tls('right', '-www', '-tls1_1', '-cipher', 'ALL:@SECLEVEL=0');
my ($middle) = start_tls('right', '-www', '-tls1_2');
my %get = (method => 'GET', allow_http => 0);
my $driver = start_driver(allow => '127.0.0.0/8', ca_file => "$directory/authority.pem");

like_result(call_now($driver, %get, url => "https://right.test:$right/"),
	{ code => 0, status => 200, error => '-', tls => qr/^\d/, address => '127.0.0.1' }, 'a certificate for the name');
like_result(call_now($driver, %get, url => "https://127.0.0.1:$right/"), { code => 0, status => 200 },
	'or for the address');
like_result(call_now($driver, %get, url => "https://right.test:$middle/"), { code => 0, status => 200 }, 'TLS 1.2 will do');
like_result(call_now($driver, %get, url => "https://wrong.test:$right/"),
	{ code => 60, status => 0, is_refused => 0, error => qr/wrong\.test/ }, 'for another name it will not do');
like_result(call_now($driver, %get, url => "https://127.0.0.2:$right/", timeout => 2000), { code => qr/^(7|60)$/, status => 0 },
	'nor for another address');
like_result(call_now($driver, %get, url => "https://right.test:$strange/"), { code => 60, status => 0, error => qr/certificate/ },
	'nor one of a strange authority');
usleep(100_000) while time < (stat "$directory/expired.pem")[9] + 2;
like_result(call_now($driver, %get, url => "https://right.test:$expired/"), { code => 60, status => 0, error => qr/expired/ },
	'nor one that has expired');
like_result(call_now($driver, %get, url => "https://right.test:$own/"), { code => 60, status => 0 }, 'nor one of its own');
like_result(call_now($driver, %get, url => "https://right.test:$old/"), { code => 35, status => 0, error => qr/protocol/ },
	'nor an old version of TLS');

my $plain = start_server(sub { answer($_[0], 200, 'plain') if read_request($_[0]) });
like_result(call_now($driver, %get, url => "https://right.test:$plain/", timeout => 1000), { code => qr/^(28|35)$/, status => 0 },
	'nor none');
my $mute = start_server(sub { sleep 30 });
my $result = call_now($driver, %get, url => "https://right.test:$mute/", timeout => 5000, connect_timeout => 500);
like_result($result, { code => 28, tls => -1, address => '127.0.0.1' }, 'a handshake that does not come');
cmp_ok($result->{total}, '<', 1500, 'has the timeout of connecting');

# The system's authorities do not know ours.
my $other = start_driver(allow => '127.0.0.0/8');
like_result(call_now($other, %get, url => "https://right.test:$right/"), { code => qr/^(60|77)$/, status => 0 },
	'without a file, those of the system count');
$other = start_driver(allow => '127.0.0.0/8', ca_file => "$directory/none.pem");
like_result(call_now($other, %get, url => "https://right.test:$right/"), { code => 77, status => 0 },
	'with one that is not there, none does');

# -- mail --------------------------------------------------------------------------------

# A relay that speaks TLS from the start; openssl does that part.
sub relay
{
	my ($name) = @_;
	my ($port, $out, $in) = start_tls($name);
	my $result = '';

	call($driver, tag => 'mail', url => "smtps://right.test:$port/", sender => 'a@b.test', recipient => 'c@d.test',
		user => 'me', password => 'secret', body => "hello\n", allow_http => 0, timeout => 5000);
	EvinboxHttp::command($driver, 'wait');
	eval
	{
		local $SIG{ALRM} = sub { die "no mail\n" };
		local $SIG{PIPE} = 'IGNORE';
		alarm 3;
		binmode $in;
		$in->autoflush(1);
		print $in "220 hello\r\n";
		while (my $line = <$out>)
		{
			$result .= $line;
			last if $line =~ /^QUIT/;
			print $in $line =~ /^EHLO/ ? "250-relay\r\n250 AUTH PLAIN\r\n"
			  : $line =~ /^AUTH/ ? "334 \r\n"
			  : $line =~ /^AG1l/ ? "235 welcome\r\n"
			  : $line =~ /^DATA/ ? "354 go on\r\n"
			  : $line =~ /^(MAIL|RCPT|\.\r)/ ? "250 well\r\n"
			  : '';
			last if $line eq ".\r\n";
		}
		alarm 0;
	};
	alarm 0;
	while (my $line = EvinboxHttp::hear($driver))
	{
		my ($word, %fields) = EvinboxHttp::parse($line);

		return (\%fields, $result) if $word eq 'result' && EvinboxHttp::hear($driver);
	}
}

my ($mail, $told) = relay('right');
like_result($mail, { code => 0, status => 250, tls => qr/^\d/ }, 'a mail over TLS');
like($told, qr/AUTH PLAIN.*\r\nMAIL FROM.*hello\r\n\.\r\n/s, 'with all of it');
($mail, $told) = relay('strange');
like_result($mail, { code => 60, status => 0 }, 'not to a stranger');
unlike($told, qr/AUTH|hello/, 'who hears nothing');

done_testing();
