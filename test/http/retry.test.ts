/** What is asked again, when, how often, and from where on. */

import type { AddressInfo } from 'node:net';
import { createServer } from 'node:net';
import { describe, expect, test } from 'vitest';
import type { HttpOptions } from '../../hosts/bases/http/http.ts';
import { FIRST_PAGE_BYTES } from '../../hosts/bases/http/http.ts';
import { Queue } from '../../hosts/bases/http/queue.ts';
import {
  Failure,
  parseRetryAfter,
  RetryBudget,
  transportFailure,
} from '../../hosts/bases/retry.ts';
import type { Ask } from './object-server.ts';
import { pattern, serveObject } from './object-server.ts';
import { eachTransport } from './transports.ts';

const SIZE = 3_000_000;
const object = pattern(SIZE);
const AT = 1_000_000;
const LENGTH = 300_000;
const RANGE = `${AT}-${AT + LENGTH - 1}`;
/**
 * Short enough to wait for, and all the same much longer than a busy machine keeps a sound answer
 * back.
 */
const STALL_MS = 3000;

/** Sends the right headers and the first bytes, then does something else. */
function cutAt(bytes: number, then: (ask: Ask) => void): (ask: Ask) => void {
  return (ask) => {
    ask.response.writeHead(206, ask.headers as Record<string, string>);
    ask.response.write(ask.body.subarray(0, bytes), () => then(ask));
  };
}

const hangUp = (ask: Ask): void => void ask.response.destroy();

eachTransport((openHttp) => {
  /**
   * Reads one range; `script` answers its first requests (numbered from 1), the server rightly all
   * later ones.
   */
  async function reading(script: ((ask: Ask) => void)[], options: HttpOptions = {}) {
    const server = await serveObject(object, (ask) =>
      (script[ask.number - 1] ?? ((right: Ask) => right.answer()))(ask),
    );
    const source = await openHttp(server.url, options);
    const into = new Uint8Array(LENGTH);
    const error = await source.read(AT, into).then(
      () => undefined,
      (reason) => reason,
    );
    const right = Buffer.compare(into, object.subarray(AT, AT + LENGTH)) === 0;
    await server.stop();
    return { error, right, ranges: server.ranges.slice(1), stats: { ...source.stats } };
  }

  describe.concurrent('asked again', () => {
    test.each([408, 425, 429, 500, 502, 503, 504])('status %i', async (status) => {
      const { right, ranges, stats } = await reading([(ask) => ask.refuse(status)]);
      expect(right).toBe(true);
      expect(ranges).toEqual([RANGE, RANGE]);
      expect(stats).toMatchObject({ requests: 3, retries: 1 });
    });

    test('a connection that ends before the answer', async () => {
      const { right, ranges } = await reading([hangUp, hangUp]);
      expect(right).toBe(true);
      expect(ranges).toEqual([RANGE, RANGE, RANGE]);
    });

    test('a body that breaks off: from the first missing byte', async () => {
      const { right, ranges, stats } = await reading([
        cutAt(100_000, hangUp),
        cutAt(50_000, hangUp),
      ]);
      expect(right).toBe(true);
      expect(ranges).toEqual([
        RANGE,
        `${AT + 100_000}-${AT + LENGTH - 1}`,
        `${AT + 150_000}-${AT + LENGTH - 1}`,
      ]);
      expect(stats.bytes).toBe(FIRST_PAGE_BYTES + LENGTH);
    });

    test('a body of unknown length that ends early', async () => {
      const short = (ask: Ask): void =>
        ask.answer({ 'Content-Length': undefined }, ask.body.subarray(0, 1234));
      const { right, ranges } = await reading([short]);
      expect(right).toBe(true);
      expect(ranges).toEqual([RANGE, `${AT + 1234}-${AT + LENGTH - 1}`]);
    });

    test('an answer that never begins', async () => {
      const { right, ranges } = await reading([() => {}], { timeout: STALL_MS });
      expect(right).toBe(true);
      expect(ranges).toEqual([RANGE, RANGE]);
    });

    test('a body that stands still: from the first missing byte, and the connection is closed', async () => {
      let closed: Promise<void> | undefined;
      const stall = cutAt(200_000, (ask) => {
        closed = new Promise((resolve) => ask.response.once('close', resolve));
      });
      const { right, ranges } = await reading([stall], { timeout: STALL_MS });
      expect(right).toBe(true);
      expect(ranges).toEqual([RANGE, `${AT + 200_000}-${AT + LENGTH - 1}`]);
      await closed;
    });

    test('a body of unknown length that is complete and does not end', async () => {
      const endless = (ask: Ask): void => {
        const { 'Content-Length': _, ...headers } = ask.headers;
        ask.response.writeHead(206, headers);
        ask.response.write(ask.body);
      };
      const { right, stats } = await reading([endless], { timeout: STALL_MS });
      expect(right).toBe(true);
      expect(stats.retries).toBe(1);
    });

    test('the first request too', async () => {
      const server = await serveObject(object, (ask) =>
        ask.number === 0 ? cutAt(1000, hangUp)(ask) : ask.answer(),
      );
      const source = await openHttp(server.url);
      const into = new Uint8Array(FIRST_PAGE_BYTES);
      await source.read(0, into);
      expect(Buffer.compare(into, object.subarray(0, FIRST_PAGE_BYTES))).toBe(0);
      expect(server.ranges).toEqual([`0-${FIRST_PAGE_BYTES - 1}`, `1000-${FIRST_PAGE_BYTES - 1}`]);
      await server.stop();
    });

    test('a server that is down until later', async () => {
      const probe = createServer().listen(0, '127.0.0.1');
      await new Promise((resolve) => probe.once('listening', resolve));
      const { port } = probe.address() as AddressInfo;
      await new Promise((resolve) => probe.close(resolve));
      const error = await openHttp(`http://127.0.0.1:${port}/disk.img`, { retries: 1 }).catch(
        (reason) => reason,
      );
      expect(error).toMatchObject({
        code: 'EIO',
        message: expect.stringMatching(/: the connection failed \(.*ECONNREFUSED.*2 attempts/),
      });
      expect(error.message).toContain(`bytes 0-${FIRST_PAGE_BYTES - 1}: `);
      expect(error.cause).toBeInstanceOf(Error);
    });

    test.each([429, 503])(
      'status %i as long as others of our requests are served, however often',
      async (status) => {
        const open: { ask: Ask; sent: number }[] = [];
        let refused = 0;
        const server = await serveObject(object, (ask) => {
          if (ask.number === 0 || refused === 5) return ask.answer();
          if (open.length < 2) {
            ask.response.writeHead(206, ask.headers);
            return void open.push({ ask, sent: 0 });
          }
          for (const one of open)
            one.ask.response.write(one.ask.body.subarray(one.sent, (one.sent += 70_000)));
          ask.refuse(status);
          if (++refused === 5)
            for (const one of open) one.ask.response.end(one.ask.body.subarray(one.sent));
        });
        const source = await openHttp(server.url, { retries: 1 });
        const reads = [400_000, 1_200_000, 2_000_000].map((at) => ({
          at,
          into: new Uint8Array(600_000),
        }));
        await Promise.all(reads.map(({ at, into }) => source.read(at, into)));
        for (const { at, into } of reads)
          expect(Buffer.compare(into, object.subarray(at, at + into.length))).toBe(0);
        expect(server.ranges.filter((range) => range.startsWith('2000000-'))).toHaveLength(6);
        await server.stop();
      },
    );

    test('Retry-After of an answer is kept to', async () => {
      let refusedMs = 0;
      let askedMs = 0;
      const busy = (ask: Ask): void => {
        refusedMs = performance.now();
        ask.refuse(503, { 'Retry-After': '1' });
      };
      const after = (ask: Ask): void => {
        askedMs = performance.now();
        ask.answer();
      };
      const { right } = await reading([busy, after]);
      expect(right).toBe(true);
      // Timers may ring a millisecond early by another clock.
      expect(askedMs - refusedMs).toBeGreaterThan(990);
    });
  });

  describe.concurrent('given up', () => {
    test('at once: https: to a server of http:', async () => {
      const server = await serveObject(object);
      const error = await openHttp(server.url.replace('http:', 'https:'), { retries: 5 }).catch(
        (reason) => reason,
      );
      expect(error).toMatchObject({
        code: 'EIO',
        message: expect.stringMatching(/the server does not speak TLS/),
      });
      expect(error.message).not.toContain('attempts');
      await server.stop();
    });

    test('after as many repetitions as allowed, with their number', async () => {
      const script = Array.from(
        { length: 3 },
        () =>
          (ask: Ask): void =>
            ask.refuse(503),
      );
      const { error, ranges } = await reading(script, { retries: 2 });
      expect(error).toMatchObject({ code: 'EIO', offset: AT });
      expect(error.message).toMatch(
        /disk\.img, bytes 1000000-1299999: the server answered 503 Service Unavailable \(3 attempts in [\d.]+ s\)$/,
      );
      expect(ranges).toHaveLength(3);
    });

    test('as ETIMEDOUT when the last try stood still', async () => {
      const { error } = await reading([() => {}], { retries: 0, timeout: STALL_MS });
      expect(error).toMatchObject({
        code: 'ETIMEDOUT',
        message: expect.stringMatching(/sent nothing for 3000 ms/),
      });
    });

    test('as ETIMEDOUT when it brings a byte now and then', async () => {
      const trickle = (ask: Ask): void => {
        ask.response.writeHead(206, ask.headers as Record<string, string>);
        const timer = setInterval(() => ask.response.write('x'), 100);
        ask.response.once('close', () => clearInterval(timer));
      };
      const { error } = await reading([trickle], { retries: 0, timeout: STALL_MS });
      expect(error).toMatchObject({
        code: 'ETIMEDOUT',
        message: expect.stringMatching(/sent only \d+ bytes in 3000 ms/),
      });
    });

    test('at once for what does not pass by itself', async () => {
      for (const status of [400, 404, 412, 416]) {
        const { ranges, stats } = await reading([(ask) => ask.refuse(status)]);
        expect(ranges).toEqual([RANGE]);
        expect(stats.retries).toBe(0);
      }
    });

    test('not while each try brings a good piece', async () => {
      const pieces = Array.from({ length: 4 }, () => cutAt(70_000, hangUp));
      const { right, ranges } = await reading(pieces, { retries: 1 });
      expect(right).toBe(true);
      expect(ranges).toHaveLength(5);
    });

    test('after tries that bring only crumbs', async () => {
      const crumbs = Array.from({ length: 10 }, () => cutAt(10, hangUp));
      const { error, ranges } = await reading(crumbs, { retries: 2 });
      expect(error).toMatchObject({ code: 'EIO' });
      expect(ranges).toHaveLength(3);
    });
  });
});

describe('what a runtime says of a connection', () => {
  const transient = (said: string, reached = true): boolean =>
    transportFailure(new TypeError('fetch failed', { cause: new Error(said) }), '', reached)
      .transient;

  test.each([
    'connect ECONNREFUSED 127.0.0.1:80',
    'socket hang up',
    'read ECONNRESET',
    'getaddrinfo EAI_AGAIN host',
    'client error (SendRequest): connection closed before message completed',
    'error sending request for url (http://certificate.test/bad%20port): client error (Connect): tcp connect error: Connection refused',
  ])('may pass: %s', (said) => {
    expect(transient(said, false)).toBe(true);
  });

  test.each([
    'self-signed certificate',
    'certificate has expired',
    'invalid peer certificate: UnknownIssuer',
    'Requests to port 1 are blocked',
    'bad port',
    'write EPROTO error:0A00010B:SSL routines:ssl3_get_record:wrong version number',
    'redirect count exceeded',
    'received corrupt message of type InvalidContentType',
  ])('does not pass: %s', (said) => {
    expect(transient(said)).toBe(false);
  });

  test.each([
    'getaddrinfo ENOTFOUND host',
    'dns error: failed to lookup address information: Name or service not known',
  ])('may pass once the server has been reached: %s', (said) => {
    expect([transient(said), transient(said, false)]).toEqual([true, false]);
  });
});

describe('the budget', () => {
  const passing = new Failure('EIO', 'passing', { transient: true });
  const budget = (retries: number, random: number, clock = { ms: 0 }): RetryBudget =>
    new RetryBudget(retries, { now: () => clock.ms, random: () => random });

  test('doubles the wait up to a maximum, and leaves half of it to chance', () => {
    const most = budget(9, 1);
    expect(Array.from({ length: 10 }, () => most.next(passing, 0))).toEqual([
      250,
      500,
      1000,
      2000,
      4000,
      8000,
      16_000,
      16_000,
      16_000,
      undefined,
    ]);
    const least = budget(9, 0);
    expect(Array.from({ length: 9 }, () => least.next(passing, 0))).toEqual([
      125, 250, 500, 1000, 2000, 4000, 8000, 8000, 8000,
    ]);
  });

  test('waits as long as the server asks', () => {
    const patient = new Failure('EIO', 'busy', { transient: true, retryAfterMs: 7000 });
    expect(budget(1, 0).next(patient, 0)).toBe(7000);
  });

  test('ends two minutes after the last progress', () => {
    const clock = { ms: 0 };
    const limited = budget(99, 0, clock);
    expect(limited.next(passing, 0)).toBe(125);
    clock.ms = 119_000;
    expect(limited.next(passing, 0)).toBe(250);
    clock.ms = 121_000;
    expect(limited.next(passing, 0)).toBeUndefined();
    expect(limited.next(passing, 65_536)).toBe(125);
  });

  test('is not used up by a server that is busy with others of our requests, but in ten minutes', () => {
    const busy = new Failure('EIO', 'busy', { transient: true, busy: true });
    const clock = { ms: 0 };
    const crowded = budget(1, 1, clock);
    expect(crowded.next(busy, 0)).toBe(250);
    expect(crowded.next(busy, 0, 65_536)).toBe(500);
    clock.ms = 590_000;
    expect(crowded.next(busy, 0, 65_536)).toBe(1000);
    expect(crowded.next(busy, 0, 100)).toBeUndefined();
    const failing = budget(1, 1, clock);
    expect([failing.next(passing, 0, 65_536), failing.next(passing, 0, 65_536)]).toEqual([
      250,
      undefined,
    ]);
    clock.ms += 600_000;
    expect(crowded.next(busy, 65_536, 65_536)).toBe(250);
    clock.ms += 600_000;
    expect(crowded.next(busy, 0, 65_536)).toBeUndefined();
  });

  test('Retry-After: seconds or a date, with a cap', () => {
    const now = Date.parse('Tue, 03 Mar 2026 10:00:00 GMT');
    expect(parseRetryAfter(null, now)).toBeUndefined();
    expect(parseRetryAfter('soon', now)).toBeUndefined();
    expect(parseRetryAfter('0', now)).toBe(0);
    expect(parseRetryAfter(' 12 ', now)).toBe(12_000);
    expect(parseRetryAfter('Tue, 03 Mar 2026 10:00:30 GMT', now)).toBe(30_000);
    expect(parseRetryAfter('Tue, 03 Mar 2026 09:00:00 GMT', now)).toBe(0);
    expect(parseRetryAfter('86400', now)).toBe(60_000);
  });
});

test('a request that was refused for others is sent again when one of them has ended, the foreground first', async () => {
  const queue = new Queue();
  const told: string[] = [];
  const never = new AbortController();
  const wait = (
    name: string,
    isUrgent: () => boolean,
    signal = never.signal,
    ms = 2 ** 30,
  ): Promise<unknown> =>
    queue.wait(ms, isUrgent, signal).then(
      () => told.push(name),
      (reason) => told.push(`${name}: ${reason}`),
    );
  let joined = false;
  const [job, other, guest] = [
    wait('job', () => false),
    wait('a job that a guest has joined', () => joined),
    wait('guest', () => true),
  ];
  queue.next();
  await guest;
  joined = true;
  queue.next();
  await other;
  queue.next();
  await job;
  queue.next();
  const gone = wait('gone', () => true, AbortSignal.abort('enough'));
  await Promise.all([gone, wait('late', () => true, never.signal, 0)]);
  expect(told).toEqual(['guest', 'a job that a guest has joined', 'job', 'gone: enough', 'late']);
});
