/**
 * What decompresses from start to end. Each runtime brings its quickest: those of node:zlib are
 * here, those that run everywhere in portable.ts. All check what the format has to check by.
 */
import { MillraceError, messageOf } from '../../api/errors.ts';
import { Undecodable } from '../../decoders/undecodable.ts';
import { corrupt, unsupported } from './bytes.ts';
import type { InflateOptions, NodeInflate } from './node-gzip.ts';
import { gunzip, INFLATE_OPTIONS } from './node-gzip.ts';

/**
 * Gives what `input` decompresses to, in pieces that stay as they are; throws where it is damaged
 * or cut off.
 */
export type Decompress = (input: AsyncIterable<Uint8Array>) => AsyncIterable<Uint8Array>;

/** How to get each; asked when it is first needed. */
export interface Decompressors {
  /** All members; what follows them and is none is left out, as gzip does. */
  gzip(): Promise<Decompress>;
  /** One member, with nothing behind it. */
  gzipMember(): Promise<Decompress>;
  /** One frame, with nothing behind it. */
  zstd(): Promise<Decompress>;
  /** All streams, with what pads them. Their SHA-256 is not compared. */
  xz(): Promise<Decompress>;
  /** All streams; what follows them and is none is left out, as bzip2 does. */
  bzip2(): Promise<Decompress>;
}

/** As much of a stream of node:zlib as is needed here. */
export interface NodeTransform extends AsyncIterable<Uint8Array> {
  write(bytes: Uint8Array, done?: () => void): boolean;
  end(): void;
  destroy(error?: Error): unknown;
  once(event: 'drain' | 'close', listener: () => void): unknown;
  off(event: 'drain' | 'close', listener: () => void): unknown;
  readonly destroyed: boolean;
}

/** What runtimes with node:zlib have; zstd from Node 22.15 on, and not all of the rest before. */
export interface NodeZlib extends Partial<NodeInflate> {
  createGunzip(options: InflateOptions): NodeTransform;
  createZstdDecompress?(options: InflateOptions): NodeTransform;
}

/** Decompressors of node:zlib, where it has them, and the others. */
export function nodeDecompressors(zlib: NodeZlib, others: Decompressors): Decompressors {
  const { createZstdDecompress, createInflateRaw, crc32 } = zlib;
  return {
    ...others,
    gzip:
      createInflateRaw === undefined || crc32 === undefined
        ? others.gzip
        : async () => (input) => gunzip({ createInflateRaw, crc32 }, input),
    gzipMember: async () => (input) => through(zlib.createGunzip(INFLATE_OPTIONS), input),
    zstd:
      createZstdDecompress === undefined
        ? others.zstd
        : async () => (input) => through(createZstdDecompress(INFLATE_OPTIONS), input),
  };
}

async function* through(
  transform: NodeTransform,
  input: AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  const feeding = feed(transform, input);
  try {
    for await (const piece of transform)
      yield new Uint8Array(piece.buffer, piece.byteOffset, piece.byteLength);
  } finally {
    transform.destroy();
    await feeding;
  }
}

/** Never rejects: what goes wrong ends the transform. */
async function feed(transform: NodeTransform, input: AsyncIterable<Uint8Array>): Promise<void> {
  try {
    for await (const bytes of input) {
      if (!transform.write(bytes)) await drained(transform);
      if (transform.destroyed) return;
    }
    transform.end();
  } catch (error) {
    transform.destroy(error as Error);
  }
}

function drained(transform: NodeTransform): Promise<void> {
  return new Promise((resolve) => {
    const over = (): void => {
      transform.off('drain', over);
      transform.off('close', over);
      resolve();
    };
    transform.once('drain', over);
    transform.once('close', over);
    if (transform.destroyed) over();
  });
}

/** A decoder's failure by name; `where` it stands, where that is not all of it. */
export function asDamage(
  error: unknown,
  format: string,
  name: string | undefined,
  where?: string,
): MillraceError {
  if (error instanceof MillraceError) return error;
  const reason = where === undefined ? messageOf(error) : `${messageOf(error)} (${where})`;
  if (error instanceof Undecodable && error.isUnsupported)
    return unsupported(name, format, `cannot be read: ${reason}`);
  return corrupt(name, format, reason, error);
}

/**
 * Runs a decompressor, and calls its failures by name: what is wrong with the input itself stays as
 * it is.
 */
export async function* decompressed(
  decompress: Decompress,
  input: AsyncIterable<Uint8Array>,
  format: string,
  name: string | undefined,
): AsyncGenerator<Uint8Array> {
  let failure: { error: unknown } | undefined;
  const guarded = (async function* () {
    try {
      yield* input;
    } catch (error) {
      failure = { error };
      throw error;
    }
  })();
  try {
    yield* decompress(guarded);
  } catch (error) {
    if (failure !== undefined) throw failure.error;
    throw asDamage(error, format, name);
  }
}
