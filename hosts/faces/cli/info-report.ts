/** What `millrace info` tells of an image, in the fields of `qemu-img info --output=json`. */
import type { AesInfo, ImageInfo, LuksInfo } from '../../api/image.ts';
import { SIZE_UNMEASURED } from '../../bases/containers/pass.ts';
import { jsonSnapshot } from './snapshot-list.ts';

const SECTOR_BYTES = 512;

/** What is told of a format, in the names of `qemu-img info`. */
export type Detail = string | number | boolean | Detail[] | { [name: string]: Detail | undefined };

/** `qemu-img info --output=json`, field for field, and `remaining`. */
export interface InfoReport {
  snapshots?: Record<string, string | number | undefined>[];
  /** Left out where it is not known before all of the image has been read. */
  'virtual-size'?: number;
  filename: string;
  /** What the image was unpacked from. */
  container?: {
    formats: readonly string[];
    member?: string;
    size?: number;
    access: 'random' | 'sequential';
  };
  'cluster-size'?: number;
  format: string;
  'actual-size'?: number;
  'format-specific'?: {
    type: 'qcow2';
    data: Record<string, Detail | undefined>;
  };
  'backing-filename'?: string;
  'full-backing-filename'?: string;
  'backing-filename-format'?: string;
  'dirty-flag': boolean;
  encrypted?: true;
  /**
   * Bytes that are not populated: neither written nor streamed; not told where they are in a file
   * of their own.
   */
  remaining?: number;
}

export function virtualSizeOf({ virtualSize }: ImageInfo): number | undefined {
  const bytes = Math.ceil(virtualSize / SECTOR_BYTES) * SECTOR_BYTES;
  return bytes === SIZE_UNMEASURED ? undefined : bytes;
}

function containerOf({ container }: ImageInfo): InfoReport['container'] {
  if (container === undefined) return undefined;
  const { formats, member, packedSize: size, access } = container;
  return { formats, member, size, access };
}

export function reportOf(
  filename: string,
  image: ImageInfo,
  allocated: number | undefined,
  remaining: number | undefined,
): InfoReport {
  return {
    snapshots: image.snapshots?.map(jsonSnapshot),
    'virtual-size': virtualSizeOf(image),
    filename,
    container: containerOf(image),
    'cluster-size': image.clusterSize,
    format: image.format,
    'actual-size': allocated,
    'format-specific':
      image.format === 'qcow2' ? { type: 'qcow2', data: qcow2Data(image) } : undefined,
    'backing-filename': image.backingFile,
    'full-backing-filename':
      image.backingFile === undefined ? undefined : besides(filename, image.backingFile),
    'backing-filename-format': image.backingFormat,
    encrypted: image.encryption && true,
    'dirty-flag': image.dirty ?? false,
    remaining,
  };
}

/** Version 2 has no feature bits to tell of. */
function qcow2Data(image: ImageInfo): Record<string, Detail | undefined> {
  const { compressionType, refcountBits, lazyRefcounts, corrupt, extendedL2, dataFile } = image;
  const encrypt = image.encryption && encryptionDetail(image.encryption);
  const common = { 'compression-type': compressionType, 'refcount-bits': refcountBits, encrypt };
  if (image.version === 2) return { compat: '0.10', ...common };
  return {
    compat: '1.1',
    'compression-type': compressionType,
    'lazy-refcounts': lazyRefcounts,
    bitmaps: image.bitmaps?.map(({ flags, name, granularity }) => ({ flags, name, granularity })),
    'refcount-bits': refcountBits,
    encrypt,
    'data-file': dataFile?.name,
    'data-file-raw': dataFile?.raw,
    corrupt,
    'extended-l2': extendedL2,
  };
}

function encryptionDetail(encryption: AesInfo | LuksInfo): Detail {
  if (encryption.format === 'aes') return { format: 'aes' };
  return {
    'ivgen-alg': encryption.ivgen,
    'hash-alg': encryption.hash,
    'cipher-alg': encryption.cipher,
    uuid: encryption.uuid,
    'ivgen-hash-alg': encryption.ivgenHash,
    format: encryption.format,
    'cipher-mode': encryption.mode,
    slots: encryption.slots.map(({ keyOffset, iterations, stripes }) => ({
      active: iterations !== undefined,
      iters: iterations,
      'key-offset': keyOffset,
      stripes,
    })),
    'payload-offset': encryption.payloadOffset,
    'master-key-iters': encryption.masterKeyIterations,
  };
}

/**
 * A relative backing file lies beside its image; the path is told as QEMU tells it, which does not
 * shorten it.
 */
function besides(image: string, backing: string): string {
  if (backing.startsWith('/') || /^[^/]*:/.test(backing)) return backing;
  return image.slice(0, image.lastIndexOf('/') + 1) + backing;
}
