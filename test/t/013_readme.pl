# What README shows works as pasted.

use strict;
use warnings;

use FindBin;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $readme = slurp_file("$FindBin::RealBin/../../README.md");
my ($section) = $readme =~ /^## In two minutes$(.*?)^## /ms;
my @examples = $section =~ /^```sql\n(.*?)^```$/msg;
is(scalar @examples, 2, 'README has two examples');

my ($feeds) = $readme =~ /^## Feeds and sentences\n.*?^```sql\n(.*?)^```$/ms;
my ($tracking) = $readme =~ /^## Tracking tables\n.*?^```sql\n(.*?)^```$/ms;
my ($calls) = $readme =~ /^## Calls to the outside\n.*?^```sql\n(.*?)^```$/ms;
my ($grants) = $readme =~ /^```sql\n(GRANT USAGE.*?)^```$/ms;
my @settings = $readme =~ /^\| `(evinbox\.\w+)` \| `(\w+)` \|/mg;

my $node = PostgreSQL::Test::Cluster->new('readme');
$node->init;
$node->append_conf('postgresql.conf', "shared_preload_libraries = 'evinbox'");
$node->start;
$node->safe_psql('postgres', 'CREATE EXTENSION evinbox');
$node->poll_query_until('postgres',
	"SELECT count(*) = 1 FROM evinbox.worker_status WHERE kind = 'coordinator' AND state = 'running'")
  or die 'no coordinator';

# A worker that has to be started first may need longer than the example
# waits, so what it shows is looked at afterwards.
$node->safe_psql('postgres', $examples[0]);
ok($node->poll_query_until('postgres', 'SELECT count(*) = 1 FROM feed'),
	'the worker handles the event');
is($node->safe_psql('postgres', 'SELECT sentence FROM feed'),
	'User:7 moved issue 42 from open to closed',
	'the rule has made a sentence of it');

like($node->safe_psql('postgres', $examples[1]),
	qr/^\d+\n1\nt$/, 'a test sees its own events handled');
is($node->safe_psql('postgres', 'SELECT count(*) FROM feed'),
	'1', 'and leaves nothing behind');

my $sentence = 'User:7 changed status from open to closed';
like($node->safe_psql('postgres', $feeds),
	qr/^(\d+\|$sentence\n){2}1\|\{User:7\}\|$sentence$/, 'feeds show sentences');
like($node->safe_psql('postgres', $tracking),
	qr/^\nissues\|42\|status_changed\|\{"to": "closed", "from": "open"\}\n\{"id": 42, "title": "It does not work", "status": "closed"\}$/,
	'a tracked table records its transitions');

# in a transaction that is undone, so that nothing is sent
like($node->safe_psql('postgres', "BEGIN;\n$calls\nROLLBACK"),
	qr/^t\n\d+\n\d+\nopen\|0\|0$/, 'calls to the outside are queued');

$node->safe_psql('postgres', "CREATE ROLE app LOGIN; $grants");
like(
	$node->safe_psql('postgres', "SELECT evinbox.record_event('Issue', 1, 'opened')",
		extra_params => [ '-U', 'app' ]),
	qr/^\d+$/, 'the grants let an application record');

while (my ($name, $default) = splice(@settings, 0, 2))
{
	is($node->safe_psql('postgres', "SELECT boot_val FROM pg_settings WHERE name = '$name'"),
		$default, "the default of $name");
}

$node->stop;
done_testing();
