/**
 * One life of a disk on real files: made over a base, worked on by a guest while jobs run, are
 * throttled, paused and aborted, closed and opened again, streamed to its end, compared as a whole,
 * checked, and thrown away.
 */
import { rm } from 'node:fs/promises';
import type { CreateOptions, Disk } from '../../hosts/node/index.ts';
import { createDisk, JobStatus, openDisk } from '../../hosts/node/index.ts';
import type { Random } from '../fixtures/content.ts';
import { makeContent } from '../fixtures/content.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const SHAPES: Partial<CreateOptions>[] = [
  {},
  { clusterSize: 4 * KIB },
  { clusterSize: 2 * MIB },
  { extendedL2: true },
  { refcountBits: 1 },
  { copyOnRead: false },
];
const SPEEDS = [0, 8 * MIB, 64 * MIB];
const REOPENINGS_MAX = 3;
const ACTIONS_MAX = 120;
const RANGE_BYTES_MAX = 400 * KIB;
const READS_AT_ONCE = 8;
/** Guests write from here, at any place. */
const POOL = makeContent('random', 11, 4 * MIB);

export interface Counts {
  lives: number;
  requests: number;
  jobs: number;
  /** Bytes that reads were compared over. */
  compared: number;
}

export interface Base {
  /** Where disks find it. */
  location: string;
  /** A path that overlays may record. */
  record: string;
  format: 'raw' | 'qcow2';
}

/** `truth` shows what the base shows; it is worked on along with the disk. */
export async function live(
  overlay: string,
  base: Base,
  truth: Buffer,
  random: Random,
  counts: Counts,
): Promise<void> {
  const shape = SHAPES[random.between(0, SHAPES.length - 1)];
  const { location, record, format } = base;
  let disk = await createDisk({
    overlay,
    base: location,
    baseFormat: format,
    recordBase: record,
    ...shape,
  });
  for (let openings = random.between(1, REOPENINGS_MAX); openings > 0; openings--) {
    await work(disk, truth, random, counts);
    await disk.close();
    // The base is let go by the job that completes.
    disk = await openDisk({ overlay }).then(async (alone) => {
      const needsBase = (await alone.images()).length > 1;
      await alone.close();
      return openDisk(needsBase ? { overlay, base: location, baseFormat: format } : { overlay });
    });
  }
  counts.jobs++;
  const { status, remaining } = await disk.stream();
  if (status !== JobStatus.COMPLETED || remaining)
    throw new Error(`a stream ends with status ${status} and ${remaining} bytes left`);
  for (let at = 0; at < disk.size; at += MIB)
    await expectRead(disk, truth, at, Math.min(MIB, disk.size - at), counts);
  const { corruptions, leaks } = await disk.check();
  if (corruptions || leaks)
    throw new Error(`a check finds ${corruptions} corruptions and ${leaks} leaks`);
  await disk.close();
  await rm(overlay);
  counts.lives++;
}

async function work(disk: Disk, truth: Buffer, random: Random, counts: Counts): Promise<void> {
  const aborter = new AbortController();
  const job = disk
    .stream({
      signal: aborter.signal,
      speed: SPEEDS[random.between(0, SPEEDS.length - 1)],
      keepBase: random.between(0, 3) === 0,
    })
    .catch((error: unknown) => error);
  counts.jobs++;
  for (let actions = random.between(1, ACTIONS_MAX); actions > 0; actions--) {
    counts.requests++;
    await act(disk, truth, random, counts);
  }
  if (random.next() & 1) aborter.abort();
  else
    await disk
      .setSpeed(0)
      .then(() => disk.resume())
      .catch(() => {});
  const ended = await job;
  if (ended instanceof Error && (await disk.info()).reason !== 'aborted') throw ended;
}

async function act(disk: Disk, truth: Buffer, random: Random, counts: Counts): Promise<void> {
  const offset = random.between(0, disk.size - 1);
  const length = random.between(1, Math.min(disk.size - offset, RANGE_BYTES_MAX));
  const kind = random.between(0, 15);
  if (kind < 5) return expectRead(disk, truth, offset, length, counts);
  if (kind < 10) {
    const from = random.between(0, POOL.length - length);
    const data = POOL.subarray(from, from + length);
    truth.set(data, offset);
    return disk.write(offset, data);
  }
  if (kind === 10) {
    await Promise.all(
      Array.from({ length: READS_AT_ONCE }, (_, i) =>
        expectRead(disk, truth, Math.floor((offset * (i + 1)) / READS_AT_ONCE), length, counts),
      ),
    );
  } else if (kind === 11) {
    truth.fill(0, offset, offset + length);
    await disk.writeZeroes(offset, length);
  } else if (kind === 12) {
    truth.fill(0, offset, offset + length);
    await disk.discard(offset, length);
    // What a discard leaves of clusters that it covers in part is the disk's own affair: zeros make
    // it known.
    await disk.writeZeroes(offset, length);
  } else if (kind === 13) await disk.flush();
  else if (kind === 14)
    for await (const extent of disk.map())
      if (extent.length === 0) throw new Error('an extent is empty');
  if (kind === 15) await operate(disk, random);
}

/** The operator's part: the job, if there is one. */
async function operate(disk: Disk, random: Random): Promise<void> {
  const acts = [
    () => disk.pause(),
    () => disk.resume(),
    () => disk.setSpeed(SPEEDS[random.between(0, SPEEDS.length - 1)]),
    () => disk.remaining(),
  ];
  await acts[random.between(0, acts.length - 1)]().catch((error: unknown) => {
    if ((error as { code?: string }).code !== 'ENOENT') throw error;
  });
}

async function expectRead(
  disk: Disk,
  truth: Buffer,
  offset: number,
  length: number,
  counts: Counts,
): Promise<void> {
  const found = await disk.read(offset, length);
  counts.compared += length;
  if (truth.compare(found, 0, length, offset, offset + length) !== 0)
    throw new Error(`a read of ${length} bytes at ${offset} shows what is not there`);
}
