# SQL made at random, for SMITH_SECONDS (600): by a role that may do all that
# evinbox lets a role do, and nothing else.  The server stays up, and the role
# has gained nothing.
use strict;
use warnings;

use EvinboxTest;
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $db = 'postgres';
my $seconds = $ENV{SMITH_SECONDS} || 600;
my $seed = $ENV{EVINBOX_SEED} || time;
my $node = evinbox_node('main', <<'EOC');
max_connections = 50
statement_timeout = '2s'
log_min_messages = warning
log_min_error_statement = panic
EOC
install_evinbox($node, $db);
$node->safe_psql($db, <<'EOS');
CREATE ROLE alice LOGIN;
CREATE ROLE smith LOGIN;
GRANT USAGE ON SCHEMA evinbox, evinbox_internal TO smith;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA evinbox TO smith;
REVOKE EXECUTE ON FUNCTION evinbox.resume_after_restore(text), evinbox.dispatch_replicated(boolean) FROM smith;
GRANT EXECUTE ON FUNCTION evinbox_internal.inbox_progress(integer, oid), evinbox_internal.workers() TO smith;
GRANT SELECT ON evinbox.event, evinbox.action, evinbox.batch, evinbox.delivery,
	evinbox.inbox_status, evinbox.dead_letter, evinbox.worker_status TO smith;
GRANT SELECT, INSERT, UPDATE, DELETE ON evinbox.inbox TO smith;
GRANT INSERT (subject_type, subject_id, action, actor, scope, metadata, snapshot, occurred_at) ON evinbox.event TO smith;
GRANT SELECT ON public.handled TO smith;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;

-- it knows no function but these: ours would be rare among those of the server
CREATE SCHEMA smith;
CREATE VIEW smith.pg_proc AS SELECT * FROM pg_catalog.pg_proc
	WHERE pronamespace = 'evinbox'::regnamespace
		OR (pronamespace = 'pg_catalog'::regnamespace AND oid::bigint % 50 = 0);
GRANT USAGE ON SCHEMA smith TO smith;
GRANT SELECT ON smith.pg_proc TO smith;
ALTER ROLE smith SET search_path = smith, pg_catalog, public;

CREATE TABLE public.secret (owner name, word text);
INSERT INTO public.secret VALUES ('alice', 'mellon');
ALTER TABLE public.secret OWNER TO alice;
INSERT INTO evinbox.action VALUES ('Closed', 'shut', '{why}');

-- what the role could gain, or take away
CREATE VIEW public.rights AS
	SELECT 'role' AS what, to_jsonb(r) - 'oid' AS is FROM pg_authid r
	UNION ALL SELECT 'member', to_jsonb(m) - 'oid' FROM pg_auth_members m
	UNION ALL SELECT 'relation', jsonb_build_object('name', oid::regclass, 'owner', relowner::regrole, 'acl', relacl)
		FROM pg_class WHERE relnamespace::regnamespace::text IN ('evinbox', 'evinbox_internal', 'public')
			AND relname NOT LIKE 'event\_%'
	UNION ALL SELECT 'function', jsonb_build_object('name', oid::regprocedure, 'owner', proowner::regrole, 'acl', proacl)
		FROM pg_proc WHERE pronamespace::regnamespace::text IN ('evinbox', 'evinbox_internal', 'public')
	UNION ALL SELECT 'secret', to_jsonb(s) FROM public.secret s
	UNION ALL SELECT 'action', to_jsonb(a) FROM evinbox.action a
	UNION ALL SELECT 'rule', to_jsonb(i) FROM evinbox.inbox i WHERE i.owner <> 'smith';
EOS
add_inbox($node, $db, 'others');
$node->safe_psql($db, "INSERT INTO evinbox.inbox (name, handler, owner, dispatch, statement) VALUES"
	  . " ('of smith', NULL, 'smith', 'live', 'SELECT count(*) FROM events')");
record_many($node, $db, 100);
my $rights = $node->safe_psql($db, 'SELECT * FROM public.rights ORDER BY 1, 2');

note("EVINBOX_SEED=$seed SMITH_SECONDS=$seconds");
my $count = 0;
my $end = time + $seconds;
for (my $round = 0; time < $end; $round++)
{
	my ($out, $log) = ('', '');
	my $smith = IPC::Run::start(
		[ 'sqlsmith', '--verbose', '--exclude-catalog', "--seed=" . ($seed + $round), '--max-queries=3000',
			'--target=' . $node->connstr($db) . ' user=smith' ],
		'>', \$out, '2>', \$log, IPC::Run::timeout(300));
	$smith->finish;
	$count += 3000 if $smith->result == 0;
	record($node, $db, "round $round", 'others');
}
cmp_ok($count, '>', 0, 'queries were made');
note("$count queries");
is($node->safe_psql($db, 'SELECT * FROM public.rights ORDER BY 1, 2'), $rights, 'nothing was gained');
is_exactly_once($node, $db, 'others', 'and nobody else was disturbed');
is_healthy($node);

done_testing();
