/**
 * `npm run soak`: disks live one life after another, several at once in this process, on real files
 * over a real HTTP server. What memory and files the process holds at its lowest must be the same
 * late as early.
 */
import { mkdtemp, readdir, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Random } from '../fixtures/content.ts';
import { makeRegions, writeRaw } from '../fixtures/layout.ts';
import { startNginx } from '../support/nginx.ts';
import { convertImage } from '../support/qemu.ts';
import { minutes as inMinutes, tool, whole } from '../support/tool.ts';
import type { Base, Counts } from './life.ts';
import { live } from './life.ts';

const MIB = 1 << 20;
const MINUTES_DEFAULT = 60;
const BASE_BYTES = 48 * MIB;
const SAMPLE_MS = 5_000;
/** What grows by less than this does not grow: garbage, fragments of freed memory. */
const RSS_SLACK_BYTES = 32 * MIB;
const HEAP_SLACK_BYTES = 4 * MIB;
const FILES_SLACK = 4;
/**
 * The first part of the run warms up; the lowest of the next is held against the lowest of the
 * last.
 */
const PARTS = 5;

interface Sample {
  rss: number;
  heap: number;
  files: number;
}

const { minutes, seed = Date.now() % 1_000_000_000 } = tool(
  'soak',
  'Lets disks live one life after another, and holds what memory and files the process has late against what it had early.',
)
  .option('--minutes <m>', 'for so long', inMinutes, MINUTES_DEFAULT)
  .option('--seed <n>', 'what decides their lives (default: a fresh one)', whole)
  .parse()
  .opts<{ minutes: number; seed?: number }>();
const dir = await mkdtemp(join(tmpdir(), 'millrace-soak-'));
const nginx = await startNginx({ root: dir });
const counts: Counts = { lives: 0, requests: 0, jobs: 0, compared: 0 };
const samples: Sample[] = [];
const timer = setInterval(() => void sample(), SAMPLE_MS);
try {
  const end = performance.now() + minutes * 60_000;
  const bases = await makeBases();
  const content = await readFile(join(dir, 'base.raw'));
  console.log(`soaks from seed ${seed} for ${minutes} minutes`);
  await Promise.all(bases.map((base, index) => lane(index, base, content, end)));
} finally {
  clearInterval(timer);
  await nginx.stop();
  await rm(dir, { recursive: true });
}
judge();

/** The same content three ways. */
async function makeBases(): Promise<Base[]> {
  const [raw, compressed] = [join(dir, 'base.raw'), join(dir, 'base.qcow2')];
  await writeRaw(raw, BASE_BYTES, makeRegions(BASE_BYTES, 65536, 3));
  await convertImage(raw, compressed, { from: 'raw', compress: true });
  return [
    { location: `${nginx.url}/base.raw`, record: raw, format: 'raw' },
    { location: `${nginx.url}/base.qcow2`, record: compressed, format: 'qcow2' },
    { location: raw, record: raw, format: 'raw' },
  ];
}

async function lane(index: number, base: Base, content: Buffer, end: number): Promise<void> {
  const random = new Random(seed + index);
  const truth = Buffer.alloc(content.length);
  while (performance.now() < end) {
    content.copy(truth);
    await live(join(dir, `overlay-${index}.qcow2`), base, truth, random, counts);
  }
}

async function sample(): Promise<void> {
  globalThis.gc!();
  const { rss, heapUsed, arrayBuffers } = process.memoryUsage();
  samples.push({
    rss,
    heap: heapUsed + arrayBuffers,
    files: (await readdir('/proc/self/fd')).length,
  });
  if (samples.length % 12 === 0)
    console.error(
      `${Math.round(rss / MIB)} MiB, ${counts.lives} lives, ${counts.requests} requests`,
    );
}

function judge(): void {
  const part = Math.floor(samples.length / PARTS);
  if (part < 2) return console.log({ ...counts, verdict: 'too short to tell of memory' });
  const [early, late] = [lowest(samples.slice(part, 2 * part)), lowest(samples.slice(-part))];
  const peak = Math.max(...samples.map(({ rss }) => rss));
  const mib = (bytes: number): number => Math.round(bytes / MIB);
  console.log({
    ...counts,
    compared: `${mib(counts.compared)} MiB`,
    peak: `${mib(peak)} MiB`,
    rss: `${mib(early.rss)} to ${mib(late.rss)} MiB`,
    heap: `${mib(early.heap)} to ${mib(late.heap)} MiB`,
    files: `${early.files} to ${late.files}`,
  });
  const grows =
    late.rss > early.rss + RSS_SLACK_BYTES ||
    late.heap > early.heap + HEAP_SLACK_BYTES ||
    late.files > early.files + FILES_SLACK;
  if (!grows) return;
  console.log('memory or files have grown');
  process.exitCode = 1;
}

function lowest(list: readonly Sample[]): Sample {
  const least = (name: keyof Sample): number => Math.min(...list.map((one) => one[name]));
  return { rss: least('rss'), heap: least('heap'), files: least('files') };
}
