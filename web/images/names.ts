/**
 * What images and the disks made from them are called, and which disk was made from which image.
 */
import { listDisks } from '../../hosts/browser/index.ts';
import { notesOf } from './notes.ts';
import type { Sample } from './samples.ts';

/**
 * Of a name that the page chooses, with its characters as they count in names of disks: less than
 * one may have, for a number behind it.
 */
const NAME_BYTES_MAX = 200;

/** The disk in this browser that was made from an image last, if there is one yet. */
export async function diskFrom(image: string): Promise<string | undefined> {
  const disks = (await listDisks()).filter(({ name }) => notesOf(name).image === image);
  disks.sort((a, b) => (b.lastUsed ?? 0) - (a.lastUsed ?? 0));
  return disks[0]?.name;
}

/** What an image is called: by the site that offers it, or by the end of its address. */
export function nameOf(image: string, samples: readonly Sample[]): string {
  const offered = samples.find(({ url }) => url === image);
  return offered?.name ?? withoutEnding(lastPartOf(image));
}

export function withoutEnding(file: string): string {
  return file.replace(/\.(raw|img|qcow2|bin)$/i, '');
}

function lastPartOf(url: string): string {
  const part = new URL(url).pathname.split('/').pop()!;
  try {
    return decodeURIComponent(part);
  } catch {
    // A per cent sign that means itself.
    return part;
  }
}

/** A name for a disk that no disk has, from that of an image. */
export async function freeName(image: string): Promise<string> {
  // Half of a character is no text.
  let wanted = image.replace(/\p{Surrogate}/gu, '') || 'disk';
  while (encodeURIComponent(wanted).length > NAME_BYTES_MAX)
    wanted = [...wanted].slice(0, -1).join('');
  const taken = new Set((await listDisks()).map(({ name }) => name));
  for (let number = 1; ; number++) {
    const name = number === 1 ? wanted : `${wanted} ${number}`;
    if (!taken.has(name)) return name;
  }
}
