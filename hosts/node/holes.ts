/**
 * Where a local file has holes. node:fs cannot tell, lseek(2) can: it is called through koffi, an optional dependency, where that is
 * installed and the system has SEEK_DATA. Without it, holes are read as the zeros they show.
 */
import { constants } from 'node:os';
import type { BlockSource } from '../api/block.ts';
import { nextDataBy } from '../files/next-data.ts';

/** Numbers of SEEK_DATA and SEEK_HOLE, where there are any. */
const WHENCE: Partial<Record<NodeJS.Platform, { data: number; hole: number }>> = {
  linux: { data: 3, hole: 4 },
  android: { data: 3, hole: 4 },
  freebsd: { data: 3, hole: 4 },
  darwin: { data: 4, hole: 3 },
};
/** Here lseek takes an offset of 32 bits. */
const SHORT_OFFSETS: readonly string[] = ['arm', 'ia32'];

interface Libc {
  /** The position, or -1. It moves that of the descriptor, which nothing here goes by. */
  lseek(fd: number, offset: number, whence: number): number;
  errno(): number;
}

let loading: Promise<Libc | undefined> | undefined;

/** What tells of the holes in an open file, for its BlockSource; undefined where nothing can, be it the system or the file system. */
export async function holesOf(fd: number): Promise<BlockSource['nextData']> {
  const whence = WHENCE[process.platform];
  const libc = await (loading ??= loadLibc());
  if (whence === undefined || libc === undefined) return undefined;
  return nextDataBy((what, offset) => {
    const at = libc.lseek(fd, offset, whence[what]);
    return at >= 0 ? at : libc.errno() === constants.errno.ENXIO ? undefined : NaN;
  });
}

async function loadLibc(): Promise<Libc | undefined> {
  if (SHORT_OFFSETS.includes(process.arch)) return undefined;
  try {
    const { default: koffi } = await import('koffi');
    const lseek = koffi.load(null).func('lseek', 'int64_t', ['int', 'int64_t', 'int']);
    return { lseek, errno: () => koffi.errno() };
  } catch {
    return undefined;
  }
}
