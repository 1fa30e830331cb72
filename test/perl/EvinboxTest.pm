# What the TAP tests of evinbox have in common.
#
# Tests wait by polling only, with the timeout of PostgreSQL::Test::Utils
# (PG_TEST_TIMEOUT_DEFAULT, in seconds).
package EvinboxTest;

use strict;
use warnings;

# One that hangs must leave time for the others; nothing here takes a tenth.
BEGIN { $ENV{PG_TEST_TIMEOUT_DEFAULT} ||= 60 }

use Exporter 'import';
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);

our @EXPORT = qw(
  evinbox_node install_evinbox let_all_handle install_work install_gate install_elsewhere add_inbox record record_many
  wait_for wait_for_workers wait_for_handled is_sql
  is_exactly_once is_healthy said pids_of set_conf start_pgbench finish poll_start
);

# A server that is as in real life in what matters here.
#
# usage: evinbox_node($name, $configuration, parameters of its init())
sub evinbox_node
{
	my ($name, $conf, %init) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);

	$node->init(%init);
	$node->append_conf('postgresql.conf', <<EOC);
shared_preload_libraries = 'evinbox'
wal_level = replica
max_connections = 100
max_prepared_transactions = 10
max_worker_processes = 40
log_statement = none
log_min_messages = log
@{[ $conf // '' ]}
EOC
	$node->start;
	return $node;
}

# The extension, and a handler that tells what it was called with.  The table
# has no unique constraint: nothing hides an event that is handled twice.
sub install_evinbox
{
	my ($node, $db) = @_;

	$node->safe_psql($db, <<'EOS');
CREATE EXTENSION evinbox;
CREATE TABLE public.handled (
	n bigserial, inbox text, event_id bigint, subject text, action text);
CREATE INDEX ON public.handled (inbox, event_id);
CREATE FUNCTION public.handle(e evinbox.event, config jsonb) RETURNS void
LANGUAGE sql AS $$
	INSERT INTO public.handled (inbox, event_id, subject, action)
	VALUES (config->>'inbox', e.id, e.subject_id, e.action)
$$;
EOS
}

# Rules of all roles may use it.
sub let_all_handle
{
	my ($node, $db) = @_;

	$node->safe_psql($db, <<'EOS');
GRANT USAGE ON SCHEMA evinbox TO PUBLIC;
GRANT INSERT ON public.handled TO PUBLIC;
GRANT USAGE ON SEQUENCE public.handled_n_seq TO PUBLIC;
EOS
}

# Another handler for all, which takes as long as its configuration says.
sub install_work
{
	my ($node, $db) = @_;

	let_all_handle($node, $db);
	$node->safe_psql($db, <<'EOS');
CREATE FUNCTION public.work(e evinbox.event, config jsonb) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM pg_sleep((config->>'seconds')::float8);
	PERFORM public.handle(e, config);
END $$;
EOS
}

# A handler that stops at an event "gate" while somebody keeps the gate shut, after
# its effects and those of the events before it in the batch.
sub install_gate
{
	my ($node, $db) = @_;

	$node->safe_psql($db, <<'EOS');
CREATE FUNCTION public.handle_gate(e evinbox.event, config jsonb) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
	PERFORM public.handle(e, config);
	IF e.action = 'gate' THEN
		PERFORM pg_advisory_xact_lock_shared(42);
	END IF;
END $$;
EOS
}

# A handler that fails on this server and works on others, and a second role that
# may have rules.
sub install_elsewhere
{
	my ($node, $db) = @_;

	$node->safe_psql($db, <<"EOS");
CREATE FUNCTION public.handle_elsewhere(e evinbox.event, config jsonb) RETURNS void
LANGUAGE plpgsql AS \$\$
BEGIN
	PERFORM public.handle(e, config);
	IF current_setting('cluster_name') = '@{[ $node->name ]}' THEN
		RAISE EXCEPTION 'not on this server';
	END IF;
END \$\$;
CREATE ROLE clerk LOGIN;
GRANT USAGE ON SCHEMA evinbox TO clerk;
GRANT INSERT ON public.handled TO clerk;
GRANT USAGE ON SEQUENCE public.handled_n_seq TO clerk;
EOS
}

# usage: add_inbox($node, $db, $name, column => 'value', ...)
sub add_inbox
{
	my ($node, $db, $name, %column) = @_;
	my %all = (
		name => $name,
		handler => 'public.handle',
		config => qq({"inbox": "$name"}),
		%column);
	my @names = sort keys %all;

	$node->safe_psql($db,
			'INSERT INTO evinbox.inbox ('
		  . join(', ', @names)
		  . ') VALUES ('
		  . join(', ', map { "\$value\$$all{$_}\$value\$" } @names)
		  . ')');
}

# returns the event's id
sub record
{
	my ($node, $db, $subject, $action) = @_;

	$action //= 'happened';
	return $node->safe_psql($db,
		"SELECT evinbox.record_event('Thing', '$subject', '$action')");
}

# in one transaction
sub record_many
{
	my ($node, $db, $count, $action) = @_;

	$action //= 'happened';
	$node->safe_psql($db,
		"INSERT INTO evinbox.event (subject_type, subject_id, action)"
		  . " SELECT 'Thing', g::text, '$action' FROM generate_series(1, $count) g");
}

# Polls until a query says true.
sub wait_for
{
	my ($node, $db, $sql, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return ok($node->poll_query_until($db, $sql), $name);
}

# Of several runners, one counts.
#
# usage: wait_for_workers($node, 'coordinator@db runner@db', $name)
sub wait_for_workers
{
	my ($node, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return wait_for(
		$node, 'postgres',
		"SELECT coalesce(string_agg(DISTINCT w, ' ' ORDER BY w), '') = '$expected' FROM"
		  . " (SELECT substr(backend_type, 9) || '\@' || datname AS w"
		  . "  FROM pg_stat_activity WHERE backend_type LIKE 'evinbox %'"
		  . "  AND backend_type NOT LIKE '%launcher' AND backend_type NOT LIKE '%scout') s",
		$name);
}

# Polls until an inbox has handled so many events, or more.
sub wait_for_handled
{
	my ($node, $db, $inbox, $count, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return wait_for($node, $db,
		"SELECT count(*) >= $count FROM handled WHERE inbox = '$inbox'", $name);
}

sub is_sql
{
	my ($node, $db, $sql, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return is($node->safe_psql($db, $sql), $expected, $name);
}

# Waits until an inbox has handled all events that there are, and sees that it
# has handled none of them twice, and no others.  One more event at the end
# gives a second handling of the last ones the time to show.
sub is_exactly_once
{
	my ($node, $db, $inbox, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	wait_for($node, $db,
		"SELECT NOT EXISTS (SELECT FROM evinbox.event e WHERE NOT EXISTS"
		  . " (SELECT FROM handled h WHERE h.inbox = '$inbox' AND h.event_id = e.id))",
		"$name: nothing is lost");
	my $last = record($node, $db, 'last', 'happened');
	wait_for($node, $db,
		"SELECT EXISTS (SELECT FROM handled WHERE inbox = '$inbox' AND event_id = $last)",
		"$name: it goes on");
	is_sql(
		$node, $db,
		"SELECT count(*), count(DISTINCT event_id), count(*) FILTER (WHERE NOT EXISTS"
		  . " (SELECT FROM evinbox.event e WHERE e.id = h.event_id))"
		  . " FROM handled h WHERE inbox = '$inbox'",
		$node->safe_psql($db, "SELECT count(*), count(*), 0 FROM evinbox.event"),
		"$name: each event once, and no other");
}

# Nothing crashed, nothing that "cannot happen" happened.
sub is_healthy
{
	my ($node, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @bad = grep { /PANIC:|TRAP:|terminated by signal|XX000|cache lookup failed/ }
	  split /\n/, slurp_file($node->logfile);

	is("@bad", '', $name // 'the log is clean');
}

# How often our processes have said something since a place in the log.  Those that
# were asked to leave say so, as those of the server do.  The log's lines have to
# begin with "%m [%b] ".
sub said
{
	my ($node, $from, $pattern) = @_;
	my @lines = grep { /\[evinbox.*\] [A-Z]+:/ && !/CONTEXT:|DETAIL:|HINT:|due to administrator command/ }
	  split /\n/, slurp_file($node->logfile, $from);

	note $_ foreach @lines;
	return scalar(grep { !defined $pattern || /$pattern/ } @lines);
}

# process ids of the workers of a kind
sub pids_of
{
	my ($node, $kind, $db) = @_;

	return split /\n/,
	  $node->safe_psql('postgres',
		"SELECT pid FROM pg_stat_activity WHERE backend_type = 'evinbox $kind'"
		  . (defined $db ? " AND datname = '$db'" : ''));
}

# Changes a setting of the running server.
sub set_conf
{
	my ($node, $setting, $value) = @_;

	$node->safe_psql('postgres', "ALTER SYSTEM SET $setting = $value");
	$node->reload;
	$node->poll_query_until('postgres',
		"SELECT current_setting('$setting') = '$value'")
	  or die "$setting did not change";
}

# Runs pgbench in the background; finish() waits for it.
#
# usage: start_pgbench($node, $db, $script, @options)
sub start_pgbench
{
	my ($node, $db, $script, @options) = @_;
	my $file = $node->basedir . '/script' . int(rand(1e9)) . '.sql';
	my %bench = (out => '', err => '');

	append_to_file($file, $script);
	$bench{handle} = IPC::Run::start(
		[ 'pgbench', '-n', '-f', $file, @options, $node->connstr($db) ],
		'<', \undef, '>', \$bench{out}, '2>', \$bench{err},
		IPC::Run::timer($PostgreSQL::Test::Utils::timeout_default));
	return \%bench;
}

# Returns whether it went well.
sub finish
{
	my ($bench) = @_;

	IPC::Run::finish($bench->{handle});
	note $bench->{err} if $bench->{handle}->result(0) != 0;
	return $bench->{handle}->result(0) == 0;
}

# After kill -9 of the postmaster, some of its children may still be leaving.
sub poll_start
{
	my ($node) = @_;

	foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return 1 if $node->start(fail_ok => 1);
		usleep(100_000);
		$node->stop('fast', fail_ok => 1);
	}
	return 0;
}

1;
