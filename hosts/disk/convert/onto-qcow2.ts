/**
 * Writing a disk over a qcow2 image that is there: all that the disk shows, zeros too. The image
 * keeps its size and its backing file, and what lies behind the disk's end.
 */
import type { Disk } from '../../api/disk.ts';
import { MillraceError } from '../../api/errors.ts';
import type { OpenOptions } from '../../api/open.ts';
import type { Runtime } from '../../api/runtime.ts';
import type { Piece } from '../copy-pieces.ts';
import { inLanes, split } from '../copy-pieces.ts';
import { withDisk } from '../look.ts';
import { openDiskWith } from '../open.ts';
import { runsOf } from '../zeros.ts';

/** Zeros of so many bytes take no space. */
const HOLE_BYTES = 65536;

/** A part of the disk; what is zero need not be read. */
interface Part extends Piece {
  zero: boolean;
}

/** How the image is opened, and what is told meanwhile. */
export interface OntoOptions extends Pick<OpenOptions, 'cache' | 'followChain' | 'memory'> {
  signal?: AbortSignal;
  progress: (done: number) => void;
}

/**
 * Writes the disk over the image at `path`.
 * @throws MillraceError `ENOSPC` when the image's disk is smaller; as openDisk does, also for what
 *   cannot be written: a raw file, an image with internal snapshots.
 */
export async function writeOntoQcow2(
  runtime: Runtime,
  disk: Disk,
  path: string,
  options: OntoOptions,
): Promise<void> {
  const { signal, progress, ...how } = options;
  const image = await openDiskWith(runtime, { overlay: path, copyOnRead: false, ...how });
  await withDisk(image, async () => {
    if (image.size < disk.size)
      throw new MillraceError(
        'ENOSPC',
        `${path} is a disk of ${image.size} bytes, and ${disk.size} are to be written: make it larger first (millrace resize)`,
      );
    await inLanes(partsOf(disk), signal, async (part) => {
      await writePart(disk, image, part, signal);
      progress(part.offset + part.length);
    });
    await image.flush();
  });
}

async function writePart(
  disk: Disk,
  image: Disk,
  { offset, length, zero }: Part,
  signal?: AbortSignal,
): Promise<void> {
  if (zero) return image.writeZeroes(offset, length);
  const bytes = await disk.read(offset, length, { signal });
  for (const run of runsOf(bytes, HOLE_BYTES)) {
    const at = offset + run.start;
    if (run.zero) await image.writeZeroes(at, run.end - run.start);
    else await image.write(at, bytes.subarray(run.start, run.end));
  }
}

async function* partsOf(disk: Disk): AsyncGenerator<Part> {
  for await (const { offset, length, state } of disk.map()) {
    const zero = state === 'zero' || state === 'absent';
    for (const piece of split(offset, offset + length)) yield { ...piece, zero };
  }
}
