/**
 * The peers' side of the benchmarks: how long others take for the same work on the same images.
 * Each function does the work once, in a folder of its own that it removes, and gives seconds of
 * wall time. None of them syncs its result to the disk unless it says so.
 */

import type { FileHandle } from 'node:fs/promises';
import { mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import type { QemuFormat } from '../support/qemu.ts';
import { convertImage, createImage } from '../support/qemu.ts';
import { run } from '../support/run.ts';
import type { BlockStreamResult } from '../support/storage-daemon.ts';
import { blockStreamJob } from '../support/storage-daemon.ts';
import type { Runs } from './table.ts';

/** What is streamed: a path or URL, and its format. */
export interface BenchBase {
  location: string;
  format: QemuFormat;
}

const MIB = 1024 * 1024;

/**
 * QEMU's block-stream job, on a fresh overlay with clusters of 64 KiB. `secondsWithClose` has the
 * flush to disk in it.
 */
export function timeBlockStream(base: BenchBase): Promise<BlockStreamResult> {
  return inScratchFolder(async (dir) => {
    const overlay = join(dir, 'overlay.qcow2');
    await createImage(overlay, { base: base.location, baseFormat: base.format });
    return blockStreamJob({ overlay });
  });
}

/**
 * Parallel requests of QEMU 7.2's HTTP driver sometimes wait for each other for ever: a run that
 * takes so long is begun again.
 */
const CONVERT_MS_MAX = 90_000;
const CONVERT_TRIES = 4;

/**
 * `qemu-img convert -W -m <coroutines>` into a qcow2, which it leaves to the page cache unless it
 * is to flush.
 * @throws when it hung each time.
 */
export function timeConvert(base: BenchBase, coroutines: number, flush = false): Promise<number> {
  const options = {
    from: base.format,
    to: 'qcow2',
    coroutines,
    flush,
    msMax: CONVERT_MS_MAX,
  } as const;
  return inScratchFolder(async (dir) => {
    for (let tries = 1; ; tries++) {
      try {
        return await seconds(() =>
          convertImage(base.location, join(dir, 'converted.qcow2'), options),
        );
      } catch (error) {
        if (tries === CONVERT_TRIES) throw error;
        console.warn(`begun again: ${(error as Error).message}`);
      }
    }
  });
}

/** `curl`, the bytes dropped: what the link and the server give. */
export async function timeCurl(url: string): Promise<number> {
  return seconds(() =>
    run('curl', ['--silent', '--show-error', '--fail', '--output', '/dev/null', url]),
  );
}

/** `curl` into a file, left to the page cache unless it is to be flushed. */
export function timeCurlToFile(url: string, flush = false): Promise<number> {
  return inScratchFolder((dir) =>
    seconds(async () => {
      const file = join(dir, 'fetched');
      await run('curl', ['--silent', '--show-error', '--fail', '--output', file, url]);
      if (flush) await run('sync', ['--data', file]);
    }),
  );
}

/** How the plain copy loop works: so many copies in flight, each of so many bytes. */
const COPY_LANES = 8;
const COPY_BYTES = 2 * MIB;
/** Zeros are left out by this much, the cluster size of the others. */
const ZERO_BYTES = 64 * 1024;

/**
 * The plain copy loop of Node: reads and writes of a file in flight side by side, zeros left out,
 * no image format; flushed at its end.
 */
export function timeCopyLoop(path: string): Promise<number> {
  return inScratchFolder((dir) =>
    seconds(async () => {
      const source = await open(path);
      const target = await open(join(dir, 'copy'), 'w');
      try {
        const { size } = await source.stat();
        await target.truncate(size);
        let next = 0;
        const lane = async (): Promise<void> => {
          const buffer = Buffer.allocUnsafe(COPY_BYTES);
          while (next < size) {
            const offset = next;
            next += COPY_BYTES;
            const { bytesRead } = await source.read(buffer, 0, COPY_BYTES, offset);
            await writeData(target, buffer.subarray(0, bytesRead), offset);
          }
        };
        await Promise.all(Array.from({ length: COPY_LANES }, lane));
        await target.datasync();
      } finally {
        await source.close();
        await target.close();
      }
    }),
  );
}

const ZEROS = Buffer.alloc(ZERO_BYTES);

/** Writes the parts of `bytes` that are not zeros, neighbours together. */
async function writeData(target: FileHandle, bytes: Buffer, offset: number): Promise<void> {
  let dataAt = 0;
  for (let at = 0; at < bytes.length; at += ZERO_BYTES) {
    const part = bytes.subarray(at, at + ZERO_BYTES);
    if (ZEROS.compare(part, 0, part.length, 0, part.length) !== 0) continue;
    if (at > dataAt) await target.write(bytes, dataAt, at - dataAt, offset + dataAt);
    dataAt = at + part.length;
  }
  if (bytes.length > dataAt)
    await target.write(bytes, dataAt, bytes.length - dataAt, offset + dataAt);
}

/** Seconds that `work` takes. */
export async function seconds(work: () => Promise<unknown>): Promise<number> {
  const startMs = performance.now();
  await work();
  return (performance.now() - startMs) / 1000;
}

/** Times a work so often. What earlier runs left unwritten is written first. */
export async function runsOf(count: number, time: () => Promise<number>): Promise<Runs> {
  return (await runsInTurn(count, [time]))[0];
}

/**
 * The same of several works that take turns: a virtual machine's memory and disk are not as quick
 * at one time as at another.
 */
export async function runsInTurn(count: number, times: (() => Promise<number>)[]): Promise<Runs[]> {
  const runs = times.map((): number[] => []);
  for (let turn = 0; turn < count; turn++) {
    for (const [index, time] of times.entries()) {
      await run('sync', []);
      runs[index].push(await time());
    }
  }
  return runs;
}

/** Reads a file once, so that it is in the page cache for everyone. */
export async function warm(path: string): Promise<void> {
  const file = await open(path);
  try {
    const buffer = Buffer.allocUnsafe(COPY_BYTES);
    for (let at = 0; ; ) {
      const { bytesRead } = await file.read(buffer, 0, COPY_BYTES, at);
      if (bytesRead === 0) return;
      at += bytesRead;
    }
  } finally {
    await file.close();
  }
}

async function inScratchFolder<T>(work: (dir: string) => Promise<T>): Promise<T> {
  const dir = await mkdtemp(join(tmpdir(), 'millrace-bench-'));
  try {
    return await work(dir);
  } finally {
    await rm(dir, { recursive: true });
  }
}
