# Very many rules: the one that an event is for handles it, and the others are in
# nobody's way.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use EvinboxTest;

my $node = evinbox_node('main');
my $db = 'postgres';

install_evinbox($node, $db);

# All have the same handler, and most of them a type of their own.
sub add_many
{
	my ($from, $to) = @_;

	$node->safe_psql($db, <<"EOS");
INSERT INTO evinbox.inbox (name, handler, config, subject_types)
	SELECT 'rule ' || g, 'public.handle', jsonb_build_object('inbox', 'rule ' || g), ARRAY['Type ' || g]
	FROM generate_series($from, $to) g
EOS
}

sub is_handled_by
{
	my ($type, $inbox, $name) = @_;
	my $id = $node->safe_psql($db, "SELECT evinbox.record_event('$type', 1, 'happened')");

	wait_for($node, $db, "SELECT count(*) > 0 FROM handled WHERE event_id = $id",
		"$name: it is handled");
	is_sql($node, $db, "SELECT string_agg(inbox, ', ') FROM handled WHERE event_id = $id", $inbox,
		"$name: by the one that it is for");
}

# -- a thousand, of which one matches ---------------------------------------------------

add_many(1, 1000);
is_handled_by("Type $_", "rule $_", "event $_ of a thousand") foreach 1, 500, 1000;
foreach my $round (1 .. 3)
{
	my $bench = start_pgbench($node, $db, <<'EOS', '-c', 2, '-t', 100);
\set n random(1, 1000)
SELECT evinbox.record_event('Type ' || :n, 1, 'happened');
SELECT evinbox.record_event('Type 77', 2, 'happened');
SELECT evinbox.record_event('Nothing', 3, 'happened');
EOS
	ok(finish($bench), "round $round: writers");
	wait_for($node, $db,
		"SELECT NOT EXISTS (SELECT FROM evinbox.event e WHERE subject_type <> 'Nothing'"
		  . " AND NOT EXISTS (SELECT FROM handled h WHERE h.event_id = e.id))",
		"round $round: each event is handled");
	is_sql($node, $db, <<'EOS', '0', "round $round: once, and by the one that it is for");
SELECT count(*) - count(DISTINCT event_id)
	+ count(*) FILTER (WHERE replace(inbox, 'rule', 'Type') <> e.subject_type)
FROM handled h LEFT JOIN evinbox.event e ON e.id = h.event_id
EOS
}

# A change of any of them takes effect.
$node->safe_psql($db, "UPDATE evinbox.inbox SET subject_types = '{Other}' WHERE name = 'rule 321'");
is_handled_by('Other', 'rule 321', 'a rule that has changed');
is_sql($node, $db,
	"SELECT count(*) FROM evinbox.inbox_status WHERE name IN ('rule 1', 'rule 1000') AND state = 'running'", '2',
	'inbox_status shows them');

$node->restart;
is_handled_by('Type 12', 'rule 12', 'after a restart');
is_sql($node, $db, 'SELECT count(*) - count(DISTINCT (inbox, event_id)) FROM handled', '0',
	'nothing is handled twice');

# -- as many as there may be ----------------------------------------------------------------

add_many(1001, 10000);
my ($code, $out, $err) = $node->psql($db, <<'EOS');
\set VERBOSITY verbose
INSERT INTO evinbox.inbox (name, handler) VALUES ('one more', 'public.handle');
EOS
like($err, qr/ERROR:  54000: cannot have more than 10000 inboxes/, 'one more is refused');
is_handled_by('Type 9999', 'rule 9999', 'an event of ten thousand');
is_handled_by('Type 10000', 'rule 10000', 'another one');
$node->safe_psql($db, "DELETE FROM evinbox.inbox WHERE name = 'rule 5'");
$node->safe_psql($db, "INSERT INTO evinbox.inbox (name, handler) VALUES ('one more', 'public.handle')");
is_sql($node, $db, 'SELECT count(*) FROM evinbox.inbox', '10000', 'where one is gone, another one may be');

is_healthy($node);
$node->stop;
done_testing();
