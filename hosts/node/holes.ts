/**
 * Where a local file has holes. node:fs cannot tell, lseek(2) can: it is called through koffi,
 * which users add, where that is installed and the system has SEEK_DATA. Without it, holes are
 * read as the zeros they show.
 */
import { constants } from 'node:os';
import type { BlockSource } from '../api/block.ts';
import { nextDataBy } from '../files/next-data.ts';
import { libc } from './libc.ts';

/** Numbers of SEEK_DATA and SEEK_HOLE, where there are any. */
const WHENCE: Partial<Record<NodeJS.Platform, { data: number; hole: number }>> = {
  linux: { data: 3, hole: 4 },
  android: { data: 3, hole: 4 },
  freebsd: { data: 3, hole: 4 },
  darwin: { data: 4, hole: 3 },
};
/**
 * What tells of the holes in an open file, for its BlockSource; undefined where nothing can, be it
 * the system or the file system.
 */
export async function holesOf(fd: number): Promise<BlockSource['nextData']> {
  const whence = WHENCE[process.platform];
  const functions = await libc();
  if (whence === undefined || functions === undefined) return undefined;
  return nextDataBy((what, offset) => {
    const at = functions.lseek(fd, offset, whence[what]);
    return at >= 0 ? at : functions.errno() === constants.errno.ENXIO ? undefined : NaN;
  });
}
