/**
 * xz: a file of several blocks is read block by block through its index; one whose blocks are too
 * large for that, or that has only one, from its start to its end.
 */

import type { BlockSource } from '../../api/block.ts';
import { MillraceError } from '../../api/errors.ts';
import { Undecodable } from '../../decoders/undecodable.ts';
import type { BlockTable } from './blocks.ts';
import { sourceOfBlocks } from './blocks.ts';
import { corrupt } from './bytes.ts';
import type { Decompress } from './decompress.ts';
import { asDamage } from './decompress.ts';
import { alone, whole } from './stream.ts';
import { WRONG } from './xz-decoder.ts';
import type { XzBlocks } from './xz-index.ts';
import { Check, padded, readXzIndex, wrapBlock } from './xz-index.ts';

const SHA256_BYTES = 32;

/** How much memory reading by blocks may take. */
export interface BlockRoom {
  /** Unpacked bytes of one block. */
  readonly block: number;
  /** Bytes of all blocks that are kept or on their way. */
  readonly all: number;
}

/** What the index of a file tells of it. */
export interface XzFile {
  /** Unpacked bytes. */
  readonly size: number;
  /** Any part of it can be had at once. Undefined where it is better taken in order. */
  readonly source?: BlockSource;
}

/** @throws MillraceError `ECORRUPT`, `EUNSUPPORTED` */
export async function openXz(
  source: BlockSource,
  room: BlockRoom,
  decompress: Decompress,
): Promise<XzFile | undefined> {
  const blocks = await readXzIndex(source);
  if (blocks === undefined) return undefined;
  const size = blocks.starts[blocks.count];
  if (!Number.isSafeInteger(size))
    throw corrupt(source.name, 'xz', 'it claims more than 2^53 bytes');
  const largest = blocks.starts
    .subarray(1)
    .reduce((most, end, index) => Math.max(most, end - blocks.starts[index]), 0);
  const isSmall =
    largest <= room.block && blocks.unpadded.every((bytes) => bytes <= 2 * room.block);
  if (!isSmall || (blocks.count === 1 && size > room.block / 4)) return { size };
  return {
    size,
    source: sourceOfBlocks(source, tableOf(blocks, source.name, decompress), room.all),
  };
}

function tableOf(blocks: XzBlocks, name: string | undefined, decompress: Decompress): BlockTable {
  return {
    count: blocks.count,
    size: blocks.starts[blocks.count],
    start: (index) => blocks.starts[index],
    packed: (index) => ({ at: blocks.at[index], length: padded(blocks.unpadded[index]) }),
    async decode(index, packed, signal) {
      const size = blocks.starts[index + 1] - blocks.starts[index];
      const block = { unpadded: blocks.unpadded[index], size, check: blocks.check[index] };
      try {
        return await decodeBlock(packed, block, (file) =>
          whole(decompress(alone(file)), size, signal),
        );
      } catch (error) {
        throw asDamage(error, 'xz', name, `block ${index} (at ${blocks.at[index]})`);
      }
    },
  };
}

/**
 * The decoder does not know SHA-256: it is left out of what the decoder gets, and compared here.
 */
async function decodeBlock(
  packed: Uint8Array,
  { unpadded, size, check }: { unpadded: number; size: number; check: number },
  decode: (file: Uint8Array) => Promise<Uint8Array<ArrayBuffer>>,
): Promise<Uint8Array> {
  if (check !== Check.sha256) return decode(wrapBlock(packed, { unpadded, size, check }));
  if (crypto.subtle === undefined)
    throw new MillraceError(
      'EUNSUPPORTED',
      'its SHA-256 cannot be checked in a page without a secure context',
    );
  const bare = { unpadded: unpadded - SHA256_BYTES, size, check: Check.none };
  const block = await decode(wrapBlock(packed.subarray(0, -SHA256_BYTES), bare));
  const sum = new Uint8Array(await crypto.subtle.digest('SHA-256', block));
  if (!sum.every((byte, at) => byte === packed[packed.length - SHA256_BYTES + at]))
    throw new Undecodable(WRONG);
  return block;
}
