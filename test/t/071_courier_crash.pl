# Whatever dies while calls are under way: each committed request is sent, none
# that was rolled back is, and what is repeated has the same message id.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use EvinboxReceiver;
use EvinboxTest;

# What was committed counts, whether or not it was waited for.
my $node = evinbox_node('main', <<'EOS');
restart_after_crash = on
fsync = on
log_min_messages = warning
evinbox.webhook_allow = '127.0.0.0/8'
evinbox.webhook_allow_http = on
EOS
my $db = 'postgres';
my $receiver = EvinboxReceiver->new($node->basedir);

install_evinbox($node, $db);
$node->safe_psql($db, <<"EOS");
CREATE TABLE public.sent (id bigint PRIMARY KEY);
INSERT INTO evinbox.endpoint (name, url, timeout, retries, max_in_flight)
VALUES ('fast', '@{[ $receiver->url('/fast') ]}', '5 s', '{100 ms}', 10),
	('slow', '@{[ $receiver->url('/slow/50') ]}', '5 s', '{100 ms}', 10);
EOS

# One in three is rolled back; the body tells which.
my $writer = <<'EOS';
\set n random(1, 1000000000)
BEGIN;
INSERT INTO public.sent SELECT evinbox.http_request('fast', 'kept ' || :n);
COMMIT;
BEGIN;
SELECT evinbox.http_request('fast', 'undone ' || :n);
ROLLBACK;
BEGIN;
SELECT evinbox.http_request('slow', 'kept ' || :n);
SAVEPOINT a;
SELECT evinbox.http_request('slow', 'undone ' || :n);
ROLLBACK TO a;
COMMIT;
EOS

# A server that has just crashed may close the pipe in which psql is to find the query.
sub wait_for_server
{
	foreach (1 .. 5)
	{
		return if eval { $node->poll_query_until($db, 'SELECT true') };
	}
	die 'the server did not come back';
}

# Has writers at work, and calls under way, and calls the killer.
sub crash
{
	my ($what, $options, $killer) = @_;
	my $before = $receiver->received('/fast');

	local $ENV{PGOPTIONS} = $options;
	my $bench = start_pgbench($node, $db, $writer, '-c', 2, '-t', 1000000, '-R', 150);
	$receiver->wait_for('/fast', $before + 100, "$what: calls are under way");
	$killer->();
	IPC::Run::finish($bench->{handle});
	delete local $ENV{PGOPTIONS};

	wait_for_server();
	wait_for($node, $db, <<'EOQ', "$what: each request is delivered");
SELECT NOT EXISTS (SELECT FROM evinbox_internal.request r WHERE NOT EXISTS
	(SELECT FROM evinbox_internal.webhook_attempt a WHERE a.request_id = r.id AND a.outcome = 'delivered'))
EOQ
	my (%times, %requests);
	foreach my $got ($receiver->received)
	{
		$times{ $got->{id} // 'none' }++;
		push @{ $requests{"$got->{path} $got->{body}"} }, $got;
	}
	is(scalar(grep { /undone/ } keys %requests), 0, "$what: nothing that was rolled back is sent");
	my $known = $node->safe_psql($db, 'SELECT string_agg(message_id, \' \') FROM evinbox_internal.request');
	my %known = map { $_ => 1 } split / /, $known;
	is(scalar(grep { !$known{$_} } keys %times), 0, "$what: nothing that the crash took back was sent");
	is(scalar(grep { !$times{$_} } keys %known), 0, "$what: nothing is missing");
	my $repeated = grep { $_ > 1 } values %times;
	note "$what: $repeated of @{[ scalar keys %times ]} were sent twice";
	cmp_ok($repeated, '<=', 60, "$what: few are repeated");
	is_sql($node, $db, 'SELECT count(*) FROM evinbox_internal.request_waiting', '0', "$what: nothing waits");
	$node->safe_psql($db, 'TRUNCATE evinbox_internal.request, evinbox_internal.webhook_attempt, public.sent');
	$receiver->forget;
}

my $waiting = '-c synchronous_commit=on';
my $not_waiting = '-c synchronous_commit=off';

crash('kill -9 of the courier', $waiting, sub { kill 'KILL', pids_of($node, 'courier') });
crash('kill -9 of the courier, commits that do not wait', $not_waiting,
	sub { kill 'KILL', pids_of($node, 'courier') });
crash('immediate shutdown', $not_waiting, sub { $node->stop('immediate'); $node->start; });
crash('kill -9 of the postmaster', $not_waiting, sub {
		$node->kill9;
		ok(poll_start($node), 'the server starts again');
	});

# -- one that ends the server whenever it is sent -----------------------------------------

# Here it is the test that does so, whenever it arrives.
$node->safe_psql($db, "UPDATE evinbox.endpoint SET url = '@{[ $receiver->url('/hang') ]}', max_attempts = 3 WHERE name = 'slow'");
my $poison = $node->safe_psql($db, "SELECT evinbox.http_request('slow', 'poison'::text)");
my $fast;
foreach my $round (1 .. 4)
{
	$receiver->wait_for('/hang', $round, "poison, round $round: it is sent");
	kill 'KILL', pids_of($node, 'courier');
	wait_for_server();
}
wait_for($node, $db, "SELECT state = 'dead' FROM evinbox_internal.request_waiting WHERE request_id = $poison",
	'poison: it is given up');
is_sql($node, $db, "SELECT last_error FROM evinbox_internal.request_waiting",
	'the server or its courier has ended whenever this was sent', 'poison: and says why');

# Here it is an error when its result is recorded.
$node->safe_psql($db, <<"EOS");
ALTER TABLE evinbox_internal.webhook_attempt ADD CHECK (status IS DISTINCT FROM 418);
UPDATE evinbox.endpoint SET url = '@{[ $receiver->url('/status/418') ]}', enabled = true WHERE name = 'slow';
EOS
my $teapot = $node->safe_psql($db, "SELECT evinbox.http_request('slow', 'x'::text)");
wait_for($node, $db, "SELECT state = 'dead' FROM evinbox_internal.request_waiting WHERE request_id = $teapot",
	'one that ends the courier only: it is given up');
is(scalar $receiver->received('/status/418'), 4, 'after some attempts');
$fast = $receiver->received('/fast');
$node->safe_psql($db, "SELECT evinbox.http_request('fast', 'x'::text)");
$receiver->wait_for('/fast', $fast + 1, 'and others are sent');

my @bad = grep { /PANIC:|TRAP:|terminated by signal (?!9)|XX000|cache lookup failed/ } split /\n/,
  slurp_file($node->logfile);
is("@bad", '', 'the log is clean');
$node->stop;
done_testing();
