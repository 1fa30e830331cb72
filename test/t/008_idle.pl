# An idle server sees no transaction, no WAL and no transaction id from us.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(sleep);
use EvinboxTest;

# The rest of the server is kept quiet.
my $node = evinbox_node('main', <<'EOS');
autovacuum = off
checkpoint_timeout = '1d'
max_wal_size = '10GB'
evinbox.segment_xids = 16
EOS
my $db = 'app';

$node->safe_psql('postgres', "CREATE DATABASE $db");
install_evinbox($node, $db);
add_inbox($node, $db, 'all');
add_inbox($node, $db, 'none', subject_types => '{Nothing}');
add_inbox($node, $db, 'conditional', condition => 'e.id % 2 = 0');
$node->safe_psql($db, <<'EOS');
CREATE FUNCTION public.fail(e evinbox.event) RETURNS void LANGUAGE plpgsql
	AS $$ BEGIN RAISE EXCEPTION 'no'; END $$
EOS
add_inbox($node, $db, 'failing', max_attempts => 2, backoff => '10 ms',
	subject_types => '{Bad}', handler => 'public.fail');
record($node, $db, "one $_") foreach 1 .. 100;
record_many($node, $db, 500);
$node->safe_psql($db, "SELECT evinbox.record_event('Bad', 1, 'x')");
is_exactly_once($node, $db, 'all', 'events');
wait_for($node, $db, 'SELECT count(*) = 1 FROM evinbox.dead_letter', 'and a failure are over');

# The coordinator may have put off a look, by up to a minute.  It looks now, and
# has no reason to look again.
wait_for($node, $db, <<'EOS', 'the cursors of all inboxes are stored');
SELECT bool_and(lag_events = 0) FROM evinbox.inbox_status
EOS
$node->safe_psql($db, "UPDATE evinbox.inbox SET priority = priority WHERE name = 'none'")
  foreach 1 .. 2;

# Looks from another database, so that looking does not count.  A worker that
# looks, in a transaction or not, changes its state.
my $looking = <<'EOS';
SELECT pg_current_wal_insert_lsn(), pg_snapshot_xmax(pg_current_snapshot()),
	string_agg(concat_ws(' ', backend_type, pid, state_change), ', ' ORDER BY pid)
FROM pg_stat_activity WHERE backend_type LIKE 'evinbox%'
EOS

# The one fixed wait of all tests: what must not happen has no end to poll for.
# It is longer than the ten seconds after which statistics are reported.  What
# is left to do after the last event (cursors to store, statistics to report,
# running transactions to log) comes to an end by itself, in a few rounds.
my ($before, $after) = ('', '');
foreach my $round (1 .. 5)
{
	$before = $node->safe_psql('postgres', $looking);
	sleep 12;
	$after = $node->safe_psql('postgres', $looking);
	note "$before\n$after";
	last if $before eq $after;
}
is($after, $before, 'the server gets quiet: no transaction, no WAL, no transaction id');

# It was not asleep for good.
record($node, $db, 'awake');
is_exactly_once($node, $db, 'all', 'the next event');

is_healthy($node);
$node->stop;
done_testing();
