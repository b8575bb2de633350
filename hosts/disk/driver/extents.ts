/** What the engine reports of where data lies, in the words of the public calls. */
import {
  ABSENT,
  COMPRESSED_DATA,
  DATA,
  EXTENT_BYTES,
  EXTENT_DEPTH,
  EXTENT_FILE_BITS,
  EXTENT_HOST,
  EXTENT_LENGTH,
  EXTENT_OFFSET,
  EXTENT_STATE,
  IMAGES_MAX,
  KIND_MAP,
  MAP_BYTES,
  ZEROES,
} from '../../../engine/protocol.ts';
import type { Extent } from '../../api/disk.ts';
import type { Engine } from './engine.ts';

const STATES: Readonly<Record<number, Extent['state']>> = {
  [ABSENT]: 'absent',
  [DATA]: 'data',
  [ZEROES]: 'zero',
  [COMPRESSED_DATA]: 'compressed',
};

/** The extents of a range down to an image of the chain (0: all of it), each as long as can be. */
export async function* extentsOf(
  engine: Engine,
  offset: number,
  end: number,
  depth: number,
): AsyncGenerator<Extent> {
  let held: Extent | undefined;
  for (let at = offset; at < end; ) {
    const block = new Uint8Array(MAP_BYTES);
    at = await engine.request(KIND_MAP, at, end - at, depth, { into: block });
    for (const extent of extentsIn(engine, block, at)) {
      if (held && goesOn(held, extent)) held.length += extent.length;
      else {
        if (held) yield held;
        held = extent;
      }
    }
  }
  if (held) yield held;
}

/** The extents in an answer of the engine, which reaches up to `end`. */
function* extentsIn(engine: Engine, block: Uint8Array, end: number): Generator<Extent> {
  const view = new DataView(block.buffer);
  const number = (at: number) =>
    view.getUint32(at, true) + view.getUint32(at + 4, true) * 4294967296;
  for (let at = 0, reached = 0; reached < end && at < block.length; at += EXTENT_BYTES) {
    const state = view.getUint32(at + EXTENT_STATE, true);
    const file = state >> EXTENT_FILE_BITS;
    const extent: Extent = {
      offset: number(at + EXTENT_OFFSET),
      length: number(at + EXTENT_LENGTH),
      state: STATES[state & ((1 << EXTENT_FILE_BITS) - 1)],
      depth: view.getUint32(at + EXTENT_DEPTH, true),
    };
    if (extent.length === 0) return;
    const hostOffset = number(at + EXTENT_HOST);
    if (extent.state === 'data' || hostOffset) extent.hostOffset = hostOffset;
    if (file >= IMAGES_MAX) extent.hostFile = engine.name(file);
    reached = extent.offset + extent.length;
    yield extent;
  }
}

/** Whether an extent continues the one before it, across two answers. */
function goesOn(before: Extent, extent: Extent): boolean {
  if (before.state !== extent.state || before.depth !== extent.depth) return false;
  if (before.hostFile !== extent.hostFile) return false;
  return before.hostOffset === undefined
    ? extent.hostOffset === undefined
    : before.hostOffset + before.length === extent.hostOffset;
}
