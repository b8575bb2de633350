/** Decompressors that run everywhere but where WebAssembly cannot be compiled at run time. */
import type { Decompress, Decompressors } from './decompress.ts';
import { portableGzip } from './gzip.ts';
import { nextTurn } from './turn.ts';

export const portableDecompressors: Decompressors = {
  gzip: portableGzip,
  gzipMember: portableGzip,
  zstd: portableZstd,
};

async function portableZstd(): Promise<Decompress> {
  const [{ Decompress }, { default: xxhash }] = await Promise.all([
    import('fzstd'),
    import('xxhash-wasm'),
  ]);
  const hashes = await xxhash();
  return (input) => unzstd(Decompress, hashes, input);
}

type FzstdDecompress = typeof import('fzstd')['Decompress'];
type Hashes = Awaited<ReturnType<typeof import('xxhash-wasm')['default']>>;

/**
 * fzstd leaves out the check sum that may stand behind the frame: the low half of XXH64 (RFC 8878,
 * section 3.1.1).
 */
async function* unzstd(
  FrameDecoder: FzstdDecompress,
  hashes: Hashes,
  input: AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  const out: Uint8Array[] = [];
  const decoder = new FrameDecoder((piece) => void out.push(piece.slice()));
  const hash = hashes.create64();
  let last = new Uint8Array(0);
  let hasChecksum: boolean | undefined;
  for await (const bytes of input) {
    hasChecksum ??= (bytes[4] & 4) !== 0;
    last = lastFour(last, bytes);
    decoder.push(bytes);
    for (const piece of out.splice(0)) {
      hash.update(piece);
      yield piece;
    }
    await nextTurn();
  }
  decoder.push(new Uint8Array(0), true);
  for (const piece of out.splice(0)) {
    hash.update(piece);
    yield piece;
  }
  const sum = new DataView(last.buffer).getUint32(0, true);
  if (hasChecksum && BigInt(sum) !== (hash.digest() & 0xffffffffn))
    throw new Error('its check sum is wrong');
}

function lastFour(before: Uint8Array, bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  const both = new Uint8Array([...before.subarray(-4), ...bytes.subarray(-4)].slice(-4));
  return both;
}
