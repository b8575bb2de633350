/**
 * The demo's base: a disk as a fresh installation leaves it, half of it never written, the rest
 * programs (which do not compress) and texts (which do). The same bytes every time.
 */
import { createHash } from 'node:crypto';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { makeContent } from '../fixtures/content.ts';
import { peer } from '../support/peer.ts';
import { convertImage } from '../support/qemu.ts';

export const DISK_BYTES: number = 96 * 1024 * 1024;
const BLOCK_BYTES = 1024 * 1024;

export interface SampleBase {
  path: string;
  format: 'raw' | 'qcow2';
  /** SHA-256 of what the disk shows. */
  hash: string;
}

/**
 * Makes the base in `folder`: as a compressed qcow2, as cloud images are, where qemu-img is
 * installed; else raw.
 */
export async function makeSampleBase(folder: string): Promise<SampleBase> {
  const raw = join(folder, 'base.raw');
  const hash = createHash('sha256');
  const file = await open(raw, 'wx');
  for (let offset = 0; offset < DISK_BYTES; offset += BLOCK_BYTES) {
    const block = blockAt(offset / BLOCK_BYTES);
    hash.update(block);
    await file.write(block, 0, block.length, offset);
  }
  await file.close();
  const digest = hash.digest('hex');
  if (peer('qemu-img').path === undefined) return { path: raw, format: 'raw', hash: digest };
  const path = join(folder, 'base.qcow2');
  await convertImage(raw, path, { from: 'raw', compress: true, coroutines: 8 });
  return { path, format: 'qcow2', hash: digest };
}

/** In every four: a block of programs, one of texts, two of nothing. */
function blockAt(index: number): Uint8Array {
  if (index % 4 === 0) return makeContent('random', index, BLOCK_BYTES);
  if (index % 4 === 1) return makeContent('text', index, BLOCK_BYTES);
  return new Uint8Array(BLOCK_BYTES);
}
