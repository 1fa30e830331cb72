# An inbox with shards: several runners share its events, those of one subject
# in order and never two at once, and the number of shards may change.

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

# The lock on the subject is the session's, and held no longer than the handler
# works: whoever does not get it is the second one at that subject.
$node->safe_psql($db, <<'EOS');
CREATE FUNCTION public.work(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	subject int := hashtext(e.subject_id);
BEGIN
	IF NOT pg_try_advisory_lock(1, subject) THEN
		RAISE EXCEPTION 'two at once';
	END IF;
	IF e.action = 'waits' THEN
		PERFORM pg_advisory_xact_lock_shared(2, 0);
	ELSIF e.action = 'takes long' THEN
		PERFORM pg_sleep(random() * 0.004);
	END IF;
	PERFORM public.handle(e, config);
	PERFORM pg_advisory_unlock(1, subject);
END $$;
CREATE VIEW public.in_handler AS
	SELECT pid FROM pg_stat_activity
	WHERE backend_type = 'evinbox runner' AND wait_event_type = 'Lock' AND wait_event = 'advisory';
EOS

# -- in parallel, but not within a subject ------------------------------------------

add_inbox($node, $db, 'all', handler => 'public.work', shards => 4, max_attempts => 1);
my $keeper = $node->background_psql($db);
$keeper->query_safe('SELECT pg_advisory_lock(2, 0)');

# of 40 subjects, each shard has some
$node->safe_psql($db, "SELECT evinbox.record_event('Thing', g % 40, 'waits') FROM generate_series(1, 400) g");
wait_for($node, $db, 'SELECT count(*) = 4 FROM in_handler', 'four runners work for it at once');
is_sql($node, $db, 'SELECT count(*) FROM handled', '0', 'and none is through');
is_sql($node, $db, "SELECT lag_events > 0 AND state = 'running' FROM evinbox.inbox_status", 't',
	'inbox_status knows');

# others that the same owner has get a runner in between, of four
add_inbox($node, $db, 'other', subject_types => '{Other}');
$node->safe_psql($db, "SELECT evinbox.record_event('Other', 'other', 'happened')");
$keeper->quit;
wait_for_handled($node, $db, 'other', 1, 'the other one has its turn');
is_exactly_once($node, $db, 'all', 'four shards');

sub is_in_order
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	is_sql($node, $db, <<'EOS', '0', "$name: those of a subject in order");
SELECT count(*) FROM (
	SELECT event_id, lag(event_id) OVER (PARTITION BY subject ORDER BY n) AS former
	FROM handled WHERE inbox = 'all') s
WHERE event_id < former
EOS
	is_sql($node, $db, 'SELECT count(*) FROM evinbox.delivery', '0', "$name: nothing has failed");
}
is_in_order('four shards');

# -- under load, with changes ---------------------------------------------------------
#
# A writer's subject is its own: ids within it are in the order of commits.

$node->safe_psql($db, 'DELETE FROM evinbox.inbox WHERE name = $$other$$');
my $load = <<'EOS';
SELECT evinbox.record_event('Thing', 10 * :client_id + i, 'takes long') FROM generate_series(1, 3) i;
EOS

# A change is refused while what the last one has left is not done.
sub change_shards
{
	my ($to) = @_;
	my $refused = 0;

	foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		my ($code, $out, $err) = $node->psql($db,
			"\\set VERBOSITY verbose\nUPDATE evinbox.inbox SET shards = $to WHERE name = 'all'",
			on_error_stop => 1);

		if ($code == 0)
		{
			note "shards = $to, refused before: $refused";
			return pass("shards = $to");
		}
		if ($err !~ /ERROR:  55000: /)
		{
			diag($err);
			last;
		}
		$refused++;
		usleep(50_000);
	}
	return fail("shards = $to");
}

my $bench = start_pgbench($node, $db, $load, '-c', 4, '-T', 6, '-R', 250);
foreach my $shards (1, 2, 4, 8, 3, 1, 4)
{
	my $handled = $node->safe_psql($db, 'SELECT count(*) FROM handled');

	change_shards($shards);

	# on a slow machine the writers may be through by now
	wait_for($node, $db, "SELECT (SELECT count(*) FROM handled) >= $handled + 20 OR lag_events = 0"
		  . " FROM evinbox.inbox_status WHERE name = 'all'", "it goes on with $shards");
}
ok(finish($bench), 'writers meanwhile');
is_exactly_once($node, $db, 'all', 'with changes of the shards');
is_in_order('with changes of the shards');
is_sql($node, $db, 'SELECT shards FROM evinbox.inbox', '4', 'there are four in the end');
# A change of a rule makes the coordinator look.
wait_for($node, $db,
	"WITH look AS (UPDATE evinbox.inbox SET priority = priority)"
	  . " SELECT NOT EXISTS (SELECT FROM evinbox_internal.backlog)",
	'what they have left behind is gone');

# while it is paused, and scheduled: what there is is divided anew
foreach my $how ("enabled = false", "dispatch = 'scheduled'")
{
	$node->safe_psql($db, "UPDATE evinbox.inbox SET $how");
	record($node, $db, $_ % 20) foreach 1 .. 40;
	change_shards(2);
	record_many($node, $db, 200);

	# the ranges of the last change are left
	my ($code, $out, $err) = $node->psql($db,
		"\\set VERBOSITY verbose\nUPDATE evinbox.inbox SET shards = 8");
	like($err, qr/ERROR:  55000: .*still busy/, "$how: a second change is refused");
	$node->safe_psql($db, "UPDATE evinbox.inbox SET enabled = true, dispatch = 'live'");
	is_exactly_once($node, $db, 'all', "$how, and then not any more");
	is_in_order($how);
	change_shards(4);
	wait_for($node, $db, 'SELECT backlog = 0 FROM evinbox.inbox_status',
		"$how: inbox_status tells when the next change is possible");
}

# -- run() takes all shards --------------------------------------------------------------

$node->safe_psql($db, "UPDATE evinbox.inbox SET dispatch = 'scheduled'");
record_many($node, $db, 500);
is_sql($node, $db, "SELECT evinbox.run('all')", '500', 'run() handles what all of them have');
$node->safe_psql($db, "UPDATE evinbox.inbox SET dispatch = 'live'");
is_exactly_once($node, $db, 'all', 'after run()');
my @benches = (
	start_pgbench($node, $db, $load, '-c', 2, '-t', 100),
	start_pgbench($node, $db, "SELECT evinbox.run('all');", '-c', 2, '-t', 40));
is((grep { finish($_) } @benches), 2, 'four runners, and sessions that call run()');
is_exactly_once($node, $db, 'all', 'beside run()');
is_in_order('beside run()');

# -- retries ------------------------------------------------------------------------------

# Those of any shard come in time, though another one may make them.
$node->safe_psql($db, <<'EOS');
CREATE TABLE public.works (yes boolean);
INSERT INTO public.works VALUES (false);
CREATE FUNCTION public.try(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	IF NOT (SELECT yes FROM public.works) THEN
		RAISE EXCEPTION 'not yet';
	END IF;
	PERFORM public.handle(e, config);
END $$;
EOS
add_inbox($node, $db, 'fails', handler => 'public.try', subject_types => '{Bad}', shards => 4,
	max_attempts => 1000, backoff => '1 ms', replayable => 'true');
foreach my $subject (1 .. 8)
{
	$node->safe_psql($db, 'UPDATE public.works SET yes = false');
	my $id = $node->safe_psql($db, "SELECT evinbox.record_event('Bad', $subject, 'happened')");
	wait_for($node, $db, "SELECT retrying = 1 FROM evinbox.inbox_status WHERE name = 'fails'",
		"subject $subject fails");
	$node->safe_psql($db, 'UPDATE public.works SET yes = true');
	wait_for($node, $db, "SELECT count(*) = 1 FROM handled WHERE inbox = 'fails' AND event_id = $id",
		"subject $subject is tried again");
}

is_sql($node, $db, 'SELECT count(*) FROM evinbox.delivery', '0', 'no failure is left');
unlike(slurp_file($node->logfile), qr/two at once/, 'no two runners were at one subject');
is_healthy($node);
$node->stop;
done_testing();
