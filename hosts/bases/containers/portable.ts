/** Decompressors that run everywhere but where WebAssembly cannot be compiled at run time. */
import { bunzip2 } from './bzip2.ts';
import type { Decompress, Decompressors } from './decompress.ts';
import { portableGzip } from './gzip.ts';
import { bareZstd } from './portable-zstd.ts';
import { loadXz, xzDecompressor } from './xz-decoder.ts';

export const portableDecompressors: Decompressors = {
  gzip: portableGzip,
  gzipMember: portableGzip,
  zstd: withCheckSum(bareZstd),
  xz: async () => xzDecompressor(await loadXz()),
  bzip2: async () => bunzip2,
};

/**
 * Compares a frame's check sum, where there is one: the low half of XXH64 (RFC 8878, section
 * 3.1.1).
 */
export function withCheckSum(load: () => Promise<Decompress>): () => Promise<Decompress> {
  return async () => {
    const [decompress, { default: xxhash }] = await Promise.all([load(), import('xxhash-wasm')]);
    const hashes = await xxhash();
    return (input) => checked(hashes, decompress, input);
  };
}

type Hashes = Awaited<ReturnType<typeof import('xxhash-wasm')['default']>>;

async function* checked(
  hashes: Hashes,
  decompress: Decompress,
  input: AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  const hash = hashes.create64();
  let last = new Uint8Array(0);
  let hasChecksum: boolean | undefined;
  const noted = async function* (): AsyncGenerator<Uint8Array> {
    for await (const bytes of input) {
      hasChecksum ??= (bytes[4] & 4) !== 0;
      last = lastFour(last, bytes);
      yield bytes;
    }
  };
  for await (const piece of decompress(noted())) {
    hash.update(piece);
    yield piece;
  }
  const sum = new DataView(last.buffer).getUint32(0, true);
  if (hasChecksum && BigInt(sum) !== (hash.digest() & 0xffffffffn))
    throw new Error('its check sum is wrong');
}

function lastFour(before: Uint8Array, bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  return new Uint8Array([...before.subarray(-4), ...bytes.subarray(-4)].slice(-4));
}
