/** zstd by libzstd as WebAssembly, which compares the check sum behind a frame. */
import { giveZstd, takeZstd, ZstdStream } from '../../decoders/zstd.ts';
import type { Decompress } from './decompress.ts';
import { copiesInTurns } from './turn.ts';

/** Decoded between two turns of the event loop: some milliseconds. */
const SLICE_BYTES = 1024 * 1024;

/** A frame, by this module. */
export function zstdDecompressor(module: WebAssembly.Module): Decompress {
  return (input) => unzstd(module, input);
}

async function* unzstd(
  module: WebAssembly.Module,
  input: AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  const exports = takeZstd(module);
  const stream = new ZstdStream(exports);
  try {
    for await (const bytes of input) yield* copiesInTurns(stream.decode(bytes), SLICE_BYTES);
    stream.end();
  } finally {
    stream.close();
    giveZstd(exports);
  }
}
