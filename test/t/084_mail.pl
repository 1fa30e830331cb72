# E-mails arrive as they were written, once for each reader, or are given up.

use strict;
use warnings;
use utf8;
use Encode;
use MIME::Base64;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use EvinboxParties;
use EvinboxTest;

need_mailbox();

my $authority = make_authority('authority');
make_certificate('mailbox', 'authority', 'DNS:localhost, IP:127.0.0.1');
my $plain = start_mailbox();
my $node = evinbox_node('main', <<EOS);
evinbox.webhook_ca_file = '$authority'
evinbox.smtp_url = 'smtp://localhost:$plain->{port}'
evinbox.smtp_sender = 'evinbox\@example.com'
log_min_messages = warning
EOS
my $db = 'app';

$node->safe_psql('postgres', "CREATE DATABASE $db TEMPLATE template0 ENCODING 'UTF8'");
$node->safe_psql($db, <<'EOS');
CREATE EXTENSION evinbox;
CREATE FUNCTION public.letter(e evinbox.event) RETURNS jsonb LANGUAGE sql AS
	$$ SELECT e.metadata $$;
INSERT INTO evinbox.inbox (name, handler, config) VALUES ('mails', 'evinbox.mail', '{"message": "letter"}');
EOS

# returns the event
sub write_to
{
	my ($to, $subject, $body) = @_;

	return $node->safe_psql($db, encode_utf8("SELECT evinbox.record_event('Letter', '1', 'written', metadata =>"
		  . " jsonb_build_object('to', '$to', 'subject', \$\$$subject\$\$, 'body', \$\$$body\$\$))"));
}

sub outcome_is
{
	my ($event, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;

	wait_for($node, $db, "SELECT string_agg(concat_ws(' ', a.outcome, a.status), ', ' ORDER BY a.number) = '$expected'"
		  . " FROM evinbox.webhook_delivery d JOIN evinbox.webhook_attempt a ON a.delivery = d.id"
		  . " WHERE d.event_id = $event AND d.kind = 'mail'", $name)
	  or diag $node->safe_psql($db, "SELECT a.* FROM evinbox.webhook_delivery d JOIN evinbox.webhook_attempt a ON a.delivery = d.id"
		  . " WHERE d.event_id = $event");
}

# A mail's headers, unfolded, and its body.
sub parsed
{
	my ($mail) = @_;
	my ($head, $body) = $mail->{data} =~ /\A(.*?)\r\n\r\n(.*)\z/s;

	$head =~ s/\r\n[ \t]+/ /g;
	my @headers = map { [ split /: /, $_, 2 ] } split /\r\n/, $head;
	return ({ map { lc $_->[0] => $_->[1] } @headers }, decode_utf8(decode_base64($body)), [ map { lc $_->[0] } @headers ]);
}

# -- it arrives ----------------------------------------------------------------------------

my $event = write_to('reader@example.org', 'News: é 漢 😀', "Dear reader,\n.\n..\n.hidden\nFrom here é\r\n\n😀");
outcome_is($event, 'delivered 250', 'an e-mail is taken');
my ($mail) = received($plain);
is($mail->{from}, 'evinbox@example.com', 'from whom it is');
is_deeply($mail->{to}, ['reader@example.org'], 'for whom it is');
my ($headers, $body, $names) = parsed($mail);
is(decode('MIME-Header', $headers->{subject}), 'News: é 漢 😀', 'the subject');
is($headers->{to}, 'reader@example.org', 'the recipient');
is($headers->{from}, 'evinbox@example.com', 'the sender');
like($headers->{date}, qr/\A[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d \+0000\z/, 'the date');
like($headers->{'message-id'}, qr/\A<msg_\w{27}\@example\.com>\z/, 'the id');
is($headers->{'auto-submitted'}, 'auto-generated', 'no robot answers it');
(my $text = $body) =~ s/\r\n/\n/g;
is($text, "Dear reader,\n.\n..\n.hidden\nFrom here é\n\n😀", 'the text');
unlike($mail->{data}, qr/[^\x00-\x7f]/, 'it is all ASCII');
unlike($mail->{data}, qr/[^\r]\n|\r[^\n]/, 'with whole ends of lines');
ok(!(grep { length > 998 } split /\r\n/, $mail->{data}), 'and none too long');

# -- refusals -------------------------------------------------------------------------------

forget($plain);
outcome_is(write_to('never@example.org', 'x', 'x'), 'dead 550', 'a recipient that is refused for ever');
outcome_is(write_to('unwanted@example.org', 'x', 'x'), 'dead 554', 'a mail that is refused for ever');
is(scalar received($plain), 2, 'are tried once');

# They are tried again after a while; see below.
my $later = write_to('later.1@example.org', 'x', 'x');
my $slowly = write_to('slowly.1@example.org', 'x', 'x');
my $dropped = write_to('drops.1@example.org', 'x', 'x');
outcome_is($later, 'retry 451', 'a recipient that is refused for now');
outcome_is($slowly, 'retry 451', 'a mail that is refused for now');

# -- what would be another header, or another mail -------------------------------------------

my $sent = received($plain);
foreach my $bad ('a@example.org\r\nBcc: b@example.org', 'a@example.org>\r\nDATA', 'a@example.org, b@example.org', '<a@example.org>',
	'a b@example.org', '"a"@example.org', 'a@example.org ', 'a@[127.0.0.1]', 'a@exa_mple.org', 'é@example.org', '')
{
	my $event = $node->safe_psql($db, encode_utf8("SELECT evinbox.record_event('Letter', '1', 'written', metadata =>"
		. " jsonb_build_object('to', E'$bad', 'subject', 'x', 'body', 'x'))"));
	wait_for($node, $db, "SELECT last_error LIKE 'recipient of an e-mail is not an address%' FROM evinbox.delivery"
		. " WHERE event_id = $event", "no recipient: $bad");
}
foreach my $bad ('x\r\nBcc: b@example.org', 'x\nBcc: b@example.org', 'x\rBcc: b@example.org', 'x\u0001')
{
	my $event = $node->safe_psql($db, "SELECT evinbox.record_event('Letter', '1', 'written', metadata =>"
		. " jsonb_build_object('to', 'a\@example.org', 'subject', E'$bad', 'body', 'x'))");
	wait_for($node, $db, "SELECT last_error LIKE 'subject of an e-mail must be one line%' FROM evinbox.delivery"
		. " WHERE event_id = $event", "no subject: $bad");
}
is(scalar(received($plain)), $sent, 'nothing of it is sent');

# what only looks like it
foreach my $subject ('=?UTF-8?Q?a=0D=0ABcc:_b@example.org?=', "a\x{2028}Bcc: b\@example.org", 'a\r\nBcc: b', 'x' x 900)
{
	$sent = received($plain);
	outcome_is(write_to('subject@example.org', $subject, "\r\n.\r\nMAIL FROM:<x\@example.org>\r\n"), 'delivered 250', 'a subject');
	my @mails = grep { grep { /subject/ } @{ $_->{to} } } received($plain);
	my ($headers, $body, $names) = parsed($mails[-1]);
	is(scalar(received($plain)), $sent + 1, 'one mail');
	is("@$names", 'from to subject date message-id mime-version content-type content-transfer-encoding auto-submitted',
		'with the headers it has to have');
	is(decode('MIME-Header', $headers->{subject}), $subject, 'as it was written') if $subject !~ /=\?/;
}

# -- the second attempt ---------------------------------------------------------------------

outcome_is($later, 'retry 451, delivered 250', 'a recipient that was refused gets it later');
outcome_is($slowly, 'retry 451, delivered 250', 'as does one whose mail was refused');
wait_for($node, $db, "SELECT state = 'delivered' AND attempts = 2 FROM evinbox.webhook_delivery WHERE event_id = $dropped",
	'and one whose server did not say what became of it');
foreach my $who (qw(slowly drops))
{
	my @ids = map { (parsed($_))[0]{'message-id'} } grep { "@{ $_->{to} }" =~ /$who/ } received($plain);

	is(scalar @ids, 2, "$who: it has arrived twice");
	is($ids[0], $ids[1], "$who: with one id");
}

# -- TLS and passwords ------------------------------------------------------------------------

my @certificate = map { EvinboxParties::certificate_file('mailbox', $_) } qw(pem key);
my $safe = start_mailbox('--tls', @certificate, '--login', 'user', 'pass word');

# usage: send_by($mailbox, setting => 'value', ...)
sub send_by
{
	my ($mailbox, %settings) = @_;

	$node->append_conf('postgresql.conf', "$_ = '$settings{$_}'") foreach sort keys %settings;
	$node->append_conf('postgresql.conf', "evinbox.smtp_url = 'smtp://localhost:$mailbox->{port}'");
	$node->reload;
	wait_for($node, 'postgres', "SELECT current_setting('evinbox.smtp_url') LIKE '%:$mailbox->{port}'", 'another server');
	forget($mailbox);
	return write_to('reader@example.org', 'x', 'x');
}

outcome_is(send_by($safe, 'evinbox.smtp_user' => 'user', 'evinbox.smtp_password' => 'pass word'), 'delivered 250',
	'to a server that wants a password');
my ($safely) = received($safe);
ok($safely->{tls}, 'by TLS');
ok($safely->{login}, 'with the password');

my $wrong = send_by($safe, 'evinbox.smtp_password' => 'wrong');
wait_for($node, $db, "SELECT state <> 'pending' FROM evinbox.webhook_delivery WHERE event_id = $wrong", 'with a wrong one');
is(scalar received($safe), 0, 'nothing is taken');
my $bare = send_by($plain, 'evinbox.smtp_password' => 'pass word');
wait_for($node, $db, "SELECT state <> 'pending' FROM evinbox.webhook_delivery WHERE event_id = $bare",
	'a server without TLS');
is(scalar received($plain), 0, 'is not told a password');

# by a connection of its own
my $another = start_mailbox('--tls', @certificate, '--login', 'user', 'pass word');
outcome_is(send_by($another, 'evinbox.webhook_allow_http' => 'on'), 'delivered 250',
	'that webhooks may go without TLS is nothing to mails');
ok((received($another))[0] && (received($another))[0]{tls}, 'which go by TLS');

$node->safe_psql('postgres', 'CREATE ROLE monitor LOGIN IN ROLE pg_monitor');
foreach my $role ('none', 'monitor')
{
	is_sql($node, 'postgres', "SET ROLE $role; SHOW evinbox.smtp_password", '********', "$role sees that there is a password");
	is_sql($node, 'postgres', "SET ROLE $role; SELECT count(*) FROM pg_settings s WHERE s::text ~ 'pass word'", '0', 'but not which');
}
is_sql($node, $db, "SELECT count(*) FROM evinbox.webhook_attempt a WHERE a::text ~ 'pass word|cGFzcyB3b3Jk'", '0',
	'it is on no record');

is_healthy($node);
$node->stop;
done_testing();
