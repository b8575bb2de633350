/** A raw copy: a new file with holes where the disk has zeros, or over one that is there. */
import type { BlockFile } from '../../api/block.ts';
import type { ConvertOptions } from '../../api/convert.ts';
import type { Disk } from '../../api/disk.ts';
import { MillraceError } from '../../api/errors.ts';
import { dataRuns, inLanes, piecesOf, split } from '../copy-pieces.ts';
import { runsOf } from '../zeros.ts';
import type { Target } from './target.ts';

/** Zeros of so many bytes are left out. */
const HOLE_BYTES = 65536;

export async function copyToRaw(
  disk: Disk,
  target: Target,
  {
    cache,
    sparseSize = HOLE_BYTES,
    signal,
    progress,
  }: Pick<ConvertOptions, 'cache' | 'sparseSize' | 'signal'> & { progress: (done: number) => void },
): Promise<void> {
  const file = await target.make(cache);
  try {
    if (target.existing) mustHaveRoom(target.path, file, disk.size);
    else await file.truncate(disk.size);
    // What was there before shows no zeros by itself.
    const isWhole = target.existing || sparseSize === 0;
    const pieces = isWhole ? split(0, disk.size) : piecesOf(dataRuns(disk.map()), disk.size);
    const write = isWhole ? writeAll : writeData;
    await inLanes(pieces, signal, async ({ offset, length }) => {
      await write(file, offset, await disk.read(offset, length, { signal }), sparseSize);
      progress(offset + length);
    });
    await file.flush();
    await file.publish?.();
  } catch (error) {
    await Promise.resolve(file.close()).catch(() => {});
    throw error;
  }
  await file.close();
}

function mustHaveRoom(path: string, file: BlockFile, bytes: number): void {
  if (file.size < bytes)
    throw new MillraceError(
      'ENOSPC',
      `${path} has ${file.size} bytes, and the disk ${bytes}: it would not hold the copy`,
    );
}

async function writeAll(file: BlockFile, offset: number, bytes: Uint8Array): Promise<void> {
  await file.write(offset, bytes);
}

/** Writes what is not zero, but for zeros of less than `holeBytes`. */
async function writeData(
  file: BlockFile,
  offset: number,
  bytes: Uint8Array,
  holeBytes: number,
): Promise<void> {
  for (const { start, end, zero } of runsOf(bytes, holeBytes)) {
    if (!zero) await file.write(offset + start, bytes.subarray(start, end));
  }
}
