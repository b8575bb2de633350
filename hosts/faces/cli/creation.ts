/**
 * What `-o` takes of a new qcow2 image, and `-l` of a snapshot, in the words of `qemu-img`.
 */
import { InvalidArgumentError } from 'commander';
import type { Compression } from '../../api/codec.ts';
import { MillraceError } from '../../api/errors.ts';
import type { SnapshotChoice } from '../../api/image.ts';
import { parseSize } from './sizes.ts';

/** What is asked for by `-o`, as createDisk and the options of `create` have it. */
export interface CreationOptions {
  size?: number;
  clusterSize?: number;
  refcountBits?: number;
  extendedL2?: boolean;
  compressionType?: Compression;
  lazyRefcounts?: boolean;
  base?: string;
  baseFormat?: string;
}

/** The values of an option that has only one way here, and what makes an image with another one. */
const ONLY: Readonly<Record<string, { values: readonly string[]; advice: string }>> = {
  compat: { values: ['1.1', 'v3'], advice: 'overlays are of version 3' },
  preallocation: {
    values: ['off'],
    advice: "space is taken as it is needed; 'millrace stream --allocate full' takes all of it",
  },
  encryption: { values: ['off'], advice: 'encryption is not supported' },
};

/**
 * Reads `NAME=VALUE,…`, where two commas stand for one within a value.
 * @throws MillraceError `EINVAL` for what is no such list, `EUNSUPPORTED` for a value that is not
 *   supported, which says what there is instead.
 */
export function creationOptions(texts: readonly string[]): CreationOptions {
  const found: CreationOptions = {};
  for (const part of texts.flatMap(partsOf)) {
    const [, name, value] = /^([a-z0-9_]+)=(.*)$/s.exec(part) ?? [];
    if (name === undefined)
      throw new MillraceError('EINVAL', `invalid -o '${part}': must be NAME=VALUE`);
    take(found, name, value);
  }
  return found;
}

function partsOf(text: string): string[] {
  return text
    .replaceAll(',,', '\0')
    .split(',')
    .map((part) => part.replaceAll('\0', ','));
}

function take(found: CreationOptions, name: string, value: string): void {
  const only = Object.hasOwn(ONLY, name) ? ONLY[name] : undefined;
  if (only?.values.includes(value)) return;
  if (only)
    throw new MillraceError(
      'EUNSUPPORTED',
      `-o ${name}=${value} is not supported: ${only.advice} (${name}=${only.values[0]}); qemu-img create makes such an image`,
    );
  if (name === 'size') found.size = sizeOf(name, value);
  else if (name === 'cluster_size') found.clusterSize = sizeOf(name, value);
  else if (name === 'refcount_bits') found.refcountBits = Number(value);
  else if (name === 'extended_l2') found.extendedL2 = isOn(name, value);
  else if (name === 'compression_type') found.compressionType = value as Compression;
  else if (name === 'lazy_refcounts') found.lazyRefcounts = isOn(name, value);
  else if (name === 'backing_file') found.base = value;
  else if (name === 'backing_fmt') found.baseFormat = value;
  else
    throw new MillraceError(
      'EINVAL',
      `there is no -o ${name}: must be size, cluster_size, refcount_bits, extended_l2, compression_type, lazy_refcounts, backing_file, backing_fmt, ${Object.keys(ONLY).join(', ')}`,
    );
}

/**
 * Which snapshot `-l` means: by id or name, or after `qemu-img` by `snapshot.id=…,snapshot.name=…`.
 */
export function snapshotChoice(text: string): SnapshotChoice {
  if (!text.startsWith('snapshot.')) return text;
  const found: { id?: string; name?: string } = {};
  for (const part of partsOf(text)) {
    const [, field, value] = /^snapshot\.(id|name)=(.*)$/s.exec(part) ?? [];
    if (field === undefined)
      throw new InvalidArgumentError(
        "It is an id or a name, or 'snapshot.id=ID,snapshot.name=NAME', or one of the two.",
      );
    found[field as 'id' | 'name'] = value;
  }
  return found;
}

/** A base is given by an option of its own, or by `-o`. */
export function mustBeOneBase(byO: string | undefined, byOption: string | undefined): void {
  if (byO !== undefined && byOption !== undefined)
    throw new MillraceError('EINVAL', 'there are two bases, by --base and by -o: give one');
}

function sizeOf(name: string, value: string): number {
  const bytes = parseSize(value);
  if (bytes === undefined)
    throw new MillraceError('EINVAL', `invalid ${name} '${value}': must be a size, as 64K or 1.5G`);
  return bytes;
}

function isOn(name: string, value: string): boolean {
  if (/^(on|yes|true)$/.test(value)) return true;
  if (/^(off|no|false)$/.test(value)) return false;
  throw new MillraceError('EINVAL', `invalid ${name} '${value}': must be on or off`);
}
