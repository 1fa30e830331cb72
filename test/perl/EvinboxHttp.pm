# What the tests of the library evinbox_http have in common: servers on loopback,
# which do what a test says, and the driver, which calls them (test/http/driver.c).
package EvinboxHttp;

use strict;
use warnings;

use Exporter 'import';
use IO::Select;
use IO::Socket::INET;
use IPC::Open2;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(
  start_server read_request answer start_driver call wait_for_calls call_now ask
  like_result stop_all
);

my @groups;

# -- servers --------------------------------------------------------------------

# A process that answers each connection to a port, in a process for each.
#
# usage: start_server(sub { my ($socket) = @_; ... }, $address)
# returns the port
sub start_server
{
	my ($serve, $address) = @_;
	my $listener = IO::Socket::INET->new(
		LocalAddr => $address // '127.0.0.1',
		Listen => 100,
		ReuseAddr => 1) or die "could not listen: $!";
	my $parent = $$;
	my $pid = fork // die "could not fork: $!";

	if ($pid == 0)
	{
		setpgrp;
		$SIG{CHLD} = 'IGNORE';
		$SIG{PIPE} = 'IGNORE';
		$SIG{TERM} = 'DEFAULT';
		while (getppid == $parent)    # else nobody would end us
		{
			next unless IO::Select->new($listener)->can_read(1);
			my $socket = $listener->accept;
			next if !$socket || fork;
			close $listener;
			binmode $socket;
			$socket->autoflush(1);
			eval { $serve->($socket) };
			POSIX::_exit(0);
		}
		POSIX::_exit(0);
	}
	push @groups, $pid;
	return $listener->sockport;
}

# The next request of a connection, or nothing if it ends.
sub read_request
{
	my ($socket) = @_;
	my $head = '';
	my %request = (body => '');

	while ($head !~ /\r\n\r\n\z/)
	{
		my $line = <$socket>;
		return unless defined $line;
		$head .= $line;
	}
	$request{head} = $head;
	($request{method}, $request{path}) = $head =~ /^(\S+) (\S+) HTTP/;
	if ($head =~ /^content-length: (\d+)\r$/mi)
	{
		read($socket, $request{body}, $1) == $1 or return;
	}
	return \%request;
}

# usage: answer($socket, $status, $body, @headers)
sub answer
{
	my ($socket, $status, $body, @headers) = @_;

	print $socket join("\r\n",
		"HTTP/1.1 $status Whatever", @headers,
		"Content-Length: " . length $body, '', $body);
}

# -- the driver -------------------------------------------------------------------

# usage: start_driver(name => value, ...), as its command "open" has them
sub start_driver
{
	my (%options) = @_;
	my $program = ($ENV{TESTDIR} // '.') . '/test/http/driver';
	my ($directory) = run_command([ 'pg_config', '--pkglibdir' ]);
	my %driver = (running => 0);

	# Nobody is at these, and nobody is to be asked.
	local @ENV{qw(http_proxy https_proxy HTTPS_PROXY all_proxy ALL_PROXY)} = ('http://127.0.0.1:1') x 5;

	-x $program or BAIL_OUT("make test/http/driver first");
	$driver{pid} = open2($driver{out}, $driver{in}, $program, "$directory/evinbox_http.so");
	push @groups, $driver{pid};
	my ($open) = ask(\%driver, 'open', %options);
	$open =~ /^open\t-\tversion=1$/ or die "the library does not open: $open";
	return \%driver;
}

# Starts a call.  Returns a result if there is none to come.
sub call
{
	my ($driver, %call) = @_;

	command($driver, 'call', %call);
	$driver->{running}++;
}

# All results, by tag, of calls that have not been waited for, and in order beside
# that; and what the driver says of the wait.
sub wait_for_calls
{
	my ($driver) = @_;
	my (%results, @order, %end);

	command($driver, 'wait');
	while (1)
	{
		my $line = hear($driver);
		my ($word, %fields) = parse($line);

		if ($word eq 'end')
		{
			$driver->{running} = 0;
			return (\%results, \@order, \%fields);
		}
		$fields{word} = $word;
		$results{ $fields{tag} } = \%fields;
		push @order, $fields{tag};
	}
}

# One call, and its result.
sub call_now
{
	my ($driver, %call) = @_;

	call($driver, tag => 'now', %call);
	my ($results) = wait_for_calls($driver);
	return $results->{now};
}

# A command that is answered by one line; returns it, and its fields.
sub ask
{
	my ($driver, @command) = @_;

	command($driver, @command);
	my $line = hear($driver);
	my (undef, %fields) = parse($line);
	return ($line, \%fields);
}

# usage: like_result($result, { field => 'value' or qr//, ... }, $name)
sub like_result
{
	my ($result, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @wrong = grep {
		my $got = $result->{$_} // 'nothing';
		ref $expected->{$_} ? $got !~ $expected->{$_} : $got ne $expected->{$_}
	} sort keys %$expected;

	ok(!@wrong, $name)
	  or diag join "\n", map { "$_ is " . ($result->{$_} // 'nothing') . ", not $expected->{$_}" } @wrong,
	  grep { defined $result->{$_} } 'error';
}

# usage: command($driver, $word, name => value, ...) or, with one field, $word, $value
sub command
{
	my ($driver, $word, @fields) = @_;
	my @texts = ($word);

	while (@fields)
	{
		my $name = shift @fields;

		if (ref $name)    # not named
		{
			push @texts, escape($$name);
			next;
		}
		my $value = shift @fields;
		push @texts, map { "$name=" . escape($_) } ref $value ? @$value : $value;
	}
	print { $driver->{in} } join("\t", @texts), "\n";
	$driver->{in}->flush;
}

sub hear
{
	my ($driver) = @_;
	my $line;

	local $SIG{ALRM} = sub { die "the driver does not answer" };
	alarm $PostgreSQL::Test::Utils::timeout_default;
	$line = readline $driver->{out};
	alarm 0;
	die 'the driver has ended' unless defined $line;
	chomp $line;
	return $line;
}

sub parse
{
	my ($word, @fields) = split /\t/, $_[0];

	return ($word, map { /^([^=]+)=(.*)$/s ? ($1, unescape($2)) : () } @fields);
}

sub escape
{
	my ($text) = @_;

	$text =~ s/([\\\t\r\n]|[^ -~])/sprintf '\\x%02x', ord $1/ge;
	return $text;
}

sub unescape
{
	my ($text) = @_;

	$text =~ s/\\x([0-9a-f]{2})/chr hex $1/ge;
	return $text;
}

# What a test has started ends with it.
sub stop_all
{
	foreach my $pid (@groups)
	{
		kill 'KILL', -$pid, $pid;
		waitpid $pid, 0;
	}
	@groups = ();
}

END
{
	my $status = $?;

	stop_all();
	$? = $status;
}

1;
