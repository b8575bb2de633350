/**
 * The order on disk where the header is one sector, and says where the refcount table is as well as
 * what the base is called.
 */
import { mkdtemp, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { systemClock } from '../../hosts/api/clock.ts';
import type { EngineDisk } from '../../hosts/disk/disk.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { MemoryRuntime } from '../support/memory-runtime.ts';
import { createImage } from '../support/qemu.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const SECTOR = 512;
/**
 * What a table of one cluster of 512 bytes counts, with refcounts of 64 bits: a disk that holds
 * more moves it.
 */
const COUNTED = 2 * MIB;
const BEFORE = COUNTED - 148 * KIB;
const AT_REFCOUNT_TABLE = 48;

/** An overlay made by qemu-img, which gives it a refcount table of one cluster. */
async function makeOverlay(): Promise<Uint8Array> {
  const dir = await mkdtemp(join(tmpdir(), 'millrace-refer-'));
  try {
    await writeFile(join(dir, 'base'), '');
    await truncate(join(dir, 'base'), 2 * COUNTED);
    await createImage(join(dir, 'overlay'), {
      base: join(dir, 'base'),
      baseFormat: 'raw',
      with: { cluster_size: SECTOR, refcount_bits: 64 },
    });
    return await readFile(join(dir, 'overlay'));
  } finally {
    await rm(dir, { recursive: true });
  }
}

/**
 * Writes until the refcount table moves, and gives the overlay another base at the operation `at`.
 * Gives how many operations there were, whether the table moved, and how often a cut would have
 * left a header that tells of a table which is not there.
 */
async function run(
  image: Uint8Array,
  at: number,
): Promise<{ operations: number; moved: boolean; torn: number }> {
  const runtime = Object.assign(new MemoryRuntime(), { clock: systemClock });
  for (const name of ['base', 'other']) runtime.add(name, new Uint8Array(2 * COUNTED));
  const file = runtime.add('overlay', image);
  const disk = (await runtime.open({
    overlay: 'overlay',
    base: 'base',
    baseFormat: 'raw',
  })) as EngineDisk;
  await disk.write(0, new Uint8Array(BEFORE).fill(1));
  await disk.flush();
  const tableAt = (bytes: Uint8Array): number =>
    Number(new DataView(bytes.buffer, bytes.byteOffset).getBigUint64(AT_REFCOUNT_TABLE));
  const first = tableAt(file.bytes);
  let safe = file.bytes.slice();
  let operations = 0;
  let torn = 0;
  let referred: Promise<void> | undefined;
  let unsafe = new Map<number, Uint8Array>();
  runtime.plan = async ({ kind, offset, length }, perform) => {
    if (kind === 'read') return perform();
    if (++operations === at) referred = disk.baseRecord.refer('other', 'raw', '');
    // Writes end before flushes and discards: so there is something between them.
    if (kind !== 'write') await new Promise((resolve) => setImmediate(resolve));
    await perform();
    if (kind === 'write') {
      for (let from = offset; from < offset + length; from += SECTOR)
        unsafe.set(from, file.bytes.slice(from, from + SECTOR));
      const header = unsafe.get(0);
      // The first entry of a table that is there is not zero.
      if (header && safe.subarray(tableAt(header), tableAt(header) + 8).every((byte) => byte === 0))
        torn++;
    } else if (kind === 'flush') {
      const grown = new Uint8Array(Math.max(file.size, safe.length));
      grown.set(safe);
      for (const [from, bytes] of unsafe) grown.set(bytes, from);
      safe = grown;
      unsafe = new Map();
    }
  };
  await disk.write(BEFORE, new Uint8Array(MIB).fill(2));
  await disk.flush();
  await referred;
  runtime.plan = undefined;
  await disk.close();
  return { operations, moved: tableAt(file.bytes) !== first, torn };
}

describeWithPeer(['qemu-img'], 'another base', () => {
  it('never brings the place of a refcount table to disk before the table', async () => {
    const image = await makeOverlay();
    let reached = 0;
    for (let at = 1; at === 1 || at <= reached; at += 2) {
      const { operations, moved, torn } = await run(image, at);
      reached = operations;
      expect(moved).toBe(true);
      expect(torn, `referred at operation ${at}`).toBe(0);
    }
    expect(reached).toBeGreaterThan(10);
  });
});
