/** What `millrace convert` may be told, and what does not go together. */
import type { Compression } from '../../api/codec.ts';
import { MillraceError } from '../../api/errors.ts';
import type { ImageFormat } from '../../api/image.ts';
import type { CacheMode } from '../../api/open.ts';
import { creationOptions } from './creation.ts';

const SECTOR_BYTES = 512;

export interface ConvertCommandOptions {
  /** The source's. */
  format?: ImageFormat;
  outputFormat: ImageFormat;
  clusterSize?: number;
  refcountBits?: number;
  extendedL2?: boolean;
  compress?: boolean;
  compressionType?: Compression;
  /** Bytes; 0 leaves nothing out. */
  sparseSize?: number;
  /** Tell how far it is where there is no terminal for a bar. */
  progress?: boolean;
  /** As commander has `-n`. */
  create?: boolean;
  followChain?: boolean;
  cacheMode?: CacheMode;
  json?: boolean;
}

export function mustBeSectors(sparseSize = 0): void {
  if (sparseSize % SECTOR_BYTES)
    throw new MillraceError(
      'EINVAL',
      `invalid sparse size ${sparseSize}: must be a multiple of ${SECTOR_BYTES}`,
    );
}

export function mustSuitFormat({
  outputFormat,
  clusterSize,
  compress,
}: ConvertCommandOptions): void {
  if (outputFormat !== 'raw') return;
  if (clusterSize !== undefined)
    throw new MillraceError(
      'EINVAL',
      'a raw image has no clusters: --cluster-size is for -O qcow2',
    );
  if (compress)
    throw new MillraceError('EINVAL', 'a raw image is not compressed: -c is for -O qcow2');
}

/** What `-o` says, among the options. */
export function withCreation({
  o,
  ...options
}: ConvertCommandOptions & { o: string[] }): ConvertCommandOptions {
  const { clusterSize, refcountBits, extendedL2, compressionType, ...others } = creationOptions(o);
  const [other] = Object.keys(others);
  if (other !== undefined)
    throw new MillraceError(
      'EINVAL',
      `a copy stands alone, and is as large as its source: no ${other} in -o`,
    );
  if (o.length > 0 && options.outputFormat === 'raw')
    throw new MillraceError('EINVAL', '-o is for a qcow2 target (-O qcow2)');
  return { clusterSize, refcountBits, extendedL2, compressionType, ...options };
}

/** What may be said of an image that is written over as it is. */
export function mustFit(path: string, options: ConvertCommandOptions): void {
  const { create, outputFormat, clusterSize, refcountBits, extendedL2, compressionType } = options;
  if (outputFormat === 'raw') return;
  if (create !== false)
    throw new MillraceError(
      'EUNSUPPORTED',
      `${path} is a block device, which takes raw copies only (-O raw)`,
    );
  if (options.compress)
    throw new MillraceError(
      'EUNSUPPORTED',
      `${path} would be written over uncompressed: -c makes a new image, without -n`,
    );
  if ([clusterSize, refcountBits, extendedL2, compressionType].some((one) => one !== undefined))
    throw new MillraceError(
      'EINVAL',
      `${path} keeps the clusters that it has: --cluster-size and -o do not go with -n`,
    );
}
