/**
 * The text that describes a VMDK whose data is in other files (VMware, "Virtual Disk Format 5.0",
 * "The Descriptor File"): which files, how much of the disk each has, and how.
 */
import { MillraceError } from '../api/errors.ts';

/** A part of the disk, those before it end where it begins. */
export interface VmdkExtent {
  /** Bytes. */
  length: number;
  /** `sparse`: a VMDK of its own; `flat`: the bytes as they are. */
  kind: 'sparse' | 'flat' | 'zero';
  /** A name in the descriptor's own folder; of zeros, nothing. */
  name: string;
  /** Where in a flat file it begins, in bytes. */
  at: number;
}

/** No program's is longer than 20 KiB; QEMU reads 1 MiB. */
export const VMDK_TEXT_BYTES_MAX: number = 64 * 1024;

/**
 * The line that it begins with; QEMU takes it for one by the version alone. Other comments, and
 * empty lines, may come before. A boot sector has neither.
 */
const START =
  /^(?:\xef\xbb\xbf)?(?:[ \t]*(?:#[^\n]*|\r)?\n)*?(?:# ?Disk DescriptorFile|version=[1-3]\r?\n)/i;
const START_BYTES_MAX = 4096;
const SECTOR_BYTES = 512;
/** Access, sectors, type, name, and of a flat one the sector at which it begins. */
const EXTENT =
  /^(RW|RDONLY|NOACCESS)\s+(\d{1,16})\s+([A-Z0-9]+)(?:\s+"([^"]*)"(?:\s+(\d{1,16}))?)?/;
/** What looks like one, whatever is wrong with it. */
const EXTENT_LIKE = /^(RW|RDONLY|NOACCESS)\s/;
const KINDS: Readonly<Record<string, VmdkExtent['kind']>> = {
  FLAT: 'flat',
  VMFS: 'flat',
  SPARSE: 'sparse',
  ZERO: 'zero',
};
const NO_PARENT = 'ffffffff';

/** Whether a file begins like such a text. */
export function startsVmdkText(start: Uint8Array): boolean {
  return START.test(new TextDecoder('latin1').decode(start.subarray(0, START_BYTES_MAX)));
}

/**
 * The extents, in the order of the disk. Nothing is opened.
 * @throws MillraceError `ECORRUPT` for what contradicts itself, `EUNSUPPORTED` for what would lead
 *   elsewhere or needs what is not supported.
 */
export function vmdkExtents(text: Uint8Array, image: string): VmdkExtent[] {
  const lines = decoded(text, image)
    .split(/\r?\n/)
    .map((line) => line.trim());
  const parents = lines.map((line) => /^parentCID\s*=\s*"?(\w+)/.exec(line)?.[1] ?? NO_PARENT);
  if (parents.some((parent) => parent.toLowerCase() !== NO_PARENT))
    throw refused('it holds only the changes to another image (a child disk): merge the two first');
  const extents = lines.filter((line) => EXTENT_LIKE.test(line)).map(parsed);
  if (extents.length === 0) throw damaged('it names no files with its data');
  const size = extents.reduce((sum, { length }) => sum + length, 0);
  if (!Number.isSafeInteger(size)) throw damaged('its disk is larger than 2^53 - 1 bytes');
  const names = new Set<string>();
  for (const { name } of extents.filter(({ kind }) => kind !== 'zero')) {
    if (names.has(name)) throw damaged(`it names '${name}' twice`);
    names.add(name);
  }
  return extents;

  function parsed(line: string): VmdkExtent {
    const [, access, sectors, type, name = '', start = '0'] = EXTENT.exec(line) ?? [];
    if (access === undefined) throw damaged(`it has an extent that cannot be: '${line}'`);
    if (access === 'NOACCESS') throw refused(`a part of it may not be read (NOACCESS): '${line}'`);
    const kind = KINDS[type];
    if (kind === undefined)
      throw refused(
        `it has an extent of the type ${type}, which is not supported: convert it first ('qemu-img convert')`,
      );
    const length = Number(sectors) * SECTOR_BYTES;
    const at = Number(start) * SECTOR_BYTES;
    if (length === 0 || !Number.isSafeInteger(length + at))
      throw damaged(`it has an extent that cannot be: '${line}'`);
    if (kind === 'zero') return { length, kind, name: '', at: 0 };
    mustBeBeside(name);
    return { length, kind, name, at: kind === 'flat' ? at : 0 };
  }

  /** What is elsewhere is not for the author of an image to choose. */
  function mustBeBeside(name: string): void {
    if (name === '') throw damaged('it has an extent without a file');
    if (name === '.' || name === '..' || /[/\\\p{Cc}]/u.test(name))
      throw refused(`its data is in '${name}', which is not a file of its own folder`);
  }

  function damaged(what: string): MillraceError {
    return new MillraceError('ECORRUPT', `cannot open ${image}: ${what}`);
  }

  function refused(what: string): MillraceError {
    return new MillraceError('EUNSUPPORTED', `cannot open ${image}: ${what}`);
  }
}

/**
 * As UTF-8, unless it says otherwise; a name in another encoding is taken only where it is ASCII.
 */
function decoded(text: Uint8Array, image: string): string {
  const letters = new TextDecoder('latin1').decode(text).replace(/\0+$/, '');
  const said = /^encoding\s*=\s*"([^"]*)"/im.exec(letters)?.[1] ?? 'UTF-8';
  const encoding = /^[\x20-\x7e\s]*$/.test(letters) ? 'UTF-8' : said;
  try {
    return new TextDecoder(encoding, { fatal: true }).decode(text).replace(/\0+$/, '');
  } catch (cause) {
    throw new MillraceError(
      'EUNSUPPORTED',
      `cannot open ${image}: its text is not in the encoding that it says (${encoding})`,
      { cause },
    );
  }
}
