/** Which file of an archive is the disk. */
import { MillraceError } from '../../api/errors.ts';

/** Names of disk images, and of such that are packed once more. */
const DISK = /\.(qcow2?|img|raw|vmdk|vhdx?|vdi|qed|hdd|dmg|iso|bin|dd)(\.(xz|gz|zst|bz2))?$/i;
/** Names in a message. */
const NAMES_MAX = 10;

/** What an archive is refused with whose disk has to be named. */
export function ambiguous(
  name: string | undefined,
  format: string,
  names: readonly string[],
): MillraceError {
  const listed = names.slice(0, NAMES_MAX).map((member) => `'${member}'`);
  const more = names.length > NAMES_MAX ? ` and ${names.length - NAMES_MAX} more` : '';
  const holds = names.length === 0 ? 'no file' : `${listed.join(', ')}${more}`;
  return new MillraceError(
    names.length === 0 ? 'ENOENT' : 'EUNSUPPORTED',
    `${name ?? 'the base'}: the ${format} holds ${holds}${names.length === 0 ? '' : ": say which is the disk, as in '…#NAME'"}`,
  );
}

/** @throws MillraceError `ENOENT` */
export function missingMember(
  name: string | undefined,
  format: string,
  member: string,
  names: readonly string[],
): MillraceError {
  const listed =
    names
      .slice(0, NAMES_MAX)
      .map((other) => `'${other}'`)
      .join(', ') || 'no file';
  return new MillraceError(
    'ENOENT',
    `${name ?? 'the base'}: there is no '${member}' in the ${format}, which holds ${listed}`,
  );
}

/** Whether a file's name says that it is a disk. */
export function isDiskName(name: string): boolean {
  return DISK.test(name) && !/(^|\/)\._/.test(name);
}

/** As members are named: without what leads nowhere. */
export function plainName(name: string): string {
  return name.replace(/^(\.?\/)+/, '');
}

/**
 * The member that is meant, out of all: the one that is named, the only file, or the only one whose
 * name says that it is a disk.
 * @throws MillraceError where none or several could be
 */
export function chosen<Member extends { name: string }>(
  members: readonly Member[],
  wanted: string | undefined,
  format: string,
  name: string | undefined,
): Member {
  const names = members.map((member) => member.name);
  if (wanted !== undefined) {
    const found = members.find((member) => plainName(member.name) === plainName(wanted));
    if (found === undefined) throw missingMember(name, format, wanted, names);
    return found;
  }
  if (members.length === 1) return members[0];
  const disks = members.filter((member) => isDiskName(member.name));
  if (disks.length === 1) return disks[0];
  throw ambiguous(name, format, disks.length > 0 ? disks.map((disk) => disk.name) : names);
}

/**
 * The files that are disks by an OVF descriptor (DSP0243, section 7.1): References with a File
 * each, and a DiskSection that refers to them.
 */
export function disksOfOvf(text: string): string[] {
  const attributesOf = (tag: string): Map<string, string>[] =>
    Array.from(text.matchAll(new RegExp(`<(?:\\w+:)?${tag}\\b([^>]*)>`, 'g')), ([, attributes]) => {
      const pairs = attributes.matchAll(/(?:\w+:)?(\w+)\s*=\s*(?:"([^"]*)"|'([^']*)')/g);
      return new Map(Array.from(pairs, ([, key, one, other]) => [key, unescaped(one ?? other)]));
    });
  const files = new Map(attributesOf('File').map((file) => [file.get('id'), file.get('href')]));
  return attributesOf('Disk')
    .map((disk) => files.get(disk.get('fileRef')))
    .filter((href) => href !== undefined);
}

function unescaped(text: string): string {
  const characters: Record<string, string> = { lt: '<', gt: '>', quot: '"', apos: "'", amp: '&' };
  return text.replace(/&(lt|gt|quot|apos|amp);/g, (_, name: string) => characters[name]);
}
