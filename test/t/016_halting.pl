# A rule that does not work halts where it is, says why, and goes on by itself.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use EvinboxTest;

my $node = evinbox_node('main');
my $db = 'postgres';

# lines of the log
sub logged
{
	my ($pattern) = @_;
	my @lines = grep { /$pattern/ } split /\n/, slurp_file($node->logfile);

	return scalar @lines;
}

install_evinbox($node, $db);
add_inbox($node, $db, 'witness');

# -- what a rule names goes away ---------------------------------------------------

$node->safe_psql($db, <<'EOS');
CREATE ROLE clerk LOGIN;
CREATE ROLE guest LOGIN;
GRANT INSERT ON public.handled TO PUBLIC;
GRANT USAGE ON SEQUENCE public.handled_n_seq TO PUBLIC;
CREATE SCHEMA office;
GRANT USAGE ON SCHEMA office TO clerk;
CREATE TABLE public.shelf (item text);
CREATE TABLE public.wanted (item text);
CREATE TABLE public.drawer (n serial, event_id bigint, subject text);
CREATE TABLE public.safe (item text);
GRANT SELECT ON public.safe TO clerk;

CREATE FUNCTION public.droppable(e evinbox.event, config jsonb) RETURNS void
	LANGUAGE sql AS 'SELECT public.handle(e, config)';
CREATE FUNCTION public.renamable(e evinbox.event, config jsonb) RETURNS void
	LANGUAGE sql AS 'SELECT public.handle(e, config)';
CREATE FUNCTION public.shelve(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM public.handle(e, config);
	INSERT INTO public.shelf VALUES (e.subject_id);
END $$;
CREATE FUNCTION public.executable(e evinbox.event, config jsonb) RETURNS void
	LANGUAGE sql AS 'SELECT public.handle(e, config)';
REVOKE EXECUTE ON FUNCTION public.executable FROM PUBLIC;
GRANT EXECUTE ON FUNCTION public.executable TO clerk;
CREATE FUNCTION public.look_into_safe(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM public.handle(e, config);
	PERFORM FROM public.safe;
END $$;
CREATE FUNCTION office.work(e evinbox.event, config jsonb) RETURNS void
	LANGUAGE sql AS 'SELECT public.handle(e, config)';
EOS

# name of the inbox => its rule, what breaks it, what mends it, and the reason
my %case = (
	droppable => [
		{ handler => 'public.droppable' },
		'DROP FUNCTION public.droppable',
		"CREATE FUNCTION public.droppable(e evinbox.event, config jsonb) RETURNS void"
		  . " LANGUAGE sql AS 'SELECT public.handle(e, config)'",
		'handler function public.droppable(evinbox.event) or'
		  . ' public.droppable(evinbox.event, jsonb) does not exist'
	],
	renamable => [
		{ handler => 'public.renamable' },
		'ALTER FUNCTION public.renamable RENAME TO renamed',
		'ALTER FUNCTION public.renamed RENAME TO renamable',
		'handler function public.renamable(evinbox.event) or'
		  . ' public.renamable(evinbox.event, jsonb) does not exist'
	],
	shelf => [
		{ handler => 'public.shelve' },
		'DROP TABLE public.shelf',
		'CREATE TABLE public.shelf (item text)',
		'relation "public.shelf" does not exist'
	],
	wanted => [
		{ condition => 'NOT EXISTS (SELECT FROM public.wanted w WHERE w.item = e.subject_id)' },
		'DROP TABLE public.wanted',
		'CREATE TABLE public.wanted (item text)',
		'relation "public.wanted" does not exist'
	],
	executable => [
		{ handler => 'public.executable', owner => 'clerk' },
		'REVOKE EXECUTE ON FUNCTION public.executable FROM clerk',
		'GRANT EXECUTE ON FUNCTION public.executable TO clerk',
		'role "clerk" may not execute handler function "public.executable"'
	],
	safe => [
		{ handler => 'public.look_into_safe', owner => 'clerk' },
		'REVOKE SELECT ON public.safe FROM clerk',
		'GRANT SELECT ON public.safe TO clerk',
		'permission denied for table safe'
	],
	office => [
		{ handler => 'office.work', owner => 'clerk' },
		'REVOKE USAGE ON SCHEMA office FROM clerk',
		'GRANT USAGE ON SCHEMA office TO clerk',
		'permission denied for schema office'
	],
);
my @names = sort keys %case;
add_inbox($node, $db, $_, subject_types => "{$_}", %{ $case{$_}[0] }) foreach @names;

# it has a statement, and no handler
$node->safe_psql($db, <<'EOS');
INSERT INTO evinbox.inbox (name, subject_types, statement) VALUES ('drawer', '{drawer}', $$
	WITH d AS (INSERT INTO public.drawer (event_id, subject) SELECT id, subject_id FROM events)
	INSERT INTO public.handled (inbox, event_id, subject)
	SELECT 'drawer', id, subject_id FROM events ORDER BY id
$$);
EOS
$case{drawer} = [
	undef,
	'DROP TABLE public.drawer',
	'CREATE TABLE public.drawer (n serial, event_id bigint, subject text)',
	'relation "public.drawer" does not exist'
];
@names = sort keys %case;

# of a role that has nothing else, so that it can be dropped
add_inbox($node, $db, 'guest', owner => 'guest', subject_types => '{guest}');

sub record_for_all
{
	my ($first, $last) = @_;

	$node->safe_psql($db,
		"INSERT INTO evinbox.event (subject_type, subject_id, action)"
		  . " SELECT name, g::text, 'x' FROM evinbox.inbox, generate_series($first, $last) g"
		  . " WHERE name <> 'witness' ORDER BY name, g");
}

record_for_all(1, 3);
wait_for_handled($node, $db, $_, 3, "$_: it works") foreach @names, 'guest';

# An event is handled after whatever was committed before it.
$node->safe_psql($db, join(';', map { $case{$_}[1] } @names));
record_for_all(4, 6);
foreach my $name (@names)
{
	wait_for($node, $db, "SELECT state = 'halted' FROM evinbox.inbox_status WHERE name = '$name'",
		"$name: it is halted");
	is_sql($node, $db, <<EOQ, "$case{$name}[3]|t|0|0|t", "$name: it says why; its events wait, and are not to blame");
SELECT last_error, lag_events >= 3, retrying, dead, next_look_at > last_error_at
FROM evinbox.inbox_status WHERE name = '$name'
EOQ
}
is_exactly_once($node, $db, 'witness', 'no other inbox notices');
wait_for_handled($node, $db, 'guest', 6, 'nor does one of another owner');
is_sql($node, $db,
	"SELECT string_agg(name, ' ' ORDER BY name) FROM evinbox.inbox_status WHERE state = 'halted'",
	"@names", 'these are halted, and no others');
is(logged(qr/inbox "[a-z]+" is halted/), scalar @names, 'the log tells each once');
wait_for($node, $db,
	"SELECT min(looks) >= 2 FROM evinbox_internal.halt", 'they look again');
is(logged(qr/inbox "[a-z]+" is halted/), scalar @names, 'the log still tells each once');
is_sql($node, $db, "SELECT count(*) FROM handled WHERE subject IN ('4', '5', '6') AND inbox NOT IN ('witness', 'guest')",
	'0', 'in vain, and without any effects');

my $halted_at = $node->safe_psql($db, "SELECT halted_at FROM evinbox_internal.halt h"
	  . " JOIN evinbox.inbox i ON i.id = h.inbox_id WHERE name = 'safe'");
$node->restart;
is_sql($node, $db,
	"SELECT string_agg(name, ' ' ORDER BY name) FROM evinbox.inbox_status WHERE state = 'halted'",
	"@names", 'that survives a restart');
record_for_all(7, 7);
wait_for_handled($node, $db, 'guest', 7, 'an inbox that works goes on');
is_sql($node, $db, "SELECT halted_at = '$halted_at' FROM evinbox_internal.halt h"
	  . " JOIN evinbox.inbox i ON i.id = h.inbox_id WHERE name = 'safe'", 't',
	'they are halted since when they were first');

$node->safe_psql($db, join(';', map { $case{$_}[2] } @names));
foreach my $name (@names)
{
	wait_for_handled($node, $db, $name, 7, "$name: it goes on by itself");
	is_sql($node, $db,
		"SELECT string_agg(subject, ' ' ORDER BY n) FROM handled WHERE inbox = '$name'",
		'1 2 3 4 5 6 7', "$name: each event once, and in order");
}
is_sql($node, $db,
	"SELECT string_agg(DISTINCT concat_ws(' ', state, lag_events, last_error), ', ') FROM evinbox.inbox_status",
	'running 0', 'nothing is halted any more');
is_sql($node, $db, "SELECT count(*) FROM evinbox_internal.halt", '0', 'and nothing is left of it');

# -- no worker can be what its owner is ------------------------------------------------

sub owner_is_out
{
	my ($how, $reason, $break, $mend) = @_;
	my $before = $node->safe_psql($db, "SELECT count(*) FROM handled WHERE inbox = 'guest'");

	$node->safe_psql($db, $break);
	is_sql($node, $db,
		"SELECT state, last_error FROM evinbox.inbox_status WHERE name = 'guest'",
		"halted|$reason", "$how: the inbox is halted");
	$node->safe_psql($db, "SELECT evinbox.record_event('guest', 'later', 'x')");
	is_exactly_once($node, $db, 'witness', "$how: another inbox");
	wait_for($node, $db,
		"SELECT string_agg(DISTINCT owner, ' ' ORDER BY owner) = concat_ws(' ', 'clerk', current_user)"
		  . " FROM evinbox.worker_status WHERE kind = 'runner'",
		"$how: no runner for the owner, but for others");
	$node->restart;
	is_exactly_once($node, $db, 'witness', "$how, and a restart: another inbox");
	is_sql($node, $db, "SELECT count(*) FROM handled WHERE inbox = 'guest'", $before,
		"$how: its events wait");
	$node->safe_psql($db, $mend);
	wait_for_handled($node, $db, 'guest', $before + 1, "$how: it goes on by itself");
	is_sql($node, $db, "SELECT state, last_error FROM evinbox.inbox_status WHERE name = 'guest'",
		'running|', "$how: and is not halted any more");
}

$node->safe_psql($db, 'GRANT CONNECT ON DATABASE postgres TO clerk');
owner_is_out('may not connect', 'role "guest" may not connect to database "postgres"',
	'REVOKE CONNECT ON DATABASE postgres FROM PUBLIC', 'GRANT CONNECT ON DATABASE postgres TO guest');

# from 17 on, a worker can run as a role that cannot log in
my $needs_login = $node->safe_psql($db, 'SHOW server_version_num') < 170000;
if ($needs_login)
{
	owner_is_out('cannot log in', 'role "guest" cannot log in', 'ALTER ROLE guest NOLOGIN', 'ALTER ROLE guest LOGIN');
}
else
{
	my $before = $node->safe_psql($db, "SELECT count(*) FROM handled WHERE inbox = 'guest'");

	$node->safe_psql($db, 'ALTER ROLE guest NOLOGIN');
	$node->restart;
	$node->safe_psql($db, "SELECT evinbox.record_event('guest', 'later', 'x')");
	wait_for_handled($node, $db, 'guest', $before + 1, 'cannot log in: it goes on');
}
is(logged(qr/FATAL:.*(permission denied for database|is not permitted to log in)/), 0, 'no worker has tried in vain');

# -- its owner goes away -----------------------------------------------------------------

# by another name it is the same, and by the same name another
my $before = $node->safe_psql($db, "SELECT count(*) FROM handled WHERE inbox = 'guest'");
$node->safe_psql($db, 'ALTER ROLE guest RENAME TO visitor');
$node->safe_psql($db, 'CREATE ROLE guest LOGIN');
is_sql($node, $db, "SELECT owner, state <> 'halted' FROM evinbox.inbox_status WHERE name = 'guest'", 'visitor|t',
	'renamed: inbox_status knows it');
$node->safe_psql($db, "SELECT evinbox.record_event('guest', 'later', 'x')");
wait_for_handled($node, $db, 'guest', $before + 1, 'renamed: it goes on');
wait_for($node, $db, "SELECT owner = 'visitor' FROM evinbox.inbox WHERE name = 'guest'",
	'renamed: the rule has the new name');
$node->restart;
$node->safe_psql($db, "SELECT evinbox.record_event('guest', 'later', 'x')");
wait_for_handled($node, $db, 'guest', $before + 2, 'renamed, and a restart: it goes on');
is_sql($node, $db,
	"SELECT string_agg(DISTINCT owner, ' ' ORDER BY owner) = concat_ws(' ', 'clerk', current_user, 'visitor')"
	  . " FROM evinbox.worker_status WHERE kind = 'runner'",
	't', 'renamed: as the same role');

# it cannot be dropped behind our back, in whichever database
$node->safe_psql($db, 'CREATE DATABASE other');
foreach my $case ([ $db, 'privileges for column owner of table evinbox.inbox' ], [ 'other', 'in database postgres' ])
{
	my ($where, $detail) = @$case;
	my ($code, $out, $err) = $node->psql($where, 'DROP ROLE visitor');

	isnt($code, 0, "dropped in database $where: that is refused");
	like($err, qr/cannot be dropped because some objects depend on it\nDETAIL:.*$detail/s, 'with what is in the way');
}

# as if the database had been restored without the role
owner_is_out('gone', 'role "visitor" does not exist', <<'EOB', <<'EOM');
SET session_replication_role = replica;
UPDATE evinbox.inbox SET owner_id = 0 WHERE name = 'guest';
RESET session_replication_role;
DROP OWNED BY visitor;
DROP ROLE visitor;
EOB
GRANT CONNECT ON DATABASE postgres TO guest;
UPDATE evinbox.inbox SET owner = 'guest' WHERE name = 'guest';
EOM

# with all that it has
$node->safe_psql($db, 'DROP OWNED BY guest; DROP ROLE guest');
is_sql($node, $db, "SELECT count(*) FROM evinbox.inbox WHERE name = 'guest'", '0', 'dropped with all that it has: that is its rules');
wait_for($node, $db,
	"SELECT string_agg(DISTINCT owner, ' ' ORDER BY owner) = concat_ws(' ', 'clerk', current_user)"
	  . " FROM evinbox.worker_status WHERE kind = 'runner'",
	'and its runner is gone');
is_exactly_once($node, $db, 'witness', 'and no other inbox notices');

# -- a rule whose events all fail ------------------------------------------------------

$node->safe_psql($db, <<'EOS');
CREATE TABLE public.trouble ();
INSERT INTO public.trouble DEFAULT VALUES;
CREATE FUNCTION public.hopeless(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM public.handle(e, config);
	IF EXISTS (SELECT FROM public.trouble) THEN
		RAISE EXCEPTION 'trouble' USING ERRCODE = 'EV001';
	END IF;
END $$;
EOS
add_inbox($node, $db, 'hopeless', handler => 'public.hopeless', subject_types => '{hopeless}',
	backoff => '1 hour');
$node->safe_psql($db, "INSERT INTO evinbox.event (subject_type, subject_id, action)"
	  . " SELECT 'hopeless', g::text, 'x' FROM generate_series(1, 120) g");
wait_for($node, $db, "SELECT state = 'halted' FROM evinbox.inbox_status WHERE name = 'hopeless'",
	'a rule whose events all fail is halted');
is_sql($node, $db, <<'EOS', '50 events in a row have failed, the last one with: trouble|t|50|0', 'after 50 of them; the rest waits');
SELECT last_error, lag_events >= 70, retrying, dead FROM evinbox.inbox_status WHERE name = 'hopeless'
EOS
wait_for($node, $db, "SELECT looks >= 2 FROM evinbox_internal.halt", 'it looks again');
is_sql($node, $db, "SELECT lag_events >= 70, retrying, dead FROM evinbox.inbox_status WHERE name = 'hopeless'",
	't|50|0', 'which makes no more of them');
is(logged(qr/inbox "hopeless" could not handle event/), 1, 'the log tells of the failures once');
is(logged(qr/inbox "hopeless" is halted: 50 events in a row/), 1, 'and of the halt once');
is_exactly_once($node, $db, 'witness', 'no other inbox notices');

$node->restart;
wait_for($node, $db, "SELECT looks >= 3 FROM evinbox_internal.halt", 'it looks after a restart, too');
is_sql($node, $db, "SELECT state, lag_events >= 70, retrying FROM evinbox.inbox_status WHERE name = 'hopeless'",
	'halted|t|50', 'and remembers');

# each time that somebody lets it go on, it may have as many again
set_conf($node, 'evinbox.max_failures_in_a_row', 5);
$node->safe_psql($db, "SELECT evinbox.resume('hopeless')");
wait_for($node, $db, "SELECT lag_events >= 65 AND retrying = 55 AND state = 'halted'"
	  . " FROM evinbox.inbox_status WHERE name = 'hopeless'", 'resume() lets it go on, for 5 more');

$node->safe_psql($db, 'DELETE FROM public.trouble');
wait_for_handled($node, $db, 'hopeless', 65, 'when its events do not fail, it goes on by itself');
is_sql($node, $db, "SELECT state, retrying, last_error FROM evinbox.inbox_status WHERE name = 'hopeless'",
	'running|55|trouble', 'those that have failed wait for their retries');
is_sql($node, $db, "SELECT evinbox.retry('hopeless')", '55', 'retry() has them tried at once');
wait_for_handled($node, $db, 'hopeless', 120, 'which they are');
is_sql($node, $db, "SELECT count(*), count(DISTINCT event_id) FROM handled WHERE inbox = 'hopeless'",
	'120|120', 'each event is handled once');
is_sql($node, $db, "SELECT retrying, dead, last_error IS NULL FROM evinbox.inbox_status WHERE name = 'hopeless'",
	'0|0|t', 'and nothing is left to tell');

# a success in between ends the streak
$node->safe_psql($db, <<'EOS');
CREATE FUNCTION public.moody(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM public.handle(e, config);
	IF e.subject_id::int % 5 <> 0 THEN
		RAISE EXCEPTION 'not my day' USING ERRCODE = 'EV001';
	END IF;
END $$;
EOS
add_inbox($node, $db, 'moody', handler => 'public.moody', subject_types => '{moody}', backoff => '1 hour');
$node->safe_psql($db, "INSERT INTO evinbox.event (subject_type, subject_id, action)"
	  . " SELECT 'moody', g::text, 'x' FROM generate_series(1, 50) g");
wait_for_handled($node, $db, 'moody', 10, 'less than 5 failures in a row do not halt');
is_sql($node, $db, "SELECT state, retrying FROM evinbox.inbox_status WHERE name = 'moody'", 'running|40',
	'however many they are');

# no limit
set_conf($node, 'evinbox.max_failures_in_a_row', 0);
$node->safe_psql($db, 'INSERT INTO public.trouble DEFAULT VALUES');
$node->safe_psql($db, "INSERT INTO evinbox.event (subject_type, subject_id, action)"
	  . " SELECT 'hopeless', g::text, 'y' FROM generate_series(1, 60) g");
wait_for($node, $db, "SELECT retrying = 60 AND lag_events = 0 FROM evinbox.inbox_status WHERE name = 'hopeless'",
	'without a limit, all may fail');

is_exactly_once($node, $db, 'witness', 'the other inbox, at the end');
is_healthy($node);
$node->stop;
done_testing();
