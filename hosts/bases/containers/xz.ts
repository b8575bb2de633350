/**
 * xz: a file of several blocks is read block by block through its index; one whose blocks are too
 * large for that, or that has only one, from its start to its end.
 */
import type { BlockSource } from '../../api/block.ts';
import { MillraceError, messageOf } from '../../api/errors.ts';
import type { BlockTable } from './blocks.ts';
import { sourceOfBlocks } from './blocks.ts';
import { corrupt, unsupported } from './bytes.ts';
import { nextTurn } from './turn.ts';
import type { XzExports } from './xz-decoder.ts';
import { XzContext, XzFailure } from './xz-decoder.ts';
import type { XzBlocks } from './xz-index.ts';
import { Check, padded, readXzIndex, wrapBlock } from './xz-index.ts';

/** Gives the decoder, when it is first needed. */
export type LoadXz = () => Promise<XzExports>;

const SHA256_BYTES = 32;
/** Decoded between two turns of the event loop: some 10 ms. */
const SLICE_BYTES = 512 * 1024;

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
  load: LoadXz,
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
  return { size, source: sourceOfBlocks(source, tableOf(blocks, source.name, load), room.all) };
}

function tableOf(blocks: XzBlocks, name: string | undefined, load: LoadXz): BlockTable {
  return {
    count: blocks.count,
    size: blocks.starts[blocks.count],
    start: (index) => blocks.starts[index],
    packed: (index) => ({ at: blocks.at[index], length: padded(blocks.unpadded[index]) }),
    async decode(index, packed) {
      const size = blocks.starts[index + 1] - blocks.starts[index];
      const block = { unpadded: blocks.unpadded[index], size, check: blocks.check[index] };
      try {
        return await decodeBlock(packed, block, load);
      } catch (error) {
        throw xzError(name, `block ${index} (at ${blocks.at[index]})`, error);
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
  load: LoadXz,
): Promise<Uint8Array> {
  if (check !== Check.sha256)
    return decodeFile(wrapBlock(packed, { unpadded, size, check }), size, load);
  if (crypto.subtle === undefined)
    throw new MillraceError(
      'EUNSUPPORTED',
      'its SHA-256 cannot be checked in a page without a secure context',
    );
  const bare = { unpadded: unpadded - SHA256_BYTES, size, check: Check.none };
  const block = await decodeFile(wrapBlock(packed.subarray(0, -SHA256_BYTES), bare), size, load);
  const sum = new Uint8Array(await crypto.subtle.digest('SHA-256', block));
  if (!sum.every((byte, at) => byte === packed[packed.length - SHA256_BYTES + at]))
    throw new XzFailure(7);
  return block;
}

/** A file of one stream that gives exactly `size` bytes. */
async function decodeFile(
  file: Uint8Array,
  size: number,
  load: LoadXz,
): Promise<Uint8Array<ArrayBuffer>> {
  const context = new XzContext(await load());
  const block = new Uint8Array(size);
  let filled = 0;
  let slice = 0;
  try {
    for (const piece of context.decode(file)) {
      if (piece.length > size - filled)
        throw new Error(`it gives more than the ${size} bytes it claims`);
      block.set(piece, filled);
      filled += piece.length;
      slice += piece.length;
      if (slice < SLICE_BYTES) continue;
      slice = 0;
      await nextTurn();
    }
    context.end();
    if (filled !== size) throw new Error(`it gives ${filled} of the ${size} bytes it claims`);
  } finally {
    context.close();
  }
  return block;
}

/**
 * All streams of a file, one after another, as they come.
 * @throws MillraceError `ECORRUPT`, `EUNSUPPORTED`
 */
export async function* decodeXz(
  input: AsyncIterable<Uint8Array>,
  name: string | undefined,
  load: LoadXz,
): AsyncGenerator<Uint8Array> {
  const context = new XzContext(await load());
  try {
    for await (const bytes of input) {
      let slice = 0;
      for (const piece of context.decode(bytes)) {
        yield piece.slice();
        slice += piece.length;
        if (slice < SLICE_BYTES) continue;
        slice = 0;
        await nextTurn();
      }
    }
    context.end();
  } catch (error) {
    throw xzError(name, 'the data', error);
  } finally {
    context.close();
  }
}

function xzError(name: string | undefined, where: string, error: unknown): unknown {
  if (error instanceof MillraceError) return error;
  const reason = messageOf(error);
  if (error instanceof XzFailure && error.isUnsupported)
    return unsupported(name, 'xz', `cannot be read: ${reason} (${where})`);
  return corrupt(name, 'xz', `${reason} (${where})`, error);
}
