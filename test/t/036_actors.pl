# evinbox.actor_source: whether an event's actor is what whoever records it says,
# what the session's setting says, or who has connected.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);
use EvinboxTest;

my $node = evinbox_node('main');
my $db = 'postgres';

install_evinbox($node, $db);
$node->safe_psql($db, <<'EOS');
CREATE ROLE app LOGIN;
CREATE ROLE team;
GRANT team TO app;
GRANT USAGE ON SCHEMA evinbox TO app, team;
GRANT SELECT, INSERT ON evinbox.event TO app, team;
GRANT EXECUTE ON FUNCTION
	evinbox.record_event(text, text, text, text, jsonb, interval, text, jsonb, text, timestamptz),
	evinbox.record_event(text, bigint, text, text, jsonb, interval, text, jsonb, text, timestamptz),
	evinbox.record_event(text, uuid, text, text, jsonb, interval, text, jsonb, text, timestamptz)
	TO app, team;
CREATE FUNCTION public.record_for(actor text) RETURNS bigint LANGUAGE sql SECURITY DEFINER
	AS $$ SELECT evinbox.record_event('Thing', 'definer', 'happened', actor) $$;
EOS

# Each way of recording: without an actor, and with one.
my %record = (
	'text ids' => [
		"SELECT evinbox.record_event('Thing', 'a', 'happened')",
		"SELECT evinbox.record_event('Thing', 'a', 'happened', '%s')"
	],
	'bigint ids' => [
		"SELECT evinbox.record_event('Thing', 1, 'happened')",
		"SELECT evinbox.record_event('Thing', 1, 'happened', '%s')"
	],
	'uuid ids' => [
		"SELECT evinbox.record_event('Thing', '00000000-0000-0000-0000-000000000001'::uuid, 'happened')",
		"SELECT evinbox.record_event('Thing', '00000000-0000-0000-0000-000000000001'::uuid, 'happened', '%s')"
	],
	'INSERT' => [
		"INSERT INTO evinbox.event (subject_type, subject_id, action) VALUES ('Thing', 'a', 'happened')",
		"INSERT INTO evinbox.event (subject_type, subject_id, action, actor) VALUES ('Thing', 'a', 'happened', '%s')"
	],
	'COPY' => [
		"COPY evinbox.event (subject_type, subject_id, action) FROM STDIN;\nThing\ta\thappened\n\\.\n",
		"COPY evinbox.event (subject_type, subject_id, action, actor) FROM STDIN;\nThing\ta\thappened\t%s\n\\.\n"
	],
	'SECURITY DEFINER' =>
	  [ "SELECT public.record_for(NULL)", "SELECT public.record_for('%s')" ],);

# What one role's session does leads to one event, by this actor.
sub actor_is
{
	my ($role, $sql, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $before = $node->safe_psql($db, 'SELECT max(id) FROM evinbox.event');

	$node->safe_psql($db, $sql, extra_params => [ '-U', $role ]);
	is_sql($node, $db, "SELECT coalesce(actor, 'nobody') FROM evinbox.event WHERE id > $before", $expected, $name);
}

sub is_refused
{
	my ($role, $sql, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my ($code, $out, $err) = $node->psql($db, "\\set VERBOSITY verbose\n$sql",
		extra_params => [ '-U', $role ], on_error_stop => 1);

	like($err, qr/ERROR:  42501: actor of an event cannot be chosen/, $name);
}

# without an actor, and with one, by all ways; undef if that is refused
sub all_ways
{
	my ($role, $setting, $without, $given, $with, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	foreach my $way (sort keys %record)
	{
		actor_is($role, "$setting;\n$record{$way}[0]", $without, "$name, $way: without an actor");
		my $sql = "$setting;\n" . sprintf($record{$way}[1], $given);
		defined $with ? actor_is($role, $sql, $with, "$name, $way: with an actor")
		  : is_refused($role, $sql, "$name, $way: with an actor");
	}
}

# one of them is a reserved word
sub set_source
{
	my ($source) = @_;

	$node->safe_psql($db, "ALTER SYSTEM SET evinbox.actor_source = '$source'");
	$node->reload;
	$node->poll_query_until($db, "SELECT current_setting('evinbox.actor_source') = '$source'")
	  or die "the source is not $source";
}

record($node, $db, 'first');
my $me = $node->safe_psql($db, 'SELECT current_user');
my $as_7 = "SET evinbox.actor = 'User:7'";

# -- any, as it comes ---------------------------------------------------------------

all_ways('app', $as_7, 'User:7', 'User:8', 'User:8', 'any');
all_ways('app', "SET evinbox.actor = ''", 'nobody', 'User:8', 'User:8', 'any, not set');

# -- context ------------------------------------------------------------------------

# a session that is there already obeys, too
my $session = $node->background_psql($db, on_error_stop => 0, extra_params => [ '-U', 'app' ]);
$session->query_safe($as_7);
$session->query_safe("SELECT evinbox.record_event('Thing', 'session', 'happened', 'User:8')");

set_source('context');
all_ways('app', $as_7, 'User:7', 'User:8', undef, 'context');
all_ways('app', $as_7, 'User:7', 'User:7', 'User:7', 'context, the same');
all_ways('app', "SET evinbox.actor = ''", 'nobody', 'User:8', undef, 'context, not set');
all_ways($me, $as_7, 'User:7', 'User:8', undef, 'context, a superuser');
foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
{
	last if $session->query('SHOW evinbox.actor_source') eq 'context';
	usleep(100_000);
}
$session->query("SELECT evinbox.record_event('Thing', 'session', 'happened', 'User:8')");
like($session->{stderr}, qr/actor of an event cannot be chosen/, 'in a session of before');
$session->quit;
is_sql($node, $db, "SELECT string_agg(actor, ' ') FROM evinbox.event WHERE subject_id = 'session'", 'User:8',
	'which has recorded no other');

# a throttle goes by the actor that counts, and refuses others before it suppresses anything
my $throttled = "SELECT evinbox.record_event('Throttled', 1, 'happened', %s, throttle => '1 hour', throttle_by => 'actor')";
$node->safe_psql($db, "$as_7;" . sprintf($throttled, 'NULL'));
is_sql($node, $db, "$as_7;" . sprintf($throttled, "'User:7'"), '', 'throttled by the setting');
is_refused($me, "$as_7;" . sprintf($throttled, "'User:8'"), 'another one is refused');
actor_is($me, "SET evinbox.actor = 'User:8';" . sprintf($throttled, 'NULL'), 'User:8', 'another one by the setting');

# a role's own setting is as good as a session's
$node->safe_psql($db, "ALTER ROLE app SET evinbox.actor = 'the app'");
actor_is('app', $record{INSERT}[0], 'the app', 'context: a setting of the role');
my ($code, $out, $err) = $node->psql($db, "SET evinbox.actor_source = 'any'", extra_params => [ '-U', 'app' ]);
like($err, qr/parameter "evinbox.actor_source" cannot be changed now/, 'nobody chooses another source');
is($node->psql($db, "ALTER ROLE app SET evinbox.actor_source = 'any'"), 3, 'nor for others');

# somebody has added to the table, which takes another way through the code
$node->safe_psql($db, <<'EOS');
CREATE FUNCTION public.pass() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER pass BEFORE INSERT ON evinbox.event FOR EACH ROW EXECUTE FUNCTION public.pass();
EOS
all_ways('app', $as_7, 'User:7', 'User:8', undef, 'context, with a trigger');
$node->safe_psql($db, 'DROP TRIGGER pass ON evinbox.event');

# -- in workers ------------------------------------------------------------------------
#
# A handler is no session of somebody's: it has the role's setting, or sets its
# own, which is gone with its batch.

$node->safe_psql($db, <<'EOS');
CREATE FUNCTION public.follow(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF config ? 'set' THEN
		PERFORM set_config('evinbox.actor', config->>'set', false);
	END IF;
	PERFORM evinbox.record_event('Followed', e.subject_id, config->>'inbox', config->>'actor');
END $$;
EOS
add_inbox($node, $db, $_->[0], owner => 'app', handler => 'public.follow', subject_types => '{Follow}', config => $_->[1],
	priority => $_->[2])
  foreach ([ 'sets', '{"inbox": "sets", "set": "handler"}', 1 ], [ 'plain', '{"inbox": "plain"}', 2 ],
	[ 'chooses', '{"inbox": "chooses", "actor": "User:8"}', 3 ], [ 'knows', '{"inbox": "knows", "actor": "the app"}', 4 ]);

# which actor each inbox has recorded with, once it has come so far
sub followed
{
	my ($subject, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$node->safe_psql($db, "SELECT evinbox.record_event('Follow', '$subject', 'happened')");
	wait_for($node, $db,
		"SELECT string_agg(action || '=' || actor, ' ' ORDER BY action) = '$expected'"
		  . " FROM evinbox.event WHERE subject_type = 'Followed' AND subject_id = '$subject'",
		$name);
}

followed('one', 'knows=the app plain=the app sets=handler', 'context: in handlers');
wait_for($node, $db,
	"SELECT state = 'halted' AND last_error = 'actor of an event cannot be chosen' FROM evinbox.inbox_status WHERE name = 'chooses'",
	'a rule that chooses another is halted');

# -- session_user ------------------------------------------------------------------------

set_source('session_user');
all_ways('app', $as_7, 'app', 'User:7', undef, 'session_user');
all_ways('app', $as_7, 'app', 'app', 'app', 'session_user, the same');
all_ways('app', 'SET ROLE team', 'app', 'team', undef, 'session_user, in another role');
all_ways($me, 'SET ROLE app', $me, 'app', undef, 'session_user, a superuser');
all_ways($me, 'SET SESSION AUTHORIZATION app', 'app', $me, undef, 'session_user, whom a superuser has made app');
$node->safe_psql($db, "DELETE FROM evinbox.inbox WHERE name IN ('chooses', 'knows')");
followed('two', 'plain=app sets=app', 'session_user: handlers are their owner');
$node->safe_psql($db, 'ALTER ROLE app RENAME TO "the ""app"""');
actor_is('the "app"', $record{INSERT}[0], 'the "app"', 'by the name that it has');

# -- and back ----------------------------------------------------------------------------

# what is no source leaves it as it is
append_to_file($node->data_dir . '/postgresql.auto.conf', "evinbox.actor_source = 'anybody'\n");
$node->reload;
foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
{
	last if slurp_file($node->logfile) =~ /invalid value for parameter "evinbox.actor_source": "anybody"/;
	usleep(100_000);
}
is_sql($node, $db, 'SHOW evinbox.actor_source', 'session_user', 'an unknown source is none');
set_source('any');
all_ways($me, $as_7, 'User:7', 'User:8', 'User:8', 'any again');
is_sql($node, $db, 'SELECT count(*) FROM evinbox.delivery', '0', 'nothing has failed');

is_healthy($node);
$node->stop;
done_testing();
