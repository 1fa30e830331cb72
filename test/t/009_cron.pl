# schedule() has pg_cron call run(), as the inbox's owner.

use strict;
use warnings;

# A job may have to wait for the next full minute.
BEGIN { $ENV{PG_TEST_TIMEOUT_DEFAULT} = 90 if ($ENV{PG_TEST_TIMEOUT_DEFAULT} // 0) < 90 }

use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use EvinboxTest;

chomp(my $share = qx(pg_config --sharedir));
plan skip_all => 'pg_cron is not installed' unless -f "$share/extension/pg_cron.control";

# Background workers need neither a password nor a host to connect to.
my $node = evinbox_node('main', <<'EOS');
shared_preload_libraries = 'evinbox,pg_cron'
cron.database_name = 'app'
cron.use_background_workers = on
EOS
my $db = 'app';

$node->safe_psql('postgres', "CREATE DATABASE $_") for ($db, 'other');
install_evinbox($node, $_) for ($db, 'other');
add_inbox($node, $_, 'digest', dispatch => 'scheduled') for ($db, 'other');

# The error of a statement: its state, message and hint.
sub error_of
{
	my ($where, $sql) = @_;
	my $stderr = '';

	$node->psql($where, "\\set VERBOSITY verbose\n$sql", stderr => \$stderr);
	return $stderr;
}

# -- where pg_cron is missing, or somewhere else -----------------------------------

like(error_of($db, "SELECT evinbox.schedule('digest', '* * * * *')"),
	qr/ERROR:  55000: pg_cron is not installed in this database\n.*HINT:.*CREATE EXTENSION pg_cron/s,
	'pg_cron is missing');
like(error_of('other', "SELECT evinbox.schedule('digest', '* * * * *')"),
	qr/ERROR:  55000: pg_cron lives in database "app", not in "other"\n.*HINT:.*cron\.schedule_in_database/s,
	'pg_cron lives in another database');
like(error_of('other', "SELECT evinbox.unschedule('digest')"),
	qr/ERROR:  55000: pg_cron lives in database "app"/, 'the same for unschedule()');

# -- jobs come and go ----------------------------------------------------------------

$node->safe_psql($db, <<'EOS');
CREATE EXTENSION pg_cron;
CREATE ROLE alice LOGIN;
GRANT USAGE ON SCHEMA cron TO alice;
GRANT USAGE ON SCHEMA evinbox TO alice;
GRANT EXECUTE ON FUNCTION evinbox.run, evinbox.schedule, evinbox.unschedule TO alice;
CREATE TABLE public.mail (who text, subject text);
GRANT INSERT ON public.mail TO alice;
CREATE FUNCTION public.send(e evinbox.event) RETURNS void LANGUAGE sql AS $$
	INSERT INTO public.mail VALUES (session_user || '/' || current_user, e.subject_id)
$$;
INSERT INTO evinbox.inbox (name, owner, handler, dispatch)
	VALUES ('alice''s', 'alice', 'send', 'scheduled');
EOS
my $version = $node->safe_psql($db,
	"SELECT extversion FROM pg_extension WHERE extname = 'pg_cron'");
my $jobs = "SELECT string_agg(jobname || '|' || schedule || '|' || database, ', ' ORDER BY jobname) FROM cron.job";

my $job = $node->safe_psql($db, "SELECT evinbox.schedule('digest', '0 8 * * *')");
is_sql($node, $db, "SELECT jobid, command FROM cron.job",
	"$job|SELECT evinbox.run('digest')", 'schedule() makes a job that calls run()');
is_sql($node, $db, $jobs, 'evinbox: digest|0 8 * * *|app', 'with its schedule');
is_sql($node, $db, "SELECT evinbox.schedule('digest', '30 9 * * *')", $job,
	'schedule() again changes that job');
is_sql($node, $db, $jobs, 'evinbox: digest|30 9 * * *|app', 'and only that');
$node->safe_psql($db, "SELECT evinbox.unschedule('digest')");
is_sql($node, $db, 'SELECT count(*) FROM cron.job', '0', 'unschedule() removes it');
like(error_of($db, "SELECT evinbox.unschedule('digest')"),
	qr/ERROR:  42704: inbox "digest" is not scheduled/, 'there is none any more');
like(error_of($db, "SELECT evinbox.schedule('nobody', '* * * * *')"),
	qr/ERROR:  42704: inbox "nobody" does not exist/, 'an inbox that does not exist');
like(error_of($db, "SET ROLE alice; SELECT evinbox.schedule('digest', '* * * * *')"),
	qr/ERROR:  42501: inbox "digest" belongs to another role/, 'an inbox of another role');
like(error_of($db, "SELECT evinbox.schedule('digest', 'now and then')"),
	qr/ERROR:  .*invalid schedule/, 'a schedule that is none');

SKIP:
{
	my ($major, $minor) = $version =~ /^(\d+)\.(\d+)/;
	skip "pg_cron $version knows seconds", 2 if $major > 1 || $minor >= 5;

	like(error_of($db, "SELECT evinbox.schedule('digest', '10 seconds')"),
		qr/ERROR:  0A000: pg_cron $major\.$minor has no schedules in seconds\n.*HINT:.*1\.5/s,
		'seconds are refused by a pg_cron that does not know them');
	is_sql($node, $db, 'SELECT count(*) FROM cron.job', '0', 'and no job is made');
}

# -- the job runs --------------------------------------------------------------------

$node->safe_psql($db, "SET ROLE alice; SELECT evinbox.schedule('alice''s', '* * * * *')");
is_sql($node, $db, "SELECT username, jobname FROM cron.job", "alice|evinbox: alice's",
	'the job belongs to the owner');
record($node, $db, 'hello');
record($node, $db, 'world');
is_sql($node, $db, 'SELECT count(*) FROM mail', '0', 'a scheduled inbox waits');
wait_for($node, $db, 'SELECT count(*) >= 2 FROM mail', 'until its job runs');
is_sql($node, $db, "SELECT string_agg(who || ' ' || subject, ', ' ORDER BY subject) FROM mail",
	'alice/alice hello, alice/alice world', 'as the owner, each event once');
is_sql($node, $db, "SELECT state FROM evinbox.inbox_status WHERE name = 'alice''s'",
	'scheduled', 'its state says so');
$node->safe_psql($db, "SET ROLE alice; SELECT evinbox.unschedule('alice''s')");

is_healthy($node);
$node->stop;
done_testing();
