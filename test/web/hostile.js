// A server that means no good, or is badly broken.
//
// usage: node hostile.js directory
//
// It says "ready" and its port, and ends with its standard input. The path tells
// what it does to who calls it: /WHAT or /WHAT/NUMBER, see below. Each complete
// request becomes a line of the file "log" of the directory, before it is dealt
// with.
'use strict';

const fs = require('fs');
const net = require('net');
const path = require('path');

const directory = process.argv[2];
const log = fs.openSync(path.join(directory, 'log'), 'a');
const kilobyte = 'x'.repeat(1024);

function answer(socket, status, body, ...headers) {
	socket.write(['HTTP/1.1 ' + status, ...headers, `Content-Length: ${Buffer.byteLength(body)}`, '', body].join('\r\n'));
}

// As fast as the other side takes it.
function pour(socket, text) {
	if (socket.destroyed) return;
	if (socket.write(text)) setImmediate(pour, socket, text);
	else socket.once('drain', () => pour(socket, text));
}

function drip(socket, text) {
	const timer = setInterval(() => socket.write(text), 20);

	socket.on('close', () => clearInterval(timer));
}

const deeds = {
	fine: (socket) => answer(socket, '200 OK', 'fine'),

	// ends of connections
	reset: (socket) => socket.resetAndDestroy(),
	empty: (socket) => socket.destroy(),
	half: (socket) => {
		socket.write('HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of it');
		socket.end();
	},
	silence: () => {},

	// slowness
	slow_headers: (socket) => {
		socket.write('HTTP/1.1 200 OK\r\n');
		drip(socket, 'X-Slow: x\r\n');
	},
	slow_body: (socket) => {
		socket.write('HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n');
		drip(socket, 'x');
	},

	// what has no end
	endless_chunks: (socket) => {
		socket.write('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n');
		pour(socket, `400\r\n${kilobyte}\r\n`);
	},
	endless_body: (socket) => {
		socket.write('HTTP/1.1 200 OK\r\n\r\n');
		pour(socket, kilobyte);
	},
	endless_header: (socket) => {
		socket.write('HTTP/1.1 200 OK\r\nX-Endless: ');
		pour(socket, kilobyte);
	},
	interim_flood: (socket) => pour(socket, 'HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n'.repeat(20)),

	// what is not HTTP, or hardly
	garbage: (socket) => socket.end(Buffer.from('\x00\xff\x80no such thing\r\n\r\n'.repeat(100), 'latin1')),
	bad_chunk: (socket) => socket.end('HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n'),
	two_lengths: (socket) => socket.end('HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc'),
	zeroes: (socket) => answer(socket, '500 Oh\0no', 'a\0b\xff'),

	// What comes for /early is answered and cut off before all of it is there; for
	// /deaf, no more of it is read. See below.
	early: () => {},
	deaf: () => {},

	// size
	size: (socket, number) => answer(socket, '200 OK', 'x'.repeat(number)),
	chunked: (socket, number) => {
		const body = 'x'.repeat(number);
		socket.write(`HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n${number.toString(16)}\r\n${body}\r\n0\r\n\r\n`);
	},
	headers: (socket, number) => {
		const headers = Array.from({ length: number }, (_, index) => `X-Many-${index}: x`);
		answer(socket, '200 OK', '', ...headers);
	},

	// to somewhere else
	redirect: (socket) => answer(socket, '307 Temporary Redirect', '', 'Location: http://169.254.169.254/latest/meta-data/'),
	redirect_here: (socket) => answer(socket, '302 Found', '', `Location: http://127.0.0.1:${socket.localPort}/fine`),

	// Says that the connection stays, and closes it behind its back.
	fleeting: (socket) => {
		answer(socket, '200 OK', 'fine', 'Connection: keep-alive');
		socket.end();
	},

	// Closes it as the next request comes, which it may or may not have taken.
	race: (socket) => {
		if (socket.requests > 1) socket.resetAndDestroy();
		else answer(socket, '200 OK', 'fine', 'Connection: keep-alive');
	},

	// after a while, which is in milliseconds
	close_after: (socket, number) => {
		answer(socket, '200 OK', 'fine', 'Connection: keep-alive');
		setTimeout(() => socket.destroy(), number);
	},

	// Asks for a pause: what comes after the second slash is when it is over.
	retry_after: (socket, _, text) => answer(socket, '503 Service Unavailable', '', `Retry-After: ${decodeURIComponent(text)}`),

	status: (socket, number) => answer(socket, `${number} Whatever`, 'as you say'),
};

// Takes the first complete request off what has been read, or returns nothing.
function take(state) {
	const end = state.read.indexOf('\r\n\r\n');
	if (end < 0) return undefined;

	const lines = state.read.toString('latin1', 0, end).split('\r\n');
	const headers = Object.fromEntries(lines.slice(1).map((line) => {
		const colon = line.indexOf(':');
		return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()];
	}));
	const length = Number(headers['content-length'] || 0);
	if (state.read.length < end + 4 + length) return undefined;

	state.read = state.read.subarray(end + 4 + length);
	const [method, target] = lines[0].split(' ');
	return { method, path: target, headers, length };
}

let connections = 0;
const server = net.createServer((socket) => {
	const state = { read: Buffer.alloc(0) };

	socket.number = ++connections;
	socket.requests = 0;
	socket.on('error', () => {});
	socket.on('data', (data) => {
		state.read = Buffer.concat([state.read, data]);
		if (state.read.includes('POST /early') && !socket.requests++) {
			answer(socket, '413 Content Too Large', 'too much', 'Connection: close');
			socket.end();
		}
		if (state.read.includes('POST /deaf')) socket.pause();
		for (let request = take(state); request; request = take(state)) {
			const [, what, argument] = request.path.split(/[/?]/);

			request.connection = socket.number;
			request.number = ++socket.requests;
			fs.writeSync(log, `${JSON.stringify(request)}\n`);
			(deeds[what] || deeds.fine)(socket, Number(argument), argument);
		}
	});
});
server.listen(0, '127.0.0.1', () => console.log(`ready ${server.address().port}`));
process.stdin.on('end', () => process.exit(0)).resume();
