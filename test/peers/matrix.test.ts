/**
 * Every kind of base into every kind of overlay, held against QEMU at each stage: not the full
 * product, but each base meets an overlay of ours and one of QEMU's, each overlay meets several
 * bases, and the ways of use go round among them.
 */
import { mkdir, mkdtemp, rename, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { CreateOptions, Disk } from '../../hosts/node/index.ts';
import { createDisk, openDisk } from '../../hosts/node/index.ts';
import { Random } from '../fixtures/content.ts';
import type { ImageKind, MadeImage, OverlayKind } from '../fixtures/images.ts';
import { baseKinds, overlayKinds } from '../fixtures/images.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import type { QemuExtent } from '../support/qemu.ts';
import { info, map } from '../support/qemu.ts';
import {
  expectReads,
  expectShows,
  expectSound,
  guestWrites,
  Model,
  qemuWrites,
  randomRange,
} from './model.ts';

const KIB = 1024;
const MIB = 1024 * KIB;

/** Overlays as `createDisk` makes them. */
const OUR_SHAPES: [name: string, shape: Partial<CreateOptions>][] = [
  ['ours-64k', {}],
  ['ours-512', { clusterSize: 512 }],
  ['ours-4k', { clusterSize: 4 * KIB }],
  ['ours-2m', { clusterSize: 2 * MIB }],
  ['ours-extended-l2', { extendedL2: true }],
  ['ours-refcount-1', { clusterSize: 4 * KIB, refcountBits: 1 }],
  ['ours-extended-l2-16k', { clusterSize: 16 * KIB, extendedL2: true }],
  ['ours-refcount-64', { clusterSize: 512, refcountBits: 64 }],
];

const ours: OverlayKind[] = OUR_SHAPES.map(([name, shape]) => ({
  name,
  async make(dir, { location, format }) {
    const path = join(dir, `${name}.qcow2`);
    const disk = await createDisk({
      overlay: path,
      base: location,
      baseFormat: format,
      followChain: true,
      ...shape,
    });
    const { size } = disk;
    await disk.close();
    return { path, format: 'qcow2', virtualSize: size };
  },
}));

interface Case {
  overlay: OverlayKind;
  index: number;
}

/** The overlays that a base meets: one of ours, one of QEMU's. */
function casesOf(baseIndex: number): Case[] {
  return [
    { overlay: ours[baseIndex % ours.length], index: baseIndex * 2 },
    { overlay: overlayKinds[baseIndex % overlayKinds.length], index: baseIndex * 2 + 1 },
  ];
}

describeWithPeer(['qemu-img', 'qemu-io'], 'every base into every overlay', () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'millrace-matrix-'));
  });
  afterAll(() => rm(folder, { recursive: true }));

  describe.concurrent.each(
    baseKinds.map((kind, index) => ({ name: kind.name, kind, cases: casesOf(index) })),
  )('$name', ({ kind, cases }) => {
    it.each(cases.map((one) => ({ name: one.overlay.name, one })))(
      'into $name',
      async ({ one }) => {
        const dir = join(folder, `${kind.name}-${one.overlay.name}`);
        await mkdir(dir);
        await streamed(dir, kind, one);
        await rm(dir, { recursive: true });
      },
    );
  });
});

/** One case from the making of its images to the complete overlay. */
async function streamed(
  dir: string,
  kind: ImageKind,
  { overlay: overlayKind, index }: Case,
): Promise<void> {
  const random = new Random(index);
  const base = await kind.make(dir);
  const overlay = await overlayKind.make(dir, { location: base.path, ...base });
  const model = await Model.of(overlay.path, join(dir, 'expected.raw'));
  await partly(overlay, model, random, { copyOnRead: index % 4 < 2, writes: index % 3 > 0 });
  await expectSound(overlay.path);
  await expectShows(overlay.path, model);
  if (index % 5 === 0) await qemuWrites(overlay.path, model, random);
  await wholly(overlay, model, random, index % 7 === 3);
  await rename(base.path, `${base.path}.away`);
  await expectSound(overlay.path);
  await expectShows(overlay.path, model);
  expect((await info(overlay.path))['backing-filename']).toBeUndefined();
  await model.close();
}

/**
 * A first session: a guest that reads and writes, and a stream of a part that is aligned to
 * nothing.
 */
async function partly(
  overlay: MadeImage,
  model: Model,
  random: Random,
  use: { copyOnRead: boolean; writes: boolean },
): Promise<void> {
  const qemuMap = await map(overlay.path);
  const disk = await openDisk({
    overlay: overlay.path,
    followChain: true,
    copyOnRead: use.copyOnRead,
  });
  expect(disk.size).toBe(overlay.virtualSize);
  await expectMap(disk, qemuMap);
  await expectReads(disk, model, random, 12);
  if (use.writes) await guestWrites(disk, model, random, 6);
  const [offset, length] = randomRange(random, disk.size, disk.size);
  const [streamedPart] = await Promise.all([
    disk.stream({ offset, length }),
    expectReads(disk, model, random, 6),
  ]);
  expect(streamedPart).toMatchObject({ status: 0, remaining: 0, offset, length });
  if ((await disk.images()).length > 1) expect(await disk.remaining(offset, length)).toBe(0);
  await expectReads(disk, model, random, 4);
  await disk.close();
}

/** A second session: the rest. */
async function wholly(
  overlay: MadeImage,
  model: Model,
  random: Random,
  full: boolean,
): Promise<void> {
  const disk = await openDisk({ overlay: overlay.path, followChain: true });
  await expectReads(disk, model, random, 4);
  const [done] = await Promise.all([
    disk.stream({ allocate: full ? 'full' : 'sparse' }),
    expectReads(disk, model, random, 12),
  ]);
  expect(done).toMatchObject({ status: 0, remaining: 0, offset: 0, length: disk.size });
  expect(await disk.remaining()).toBe(0);
  expect(await disk.images()).toHaveLength(1);
  await expectReads(disk, model, random, 4);
  await guestWrites(disk, model, random, 2);
  await disk.close();
}

/**
 * Our map says of every range what QEMU's says: which image has data there, and where in its file.
 */
async function expectMap(disk: Disk, theirs: readonly QemuExtent[]): Promise<void> {
  const chain = await disk.images();
  const found: Placed[] = [];
  for await (const { offset, length, state, depth, hostOffset } of disk.map()) {
    if (state === 'data' || state === 'compressed')
      found.push({ start: offset, length, depth, offset: hostOffset });
  }
  // Of a raw image QEMU also tells the holes, which only its file system knows.
  const inQcow2 = ({ depth }: Placed) => chain[depth].format === 'qcow2';
  const wanted = theirs
    .filter(({ data }) => data)
    .map(({ start, length, depth, offset }) => ({ start, length, depth, offset }));
  expect(joined(found.filter(inQcow2))).toEqual(joined(wanted.filter(inQcow2)));
}

/**
 * A run of data: its place in the disk, its image, its place in that image's file (none for
 * compressed data).
 */
interface Placed {
  start: number;
  length: number;
  depth: number;
  offset?: number;
}

/**
 * Makes one of neighbours that QEMU tells apart because some of their bytes lie in a hole of the
 * file.
 */
function joined(runs: readonly Placed[]): Placed[] {
  const result: Placed[] = [];
  for (const run of runs) {
    const last = result.at(-1);
    const goesOn =
      last !== undefined &&
      last.start + last.length === run.start &&
      last.depth === run.depth &&
      (last.offset === undefined
        ? run.offset === undefined
        : last.offset + last.length === run.offset);
    if (goesOn) last.length += run.length;
    else result.push({ ...run });
  }
  return result;
}
