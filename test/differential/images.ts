/**
 * The overlays and chains of the differential test: made by qemu-img, so that kinds come in that
 * `createDisk` does not make.
 */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { makeContent, Random } from '../fixtures/content.ts';
import type { MemoryRuntime } from '../support/memory-runtime.ts';
import { convertImage, createImage } from '../support/qemu.ts';
import { SECTOR } from './model.ts';

const KIB = 1024;
const MIB = 1024 * KIB;

/** How an overlay is made, and how large a disk of it is enough. */
export interface Shape {
  name: string;
  cluster: number;
  size: number;
  with?: Record<string, string | number>;
}

export const shapes: readonly Shape[] = [
  { name: '512', cluster: 512, size: 1.5 * MIB },
  { name: '4k', cluster: 4 * KIB, size: 3 * MIB },
  { name: '64k', cluster: 64 * KIB, size: 6 * MIB },
  { name: '2m', cluster: 2 * MIB, size: 12 * MIB },
  { name: 'extended-l2-16k', cluster: 16 * KIB, size: 4 * MIB, with: { extended_l2: 'on' } },
  { name: 'extended-l2-128k', cluster: 128 * KIB, size: 6 * MIB, with: { extended_l2: 'on' } },
  { name: 'v2-4k', cluster: 4 * KIB, size: 3 * MIB, with: { compat: '0.10' } },
  { name: 'v2-64k', cluster: 64 * KIB, size: 6 * MIB, with: { compat: '0.10' } },
  { name: 'refcount-1', cluster: 4 * KIB, size: 3 * MIB, with: { refcount_bits: 1 } },
  { name: 'refcount-64-512', cluster: 512, size: 1 * MIB, with: { refcount_bits: 64 } },
  { name: 'lazy-refcounts', cluster: 32 * KIB, size: 4 * MIB, with: { lazy_refcounts: 'on' } },
];

/** Cluster sizes of the images between overlay and lowest base. */
const MIDDLE_CLUSTERS = [512, 4 * KIB, 64 * KIB, 256 * KIB];

export interface Chain {
  /** The overlay's name in the runtime. */
  overlay: string;
  /** What the guest sees at first. */
  content: Uint8Array;
  /** Images in the chain, the overlay included. */
  depth: number;
}

/**
 * Makes an overlay of a shape over a chain of one to three images, and puts all of them into the
 * runtime.
 */
export async function makeChain(
  runtime: MemoryRuntime,
  shape: Shape,
  random: Random,
): Promise<Chain> {
  const dir = await mkdtemp(join(tmpdir(), 'millrace-differential-'));
  try {
    const size = sectors(shape.size * (0.7 + random.between(0, 60) / 100));
    let content = sparseContent(
      random,
      sectors(size * (0.6 + random.between(0, 80) / 100)),
      random.between(0, 3) === 0,
    );
    let below = await makeLowest(runtime, dir, content, random);
    const middles = random.between(0, 2);
    for (let i = 1; i <= middles; i++) {
      const name = `middle${i}.qcow2`;
      const middleSize = sectors(size * (0.6 + random.between(0, 80) / 100));
      await createImage(join(dir, name), {
        size: middleSize,
        base: below.name,
        baseFormat: below.format,
        unchecked: true,
        with: { cluster_size: MIDDLE_CLUSTERS[random.between(0, MIDDLE_CLUSTERS.length - 1)] },
      });
      runtime.add(name, await readFile(join(dir, name)));
      content = resized(content, middleSize);
      await scribble(runtime, name, content, random);
      below = { name, format: 'qcow2' };
    }
    const overlay = 'overlay.qcow2';
    await createImage(join(dir, overlay), {
      size,
      base: below.name,
      baseFormat: below.format,
      unchecked: true,
      with: { cluster_size: shape.cluster, ...shape.with },
    });
    runtime.add(overlay, await readFile(join(dir, overlay)));
    return { overlay, content: resized(content, size), depth: middles + 2 };
  } finally {
    await rm(dir, { recursive: true });
  }
}

/** The lowest image: raw, or compressed qcow2. */
async function makeLowest(
  runtime: MemoryRuntime,
  dir: string,
  content: Uint8Array,
  random: Random,
): Promise<{ name: string; format: 'raw' | 'qcow2' }> {
  if (random.between(0, 2) > 0) {
    runtime.add('lowest.raw', content);
    return { name: 'lowest.raw', format: 'raw' };
  }
  const source = join(dir, 'source.raw');
  const target = join(dir, 'lowest.qcow2');
  await writeFile(source, content);
  const cluster = MIDDLE_CLUSTERS[random.between(1, 2)];
  await convertImage(source, target, {
    from: 'raw',
    compress: random.between(0, 3) > 0,
    with: { cluster_size: cluster },
  });
  runtime.add('lowest.qcow2', await readFile(target));
  return { name: 'lowest.qcow2', format: 'qcow2' };
}

/** Writes here and there into an image of the chain, through Millrace itself. */
async function scribble(
  runtime: MemoryRuntime,
  name: string,
  content: Uint8Array,
  random: Random,
): Promise<void> {
  const disk = await runtime.open({ overlay: name, followChain: true, copyOnRead: false });
  for (let i = 0; i < 12; i++) {
    const offset = random.between(0, content.length - 1);
    const length = Math.min(random.between(1, 200 * KIB), content.length - offset);
    if (random.between(0, 3)) {
      const data = makeContent(random.between(0, 1) ? 'random' : 'text', random.next(), length);
      await disk.write(offset, data);
      content.set(data, offset);
    } else {
      await disk.writeZeroes(offset, length);
      content.fill(0, offset, offset + length);
    }
  }
  await disk.close();
}

/** Data with holes of zeros between, of all lengths. */
function sparseContent(random: Random, length: number, mostlyHoles: boolean): Uint8Array {
  const content = new Uint8Array(length);
  for (let at = 0; at < length; ) {
    const run = Math.min(
      length - at,
      random.between(0, 3) ? random.between(1, 64) * KIB : random.between(1, 600) * KIB,
    );
    if (random.between(0, mostlyHoles ? 5 : 2) > (mostlyHoles ? 4 : 0))
      content.set(makeContent(random.between(0, 1) ? 'random' : 'text', random.next(), run), at);
    at += run;
  }
  return content;
}

function resized(content: Uint8Array, size: number): Uint8Array {
  const other = new Uint8Array(size);
  other.set(content.subarray(0, Math.min(size, content.length)));
  return other;
}

function sectors(bytes: number): number {
  return Math.ceil(bytes / SECTOR) * SECTOR;
}
