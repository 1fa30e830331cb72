# Roles, functions and tables that rules need, under load: what is taken away
# halts the rules that need it and no others, and nothing is lost or handled twice.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use EvinboxTest;

my $node = evinbox_node('main', <<'EOS');
evinbox.max_runners = 16
log_min_messages = warning
log_line_prefix = '%m [%b] '
EOS
my $db = 'app';
my @owners = qw(steady slow renamed guest member keeper giver heir leaver maker);

$node->safe_psql('postgres', "CREATE ROLE $_ LOGIN") foreach @owners, 'staff';
foreach my $database ($db, 'second')
{
	$node->safe_psql('postgres', "CREATE DATABASE $database");
	install_evinbox($node, $database);
	$node->safe_psql($database, <<EOS);
GRANT USAGE ON SCHEMA evinbox TO PUBLIC;
GRANT INSERT ON public.handled TO PUBLIC;
GRANT USAGE ON SEQUENCE public.handled_n_seq TO PUBLIC;
CREATE FUNCTION public.work(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS \$\$
BEGIN
	IF e.action = 'long' THEN
		PERFORM pg_advisory_xact_lock_shared(42);
		PERFORM pg_sleep(0.5);
	END IF;
	PERFORM pg_sleep((config->>'seconds')::float8);
	PERFORM public.handle(e, config);
END \$\$;
REVOKE CONNECT ON DATABASE $database FROM PUBLIC;
GRANT CONNECT ON DATABASE $database TO steady, slow, renamed, guest, giver, heir, leaver, maker, staff;
EOS
}
$node->safe_psql('postgres', "GRANT staff TO member; ALTER DATABASE $db OWNER TO keeper");

sub add_work
{
	my ($database, $owner, %column) = @_;

	add_inbox($node, $database, $owner, owner => $owner, handler => 'public.work', backoff => '0.1 s',
		config => qq({"inbox": "$owner", "seconds": @{[ $owner eq 'slow' ? 0.005 : 0 ]}}), %column);
}

# How often our processes have said something since a place in the log.  Those that
# were asked to leave say so, as those of the server do.
sub said
{
	my ($from, $pattern) = @_;
	my @lines = grep { /\[evinbox.*\] [A-Z]+:/ && !/CONTEXT:|HINT:|due to administrator command/ }
	  split /\n/, slurp_file($node->logfile, $from);

	note $_ foreach @lines;
	return scalar(grep { !defined $pattern || /$pattern/ } @lines);
}

# An event is handled after all that were there before.
sub goes_on
{
	my ($inbox, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $id = record($node, $db, 'next', 'happened');

	wait_for($node, $db,
		"SELECT count(*) = 1 FROM handled WHERE inbox = '$inbox' AND event_id = $id", "$name: $inbox goes on");
}

sub is_halted
{
	my ($inbox, $reason, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	wait_for($node, $db,
		"SELECT state = 'halted' AND last_error = \$r\$$reason\$r\$ FROM evinbox.inbox_status"
		  . " WHERE name = '$inbox'", "$name: $inbox is halted");
}

# Waits until an owner's runner is in a handler that takes long.
sub keep_busy
{
	my ($inbox) = @_;

	record($node, $db, 'long', 'long');
	wait_for($node, $db,
		"SELECT EXISTS (SELECT FROM pg_locks l JOIN evinbox.worker_status w USING (pid)"
		  . " WHERE l.locktype = 'advisory' AND l.objid = 42 AND w.owner = '$inbox')",
		"$inbox is busy");
}

# Writers that record events all the time; to be ended by force.
sub start_load
{
	return start_pgbench($node, $db, "SELECT evinbox.record_event('Thing', :client_id, 'happened')",
		'-c', 2, '-R', 50, '-t', 1000000);
}

sub end_load
{
	my ($load) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$node->safe_psql('postgres', "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
		  . " WHERE datname = '$db' AND backend_type = 'client backend'");
	finish($load);
	unlike($load->{err}, qr/ERROR/, 'writers have noticed nothing');
}

# Roles are changed by somebody who is in another database.
sub change
{
	my ($sql) = @_;

	$node->safe_psql('postgres', $sql);
}

add_work($db, $_) foreach qw(steady slow renamed guest member keeper giver leaver);
my $load = start_load();
goes_on($_, 'at first') foreach qw(steady slow renamed guest member keeper giver leaver);
my $since = -s $node->logfile;

# -- renamed --------------------------------------------------------------------------

keep_busy('renamed');
foreach my $round (1 .. 5)
{
	change('ALTER ROLE renamed RENAME TO other');
	change('ALTER ROLE other RENAME TO renamed');
}
change('ALTER ROLE renamed RENAME TO other');
goes_on('renamed', 'renamed');
wait_for($node, $db, "SELECT owner = 'other' FROM evinbox.inbox WHERE name = 'renamed'",
	'its rule has the new name');
change('ALTER ROLE other RENAME TO renamed');
is(said($since), 0, 'nobody mentions it');
end_load($load);

# -- rights that come and go ------------------------------------------------------------

my @cases = (
	[
		'guest',
		"REVOKE CONNECT ON DATABASE $db FROM guest",
		"GRANT CONNECT ON DATABASE $db TO guest",
		"role \"guest\" may not connect to database \"$db\""
	],
	[
		'guest',
		'DROP OWNED BY guest',
		"GRANT CONNECT ON DATABASE $db, second TO guest",
		"role \"guest\" may not connect to database \"$db\""
	],
	[
		'member',
		'REVOKE staff FROM member',
		'GRANT staff TO member',
		"role \"member\" may not connect to database \"$db\""
	],
	[
		'keeper',
		"ALTER DATABASE $db OWNER TO postgres",
		"ALTER DATABASE $db OWNER TO keeper",
		"role \"keeper\" may not connect to database \"$db\""
	]);
if ($node->pg_version < 17)
{
	push @cases, [ 'guest', 'ALTER ROLE guest NOLOGIN', 'ALTER ROLE guest LOGIN', 'role "guest" cannot log in' ];
}
else
{
	change('ALTER ROLE guest NOLOGIN');
	$node->safe_psql($db, "SELECT pg_terminate_backend(pid) FROM evinbox.worker_status WHERE owner = 'guest'");
	goes_on('guest', 'cannot log in');
	change('ALTER ROLE guest LOGIN');
}
foreach my $case (@cases)
{
	my ($inbox, $break, $mend, $reason) = @$case;

	$since = -s $node->logfile;
	$load = start_load();
	keep_busy($inbox);
	change($break);
	is_halted($inbox, $reason, $break);
	wait_for($node, $db, "SELECT NOT EXISTS (SELECT FROM evinbox.worker_status WHERE owner = '$inbox')",
		"$break: its runner leaves");
	my $handled = $node->safe_psql($db, "SELECT count(*) FROM handled WHERE inbox = '$inbox'");
	goes_on('steady', $break);
	is_sql($node, $db, "SELECT count(*) FROM handled WHERE inbox = '$inbox'", $handled, 'its events wait');
	change($mend);
	goes_on($inbox, $mend);
	is(said($since), 0, "$break: nobody tries in vain");
	foreach my $round (1 .. 5)
	{
		change($break);
		change($mend);
	}
	goes_on($inbox, 'again and again');

	# a runner may be on its way while its right is taken away again
	cmp_ok(said($since), '<=', 5, "$break: again and again, nobody tries twice in vain");
	is(said($since), said($since, qr/not permitted to log in|permission denied for database/),
		"$break: and says why");
	end_load($load);
}

# -- limits of connections -----------------------------------------------------------------

# Some versions of the server keep workers out as well, while sessions exceed them.
$load = start_load();
foreach my $case (
	[ 'guest', 'ALTER ROLE guest CONNECTION LIMIT 1', 'ALTER ROLE guest CONNECTION LIMIT -1' ],
	[ 'slow', "ALTER DATABASE $db CONNECTION LIMIT 1", "ALTER DATABASE $db CONNECTION LIMIT -1" ])
{
	my ($inbox, $break, $mend) = @$case;
	my @sessions = map { $node->background_psql($db, extra_params => [ '-U', 'guest' ]) } 1 .. 2;
	my $before = -s $node->logfile;

	change($break);
	$node->safe_psql($db, "SELECT pg_terminate_backend(pid) FROM evinbox.worker_status WHERE owner = '$inbox'");
	goes_on('steady', $break);
	wait_for($node, $db, "SELECT starts >= 2 AND state IN ('running', 'waiting')"
		  . " FROM evinbox.worker_status WHERE owner = '$inbox'", "$break: its runner is started again");
	goes_on('steady', $break);
	cmp_ok(said($before), '<=', 1, "$break: if in vain, that is said once");
	$_->quit foreach @sessions;
	change($mend);
	goes_on($inbox, $mend);
}
end_load($load);

# -- with all that it has ----------------------------------------------------------------------

# A rule in another database as well, which is nobody's load.
add_work('second', $_) foreach qw(giver leaver);
foreach my $database ($db, 'second', 'postgres')
{
	my ($code, $out, $err) = $node->psql($database, 'DROP ROLE leaver');

	isnt($code, 0, "DROP ROLE in database $database: refused");
	like(
		$err,
		$database eq 'postgres' ? qr/object in database $db.*object in database second/s :
		  qr/cannot be dropped because some objects depend on it.*column owner of table evinbox.inbox/s,
		'which says why');
}
$load = start_load();
keep_busy('leaver');
my $start = time;
$node->safe_psql($db, 'DROP OWNED BY leaver');
cmp_ok(time - $start, '<', 5, 'DROP OWNED does not wait for long');
wait_for($node, $db, "SELECT NOT EXISTS (SELECT FROM evinbox.worker_status WHERE owner = 'leaver' AND database = '$db')",
	'its runner leaves');
isnt($node->psql('postgres', 'DROP ROLE leaver'), 0, 'there is still another database');
$node->safe_psql('second', 'DROP OWNED BY leaver');
change('DROP ROLE leaver');
goes_on('steady', 'a role was dropped');

# what the giver could have done itself goes on, what is new to the heir waits for it
change('GRANT heir TO giver');
keep_busy('giver');
$start = time;
$node->safe_psql($db, 'REASSIGN OWNED BY giver TO heir');
cmp_ok(time - $start, '<', 5, 'REASSIGN OWNED does not wait for long');
goes_on('giver', 'reassigned');
is_sql($node, $db, "SELECT owner FROM evinbox.inbox WHERE name = 'giver'", 'heir', 'it is another one\'s');
foreach my $round (1 .. 5)
{
	$node->safe_psql($db, 'REASSIGN OWNED BY heir TO giver');
	$node->safe_psql($db, 'REASSIGN OWNED BY giver TO heir');
}
is_sql($node, $db, "SELECT owner, enabled FROM evinbox.inbox WHERE name = 'giver'", 'heir|f',
	'it was another one\'s in between, and is paused');
$node->safe_psql($db, "UPDATE evinbox.inbox SET enabled = true WHERE name = 'giver'");
goes_on('giver', 'reassigned again and again');
$node->safe_psql('second', 'REASSIGN OWNED BY giver TO heir');
$node->safe_psql($_, 'DROP OWNED BY giver') foreach $db, 'second';
change('DROP ROLE giver');
goes_on('giver', 'the former owner was dropped');
end_load($load);

# -- functions and tables -------------------------------------------------------------------------

my $body = <<'EOS';
FUNCTION public.make(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.made VALUES (e.id);
	PERFORM public.handle(e, config);
END $$
EOS
my $table = 'CREATE TABLE public.made (event_id bigint); GRANT INSERT ON public.made TO PUBLIC';
$node->safe_psql($db, "CREATE $body; $table");
add_work($db, 'maker', handler => 'public.make');
goes_on('maker', 'at first');

$since = -s $node->logfile;
my $breaks = 0;
my $no_function = 'handler function public.make(evinbox.event) or public.make(evinbox.event, jsonb) does not exist';
foreach my $case (
	[ 'ALTER FUNCTION public.make RENAME TO made', 'ALTER FUNCTION public.made RENAME TO make', $no_function ],
	[ 'DROP FUNCTION public.make', "CREATE $body", $no_function ],
	[
		'ALTER FUNCTION public.make OWNER TO steady',
		'ALTER FUNCTION public.make OWNER TO maker',
		'handler function "public.make" belongs to role "steady",'
		  . " which is neither the rule's owner nor a superuser"
	],
	[
		'ALTER TABLE public.made RENAME TO kept',
		'ALTER TABLE public.kept RENAME TO made',
		'relation "public.made" does not exist'
	],
	[ 'DROP TABLE public.made', $table, 'relation "public.made" does not exist' ])
{
	my ($break, $mend, $reason) = @$case;

	$load = start_load();
	$node->safe_psql($db, $break);
	is_halted('maker', $reason, $break);
	goes_on('steady', $break);
	$node->safe_psql($db, $mend);
	goes_on('maker', $mend);
	foreach my $round (1 .. 3)
	{
		$node->safe_psql($db, $break);
		$node->safe_psql($db, $mend);
	}
	goes_on('maker', 'again and again');
	$breaks += 4;
	end_load($load);
}
$node->safe_psql($db, "CREATE OR REPLACE $body") foreach 1 .. 20;
goes_on('maker', 'replaced again and again');
cmp_ok(said($since, qr/inbox "maker" is halted/), '<=', $breaks, 'each halt is mentioned once');
is(said($since), said($since, qr/inbox "maker" is halted/), 'and nothing else');

# -- in the end -------------------------------------------------------------------------------------

is_exactly_once($node, $db, $_, $_) foreach qw(steady slow renamed guest member keeper giver);
is_sql($node, $db,
	"SELECT count(*) - count(DISTINCT event_id) FROM handled WHERE inbox IN ('maker', 'leaver') GROUP BY inbox",
	"0\n0", 'nor was one handled twice by those that came or went');
is_sql($node, $db, 'SELECT count(*) FROM evinbox.delivery', '0', 'no event has failed');

is_healthy($node);
$node->stop;
done_testing();
