# Those that evinbox calls, as they are in real life: servers in test/web, nginx,
# dnsmasq. All of them listen on addresses of this machine, and end with the test,
# however that ends.
package EvinboxParties;

use strict;
use warnings;

use Exporter 'import';
use IO::Select;
use IO::Socket::INET;
use JSON::PP;
use POSIX ();
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Socket ();
use Test::More;
use Time::HiRes qw(time usleep);

our @EXPORT = qw(
  need_modules need_own_network need_program need_mailbox
  start_receiver start_hostile start_mailbox start_nginx start_names
  received wait_for_received forget set_secrets connections
  make_authority make_certificate
  add_endpoint attempts wait_for_attempts
);

my $web = ($ENV{TESTDIR} // '.') . '/test/web';
my @running;

# -- what there has to be -------------------------------------------------------
#
# test/run sees to all of it, and says so; elsewhere, tests without it are skipped.

# The packages of npm, in a directory of EVINBOX_MODULES.
sub need_modules
{
	need_program('node');
	return if $ENV{EVINBOX_MODULES} && -d "$ENV{EVINBOX_MODULES}/node_modules/standardwebhooks";
	lack('the packages of test/web/package.json, installed in a directory that EVINBOX_MODULES names');
}

sub need_mailbox
{
	system('/usr/bin/python3', '-c', 'import aiosmtpd') == 0 or lack('python3-aiosmtpd');
}

sub need_program
{
	my ($name) = @_;

	lack($name) unless grep { -x "$_/$name" } split(/:/, $ENV{PATH}), '/usr/sbin';
}

# One in which all addresses are this machine's own.
sub need_own_network
{
	my @others = grep { !/^\s*lo:/ } grep { /:/ } split /\n/, slurp_file('/proc/net/dev');

	lack('a network of its own') if @others;
	my $listener = listen_on('0.0.0.0');
	IO::Socket::INET->new(PeerAddr => '169.254.169.254', PeerPort => $listener->sockport, Timeout => 5)
	  or lack('a network of its own whose addresses are all its own');
}

sub lack
{
	my ($what) = @_;

	die "needs $what" if $ENV{EVINBOX_PARTIES};
	plan skip_all => "needs $what; use test/run";
}

# -- servers ----------------------------------------------------------------------

# Receives and verifies webhooks: see test/web/receiver.js.
#
# usage: start_receiver($address, $port)
sub start_receiver
{
	my ($address, $port) = @_;

	return start_party('receiver', 'node', "$web/receiver.js", \'directory', $address // '127.0.0.1', $port // 0);
}

# Does not behave: see test/web/hostile.js.
sub start_hostile
{
	return start_party('hostile', 'node', "$web/hostile.js", \'directory');
}

# Gets e-mails: see test/web/mailbox.py.
sub start_mailbox
{
	my (@options) = @_;

	return start_party('mailbox', '/usr/bin/python3', "$web/mailbox.py", \'directory', @options);
}

# Speaks TLS in front of a receiver.
#
# usage: start_nginx($receiver, { name => of a certificate, listen => '...', options => '...' }, ...)
# returns the ports as well
sub start_nginx
{
	my ($receiver, @servers) = @_;
	my $directory = directory_of('nginx');
	my $configuration = "worker_processes 1;\ndaemon off;\nmaster_process off;\npid nginx.pid;\n"
	  . "events { worker_connections 100; }\nhttp {\n"
	  . "access_log off;\nkeepalive_timeout 60s;\n"
	  . join('', map { "${_}_temp_path $_;\n" } qw(client_body proxy fastcgi uwsgi scgi));
	my @ports;

	foreach my $server (@servers)
	{
		my $port = PostgreSQL::Test::Cluster::get_free_port();

		push @ports, $port;
		$configuration .= "server {\nlisten 127.0.0.1:$port ssl @{[ $server->{listen} // '' ]};\n"
		  . "ssl_certificate @{[ certificate_file($server->{name}, 'pem') ]};\n"
		  . "ssl_certificate_key @{[ certificate_file($server->{name}, 'key') ]};\n"
		  . ($server->{options} // '')
		  . "\nlocation / { proxy_pass http://127.0.0.1:$receiver->{port}; }\n}\n";
	}
	append_to_file("$directory/nginx.conf", "$configuration}\n");
	my $nginx = run_party('nginx', $directory, program('nginx'), '-p', $directory, '-c', 'nginx.conf', '-e', 'error.log');
	wait_until(sub { connects($_) }, "nginx at $_") foreach @ports;
	return ($nginx, @ports);
}

# Knows the names that it is told: at 127.0.0.1, port 53, where this machine asks
# in its own network. Others do not exist, but for those under .silent, about which
# nobody answers.
sub start_names
{
	my $directory = directory_of('names');
	my $silent = IO::Socket::INET->new(Proto => 'udp', LocalAddr => '127.0.0.1') or die "$!";

	append_to_file("$directory/hosts", "127.0.0.1 names.test\n");
	my $names = run_party('dnsmasq', $directory, program('dnsmasq'), '--keep-in-foreground', '--conf-file=/dev/null',
		'--no-resolv', '--no-hosts', '--bind-interfaces', '--listen-address=127.0.0.1', '--pid-file=',
		'--user=' . getpwuid($>), '--local-ttl=0', "--addn-hosts=$directory/hosts", "--log-facility=$directory/log",
		'--log-queries', '--local=/test/', '--server=/silent/127.0.0.1#' . $silent->sockport);
	$names->{silent} = $silent;
	bless $names, 'EvinboxParties::Names';
	wait_until(sub { addresses_of('names.test') eq '127.0.0.1' }, 'dnsmasq');
	return $names;
}

# A name has these addresses from now on.
#
# usage: $names->set('name' => [ 'address', ... ])
sub EvinboxParties::Names::set
{
	my ($names, $name, $addresses) = @_;

	$names->{addresses}{$name} = $addresses;
	open(my $file, '>', "$names->{directory}/hosts.new") or die "$!";
	foreach my $known (keys %{ $names->{addresses} })
	{
		print $file "$_ $known\n" foreach @{ $names->{addresses}{$known} };
	}
	close $file;
	rename("$names->{directory}/hosts.new", "$names->{directory}/hosts") or die "$!";
	wait_until(
		sub {
			kill 'HUP', $names->{pid};
			usleep(20_000);
			return addresses_of($name) eq join(' ', sort @$addresses);
		},
		"$name to be known");
}

sub addresses_of
{
	my ($name) = @_;
	my ($error, @found) = Socket::getaddrinfo($name, '', { socktype => Socket::SOCK_STREAM() });

	return join ' ', sort map { (Socket::getnameinfo($_->{addr}, Socket::NI_NUMERICHOST()))[1] } @found;
}

# -- what they have got -------------------------------------------------------------

# All that a server has got and, if a pattern is given, whose path or name fits.
# Whatever came before forget() does not count.
sub received
{
	my ($party, $pattern) = @_;

	open(my $log, '<', "$party->{directory}/log") or return ();
	seek $log, $party->{from}, 0;
	while (my $line = <$log>)
	{
		last unless $line =~ /\n\z/;
		$party->{from} += length $line;
		push @{ $party->{lines} }, decode_json($line);
	}
	return grep { !defined $pattern || ($_->{path} // "/$_->{kind}/$_->{name}") =~ $pattern } @{ $party->{lines} };
}

sub forget
{
	my ($party) = @_;

	received($party);
	$party->{lines} = [];
}

# Polls until it has got so many, or more, and returns them.
sub wait_for_received
{
	my ($party, $pattern, $count, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @got;

	wait_until(sub { (@got = received($party, $pattern)) >= $count });
	cmp_ok(scalar @got, '>=', $count, $name);
	return @got;
}

# The addresses of a receiver that connections were made to.
sub connections
{
	my ($receiver) = @_;

	return split /\n/, slurp_file("$receiver->{directory}/connections");
}

# What a receiver verifies with.
#
# usage: set_secrets($receiver, name => [ 'whsec_...', ... ], ...)
sub set_secrets
{
	my ($receiver, %secrets) = @_;
	my $file = "$receiver->{directory}/secrets";

	open(my $new, '>', "$file.new") or die "$!";
	print $new encode_json(\%secrets);
	close $new;
	rename("$file.new", $file) or die "$!";
}

# -- certificates ----------------------------------------------------------------------

my $certificates;

# an authority, which makes certificates
sub make_authority
{
	my ($name) = @_;

	$certificates //= PostgreSQL::Test::Utils::tempdir();
	openssl('req', '-x509', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-days', '2',
		'-subj', "/CN=$name", '-keyout', certificate_file($name, 'key'), '-out', certificate_file($name, 'pem'));
	return certificate_file($name, 'pem');
}

# usage: make_certificate($name, $authority, $alternative names, @options of openssl x509)
# It is good for two days, unless these say otherwise.
sub make_certificate
{
	my ($name, $authority, $alternatives, @options) = @_;

	append_to_file(certificate_file($name, 'ext'), "subjectAltName = $alternatives\n");
	openssl('req', '-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:P-256', '-nodes', '-subj', "/CN=$name",
		'-keyout', certificate_file($name, 'key'), '-out', certificate_file($name, 'csr'));
	openssl('x509', '-req', '-in', certificate_file($name, 'csr'), '-CA', certificate_file($authority, 'pem'),
		'-CAkey', certificate_file($authority, 'key'), '-CAcreateserial',
		'-extfile', certificate_file($name, 'ext'), '-out', certificate_file($name, 'pem'), @options ? @options : ('-days', '2'));
	return certificate_file($name, 'pem');
}

sub certificate_file
{
	my ($name, $suffix) = @_;

	return "$certificates/$name.$suffix";
}

sub openssl
{
	my ($out, $err) = run_command([ 'openssl', @_ ]);

	die "openssl @_: $err" if $? != 0;
}

# -- endpoints ---------------------------------------------------------------------------

# usage: add_endpoint($node, $db, $name, $url, column => 'value', ...)
# returns its secret
sub add_endpoint
{
	my ($node, $db, $name, $url, %column) = @_;
	my %all = (name => $name, url => $url, retries => '{50 ms}', %column);
	my @names = sort keys %all;

	return $node->safe_psql($db,
			'INSERT INTO evinbox.endpoint (' . join(', ', @names) . ') VALUES ('
		  . join(', ', map { "\$value\$$all{$_}\$value\$" } @names) . ');'
		  . "SELECT evinbox.set_endpoint_secret('$name')");
}

# What became of a delivery's attempts: "1 retry 500, 2 delivered 200".
sub attempts
{
	my ($node, $db, $delivery) = @_;

	return $node->safe_psql($db,
		"SELECT string_agg(concat_ws(' ', number, outcome, status), ', ' ORDER BY number)"
		  . " FROM evinbox.webhook_attempt WHERE delivery = $delivery");
}

# Polls until they are as expected, which may be a pattern.
sub wait_for_attempts
{
	my ($node, $db, $delivery, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $found;

	$expected = qr/\A\Q$expected\E\z/ unless ref $expected;
	wait_until(sub { ($found = attempts($node, $db, $delivery)) =~ $expected });
	return like($found, $expected, $name);
}

# -- processes -------------------------------------------------------------------------------

# One that says "ready" and a port, and ends with its standard input.
sub start_party
{
	my ($name, @command) = @_;
	my $directory = directory_of($name);
	my $party = run_party($name, $directory, map { ref $_ ? $directory : $_ } @command);
	my $line = '';

	wait_until(
		sub {
			sysread($party->{out}, $line, 100, length $line) if IO::Select->new($party->{out})->can_read(0.1);
			return $line =~ /\n/;
		},
		$name);
	($party->{port}) = $line =~ /^ready (\d+)$/ or die "$name says: $line";
	return $party;
}

# The kernel ends it, should this process die. What it says of errors is this
# test's.
sub run_party
{
	my ($name, $directory, @command) = @_;
	my %party = (name => $name, directory => $directory, from => 0, lines => [], owner => $$);

	pipe(my $stdin, $party{in}) or die "$!";
	pipe($party{out}, my $stdout) or die "$!";
	$party{pid} = fork() // die "could not fork: $!";
	if ($party{pid} == 0)
	{
		local $ENV{NODE_PATH} = ($ENV{EVINBOX_MODULES} // '') . '/node_modules';
		open(STDIN, '<&', $stdin) and open(STDOUT, '>&', $stdout) or POSIX::_exit(1);
		close $party{in};
		$SIG{TERM} = $SIG{INT} = $SIG{PIPE} = 'DEFAULT';
		exec('setpriv', '--pdeathsig', 'KILL', '--', @command) or POSIX::_exit(1);
	}
	push @running, \%party;
	return \%party;
}

sub stop_party
{
	my ($party) = @_;

	return if !$party->{pid} || $party->{owner} != $$;
	kill 'KILL', $party->{pid};
	waitpid($party->{pid}, 0);
	$party->{pid} = undef;
}

END
{
	my $status = $?;

	stop_party($_) foreach @running;
	$? = $status;
}

sub directory_of
{
	my ($name) = @_;
	my $directory = PostgreSQL::Test::Utils::tempdir() . "/$name";

	mkdir $directory or die "$directory: $!";
	return $directory;
}

# Users have no path to those of the system.
sub program
{
	my ($name) = @_;

	return (grep { -x } map { "$_/$name" } split(/:/, $ENV{PATH}), '/usr/sbin')[0] // die "no $name";
}

sub listen_on
{
	my ($address) = @_;

	return IO::Socket::INET->new(LocalAddr => $address, LocalPort => 0, Listen => 5) // die "$!";
}

sub connects
{
	my ($port) = @_;

	return defined IO::Socket::INET->new(PeerAddr => '127.0.0.1', PeerPort => $port, Timeout => 1);
}

# Without a name for what it waits for, the caller sees whether that came.
sub wait_until
{
	my ($condition, $what) = @_;
	my $end = time + $PostgreSQL::Test::Utils::timeout_default;

	until ($condition->())
	{
		if (time > $end)
		{
			die "timed out waiting for $what" if defined $what;
			return 0;
		}
		usleep(10_000);
	}
	return 1;
}

1;
