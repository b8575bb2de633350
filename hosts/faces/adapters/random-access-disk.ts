/**
 * A disk as a `RandomAccessDisk` of `@xen-orchestra/disk-transform`, which its backups, and its
 * writers of VHD, VMDK and XVA take.
 *
 * ```ts
 * import { RandomAccessDisk } from '@xen-orchestra/disk-transform';
 * const source = asRandomAccessDisk(RandomAccessDisk, disk);
 * await source.init();
 * for await (const { index, data } of source.diskBlocks()) {}
 * ```
 *
 * Blocks are those that hold anything but zeros when `init` is called; a last one that the disk
 * does not fill ends in zeros. It is never differencing: what it shows is the whole chain. The disk
 * stays its owner's to close.
 */
import type { Disk } from '../../api/disk.ts';
import { MillraceError } from '../../api/errors.ts';
import { mustKnowOptions } from '../../api/options.ts';
import { bufferOf } from './buffer.ts';

/** The block size of VHD. */
const BLOCK_BYTES = 2 * 1024 * 1024;

/** How the disk is cut. */
export interface RandomAccessDiskOptions {
  /** Bytes, a multiple of 512; default 2 MiB. */
  blockSize?: number;
}

/** The class that `@xen-orchestra/disk-transform` exports. */
export type RandomAccessDiskClass<Base> = abstract new () => Base;

/** What the class leaves to those who extend it. */
interface Blocks {
  getVirtualSize(): number;
  getBlockSize(): number;
  getBlockIndexes(): number[];
  hasBlock(index: number): boolean;
  readBlock(index: number): Promise<{ index: number; data: Uint8Array }>;
  isDifferencing(): boolean;
  init(): Promise<void>;
  close(): Promise<void>;
}

/** The disk, in blocks. */
export function asRandomAccessDisk<Base>(
  base: RandomAccessDiskClass<Base>,
  disk: Disk,
  options: RandomAccessDiskOptions = {},
): Base {
  mustKnowOptions('asRandomAccessDisk', options, { blockSize: true });
  const { blockSize = BLOCK_BYTES } = options;
  if (!Number.isSafeInteger(blockSize) || blockSize <= 0 || blockSize % 512)
    throw new MillraceError('EINVAL', `a block size of ${blockSize}: it is a multiple of 512`);
  const source = new (base as new () => Base)();
  return Object.assign(source as object, blocksOf(disk, blockSize)) as Base;
}

function blocksOf(disk: Disk, blockSize: number): Blocks {
  let indexes = new Set<number>();
  return {
    getVirtualSize: () => disk.size,
    getBlockSize: () => blockSize,
    getBlockIndexes: () => [...indexes],
    hasBlock: (index) => indexes.has(index),
    isDifferencing: () => false,
    async init() {
      const found = new Set<number>();
      for await (const { offset, length, state } of disk.map()) {
        if (state === 'zero' || state === 'absent') continue;
        const last = Math.ceil((offset + length) / blockSize);
        for (let index = Math.floor(offset / blockSize); index < last; index++) found.add(index);
      }
      indexes = found;
    },
    async readBlock(index) {
      const offset = index * blockSize;
      const data = new Uint8Array(blockSize);
      const length = Math.min(blockSize, disk.size - offset);
      await disk.read(offset, length, { into: data.subarray(0, length) });
      return { index, data: bufferOf(data) };
    },
    async close() {},
  };
}
