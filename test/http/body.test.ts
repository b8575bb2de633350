/** The pieces of a body, of byte streams and of others. */
import { describe, expect, it } from 'vitest';
import { piecesOf } from '../../hosts/bases/http/body.ts';
import { makeContent } from '../fixtures/content.ts';

const BYTES = 3_000_000;
const content = makeContent('random', 1, BYTES);

/** A stream that brings the content in pieces of its own size. */
function streamOf(type: 'bytes' | undefined, step: number): ReadableStream<Uint8Array> {
  let at = 0;
  const pull = (
    controller: ReadableByteStreamController | ReadableStreamDefaultController<Uint8Array>,
  ): void => {
    if (at >= BYTES) {
      controller.close();
      if ('byobRequest' in controller) controller.byobRequest?.respond(0);
      return;
    }
    controller.enqueue(content.slice(at, at + step));
    at += step;
  };
  return type === 'bytes'
    ? new ReadableStream({ type, pull })
    : new ReadableStream({ pull }, { highWaterMark: 0 });
}

describe.each([
  ['a byte stream', 'bytes'],
  ['any other stream', undefined],
] as const)('%s', (_, type) => {
  it.each([1000, 100_000, 1_500_000])(
    'brings all of it, in pieces that stay good while the next one is read; it has %i bytes at a time',
    async (step) => {
      const reader = piecesOf(streamOf(type, step), BYTES);
      const found = Buffer.alloc(BYTES);
      let at = 0;
      let last = new Uint8Array(0);
      for (let piece = await reader.read(); ; piece = await reader.read()) {
        found.set(last, at);
        at += last.length;
        if (piece.done) break;
        last = piece.value! as Uint8Array<ArrayBuffer>;
      }
      expect(at).toBe(BYTES);
      expect(Buffer.compare(found, content)).toBe(0);
    },
  );

  it('ends when it is cancelled, a read that waits as well', async () => {
    let cancelled = false;
    const silent = { cancel: () => void (cancelled = true) };
    const reader = piecesOf(
      type === 'bytes' ? new ReadableStream({ type, ...silent }) : new ReadableStream(silent),
      BYTES,
    );
    const reading = reader.read();
    await reader.cancel();
    expect((await reading).done).toBe(true);
    expect(cancelled).toBe(true);
  });
});

it('takes no buffer larger than what is to come', async () => {
  const reader = piecesOf(streamOf('bytes', 1000), 1000);
  expect((await reader.read()).value!.buffer.byteLength).toBe(1000);
});
