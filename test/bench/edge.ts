/**
 * What the first read of a disk through the edge's handler costs its base: a machine of the edge's
 * tests in workerd, its object new.
 */
import { startWorker } from '../edge/worker.ts';
import { serveObject } from '../http/object-server.ts';
import type { BenchRow } from './table.ts';

const MIB = 1024 * 1024;
const BASE_BYTES = 16 * MIB;
const TOKEN = 'bench';
const REQUESTS_MAX = 3;

export async function edgeFirstRead(): Promise<BenchRow[]> {
  const base = await serveObject(new Uint8Array(BASE_BYTES).fill(1));
  try {
    const worker = await startWorker(new URL('../edge/machine.ts', import.meta.url), {
      object: 'Machine',
      bindings: { BASE: base.url, TOKEN },
    });
    try {
      const at = BASE_BYTES / 2;
      const headers = { Authorization: `Bearer ${TOKEN}`, Range: `bytes=${at}-${at + 511}` };
      const answer = await worker.dispatchFetch('http://edge/disks/vda/data', { headers });
      if (answer.status !== 206 || (await answer.arrayBuffer()).byteLength !== 512)
        throw new Error(`the handler answered ${answer.status}`);
    } finally {
      await worker.dispose();
    }
    return [
      {
        case: 'first read through the edge handler',
        value: base.ranges.length,
        unit: 'requests to the base',
        goalMax: REQUESTS_MAX,
      },
    ];
  } finally {
    await base.stop();
  }
}
