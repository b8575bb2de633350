/** zstd by libzstd as WebAssembly, which compares the check sum behind a frame. */
import { giveZstd, takeZstd, ZstdFailure, ZstdStream } from '../../decoders/zstd.ts';
import type { Decompress } from './decompress.ts';
import { Undecodable } from './decompress.ts';
import { nextTurn } from './turn.ts';

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
    let slice = 0;
    for await (const bytes of input) {
      for (const piece of stream.decode(bytes)) {
        yield piece.slice();
        slice += piece.length;
        if (slice < SLICE_BYTES) continue;
        slice = 0;
        await nextTurn();
      }
    }
    stream.end();
  } catch (error) {
    throw error instanceof ZstdFailure
      ? new Undecodable(error.message, error.isUnsupported)
      : error;
  } finally {
    stream.close();
    giveZstd(exports);
  }
}
