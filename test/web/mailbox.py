"""A mail server that keeps what it gets, or refuses it.

usage: mailbox.py directory [--tls certificate key] [--login user password]

It says "ready" and its port, and ends with its standard input. What it does is in
the recipient's address: later.N@... is refused N times with 451, then taken;
never@... is refused with 550; what is for slowly.N@... is refused N times with 451
when all of it has arrived; drops.N@... has the connection cut off then, N times;
unwanted@... is refused with 554 then. Each attempt becomes a line of the file "log"
of the directory.
"""
import argparse
import asyncio
import collections
import json
import os
import re
import ssl
import sys

from aiosmtpd.smtp import SMTP, AuthResult


class Mailbox:
    def __init__(self, directory):
        self.log = open(os.path.join(directory, "log"), "a", buffering=1)
        self.refused = collections.Counter()

    def write(self, session, envelope, status):
        self.log.write(json.dumps({
            "from": envelope.mail_from,
            "to": envelope.rcpt_tos,
            "data": (envelope.original_content or b"").decode("latin-1"),
            "status": status,
            "tls": session.ssl is not None,
            "login": bool(getattr(session, "authenticated", False)),
        }) + "\n")

    def refuses(self, word, address):
        """Whether an address says that it is to be refused, once more."""
        found = re.match(word + r"\.(\d+)@", address)
        if not found or self.refused[address] >= int(found.group(1)):
            return False
        self.refused[address] += 1
        return True

    async def handle_RCPT(self, server, session, envelope, address, options):
        if address.startswith("never@"):
            self.write(session, envelope, 550)
            return "550 no such mailbox"
        if self.refuses("later", address):
            self.write(session, envelope, 451)
            return "451 not now"
        envelope.rcpt_tos.append(address)
        return "250 fine"

    async def handle_DATA(self, server, session, envelope):
        if any(self.refuses("slowly", address) for address in envelope.rcpt_tos):
            self.write(session, envelope, 451)
            return "451 not just now"
        if any(self.refuses("drops", address) for address in envelope.rcpt_tos):
            self.write(session, envelope, 0)
            server.transport.abort()
            return "250 taken, but nobody hears it"
        if "unwanted@example.org" in envelope.rcpt_tos:
            self.write(session, envelope, 554)
            return "554 not wanted"
        self.write(session, envelope, 250)
        return "250 taken"


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("directory")
    parser.add_argument("--tls", nargs=2)
    parser.add_argument("--login", nargs=2)
    return parser.parse_args()


async def main():
    args = arguments()
    mailbox = Mailbox(args.directory)
    options = {"hostname": "mailbox.test"}

    if args.tls:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*args.tls)
        options.update(tls_context=context, require_starttls=True)
    if args.login:
        expected = tuple(text.encode() for text in args.login)

        def is_known(server, session, envelope, mechanism, login):
            good = (login.login, login.password) == expected
            return AuthResult(success=good, handled=False)

        options.update(authenticator=is_known, auth_required=True)

    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: SMTP(mailbox, **options), "127.0.0.1", 0)
    print("ready", server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)
    os._exit(0)


asyncio.run(main())
