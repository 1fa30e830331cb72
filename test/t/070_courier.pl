# Requests are sent once they are committed, and what comes of them is on record.

use strict;
use warnings;
use Digest::SHA qw(hmac_sha256);
use MIME::Base64;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use EvinboxReceiver;
use EvinboxTest;

my $node = evinbox_node('main', <<'EOS');
evinbox.webhook_allow = '127.0.0.0/8'
evinbox.webhook_allow_http = on
log_min_messages = warning
EOS
my $db = 'app';
my $receiver = EvinboxReceiver->new($node->basedir);

$node->safe_psql('postgres', "CREATE DATABASE $db");
install_evinbox($node, $db);

# usage: add_endpoint($name, column => 'value', ...)
sub add_endpoint
{
	my ($name, @columns) = @_;

	$receiver->add_endpoint($node, $db, $name, @columns);
}

sub request
{
	my ($target, $body) = @_;

	return $node->safe_psql($db, "SELECT evinbox.http_request('$target', '$body'::text)");
}

# an attempt's outcome and status, one after the other
sub attempts
{
	my ($request) = @_;

	return $node->safe_psql($db,
		"SELECT string_agg(concat_ws(' ', number, outcome, status), ', ' ORDER BY number)"
		  . " FROM evinbox_internal.webhook_attempt WHERE request_id = $request");
}

sub wait_for_attempts
{
	my ($request, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$node->poll_query_until($db,
		"SELECT string_agg(concat_ws(' ', number, outcome, status), ', ' ORDER BY number) = '$expected'"
		  . " FROM evinbox_internal.webhook_attempt WHERE request_id = $request");
	is(attempts($request), $expected, $name);
}

# -- coming and going ------------------------------------------------------------------

wait_for_workers($node, "coordinator\@$db", 'without endpoints and requests, there is no courier');
my $first = request($receiver->url('/plain'), 'hello');
$receiver->wait_for('/plain', 1, 'a request is sent');
wait_for_workers($node, "coordinator\@$db courier\@$db", 'by a courier');
wait_for_attempts($first, '1 delivered 200', 'and that is on record');
is_sql($node, $db, 'SELECT count(*) FROM evinbox_internal.request_waiting', '0', 'success leaves nothing else');
my ($got) = $receiver->received('/plain');
is($got->{body}, 'hello', 'with its body');
is($got->{method}, 'POST', 'and method');

$node->safe_psql($db, "BEGIN; SELECT evinbox.http_request('@{[ $receiver->url('/never') ]}', 'x'::text); ROLLBACK");
$node->safe_psql($db, "BEGIN; SAVEPOINT a; SELECT evinbox.http_request('@{[ $receiver->url('/never') ]}', 'x'::text);"
	  . " ROLLBACK TO a; SELECT evinbox.http_request('@{[ $receiver->url('/after') ]}', 'x'::text); COMMIT");
$receiver->wait_for('/after', 1, 'what comes after a savepoint that is rolled back');
is(scalar $receiver->received('/never'), 0, 'nothing that is rolled back is sent');

# -- what is committed in another order --------------------------------------------------

my $late = $node->background_psql($db);
$late->query_safe("BEGIN; SELECT evinbox.http_request('@{[ $receiver->url('/late') ]}', 'x'::text)");
request($receiver->url('/early'), $_) foreach 1 .. 3;
$receiver->wait_for('/early', 3, 'a transaction that is open keeps nobody waiting');
$late->query_safe('COMMIT');
$late->quit;
$receiver->wait_for('/late', 1, 'and what it has is sent when it commits');

$node->safe_psql($db, "BEGIN; SELECT evinbox.http_request('@{[ $receiver->url('/prepared') ]}', 'x'::text);"
	  . " PREPARE TRANSACTION 'p'");
$node->safe_psql($db, "COMMIT PREPARED 'p'");
$receiver->wait_for('/prepared', 1, 'a prepared transaction');

# -- failures --------------------------------------------------------------------------

add_endpoint('flaky', url => $receiver->url('/flaky/2'));
wait_for_attempts(request('flaky', 'a'), '1 retry 500, 2 retry 500, 3 delivered 200', 'retries');
is_sql($node, $db, 'SELECT count(*) FROM evinbox_internal.request_waiting', '0', 'that succeed in the end leave nothing');
is(scalar(keys %{ { map { ($_->{id} // '') => 1 } $receiver->received('/flaky/2') } }), 1, 'all under the same id');

add_endpoint('bad', url => $receiver->url('/status/500'), max_attempts => 3);
my $bad = request('bad', 'a');
wait_for_attempts($bad, '1 retry 500, 2 retry 500, 3 dead 500', 'a dead letter');
is_sql($node, $db, 'SELECT state, attempts, last_error FROM evinbox_internal.request_waiting', 'dead|3|status 500',
	'which is kept');
is_sql($node, $db, 'SELECT failures FROM evinbox_internal.endpoint_state', '3', 'the endpoint is known to fail');

add_endpoint('moved', url => $receiver->url('/status/302'), max_attempts => 1);
wait_for_attempts(request('moved', 'a'), '1 dead 302', 'redirects are not followed');

add_endpoint('gone', url => $receiver->url('/status/410'));
wait_for_attempts(request('gone', 'a'), '1 dead 410', 'status 410 is final');
is_sql($node, $db, "SELECT enabled, disabled_reason FROM evinbox.endpoint WHERE name = 'gone'",
	'f|the endpoint has answered that it is gone (status 410)', 'and disables the endpoint');
is_sql($node, $db, "SELECT subject_id, action, metadata FROM evinbox.event WHERE subject_type = 'evinbox.endpoint'",
	'gone|disabled|{"reason": "the endpoint has answered that it is gone (status 410)"}', 'which is an event');

add_endpoint('refused', url => 'http://192.168.0.1/');
$node->safe_psql($db, "SELECT 1");
my $refused = request('refused', 'a');
wait_for_attempts($refused, '1 dead', 'an address that is not allowed');

my $erased = $node->safe_psql($db, "BEGIN; SELECT evinbox.http_request('@{[ $receiver->url('/erased') ]}', 'x'::text);"
	  . " UPDATE evinbox_internal.request SET body = NULL WHERE url LIKE '%/erased'; COMMIT");
wait_for_attempts($erased, '1 dead', 'an event that was erased');
my $large = $node->safe_psql($db, "BEGIN; SELECT evinbox.http_request('@{[ $receiver->url('/large') ]}', 'x'::text);"
	  . " UPDATE evinbox_internal.request SET body = repeat('x', 1048577) WHERE url LIKE '%/large'; COMMIT");
wait_for_attempts($large, '1 dead', 'a body that is too large');
is(scalar $receiver->received('/erased') + $receiver->received('/large'), 0, 'neither is sent');

# -- a rule, and signatures --------------------------------------------------------------

sub signature
{
	my ($secret, $got) = @_;
	my $key = decode_base64($secret =~ s/^whsec_//r);
	my $text = "$got->{id}.$got->{headers}{'webhook-timestamp'}.$got->{body}";

	utf8::encode($text);
	return 'v1,' . encode_base64(hmac_sha256($text, $key), '');
}

add_endpoint('signed', actions => '{opened}', headers => '{"X-One": "1", "x-two": "2"}');
my $secret = $node->safe_psql($db, "SELECT evinbox.set_endpoint_secret('signed')");
add_inbox($node, $db, 'hooks', handler => 'evinbox.webhook', config => '{}', actions => '{opened}');
record($node, $db, 'one', 'opened');
$receiver->wait_for('/signed', 1, 'a rule sends');
my ($signed) = $receiver->received('/signed');
is($signed->{headers}{'webhook-signature'}, signature($secret, $signed), 'signed');
like($signed->{id}, qr/^msg_\w{27}$/, 'with an id');
cmp_ok(abs($signed->{t} - $signed->{headers}{'webhook-timestamp'}), '<', 5, 'and the time');
is(join(' ', map { "$signed->{headers}{$_}" } 'content-type', 'user-agent', 'x-one', 'x-two'),
	'application/json evinbox/1.0 1 2', 'and headers');
my $next = $node->safe_psql($db, "SELECT evinbox.set_endpoint_secret('signed')");
record($node, $db, 'two', 'opened');
$receiver->wait_for('/signed', 2, 'after another secret is set');
(undef, $signed) = $receiver->received('/signed');
is($signed->{headers}{'webhook-signature'}, signature($next, $signed) . ' ' . signature($secret, $signed),
	'both sign');

# -- pauses and the circuit breaker ----------------------------------------------------

add_endpoint('pausing', url => $receiver->url('/pause/1/1'), max_in_flight => 1);
my $pausing = request('pausing', 'a');
wait_for_attempts($pausing, '1 retry 429, 2 delivered 200', 'a pause that was asked for');
my @at = map { $_->{t} } $receiver->received('/pause/1/1');
cmp_ok($at[1] - $at[0], '>=', 0.95, 'it is not tried before');

add_endpoint('broken', url => $receiver->url('/switch'), retries => '{20 ms}');
$receiver->switch(503);
my $broken = request('broken', 'a');
$receiver->switch(500);
wait_for($node, $db, "SELECT failures >= 5 AND closed_until > now() + interval '5 s' FROM evinbox_internal.endpoint_state"
	  . " JOIN evinbox.endpoint ON id = endpoint_id WHERE name = 'broken'", 'an endpoint that fails is closed');
my $tried = scalar $receiver->received('/switch');
$receiver->switch(200);
request('broken', 'b');
request($receiver->url('/meanwhile'), 'x');
$receiver->wait_for('/meanwhile', 1, 'others are sent meanwhile');
is(scalar $receiver->received('/switch'), $tried, 'nothing is sent to it');
$node->safe_psql($db, "SELECT pg_terminate_backend(pid) FROM evinbox.worker_status WHERE kind = 'courier'");
request($receiver->url('/again'), 'x');
$receiver->wait_for('/again', 1, 'another courier');
is(scalar $receiver->received('/switch'), $tried, 'knows that as well');

# Time passes. A courier that is about to end may store what it knows once more.
foreach my $round (1 .. 10)
{
	$node->safe_psql($db, "UPDATE evinbox_internal.endpoint_state SET closed_until = now()");
	$node->safe_psql($db, "SELECT pg_terminate_backend(pid) FROM evinbox.worker_status WHERE kind = 'courier'");
	request($receiver->url("/again/$round"), 'x');
	$receiver->wait_for("/again/$round", 1, 'another courier');
	last if $node->safe_psql($db, "SELECT bool_and(closed_until < now()) IS NOT FALSE FROM evinbox_internal.endpoint_state") eq 't';
}
$receiver->wait_for('/switch', $tried + 2, 'when that is over, it is tried again');
wait_for($node, $db, "SELECT NOT EXISTS (SELECT FROM evinbox_internal.endpoint_state"
	  . " JOIN evinbox.endpoint ON id = endpoint_id WHERE name = 'broken')", 'and is open when that succeeds');

add_endpoint('tired', url => $receiver->url('/status/500?tired'), disable_after => '200 ms', max_attempts => 100);
my $tired = request('tired', 'a');
wait_for($node, $db, "SELECT NOT enabled AND disabled_reason LIKE '%disable_after' FROM evinbox.endpoint WHERE name = 'tired'",
	'one that fails for long is disabled');
is_sql($node, $db, "SELECT state FROM evinbox_internal.request_waiting WHERE request_id = $tired", 'retry', 'what waits for it goes on waiting');
$node->safe_psql($db, "UPDATE evinbox.endpoint SET enabled = true, url = '@{[ $receiver->url('/rested') ]}' WHERE name = 'tired'");
$receiver->wait_for('/rested', 1, 'and is sent when somebody enables it');

# Somebody else has an endpoint locked.
add_endpoint('locked', url => $receiver->url('/status/410?locked'));
my $locker = $node->background_psql($db);
$locker->query_safe("BEGIN; UPDATE evinbox.endpoint SET max_attempts = 5 WHERE name = 'locked'");
my $locked = request('locked', 'a');
wait_for_attempts($locked, '1 dead 410', 'a locked endpoint keeps nobody waiting');
request($receiver->url('/beside'), 'x');
$receiver->wait_for('/beside', 1, 'others least of all');
$locker->query_safe('COMMIT');
$locker->quit;
wait_for($node, $db, "SELECT NOT enabled FROM evinbox.endpoint WHERE name = 'locked'", 'it is disabled afterwards');

# -- where libcurl is -----------------------------------------------------------------------

my @with_curl = grep { slurp_file("/proc/$_/maps") =~ /libcurl/ }
  split /\n/, $node->safe_psql('postgres', 'SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()');
is("@with_curl", join(' ', pids_of($node, 'courier')), 'libcurl is in the courier only');
wait_for($node, 'postgres', "SELECT bool_and(backend_xmin IS NULL) FROM pg_stat_activity WHERE backend_type = 'evinbox courier'",
	'which holds no snapshot while it waits');

# -- the end ---------------------------------------------------------------------------------

request($receiver->url('/hang'), 'x');
$receiver->wait_for('/hang', 1, 'a call is under way');
is_sql($node, $db, 'DROP EXTENSION evinbox CASCADE', '', 'the extension can be dropped while calls are under way');
wait_for_workers($node, '', 'and all leave');
is_healthy($node);
$node->stop;
done_testing();
