/**
 * What it takes to add a format: one file beside the others in engine/formats, and one line in
 * their table. The engine is built here with a small one, which is read like any other base.
 */

import { deflateRawSync } from 'node:zlib';
import { beforeAll, expect, it } from 'vitest';
import { systemClock } from '../../hosts/api/clock.ts';
import type { Extent } from '../../hosts/api/disk.ts';
import { buildEngine } from '../simulator/build.ts';
import { MemoryRuntime } from '../support/memory-runtime.ts';

/**
 * A table of blocks: magic (8 bytes), block bits (u32), version (u32), size (u64), then a u64 for
 * each block: 0 for zeros, else its place in the file, with its compressed length in the upper
 * bits. All little-endian.
 */
const TINY = `
import { le32, le64 } from '../core/bytes';
import { compressedExtent, dataExtent, Extent, extentOf } from '../core/extent';
import { clusterBytes, Image } from '../core/image';
import { pageGet } from '../core/pages';
import { fail, Task } from '../core/task';
import { ECORRUPT, EUNSUPPORTED, R_CLUSTER_OUTSIDE, R_VERSION, ZEROES } from '../protocol';
import { hasMemory, refuse } from './format';

const TABLE_AT: u64 = 24;

export function isTiny(header: usize, _image: Image): bool {
  return le64(header) == 0x4b534944594e4954; // TINYDISK
}

export function openTiny(t: Task, image: Image): bool {
  const header = pageGet(t, image.file, 0);
  if (!header) return false;
  if (le32(header + 12) != 1) return refuse(t, EUNSUPPORTED, R_VERSION, image);
  image.clusterBits = le32(header + 8);
  image.size = le64(header + 16);
  return hasMemory(t, image);
}

export function lookupTiny(t: Task | null, image: Image, offset: u64, length: u64): Extent | null {
  const place = TABLE_AT + ((offset >> image.clusterBits) << 3);
  const at = pageGet(t, image.file, place);
  if (!at) return null;
  const within = offset & (clusterBytes(image) - 1);
  const run = min(clusterBytes(image) - within, length);
  const entry = le64(at);
  if (!entry) return extentOf(ZEROES, run);
  const host = entry & 0xffffffff;
  const bytes = entry >> 32;
  if (host + (bytes ? bytes : clusterBytes(image)) > image.fileSize) {
    if (t !== null) fail(t, ECORRUPT, R_CLUSTER_OUTSIDE, image.index, place);
    return null;
  }
  return bytes
    ? compressedExtent(run, image.file, host, bytes)
    : dataExtent(run, image.file, host + within);
}
`;
const FORMAT_TINY = 99;

const BLOCK = 64 * 1024;
const SIZE = 40 * BLOCK;

let engine: WebAssembly.Module;

beforeAll(async () => {
  const table = 'export function formatsInit(): void {\n  formatsForget();\n';
  engine = await buildEngine(
    (path, source) =>
      path === 'engine/formats/formats.ts'
        ? source
            .replace(/^import/m, "import { isTiny, lookupTiny, openTiny } from './tiny';\nimport")
            .replace(table, `${table}  format(${FORMAT_TINY}, isTiny, openTiny, lookupTiny);\n`)
        : source,
    ['--optimizeLevel', '0'],
    { 'engine/formats/tiny.ts': TINY },
  );
}, 60_000);

function blockOf(index: number): Uint8Array {
  if (index % 4 === 3) return new Uint8Array(BLOCK);
  return new Uint8Array(BLOCK).map((_, i) => (index * 31 + (i >> 8)) & 255);
}

/** An image of SIZE bytes, of which each fourth block is compressed, and each fourth zeros. */
function tinyImage(): Uint8Array {
  const parts: Uint8Array[] = [];
  const head = new DataView(new ArrayBuffer(4096));
  new Uint8Array(head.buffer).set(new TextEncoder().encode('TINYDISK'));
  head.setUint32(8, 16, true);
  head.setUint32(12, 1, true);
  head.setBigUint64(16, BigInt(SIZE), true);
  parts.push(new Uint8Array(head.buffer));
  let at = 4096;
  for (let i = 0; i < SIZE / BLOCK; i++) {
    if (i % 4 === 3) continue;
    const stored = i % 4 === 2 ? deflateRawSync(blockOf(i)) : blockOf(i);
    const length = i % 4 === 2 ? BigInt(stored.length) : 0n;
    head.setBigUint64(24 + i * 8, (length << 32n) | BigInt(at), true);
    parts.push(stored);
    at += stored.length;
  }
  return new Uint8Array(parts.flatMap((part) => [...part]));
}

function runtimeWith(image: Uint8Array): MemoryRuntime {
  const runtime = Object.assign(new MemoryRuntime(), {
    clock: systemClock,
    engine: () => Promise.resolve(engine),
  });
  runtime.add('b', image);
  return runtime;
}

it('reads, maps and streams a base in a format that was added by one file and one line', async () => {
  const disk = await runtimeWith(tinyImage()).create({ overlay: 'o', base: 'b' });
  expect(disk.size).toBe(SIZE);
  for (const index of [0, 1, 2, 3, 7, 38])
    expect(await disk.read(index * BLOCK + 100, 3000)).toEqual(blockOf(index).subarray(100, 3100));
  const states: Extent['state'][] = [];
  for await (const { state } of disk.map(12 * BLOCK, 4 * BLOCK)) states.push(state);
  expect(states).toEqual(['data', 'compressed', 'zero']);
  await disk.stream();
  const all = new Uint8Array(SIZE);
  for (let at = 0; at < SIZE; at += BLOCK) all.set(await disk.read(at, BLOCK), at);
  for (let i = 0; i < SIZE / BLOCK; i++)
    expect(Buffer.compare(all.subarray(i * BLOCK, (i + 1) * BLOCK), blockOf(i)), `block ${i}`).toBe(
      0,
    );
  expect(await disk.check()).toMatchObject({ corruptions: 0, leaks: 0 });
  await disk.close();
});

it('refuses at open what the format refuses, and an entry before it is followed', async () => {
  const other = tinyImage();
  other[12] = 2;
  await expect(runtimeWith(other).create({ overlay: 'o', base: 'b' })).rejects.toMatchObject({
    code: 'EUNSUPPORTED',
  });
  const outside = tinyImage();
  outside[24 + 3] = 0x7f;
  const disk = await runtimeWith(outside).create({ overlay: 'o', base: 'b' });
  await expect(disk.read(0, 512)).rejects.toMatchObject({ code: 'ECORRUPT', offset: 24 });
  expect(await disk.read(BLOCK, 512)).toEqual(blockOf(1).subarray(0, 512));
  await disk.close();
});
