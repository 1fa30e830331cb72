# Writers that know what they did.
#
# A writer is a process of its own with a session at a time, in which it records
# events in transactions of many kinds.  It survives its server: whatever it has
# lost is looked up when the server is back.  What became of each transaction is
# written to a file, in the order of the commits:
#
#   transaction <tab> outcome <tab> events <tab> 1 if it was prepared
#
# The outcome is "committed", "undone", or what a crash may take back or have
# decided, "perhaps": all events or none.
#
# Each event tells whose it is: its metadata have the writer (w), the number of
# its transaction (t) and its own number in it (k).  An id does not tell: after
# a crash, one of a transaction that was not committed may be given again.
package EvinboxHistory;

use strict;
use warnings;
use Exporter 'import';
use IPC::Run;
use POSIX ();
use Time::HiRes qw(usleep);

our @EXPORT = qw(start_writer stop_writers $subjects);

our $subjects = 12;

# more prepared transactions than this at a time are brought to an end
my $most_pending = 3;

my @levels = ('READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE');
my %writers;

# usage: start_writer($connstr, $number, $seed, $directory)
sub start_writer
{
	my ($connstr, $number, $seed, $directory) = @_;
	my $pid = fork();

	die "could not fork: $!" unless defined $pid;
	if ($pid == 0)
	{
		# not exit(): that would stop the parent's servers
		my $good = eval { write_history($connstr, $number, $seed, $directory); 1 };
		print STDERR "# writer $number: $@" unless $good;
		POSIX::_exit($good ? 0 : 1);
	}
	$writers{$pid} = $directory;
}

# Has them end what they have begun.  Returns how many did not end well.
sub stop_writers
{
	my $failed = 0;

	foreach my $pid (keys %writers)
	{
		open(my $stop, '>', "$writers{$pid}/stop") or die "could not write: $!";
		close($stop);
	}
	foreach my $pid (keys %writers)
	{
		waitpid($pid, 0);
		$failed++ if $? != 0;
	}
	%writers = ();
	return $failed;
}

sub write_history
{
	my ($connstr, $number, $seed, $directory) = @_;
	my $self = {
		connstr => $connstr,
		w => $number,
		t => 0,
		pending => {},
		parent => getppid(),
		script => "$directory/script.$number",
		stop => "$directory/stop",
	};

	srand($seed * 1000 + $number);
	open($self->{file}, '>', "$directory/history.$number") or die "could not write: $!";
	$self->{file}->autoflush(1);
	until (-e $self->{stop})
	{
		run_session($self);
		usleep(int rand 100_000);
	}
	end_pending($self);
	close($self->{file});
}

# -- sessions ----------------------------------------------------------------------

# A session of some transactions.
sub run_session
{
	my ($self) = @_;
	my $is_async = rand() < 0.3;
	my $script = "SET lock_timeout = '3s';\nSET statement_timeout = '20s';\n";
	my @begun;

	$script .= "SET synchronous_commit = off;\n" if $is_async;
	foreach (1 .. 2 + int rand 8)
	{
		my ($sql, $transaction) = one_transaction($self);

		$script .= $sql;
		push @begun, $transaction;
		if (keys %{ $self->{pending} } > rand $most_pending)
		{
			my @all = sort { $a <=> $b } keys %{ $self->{pending} };
			$script .= end_prepared($self, $all[ rand @all ]);
		}
	}

	my ($output, $is_whole) = psql($self, $script);
	read_answers($self, $output, $is_async, @begun);
	look_up_lost($self) unless $is_whole;
}

# Returns the output, and whether the session came to its end.
sub psql
{
	my ($self, $script) = @_;
	my ($output, $errors) = ('', '');

	die "the test is gone\n" if getppid() != $self->{parent};
	open(my $file, '>', $self->{script}) or die "could not write: $!";
	print $file "$script\\echo end\n";
	close($file);

	# not through a pipe, which breaks when there is no server
	IPC::Run::run(
		[ 'psql', '-XAtq', '-f', $self->{script}, '-d', "$self->{connstr} application_name=writer" ],
		'<', \undef, '>', \$output, '2>', \$errors);
	return ($output, $output =~ /^end$/m);
}

# What psql said of each transaction, in the order of their ends.
sub read_answers
{
	my ($self, $output, $is_async, @begun) = @_;
	my %begun = map { $_->{t} => $_ } @begun;

	foreach my $line (split /\n/, $output)
	{
		my ($verb, $t, $is_alive, $is_error) = $line =~ /^(committed|prepared|ended) (\d+) (\S+) (\S+)$/
		  or next;
		my $is_good = $is_alive eq 'yes' && $is_error eq 'false';
		my $pending = $self->{pending}{$t};

		delete $begun{$t};
		if ($verb eq 'committed')
		{
			my ($given) = grep { $_->{t} == $t } @begun;
			put_down($self, $given, !$is_good || $given->{rolls_back} ? 'undone'
				: $is_async ? 'perhaps' : 'committed');
		}
		elsif ($verb eq 'prepared')
		{
			if ($is_good) { $pending->{is_prepared} = 1; }
			else { finish_pending($self, $t, 'undone'); }
		}
		elsif ($pending && $is_good)
		{
			finish_pending($self, $t, $pending->{verdict});
		}
		elsif ($pending)
		{
			# the lock of another was in the way, or so
			delete $pending->{verdict};
		}
	}

	# Of these nothing is known; if they were to be prepared, that is looked up.
	foreach my $t (sort { $a <=> $b } keys %begun)
	{
		put_down($self, $begun{$t}, 'perhaps') unless $self->{pending}{$t};
	}
}

# The server is gone, or was: what has become of the prepared transactions?
sub look_up_lost
{
	my ($self) = @_;
	my ($output, $is_whole);

	do
	{
		usleep(50_000);
		($output, $is_whole) = psql($self, "SELECT gid FROM pg_prepared_xacts;\n");
	} until ($is_whole);

	foreach my $t (sort { $a <=> $b } keys %{ $self->{pending} })
	{
		my $pending = $self->{pending}{$t};
		my $is_there = $output =~ /^w$self->{w}\.$t$/m;

		if ($is_there)
		{
			$pending->{is_prepared} = 1;
			delete $pending->{verdict};
		}
		elsif (!$pending->{is_prepared})
		{
			# or it was prepared and ended, and neither was heard of
			finish_pending($self, $t, $pending->{verdict} ? 'perhaps' : 'undone');
		}
		else
		{
			die "prepared transaction $t was lost\n" unless $pending->{verdict};
			finish_pending($self, $t, $pending->{verdict});
		}
	}

	# others may be waiting for their locks
	end_pending($self) if grep { $_->{has_lock} } values %{ $self->{pending} };
}

sub end_pending
{
	my ($self) = @_;

	while (my @all = sort { $a <=> $b } keys %{ $self->{pending} })
	{
		my ($output, $is_whole) = psql($self, join('', map { end_prepared($self, $_) } @all));

		read_answers($self, $output, 0);
		look_up_lost($self) unless $is_whole;
	}
}

sub finish_pending
{
	my ($self, $t, $outcome) = @_;

	put_down($self, delete $self->{pending}{$t}, $outcome);
}

sub put_down
{
	my ($self, $transaction, $outcome) = @_;

	print { $self->{file} } join("\t", $transaction->{t}, $outcome,
		$transaction->{kept}, $transaction->{is_prepared} // 0), "\n";
}

# -- transactions ------------------------------------------------------------------

# Returns its text, and what is to be known of it.
sub one_transaction
{
	my ($self) = @_;
	my $given = { t => ++$self->{t}, k => 0, w => $self->{w} };
	my $dice = rand;
	my $sql = 'BEGIN ISOLATION LEVEL ' . $levels[ rand @levels ] . ";\n\\unset alive\n";
	my $body;

	if ($dice < 0.25)
	{
		# in the order of a lock, so not of a snapshot from before it
		$sql = "BEGIN;\n\\unset alive\n";
		($body, $given->{kept}) = count_on($given);
		$given->{has_lock} = 1;
	}
	elsif ($dice < 0.35)
	{
		($body, $given->{kept}) = record_bulk($given);
	}
	elsif ($dice < 0.45)
	{
		# a snapshot from before, an id of its own from before, then a rest
		my ($first, $kept) = rand() < 0.5 ? some_events($given, 0)
		  : ("SELECT pg_current_xact_id();\n", 0);
		my ($rest, $kept_too) = some_events($given, 0);
		$body = "SELECT count(*) FROM evinbox.event WHERE id = 1;\n$first"
		  . 'SELECT pg_sleep(' . rand(1.2) . ");\n$rest";
		$given->{kept} = $kept + $kept_too;
	}
	else
	{
		($body, $given->{kept}) = some_events($given, 0);
	}
	$sql .= "$body\nSELECT 'yes' AS alive \\gset\n";

	if (rand() < 0.2)
	{
		$sql .= "PREPARE TRANSACTION 'w$given->{w}.$given->{t}';\n"
		  . "\\echo prepared $given->{t} :alive :ERROR\n";
		$self->{pending}{ $given->{t} } = $given;
		$sql .= end_prepared($self, $given->{t}) if $given->{has_lock} || rand() < 0.3;
	}
	else
	{
		$given->{rolls_back} = rand() < 0.15;
		$sql .= ($given->{rolls_back} ? 'ROLLBACK' : 'COMMIT')
		  . ";\n\\echo committed $given->{t} :alive :ERROR\n";
	}
	return ($sql, $given);
}

# The end of a prepared transaction, decided when it is first tried.
sub end_prepared
{
	my ($self, $t) = @_;
	my $pending = $self->{pending}{$t};

	return '' if $pending->{verdict};
	$pending->{verdict} = rand() < 0.7 ? 'committed' : 'undone';
	return ($pending->{verdict} eq 'committed' ? 'COMMIT' : 'ROLLBACK')
	  . " PREPARED 'w$pending->{w}.$t';\n\\echo ended $t yes :ERROR\n";
}

# Returns statements, and the number of events that are left of them.
sub some_events
{
	my ($given, $depth) = @_;
	my ($sql, $kept) = ('', 0);

	foreach (1 .. 1 + int rand 3)
	{
		if ($depth < 3 && rand() < 0.35)
		{
			my $name = "s$depth";
			my ($inner, $inner_kept) = some_events($given, $depth + 1);

			$sql .= "SAVEPOINT $name;\n$inner";
			if (rand() < 0.4) { $sql .= "ROLLBACK TO $name;\n"; }
			else
			{
				$sql .= "RELEASE $name;\n" if rand() < 0.5;
				$kept += $inner_kept;
			}
		}
		else
		{
			$sql .= one_event($given);
			$kept++;
		}
	}
	return ($sql, $kept);
}

sub metadata
{
	my ($given, $more) = @_;

	$given->{k}++;
	return qq({"w": $given->{w}, "t": $given->{t}, "k": $given->{k}@{[ $more // '' ]}});
}

# in one of the three ways
sub one_event
{
	my ($given) = @_;
	my $metadata = metadata($given);
	my $subject = 'S' . int rand $subjects;
	my $dice = rand;

	return "COPY evinbox.event (subject_type, subject_id, action, metadata) FROM stdin;\n"
	  . "Thing\t$subject\tdone\t$metadata\n\\.\n"
	  if $dice < 0.1;
	return "INSERT INTO evinbox.event (subject_type, subject_id, action, metadata)"
	  . " VALUES ('Thing', '$subject', 'done', '$metadata');\n"
	  if $dice < 0.3;
	return "SELECT evinbox.record_event('Thing', '$subject', 'done', metadata => '$metadata');\n";
}

sub record_bulk
{
	my ($given) = @_;
	my $count = 1 + int rand 80;

	return (<<EOS, $count);
INSERT INTO evinbox.event (subject_type, subject_id, action, metadata)
SELECT 'Thing', 'S' || g % $subjects, 'done',
	jsonb_build_object('w', $given->{w}, 't', $given->{t}, 'k', g)
FROM generate_series(1, $count) g;
EOS
}

# Whoever has the row's lock has the next number.
sub count_on
{
	my ($given) = @_;
	my $subject = 'S' . int rand $subjects;
	my $metadata = metadata($given, ', "c": \' || :c || \'');

	return (<<EOS, 1);
SELECT value + 1 AS c FROM counter WHERE subject = '$subject' FOR UPDATE \\gset
SELECT evinbox.record_event('Thing', '$subject', 'done', metadata => ('$metadata')::jsonb);
UPDATE counter SET value = :c WHERE subject = '$subject';
EOS
}

1;
