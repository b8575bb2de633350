/**
 * Clusters that something besides the overlay's table may refer to: their refcount is above one, as
 * where a leak was left because part of an image is not understood. What is written goes elsewhere.
 */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Disk } from '../../hosts/api/disk.ts';
import { openDisk } from '../../hosts/node/index.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { MemoryFile } from '../support/memory-file.ts';
import { check, createImage, qemuIo } from '../support/qemu.ts';
import { Patient } from './damage.ts';

const KIB = 1024;
const CLUSTER = 64 * KIB;
const COPIED = 1n << 63n;
const OFFSET_MASK = 0x00fffffffffffe00n;
const AT_AUTOCLEAR = 88;
/** The last cluster is cut by the disk's end. */
const SIZE = 3 * CLUSTER + 5 * KIB;
const CLUSTERS = 4;

describeWithPeer(['qemu-img', 'qemu-io'], 'a cluster that may be shared', () => {
  let dir: string;
  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'millrace-shared-'));
  });
  afterAll(() => rm(dir, { recursive: true }));

  /** A disk of ones, each cluster of which counts two references. */
  async function makeShared(name: string, options: Record<string, string> = {}): Promise<string> {
    const path = join(dir, name);
    await createImage(path, { size: SIZE, with: options });
    await qemuIo(path, [`write -P 1 0 ${SIZE}`]);
    const patient = await Patient.open(path);
    for (const { at, value } of patient.l2.filter(({ value }) => value !== 0n)) {
      await patient.file.write(Buffer.alloc(CLUSTER, 1), 0, CLUSTER, hostOf(value));
      await patient.putRefcount(hostOf(value) / CLUSTER, 2n);
      await patient.put64(at, value & ~COPIED);
    }
    // As if something that is not known here had them, too.
    await patient.put64(AT_AUTOCLEAR, 1n << 40n);
    await patient.file.close();
    return path;
  }

  const hostOf = (entry: bigint): number => Number(entry & OFFSET_MASK);

  /** Places of the disk's clusters in the file, and what stands there now. */
  async function placesOf(path: string): Promise<number[]> {
    const patient = await Patient.open(path);
    await patient.file.close();
    return patient.l2.slice(0, CLUSTERS).map(({ value }) => hostOf(value));
  }

  /** Does something to the disk, and sees that the clusters of before are as they were. */
  async function leavesThem(path: string, act: (disk: Disk) => Promise<void>): Promise<void> {
    const before = await placesOf(path);
    // In memory, what is given back reads as zeros at once.
    const file = new MemoryFile(path, await readFile(path));
    const disk = await openDisk({ overlay: file });
    try {
      await act(disk);
      await disk.flush();
    } finally {
      await disk.close();
    }
    await writeFile(path, file.bytes);
    for (const [index, place] of before.entries()) {
      const bytes = file.bytes.subarray(place, place + CLUSTER);
      expect(Buffer.compare(bytes, Buffer.alloc(CLUSTER, 1)), `cluster ${index}`).toBe(0);
    }
    expect((await check(path)).report?.corruptions ?? 0).toBe(0);
  }

  for (const [kind, options] of [
    ['version 3', {}],
    ['extended L2', { extended_l2: 'on' }],
  ] as const) {
    it(`is not written in its place (${kind})`, async () => {
      const path = await makeShared(`write-${kind}`, options);
      await leavesThem(path, async (disk) => {
        await disk.write(CLUSTER + 1000, new Uint8Array(3000).fill(2));
        await disk.write(2 * CLUSTER, new Uint8Array(CLUSTER).fill(3));
        const bytes = await disk.read(CLUSTER, 2 * CLUSTER);
        const wanted = Buffer.alloc(2 * CLUSTER, 1);
        wanted.fill(2, 1000, 4000).fill(3, CLUSTER);
        expect(Buffer.compare(bytes, wanted)).toBe(0);
      });
      await qemuIo(path, ['read -P 1 0 65536', 'read -P 2 66536 3000', 'read -P 3 131072 65536']);
    });

    it(`is not given back with what is discarded (${kind})`, async () => {
      const path = await makeShared(`discard-${kind}`, options);
      await leavesThem(path, (disk) => disk.discard(0, 2 * CLUSTER));
    });

    it(`is not filled up with zeros where the disk grows (${kind})`, async () => {
      const path = await makeShared(`grow-${kind}`, options);
      await leavesThem(path, (disk) => disk.resize(SIZE + CLUSTER));
      const [, , , last] = await placesOf(path);
      expect(last % CLUSTER).toBe(0);
      await qemuIo(path, [`read -P 1 0 ${SIZE}`, `read -P 0 ${SIZE} ${CLUSTER}`]);
    });
  }
});
