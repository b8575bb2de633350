/**
 * Compressed bases whose clusters are kept as they are, beside what only fetches the file: curl for
 * the time, a plain download loop for the processor's, and the base itself for the overlay's size.
 */
import { createWriteStream } from 'node:fs';
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import type { ReadableStream } from 'node:stream/web';
import { library } from './ours.ts';
import { runsInTurn, seconds, timeCurlToFile } from './peers.ts';
import type { BenchRow } from './table.ts';

const RUNS = 3;

interface Figures {
  seconds: number;
  /** Of the processor, in all threads of this process. */
  cpuSeconds: number;
  /** What the result takes of the base's bytes. */
  share: number;
}

/** Rows for a base at a URL, which is also the file at `path`. */
export async function keptRows(name: string, url: string, path: string): Promise<BenchRow[]> {
  const fileBytes = (await stat(path)).size;
  const least = { seconds: Infinity, cpuSeconds: Infinity, share: 0 };
  const loop = { cpuSeconds: Infinity };
  const [ours, curl] = await runsInTurn(RUNS, [
    async () => {
      const figures = await keep(url, fileBytes);
      least.cpuSeconds = Math.min(least.cpuSeconds, figures.cpuSeconds);
      least.share = Math.max(least.share, figures.share);
      return figures.seconds;
    },
    () => timeCurlToFile(url),
    async () => {
      const cpuSeconds = await download(url);
      loop.cpuSeconds = Math.min(loop.cpuSeconds, cpuSeconds);
      return cpuSeconds;
    },
  ]);
  return [
    {
      case: `${name}, clusters kept compressed`,
      ours: ours,
      peer: 'curl',
      theirs: curl,
      goalRatio: 0.97,
    },
    {
      case: '  CPU by that of a plain download loop',
      value: least.cpuSeconds / loop.cpuSeconds,
      unit: '',
      goalMax: 1.3,
    },
    {
      case: "  bytes of the overlay by the base's",
      value: least.share,
      unit: '',
      goalMax: 1.03,
    },
  ];
}

async function keep(base: string, fileBytes: number): Promise<Figures> {
  const { createDisk } = await library();
  return inScratchFolder(async (dir) => {
    const overlay = join(dir, 'overlay.qcow2');
    const before = process.cpuUsage();
    const took = await seconds(async () => {
      const disk = await createDisk({ overlay, base, cache: 'unsafe' });
      await disk.stream({ compressed: 'keep' });
      await disk.close();
    });
    return {
      seconds: took,
      cpuSeconds: cpuSince(before),
      share: (await stat(overlay)).size / fileBytes,
    };
  });
}

/** Fetches a URL into a file as anybody would, and gives seconds of the processor. */
async function download(url: string): Promise<number> {
  return inScratchFolder(async (dir) => {
    const before = process.cpuUsage();
    const { body } = await fetch(url);
    await pipeline(
      Readable.fromWeb(body as ReadableStream),
      createWriteStream(join(dir, 'fetched')),
    );
    return cpuSince(before);
  });
}

function cpuSince(before: NodeJS.CpuUsage): number {
  const { user, system } = process.cpuUsage(before);
  return (user + system) / 1e6;
}

async function inScratchFolder<T>(work: (dir: string) => Promise<T>): Promise<T> {
  const dir = await mkdtemp(join(tmpdir(), 'millrace-bench-'));
  try {
    return await work(dir);
  } finally {
    await rm(dir, { recursive: true });
  }
}
