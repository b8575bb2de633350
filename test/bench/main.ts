/**
 * `npm run bench`: Millrace beside its peers on the same images in one run, as ratios. Arguments
 * name the cases to run (default: all of them). What is measured lies in the folder for temporary
 * files: with TMPDIR on a memory file system the disk is left out.
 */
import { mkdtemp, readFile, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { gzipSync } from 'node:zlib';
import { Argument } from 'commander';
import { fixturesFolder } from '../fixtures/real-base.ts';
import { startNginx } from '../support/nginx.ts';
import { createImage } from '../support/qemu.ts';
import { startSlowLinkProcess } from '../support/slow-link.ts';
import { tool } from '../support/tool.ts';
import { boots } from './boot.ts';
import { browserStreams } from './browser.ts';
import { consoleBoots } from './console.ts';
import { binariesCompressed, linkRaw, localRaw } from './data.ts';
import { denoStreams } from './deno.ts';
import { edgeFirstRead } from './edge.ts';
import { publishedImages } from './formats.ts';
import { guestLatency } from './guest.ts';
import { keptRows } from './kept.ts';
import { nbdBases, nbdRequests } from './nbd.ts';
import type { StreamFigures } from './ours.ts';
import { firstRead, peakMemory, timeStream } from './ours.ts';
import {
  bestInTurn,
  bestOf,
  timeBlockStream,
  timeConvert,
  timeCopyLoop,
  timeCurl,
  warm,
} from './peers.ts';
import type { BenchRow } from './table.ts';
import { formatTable } from './table.ts';

const RUNS = 5;
/** Over a link, whose time is the same each time but for what else the machine does. */
const LINK_RUNS = 2;
const MIB = 1024 * 1024;
const TIB = 1024 ** 4;

const LINKS = [
  { name: '20 ms, 1 Gbit/s', roundTripMs: 20, bitsPerSecond: 1e9 },
  { name: '100 ms, 200 Mbit/s', roundTripMs: 100, bitsPerSecond: 200e6 },
];

/** A local raw base of 2 GiB, over half of it data. */
async function local(): Promise<BenchRow[]> {
  const base = await localRaw();
  await warm(base);
  const raw = { location: base, format: 'raw' } as const;
  const [unsafe, job, convert, flushed, flushedJob, flushedConvert, loop] = await bestInTurn(RUNS, [
    async () => (await timeStream(base, 'unsafe')).seconds,
    async () => (await timeBlockStream(raw)).seconds,
    () => timeConvert(raw, 8),
    async () => (await timeStream(base)).seconds,
    async () => (await timeBlockStream(raw)).secondsWithClose,
    () => timeConvert(raw, 8, true),
    () => timeCopyLoop(base),
  ]);
  const [left, onDisk] = ['local raw, 2 GiB, left in the page cache', 'local raw, 2 GiB, flushed'];
  return [
    { case: left, ourSeconds: unsafe, peer: 'QEMU block-stream', peerSeconds: job, goalRatio: 4 },
    {
      case: left,
      ourSeconds: unsafe,
      peer: 'qemu-img convert -W -m 8',
      peerSeconds: convert,
      goalRatio: 0.8,
    },
    {
      case: onDisk,
      ourSeconds: flushed,
      peer: 'QEMU block-stream',
      peerSeconds: flushedJob,
      goalRatio: 4,
    },
    {
      case: onDisk,
      ourSeconds: flushed,
      peer: 'qemu-img convert -W -m 8',
      peerSeconds: flushedConvert,
      goalRatio: 0.8,
    },
    { case: onDisk, ourSeconds: flushed, peer: 'Node copy loop', peerSeconds: loop },
  ];
}

/** A raw base of 256 MiB over slow links. */
async function links(): Promise<BenchRow[]> {
  const rows: BenchRow[] = [];
  await linkRaw();
  for (const link of LINKS) {
    await overLink(link, async (url) => {
      const base = url('bench-1-link.raw');
      let ours: StreamFigures | undefined;
      const ourSeconds = await bestOf(
        LINK_RUNS,
        async () => (ours = await timeStream(base)).seconds,
      );
      const curl = await bestOf(LINK_RUNS, () => timeCurl(base));
      rows.push({
        case: `raw over ${link.name}, 256 MiB`,
        ourSeconds,
        peer: 'curl',
        peerSeconds: curl,
        goalRatio: 0.95,
      });
      rows.push({
        case: '  requests a MiB',
        value: ours!.requests / (ours!.bytes / MIB),
        unit: '',
        goalMax: 1,
      });
    });
  }
  return rows;
}

/** Compressed qcow2 bases, as cloud images are: over a slow link and local. */
async function compressed(): Promise<BenchRow[]> {
  const rows: BenchRow[] = [];
  for (const method of ['zlib', 'zstd'] as const) {
    const path = await binariesCompressed(method);
    await warm(path);
    const fileBytes = (await stat(path)).size;
    await overLink(LINKS[0], async (url) => {
      const base = url(`bench-1-binaries-${method}.qcow2`);
      let ours: StreamFigures | undefined;
      const ourSeconds = await bestOf(
        LINK_RUNS,
        async () => (ours = await timeStream(base)).seconds,
      );
      const curl = await bestOf(LINK_RUNS, () => timeCurl(base));
      rows.push({
        case: `${method} qcow2 over ${LINKS[0].name}`,
        ourSeconds,
        peer: 'curl',
        peerSeconds: curl,
        goalRatio: 0.8,
      });
      rows.push({
        case: '  bytes on the wire by bytes of the file',
        value: ours!.bytes / fileBytes,
        unit: '',
        goalMax: 1.03,
      });
      rows.push({
        case: '  requests a MiB',
        value: ours!.requests / (ours!.bytes / MIB),
        unit: '',
        goalMax: 1,
      });
      rows.push(...(await keptRows(`${method} qcow2 over ${LINKS[0].name}`, base, path)));
    });
    const [unsafe, convert, flushed, flushedConvert] = await bestInTurn(RUNS, [
      async () => (await timeStream(path, 'unsafe')).seconds,
      () => timeConvert({ location: path, format: 'qcow2' }, 8),
      async () => (await timeStream(path)).seconds,
      () => timeConvert({ location: path, format: 'qcow2' }, 8, true),
    ]);
    const peer = 'qemu-img convert -W -m 8';
    rows.push({
      case: `${method} qcow2, local, left in the page cache`,
      ourSeconds: unsafe,
      peer,
      peerSeconds: convert,
      goalRatio: 0.8,
    });
    rows.push({
      case: `${method} qcow2, local, flushed`,
      ourSeconds: flushed,
      peer,
      peerSeconds: flushedConvert,
      goalRatio: 0.8,
    });
  }
  return rows;
}

/** The first read of a disk of 1 TiB over HTTP, in requests and bytes. */
async function first(): Promise<BenchRow[]> {
  const dir = await mkdtemp(join(tmpdir(), 'millrace-bench-'));
  await createImage(join(dir, 'large.qcow2'), { size: TIB, with: { preallocation: 'off' } });
  const nginx = await startNginx({ root: dir });
  try {
    const read = await firstRead(`${nginx.url}/large.qcow2`);
    return [
      {
        case: 'first read of a 1 TiB qcow2 by HTTP',
        value: read.requests,
        unit: 'requests',
        goalMax: 4,
      },
      { case: '', value: read.bytes / 1024, unit: 'KiB', goalMax: 512 },
    ];
  } finally {
    await nginx.stop();
    await rm(dir, { recursive: true });
  }
}

/** Memory of the command line while it streams, and the size of the engine. */
async function size(): Promise<BenchRow[]> {
  const dir = await mkdtemp(join(tmpdir(), 'millrace-bench-'));
  try {
    const large = join(dir, 'large.qcow2');
    await createImage(large, { size: 16 * TIB });
    const wasm = gzipSync(
      await readFile(fileURLToPath(new URL('../../dist/engine.wasm', import.meta.url))),
      { level: 9 },
    );
    return [
      {
        case: 'peak memory of millrace stream: raw, 2 GiB',
        value: await peakMemory(await localRaw()),
        unit: 'MiB',
        goalMax: 160,
      },
      {
        case: '  zstd qcow2, 512 MiB',
        value: await peakMemory(await binariesCompressed('zstd')),
        unit: 'MiB',
        goalMax: 160,
      },
      { case: '  sparse qcow2, 16 TiB', value: await peakMemory(large), unit: 'MiB', goalMax: 160 },
      { case: 'engine.wasm, gzipped', value: wasm.length / 1024, unit: 'KiB', goalMax: 48 },
    ];
  } finally {
    await rm(dir, { recursive: true });
  }
}

/** Serves the fixtures by nginx behind a link of its own process. */
async function overLink(
  link: (typeof LINKS)[number],
  work: (url: (file: string) => string) => Promise<void>,
): Promise<void> {
  const nginx = await startNginx({ root: fixturesFolder() });
  const slow = await startSlowLinkProcess({
    ...link,
    target: { host: '127.0.0.1', port: nginx.port },
  });
  try {
    await work((file) => slow.url(`/${file}`));
  } finally {
    await slow.stop();
    await nginx.stop();
  }
}

/**
 * Random 4 KiB requests of a guest while the base streams over a link, beside the same without the
 * stream.
 */
async function guest(): Promise<BenchRow[]> {
  const rows: BenchRow[] = [];
  await linkRaw();
  await overLink(LINKS[0], async (url) => {
    const idle = await guestLatency(url('bench-1-link.raw'), false);
    const busy = await guestLatency(url('bench-1-link.raw'), true);
    rows.push({
      case: `guest 4 KiB requests over ${LINKS[0].name}: p99 with stream / without`,
      value: busy.p99Ms / idle.p99Ms,
      unit: '',
      goalMax: 2,
    });
    rows.push({ case: '  p50 with stream / without', value: busy.p50Ms / idle.p50Ms, unit: '' });
  });
  return rows;
}

const CASES: Record<string, () => Promise<BenchRow[]>> = {
  local,
  links,
  compressed,
  first,
  guest,
  deno: denoStreams,
  browser: browserStreams,
  edge: edgeFirstRead,
  console: consoleBoots,
  formats: () => publishedImages(LINKS[0].name, (work) => overLink(LINKS[0], work)),
  nbd: nbdRequests,
  'nbd-bases': nbdBases,
  boot: boots,
  size,
};

const names = Object.keys(CASES);
const asked = tool(
  'bench',
  'Does the same work with Millrace and with its peers, and prints the ratios.',
)
  .addArgument(new Argument('[case...]', 'which cases').choices(names).default(names, 'all'))
  .parse().processedArgs[0] as string[];
for (const name of asked) {
  console.error(`${name} …`);
  console.log(formatTable(await CASES[name]()));
}
