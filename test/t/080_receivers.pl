# What is sent is what receivers verify and understand, with the packages that those
# who made the standards give out.

use strict;
use warnings;
use utf8;
use Encode;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use EvinboxParties;
use EvinboxTest;

need_modules();

my $receiver = start_receiver();
my $base = "http://127.0.0.1:$receiver->{port}";
my $node = evinbox_node('main', <<'EOS');
evinbox.webhook_allow = '127.0.0.0/8'
evinbox.webhook_allow_http = on
log_min_messages = warning
EOS
my $db = 'app';
my %secrets;

$node->safe_psql('postgres', "CREATE DATABASE $db TEMPLATE template0 ENCODING 'UTF8'");
install_evinbox($node, $db);

# usage: add_verified($kind, $name, column => 'value', ...)
# It gets what concerns its own subject type only.
sub add_verified
{
	my ($kind, $name, %column) = @_;

	my $secret = add_endpoint($node, $db, $name, "$base/$kind/$name", subject_types => "{$name}", %column);
	share_secrets($name => [$secret]);
}

sub share_secrets
{
	my (%more) = @_;

	%secrets = (%secrets, %more);
	set_secrets($receiver, %secrets);
}

# Records an event in SQL and returns the one request that it leads to.
sub sent_for
{
	my ($name, $sql, $title) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	my $id = $node->safe_psql($db, $sql);
	my ($got) = wait_for_received($receiver, qr/\/$name$/, 1, $title);
	forget($receiver);
	ok($got->{verified}, "$title: verified") or diag $got->{error};
	is($got->{event}{data}{id}, $id, "$title: tells of the event");
	return $got;
}

# the whole of Unicode, what JSON escapes, and what a floating-point number cannot hold
my $text = qq(a "quoted" \\ / \x{1}\x{1f}\x{7f}\x{2028} é 漢 😀);
my $metadata = q({"text": "a \"quoted\" \\\\ / \u0001\u001f\u007f\u2028 é 漢 😀",)
  . q( "number": 12345678901234567.10, "empty": {}, "list": [null, true, 1e2], "\u0022": "&<>"});

sub recorded
{
	my ($type, $action) = @_;

	return encode_utf8("SELECT evinbox.record_event('$type', 'é/😀 7', '$action', 'User:7', metadata => '$metadata')");
}

$node->safe_psql($db, "INSERT INTO evinbox.inbox (name, handler) VALUES ('webhooks', 'evinbox.webhook')");

# -- Standard Webhooks --------------------------------------------------------------

foreach my $kind (qw(standard svix))
{
	add_verified($kind, "Order$kind");
	my $got = sent_for("Order$kind", recorded("Order$kind", 'PaidLate'), $kind);
	my $data = $got->{event}{data};

	is($got->{method}, 'POST', "$kind: the method");
	is($got->{event}{type}, "order$kind.paid_late", "$kind: the type");
	like($got->{event}{timestamp}, qr/\A\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)\z/, "$kind: the time");
	is($got->{headers}{'content-type'}, 'application/json', "$kind: the content type");
	like($got->{headers}{'webhook-id'}, qr/\Amsg_[0-9A-Za-z]{27}\z/, "$kind: the id");
	like($got->{headers}{'webhook-signature'}, qr/\Av1,[A-Za-z0-9+\/]{43}=\z/, "$kind: one signature");
	is($data->{subject_id}, 'é/😀 7', "$kind: the subject");
	is($data->{metadata}{text}, $text, "$kind: all characters arrive");
	is($data->{metadata}{'"'}, '&<>', "$kind: and keys");
	like($got->{body}, qr/12345678901234567\.10\b/, "$kind: numbers keep their digits");
	is($data->{actor}, 'User:7', "$kind: the actor");
}

# -- secrets that change --------------------------------------------------------------

my ($former) = @{ $secrets{Orderstandard} };
my $new = $node->safe_psql($db, "SELECT evinbox.set_endpoint_secret('Orderstandard')");
isnt($new, $former, 'another secret');
foreach my $secret ($former, $new)
{
	share_secrets(Orderstandard => [$secret]);
	my $got = sent_for('Orderstandard', recorded('Orderstandard', 'paid'), 'while both are valid');
	is(() = $got->{headers}{'webhook-signature'} =~ /v1,\S{44}(?: |$)/g, 2, 'two signatures');
}
$node->safe_psql($db, "UPDATE evinbox.endpoint SET rotation = '0' WHERE name = 'Orderstandard'");
my $last = $node->safe_psql($db, "SELECT evinbox.set_endpoint_secret('Orderstandard')");
share_secrets(Orderstandard => [$last]);
sent_for('Orderstandard', recorded('Orderstandard', 'paid'), 'without rotation');

# the one that the standard's documents use
my $published = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw';
$node->safe_psql($db, "SELECT evinbox.set_endpoint_secret('Orderstandard', '$published')");
share_secrets(Orderstandard => [$published]);
sent_for('Orderstandard', recorded('Orderstandard', 'paid'), 'a secret from elsewhere');
share_secrets(Orderstandard => ["$last"]);
$node->safe_psql($db, recorded('Orderstandard', 'paid'));
my ($wrong) = wait_for_received($receiver, qr/Orderstandard/, 1, 'with another secret');
ok(!$wrong->{verified}, 'nothing is verified');
share_secrets(Orderstandard => [$published]);
wait_for($node, $db, "SELECT NOT EXISTS (SELECT FROM evinbox.webhook_delivery WHERE state <> 'delivered')",
	'until the receiver knows it');
forget($receiver);

# -- Ed25519 -----------------------------------------------------------------------------

# the first key pair of RFC 8032
add_verified('ed25519', 'Signed');
$node->safe_psql($db,
	"SELECT evinbox.set_endpoint_secret('Signed', 'whsk_' || encode('\\x9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60', 'base64'))");
share_secrets(Signed => ['whpk_11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=']);
my $signed = sent_for('Signed', recorded('Signed', 'done'), 'a public key');
like($signed->{headers}{'webhook-signature'}, qr/v1a,\S{86}==/, 'a signature of version 1a');

# -- CloudEvents ----------------------------------------------------------------------------

add_verified('cloudevents', 'Billing::InvoiceLine', format => 'cloudevents', url => "$base/cloudevents/Line");
share_secrets(Line => $secrets{'Billing::InvoiceLine'});
my $cloud = sent_for('Line', recorded('Billing::InvoiceLine', 'sent'), 'CloudEvents');
like($cloud->{headers}{'content-type'}, qr{\Aapplication/cloudevents\+json(; charset=utf-8)?\z}, 'its content type');
is($cloud->{event}{specversion}, '1.0', 'its version');
is($cloud->{event}{source}, "/evinbox/$db", 'its source');
is($cloud->{event}{type}, 'billing.invoice_line.sent', 'its type');
is($cloud->{event}{id}, $cloud->{event}{data}{id}, 'its id');
is($cloud->{event}{subject}, 'Billing::InvoiceLine/é/😀 7', 'its subject');
is($cloud->{event}{data}{metadata}{text}, $text, 'its data');
like($cloud->{body}, qr/"time":\s*"\d{4}-\d\d-\d\dT[^"]+(Z|\+00:00)"/, 'its time');

my $trace = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';
my $traced = sent_for('Line', "SELECT evinbox.record_event('Billing::InvoiceLine', '1', 'sent', metadata => "
	  . qq['{"traceparent": "$trace", "tracestate": "a=1,b=2"}')], 'a traced one');
is($traced->{headers}{traceparent}, $trace, 'the trace goes on');
is($traced->{headers}{tracestate}, 'a=1,b=2', 'with its state');
is($traced->{event}{traceparent}, $trace, 'in the event, too');

foreach my $bad ('x\\r\\nX-Forged: 1', 'x\\nX-Forged: 1', 'é', "$trace\\r\\nX-Forged: 1", uc $trace)
{
	my $forged = sent_for('Line', encode_utf8("SELECT evinbox.record_event('Billing::InvoiceLine', '1', 'sent', metadata => "
		. qq['{"traceparent": "$bad", "tracestate": "$bad"}')]), "a forged trace: $bad");
	ok(!exists $forged->{headers}{$_}, "no header $_") foreach qw(traceparent tracestate x-forged);
}
my $forged = sent_for('Line', "SELECT evinbox.record_event('Billing::InvoiceLine', '1', 'sent', metadata => "
	. qq['{"traceparent": "$trace", "tracestate": "a=1\\r\\nX-Forged: 1"}')], 'a forged state');
is($forged->{headers}{traceparent}, $trace, 'the trace goes on');
ok(!exists $forged->{headers}{$_}, "no header $_") foreach qw(tracestate x-forged);

# -- Slack, and bodies of one's own ------------------------------------------------------------

add_verified('plain', 'Note', format => 'slack', template => 'New: %{title}');
$node->safe_psql($db, encode_utf8(
	"SELECT evinbox.record_event('Note', '1', 'made', metadata => '{\"title\": \"<b> & é\"}')"));
my ($slack) = wait_for_received($receiver, qr/Note/, 1, 'a message for Slack');
is($slack->{body}, '{"text":"New: &lt;b&gt; &amp; é"}', 'its text');
forget($receiver);

$node->safe_psql($db, "CREATE FUNCTION public.large(e evinbox.event) RETURNS jsonb LANGUAGE sql AS"
	. " \$\$ SELECT jsonb_build_object('data', jsonb_build_object('id', e.id), 'x', repeat('x', (e.subject_id)::int)) \$\$");
add_verified('svix', 'Large', enabled => 'false');
$node->safe_psql($db, "UPDATE evinbox.inbox SET config = '{\"body\": \"public.large\"}'");
$node->safe_psql($db, "UPDATE evinbox.endpoint SET enabled = name = 'Large'");
my $large = sent_for('Large', "SELECT evinbox.record_event('Large', '1048000', 'sent')", 'a body of nearly 1 MiB');
is(length $large->{event}{x}, 1_048_000, 'all of it');
is_sql($node, $db, "SELECT max(total_ms) < 900 FROM evinbox.webhook_attempt WHERE endpoint = 'Large'", 't', 'without a pause');
$node->safe_psql($db, "UPDATE evinbox.endpoint SET enabled = true");
$node->safe_psql($db, "UPDATE evinbox.inbox SET config = '{}'");

# -- attempts ---------------------------------------------------------------------------------

add_verified('standard', 'Again', url => "$base/standard/Again?fail=3");
$node->safe_psql($db, "SELECT evinbox.record_event('Again', '1', 'done')");
my @again = wait_for_received($receiver, qr/Again/, 4, 'a message that fails three times');
is(scalar(grep { $_->{verified} } @again), 4, 'each attempt is verified');
is(scalar(keys %{ { map { $_->{headers}{'webhook-id'} => 1 } @again } }), 1, 'all with one id');
is(scalar(keys %{ { map { $_->{body} => 1 } @again } }), 1, 'and one body');
wait_for($node, $db, "SELECT state = 'delivered' FROM evinbox.webhook_delivery WHERE endpoint = 'Again'",
	'it arrives in the end');
$node->safe_psql($db, "SELECT evinbox.resend(id) FROM evinbox.webhook_delivery WHERE endpoint = 'Again'");
my @resent = wait_for_received($receiver, qr/Again/, 5, 'it is sent again');
is($resent[4]{headers}{'webhook-id'}, $again[0]{headers}{'webhook-id'}, 'with the id it had');
ok($resent[4]{verified}, 'and a good signature');
forget($receiver);

$node->safe_psql($db, "SELECT evinbox.test_endpoint('Again')");
my ($test) = wait_for_received($receiver, qr/Again/, 1, 'a test');
is($test->{event}{type}, 'evinbox.test', 'its type');
ok($test->{verified}, 'it is verified');
forget($receiver);

# -- a database in another encoding --------------------------------------------------------------

$node->safe_psql('postgres', "CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1'");
$node->safe_psql("latin", "CREATE EXTENSION evinbox");
my $secret = add_endpoint($node, 'latin', 'latin', "$base/standard/latin");
share_secrets(latin => [$secret]);
$node->safe_psql('latin', "INSERT INTO evinbox.inbox (name, handler) VALUES ('webhooks', 'evinbox.webhook')");
$node->safe_psql('latin', encode_utf8(
	"SET client_encoding = 'UTF8'; SELECT evinbox.record_event('Thing', 'é', 'made', metadata => '{\"a\": \"über\"}')"));
my ($latin) = wait_for_received($receiver, qr/latin/, 1, 'of a database in another encoding');
ok($latin->{verified}, 'it is verified');
is($latin->{event}{data}{subject_id}, 'é', 'in UTF-8');
is($latin->{event}{data}{metadata}{a}, 'über', 'all of it');

# -- one in none -----------------------------------------------------------------------------------

$node->safe_psql('postgres', "CREATE DATABASE bytes TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'");
$node->safe_psql('bytes', 'CREATE EXTENSION evinbox');
my $odd = $node->safe_psql('bytes', "SELECT evinbox.http_request('$base/plain/bytes', E'\\xff\\xfe'::text)");
my $even = $node->safe_psql('bytes', encode_utf8("SELECT evinbox.http_request('$base/plain/bytes', 'é'::text)"));
wait_for_attempts($node, 'bytes', $even, '1 delivered 204', 'what is UTF-8 there is sent');
wait_for($node, 'bytes', "SELECT state IN ('dead', 'retry') FROM evinbox.webhook_delivery WHERE id = $odd", 'what is not is given up');

is_healthy($node);
$node->stop;
done_testing();
