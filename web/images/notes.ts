/**
 * What this page alone remembers of a disk, beside Millrace's own catalogue: how much memory its
 * machine has, which image it was made from, and where its guest has written. Where the browser
 * keeps nothing, the page works without.
 */
export interface DiskNotes {
  /** Bytes of the machine's memory. */
  memory: number;
  /** URL of the image that it was made from. */
  image?: string;
  /** Segments of the map that the guest has written, as a bit each, in base64. */
  written?: string;
}

const SPOKEN = 'millrace/spoken';
const SPLIT = 'millrace/split';
const MEMORY_DEFAULT = 128 * 1024 * 1024;

export function notesOf(disk: string): DiskNotes {
  try {
    return {
      memory: MEMORY_DEFAULT,
      ...(JSON.parse(localStorage.getItem(key(disk)) ?? '{}') as Partial<DiskNotes>),
    };
  } catch {
    return { memory: MEMORY_DEFAULT };
  }
}

export function note(disk: string, change: Partial<DiskNotes>): void {
  attempt(() => localStorage.setItem(key(disk), JSON.stringify({ ...notesOf(disk), ...change })));
}

export function forget(disk: string): void {
  attempt(() => localStorage.removeItem(key(disk)));
}

export function rename(disk: string, to: string): void {
  const notes = notesOf(disk);
  forget(disk);
  note(to, notes);
}

/** Whether the user has a screen reader: a browser does not tell. */
export function isSpoken(): boolean {
  try {
    return localStorage.getItem(SPOKEN) !== null;
  } catch {
    return false;
  }
}

export function noteSpoken(spoken: boolean): void {
  attempt(() => (spoken ? localStorage.setItem(SPOKEN, 'yes') : localStorage.removeItem(SPOKEN)));
}

/** Which part of the width the serial console has, in per cent, if the user has chosen. */
export function split(): number | undefined {
  try {
    return Number(localStorage.getItem(SPLIT)) || undefined;
  } catch {
    return undefined;
  }
}

export function noteSplit(percent: number | undefined): void {
  attempt(() =>
    percent === undefined
      ? localStorage.removeItem(SPLIT)
      : localStorage.setItem(SPLIT, String(percent)),
  );
}

function key(disk: string): string {
  return `millrace/console/${disk}`;
}

/** A full or forbidden store costs the notes, nothing else. */
function attempt(action: () => void): void {
  try {
    action();
  } catch (error) {
    console.warn(`the page's notes on a disk cannot be kept: ${String(error)}`);
  }
}
