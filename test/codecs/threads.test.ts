/**
 * The pool of threads that decode and encode: when it starts them, that none is lost when they end,
 * and that it keeps no process alive.
 */
import { execFile } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { promisify } from 'node:util';
import type { Worker } from 'node:worker_threads';
import { deflateRawSync, inflateRawSync } from 'node:zlib';
import { build } from 'esbuild';
import { afterEach, describe, expect, it } from 'vitest';
import { inlineCodec } from '../../hosts/node/inline-codec.ts';
import { ThreadedCodec } from '../../hosts/threads/codec.ts';
import { Threads } from '../../hosts/threads/threads.ts';
import { makeContent } from '../fixtures/content.ts';

const CLUSTER = 64 * 1024;
const COUNT = 300;

const contents = Array.from({ length: 16 }, (_, i) => makeContent('text', i, CLUSTER));
const streams = contents.map((content) => deflateRawSync(content));

/** Threads that were started, and whether each has. */
const started: Worker[] = [];
const online: Promise<unknown>[] = [];
process.on('worker', (worker: Worker) => {
  started.push(worker);
  online.push(once(worker, 'online'));
});

const pools: Threads[] = [];
function makePool(count?: number): Threads {
  pools.push(new Threads(count));
  return pools.at(-1)!;
}
function makeCodec(count?: number): ThreadedCodec {
  return new ThreadedCodec(makePool(count), inlineCodec());
}

afterEach(async () => {
  await Promise.all(pools.splice(0).map((pool) => pool.close()));
  started.length = online.length = 0;
});

/** Decodes `count` clusters at once and checks each. */
async function decode(codec: ThreadedCodec, count: number): Promise<void> {
  const results = Array.from({ length: count }, () => new Uint8Array(CLUSTER));
  await Promise.all(
    results.map((into, i) => codec.inflate('zlib', streams[i % streams.length], into)),
  );
  for (const [i, into] of results.entries())
    expect(Buffer.compare(into, contents[i % contents.length]), `cluster ${i}`).toBe(0);
}

/** All that a thread answers. */
function answers(worker: Worker): { results: unknown[] }[] {
  const messages: { results: unknown[] }[] = [];
  worker.on('message', (message) => messages.push(message));
  return messages;
}

describe('a pool of threads', () => {
  it('starts none for a few clusters', async () => {
    const codec = makeCodec(2);
    for (let i = 0; i < 20; i++) await decode(codec, 3);
    expect(started).toEqual([]);
  });

  it('starts them once for many, and has them decode', async () => {
    const codec = makeCodec(2);
    await Promise.all([decode(codec, COUNT), decode(codec, COUNT)]);
    expect(started).toHaveLength(2);
    await Promise.all(online);
    const messages = started.map(answers);
    await decode(codec, COUNT);
    expect(started).toHaveLength(2);
    const byThread = messages.map((list) =>
      list.reduce((sum, { results }) => sum + results.length, 0),
    );
    expect(byThread[0] + byThread[1]).toBe(COUNT);
    expect(Math.min(...byThread)).toBeGreaterThan(0);
  });

  it('has them encode, too, and loses nothing when it is closed meanwhile', async () => {
    const codec = makeCodec(2);
    await decode(codec, COUNT);
    await Promise.all(online);
    const messages = started.map(answers);
    const encoded = contents.map((content) => codec.deflate('zlib', content));
    const [streams] = await Promise.all([Promise.all(encoded), decode(codec, COUNT)]);
    const more = contents.map((content) => codec.deflate('zlib', content));
    await pools[0].close();
    expect(messages.every((list) => list.length > 0)).toBe(true);
    for (const [i, stream] of [...streams, ...(await Promise.all(more))].entries())
      expect(inflateRawSync(stream!).equals(contents[i % contents.length])).toBe(true);
  });

  it('of none decodes all the same', async () => {
    await decode(makeCodec(0), COUNT);
    expect(started).toEqual([]);
  });

  it('tells each bad stream of a batch, and decodes the others', async () => {
    const codec = makeCodec(2);
    await decode(codec, COUNT);
    await Promise.all(online);
    const results = await Promise.allSettled(
      Array.from({ length: COUNT }, async (_, i) => {
        const into = new Uint8Array(CLUSTER);
        await codec.inflate(
          'zlib',
          i % 3 === 0 ? streams[i % 16].subarray(0, 100) : streams[i % 16],
          into,
        );
        expect(Buffer.compare(into, contents[i % 16])).toBe(0);
      }),
    );
    const bad = results.flatMap((result, i) =>
      result.status === 'rejected' ? [[i, result.reason]] : [],
    );
    expect(bad.map(([i]) => i)).toEqual(Array.from({ length: COUNT / 3 }, (_, i) => 3 * i));
    for (const [, reason] of bad) expect(reason).toMatchObject({ code: 'ECORRUPT' });
  });

  it('loses nothing when it is closed in the middle, and starts again when it is needed', async () => {
    const codec = makeCodec(2);
    await decode(codec, COUNT);
    await Promise.all(online);
    const decoded = decode(codec, COUNT);
    await new Promise(setImmediate);
    await pools[0].close();
    await decoded;
    await decode(codec, COUNT);
    await decode(codec, COUNT);
    expect(started).toHaveLength(4);
  });

  it('loses nothing when a thread fails', async () => {
    const codec = makeCodec(2);
    await decode(codec, COUNT);
    await Promise.all(online);
    const decoded = decode(codec, COUNT);
    await new Promise(setImmediate);
    started[0].emit('error', new Error('out of memory'));
    await decoded;
    await decode(codec, COUNT);
    expect(started).toHaveLength(2);
  });
});

describe('a process', () => {
  /**
   * Of programs that run in `cwd`: `codec`, and `decode(count)`, true if all of that many clusters
   * are right.
   */
  const prelude = `
    import { deflateRawSync } from 'node:zlib';
    import { inlineCodec } from '../../hosts/node/inline-codec.ts';
    import { ThreadedCodec } from '../../hosts/threads/codec.ts';
    import { Threads } from '../../hosts/threads/threads.ts';
    let [begun, online] = [0, 0];
    process.on('worker', (worker) => { begun++; worker.once('online', () => online++); });
    const pool = new Threads(2);
    const codec = new ThreadedCodec(pool, inlineCodec());
    const stream = deflateRawSync(new Uint8Array(${CLUSTER}).fill(7));
    const decode = async (count) => (await Promise.all(Array.from({ length: count }, async () => {
      const into = new Uint8Array(${CLUSTER});
      await codec.inflate('zlib', stream, into);
      return into;
    }))).every((cluster) => cluster.every((byte) => byte === 7));
  `;
  const cwd = fileURLToPath(new URL('.', import.meta.url));

  async function run(program: string): Promise<string> {
    const loader = pathToFileURL(createRequire(import.meta.url).resolve('tsx')).href;
    const args = ['--import', loader, '--input-type=module', '--eval', prelude + program];
    return (await promisify(execFile)(process.execPath, args, { cwd, timeout: 30_000 })).stdout;
  }

  it('waits for the threads while they decode, and for nothing else', async () => {
    expect(
      await run(`while (online < 2) await decode(${COUNT}); console.log(await decode(${COUNT}));`),
    ).toBe('true\n');
  });

  it('decodes without threads where it may not start any', async () => {
    const folder = await mkdtemp(join(tmpdir(), 'millrace-threads-'));
    try {
      const outfile = join(folder, 'program.mjs');
      await build({
        stdin: {
          contents: `${prelude} console.log(await decode(${COUNT}), await decode(${COUNT}), begun);`,
          resolveDir: cwd,
        },
        outfile,
        bundle: true,
        platform: 'node',
        format: 'esm',
      });
      const flag = process.allowedNodeEnvironmentFlags.has('--permission')
        ? '--permission'
        : '--experimental-permission';
      const args = ['--no-warnings', flag, '--allow-fs-read=*', outfile];
      expect((await promisify(execFile)(process.execPath, args, { timeout: 30_000 })).stdout).toBe(
        'true true 0\n',
      );
    } finally {
      await rm(folder, { recursive: true });
    }
  });

  // Node aborts when a thread is ended while it makes a zlib stream, and of tiny streams the making
  // is most of the work: without the gate, one process in five that ended itself was lost here.
  it.each([
    ['its pool is closed', 'await pool.close(); await decoded;'],
    ['it ends itself', 'process.exit(0);'],
  ])('lives on when %s while threads decode', async (_, end) => {
    const program = `
      const tiny = deflateRawSync(new Uint8Array(512).fill(7));
      for (let round = 0; round < 5; round++) {
        while (online < 2 * (round + 1)) await decode(${COUNT});
        const decoded = Promise.all(Array.from({ length: 8192 }, () =>
          codec.inflate('zlib', tiny, new Uint8Array(512))));
        await new Promise((go) => setTimeout(go, 3 + Math.random() * 8));
        ${end}
      }`;
    for (let i = 0; i < (end.includes('exit') ? 10 : 1); i++) await run(program);
  });

  it('does not wait for threads that were started too late to decode anything', async () => {
    expect(await run('console.log(await decode(16), begun);')).toBe('true 2\n');
  });
});
