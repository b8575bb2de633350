/** zstd by the package `fzstd`, which runs everywhere. */
import type { Decompress } from './decompress.ts';
import { nextTurn } from './turn.ts';

/** A frame by fzstd, which leaves out the check sum that may stand behind it. */
export async function bareZstd(): Promise<Decompress> {
  const { Decompress } = await import('fzstd');
  return (input) => unzstd(Decompress, input);
}

type FzstdDecompress = typeof import('fzstd')['Decompress'];

async function* unzstd(
  FrameDecoder: FzstdDecompress,
  input: AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  const out: Uint8Array[] = [];
  const decoder = new FrameDecoder((piece) => void out.push(piece.slice()));
  for await (const bytes of input) {
    decoder.push(bytes);
    yield* out.splice(0);
    await nextTurn();
  }
  decoder.push(new Uint8Array(0), true);
  yield* out.splice(0);
}
