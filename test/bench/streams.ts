/** Whole bases streamed, beside the peers that do the same work: local, and over lines. */
import { stat } from 'node:fs/promises';
import { binariesCompressed, linkRaw, localRaw } from './data.ts';
import { keptRows } from './kept.ts';
import { overLine, QUICK, SLOW } from './lines.ts';
import type { StreamFigures } from './ours.ts';
import { timeCommand, timeStream } from './ours.ts';
import {
  runsInTurn,
  runsOf,
  timeBlockStream,
  timeConvert,
  timeCopyLoop,
  timeCurl,
  timeCurlToFile,
  warm,
} from './peers.ts';
import type { BenchRow } from './table.ts';

const RUNS = 5;
/** Over a line, whose time is the same each time but for what else the machine does. */
const LINE_RUNS = 2;
const MIB = 1024 * 1024;

/** A local raw base of 2 GiB, over half of it data. */
export async function local(): Promise<BenchRow[]> {
  const base = await localRaw();
  await warm(base);
  const raw = { location: base, format: 'raw' } as const;
  const [unsafe, job, convert, flushed, flushedJob, flushedConvert, loop] = await runsInTurn(RUNS, [
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
    { case: left, ours: unsafe, peer: 'QEMU block-stream', theirs: job, goalRatio: 4 },
    {
      case: left,
      ours: unsafe,
      peer: 'qemu-img convert -W -m 8',
      theirs: convert,
      goalRatio: 1.1,
    },
    {
      case: onDisk,
      ours: flushed,
      peer: 'QEMU block-stream',
      theirs: flushedJob,
      goalRatio: 4,
    },
    {
      case: onDisk,
      ours: flushed,
      peer: 'qemu-img convert -W -m 8',
      theirs: flushedConvert,
      goalRatio: 0.8,
    },
    { case: onDisk, ours: flushed, peer: 'Node copy loop', theirs: loop },
  ];
}

/** A raw base of 256 MiB over slow links. */
export async function links(): Promise<BenchRow[]> {
  const rows: BenchRow[] = [];
  await linkRaw();
  for (const line of [QUICK, SLOW]) {
    await overLine(line, async (url) => {
      const base = url('bench-1-link.raw');
      let figures: StreamFigures | undefined;
      const ours = await runsOf(LINE_RUNS, async () => (figures = await timeStream(base)).seconds);
      const curl = await runsOf(LINE_RUNS, () => timeCurl(base));
      rows.push({
        case: `raw over ${line.name}, 256 MiB`,
        ours,
        peer: 'curl',
        theirs: curl,
        goalRatio: 0.95,
      });
      rows.push({
        case: '  requests a MiB',
        value: figures!.requests / (figures!.bytes / MIB),
        unit: '',
        goalMax: 1,
      });
      if (line === QUICK) rows.push(await asUserRow(`raw over ${line.name}, 256 MiB`, base, 0.95));
    });
  }
  return rows;
}

/** The command as a user runs it, from the process's start to the flush at its end. */
async function asUserRow(name: string, base: string, goalRatio: number): Promise<BenchRow> {
  const [ours, curl] = await runsInTurn(LINE_RUNS, [
    () => timeCommand(base),
    () => timeCurlToFile(base, true),
  ]);
  return {
    case: `${name}, as a user runs it`,
    ours,
    peer: 'curl into a file, flushed',
    theirs: curl,
    goalRatio,
  };
}

/** Compressed qcow2 bases, as cloud images are: over a slow link and local. */
export async function compressed(): Promise<BenchRow[]> {
  const rows: BenchRow[] = [];
  for (const method of ['zlib', 'zstd'] as const) {
    const path = await binariesCompressed(method);
    await warm(path);
    const fileBytes = (await stat(path)).size;
    await overLine(QUICK, async (url) => {
      const base = url(`bench-1-binaries-${method}.qcow2`);
      let figures: StreamFigures | undefined;
      const ours = await runsOf(LINE_RUNS, async () => (figures = await timeStream(base)).seconds);
      const curl = await runsOf(LINE_RUNS, () => timeCurl(base));
      rows.push({
        case: `${method} qcow2 over ${QUICK.name}`,
        ours,
        peer: 'curl',
        theirs: curl,
        goalRatio: 0.85,
      });
      rows.push({
        case: '  bytes on the wire by bytes of the file',
        value: figures!.bytes / fileBytes,
        unit: '',
        goalMax: 1.03,
      });
      rows.push({
        case: '  requests a MiB',
        value: figures!.requests / (figures!.bytes / MIB),
        unit: '',
        goalMax: 1,
      });
      rows.push(await asUserRow(`${method} qcow2 over ${QUICK.name}`, base, 0.85));
      rows.push(...(await keptRows(`${method} qcow2 over ${QUICK.name}`, base, path)));
    });
    const [unsafe, convert, flushed, flushedConvert] = await runsInTurn(RUNS, [
      async () => (await timeStream(path, 'unsafe')).seconds,
      () => timeConvert({ location: path, format: 'qcow2' }, 8),
      async () => (await timeStream(path)).seconds,
      () => timeConvert({ location: path, format: 'qcow2' }, 8, true),
    ]);
    const peer = 'qemu-img convert -W -m 8';
    rows.push({
      case: `${method} qcow2, local, left in the page cache`,
      ours: unsafe,
      peer,
      theirs: convert,
      goalRatio: 0.8,
    });
    rows.push({
      case: `${method} qcow2, local, flushed`,
      ours: flushed,
      peer,
      theirs: flushedConvert,
      goalRatio: 0.8,
    });
  }
  return rows;
}
