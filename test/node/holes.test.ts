/**
 * Holes of raw files: what is told of them is what QEMU sees, no job reads them, and a source that
 * tells nonsense, or nothing, is read.
 */
import { mkdtemp, open, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { BlockSource } from '../../hosts/api/block.ts';
import type { Clock } from '../../hosts/api/clock.ts';
import { systemClock } from '../../hosts/api/clock.ts';
import { mapHoles } from '../../hosts/disk/driver/holes.ts';
import { openFileSource } from '../../hosts/node/file.ts';
import { createDisk, openDisk } from '../../hosts/node/index.ts';
import { makeContent } from '../fixtures/content.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { check, compare, map } from '../support/qemu.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const TIB = 1024 ** 4;
const BLOCK = 4096;

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'millrace-holes-'));
});
afterAll(() => rm(folder, { recursive: true }));

type Run = [offset: number, length: number];

/** A sparse file with data, or zeros that were written, in these runs. */
async function sparse(
  name: string,
  size: number,
  runs: Run[],
  kind: 'random' | 'zeros' = 'random',
): Promise<string> {
  const path = join(folder, name);
  const file = await open(path, 'w');
  await file.truncate(size);
  for (const [offset, length] of runs)
    await file.write(
      kind === 'zeros' ? new Uint8Array(length) : makeContent('random', offset + 1, length),
      0,
      length,
      offset,
    );
  await file.close();
  return path;
}

/**
 * Runs at both sides of, and over, the borders of what is asked for at once (2 GiB), and at the
 * ends of a disk that ends in the middle of a block.
 */
const SIZE = 3 * TIB + 5 * KIB;
const RUNS: Run[] = [
  [0, BLOCK],
  [MIB, 3 * MIB + 12 * KIB],
  [2048 * MIB - 64 * KIB, 128 * KIB],
  [4096 * MIB, BLOCK],
  [TIB - 64 * KIB, 64 * KIB],
  [2 * TIB + 100 * KIB, MIB],
  [SIZE - 5 * KIB, 5 * KIB],
];

describeWithPeer(['koffi'], 'holes of a local file', () => {
  it('are where lseek has them, and are told no more once it is closed', async () => {
    const path = await sparse('lseek.raw', 8 * MIB, [
      [MIB, 8 * KIB],
      [6 * MIB, MIB],
    ]);
    const source = await openFileSource(path);
    const next = source.nextData!;
    expect([0, MIB, MIB + 5000, MIB + 8 * KIB, 7 * MIB].map((offset) => next(offset))).toEqual([
      { start: MIB, end: MIB + 8 * KIB },
      { start: MIB, end: MIB + 8 * KIB },
      { start: MIB + 5000, end: MIB + 8 * KIB },
      { start: 6 * MIB, end: 7 * MIB },
      undefined,
    ]);
    await source.close();
    expect(next(0)).toEqual({ start: 0, end: 8 * MIB });
  });

  it('are not looked for in a file that takes as much as it is long', async () => {
    const source = await openFileSource(await sparse('whole.raw', MIB, [[0, MIB]]));
    expect(source.nextData).toBeUndefined();
    await source.close();
  });

  it('are read over where they are short, in a job, and told in a map all the same', async () => {
    const runs: Run[] = Array.from({ length: 64 }, (_, i) => [i * 3 * BLOCK, BLOCK]);
    const file = await openFileSource(
      await sparse('pieces.raw', 8 * MIB, [...runs, [4 * MIB, BLOCK]]),
    );
    const reads: Run[] = [];
    const base: BlockSource = {
      name: 'pieces.raw',
      size: file.size,
      nextData: file.nextData,
      close: () => file.close(),
      read(offset, into, hint) {
        reads.push([offset, into.length]);
        return file.read(offset, into, hint);
      },
    };
    const disk = await createDisk({
      overlay: join(folder, 'pieces.qcow2'),
      base,
      baseFormat: 'raw',
      unpack: false,
    });
    let extents = 0;
    for await (const { depth, state } of disk.map()) if (depth === 1 && state === 'data') extents++;
    expect(extents).toBe(65);
    await disk.stream();
    expect(reads).toEqual([
      [0, 190 * BLOCK],
      [4 * MIB, BLOCK],
    ]);
    await disk.close();
  });

  describeWithPeer(['qemu-img'], 'as QEMU sees them', () => {
    it.each([
      ['data and holes', SIZE, RUNS, 'random'],
      ['nothing but a hole', 5 * MIB + 512, [], 'random'],
      ['zeros that take space', 4 * MIB, [[MIB, 64 * KIB]], 'zeros'],
    ] as const)('in a map of %s', async (title, size, runs, kind) => {
      const path = await sparse(`${title}.raw`, size, runs as unknown as Run[], kind);
      const disk = await openDisk({ overlay: path, format: 'raw', readOnly: true });
      const extents = [];
      for await (const { offset, length, state } of disk.map())
        extents.push([offset, offset + length, state === 'data']);
      await disk.close();
      // QEMU counts in sectors, and what its sector has past the end of the file as a row of its
      // own.
      const theirs = (await map(path, { format: 'raw' })).filter(({ start }) => start < size);
      expect(extents).toEqual(
        theirs.map(({ start, length, data }) => [start, Math.min(size, start + length), data]),
      );
    });

    it('in a job, which does not read them', async () => {
      const path = await sparse('base.raw', SIZE, RUNS);
      const reads: Run[] = [];
      const file = await openFileSource(path);
      const base: BlockSource = {
        name: 'base.raw',
        size: file.size,
        nextData: file.nextData,
        close: () => file.close(),
        read(offset, into, hint) {
          reads.push([offset, into.length]);
          return file.read(offset, into, hint);
        },
      };
      const overlay = join(folder, 'job.qcow2');
      const disk = await createDisk({ overlay, base, baseFormat: 'raw', unpack: false });
      expect(await disk.stream()).toMatchObject({ status: 0, remaining: 0 });
      await disk.close();
      const data = RUNS.reduce((sum, [, length]) => sum + length, 0);
      expect(reads.reduce((sum, [, length]) => sum + length, 0)).toBe(data);
      for (const [offset, length] of reads)
        expect(
          RUNS.some(([start, bytes]) => offset >= start && offset + length <= start + bytes),
          `read at ${offset}`,
        ).toBe(true);
      await compare(path, overlay, { formatA: 'raw' });
      expect(await check(overlay)).toMatchObject({ exitCode: 0 });
      expect((await stat(overlay)).size).toBeLessThan(16 * MIB);
    });
  });
});

describe('the map of a source', () => {
  const told = (size: number, nextData: BlockSource['nextData']): BlockSource => ({
    size,
    nextData,
    read() {},
    close() {},
  });
  /** The blocks that are set in a map of so many bytes. */
  const blocks = async (
    source: BlockSource,
    bytes: number,
    offset = 0,
    clock: Clock = systemClock,
  ): Promise<number[]> => {
    const map = new Uint8Array(bytes).fill(0x55);
    await mapHoles(source, offset, map, clock);
    return Array.from({ length: bytes * 8 }, (_, bit) => bit).filter(
      (bit) => map[bit >> 3] & (1 << (bit & 7)),
    );
  };
  const upTo = (count: number, from = 0): number[] =>
    Array.from({ length: count - from }, (_, i) => from + i);
  const ofRuns = (runs: Run[]) => (offset: number) => {
    const run = runs.find(([start, length]) => start + length > offset);
    return run && { start: Math.max(offset, run[0]), end: run[0] + run[1] };
  };

  it('has every block that data touches', async () => {
    const runs: Run[] = [
      [100, 10],
      [3 * BLOCK - 1, 2],
      [9 * BLOCK, 11 * BLOCK],
      [31 * BLOCK, 1],
    ];
    expect(await blocks(told(64 * BLOCK, ofRuns(runs)), 4)).toEqual([0, 2, 3, ...upTo(20, 9), 31]);
    expect(await blocks(told(64 * BLOCK, ofRuns(runs)), 2, 8 * BLOCK)).toEqual(upTo(12, 1));
  });

  it('counts all as data from where a source does not get on', async () => {
    expect(
      await blocks(
        told(64 * BLOCK, (offset) => ({ start: offset, end: NaN })),
        8,
      ),
    ).toEqual(upTo(64));
    expect(
      await blocks(
        told(64 * BLOCK, () => ({ start: BLOCK, end: 2 * BLOCK })),
        8,
      ),
    ).toEqual(upTo(64, 1));
  });

  it('asks only so often', async () => {
    let asked = 0;
    const source = told(2 ** 40, (offset) => {
      asked++;
      const start = offset % (2 * BLOCK) ? offset + BLOCK : offset;
      return { start, end: start + BLOCK };
    });
    const found = await blocks(source, 65536);
    expect(asked).toBe(4097);
    expect(found.slice(4094, 4098)).toEqual([8188, 8190, 8191, 8192]);
    expect(found.at(-1)).toBe(65536 * 8 - 1);
  });

  it('gives others a turn when it takes long', async () => {
    let time = 0;
    const turns: number[] = [];
    let asked = 0;
    const clock: Clock = {
      now: () => time,
      after: (_, callback) => {
        turns.push(asked);
        queueMicrotask(callback);
        return () => {};
      },
    };
    const slow = told(64 * BLOCK, (offset) => {
      time += 2;
      asked++;
      const start = Math.ceil(offset / (8 * BLOCK)) * 8 * BLOCK;
      return { start, end: start + BLOCK };
    });
    expect(await blocks(slow, 8, 0, clock)).toEqual([0, 8, 16, 24, 32, 40, 48, 56]);
    expect(turns).toEqual([3, 6]);
  });

  it('is data where the source throws', async () => {
    const content = makeContent('random', 3, 256 * KIB);
    const base: BlockSource = {
      name: 'base.raw',
      size: content.length,
      close() {},
      nextData() {
        throw new Error('unplugged');
      },
      read(offset, into) {
        into.set(content.subarray(offset, offset + into.length));
      },
    };
    const disk = await createDisk({
      overlay: join(folder, 'throws.qcow2'),
      base,
      baseFormat: 'raw',
    });
    expect(await disk.stream()).toMatchObject({ status: 0 });
    expect(Buffer.compare(await disk.read(0, content.length), content)).toBe(0);
    await disk.close();
  });
});
