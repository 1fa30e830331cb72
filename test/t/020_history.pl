# Whatever writers do, and whatever dies meanwhile: each committed event is
# handled once by each inbox that wants it, in order, and nothing else is.
#
# Writers of all kinds keep a history of their transactions, while processes are
# killed and the server is stopped in all ways; then the history, the events and
# the effects are compared.  Nothing is unique, so that nothing hides a double.
#
# EVINBOX_SEED repeats the choices of a run, though not the kernel's; and
# EVINBOX_ROUNDS says how often something is killed: 100 are a long run.

use strict;
use warnings;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(usleep);
use EvinboxTest;
use EvinboxHistory;

my $seed = $ENV{EVINBOX_SEED} // int rand 1_000_000;
my $rounds = $ENV{EVINBOX_ROUNDS} // 10;
my $writers = 5;

diag("EVINBOX_SEED=$seed EVINBOX_ROUNDS=$rounds");
srand($seed);

# What counts is on disk: hence fsync.  Segments and partitions are small enough
# for many turns.
my $node = evinbox_node('main', <<'EOS');
restart_after_crash = on
fsync = on
max_prepared_transactions = 40
log_line_prefix = '%m [%p] %b %e '
wal_writer_delay = 1s
evinbox.segment_xids = 16
evinbox.partition_size = 1000
EOS
my $db = 'postgres';

# -- inboxes -----------------------------------------------------------------------

$node->safe_psql($db, <<"EOS");
CREATE EXTENSION evinbox;
CREATE ROLE clerk LOGIN;

CREATE TABLE public.counter (subject text PRIMARY KEY, value int NOT NULL);
INSERT INTO counter SELECT 'S' || g, 0 FROM generate_series(0, $subjects - 1) g;
EOS
$node->safe_psql($db, <<'EOS');
CREATE TABLE public.effect (
	n bigserial, inbox text, event_id bigint, caused_by bigint, subject text,
	w int, t int, k int, c int);
CREATE INDEX ON public.effect (inbox, event_id);
CREATE FUNCTION public.handle(e evinbox.event, config jsonb) RETURNS void
LANGUAGE sql AS $$
	INSERT INTO public.effect (inbox, event_id, caused_by, subject, w, t, k, c)
	VALUES (config->>'inbox', e.id, e.caused_by, e.subject_id,
		(e.metadata->>'w')::int, (e.metadata->>'t')::int, (e.metadata->>'k')::int,
		(e.metadata->>'c')::int)
$$;

-- its commits may be lost, together with its cursor
CREATE FUNCTION public.handle_lazily(e evinbox.event, config jsonb) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
	PERFORM public.handle(e, config);
	PERFORM set_config('synchronous_commit', 'off', true);
END $$;

CREATE FUNCTION public.handle_and_record(e evinbox.event, config jsonb) RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
	PERFORM public.handle(e, config);
	PERFORM evinbox.record_event('Echo', e.subject_id, 'echoed');
END $$;

-- What has become of it is known from its delivery: it fails once or twice, is
-- put off once, or not wanted at all.
CREATE FUNCTION public.handle_badly(e evinbox.event, config jsonb) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
	failed int := (SELECT d.attempts FROM evinbox.delivery d
		WHERE d.inbox = 'flaky' AND d.event_id = e.id);
BEGIN
	PERFORM public.handle(e, config);
	IF e.id % 7 = 0 AND coalesce(failed, 0) <= e.id % 2 THEN
		RAISE EXCEPTION 'not this time';
	ELSIF e.id % 31 = 0 AND failed IS NULL THEN
		PERFORM evinbox.retry_in('20 ms');
	ELSIF e.id % 29 = 0 THEN
		PERFORM evinbox.skip('not wanted');
	END IF;
END $$;

GRANT USAGE ON SCHEMA evinbox TO clerk;
GRANT SELECT ON evinbox.delivery TO clerk;
GRANT EXECUTE ON FUNCTION evinbox.retry_in, evinbox.skip TO clerk;
GRANT INSERT ON public.effect TO clerk;
GRANT USAGE ON SEQUENCE public.effect_n_seq TO clerk;
EOS

my $statement = <<'EOS';
INSERT INTO public.effect (inbox, event_id, caused_by, subject, w, t, k, c)
SELECT 'statement', e.id, e.caused_by, e.subject_id, (e.metadata->>'w')::int,
	(e.metadata->>'t')::int, (e.metadata->>'k')::int, (e.metadata->>'c')::int
FROM events e ORDER BY e.id
EOS

# what each wants, and what it is
my %wants = (
	plain => "e.subject_type IN ('Thing', 'Echo')",
	odd => "(e.metadata->>'k')::int % 2 = 1",
	statement => 'true',
	sharded => "e.subject_type = 'Thing'",
	cause => "e.subject_type = 'Thing'",
	echo => "e.action = 'echoed'",
	flaky => "e.subject_type = 'Thing'",
	scheduled => "e.subject_type = 'Thing'",
	late => "e.subject_type IN ('Thing', 'Echo')");
my %inbox = (
	plain => [ subject_types => '{Thing,Echo}', batch_size => 50 ],
	odd => [ handler => 'public.handle_lazily', condition => $wants{odd} ],
	statement => [ owner => 'clerk', statement => $statement, batch_size => 200 ],
	sharded => [ subject_types => '{Thing}', shards => 4 ],
	cause => [ subject_types => '{Thing}', handler => 'public.handle_and_record' ],
	echo => [ actions => '{echoed}' ],
	flaky => [ owner => 'clerk', subject_types => '{Thing}', handler => 'public.handle_badly',
		backoff => '30 ms', max_attempts => 5 ],
	scheduled => [ subject_types => '{Thing}', dispatch => 'scheduled' ],
	late => [ subject_types => '{Thing,Echo}', start_at => 'beginning' ]);

sub create_inbox
{
	my ($name) = @_;
	my %column = @{ $inbox{$name} };

	$column{handler} //= 'public.handle' unless $column{statement};
	$column{config} = qq({"inbox": "$name"});
	my @names = sort keys %column;
	return try_sql("INSERT INTO evinbox.inbox (name, " . join(', ', @names) . ") VALUES ('$name', "
		  . join(', ', map { "\$value\$$column{$_}\$value\$" } @names) . ')');
}

# Returns the answer, or undef: there may be no server, or only half of one.  It
# may also be gone before all is written to it, which psql() dies of.
sub try_sql
{
	my ($sql) = @_;
	my ($status, $out, $error) = eval { $node->psql($db, $sql) };

	return $out if defined $status && $status == 0;
	note("$sql: " . ($error // $@));
	return undef;
}

sub wait_until_back
{
	foreach (1 .. 10 * $PostgreSQL::Test::Utils::timeout_default)
	{
		return if defined try_sql('SELECT');
		usleep(100_000);
	}
	die 'the server did not come back';
}

defined create_inbox($_) || die "no inbox $_" foreach grep { $_ ne 'late' } sort keys %inbox;
my $is_late = 1 + int rand $rounds;

# -- what happens meanwhile --------------------------------------------------------

sub kill_one
{
	my ($condition) = @_;
	my @pids = split /\n/, try_sql("SELECT pid FROM pg_stat_activity WHERE $condition ORDER BY pid") // '';

	return @pids && kill 'KILL', $pids[ rand @pids ];
}

# Its children leave by themselves.  To wait for them is better than to try: a
# start that fails shows all of the log.
sub kill_postmaster
{
	my @pids = split /\n/, try_sql('SELECT pid FROM pg_stat_activity') // '';

	$node->kill9;
	foreach (1 .. 100)
	{
		last unless grep { kill 0, $_ } @pids;
		usleep(50_000);
	}
	return poll_start($node) || die 'the server does not start';
}

my %blow = (
	runner => sub { kill_one("backend_type = 'evinbox runner'") },
	'busy runner' => sub {
		kill_one("backend_type = 'evinbox runner' AND state = 'active'")
		  || kill_one("backend_type = 'evinbox runner'");
	},
	launcher => sub { kill_one("backend_type = 'evinbox launcher'") },
	coordinator => sub { kill_one("backend_type = 'evinbox coordinator'") },
	writer => sub { kill_one("application_name = 'writer' AND state <> 'idle'") },
	postmaster => \&kill_postmaster,
	immediate => sub { $node->stop('immediate'); poll_start($node) || die 'the server does not start' },
	restart => sub { $node->restart; 1 },
	terminate => sub {
		defined try_sql("SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
			  . " WHERE backend_type LIKE 'evinbox %' AND pid % 2 = " . int rand 2);
	},
	# what stands still must not keep the outbox: it is put aside after a while
	calm => sub {
		try_sql("SELECT evinbox.pause(name) FROM evinbox.inbox WHERE name IN ('plain', 'sharded')");
		$node->poll_query_until($db,
			"SELECT backlog > 0 FROM evinbox.inbox_status WHERE name = 'plain'")
		  || fail('what stands still is put aside');
	});

# A transaction that takes several windows is for long runs.
sub crowd
{
	try_sql("INSERT INTO evinbox.event (subject_type, subject_id, action, metadata)"
		  . " SELECT 'Crowd', g::text, 'done', jsonb_build_object('k', g) FROM generate_series(1, 9000) g")
	  if $rounds > 20 && rand() < 0.2;
}

my @operations = (
	\&crowd,
	sub { try_sql("SELECT evinbox.pause(name) FROM evinbox.inbox WHERE id % 4 = " . int rand 4) },
	sub { try_sql("SELECT evinbox.resume(name) FROM evinbox.inbox WHERE NOT enabled") },
	sub { try_sql("UPDATE evinbox.inbox SET shards = " . (1 + int rand 5) . " WHERE name = 'sharded'") },
	sub { try_sql("UPDATE evinbox.inbox SET batch_size = " . (1 + int rand 300) . " WHERE name = 'plain'") },
	sub { try_sql("SELECT evinbox.run('scheduled')") },
	sub { try_sql("SELECT evinbox.run('scheduled', 30)") },
	sub { try_sql("CHECKPOINT") },
	sub {
		try_sql("ALTER SYSTEM SET evinbox.max_runners = " . (1 + int rand 5));
		$node->reload;
	});

my $directory = PostgreSQL::Test::Utils::tempdir;
start_writer($node->connstr($db), $_, $seed, $directory) foreach 1 .. $writers;

my (@deck, %count);
foreach my $round (1 .. $rounds)
{
	if (!@deck)
	{
		my %order = map { $_ => rand } sort keys %blow;
		@deck = sort { $order{$a} <=> $order{$b} } keys %blow;
	}
	my $what = shift @deck;

	foreach (1 .. 1 + int rand 3)
	{
		usleep(int rand 500_000);
		$operations[ rand @operations ]->();
	}
	create_inbox('late') if $round == $is_late;
	usleep(int rand 700_000);
	note("round $round: $what");
	$count{$what}++ if $blow{$what}->();
	wait_until_back();
}
create_inbox('late') if $node->safe_psql($db,
	"SELECT count(*) FROM evinbox.inbox WHERE name = 'late'") eq '0';
is(stop_writers(), 0, 'all writers ended well');

# After a crash, what there was before is taken one by one, which takes longer.
$node->restart if $rounds <= 20 || rand() < 0.5;
cmp_ok(scalar keys %count, '>=', $rounds < keys %blow ? 1 : 7, 'done meanwhile: ' . join(', ', map { "$_ $count{$_}" } sort keys %count));

# -- the history -------------------------------------------------------------------

$node->safe_psql($db, <<'EOS');
CREATE TABLE history (commit_no bigserial, w int, t int, outcome text, events int, was_prepared bool);
EOS
foreach my $w (1 .. $writers)
{
	$node->safe_psql($db, 'COPY history (w, t, outcome, events, was_prepared) FROM stdin;' . "\n"
		  . join('', map { "$w\t$_\n" } split /\n/, slurp_file("$directory/history.$w")) . "\\.\n");
}

# Returns nothing that should not be; what there is, is shown.
sub is_none
{
	my ($sql, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	return is($node->safe_psql($db, "SELECT * FROM ($sql) s LIMIT 10"), '', $name);
}

is_none(<<'EOS', 'all of a transaction is there, or nothing');
SELECT h.*, found FROM (
	SELECT h.*, coalesce(e.found, 0) AS found FROM history h LEFT JOIN (
		SELECT (metadata->>'w')::int AS w, (metadata->>'t')::int AS t, count(*) AS found
		FROM evinbox.event GROUP BY 1, 2) e USING (w, t)) h
WHERE NOT CASE h.outcome
	WHEN 'committed' THEN found = h.events
	WHEN 'undone' THEN found = 0
	ELSE found IN (0, h.events) END
EOS
is_none('SELECT w, t FROM history GROUP BY 1, 2 HAVING count(*) > 1', 'no transaction ended twice');
note('transactions: ' . $node->safe_psql($db,
	"SELECT string_agg(outcome || ' ' || n, ', ') FROM"
	  . " (SELECT outcome, count(*) AS n FROM history GROUP BY 1) s"));

# -- settling ----------------------------------------------------------------------

$node->safe_psql($db, "SELECT evinbox.resume(name) FROM evinbox.inbox");
$node->safe_psql($db, 'CREATE VIEW wanted AS ' . join(' UNION ALL ',
		map { "SELECT '$_' AS inbox, e.id, e.caused_by FROM evinbox.event e WHERE $wants{$_}" }
		  sort keys %wants));

# A dead letter is an event that was killed three times.
$node->safe_psql($db, <<'EOS');
CREATE VIEW missing AS
SELECT inbox, id FROM wanted w
WHERE NOT EXISTS (SELECT FROM effect f WHERE f.inbox = w.inbox AND f.event_id = w.id)
AND NOT EXISTS (SELECT FROM evinbox.delivery d WHERE d.inbox = w.inbox AND d.event_id = w.id
	AND (d.state = 'dead' AND d.last_sqlstate = '57P02'
		OR d.state = 'skipped' AND d.inbox = 'flaky' AND d.event_id % 29 = 0));
EOS

$node->safe_psql($db, 'ANALYZE evinbox.event, effect, history');

# One more event gives what is handled twice the time to show.
foreach my $when ('settled', 'and once more')
{
	$node->safe_psql($db, "SELECT evinbox.record_event('Thing', 'last', 'done', metadata => '{\"k\": 1}')");
	1 while $node->safe_psql($db, "SELECT evinbox.run('scheduled')") > 0;
	wait_for($node, $db,
		"SELECT NOT EXISTS (TABLE missing)"
		  . " AND NOT EXISTS (SELECT FROM evinbox.delivery WHERE state = 'retry')",
		"$when: nothing is missing")
	  or diag($node->safe_psql($db, "SELECT inbox, count(*), min(id), max(id) FROM missing GROUP BY 1;"
		  . " SELECT name, state, lag_events, backlog, retrying, dead, last_error FROM evinbox.inbox_status;"
		  . " SELECT state, count(*), min(last_error) FROM evinbox.delivery GROUP BY 1"));
}

# -- exactly once ------------------------------------------------------------------

is_sql($node, $db, 'SELECT count(DISTINCT inbox) FROM effect', scalar keys %wants,
	'all inboxes had something to do');
is_none('SELECT inbox, event_id, count(*) FROM effect GROUP BY 1, 2 HAVING count(*) > 1',
	'nothing was handled twice');
is_none(<<'EOS', 'nothing that was rolled back');
SELECT * FROM effect f WHERE NOT EXISTS (
	SELECT FROM evinbox.event e WHERE e.id = f.event_id
	AND e.subject_id = f.subject
	AND e.caused_by IS NOT DISTINCT FROM f.caused_by
	AND (e.metadata->>'w')::int IS NOT DISTINCT FROM f.w
	AND (e.metadata->>'t')::int IS NOT DISTINCT FROM f.t
	AND (e.metadata->>'k')::int IS NOT DISTINCT FROM f.k)
EOS
is_none('SELECT inbox, event_id FROM effect EXCEPT SELECT inbox, id FROM wanted',
	'nothing that was not wanted');
is_none(<<'EOS', 'each cause has one effect, and each effect a cause');
SELECT f.event_id, count(e.id) FROM (SELECT event_id FROM effect WHERE inbox = 'cause') f
	FULL JOIN (SELECT id, caused_by FROM evinbox.event WHERE subject_type = 'Echo') e
	ON e.caused_by = f.event_id
GROUP BY 1 HAVING f.event_id IS NULL OR count(e.id) <> 1
EOS
is_none("SELECT inbox, event_id, state, last_error FROM evinbox.delivery"
	  . " WHERE state = 'skipped' AND EXISTS (SELECT FROM effect f"
	  . " WHERE f.inbox = delivery.inbox AND f.event_id = delivery.event_id)", 'what was skipped has no effect');
is_none("SELECT inbox, event_id, last_error FROM evinbox.delivery WHERE state = 'dead'"
	  . " AND (last_sqlstate <> '57P02' OR EXISTS (SELECT FROM effect f"
	  . " WHERE f.inbox = delivery.inbox AND f.event_id = delivery.event_id))",
	'only what was killed three times is dead, and has no effect');
my $dead = $node->safe_psql($db, "SELECT count(*) FROM evinbox.delivery WHERE state = 'dead'");
cmp_ok($dead, '<=', 5, "that were $dead");

# -- order -------------------------------------------------------------------------

# What was retried is out of order, and so are the ids of prepared transactions.
$node->safe_psql($db, <<'EOS');
CREATE VIEW in_order AS
SELECT f.*, h.commit_no, h.was_prepared, CASE inbox WHEN 'sharded' THEN subject ELSE '' END AS lane
FROM effect f LEFT JOIN history h USING (w, t)
WHERE NOT (inbox = 'flaky' AND (event_id % 7 = 0 OR event_id % 31 = 0));
EOS
is_none(<<'EOS', 'in the order of the commits of each session');
SELECT * FROM (
	SELECT *, lag(commit_no) OVER earlier AS former_commit, lag(event_id) OVER earlier AS former_id
	FROM in_order WHERE NOT was_prepared
	WINDOW earlier AS (PARTITION BY inbox, lane, w ORDER BY n)) s
WHERE (commit_no, event_id) < (former_commit, former_id)
EOS
is_none(<<'EOS', 'in the order of a lock');
SELECT * FROM (
	SELECT *, lag(c) OVER (PARTITION BY inbox, subject ORDER BY n) AS former_c
	FROM in_order WHERE c IS NOT NULL) s
WHERE c <= former_c
EOS
is_none(<<'EOS', 'and what a lane has caused in the order of its causes');
SELECT * FROM (
	SELECT event_id, lag(event_id) OVER (ORDER BY n) AS former_id
	FROM effect WHERE inbox = 'echo') s
WHERE event_id < former_id
EOS

# -- the server --------------------------------------------------------------------

note('events: ' . $node->safe_psql($db, "SELECT count(*) FROM evinbox.event")
	  . ', effects: ' . $node->safe_psql($db, "SELECT count(*) FROM effect"));
$node->stop;
my @bad = grep { /PANIC:|TRAP:|terminated by signal (?!9:)| XX[0-9]{3} |cache lookup failed/ }
  split /\n/, slurp_file($node->logfile);
is("@bad", '', 'nothing died by itself');
done_testing();
