# A small HTTP server that receives webhooks, and says what it got.
#
# It is one process, forked by the test, with any number of connections.  What it
# answers is in the path: /status/500, /slow/100 (ms), /hang, /pause/2/3 (status
# 429 with that Retry-After, so many times), /flaky/3 (so many times 500 for each
# message), /switch (the status that is in a file).  All else is 200.
#
# Each request becomes a line of a file, when it is complete and before it is
# answered.
package EvinboxReceiver;

use strict;
use warnings;
use IO::Select;
use IO::Socket::INET;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(time usleep);

my @running;

# usage: EvinboxReceiver->new($directory)
sub new
{
	my ($class, $dir) = @_;
	my $socket = IO::Socket::INET->new(
		LocalAddr => '127.0.0.1', LocalPort => 0, Listen => 128, ReuseAddr => 1)
	  or die "cannot listen: $!";
	my $name = "$dir/received" . int(rand(1e9));
	my $self = bless {
		port => $socket->sockport, log => $name, switch => "$name.status", from => 0,
		lines => [], owner => $$
	}, $class;

	open(my $log, '>>', $self->{log}) or die $!;
	$log->autoflush(1);
	$self->switch(200);
	my $pid = fork() // die "cannot fork: $!";
	if ($pid == 0)
	{
		$SIG{TERM} = 'DEFAULT';
		$SIG{PIPE} = 'IGNORE';
		eval { serve($self, $socket, $log) };
		print STDERR $@;
		require POSIX;
		POSIX::_exit(1);
	}
	$self->{pid} = $pid;
	push @running, $self;
	close $socket;
	return $self;
}

sub url
{
	my ($self, $path) = @_;

	return "http://127.0.0.1:$self->{port}$path";
}

# An endpoint that leads here, to its own name if nothing else is said.
#
# usage: $receiver->add_endpoint($node, $db, $name, column => 'value', ...)
sub add_endpoint
{
	my ($self, $node, $db, $name, %column) = @_;
	my %all = (name => $name, url => $self->url("/$name"), retries => '{50 ms}', %column);
	my @names = sort keys %all;

	$node->safe_psql($db,
			'INSERT INTO evinbox.endpoint (' . join(', ', @names) . ') VALUES ('
		  . join(', ', map { "\$value\$$all{$_}\$value\$" } @names) . ')');
}

# What /switch answers from now on.
sub switch
{
	my ($self, $status) = @_;

	open(my $file, '>', "$self->{switch}.new") or die $!;
	print $file $status;
	close $file;
	rename("$self->{switch}.new", $self->{switch}) or die $!;
}

# All that it got, as hashes with t, path, id, body, headers.
sub received
{
	my ($self, $path) = @_;

	open(my $log, '<', $self->{log}) or die $!;
	seek($log, $self->{from}, 0);
	while (my $line = <$log>)
	{
		last unless $line =~ /\n\z/;
		$self->{from} += length $line;
		push @{ $self->{lines} }, decode_json($line);
	}
	return grep { !defined $path || $_->{path} eq $path } @{ $self->{lines} };
}

# What it got until now does not count any more.
sub forget
{
	my ($self) = @_;

	$self->received;
	$self->{lines} = [];
}

# Polls until it got so many of a path, or more.
sub wait_for
{
	my ($self, $path, $count, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @got;

	foreach (1 .. 100 * $PostgreSQL::Test::Utils::timeout_default)
	{
		@got = $self->received($path);
		last if @got >= $count;
		usleep(10_000);
	}
	return Test::More::cmp_ok(scalar @got, '>=', $count, $name);
}

sub stop
{
	my ($self) = @_;

	return if !$self->{pid} || $$ != $self->{owner};
	kill 'KILL', $self->{pid};
	waitpid($self->{pid}, 0);
	$self->{pid} = undef;
}

END
{
	my $status = $?;
	$_->stop foreach @running;
	$? = $status;
}

# -- the process ----------------------------------------------------------------------------

sub serve
{
	my ($self, $listener, $log) = @_;
	my $select = IO::Select->new($listener);
	my %buffer;
	my %left;
	my @later;

	while (1)
	{
		my $wait = 10;

		foreach my $item (@later)
		{
			my $left = $item->{at} - time;
			$wait = $left if $left < $wait;
		}
		foreach my $socket ($select->can_read($wait > 0 ? $wait : 0))
		{
			if ($socket == $listener)
			{
				my $new = $listener->accept or next;
				$select->add($new);
				$buffer{$new} = '';
				next;
			}
			my $size = sysread($socket, $buffer{$socket}, 65536, length $buffer{$socket});
			if (!$size)
			{
				$select->remove($socket);
				@later = grep { $_->{socket} != $socket } @later;
				delete $buffer{$socket};
				close $socket;
				next;
			}
			while (my $request = take_request(\$buffer{$socket}))
			{
				print $log encode_json($request) . "\n";
				my ($status, $delay, $extra) = answer($self, $request, \%left);
				next unless defined $status;
				if ($delay)
				{
					push @later, { at => time + $delay, socket => $socket, status => $status };
					next;
				}
				respond($socket, $status, $extra);
			}
		}
		my @due = grep { $_->{at} <= time } @later;
		@later = grep { $_->{at} > time } @later;
		respond($_->{socket}, $_->{status}, '') foreach @due;
	}
}

# the first complete one of a buffer
sub take_request
{
	my ($buffer) = @_;

	return unless $$buffer =~ /\A(\S+) (\S+) HTTP\/1.1\r\n(.*?)\r\n\r\n/s;
	my ($method, $path, $head, $start) = ($1, $2, $3, $+[0]);
	my %headers = map { /^([^:]+):\s*(.*)$/ ? (lc $1 => $2) : () } split /\r\n/, $head;
	my $length = $headers{'content-length'} // 0;

	return if length($$buffer) < $start + $length;
	my $body = substr($$buffer, $start, $length);
	$$buffer = substr($$buffer, $start + $length);
	utf8::decode($body);
	return { t => time, method => $method, path => $path, headers => \%headers,
		id => $headers{'webhook-id'}, body => $body };
}

# status, delay in seconds and further headers; no status for none at all
sub answer
{
	my ($self, $request, $left) = @_;
	my $path = $request->{path};

	return ($1) if $path =~ m{^/status/(\d+)};
	return (200, $1 / 1000) if $path =~ m{^/slow/(\d+)};
	return () if $path =~ m{^/hang};
	if ($path =~ m{^/pause/(\d+)/(\d+)})
	{
		$left->{$path} //= $2;
		return (429, 0, "Retry-After: $1\r\n") if $left->{$path}-- > 0;
	}
	if ($path =~ m{^/flaky/(\d+)})
	{
		my $key = "$path " . ($request->{id} // $request->{body});
		$left->{$key} //= $1;
		return (500) if $left->{$key}-- > 0;
	}
	if ($path =~ m{^/switch})
	{
		open(my $file, '<', $self->{switch}) or die $!;
		return (scalar <$file>);
	}
	return (200);
}

sub respond
{
	my ($socket, $status, $extra) = @_;

	$extra //= '';
	my $body = "answer $status";
	syswrite($socket, "HTTP/1.1 $status Whatever\r\n${extra}Content-Length: "
		  . length($body) . "\r\n\r\n$body");
}

1;
