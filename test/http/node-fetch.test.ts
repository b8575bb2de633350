/**
 * node:http as a base's way: what can happen on a connection, below the answers. An 'error' that
 * nobody hears fails the whole file.
 */
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { createServer } from 'node:https';
import type { AddressInfo, Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { inspect } from 'node:util';
import { describe, expect, test } from 'vitest';
import type { Answer } from '../../hosts/bases/http/response.ts';
import { nodeFetch, openHttp } from '../../hosts/node/http.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { peerPath } from '../support/peer.ts';
import { run } from '../support/run.ts';
import { pattern, serveObject } from './object-server.ts';
import type { RawAsk, RawServer } from './raw-server.ts';
import { serveRaw } from './raw-server.ts';

const MIB = 1024 * 1024;
const OK = 'HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok';
/** A child that starts, reads and ends takes two seconds. */
const CHILD_MS_MAX = 60_000;

const never = new AbortController().signal;

function fetchFrom(
  url: string,
  headers: Record<string, string> = {},
  signal: AbortSignal = never,
): Promise<Answer> {
  return nodeFetch(url, { headers: new Headers(headers), signal });
}

/** The body as text. */
async function textOf(answer: Answer): Promise<string> {
  const reader = answer.body!.getReader();
  const pieces: Uint8Array[] = [];
  for (let { done, value } = await reader.read(); !done; { done, value } = await reader.read())
    pieces.push(value!);
  return Buffer.concat(pieces).toString();
}

/** Resolves when the connection is no more, in whatever way it ended. */
function closing(socket: Socket): Promise<void> {
  return new Promise((resolve) =>
    socket.destroyed ? resolve() : socket.once('close', () => resolve()),
  );
}

async function withServer(
  script: (ask: RawAsk) => void,
  use: (server: RawServer) => Promise<void>,
): Promise<void> {
  const server = await serveRaw(script);
  try {
    await use(server);
  } finally {
    await server.stop();
  }
}

/** Runs the script of the request's path. */
function byPath(scripts: Record<string, (ask: RawAsk) => void>): (ask: RawAsk) => void {
  return (ask) => scripts[ask.path](ask);
}

function redirect(to: string, status = 302): (ask: RawAsk) => void {
  return (ask) =>
    ask.say(`HTTP/1.1 ${status} Found\r\nLocation: ${to}\r\nContent-Length: 5\r\n\r\nmoved`);
}

const ok = (ask: RawAsk): void => ask.say(OK);

describe('aborted', () => {
  const reason = new Error('no longer wanted');

  test('before: nothing is sent', () =>
    withServer(ok, async (server) => {
      await expect(fetchFrom(server.url, {}, AbortSignal.abort(reason))).rejects.toBe(reason);
      expect(server.sockets).toHaveLength(0);
    }));

  test.each(['http', 'https'])(
    'before the answer, or the handshake: the connection is closed (%s)',
    async (scheme) => {
      const server = await serveRaw(() => {});
      const controller = new AbortController();
      const answer = fetchFrom(server.url.replace('http', scheme), {}, controller.signal);
      answer.catch(() => {});
      while (server.sockets.length === 0 || server.sockets[0].bytesRead === 0)
        await new Promise((resolve) => setImmediate(resolve));
      const closed = closing(server.sockets[0]);
      controller.abort(reason);
      await expect(answer).rejects.toBe(reason);
      await closed;
      await server.stop();
    },
  );

  test('in the midst of a body: the read that waits ends, and the connection is closed', () =>
    withServer(
      (ask) => ask.say('HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf'),
      async (server) => {
        const controller = new AbortController();
        const reader = (await fetchFrom(server.url, {}, controller.signal)).body!.getReader();
        expect(Buffer.from((await reader.read()).value!).toString()).toBe('half');
        const waiting = reader.read();
        const closed = closing(server.sockets[0]);
        controller.abort(reason);
        await expect(waiting).rejects.toBe(reason);
        await expect(reader.read()).rejects.toBe(reason);
        await closed;
      },
    ));

  test('a body that is cancelled: the read that waits is told that there is no more', () =>
    withServer(
      (ask) => ask.say('HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf'),
      async (server) => {
        const reader = (await fetchFrom(server.url)).body!.getReader();
        await reader.read();
        const waiting = reader.read();
        const closed = closing(server.sockets[0]);
        await reader.cancel();
        expect(await waiting).toEqual({ done: true });
        await closed;
      },
    ));
});

describe('a kept connection', () => {
  test('carries one request after the other', async () => {
    const sockets = new Set<unknown>();
    const object = pattern(8 * MIB);
    const server = await serveObject(object, (ask) => {
      sockets.add(ask.request.socket);
      ask.answer();
    });
    const source = await openHttp(server.url, { depth: 2 });
    const copy = new Uint8Array(object.length);
    const reads = Array.from({ length: 32 }, (_, n) =>
      source.read((n * MIB) / 4, copy.subarray((n * MIB) / 4, ((n + 1) * MIB) / 4)),
    );
    await Promise.all(reads);
    for (let n = 1; n < 20; n++) await source.read(((n * MIB) / 3 + MIB) | 0, new Uint8Array(10));
    expect(Buffer.compare(copy, object)).toBe(0);
    expect(server.ranges.length).toBeGreaterThan(20);
    expect(sockets.size).toBeLessThanOrEqual(2);
    await server.stop();
  });

  test.each([
    ['closes', (ask: RawAsk) => void ask.socket.destroy()],
    ['resets', (ask: RawAsk) => void ask.socket.resetAndDestroy()],
  ])(
    'which the server %s while a request is on its way: the request goes over another one at once',
    (_, end) =>
      withServer(
        (ask) => (ask.number === 1 ? end(ask) : ask.say(OK)),
        async (server) => {
          expect(await textOf(await fetchFrom(server.url))).toBe('ok');
          expect(await textOf(await fetchFrom(server.url))).toBe('ok');
          expect(server.asked.map(({ socket }) => server.sockets.indexOf(socket))).toEqual([
            0, 0, 1,
          ]);
        },
      ),
  );

  test('and a new one are both lost: an error, and no third request, however many are kept', async () => {
    const first: RawAsk[] = [];
    await withServer(
      (ask) => {
        if (ask.number >= 3) return void ask.socket.destroy();
        first.push(ask);
        if (first.length === 3) for (const { say } of first) say(OK);
      },
      async (server) => {
        const together = [1, 2, 3].map(async () => textOf(await fetchFrom(server.url)));
        expect(await Promise.all(together)).toEqual(['ok', 'ok', 'ok']);
        await expect(fetchFrom(server.url)).rejects.toMatchObject({ code: 'ECONNRESET' });
        expect(server.asked.slice(3).map(({ socket }) => server.sockets.indexOf(socket))).toEqual([
          expect.toBeOneOf([0, 1, 2]),
          3,
        ]);
      },
    );
  });

  test('is not used again after bytes that nobody asked for', () =>
    withServer(
      (ask) =>
        ask.say(ask.number === 0 ? `${OK}HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong` : OK),
      async (server) => {
        expect(await textOf(await fetchFrom(server.url))).toBe('ok');
        expect(await textOf(await fetchFrom(server.url))).toBe('ok');
      },
    ));

  test("is not spoilt by headers of the caller that are the connection's", () =>
    withServer(ok, async (server) => {
      const headers = {
        'Content-Length': '5',
        'Transfer-Encoding': 'chunked',
        Expect: '100-continue',
        'X-Own': 'kept',
      };
      expect(await textOf(await fetchFrom(server.url, headers))).toBe('ok');
      expect(await textOf(await fetchFrom(server.url))).toBe('ok');
      const sent = server.asked[0].headers;
      expect([...sent.keys()].toSorted()).toEqual(['connection', 'host', 'user-agent', 'x-own']);
      expect(server.sockets).toHaveLength(1);
    }));
});

describe('a redirect', () => {
  test.each([301, 302, 303, 307, 308])(
    '%i: followed, relative, over the same connection, with all headers',
    (status) =>
      withServer(byPath({ '/a/b?c': redirect('../d?e', status), '/d?e': ok }), async (server) => {
        const headers = {
          Authorization: 'Basic x',
          Cookie: 'a=b',
          Range: 'bytes=0-1',
          'X-Own': 'kept',
        };
        expect(await textOf(await fetchFrom(`${server.url}/a/b?c`, headers))).toBe('ok');
        for (const [name, value] of Object.entries(headers))
          expect(server.asked[1].headers.get(name)).toBe(value);
        expect(server.sockets).toHaveLength(1);
      }),
  );

  test('to another origin does not take along what is meant for the first, not even back there', () =>
    withServer(byPath({ '/back': ok }), (back) =>
      withServer(redirect(`${back.url}/back`), async (elsewhere) => {
        const headers = {
          Authorization: 'Basic x',
          Cookie: 'a=b',
          Host: 'first.example',
          Range: 'bytes=0-1',
        };
        expect(await textOf(await fetchFrom(elsewhere.url, headers))).toBe('ok');
        expect(elsewhere.asked[0].headers.get('Host')).toBe('first.example');
        const { headers: sent } = back.asked[0];
        expect([sent.get('Authorization'), sent.get('Cookie')]).toEqual([null, null]);
        expect([sent.get('Host'), sent.get('Range')]).toEqual([
          new URL(back.url).host,
          'bytes=0-1',
        ]);
      }),
    ));

  test('without end is an error after twenty, without a warning', async () => {
    const warnings: Error[] = [];
    const onWarning = (warning: Error): number => warnings.push(warning);
    process.on('warning', onWarning);
    await withServer(redirect('/again'), async (server) => {
      await expect(fetchFrom(server.url)).rejects.toThrow('redirect count exceeded');
      expect(server.asked).toHaveLength(21);
      await expect(openHttp(server.url)).rejects.toThrow(/redirects of this URL have no end/);
      expect(server.asked).toHaveLength(42);
    });
    process.off('warning', onWarning);
    expect(warnings).toEqual([]);
  });

  test.each([
    ['another scheme', 'ftp://host/secret', 'EUNSUPPORTED', /scheme ftp:/],
    ['a file', 'file:///etc/secret', 'EUNSUPPORTED', /scheme file:/],
    [
      'a URL with a password',
      'http://user:secret@127.0.0.1:1/',
      'EUNSUPPORTED',
      /holds a user or password/,
    ],
    [
      'a URL with a user that cannot be decoded',
      'http://secret%zz@127.0.0.1:1/',
      'EUNSUPPORTED',
      /holds a user or password/,
    ],
    ['no URL', 'http://user:secret@[/', 'EIO', /what is no URL/],
  ])('to %s is refused once, and never shown', (_, to, code, message) =>
    withServer(redirect(to), async (server) => {
      const error = await openHttp(server.url).catch((reason) => reason);
      expect(error).toMatchObject({
        name: 'MillraceError',
        code,
        message: expect.stringMatching(message),
      });
      expect(inspect(error, { depth: 9, showHidden: true })).not.toMatch('secret');
      expect(server.asked).toHaveLength(1);
    }),
  );

  test('with letters beyond ASCII means UTF-8', () =>
    withServer(
      byPath({ '/': redirect(Buffer.from('/wörd').toString('latin1')), '/w%C3%B6rd': ok }),
      async (server) => expect(await textOf(await fetchFrom(server.url))).toBe('ok'),
    ));

  test('whose own body does not come leaves no connection behind', () =>
    withServer(
      byPath({
        '/': (ask) =>
          ask.say('HTTP/1.1 302 Found\r\nLocation: /next\r\nContent-Length: 5\r\n\r\nmov'),
        '/next': ok,
      }),
      async (server) => {
        expect(await textOf(await fetchFrom(server.url))).toBe('ok');
        await closing(server.sockets[0]);
        expect(server.sockets).toHaveLength(2);
      },
    ));
});

describe('no answer', () => {
  test.each<[string, (ask: RawAsk) => void, RegExp]>([
    ['another protocol', (ask) => ask.say('SSH-2.0-OpenSSH_9.2\r\n'), /Parse Error/],
    [
      'a head too large',
      (ask) => ask.say(`HTTP/1.1 200 OK\r\nX: ${'x'.repeat(100_000)}`),
      /Header overflow/,
    ],
    [
      'a head that is cut',
      (ask) => void ask.socket.end('HTTP/1.1 200 OK\r\nContent-'),
      /socket hang up|Parse Error/,
    ],
    [
      'two lengths',
      (ask) => ask.say('HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok'),
      /Parse Error/,
    ],
    [
      'a length and chunks',
      (ask) => {
        ask.say(
          'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n',
        );
      },
      /Parse Error/,
    ],
    ['the end of the connection', (ask) => void ask.socket.end(), /socket hang up/],
    ['a reset', (ask) => void ask.socket.resetAndDestroy(), /ECONNRESET/],
    [
      'another protocol by 101',
      (ask) => {
        ask.say('HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n?');
      },
      /without an answer/,
    ],
  ])('but %s: an error, and the connection is closed', (_, script, message) =>
    withServer(script, async (server) => {
      await expect(fetchFrom(server.url)).rejects.toThrow(message);
      await closing(server.sockets[0]);
      expect(server.asked).toHaveLength(1);
    }),
  );

  test('yet, but news of it: the answer is what follows', () =>
    withServer(
      (ask) =>
        ask.say(`HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n${OK}`),
      async (server) => expect(await textOf(await fetchFrom(server.url))).toBe('ok'),
    ));
});

describe('a body', () => {
  const nine = 'HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n';
  const chunked = 'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n';

  test.each<[string, (ask: RawAsk) => void, string]>([
    ['of a known length', ok, 'ok'],
    [
      'in chunks, with a trailer',
      (ask) => ask.say(`${chunked}2\r\nab\r\n3;x=y\r\ncde\r\n0\r\nX: y\r\n\r\n`),
      'abcde',
    ],
    [
      'that ends with the connection',
      (ask) => void ask.socket.end('HTTP/1.1 200 OK\r\n\r\nall'),
      'all',
    ],
    ['of HTTP/1.0', (ask) => void ask.socket.end('HTTP/1.0 200 OK\r\n\r\nall'), 'all'],
    ['of 204, which is none', (ask) => ask.say('HTTP/1.1 204 No Content\r\n\r\n'), ''],
    [
      'of 304, which is none',
      (ask) => ask.say('HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n'),
      '',
    ],
    [
      'of many small pieces',
      (ask) => ask.say(`${chunked}${'1\r\nx\r\n'.repeat(50_000)}0\r\n\r\n`),
      'x'.repeat(50_000),
    ],
  ])('%s', (_, script, text) =>
    withServer(script, async (server) => {
      expect(await textOf(await fetchFrom(server.url))).toBe(text);
    }),
  );

  test.each<[string, string, (socket: Socket) => void, RegExp]>([
    ['of a known length', `${nine}half`, (socket) => socket.end(), /closed it in the midst/],
    ['by a reset', `${nine}half`, (socket) => socket.resetAndDestroy(), /ECONNRESET/],
    ['in chunks', `${chunked}4\r\nhalf\r\n`, (socket) => socket.end(), /closed it in the midst/],
    ['in a chunk', `${chunked}9\r\nhalf`, (socket) => socket.end(), /closed it in the midst/],
    [
      'by a chunk that is none',
      `${chunked}4\r\nhalf\r\n`,
      (socket) => socket.write('zz\r\n'),
      /Parse Error/,
    ],
  ])('cut short, %s: what came, then an error', (_, said, end, message) =>
    withServer(
      (ask) => ask.say(said),
      async (server) => {
        const reader = (await fetchFrom(server.url)).body!.getReader();
        expect(Buffer.from((await reader.read()).value!).toString()).toBe('half');
        end(server.sockets[0]);
        await expect(reader.read()).rejects.toThrow(message);
        await closing(server.sockets[0]);
      },
    ),
  );

  test('that nobody reads may be cut short and reset, unheard', () =>
    withServer(
      (ask) =>
        void ask.socket.write('HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf', () =>
          ask.socket.resetAndDestroy(),
        ),
      async (server) => {
        await Promise.allSettled([fetchFrom(server.url), fetchFrom(server.url)]);
        const cancelled = await fetchFrom(server.url).catch(() => undefined);
        await cancelled?.body?.cancel();
        await new Promise((resolve) => setTimeout(resolve, 100));
      },
    ));

  test('that nobody reads any more is held back, and goes on when it is read', async () => {
    const object = pattern(64 * MIB);
    const server = await serveRaw((ask) => {
      ask.say(`HTTP/1.1 200 OK\r\nContent-Length: ${object.length}\r\n\r\n`);
      ask.socket.write(object);
    });
    const left = (await fetchFrom(server.url)).body!.getReader();
    const first = await left.read();
    const untouched = await fetchFrom(server.url);
    // While another one comes whole, these two could have as well.
    const busy = (await fetchFrom(server.url)).body!.getReader();
    for (let bytes = 0; bytes < object.length; ) bytes += (await busy.read()).value!.length;
    // The system's own buffers for a connection hold some MiB.
    const [toLeft, toUntouched] = server.sockets.map(
      (socket) => socket.bytesWritten - socket.writableLength,
    );
    expect(Math.max(toLeft, toUntouched)).toBeLessThan(32 * MIB);
    const copy = new Uint8Array(object.length);
    let at = 0;
    for (let { done, value } = first; !done; { done, value } = await left.read()) {
      copy.set(value!, at);
      at += value!.length;
    }
    expect(Buffer.compare(copy, object)).toBe(0);
    await untouched.body!.cancel();
    await server.stop();
  });
});

describeWithPeer(['openssl'], 'a process of its own', () => {
  const child = fileURLToPath(new URL('node-fetch-child.ts', import.meta.url));
  const read = (args: string[], env: Record<string, string> = {}): Promise<{ stdout: string }> =>
    run(process.execPath, ['--import', 'tsx', child, ...args], { env, msMax: CHILD_MS_MAX });

  test('reads over https with a certificate that it was told of, and ends although connections are kept', async () => {
    const dir = await mkdtemp(join(tmpdir(), 'millrace-https-'));
    const [key, cert] = [join(dir, 'key.pem'), join(dir, 'cert.pem')];
    const kind = [
      '-x509',
      '-newkey',
      'ec',
      '-pkeyopt',
      'ec_paramgen_curve:P-256',
      '-nodes',
      '-days',
      '2',
    ];
    const names = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost'];
    await run(peerPath('openssl'), ['req', ...kind, ...names, '-keyout', key, '-out', cert]);
    const object = pattern(MIB);
    const plain = await serveObject(object);
    const options = {
      key: await readFile(key),
      cert: await readFile(cert),
      keepAliveTimeout: 2 * CHILD_MS_MAX,
    };
    const secure = createServer(options, (request, response) => {
      const [, first, last] = /bytes=(\d+)-(\d+)/.exec(request.headers.range!)!.map(Number);
      response
        .writeHead(206, { 'Content-Range': `bytes ${first}-${last}/${object.length}` })
        .end(object.subarray(first, last + 1));
    });
    secure.listen(0, '127.0.0.1');
    await once(secure, 'listening');
    const url = `https://localhost:${(secure.address() as AddressInfo).port}/disk.img`;
    const sum = object.reduce((total, byte) => total + byte, 0);
    const known = await read([url, plain.url], { NODE_EXTRA_CA_CERTS: cert });
    expect(known.stdout.split('\n').slice(0, 2)).toEqual([`${sum}`, `${sum}`]);
    const stranger = await read([url]);
    expect(stranger.stdout).toMatch(
      /^EIO .*certificate of the server is not trusted \(self-signed certificate\)/,
    );
    secure.closeAllConnections();
    secure.close();
    await plain.stop();
    await rm(dir, { recursive: true });
  });
});
