/**
 * What of the reads' order, sharing and ends a server sees: requests held back until the test lets
 * them go.
 */
import { describe, expect, test } from 'vitest';
import type { HttpOptions } from '../../hosts/bases/http/http.ts';
import { FIRST_PAGE_BYTES } from '../../hosts/bases/http/http.ts';
import type { Ask } from './object-server.ts';
import { pattern, serveObject } from './object-server.ts';
import { eachTransport } from './transports.ts';

const MIB = 1024 * 1024;
const object = pattern(16 * MIB);
const BAD_BLOCK = MIB + 600 * 1024;

function cutAtBadBlock(ask: Ask): void {
  ask.response.writeHead(206, ask.headers);
  ask.response.write(ask.body.subarray(0, BAD_BLOCK - ask.first), () => ask.response.destroy());
}

eachTransport((openHttp) => {
  /**
   * An open source whose requests after the first one wait in `held` for the test to answer them.
   */
  async function holding(options: HttpOptions = {}) {
    const held: Ask[] = [];
    const server = await serveObject(object, (ask) =>
      ask.number === 0 ? ask.answer() : held.push(ask),
    );
    const source = await openHttp(server.url, options);
    return { server, source, held };
  }

  test('two readers of one cluster cause one fetch', async () => {
    const { server, source, held } = await holding();
    const [first, second] = [new Uint8Array(65_536), new Uint8Array(65_536)];
    const reads = [source.read(MIB, first), source.read(MIB, second, { background: true })];
    await server.arrived(2);
    reads.push(source.read(MIB, second));
    held[0].answer();
    await Promise.all(reads);
    expect(server.ranges).toEqual([`0-${FIRST_PAGE_BYTES - 1}`, `${MIB}-${MIB + 65_535}`]);
    expect(first).toEqual(object.subarray(MIB, MIB + 65_536));
    expect(second).toEqual(first);
    await server.stop();
  });

  test('a read that begins in the first page asks for the rest only', async () => {
    const { server, source, held } = await holding();
    const into = new Uint8Array(10_000);
    const at = FIRST_PAGE_BYTES - 5000;
    const read = source.read(at, into);
    await server.arrived(2);
    held[0].answer();
    await read;
    expect(server.ranges[1]).toBe(`${FIRST_PAGE_BYTES}-${FIRST_PAGE_BYTES + 4999}`);
    expect(into).toEqual(object.subarray(at, at + 10_000));
    await server.stop();
  });

  test('the foreground does not wait behind the background', async () => {
    const { server, source, held } = await holding({ depth: 3 });
    for (let n = 1; n <= 6; n++)
      void source.read(n * 2 * MIB, new Uint8Array(MIB), { background: true }).catch(() => {});
    await server.arrived(3);
    const urgent = source.read(MIB, new Uint8Array(512));
    await server.arrived(4);
    expect(server.ranges.slice(1)).toEqual([
      `${2 * MIB}-${3 * MIB - 1}`,
      `${4 * MIB}-${5 * MIB - 1}`,
      `${MIB}-${MIB + 511}`,
    ]);
    held[2].answer();
    await urgent;
    await source.close();
    await server.stop();
  });

  test('a read is done before the request that carries it', async () => {
    const { server, source, held } = await holding();
    const reads = [0, 1, 2].map((n) => source.read(MIB + n * 1000, new Uint8Array(1000)));
    await server.arrived(2);
    expect(server.ranges[1]).toBe(`${MIB}-${MIB + 2999}`);
    held[0].response.writeHead(206, held[0].headers);
    held[0].response.write(held[0].body.subarray(0, 1500));
    await reads[0];
    held[0].response.end(held[0].body.subarray(1500));
    await Promise.all(reads);
    await server.stop();
  });

  test.each([
    ['an error in its place', (ask: Ask) => ask.refuse(500)],
    ['an answer that is cut there', cutAtBadBlock],
  ])('a block that cannot be had costs no read but its own: %s', async (_, answer) => {
    const server = await serveObject(object, (ask) =>
      ask.first <= BAD_BLOCK && BAD_BLOCK < ask.end ? answer(ask) : ask.answer(),
    );
    const source = await openHttp(server.url, { retries: 1 });
    const reads = Array.from({ length: 6 }, (_, n) => new Uint8Array(MIB / 4).fill(n));
    const done = await Promise.allSettled(
      reads.map((into, n) => source.read(MIB + n * into.length, into, { background: true })),
    );
    expect(done.map(({ status }) => status)).toEqual(
      reads.map((_, n) => (n === 2 ? 'rejected' : 'fulfilled')),
    );
    expect(done[2]).toMatchObject({ reason: { code: 'EIO', offset: expect.any(Number) } });
    for (const n of [0, 1, 3, 4, 5])
      expect(
        Buffer.compare(reads[n], object.subarray(MIB + (n * MIB) / 4, MIB + ((n + 1) * MIB) / 4)),
      ).toBe(0);
    await source.close();
    await server.stop();
  });

  describe('cancelled', () => {
    test('by its signal: the server sees the connection close', async () => {
      const { server, source } = await holding();
      const controller = new AbortController();
      const read = source.read(MIB, new Uint8Array(1000), { signal: controller.signal });
      await server.arrived(2);
      const reason = new Error('no longer wanted');
      controller.abort(reason);
      await expect(read).rejects.toBe(reason);
      await server.cancellations(1);
      await server.stop();
    });

    test('in the middle of its body, and not when another read needs it', async () => {
      const { server, source, held } = await holding();
      const controller = new AbortController();
      const leaving = source.read(MIB, new Uint8Array(1000), { signal: controller.signal });
      const staying = source.read(MIB, new Uint8Array(1000));
      await server.arrived(2);
      held[0].response.writeHead(206, held[0].headers);
      held[0].response.write(held[0].body.subarray(0, 10));
      controller.abort(new Error('left'));
      await expect(leaving).rejects.toThrow('left');
      held[0].response.end(held[0].body.subarray(10));
      await staying;
      expect(server.cancelled()).toBe(0);
      await server.stop();
    });

    test('while it waits for its next try', async () => {
      const { server, source, held } = await holding();
      const controller = new AbortController();
      const read = source.read(MIB, new Uint8Array(1000), { signal: controller.signal });
      await server.arrived(2);
      held[0].refuse(503, { 'Retry-After': '60' });
      controller.abort(new Error('left'));
      await expect(read).rejects.toThrow('left');
      await source.close();
      await server.stop();
    });

    test('by close, with every read then and later', async () => {
      const { server, source } = await holding({ depth: 2 });
      const reads = [MIB, 8 * MIB].map((at) =>
        source.read(at, new Uint8Array(1000), { background: true }).catch((error) => error),
      );
      await server.arrived(2);
      await source.close();
      for (const error of await Promise.all(reads))
        expect(error).toMatchObject({ name: 'MillraceError', code: 'ECLOSED' });
      await server.cancellations(1);
      await expect(source.read(0, new Uint8Array(1))).rejects.toMatchObject({ code: 'ECLOSED' });
      await source.close();
      expect(server.ranges).toHaveLength(2);
      await server.stop();
    });

    test("although a fetch of the caller's own does not heed the signal", async () => {
      const deaf: typeof fetch = (input, init) => fetch(input, { ...init, signal: null });
      const { server, source, held } = await holding({ fetch: deaf });
      const controller = new AbortController();
      const unanswered = source.read(MIB, new Uint8Array(1000), { signal: controller.signal });
      const halfway = source.read(4 * MIB, new Uint8Array(1000), { signal: controller.signal });
      await server.arrived(3);
      const body = held.find((ask) => ask.first === 4 * MIB)!;
      body.response.writeHead(206, body.headers);
      body.response.write(body.body.subarray(0, 10));
      controller.abort(new Error('left'));
      await expect(unanswered).rejects.toThrow('left');
      await expect(halfway).rejects.toThrow('left');
      await source.close();
      await server.stop();
    });
  });

  test('many reads with one signal, as a job has, cause no warning', async () => {
    const server = await serveObject(object);
    const source = await openHttp(server.url);
    const warnings: Error[] = [];
    const onWarning = (warning: Error): number => warnings.push(warning);
    process.on('warning', onWarning);
    const { signal } = new AbortController();
    await Promise.all(
      Array.from({ length: 50 }, (_, n) =>
        source.read(n * 300_000, new Uint8Array(1000), { signal }),
      ),
    );
    await new Promise((resolve) => setImmediate(resolve));
    process.off('warning', onWarning);
    expect(warnings).toEqual([]);
    await server.stop();
  });
});
