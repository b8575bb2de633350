/**
 * Guest requests beside the job: how much longer the slow ones among random 4 KiB reads and writes
 * take while the base streams.
 */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { performance } from 'node:perf_hooks';
import { Random } from '../fixtures/content.ts';
import { linkRaw } from './data.ts';
import { overLine, QUICK } from './lines.ts';
import { library } from './ours.ts';
import type { BenchRow } from './table.ts';

const REQUESTS = 600;
const LANES = 4;
const BYTES = 4096;

/**
 * Random 4 KiB requests of a guest while the base streams over a link, beside the same without the
 * stream.
 */
export async function guestRequests(): Promise<BenchRow[]> {
  const rows: BenchRow[] = [];
  await linkRaw();
  await overLine(QUICK, async (url) => {
    const idle = await guestLatency(url('bench-1-link.raw'), false);
    const busy = await guestLatency(url('bench-1-link.raw'), true);
    rows.push({
      case: `guest 4 KiB requests over ${QUICK.name}: p99 with stream / without`,
      value: busy.p99Ms / idle.p99Ms,
      unit: '',
      goalMax: 1.3,
    });
    rows.push({ case: '  p50 with stream / without', value: busy.p50Ms / idle.p50Ms, unit: '' });
  });
  return rows;
}

interface Latency {
  p50Ms: number;
  p99Ms: number;
}

/**
 * Half reads, half writes, spread over a fresh overlay on `base`; with `streaming`, while its whole
 * base is streamed.
 */
async function guestLatency(base: string, streaming: boolean): Promise<Latency> {
  const { createDisk } = await library();
  const dir = await mkdtemp(join(tmpdir(), 'millrace-bench-'));
  const disk = await createDisk({ overlay: join(dir, 'overlay.qcow2'), base });
  try {
    if (streaming) await disk.stream({ nonblock: true });
    const random = new Random(streaming ? 2 : 1);
    const times: number[] = [];
    const data = new Uint8Array(BYTES).fill(1);
    let left = REQUESTS;
    const lane = async (): Promise<void> => {
      while (left-- > 0) {
        const offset = random.between(0, disk.size / BYTES - 1) * BYTES;
        const startMs = performance.now();
        if (left % 2) await disk.read(offset, BYTES);
        else await disk.write(offset, data);
        times.push(performance.now() - startMs);
        if (streaming && (await disk.info()).status !== 1) left = 0;
      }
    };
    await Promise.all(Array.from({ length: LANES }, lane));
    times.sort((a, b) => a - b);
    return {
      p50Ms: times[Math.floor(times.length * 0.5)],
      p99Ms: times[Math.floor(times.length * 0.99)],
    };
  } finally {
    await disk.close();
    await rm(dir, { recursive: true, force: true });
  }
}
