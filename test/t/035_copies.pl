# Copies of a database, or of a whole cluster: what its original does, a copy
# must not do again by itself.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);
use EvinboxTest;

my $node = evinbox_node('main', <<'EOS');
evinbox.max_runners = 16
evinbox.max_workers = 80
max_worker_processes = 100
EOS
my $db = 'app';

$node->safe_psql('postgres', "CREATE DATABASE $db");
$node->safe_psql('postgres', 'CREATE ROLE clerk LOGIN');
install_evinbox($node, $db);
let_all_handle($node, $db);
$node->safe_psql($db, <<'EOS');
CREATE TABLE public.failing (database name);
GRANT SELECT ON public.failing TO PUBLIC;
CREATE FUNCTION public.fail_here(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF EXISTS (SELECT FROM public.failing WHERE database = current_database()) THEN
		RAISE EXCEPTION 'not here';
	END IF;
	PERFORM public.handle(e, config);
END $$;
EOS
my @live = qw(live clerk sharded);
my @all = (@live, 'paused', 'daily');

add_inbox($node, $db, 'live');
add_inbox($node, $db, 'clerk', owner => 'clerk');
add_inbox($node, $db, 'sharded', owner => 'clerk', shards => 3);
add_inbox($node, $db, 'paused');
add_inbox($node, $db, 'daily', dispatch => 'scheduled');
add_inbox($node, $db, 'fails', handler => 'public.fail_here', actions => '{fails}', backoff => '1 hour');

# -- what there is to copy --------------------------------------------------------------

$node->safe_psql($db, "INSERT INTO public.failing VALUES ('$db')");
record_many($node, $db, 100);
record($node, $db, 'fails', 'fails');
wait_for_handled($node, $db, $_, 101, "$_ has handled what there was") foreach @live, 'paused';
wait_for($node, $db, 'SELECT count(*) = 1 FROM evinbox.delivery', 'one has failed');
is_sql($node, $db, "SELECT evinbox.run('daily', 50)", '50', 'a scheduled one stops in the midst');
$node->safe_psql($db, "SELECT evinbox.pause('paused')");

# With nobody at work, events gather.
sub let_gather
{
	my ($node, $db) = @_;

	set_conf($node, 'evinbox.enabled', 'off');
	wait_for_workers($node, '', 'nobody is at work');
	record_many($node, $db, 50);
}

sub copy_database
{
	my ($from, $to, $options) = @_;

	$node->safe_psql('postgres', "CREATE DATABASE $to TEMPLATE $from" . ($options // ''));
}

# -- looking at a copy --------------------------------------------------------------------

sub log_lines
{
	my ($node, $name) = @_;
	my @lines = slurp_file($node->logfile) =~ /dispatch is quiet in database "$name"/g;

	return scalar @lines;
}

sub is_quiet
{
	my ($node, $name, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $handled = $node->safe_psql($name, 'SELECT count(*) FROM handled');

	$node->wait_for_log(qr/dispatch is quiet in database "$name"/);
	foreach my $sql ("SELECT evinbox.run()",
		"INSERT INTO evinbox.inbox (name, handler) VALUES ('new', 'public.handle')")
	{
		my ($status, $out, $error) = $node->psql($name, $sql, extra_params => [ '-v', 'VERBOSITY=verbose' ]);

		like($error, qr/ERROR:  55000: dispatch is quiet in this database/, "$what: refused: $sql");
	}
	record($node, $name, 'quiet');
	is_sql($node, $name, "SELECT string_agg(DISTINCT state, ' '), (SELECT count(*) FROM handled) FROM evinbox.inbox_status",
		"quiet|$handled", "$what: it is quiet, and records events");
	is_sql($node, $name,
		"SELECT (SELECT count(*) FROM pg_stat_activity WHERE datname = '$name' AND backend_type = 'evinbox runner'),"
		  . " (SELECT count(*) FROM evinbox.worker_status WHERE database = '$name' AND kind = 'runner')",
		'0|0', "$what: nobody runs, or is to");
	is(log_lines($node, $name), 1, "$what: the log says it once");
}

# All of what the database has, each once.  "live" ones come by themselves.
sub goes_on
{
	my ($node, $name, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	$node->safe_psql($name, "SELECT evinbox.resume('paused'), evinbox.retry('fails')");
	is_exactly_once($node, $name, $_, "$what, $_") foreach @live, 'paused';
	$node->safe_psql($name, "SELECT evinbox.run('daily')");
	is_exactly_once_by_now($node, $name, 'daily', "$what, daily");
	is_sql($node, $name, "SELECT count(*) FROM evinbox.inbox_status WHERE state NOT IN ('running', 'scheduled')", '0',
		"$what: all is well");
}

sub is_exactly_once_by_now
{
	my ($node, $name, $inbox, $what) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is_sql($node, $name, <<EOS, '0', "$what: each event once");
SELECT count(*) FROM evinbox.event e
WHERE (SELECT count(*) FROM handled h WHERE h.inbox = '$inbox' AND h.event_id = e.id) <> 1
EOS
}

# -- CREATE DATABASE ... TEMPLATE ------------------------------------------------------------

let_gather($node, $db);
copy_database($db, 'copied');
copy_database($db, 'by_file', ' STRATEGY file_copy');
set_conf($node, 'evinbox.enabled', 'on');
is_quiet($node, 'copied', 'a copy');
is_quiet($node, 'by_file', 'a copy by files');
is_exactly_once($node, $db, $_, "the original goes on, $_") foreach @live;
is(log_lines($node, $db), 0, 'and was never quiet');

# with its workers there
my $start = time;
copy_database($db, 'busy');
cmp_ok(time - $start, '<', 3, 'they make room for another copy');
my $id = record($node, $db, 'after');
wait_for($node, $db, "SELECT count(*) = 1 FROM handled WHERE inbox = 'live' AND event_id = $id", 'and are back at once');
is_quiet($node, 'busy', 'the other copy');

# -- copies of copies ----------------------------------------------------------------------------

copy_database('copied', 'quiet_one');
is_quiet($node, 'quiet_one', 'a copy of a quiet one');
$node->safe_psql('copied', "SELECT evinbox.resume_after_restore('deliver')");
goes_on($node, 'copied', 'delivered');
is_sql($node, 'copied', "SELECT count(*) FROM handled WHERE inbox = 'fails'", '1', 'delivered: a retry');
copy_database('copied', 'resumed_one');
is_quiet($node, 'resumed_one', 'a copy of one that goes on');
$node->safe_psql('quiet_one', "SELECT evinbox.resume_after_restore('deliver')");
goes_on($node, 'quiet_one', 'a copy of a quiet one');
is_sql($node, 'quiet_one', "SELECT count(*) FROM evinbox.event WHERE subject_id = 'quiet'", '2',
	'a copy of a quiet one: with what was recorded in both');

# what it still knows does not make it take up the copy's work once more
$node->safe_psql('resumed_one', "SELECT evinbox.resume_after_restore('deliver')");
goes_on($node, 'resumed_one', 'a copy of one that goes on');
is_sql($node, 'resumed_one', "SELECT count(*) FROM handled WHERE inbox = 'fails'", '1',
	'a copy of one that goes on: no retry a second time');

# -- discard ------------------------------------------------------------------------------------------

$node->safe_psql('by_file', "SELECT evinbox.resume_after_restore('discard'), evinbox.resume('paused')");
my $before = $node->safe_psql('by_file', 'SELECT count(*) FROM handled');
record_many($node, 'by_file', 10);
wait_for_handled($node, 'by_file', $_, 111, "discarded, $_: what is recorded from now on is handled") foreach @live, 'paused';
is_sql($node, 'by_file', "SELECT evinbox.run('daily')", '10', 'discarded, daily, too');
is_sql($node, 'by_file', "SELECT count(*) - $before FROM handled", '50', 'discarded: and nothing else');
is_sql($node, 'by_file', 'SELECT state, last_error FROM evinbox.delivery',
	'skipped|discarded by resume_after_restore()', 'discarded: nor what had failed');

# -- names --------------------------------------------------------------------------------------------
#
# A database is what it is by its OID.

is_sql($node, 'busy', "SELECT state FROM evinbox.inbox_status WHERE name = 'live'", 'quiet', 'one is quiet still');
$node->safe_psql('postgres', 'DROP DATABASE copied');
$node->safe_psql('postgres', "ALTER DATABASE $db RENAME TO copied");
$node->safe_psql('postgres', "ALTER DATABASE busy RENAME TO $db");
is_quiet($node, $db, 'a copy under its original\'s name');
is_exactly_once($node, 'copied', $_, "the original under another name, $_") foreach @live;
$node->safe_psql('postgres', "DROP DATABASE $db");
$node->safe_psql('postgres', "ALTER DATABASE copied RENAME TO $db");
is_exactly_once($node, $db, 'live', 'again under its own');
$node->safe_psql('postgres', "DROP DATABASE $_") foreach qw(by_file quiet_one resumed_one);

# -- a whole cluster -------------------------------------------------------------------------------------

let_gather($node, $db);
$node->stop;
$node->backup_fs_cold('cold');

# the same system: after a loss, this is how one goes on
my $restored = PostgreSQL::Test::Cluster->new('restored');
$restored->init_from_backup($node, 'cold');
$restored->start;
set_conf($restored, 'evinbox.enabled', 'on');
is_exactly_once($restored, $db, $_, "files of the same system go on, $_") foreach @live;
is(log_lines($restored, $db), 0, 'and were never quiet');

# unless they are told that they are a copy
$restored->safe_psql($db, 'UPDATE evinbox_internal.incarnation SET database_id = 0');
wait_for_workers($restored, "coordinator\@$db", 'told so, the runners leave');
is_quiet($restored, $db, 'told so');
$restored->safe_psql($db, "SELECT evinbox.resume_after_restore('deliver')");
goes_on($restored, $db, 'told so');
is_healthy($restored, 'their log is clean');
$restored->stop;

# Another system: the server has no better way to get one than to forget what it
# knows, and be told all but that.
my $foreign = PostgreSQL::Test::Cluster->new('foreign');
$foreign->init_from_backup($node, 'cold');

sub control_data
{
	my ($node) = @_;
	my ($out) = run_command([ 'pg_controldata', $node->data_dir ]);
	my %value = $out =~ /^([^:\n]+):\s+(.*)$/mg;

	return \%value;
}

my $control = control_data($foreign);
my ($epoch, $xid) = split /:/, $control->{"Latest checkpoint's NextXID"};
my $file = $foreign->data_dir . '/global/pg_control';
unlink $file;
append_to_file($file, '');
command_ok(
	[
		'pg_resetwal', '-f', '-D', $foreign->data_dir, '-e', $epoch, '-x', $xid,
		'-u', $control->{"Latest checkpoint's oldestXID"},
		'-o', $control->{"Latest checkpoint's NextOID"},
		'-m', $control->{"Latest checkpoint's NextMultiXactId"} . ','
		  . $control->{"Latest checkpoint's oldestMultiXid"},
		'-O', $control->{"Latest checkpoint's NextMultiOffset"}
	],
	'a copy of all files gets another system identifier');
isnt(control_data($foreign)->{'Database system identifier'}, $control->{'Database system identifier'}, 'it has');
$_->start foreach $node, $foreign;
set_conf($_, 'evinbox.enabled', 'on') foreach $node, $foreign;
is_quiet($foreign, $db, 'another system');
is_exactly_once($node, $db, $_, "the original of another system goes on, $_") foreach @live;

# where the launcher has not heard of it, it is quiet as well
$foreign->safe_psql('postgres', "ALTER DATABASE $db RESET evinbox.installed");
$foreign->restart;
is_sql($foreign, $db, 'SELECT DISTINCT state FROM evinbox.inbox_status', 'quiet', 'another system, restarted');
is_sql($foreign, $db, "SELECT count(*) FROM evinbox.worker_status WHERE database = '$db'", '0', 'nobody looks after it');
$foreign->safe_psql($db, "SELECT evinbox.resume_after_restore('deliver')");
goes_on($foreign, $db, 'another system');
$foreign->restart;
is_exactly_once($foreign, $db, 'live', 'another system, after a restart');
is(log_lines($foreign, $db), 1, 'another system: it is itself now');

is_healthy($_, $_->name . "'s log is clean") foreach $node, $foreign;
$_->stop foreach $node, $foreign;
done_testing();
