/**
 * Makes the fixtures that the suite's server gives, with qemu-img: one disk in each format that a
 * base comes in, and faulty ones.
 */
import { copyFile, open, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { writeQcow2, writeRaw } from '../fixtures/layout.ts';
import { convertImage, createImage } from '../support/qemu.ts';
import { BASE_RUNS, BASE_SIZE, CLUSTER, tailContent, UPPER_RUNS } from './content.ts';

/**
 * qcow2 header (qcow2 specification, "Header"): the table that says where the clusters are, and
 * what a reader must understand.
 */
const HEADER_L1_OFFSET = 40;
const HEADER_INCOMPATIBLE = 72;
/** No version of the format has given this bit a meaning. */
const UNKNOWN_FEATURE = 1n << 40n;

/**
 * Writes base.raw, base.qcow2, base-zlib.qcow2, base-zstd.qcow2, base-extended.qcow2, upper.qcow2,
 * tail.raw, corrupt.qcow2, unknown.qcow2.
 */
export async function makeFixtures(folder: string): Promise<void> {
  const path = (name: string): string => join(folder, name);
  const raw = path('base.raw');
  await writeRaw(raw, BASE_SIZE, BASE_RUNS);
  await writeFile(path('tail.raw'), tailContent());
  await Promise.all([
    convertImage(raw, path('base.qcow2'), { from: 'raw', with: { cluster_size: CLUSTER } }),
    convertImage(raw, path('base-zlib.qcow2'), { from: 'raw', compress: true }),
    convertImage(raw, path('base-zstd.qcow2'), {
      from: 'raw',
      compress: true,
      with: { compression_type: 'zstd' },
    }),
    convertImage(raw, path('base-extended.qcow2'), { from: 'raw', with: { extended_l2: 'on' } }),
  ]);
  await createImage(path('upper.qcow2'), {
    size: BASE_SIZE,
    base: 'base.qcow2',
    baseFormat: 'qcow2',
    unchecked: true,
  });
  await writeQcow2(path('upper.qcow2'), UPPER_RUNS);
  await patched(path('base.qcow2'), path('unknown.qcow2'), HEADER_INCOMPATIBLE, UNKNOWN_FEATURE);
  await patched(path('base.qcow2'), path('corrupt.qcow2'), HEADER_L1_OFFSET, 2n ** 40n);
}

/** A copy in which one big-endian field of eight bytes has another value. */
async function patched(from: string, to: string, offset: number, value: bigint): Promise<void> {
  await copyFile(from, to);
  const file = await open(to, 'r+');
  const field = Buffer.alloc(8);
  field.writeBigUInt64BE(value);
  await file.write(field, 0, field.length, offset);
  await file.close();
}
