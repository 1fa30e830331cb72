# What a consumer of the logical replication stream gets of an event: names and
# values must be those that the section on Debezium in docs/operations.md builds on.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use EvinboxTest;

my $node = evinbox_node('main', <<'EOS', allows_streaming => 'logical');
wal_level = logical
evinbox.partition_size = 1000
evinbox.segment_xids = 16
EOS
my $db = 'app';

$node->safe_psql('postgres', "CREATE DATABASE $db");
install_evinbox($node, $db);

# as the documentation says
$node->safe_psql($db, <<'EOS');
CREATE PUBLICATION evinbox_events FOR TABLE evinbox.event
    WITH (publish = 'insert', publish_via_partition_root = true);
SELECT pg_create_logical_replication_slot('evinbox_events', 'pgoutput');
EOS

# The messages of a slot, as [type, bytes], in protocol version 1.
sub messages
{
	my @hex = split /\n/, $node->safe_psql($db,
		"SELECT encode(data, 'hex') FROM pg_logical_slot_get_binary_changes('evinbox_events', NULL, NULL,"
		  . " 'proto_version', '1', 'publication_names', 'evinbox_events')");

	return map { my $bytes = pack('H*', $_); [ substr($bytes, 0, 1), substr($bytes, 1) ] } @hex;
}

# Relation: OID, schema, name, replica identity, columns
sub read_relation
{
	my ($bytes) = @_;
	my ($oid, $schema, $name, $identity, $count, $rest) = unpack('N Z* Z* a n a*', $bytes);
	my @columns;

	foreach (1 .. $count)
	{
		(my $flags, my $column, my $type, my $modifier, $rest) = unpack('C Z* N N a*', $rest);
		push @columns, { name => $column, type => $type, is_key => $flags & 1 };
	}
	return { oid => $oid, name => "$schema.$name", identity => $identity, columns => \@columns };
}

# Insert: OID of the relation, and the new row; undef is a null
sub read_insert
{
	my ($bytes) = @_;
	my ($oid, $kind, $count, $rest) = unpack('N a n a*', $bytes);
	my @values;

	die "unexpected kind of row: $kind" if $kind ne 'N';
	foreach (1 .. $count)
	{
		(my $what, $rest) = unpack('a a*', $rest);
		if ($what eq 'n')
		{
			push @values, undef;
			next;
		}
		die "unexpected kind of value: $what" if $what ne 't';
		(my $value, $rest) = unpack('N/a a*', $rest);
		push @values, $value;
	}
	return { oid => $oid, values => \@values };
}

# -- what is sent ---------------------------------------------------------------------
#
# With a rule, an action and a batch of housekeeping beside it, all of which is
# nobody's business.

add_inbox($node, $db, 'all');
$node->safe_psql($db, <<'EOS');
SET timezone = 'UTC';
SET evinbox.actor = 'User:7';
INSERT INTO evinbox.action VALUES ('Issue', 'status_changed');
SELECT evinbox.record_event('Issue', 42, 'status_changed', metadata => '{"to": "closed", "from": "open"}',
	scope => 'acme', occurred_at => '2024-02-29 12:00:00.5+02');
BEGIN;
SAVEPOINT undone;
SELECT evinbox.record_event('Issue', 42, 'status_changed');
ROLLBACK TO undone;
SELECT evinbox.record_event('Issue', 43, 'status_changed', snapshot => '{"title": "It''s open"}');
COMMIT;
EOS
wait_for_handled($node, $db, 'all', 2, 'the events are handled');
$node->safe_psql($db, "SELECT evinbox.pause('all')");

my @messages = messages();
like(join('', map { $_->[0] } @messages), qr/^BR+ICBIC$/,
	'two transactions of an event each, and before the first what it is of');
my @inserts = map { read_insert($_->[1]) } grep { $_->[0] eq 'I' } @messages;

# The partition may be described as well, but no row is said to be of it.
my ($relation) = grep { $_->{oid} == $inserts[0]{oid} }
  map { read_relation($_->[1]) } grep { $_->[0] eq 'R' } @messages;

is($relation->{name}, 'evinbox.event', 'the table is the partitioned one');
is($relation->{identity}, 'd', 'identified by its primary key');
is(join(' ', map { $_->{name} } grep { $_->{is_key} } @{ $relation->{columns} }), 'id', 'which is the id');
my @names = map { $_->{name} } @{ $relation->{columns} };
is("@names",
	'id subject_type subject_id action actor scope metadata snapshot batch_id caused_by depth occurred_at recorded_at',
	'the columns');
is(join(' ', map { $node->safe_psql($db, "SELECT $_->{type}::regtype") } @{ $relation->{columns} }),
	'bigint text text text text text jsonb jsonb bigint bigint smallint'
	  . ' timestamp with time zone timestamp with time zone', 'their types');

# -- an event as a consumer sees it -----------------------------------------------------

sub event_of
{
	my ($insert) = @_;
	my %event;

	is($insert->{oid}, $relation->{oid}, 'a row of that table');
	@event{@names} = @{ $insert->{values} };
	return \%event;
}

my $one = event_of($inserts[0]);
is($one->{id}, '1', 'table.field.event.id: the id');
is($one->{subject_id}, '42', 'table.field.event.key: the subject');
is($one->{subject_type}, 'Issue', 'route.by.field: its type');
is($one->{metadata}, '{"to": "closed", "from": "open"}', 'table.field.event.payload: the metadata');
is($one->{action}, 'status_changed', 'the action');
is($one->{actor}, 'User:7', 'the actor');
is($one->{scope}, 'acme', 'the scope');
is($one->{$_}, undef, "$_: a null") foreach qw(snapshot batch_id caused_by);
is($one->{depth}, '0', 'depth');
is($one->{occurred_at}, '2024-02-29 10:00:00.5+00', 'when it happened, with its offset');
is($one->{recorded_at}, $node->safe_psql($db, 'SELECT recorded_at FROM evinbox.event WHERE id = 1'),
	'when it was recorded');

my $two = event_of($inserts[1]);
is($two->{id}, '3', 'what was rolled back is not sent');
is($two->{metadata}, '{}', 'metadata are never null, so there is no tombstone');
is($two->{snapshot}, $node->safe_psql($db, 'SELECT snapshot FROM evinbox.event WHERE id = 3'), 'a snapshot');

# -- other partitions -----------------------------------------------------------------

record_many($node, $db, 600);
$node->safe_psql($db,
	"DO \$\$ BEGIN FOR i IN 1 .. 20 LOOP PERFORM evinbox.record_event('Issue', i, 'status_changed'); COMMIT; END LOOP; END \$\$");
wait_for($node, $db, "SELECT count(*) > 2 FROM pg_inherits WHERE inhparent = 'evinbox.event'::regclass",
	'there is another partition');
record_many($node, $db, 600);
is_sql($node, $db, 'SELECT count(DISTINCT tableoid) FROM evinbox.event', '2', 'which is used');
@messages = messages();
my %kinds;
$kinds{ $_->[0] }++ foreach @messages;
is(join('', sort keys %kinds), 'BCIR', 'nothing but events is sent');
@inserts = map { read_insert($_->[1]) } grep { $_->[0] eq 'I' } @messages;
is(scalar(grep { $_->{oid} == $relation->{oid} } @inserts), 1220, 'all of them of the same table');
is(join(' ', map { $_->{values}[0] } @inserts),
	join(' ', split(/\n/, $node->safe_psql($db, 'SELECT id FROM evinbox.event WHERE id > 3 ORDER BY id'))),
	'each of them once');

# A row filter leaves out what nobody wants there.
$node->safe_psql($db, "ALTER PUBLICATION evinbox_events SET TABLE evinbox.event WHERE (subject_type = 'Issue')");
record($node, $db, 'unwanted');
my $wanted = $node->safe_psql($db, "SELECT evinbox.record_event('Issue', 44, 'status_changed')");
is(join(' ', map { read_insert($_->[1])->{values}[0] } grep { $_->[0] eq 'I' } messages()), $wanted,
	'a publication may be of some types only');

is_healthy($node);
$node->stop;
done_testing();
