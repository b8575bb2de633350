/** What does not go together in the options of a copy. */
import type { ConvertOptions } from '../../api/convert.ts';
import { MillraceError } from '../../api/errors.ts';
import { SECTOR_BYTES } from '../options.ts';

const FORMATS: readonly unknown[] = ['raw', 'qcow2', undefined];

export function mustSuitFormat(options: ConvertOptions): void {
  const { source, target, base, baseFormat, recordBase, format, compress } = options;
  const { sparseSize = 0 } = options;
  if (typeof source !== 'string' && !(source instanceof URL))
    throw new MillraceError('EINVAL', 'the source of a copy is a path or a URL');
  if (typeof target !== 'string') throw new MillraceError('EINVAL', 'a copy is made at a path');
  if (!FORMATS.includes(format))
    throw new MillraceError('EUNSUPPORTED', `a copy as ${format}: it is raw or qcow2`);
  if (!Number.isSafeInteger(sparseSize) || sparseSize < 0 || sparseSize % SECTOR_BYTES)
    throw new MillraceError(
      'EINVAL',
      `invalid sparse size ${sparseSize}: must be a multiple of ${SECTOR_BYTES}`,
    );
  if (base === undefined && (baseFormat !== undefined || recordBase !== undefined))
    throw new MillraceError('EINVAL', "what is said of the copy's base needs a base (base, -B)");
  if (format === 'qcow2') return;
  if (base !== undefined)
    throw new MillraceError(
      'EINVAL',
      'a raw image has no base: only a qcow2 copy has (format, -O qcow2)',
    );
  if (hasShape(options))
    throw new MillraceError(
      'EINVAL',
      'a raw image has no clusters: what they are like is said of a qcow2 copy (format, -O qcow2)',
    );
  if (compress)
    throw new MillraceError(
      'EINVAL',
      'a raw image is not compressed: only a qcow2 copy is (format, -O qcow2)',
    );
}

/** What may be said of an image that is written over as it is. */
export function mustSuitExisting(options: ConvertOptions): void {
  const { target, base, existing, format, compress } = options;
  if (format !== 'qcow2') return;
  if (!existing)
    throw new MillraceError(
      'EUNSUPPORTED',
      `${target} is a block device, which takes raw copies only (format, -O raw)`,
    );
  if (compress)
    throw new MillraceError(
      'EUNSUPPORTED',
      `${target} would be written over uncompressed: a compressed copy is a new image, without 'existing' (-n)`,
    );
  if (base !== undefined)
    throw new MillraceError(
      'EUNSUPPORTED',
      `${target} keeps the backing file that it has: a copy over a base is a new image, without 'existing' (-n)`,
    );
  if (hasShape(options))
    throw new MillraceError(
      'EINVAL',
      `${target} keeps the clusters that it has: what they are like cannot be said with 'existing' (-n)`,
    );
}

function hasShape({
  clusterSize,
  refcountBits,
  extendedL2,
  compressionType,
  lazyRefcounts,
}: ConvertOptions): boolean {
  const shape = [clusterSize, refcountBits, extendedL2, compressionType, lazyRefcounts];
  return shape.some((one) => one !== undefined);
}
