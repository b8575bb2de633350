/** What the engine answers on images, extents and checks, in the words of the public calls. */
import type { CheckReport, Extent, ImageFormat, ImageInfo } from '../../api/disk.ts';
import { MillraceError } from '../../api/errors.ts';
import type { Engine } from './engine.ts';
import { Kind } from './engine.ts';
import { ImageField } from './reports.ts';

const FORMATS: readonly (ImageFormat | undefined)[] = [undefined, 'raw', 'qcow2'];
const STATES = ['absent', 'data', 'zero', 'compressed'] as const;
/** Arguments of a check request, and the bytes of its answer: eight 64-bit floats. */
const REPAIRS = { leaks: 1, all: 2 } as const;
const CHECK_REPORT_BYTES = 64;
const EXTENT_BYTES = 32;
const EXTENTS_BLOCK_BYTES = 65536;

/** An image of the chain, by its number in the engine. */
export function imageOf(engine: Engine, index: number): ImageInfo {
  const image = engine.imageReport(index);
  const info: ImageInfo = {
    name: engine.name(index),
    format: FORMATS[image[ImageField.format]] ?? 'raw',
    virtualSize: image[ImageField.size],
    fileSize: image[ImageField.fileSize],
  };
  if (info.format === 'raw') return info;
  return {
    ...info,
    version: image[ImageField.version],
    clusterSize: image[ImageField.clusterSize],
    compressionType: image[ImageField.compression] ? 'zstd' : 'zlib',
    refcountBits: image[ImageField.refcountBits],
    lazyRefcounts: image[ImageField.lazyRefcounts] !== 0,
    extendedL2: image[ImageField.extendedL2] !== 0,
    corrupt: image[ImageField.corrupt] !== 0,
    dirty: image[ImageField.dirty] !== 0,
    backingFile:
      engine.texts.text(index, image[ImageField.nameAt], image[ImageField.nameBytes]) || undefined,
    backingFormat:
      engine.texts.text(index, image[ImageField.formatAt], image[ImageField.formatBytes]) ||
      undefined,
  };
}

/** Checks image 0 of an engine, which shows `size` bytes, and repairs it if that is asked for. */
export async function checkWith(
  engine: Engine,
  size: number,
  repair?: 'leaks' | 'all',
): Promise<CheckReport> {
  if (repair !== undefined && !Object.hasOwn(REPAIRS, repair))
    throw new MillraceError('EINVAL', `cannot repair '${repair}': it is leaks or all`);
  const numbers = new Uint8Array(CHECK_REPORT_BYTES);
  await engine.request(Kind.check, 0, 0, repair ? REPAIRS[repair] : 0, { into: numbers });
  const view = new DataView(numbers.buffer);
  const number = (index: number) => view.getFloat64(index * 8, true);
  return {
    corruptions: number(0),
    leaks: number(1),
    corruptionsFixed: number(2),
    leaksFixed: number(3),
    allocatedClusters: number(4),
    totalClusters: Math.ceil(size / engine.exports.clusterSize()),
    compressedClusters: number(5),
    fragmentedClusters: number(7),
    imageEndOffset: number(6),
  };
}

/** The extents of a range down to an image of the chain (0: all of it), each as long as can be. */
export async function* extentsOf(
  engine: Engine,
  offset: number,
  end: number,
  depth: number,
): AsyncGenerator<Extent> {
  let held: Extent | undefined;
  for (let at = offset; at < end; ) {
    const block = new Uint8Array(EXTENTS_BLOCK_BYTES);
    at = await engine.request(Kind.map, at, end - at, depth, { into: block });
    for (const extent of extentsIn(block, at)) {
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
function* extentsIn(block: Uint8Array, end: number): Generator<Extent> {
  const view = new DataView(block.buffer);
  const number = (at: number) =>
    view.getUint32(at, true) + view.getUint32(at + 4, true) * 4294967296;
  for (let at = 0, reached = 0; reached < end && at < block.length; at += EXTENT_BYTES) {
    const extent: Extent = {
      offset: number(at),
      length: number(at + 8),
      state: STATES[view.getUint32(at + 24, true)],
      depth: view.getUint32(at + 28, true),
    };
    if (extent.length === 0) return;
    const hostOffset = number(at + 16);
    if (extent.state === 'data' || hostOffset) extent.hostOffset = hostOffset;
    reached = extent.offset + extent.length;
    yield extent;
  }
}

/** Whether an extent continues the one before it, across two answers. */
function goesOn(before: Extent, extent: Extent): boolean {
  if (before.state !== extent.state || before.depth !== extent.depth) return false;
  return before.hostOffset === undefined
    ? extent.hostOffset === undefined
    : before.hostOffset + before.length === extent.hostOffset;
}
