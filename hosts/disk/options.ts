/**
 * The options that disks are opened and made with: each is checked before anything is opened, and
 * handed on as the engine takes it.
 */
import {
  CREATE_COMPRESSION_SHIFT,
  CREATE_EXTENDED_L2_SHIFT,
  CREATE_LAZY_REFCOUNTS_SHIFT,
  CREATE_REFCOUNT_ORDER_SHIFT,
  MEMORY_BYTES_MAX,
  MEMORY_BYTES_MIN,
  METHOD_DEFLATE,
  METHOD_ZSTD,
} from '../../engine/protocol.ts';
import type { BlockFile, BlockSource } from '../api/block.ts';
import type { Compression } from '../api/codec.ts';
import { MillraceError } from '../api/errors.ts';
import type { ImageFormat } from '../api/image.ts';
import type { CacheMode, CreateOptions, OpenOptions } from '../api/open.ts';
import { FORMAT_NAMES, formatNumber, isFormat } from './driver/formats.ts';

const MEMORY_BYTES_DEFAULT = 32 * 1024 * 1024;
const CLUSTER_BYTES_DEFAULT = 65536;
const REFCOUNT_BITS_DEFAULT = 16;
export const SECTOR_BYTES = 512;
const CACHE_MODES: readonly CacheMode[] = ['writeback', 'unsafe'];

/** Bytes of memory for one disk. */
export function checkedMemory(memory: number = MEMORY_BYTES_DEFAULT): number {
  if (!Number.isFinite(memory) || memory < MEMORY_BYTES_MIN || memory > MEMORY_BYTES_MAX)
    throw new MillraceError('EINVAL', `memory of ${memory} bytes: it is 8 MiB to 1 GiB a disk`);
  return memory;
}

/**
 * Before anything is opened or made: a file of the caller's own that lacks something would be
 * noticed when it is needed, or never.
 */
export function mustBeLocation(what: 'overlay' | 'base', location: string | BlockSource): void {
  if (typeof location === 'string' || isSource(location)) return;
  const places = what === 'overlay' ? 'a path or name' : 'a path or a URL';
  const writing = what === 'overlay' ? ', and write, flush and truncate if it is written' : '';
  throw new MillraceError(
    'EINVAL',
    `the ${what} is ${places}, or an opened file: an object with size (bytes), read and close${writing}`,
  );
}

function isSource(file: Partial<BlockFile> | null | undefined): boolean {
  const { size, read, close, write, flush, truncate } = file ?? {};
  const calls = write === undefined ? [read, close] : [read, close, write, flush, truncate];
  return (
    Number.isSafeInteger(size) && size! >= 0 && calls.every((call) => typeof call === 'function')
  );
}

export function mustBeWritable(overlay: string | BlockFile | BlockSource, writable: boolean): void {
  if (!writable || typeof overlay === 'string' || 'write' in overlay) return;
  throw new MillraceError(
    'EROFS',
    `${overlayName(overlay)} can only be read: open it read-only, or create an overlay over it`,
  );
}

export function overlayName(overlay: string | BlockSource): string {
  return typeof overlay === 'string' ? overlay : (overlay.name ?? 'the overlay');
}

/** The engine's number of a format; without a name, it is to be told by the first bytes. */
export function checkedFormat(format: ImageFormat | undefined): number {
  if (format !== undefined && !isFormat(format))
    throw new MillraceError(
      'EUNSUPPORTED',
      `the format '${format}' is not supported: must be ${FORMAT_NAMES.join(', ')}`,
    );
  return formatNumber(format);
}

/** A file that the caller brings flushes as it likes. */
export function checkedCache({
  overlay,
  cache,
}: Pick<OpenOptions, 'overlay' | 'cache'>): CacheMode | undefined {
  if (cache === undefined) return undefined;
  if (!CACHE_MODES.includes(cache))
    throw new MillraceError(
      'EINVAL',
      `a cache mode of '${cache}': it is ${CACHE_MODES.join(' or ')}`,
    );
  if (cache === 'unsafe' && typeof overlay !== 'string')
    throw new MillraceError(
      'EINVAL',
      `${overlayName(overlay)}: the cache mode 'unsafe' is for an overlay given by path or name`,
    );
  return cache;
}

/** By an empty name an overlay would have no base, and show zeros where that holds data. */
export function checkedRecord(name: string | undefined): string | undefined {
  if (name === '') throw new MillraceError('EINVAL', 'a base cannot be recorded by an empty name');
  return name;
}

export function checkedSize(size: number | undefined): number | undefined {
  if (size === undefined) return undefined;
  if (!Number.isSafeInteger(size) || size < 0 || size % SECTOR_BYTES)
    throw new MillraceError(
      'EINVAL',
      `a disk of ${size} bytes: the size is a multiple of ${SECTOR_BYTES}`,
    );
  return size;
}

const METHODS = { zlib: METHOD_DEFLATE, zstd: METHOD_ZSTD } as const;

/**
 * Cluster size, refcount width, kind of L2 entries, method of compression and whether refcounts may
 * be lazy, as the engine takes them in one number.
 */
export function checkedShape(options: CreateOptions): number {
  const clusterBits = powerOfTwo(
    'cluster size',
    options.clusterSize ?? CLUSTER_BYTES_DEFAULT,
    512,
    2 * 1024 * 1024,
  );
  const refcountOrder = powerOfTwo(
    'refcount width',
    options.refcountBits ?? REFCOUNT_BITS_DEFAULT,
    1,
    64,
  );
  if (options.extendedL2 && clusterBits < 14)
    throw new MillraceError('EINVAL', 'extended L2 entries need clusters of 16 KiB or more');
  return (
    clusterBits +
    (refcountOrder << CREATE_REFCOUNT_ORDER_SHIFT) +
    (Number(options.extendedL2 ?? false) << CREATE_EXTENDED_L2_SHIFT) +
    (checkedMethod(options.compressionType) << CREATE_COMPRESSION_SHIFT) +
    (Number(options.lazyRefcounts ?? false) << CREATE_LAZY_REFCOUNTS_SHIFT)
  );
}

function checkedMethod(name: Compression = 'zlib'): number {
  if (!Object.hasOwn(METHODS, name))
    throw new MillraceError(
      'EINVAL',
      `a compression type of ${name}: it is ${Object.keys(METHODS).join(' or ')}`,
    );
  return METHODS[name];
}

function powerOfTwo(what: string, value: number, least: number, most: number): number {
  const bits = Math.log2(value);
  if (!Number.isInteger(bits) || value < least || value > most)
    throw new MillraceError(
      'EINVAL',
      `a ${what} of ${value}: it is a power of two from ${least} to ${most}`,
    );
  return bits;
}
