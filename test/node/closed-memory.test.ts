/** A closed disk that is still held takes no memory of its engine any more. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterEach, beforeEach, expect, it } from 'vitest';
import type { Disk } from '../../hosts/node/index.ts';
import { createDisk } from '../../hosts/node/index.ts';

const MIB = 1024 * 1024;
const DISKS = 6;
const DISK_BYTES = 64 * MIB;

setFlagsFromString('--expose-gc');
const collectGarbage = runInNewContext('gc') as () => void;

let folder: string;

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'millrace-closed-'));
});

afterEach(() => rm(folder, { recursive: true }));

/** Bytes outside the heap, those of WebAssembly among them. */
async function outsideBytes(): Promise<number> {
  // What is let go in one turn is collected in the next.
  for (let round = 0; round < 3; round++) {
    await new Promise((resolve) => setImmediate(resolve));
    collectGarbage();
  }
  return process.memoryUsage().external;
}

async function openDisks(): Promise<Disk[]> {
  const disks: Disk[] = [];
  for (let number = 0; number < DISKS; number++) {
    const disk = await createDisk({
      overlay: join(folder, `${number}.qcow2`),
      size: 4 * MIB,
      memory: DISK_BYTES,
    });
    await disk.write(0, new Uint8Array(MIB).fill(1));
    await disk.stream();
    disks.push(disk);
  }
  return disks;
}

it('lets go of the memory of closed disks, though they are held', async () => {
  const before = await outsideBytes();
  const disks = await openDisks();
  // As long as they are open, this way of measuring sees them.
  expect((await outsideBytes()) - before).toBeGreaterThanOrEqual(DISKS * DISK_BYTES);
  for (const disk of disks) await disk.close();
  expect((await outsideBytes()) - before).toBeLessThan(DISK_BYTES);
  for (const disk of disks) {
    expect(disk.size).toBe(4 * MIB);
    await expect(disk.info()).rejects.toMatchObject({ code: 'ECLOSED' });
    await expect(disk.read(0, 512)).rejects.toMatchObject({ code: 'ECLOSED' });
    await disk.close();
  }
});
