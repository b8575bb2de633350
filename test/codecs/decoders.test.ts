/**
 * What decodes containers in threads: the calling thread decodes nothing, blocks are decoded side
 * by side, no more is decoded than somebody takes, and whatever ends a thread is told or made good.
 */
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Worker } from 'node:worker_threads';
import { afterAll, afterEach, beforeAll, expect, it, vi } from 'vitest';
import type { Decompress } from '../../hosts/bases/containers/decompress.ts';
import { portableDecompressors } from '../../hosts/bases/containers/portable.ts';
import { compileXz } from '../../hosts/bases/containers/xz-decoder.ts';
import { decodeZstd } from '../../hosts/bases/containers/zstd.ts';
import { Undecodable } from '../../hosts/decoders/undecodable.ts';
import { compileZstd } from '../../hosts/decoders/zstd.ts';
import { ThreadedDecoders } from '../../hosts/threads/decoders.ts';
import type { FromThread } from '../../hosts/threads/messages.ts';
import { Threads } from '../../hosts/threads/threads.ts';
import { CONTAINER_PEERS, pack } from '../fixtures/containers.ts';
import { makeContent } from '../fixtures/content.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';

/** How many threads the system has yet to give. */
const system = vi.hoisted(() => ({ threads: Number.POSITIVE_INFINITY }));
vi.mock('../../hosts/threads/worker.ts', async (importOriginal) => {
  const real = await importOriginal<typeof import('../../hosts/threads/worker.ts')>();
  const startWorker: typeof real.startWorker = (setup) => {
    if (system.threads-- <= 0) throw new Error('the system has no more threads');
    return real.startWorker(setup);
  };
  return { ...real, startWorker };
});

const MIB = 1024 * 1024;
const SIZE = 3 * MIB;
const ZEROS = 64 * MIB;
const FORMATS = { xz: 'one.xz', bzip2: 'bz2', zstd: 'zst' } as const;
type Format = keyof typeof FORMATS;

/** Threads that were started, and what each has answered. */
const started: Worker[] = [];
const answers: FromThread[][] = [];
process.on('worker', (worker: Worker) => {
  const list: FromThread[] = [];
  worker.on('message', (message: FromThread) => list.push(message));
  worker.unref();
  started.push(worker);
  answers.push(list);
});

async function notHere(): Promise<Decompress> {
  throw new Error('the calling thread decodes');
}

async function* inPieces(bytes: Uint8Array, size = MIB): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

async function gathered(pieces: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const all: Uint8Array[] = [];
  for await (const piece of pieces) all.push(piece);
  return Buffer.concat(all);
}

/** Of each thread of this process (proc(5), stat, field 19). */
async function nicenesses(): Promise<number[]> {
  const threads = await readdir('/proc/self/task');
  const stats = threads.map((id) => readFile(`/proc/self/task/${id}/stat`, 'utf8'));
  return (await Promise.all(stats)).map((stat) => Number(stat.split(') ').at(-1)!.split(' ')[16]));
}

describeWithPeer(CONTAINER_PEERS, 'decoders in threads', () => {
  const content = makeContent('text', 1, SIZE);
  const packed: Partial<Record<Format, Uint8Array>> = {};
  let bomb: Uint8Array;
  const pools: Threads[] = [];

  beforeAll(async () => {
    const folder = await mkdtemp(join(tmpdir(), 'millrace-decoders-'));
    await writeFile(join(folder, 'disk'), content);
    await writeFile(join(folder, 'zeros'), new Uint8Array(ZEROS));
    for (const [format, container] of Object.entries(FORMATS))
      packed[format as Format] = new Uint8Array(
        await readFile(await pack(join(folder, 'disk'), container)),
      );
    bomb = await readFile(await pack(join(folder, 'zeros'), 'one.xz'));
    await rm(folder, { recursive: true });
  });
  const closePools = async () => {
    await Promise.all(pools.splice(0).map((pool) => pool.close()));
    started.length = answers.length = 0;
    system.threads = Number.POSITIVE_INFINITY;
  };
  afterEach(closePools);
  afterAll(closePools);

  /** A decoder of files; of zstd, its frames are decoded in a thread. */
  async function decoder(
    format: Format,
    { threads = 2, here = notHere }: { threads?: number; here?: () => Promise<Decompress> } = {},
  ): Promise<Decompress> {
    pools.push(new Threads(threads));
    const decoders = new ThreadedDecoders(pools.at(-1)!);
    const wasm = { xz: compileXz, zstd: compileZstd, bzip2: undefined }[format];
    const load = decoders.decompressor(format, here, wasm);
    if (format !== 'zstd') return load();
    const frames = await load();
    return (input) => decodeZstd(frames, input, 'disk');
  }

  const here = (format: Format): Promise<Decompress> => portableDecompressors[format]();

  it.each(Object.keys(FORMATS) as Format[])(
    'give what %s holds, however it comes',
    async (format) => {
      const decompress = await decoder(format);
      for (const size of [1000, 100_000, 10 * MIB])
        expect((await gathered(decompress(inPieces(packed[format]!, size)))).equals(content)).toBe(
          true,
        );
      expect(answers.flat().length).toBeGreaterThan(0);
    },
  );

  it('decode several at once, each in a thread of its own', async () => {
    const decompress = await decoder('xz');
    const all = await Promise.all(
      [0, 1, 2, 3].map(() => gathered(decompress(inPieces(packed.xz!)))),
    );
    for (const one of all) expect(one.equals(content)).toBe(true);
    expect(answers).toHaveLength(2);
    for (const list of answers) expect(list.length).toBeGreaterThan(1);
  });

  it.runIf(process.platform === 'linux')('stand back behind the event loop', async () => {
    const before = await nicenesses();
    const decompress = await decoder('xz');
    await gathered(decompress(inPieces(packed.xz!)));
    const after = await nicenesses();
    const added = (niceness: number): number =>
      after.filter((value) => value === niceness).length -
      before.filter((value) => value === niceness).length;
    expect(added(10)).toBe(1);
  });

  it('decode no more than is taken, and forget what nobody wants', async () => {
    const decompress = await decoder('xz');
    const pieces = decompress(inPieces(bomb))[Symbol.asyncIterator]();
    for (let i = 0; i < 3; i++) expect((await pieces.next()).value?.length).toBe(MIB);
    await new Promise((resolve) => setTimeout(resolve, 100));
    // One that is ahead, and is answered by now or not.
    expect(answers[0].length).toBeLessThanOrEqual(4);
    await pieces.return?.();
    expect(pools[0].list[0]).toMatchObject({ asked: 0, decodings: 0 });
    expect((await gathered(decompress(inPieces(packed.xz!)))).equals(content)).toBe(true);
    expect(answers).toHaveLength(1);
  });

  it.each(Object.keys(FORMATS) as Format[])(
    'tell what is damaged or cut off: %s',
    async (format) => {
      const decompress = await decoder(format);
      const damaged = packed[format]!.slice();
      const middle = damaged.length >> 1;
      damaged.fill(0x55, middle, middle + 64);
      for (const bytes of [damaged, packed[format]!.subarray(0, -100)])
        await expect(gathered(decompress(inPieces(bytes)))).rejects.toThrow();
    },
  );

  it('give what comes before damage', async () => {
    const decompress = await decoder('bzip2');
    const damaged = packed.bzip2!.slice();
    const middle = damaged.length >> 1;
    damaged.fill(0x55, middle, middle + 64);
    const got: Uint8Array[] = [];
    const reading = (async () => {
      for await (const piece of decompress(inPieces(damaged))) got.push(piece);
    })();
    await expect(reading).rejects.toThrow();
    const before = Buffer.concat(got);
    expect(before.length).toBeGreaterThan(SIZE / 4);
    expect(before.equals(content.subarray(0, before.length))).toBe(true);
  });

  it('tell what is no damage, but not supported', async () => {
    const decompress = await decoder('xz');
    const bytes = packed.xz!.slice();
    // The first filter of the block's header is none that there is; its check sum comes later.
    bytes[14] = 0x03;
    const error = await gathered(decompress(inPieces(bytes))).catch((error: unknown) => error);
    expect(error).toBeInstanceOf(Undecodable);
  });

  it('pass on what is wrong with the input itself', async () => {
    const decompress = await decoder('xz');
    const wrong = new Error('the line is cut');
    const input = (async function* () {
      yield packed.xz!.subarray(0, 200_000);
      throw wrong;
    })();
    await expect(gathered(decompress(input))).rejects.toBe(wrong);
    expect(pools[0].list[0]).toMatchObject({ asked: 0, decodings: 0 });
  });

  it('of no threads decode here', async () => {
    const decompress = await decoder('xz', { threads: 0, here: () => here('xz') });
    expect((await gathered(decompress(inPieces(packed.xz!)))).equals(content)).toBe(true);
    expect(started).toEqual([]);
  });

  it('go on in those there are where the system has no more', async () => {
    system.threads = 1;
    const decompress = await decoder('xz');
    const all = await Promise.all([0, 1, 2].map(() => gathered(decompress(inPieces(packed.xz!)))));
    for (const one of all) expect(one.equals(content)).toBe(true);
    expect(answers).toHaveLength(1);
    system.threads = 0;
    const alone = await decoder('xz', { here: () => here('xz') });
    expect((await gathered(alone(inPieces(packed.xz!)))).equals(content)).toBe(true);
    expect(started).toHaveLength(1);
  });

  it('decode here what a thread did not begin, and tell what it left in the midst', async () => {
    const decompress = await decoder('xz', { here: () => here('xz') });
    const lost = gathered(decompress(inPieces(packed.xz!)));
    // It is told of when this turn has ended.
    await new Promise(setImmediate);
    started[0].emit('error', new Error('out of memory'));
    expect((await lost).equals(content)).toBe(true);

    const next = await decoder('xz', { here: () => here('xz') });
    const pieces = next(inPieces(bomb))[Symbol.asyncIterator]();
    await pieces.next();
    started.at(-1)!.emit('error', new Error('out of memory'));
    const rest = (async () => {
      for (;;) if ((await pieces.next()).done) return;
    })();
    await expect(rest).rejects.toMatchObject({ code: 'EIO', message: /thread/ });
  });
});
