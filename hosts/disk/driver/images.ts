/** What the engine reports on an image, in the words of the public calls. */
import {
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
  OVERLAY,
} from '../../../engine/protocol.ts';
import type { DataFileInfo, ImageInfo } from '../../api/image.ts';
import type { Engine } from './engine.ts';
import { formatName } from './formats.ts';

/**
 * The images of the chain, from the overlay down; `baseless`: what lies below the overlay only
 * stands for a base that was left unopened.
 */
export function chainOf(engine: Engine, { baseless }: { baseless: boolean }): ImageInfo[] {
  const images = [imageOf(engine, OVERLAY)];
  for (let depth = 1; !baseless && engine.exports.imageAtDepth(depth) >= 0; depth++)
    images.push(imageOf(engine, engine.exports.imageAtDepth(depth)));
  return images;
}

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
