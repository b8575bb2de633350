// The seam between the engine and the formats of images. A format is one file or folder beside this
// one; formats.ts lists them. All that the rest of the engine knows of it are these functions.

import { arenaBytes } from '../core/arena';
import { Extent } from '../core/extent';
import { clusterBytes, Image } from '../core/image';
import { fail, recordOf, Task } from '../core/task';
import { BLOCK_BYTES, CHUNK_BYTES } from '../limits';
import {
  EINVAL,
  KIND_OPEN,
  OPEN_FLAGS,
  OPEN_TO_CHECK,
  OPEN_TO_DESCRIBE,
  OPEN_WRITABLE,
  R_MEMORY,
} from '../protocol';

/** The task that opens an image. */
@unmanaged
export class OpenTask extends Task {
  /** Number of the image. */
  get image(): u32 {
    return <u32>this.offset;
  }

  /** FORMAT_… of protocol.ts; FORMAT_PROBE: the one that the first bytes tell. */
  get format(): u32 {
    return <u32>this.length;
  }

  get isWritable(): bool {
    return (this.argument & OPEN_WRITABLE) != 0;
  }

  /** It is only checked: one without a refcount table will do. */
  get isToCheck(): bool {
    return (this.argument & OPEN_TO_CHECK) != 0;
  }

  /** Only what its header says is wanted. */
  get isToDescribe(): bool {
    return (this.argument & OPEN_TO_DESCRIBE) != 0;
  }

  /** Where the entry of the internal snapshot stands that is to be shown; 0: of none. */
  get snapshotAt(): u64 {
    return this.argument & ~(<u64>OPEN_FLAGS);
  }
}

export function openTaskOf(t: Task): OpenTask {
  return recordOf<OpenTask>(t, KIND_OPEN);
}

@unmanaged
export class Format {
  /** FORMAT_… of protocol.ts. */
  number: u32;
  /**
   * Whether an image is of this format, told by the first page of its file, which is at `header`.
   */
  probe: (header: usize, image: Image) => bool;
  /**
   * Reads what the image says of itself into its record: at least `size` and `clusterBits`. What
   * cannot be supported is refused here, by name. False: the task waits or has failed; it is run
   * again from its start.
   */
  open: (t: Task, image: Image) => bool;
  /**
   * What stands at `offset` of the disk, which lies inside the image, and for how far it goes on
   * alike, up to `length`. Every entry of a table is checked before it is followed. Null: the task
   * waits or has failed; without a task, a table that is not in the cache is only asked for.
   */
  lookup: (t: Task | null, image: Image, offset: u64, length: u64) => Extent | null;
}

/** Most formats there can be. */
const FORMATS_MAX: u32 = 16;

/** In the order in which they are probed. */
let count: u32 = 0;

function formatAt(index: u32): Format {
  assert(index < FORMATS_MAX);
  return changetype<Format>(
    memory.data(FORMATS_MAX * offsetof<Format>(), 8) + index * offsetof<Format>(),
  );
}

export function formatsForget(): void {
  count = 0;
}

/** Adds a format. */
export function format(
  number: u32,
  probe: (header: usize, image: Image) => bool,
  open: (t: Task, image: Image) => bool,
  lookup: (t: Task | null, image: Image, offset: u64, length: u64) => Extent | null,
): void {
  assert(formatOf(number) === null);
  const entry = formatAt(count++);
  entry.number = number;
  entry.probe = probe;
  entry.open = open;
  entry.lookup = lookup;
}

/** The format by its number; null if there is none. */
export function formatOf(number: u32): Format | null {
  for (let i: u32 = 0; i < count; i++) if (formatAt(i).number == number) return formatAt(i);
  return null;
}

/** The first format that takes an image for its own, whose first page is at `header`. */
export function probed(header: usize, image: Image): Format | null {
  for (let i: u32 = 0; i < count; i++) {
    const probe = formatAt(i).probe;
    if (probe(header, image)) return formatAt(i);
  }
  return null;
}

/** Fails a task that opens an image. */
export function refuse(t: Task, error: i32, reason: i32, image: Image): bool {
  fail(t, error, reason, image.index, 0);
  return false;
}

/** A chunk with its scratch must fit twice: once for a guest, once for a copy. */
export function hasMemory(t: Task, image: Image): bool {
  const chunk = max<u64>(CHUNK_BYTES, clusterBytes(image));
  if (arenaBytes() >= chunk * 4 + clusterBytes(image) * 2 + BLOCK_BYTES * 4) return true;
  return refuse(t, EINVAL, R_MEMORY, image);
}
