/**
 * What this page alone remembers of a disk, beside Millrace's own catalogue. Where the browser
 * keeps nothing, the page works without.
 */
import { remember, remembered } from '../page/storage.ts';

export interface DiskNotes {
  /** Bytes of the machine's memory. */
  memory: number;
  /** URL of the image that it was made from. */
  image?: string;
  /** Segments of the map that the guest has written, as a bit each, in base64. */
  written?: string;
}

const MEMORY_DEFAULT = 128 * 1024 * 1024;

export function notesOf(disk: string): DiskNotes {
  return { memory: MEMORY_DEFAULT, ...parsed(remembered(key(disk)) ?? '{}') };
}

export function note(disk: string, change: Partial<DiskNotes>): void {
  remember(key(disk), JSON.stringify({ ...notesOf(disk), ...change }));
}

export function forget(disk: string): void {
  remember(key(disk), undefined);
}

export function rename(disk: string, to: string): void {
  const notes = notesOf(disk);
  forget(disk);
  note(to, notes);
}

function parsed(notes: string): Partial<DiskNotes> {
  try {
    return JSON.parse(notes) as Partial<DiskNotes>;
  } catch {
    return {};
  }
}

function key(disk: string): string {
  return `millrace/console/${disk}`;
}
