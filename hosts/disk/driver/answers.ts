/** What the engine answers on images, extents and checks, in the words of the public calls. */
import {
  ABSENT,
  CHECK_ALLOCATED,
  CHECK_COMPRESSED,
  CHECK_CORRUPTIONS,
  CHECK_CORRUPTIONS_FIXED,
  CHECK_END,
  CHECK_FRAGMENTED,
  CHECK_LEAKS,
  CHECK_LEAKS_FIXED,
  CHECK_NUMBERS,
  COMPRESSED_DATA,
  DATA,
  EXTENT_BYTES,
  EXTENT_DEPTH,
  EXTENT_FILE_BITS,
  EXTENT_HOST,
  EXTENT_LENGTH,
  EXTENT_OFFSET,
  EXTENT_STATE,
  IMAGE_CLUSTER_SIZE,
  IMAGE_COMPRESSION,
  IMAGE_CORRUPT,
  IMAGE_DATA_FILE_AT,
  IMAGE_DATA_FILE_BYTES,
  IMAGE_DIRTY,
  IMAGE_EXTENDED_L2,
  IMAGE_EXTERNAL_DATA,
  IMAGE_FILE_SIZE,
  IMAGE_FORMAT,
  IMAGE_FORMAT_AT,
  IMAGE_FORMAT_BYTES,
  IMAGE_LAZY_REFCOUNTS,
  IMAGE_NAME_AT,
  IMAGE_NAME_BYTES,
  IMAGE_RAW_DATA,
  IMAGE_REFCOUNT_BITS,
  IMAGE_SIZE,
  IMAGE_VERSION,
  IMAGES_MAX,
  KIND_CHECK,
  KIND_MAP,
  MAP_BYTES,
  REPAIR_ALL,
  REPAIR_LEAKS,
  REPAIR_NOTHING,
  ZEROES,
} from '../../../engine/protocol.ts';
import type { CheckReport } from '../../api/check.ts';
import type { Extent } from '../../api/disk.ts';
import { MillraceError } from '../../api/errors.ts';
import type { DataFileInfo, ImageInfo } from '../../api/image.ts';
import type { Engine } from './engine.ts';
import { formatName } from './formats.ts';

const STATES: Readonly<Record<number, Extent['state']>> = {
  [ABSENT]: 'absent',
  [DATA]: 'data',
  [ZEROES]: 'zero',
  [COMPRESSED_DATA]: 'compressed',
};
const REPAIRS = { leaks: REPAIR_LEAKS, all: REPAIR_ALL } as const;

/** An image of the chain, by its number in the engine. */
export function imageOf(engine: Engine, index: number): ImageInfo {
  const image = engine.imageReport(index);
  const info: ImageInfo = {
    name: engine.name(index),
    format: formatName(image[IMAGE_FORMAT]) ?? 'raw',
    virtualSize: image[IMAGE_SIZE],
    fileSize: image[IMAGE_FILE_SIZE],
    container: engine.file(index)?.container,
    files: filesOf(engine, index),
  };
  if (info.format !== 'qcow2') {
    const clusterSize = image[IMAGE_CLUSTER_SIZE];
    return clusterSize ? { ...info, clusterSize } : info;
  }
  return {
    ...info,
    version: image[IMAGE_VERSION],
    clusterSize: image[IMAGE_CLUSTER_SIZE],
    compressionType: image[IMAGE_COMPRESSION] ? 'zstd' : 'zlib',
    refcountBits: image[IMAGE_REFCOUNT_BITS],
    lazyRefcounts: image[IMAGE_LAZY_REFCOUNTS] !== 0,
    extendedL2: image[IMAGE_EXTENDED_L2] !== 0,
    corrupt: image[IMAGE_CORRUPT] !== 0,
    dirty: image[IMAGE_DIRTY] !== 0,
    dataFile: dataFileOf(engine, index, image),
    backingFile:
      engine.texts.text(index, image[IMAGE_NAME_AT], image[IMAGE_NAME_BYTES]) || undefined,
    backingFormat:
      engine.texts.text(index, image[IMAGE_FORMAT_AT], image[IMAGE_FORMAT_BYTES]) || undefined,
  };
}

function filesOf(engine: Engine, index: number): string[] | undefined {
  const { files } = (engine.file(index) ?? {}) as { files?: readonly string[] };
  return files && [...files];
}

function dataFileOf(engine: Engine, index: number, image: Float64Array): DataFileInfo | undefined {
  if (!image[IMAGE_EXTERNAL_DATA]) return undefined;
  const name = engine.texts.text(index, image[IMAGE_DATA_FILE_AT], image[IMAGE_DATA_FILE_BYTES]);
  return { name: name || undefined, raw: image[IMAGE_RAW_DATA] !== 0 };
}

/** Checks image 0 of an engine, which shows `size` bytes, and repairs it if that is asked for. */
export async function checkWith(
  engine: Engine,
  size: number,
  repair?: 'leaks' | 'all',
): Promise<CheckReport> {
  if (repair !== undefined && !Object.hasOwn(REPAIRS, repair))
    throw new MillraceError('EINVAL', `cannot repair '${repair}': it is leaks or all`);
  const numbers = new Uint8Array(CHECK_NUMBERS * 8);
  await engine.request(KIND_CHECK, 0, 0, repair ? REPAIRS[repair] : REPAIR_NOTHING, {
    into: numbers,
  });
  const view = new DataView(numbers.buffer);
  const number = (index: number) => view.getFloat64(index * 8, true);
  return {
    corruptions: number(CHECK_CORRUPTIONS),
    leaks: number(CHECK_LEAKS),
    corruptionsFixed: number(CHECK_CORRUPTIONS_FIXED),
    leaksFixed: number(CHECK_LEAKS_FIXED),
    allocatedClusters: number(CHECK_ALLOCATED),
    totalClusters: Math.ceil(size / engine.exports.clusterSize()),
    compressedClusters: number(CHECK_COMPRESSED),
    fragmentedClusters: number(CHECK_FRAGMENTED),
    imageEndOffset: number(CHECK_END),
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
