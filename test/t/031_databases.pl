# Databases under load: busy workers make room for what is done to a database,
# come back to it, and nothing is lost or handled twice.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use EvinboxTest;

my $node = evinbox_node('main', <<'EOS');
max_worker_processes = 80
evinbox.max_workers = 70
log_min_messages = warning
log_line_prefix = '%m [%b] '
allow_in_place_tablespaces = on
EOS
my $start_of_log = -s $node->logfile;

# Rules of three owners: one takes some time for each event, one a long time for
# some; a batch that is interrupted has to be done again.
sub install_busy
{
	my ($db) = @_;

	install_evinbox($node, $db);
	$node->safe_psql($db, <<'EOS');
GRANT USAGE ON SCHEMA evinbox TO PUBLIC;
GRANT INSERT ON public.handled TO PUBLIC;
GRANT USAGE ON SEQUENCE public.handled_n_seq TO PUBLIC;
CREATE FUNCTION public.work(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_sleep((config->>'seconds')::float8);
	PERFORM public.handle(e, config);
END $$;
EOS
	add_inbox($node, $db, 'quick', owner => 'quick');
	add_inbox($node, $db, 'slow', owner => 'slow', handler => 'public.work',
		config => '{"inbox": "slow", "seconds": 0.003}');
	add_inbox($node, $db, 'sleepy', owner => 'sleepy', handler => 'public.work', actions => '{long}',
		config => '{"inbox": "sleepy", "seconds": 0.3}');
}

# Gives the workers of a database something to do for a while, and waits until
# two of them are in the middle of it.
sub keep_busy
{
	my ($db) = @_;
	my $limit = 100 * $PostgreSQL::Test::Utils::timeout_default;

	record_many($node, $db, 100);
	$node->safe_psql($db, <<EOS);
SELECT evinbox.record_event('Thing', n, 'long') FROM generate_series(1, 2) n;
DO \$\$
BEGIN
	FOR i IN 1..$limit LOOP
		PERFORM pg_stat_clear_snapshot();
		IF (SELECT count(*) = 2 FROM pg_stat_activity WHERE datname = current_database()
			AND backend_type = 'evinbox runner' AND wait_event = 'PgSleep') THEN
			RETURN;
		END IF;
		PERFORM pg_sleep(0.01);
	END LOOP;
	RAISE EXCEPTION 'no worker is busy';
END \$\$;
EOS
}

sub is_busy_exactly_once
{
	my ($db, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is_exactly_once($node, $db, $_, "$name, $_") for qw(quick slow);
	wait_for($node, $db,
		"SELECT (SELECT count(*) FROM handled WHERE inbox = 'sleepy') ="
		  . " (SELECT count(*) FROM evinbox.event WHERE action = 'long')",
		"$name: no long one is lost, or handled twice");
	is_sql($node, $db, 'SELECT count(*) FROM evinbox.delivery', '0', "$name: none has failed");
}

sub seconds_of
{
	my ($sql) = @_;
	my $start = time;

	$node->safe_psql('postgres', $sql);
	note sprintf '%.3f s: %s', time - $start, $sql;
	return time - $start;
}

# It takes at most two seconds more than on a database that we have nothing to
# do with.
sub waits_little
{
	my ($command, $name, $is_busy) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $plain = seconds_of(sprintf $command, 'plain', 'plain_copy');

	keep_busy('busy') if $is_busy;
	cmp_ok(seconds_of(sprintf $command, 'busy', 'busy_copy') - $plain,
		'<', 2, "$name does not wait for long");
}

# How often our processes have said something since a place in the log.  Those that
# were asked to leave say so, as those of the server do.
sub said
{
	my ($from, $pattern) = @_;
	my @lines = grep { /\[evinbox.*\] [A-Z]+:/ && !/CONTEXT:|HINT:|due to administrator command/ }
	  split /\n/, slurp_file($node->logfile, $from);

	return scalar(grep { !defined $pattern || /$pattern/ } @lines);
}

$node->safe_psql('postgres', "CREATE ROLE $_ LOGIN") for qw(quick slow sleepy stranger);
$node->safe_psql('postgres', 'CREATE ROLE maker LOGIN CREATEDB');
$node->safe_psql('postgres', "CREATE DATABASE $_") for qw(busy calm plain);
$node->safe_psql('postgres', "CREATE TABLESPACE elsewhere LOCATION ''");
install_busy($_) for qw(busy calm);

# -- one command after the other ------------------------------------------------------

my $writers = start_pgbench($node, 'calm',
	"SELECT evinbox.record_event('Thing', :client_id, 'happened')", '-c', 2, '-R', 50, '-t', 200);

foreach my $case (
	[ 'renaming', 'ALTER DATABASE %1$s RENAME TO %2$s', 'ALTER DATABASE %2$s RENAME TO %1$s' ],
	[
		'moving',
		'ALTER DATABASE %1$s SET TABLESPACE elsewhere',
		'ALTER DATABASE %1$s SET TABLESPACE pg_default'
	],
	[
		'closing',
		'ALTER DATABASE %1$s ALLOW_CONNECTIONS false',
		'ALTER DATABASE %1$s ALLOW_CONNECTIONS true'
	],
	[
		'becoming a template',
		'ALTER DATABASE %1$s IS_TEMPLATE true',
		'ALTER DATABASE %1$s IS_TEMPLATE false'
	],
	[ 'copying', 'CREATE DATABASE %2$s TEMPLATE %1$s', 'DROP DATABASE %2$s' ],
	[
		'copying of files',
		'CREATE DATABASE %2$s TEMPLATE %1$s STRATEGY file_copy',
		'DROP DATABASE %2$s'
	])
{
	my ($name, $command, $back) = @$case;

	waits_little($command, $name, 1);
	waits_little($back, "taking back $name");
}
is_busy_exactly_once('busy', 'after all that');

# No worker gets far in between.
keep_busy('busy');
foreach my $round (1 .. 10)
{
	$node->safe_psql('postgres', 'ALTER DATABASE busy RENAME TO other');
	$node->safe_psql('postgres', 'ALTER DATABASE other RENAME TO busy');
}
is_busy_exactly_once('busy', 'renamed again and again');

# The template is needed without others by several at a time.
keep_busy('busy');
my $makers = start_pgbench($node, 'postgres', 'CREATE DATABASE copy:client_id TEMPLATE busy',
	'-c', 3, '-t', 1);
ok(finish($makers), 'copied thrice at once');
$node->safe_psql('postgres', "DROP DATABASE copy$_") for 0 .. 2;
is_busy_exactly_once('busy', 'copied thrice');

# -- in a transaction that takes its time ----------------------------------------------

keep_busy('busy');
my $session = $node->background_psql('postgres');
$session->query_safe('BEGIN');
$session->query_safe('ALTER DATABASE busy RENAME TO other');
wait_for_workers($node, 'coordinator@calm runner@calm', 'its workers leave');
record($node, 'calm', 'meanwhile');
is_exactly_once($node, 'calm', 'quick', 'meanwhile another database');
is_sql($node, 'calm',
	"SELECT count(*) FROM evinbox.worker_status WHERE database = 'busy' AND state <> 'waiting'", '0',
	'nobody tries to get in');
$session->query_safe('ROLLBACK');
$session->quit;
is_busy_exactly_once('busy', 'rolled back');

# -- by somebody who may not -------------------------------------------------------------

my $workers = "SELECT string_agg(pid::text, ' ' ORDER BY pid) FROM pg_stat_activity"
  . " WHERE datname = 'busy' AND backend_type LIKE 'evinbox%'";
my $pids = $node->safe_psql('postgres', $workers);
keep_busy('busy');
foreach my $command (
	'ALTER DATABASE busy RENAME TO other',
	'ALTER DATABASE busy SET TABLESPACE elsewhere',
	'ALTER DATABASE busy ALLOW_CONNECTIONS false',
	'ALTER DATABASE busy IS_TEMPLATE true',
	'CREATE DATABASE other TEMPLATE busy',
	'DROP DATABASE busy',
	'DROP DATABASE busy WITH (FORCE)')
{
	isnt($node->psql('postgres', "SET ROLE stranger; $command"), 0, "$command: refused");
}
is($node->safe_psql('postgres', $workers), $pids, 'the workers do not even notice');
is_busy_exactly_once('busy', 'refused');

# -- dropped -------------------------------------------------------------------------------

$node->safe_psql('postgres', 'CREATE DATABASE gone');
install_busy('gone');
keep_busy('gone');
cmp_ok(seconds_of('DROP DATABASE gone'), '<', 2 + seconds_of('DROP DATABASE plain'),
	'DROP DATABASE does not wait for long');
$node->safe_psql('postgres', 'CREATE DATABASE plain');
wait_for_workers($node, 'coordinator@busy coordinator@calm runner@busy runner@calm', 'its workers are gone');

# -- dropped while it is in use ------------------------------------------------------------

keep_busy('busy');
my $doomed = start_pgbench($node, 'busy',
	"SELECT evinbox.record_event('Thing', :client_id, 'happened')", '-c', 2, '-R', 100, '-t', 1000000);
wait_for($node, 'busy', "SELECT count(*) > 2 FROM pg_stat_activity"
	  . " WHERE datname = 'busy' AND backend_type = 'client backend'", 'there are writers');
cmp_ok(seconds_of('DROP DATABASE busy WITH (FORCE)'), '<', 2 + seconds_of('DROP DATABASE plain'),
	'DROP DATABASE ... WITH (FORCE) does not wait for long');
ok(!finish($doomed), 'the writers are gone');
wait_for_workers($node, 'coordinator@calm runner@calm', 'and so are the workers');

ok(finish($writers), 'writers of another database noticed nothing');
is_busy_exactly_once('calm', 'the other database');

# -- many --------------------------------------------------------------------------------------

my @many = map { sprintf 'd%02d', $_ } 1 .. 20;
my @open = @many[ 10 .. 19 ];

sub have_workers
{
	my ($name, @databases) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	wait_for_workers($node,
		join(' ', (map { "coordinator\@$_" } @databases), map { "runner\@$_" } @databases), $name);
}

sub record_in_each
{
	record($node, $_, 'each') foreach @_;
}

# once, or the numbers differ
sub each_is_handled
{
	my ($name, @databases) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	wait_for($node, $_,
		"SELECT count(*) = (SELECT count(*) FROM evinbox.event)"
		  . " AND count(*) = count(DISTINCT event_id) FROM handled", "$name: $_")
	  foreach @databases;
}

$node->safe_psql('calm', 'DROP EXTENSION evinbox CASCADE');
foreach my $db (@many)
{
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	install_evinbox($node, $db);
	add_inbox($node, $db, 'all');
}
have_workers('twenty databases have workers', @many);
record_in_each(@many);
each_is_handled('twenty databases', @many);
$node->restart;
have_workers('after a restart as well', @many);
record_in_each(@many);
each_is_handled('after a restart', @many);

# -- those where nobody may be, or should be ------------------------------------------------------

$node->safe_psql('postgres', "ALTER DATABASE $_ ALLOW_CONNECTIONS false") foreach @many[ 0 .. 4 ];
$node->safe_psql('postgres', "ALTER DATABASE $_ IS_TEMPLATE true") foreach @many[ 5 .. 9 ];
have_workers('none in templates and closed databases', @open);
record_in_each(@many[ 5 .. 9 ]);

# whoever may copy a template need not own it
cmp_ok(seconds_of('SET ROLE maker; CREATE DATABASE made TEMPLATE d06'),
	'<', 2, 'nobody is in the way when a template is copied');
is_sql($node, 'made', 'SELECT DISTINCT state FROM evinbox.inbox_status', 'quiet', 'the copy is quiet');
$node->safe_psql('postgres', 'DROP DATABASE made');

# each command sends somebody to look
foreach my $round (1 .. 3)
{
	$node->safe_psql('postgres', 'CREATE DATABASE plain');
	$node->safe_psql('postgres', 'DROP DATABASE plain');
	record_in_each(@open);
}
each_is_handled('beside them', @open);
$node->restart;
have_workers('none after a restart', @open);
record_in_each(@open);
each_is_handled('restarted', @open);
is_sql($node, 'postgres',
	"SELECT count(*) FROM pg_stat_activity WHERE datname = ANY ('{@{[ join ',', @many[ 0 .. 9 ] ]}}')",
	'0', 'nobody is in them');
is_sql($node, 'd20',
	"SELECT count(*) FROM evinbox.worker_status WHERE database <> ALL ('{@{[ join ',', @open ]}}')",
	'0', 'nor wants to be');

$node->safe_psql('postgres', "ALTER DATABASE $_ ALLOW_CONNECTIONS true") foreach @many[ 0 .. 4 ];
$node->safe_psql('postgres', "ALTER DATABASE $_ IS_TEMPLATE false") foreach @many[ 5 .. 9 ];
have_workers('all are back', @many);
record_in_each(@many);
each_is_handled('in the end', @many);

# -- what was said --------------------------------------------------------------------------------

# a coordinator may be asked to leave a copy before it has said that
my %made = (busy_copy => 2, copy0 => 1, copy1 => 1, copy2 => 1, made => 1);
cmp_ok(said($start_of_log, qr/dispatch is quiet in database "$_"/),
	'<=', $made{$_}, "$_ is said to be quiet once")
  foreach sort keys %made;
is(said($start_of_log), said($start_of_log, qr/dispatch is quiet in database/), 'and nothing else');

is_healthy($node);
$node->stop;
done_testing();
