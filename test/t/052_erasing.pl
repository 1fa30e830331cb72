# Erasing beside workers, on a standby, and by way of logical replication.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use EvinboxTest;

my $db = 'postgres';
my $node = evinbox_node('main', "wal_level = logical\n", allows_streaming => 1);
install_evinbox($node, $db);
install_gate($node, $db);

# A runner has read a whole batch, and is at its first event. What is erased meanwhile
# is seen as it is, or was; and no error tells of it afterwards.
$node->safe_psql($db, <<'EOS');
CREATE TABLE seen (id bigint, metadata jsonb);
CREATE FUNCTION public.see(e evinbox.event) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO public.seen VALUES (e.id, e.metadata);
	IF e.action = 'gate' THEN
		PERFORM pg_advisory_xact_lock_shared(42);
		RAISE EXCEPTION 'cannot cope with %', e.metadata;
	END IF;
END $$;
INSERT INTO evinbox.inbox (name, handler, max_attempts) VALUES ('seeing', 'public.see', 1);
EOS
my $gate = $node->background_psql($db);
$gate->query_safe('SELECT pg_advisory_lock(42);');
$node->safe_psql($db, <<'EOS');
INSERT INTO evinbox.event (subject_type, subject_id, action, metadata)
	SELECT 'Person', '7', CASE g WHEN 1 THEN 'gate' ELSE 'moved' END, '{"to": "Elm Street"}' FROM generate_series(1, 5) g
EOS
wait_for($node, $db, "SELECT count(*) = 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted", 'a handler is at work');
is_sql($node, $db, "SELECT evinbox.erase('Person', '7')", '5', 'an erasure does not wait for it');
$gate->query_safe('SELECT pg_advisory_unlock(42);');
wait_for($node, $db, "SELECT count(*) = 5 FROM seen", 'it goes on, with the erasure');
is_sql($node, $db, "SELECT DISTINCT metadata->>'to' IS NULL FROM seen WHERE id > 1", 't', 'what it had read before, it has read again');
is_sql($node, $db, "SELECT state, last_error, last_sqlstate, coalesce(error_context, '') FROM evinbox.delivery",
	'dead|not on record: the event was erased while it was handled|P0001|', 'the error does not tell');
$gate->quit;

# a large one beside writers and an inbox
add_inbox($node, $db, 'all');
my $bench = start_pgbench($node, $db, "SELECT evinbox.record_event('Person', 8, 'moved', actor => 'User:8', metadata => '{\"to\": \"Oak Street\"}');", '-c', '3', '-T', '4');
my $erased = 0;
$erased += $node->safe_psql($db, $_ % 2 ? "SELECT evinbox.erase('Person', '8')" : "SELECT evinbox.erase_actor('User:8')") foreach 1 .. 8;
ok(finish($bench), 'writers go on beside erasures');
cmp_ok($erased, '>', 0, 'which found something');
$node->safe_psql($db, "SELECT evinbox.erase('Person', '8')");
is_sql($node, $db, "SELECT count(*) FROM evinbox.event WHERE subject_id = '8' AND action = 'moved' AND (metadata <> '{}' OR actor IS NOT NULL)", '0', 'nothing is left in the end');
is_sql($node, $db, "SELECT sum((metadata->>'events')::int) = count(*) FILTER (WHERE action = 'moved') FROM evinbox.event WHERE subject_id = '8' OR subject_type = 'evinbox.actor'", 't',
	'and each was erased once');
wait_for($node, $db, "SELECT count(*) = 0 FROM evinbox.event e WHERE id > 6 AND NOT EXISTS (SELECT FROM handled h WHERE inbox = 'all' AND event_id = e.id)", 'all are handled');
is_sql($node, $db, "SELECT count(*) - count(DISTINCT event_id) FROM handled", '0', 'once');

# a standby, and a subscriber
$node->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'copy', has_streaming => 1);
$standby->start;
my $subscriber = evinbox_node('subscriber', '');
$subscriber->safe_psql($db, 'CREATE EXTENSION evinbox');
record($node, $db, 'first');
$node->safe_psql($db, 'CREATE PUBLICATION events FOR TABLE evinbox.event WITH (publish_via_partition_root = true)');
$subscriber->safe_psql($db, "CREATE SUBSCRIPTION events CONNECTION 'host=@{[ $node->host ]} port=@{[ $node->port ]} dbname=$db' PUBLICATION events WITH (copy_data = false)");
$node->safe_psql($db, "SELECT evinbox.record_event('Person', 9, 'moved', actor => 'User:9', metadata => '{\"to\": \"Ash Street\"}', snapshot => '{}')");
my $state = "SELECT string_agg(format('%s %s %s %s', action, actor, metadata, snapshot), ', ' ORDER BY id) FROM evinbox.event WHERE subject_id = '9'";
$node->wait_for_catchup('events');
is_sql($subscriber, $db, $state, 'moved User:9 {"to": "Ash Street"} {}', 'replicated');
$node->safe_psql($db, "SELECT evinbox.erase('Person', '9')");
$node->wait_for_catchup($_) foreach ('events', 'standby');
is_sql($_, $db, $state, 'moved  {} , erased  {"events": 1} ', 'erased on ' . $_->name) foreach ($node, $standby, $subscriber);
is($subscriber->psql($db, "UPDATE evinbox.event SET metadata = '{}' WHERE subject_id = '9'"), 3, 'nobody else can do that on the subscriber');
is($standby->psql($db, "SELECT evinbox.erase('Person', '9')"), 3, 'nor on a standby');

# another change that comes by replication is refused
$node->safe_psql($db, <<'EOS');
ALTER TABLE evinbox.event DISABLE TRIGGER event_refuse_change;
ALTER TABLE evinbox.event DISABLE TRIGGER event_refuse_row_change;
UPDATE evinbox.event SET subject_id = '10', metadata = '{}' WHERE subject_id = '9' AND action = 'moved';
EOS
ok($subscriber->poll_query_until($db, "SELECT apply_error_count > 0 FROM pg_stat_subscription_stats"), 'another change is refused');
is_sql($subscriber, $db, $state, 'moved  {} , erased  {"events": 1} ', 'and not made');
$subscriber->safe_psql($db, $_) foreach ('ALTER SUBSCRIPTION events DISABLE', 'ALTER SUBSCRIPTION events SET (slot_name = NONE)', 'DROP SUBSCRIPTION events');

is_healthy($_) foreach ($node, $standby, $subscriber);
$_->stop foreach ($standby, $subscriber, $node);
done_testing();
