// Receives webhooks and verifies them as receivers do, with the packages that
// those who made the standards give out.
//
// usage: node receiver.js directory [address [port]]
//
// It says "ready" and its port, and ends with its standard input. The path tells
// how to verify: /KIND/NAME, KIND being standard, svix, cloudevents, ed25519 or
// plain. The secrets of NAME are in the file "secrets" of the directory, which is
// read again for each request: {"name": ["whsec_...", ...]}; a message is good if
// it is for one of them. "?fail=N" has each message fail N times before it is
// looked at.
//
// Each request becomes a line of the file "log", before it is answered: with 204 if
// it is good and 400 if it is not. Each connection becomes one of "connections": the
// address that it was made to.
'use strict';

const crypto = require('crypto');
const fs = require('fs');
const http = require('http');
const path = require('path');

const [directory, address = '127.0.0.1', port = '0'] = process.argv.slice(2);
const log = fs.openSync(path.join(directory, 'log'), 'a');
const callers = fs.openSync(path.join(directory, 'connections'), 'a');
const seen = new Map();

// Only what is verified needs the packages.
const verifiers = {
	standard(secret, body, headers) {
		const { Webhook } = require('standardwebhooks');
		return new Webhook(secret).verify(body, headers);
	},

	// an implementation of its own, which takes the same headers
	svix(secret, body, headers) {
		const { Webhook } = require('svix');
		return new Webhook(secret).verify(body, headers);
	},

	// The packages know HMAC only; here the secret is the public key.
	ed25519(secret, body, headers) {
		const key = crypto.createPublicKey({
			format: 'jwk',
			key: { kty: 'OKP', crv: 'Ed25519', x: Buffer.from(secret.replace(/^whpk_/, ''), 'base64').toString('base64url') },
		});
		const signed = `${headers['webhook-id']}.${headers['webhook-timestamp']}.${body}`;
		const good = headers['webhook-signature'].split(' ')
			.map((signature) => signature.split(','))
			.some(([version, value]) => version === 'v1a' &&
				crypto.verify(null, Buffer.from(signed), key, Buffer.from(value, 'base64')));

		if (!good) throw new Error('no signature is good');
		return JSON.parse(body);
	},
};

function verify(kind, name, body, headers) {
	if (kind === 'plain') return null;
	if (kind === 'cloudevents') {
		const { HTTP, CloudEvent } = require('cloudevents');
		const message = { headers, body };

		if (!HTTP.isEvent(message)) throw new Error('not a CloudEvent');
		const event = HTTP.toEvent(message);
		if (!(event instanceof CloudEvent)) throw new Error('not one CloudEvent');
		event.validate();
		if (headers['webhook-signature']) withSecrets(name, (secret) => verifiers.standard(secret, body, headers));
		return event.toJSON();
	}
	return withSecrets(name, (secret) => verifiers[kind](secret, body, headers));
}

function withSecrets(name, check) {
	const secrets = JSON.parse(fs.readFileSync(path.join(directory, 'secrets'), 'utf8'))[name] || [];
	let reason = new Error('no secret');

	for (const secret of secrets) {
		try {
			return check(secret);
		} catch (error) {
			reason = error;
		}
	}
	throw reason;
}

function judge(request, bytes) {
	const url = new URL(request.url, 'http://receiver');
	const [kind, name] = url.pathname.split('/').slice(1);
	const fail = Number(url.searchParams.get('fail') || 0);
	const key = `${url.pathname} ${request.headers['webhook-id']}`;
	const count = (seen.get(key) || 0) + 1;
	const entry = {
		kind, name, count, method: request.method, headers: request.headers,
		to: request.socket.localAddress, connection: request.socket.number,
	};

	seen.set(key, count);
	try {
		entry.body = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
		entry.event = verify(kind, name, entry.body, request.headers);
		entry.verified = true;
		entry.status = count <= fail ? 500 : 204;
	} catch (error) {
		entry.verified = false;
		entry.error = String(error);
		entry.status = 400;
	}
	return entry;
}

const server = http.createServer((request, response) => {
	const chunks = [];

	request.on('data', (chunk) => chunks.push(chunk));
	request.on('end', () => {
		const entry = judge(request, Buffer.concat(chunks));

		fs.writeSync(log, `${JSON.stringify(entry)}\n`);
		response.writeHead(entry.status);
		response.end();
	});
});

let connections = 0;
server.keepAliveTimeout = 60_000;
server.on('connection', (socket) => {
	socket.number = ++connections;
	fs.writeSync(callers, `${socket.localAddress}\n`);
});
server.listen(Number(port), address, () => console.log(`ready ${server.address().port}`));
process.stdin.on('end', () => process.exit(0)).resume();
