/**
 * One URL that leads to several servers: which of their answers are taken for one object, and how
 * often the way is asked for.
 */
import { once } from 'node:events';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { expect, test, vi } from 'vitest';
import type { HttpOptions } from '../../hosts/bases/http/http.ts';
import { FIRST_PAGE_BYTES } from '../../hosts/bases/http/http.ts';
import { Mirrors, REDIRECT_KEPT_MS } from '../../hosts/bases/http/mirrors.ts';
import { mayBeSame, shortIdentity } from '../../hosts/disk/identity.ts';
import type { ObjectServer } from './object-server.ts';
import { LAST_MODIFIED, pattern, serveObject } from './object-server.ts';
import type { OpenHttp } from './transports.ts';
import { eachTransport } from './transports.ts';

const SIZE = FIRST_PAGE_BYTES + 3_000_000;
const object = pattern(SIZE);
const LENGTH = 5000;

/**
 * Bytes of which the last that is known before a change of servers, and those behind it, are
 * others.
 */
const otherwise = object.map((byte, at) => (at < FIRST_PAGE_BYTES ? byte : byte ^ 1));

interface Front {
  url: string;
  /** Requests that it has redirected. */
  count: () => number;
  stop(): Promise<void>;
}

async function redirecting(
  where: (number: number, request: IncomingMessage) => string,
): Promise<Front> {
  let count = 0;
  const server = createServer((request: IncomingMessage, response: ServerResponse) => {
    response.writeHead(302, { Location: where(count++, request) }).end();
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}/disk.img`,
    count: () => count,
    async stop() {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    },
  };
}

type Headers = Record<string, string | undefined>;

function mirror(headers: Headers, content: Uint8Array = object): Promise<ObjectServer> {
  return serveObject(content, (ask) => ask.answer(headers));
}

eachTransport((openHttp: OpenHttp) => {
  /** Reads from the first server, then from the second; what the second read gives. */
  async function reading(
    first: Headers,
    second: Headers,
    content?: Uint8Array,
    options: HttpOptions = {},
  ): Promise<{ error?: Error & { code: string }; right: boolean }> {
    const servers = [await mirror(first), await mirror(second, content)];
    let gone = false;
    const front = await redirecting(() => servers[gone ? 1 : 0].url);
    const source = await openHttp(front.url, options);
    const into = new Uint8Array(LENGTH);
    await source.read(FIRST_PAGE_BYTES + 1_000_000, into);
    gone = true;
    await servers[0].stop();
    const error = await source.read(FIRST_PAGE_BYTES + 2_000_000, into).then(
      () => undefined,
      (reason) => reason,
    );
    const at = FIRST_PAGE_BYTES + 2_000_000;
    const right = Buffer.compare(into, object.subarray(at, at + LENGTH)) === 0;
    await front.stop();
    await servers[1].stop();
    return { error, right };
  }

  const nginx = { ETag: '"6905d8a0-600000"' };
  const apache = { ETag: '"600000-64289a1e5c680"' };
  const undated = { 'Last-Modified': undefined };
  const fresh = { 'Last-Modified': new Date(Date.now() - 5000).toUTCString() };

  test('mirrors with ETags of their own and one date are one object', async () => {
    expect(await reading(nginx, apache)).toEqual({ error: undefined, right: true });
  });

  test('mirrors with one ETag and dates of their own are one object', async () => {
    const later = { ...nginx, 'Last-Modified': 'Wed, 04 Mar 2026 10:00:00 GMT' };
    expect(await reading(nginx, later)).toEqual({ error: undefined, right: true });
  });

  test.each([
    ['without a date', { ...nginx, ...undated }, { ...apache, ...undated }],
    ['whose date is too young to be trusted', { ...nginx, ...fresh }, { ...apache, ...fresh }],
    ['of which one tells no date', nginx, { ...apache, ...undated }],
  ])('a mirror %s is compared by bytes', async (_, first, second) => {
    expect(await reading(first, second)).toEqual({ error: undefined, right: true });
    const { error } = await reading(first, second, otherwise);
    expect(error).toMatchObject({
      code: 'ECHANGED',
      message: expect.stringMatching(/another server .* has other bytes/),
    });
  });

  test.each<[string, Headers, Uint8Array | undefined]>([
    ['another date', { ...apache, 'Last-Modified': 'Wed, 04 Mar 2026 10:00:00 GMT' }, undefined],
    ['another size', apache, object.subarray(0, SIZE - 1)],
  ])('a mirror with %s is a change', async (_, second, content) => {
    expect((await reading(nginx, second, content)).error?.code).toBe('ECHANGED');
  });

  test('of one server, another ETag is a change, whatever the date', async () => {
    let headers = nginx;
    const server = await serveObject(object, (ask) => ask.answer(headers));
    const front = await redirecting(() => server.url);
    const source = await openHttp(front.url);
    headers = apache;
    await expect(source.read(SIZE - LENGTH, new Uint8Array(LENGTH))).rejects.toMatchObject({
      code: 'ECHANGED',
    });
    await front.stop();
    await server.stop();
  });

  test.each<[string, Headers, Headers, boolean]>([
    ['strong', nginx, apache, false],
    ['weak', { ETag: 'W/"a"' }, { ETag: 'W/"b"' }, false],
    ['strong and weak', nginx, { ETag: 'W/"a"' }, true],
  ])(
    'nodes behind one name, with %s ETags of their own by turns, have one object',
    async (_, one, other, isRedirected) => {
      const server = await serveObject(object, (ask) => {
        const mine = ask.number % 2 ? one : other;
        const ifRange = ask.request.headers['if-range'];
        if (ifRange === undefined || ifRange === mine.ETag) return ask.answer(mine);
        const whole = { ...ask.headers, ...mine, 'Content-Length': object.length };
        ask.response.writeHead(200, whole).end(object);
      });
      const front = await redirecting(() => server.url);
      const source = await openHttp(isRedirected ? front.url : server.url, { retries: 0 });
      for (let at = FIRST_PAGE_BYTES; at < SIZE - LENGTH; at += 500_000) {
        const into = new Uint8Array(LENGTH);
        await source.read(at, into);
        expect(Buffer.compare(into, object.subarray(at, at + LENGTH))).toBe(0);
      }
      await front.stop();
      await server.stop();
    },
  );

  test.each<[string, Headers, Uint8Array]>([
    ['other bytes', apache, otherwise],
    ['another date', { ...apache, 'Last-Modified': 'Wed, 04 Mar 2026 10:00:00 GMT' }, object],
    ['no date', { ...apache, ...undated }, object],
    [
      'a date that is a placeholder',
      { ...apache, 'Last-Modified': new Date(1000).toUTCString() },
      object,
    ],
  ])('a node with %s has another object', async (_, headers, bytes) => {
    const server = await serveObject(object, (ask) => {
      if (ask.number < 2 || ask.number % 2) return ask.answer(nginx);
      ask.answer(headers, bytes.subarray(ask.first, ask.end));
    });
    const source = await openHttp(server.url, { retries: 0 });
    const reads = async (): Promise<void> => {
      for (let at = SIZE - LENGTH; at > 1_000_000; at -= 500_000)
        await source.read(at, new Uint8Array(LENGTH));
    };
    await expect(reads()).rejects.toMatchObject({ code: 'ECHANGED' });
    await server.stop();
  });

  test('a redirect is asked for once, and again after a while', async () => {
    const server = await mirror(nginx);
    const front = await redirecting(() => server.url);
    const source = await openHttp(front.url);
    const read = (at: number): Promise<void> =>
      source.read(FIRST_PAGE_BYTES + at, new Uint8Array(LENGTH));
    for (let at = 0; at < 10; at++) await read(at * 200_000);
    expect(front.count()).toBe(1);
    const now = performance.now();
    const clock = vi.spyOn(performance, 'now').mockImplementation(() => now + REDIRECT_KEPT_MS);
    await read(0);
    clock.mockRestore();
    expect(front.count()).toBe(2);
    await front.stop();
    await server.stop();
  });

  test.each([401, 403, 404, 410])(
    'a redirect that has expired (%i) is asked for anew',
    async (status) => {
      const server = await serveObject(object, (ask) =>
        ask.number % 3 === 0
          ? ask.answer()
          : ask.request.url!.endsWith(`=${ask.number}`)
            ? ask.answer()
            : ask.refuse(status),
      );
      const front = await redirecting(
        (number) => `${server.url}?signature=${number === 0 ? 0 : 2}`,
      );
      const source = await openHttp(front.url, { retries: 0 });
      const into = new Uint8Array(LENGTH);
      await source.read(SIZE - LENGTH, into);
      expect(Buffer.compare(into, object.subarray(SIZE - LENGTH))).toBe(0);
      expect(front.count()).toBe(2);
      await front.stop();
      await server.stop();
    },
  );

  test('an origin behind a redirect is sent neither authorization nor cookies, also when it is asked directly', async () => {
    const seen: (string | undefined)[] = [];
    const server = await serveObject(object, (ask) => {
      seen.push(ask.request.headers.authorization, ask.request.headers.cookie);
      ask.answer();
    });
    const sent: (string | undefined)[] = [];
    const front = await redirecting((_, { headers }) => {
      sent.push(headers.authorization);
      return server.url;
    });
    const headers = { Authorization: 'Bearer secret', Cookie: 'session=secret' };
    const source = await openHttp(front.url, { headers });
    await source.read(SIZE - LENGTH, new Uint8Array(LENGTH));
    expect(sent).toEqual(['Bearer secret']);
    expect(seen).toEqual([undefined, undefined, undefined, undefined]);
    await front.stop();
    await server.stop();
  });

  test('what is recorded of an object lets it come from another mirror, and no other object', async () => {
    const servers = [
      await mirror(nginx),
      await mirror(apache),
      await mirror({ ...apache, 'Last-Modified': 'Wed, 04 Mar 2026 10:00:00 GMT' }),
    ];
    const [first, second, third] = await Promise.all(
      servers.map(async ({ url }) => (await openHttp(url)).identity),
    );
    expect(first).toContain(`modified ${LAST_MODIFIED} at `);
    expect(mayBeSame(first, second)).toBe(true);
    expect(mayBeSame(first, third)).toBe(false);
    expect(mayBeSame(first, first!.replace('6905d8a0', '6905d8a1'))).toBe(false);
    for (const server of servers) await server.stop();
  });
});

test.each([
  ['an older record of the same ETag', 'etag "a"', 'etag "a" modified D at 01234567', true],
  ['an older record of another ETag', 'etag "a"', 'etag "b" modified D at 01234567', false],
  ['a weak ETag that changed', 'etag W/"a" size 7', 'etag W/"b" size 7', false],
  [
    'an ETag that is hidden, and one date',
    'etag "a" modified D at 01234567',
    'modified D size 7',
    true,
  ],
  [
    'an ETag that is hidden, and another date',
    'etag "a" modified D at 01234567',
    'modified E size 7',
    false,
  ],
  ['an ETag and a date', 'etag "a"', 'modified D size 7', true],
  ['another date', 'modified D size 7', 'modified E size 7', false],
  ['a file', 'etag "a"', '7-1700000000', true],
  ['another file', '7-1700000000', '7-1700000001', false],
  ['a name of the caller', 'one', 'two', false],
  ['a name of the caller and an ETag', 'one', 'etag "a"', true],
  ['a long ETag', 'etag sha-256:00', 'etag sha-256:01', false],
])('%s', (_, recorded, found, same) => {
  expect(mayBeSame(recorded, found)).toBe(same);
  expect(mayBeSame(found, recorded)).toBe(same);
});

test('what tells mirrors by is left out first', () => {
  expect(shortIdentity('etag "a" modified D at 01234567')).toBe('etag "a"');
  expect(shortIdentity('modified D size 7')).toBe('modified D size 7');
});

test('of what has come, no more is kept than what mirrors are told by', () => {
  const mirrors = new Mirrors();
  const received = Buffer.alloc(1024 * 1024, 7);
  for (const offset of [0, received.length]) mirrors.keep(offset, received);
  const kept = mirrors.samples().map(({ bytes }) => bytes);
  received.fill(0);
  expect(kept.map(({ buffer }) => buffer.byteLength)).toEqual([64 * 1024, 4096]);
  expect(kept.every((bytes) => bytes.every((byte) => byte === 7))).toBe(true);
});
