/**
 * Where a local file has holes: Deno cannot tell, lseek(2) can, and is called where this process
 * may do all (-A: it takes FFI, and a look into /proc), on Linux. Elsewhere holes are read as the
 * zeros they show.
 */
import type { BlockSource } from '../api/block.ts';
import { nextDataBy } from '../files/next-data.ts';
import { libc, O_RDONLY, openBeside } from './libc.ts';

const SEEK_DATA = 3;
const SEEK_HOLE = 4;
const ENXIO = 6;

export interface Holes {
  nextData: BlockSource['nextData'];
  /** From then on `nextData` must not be called. */
  close(): void;
}

/**
 * What tells of the holes in a file that is open, for its BlockSource; undefined where nothing can.
 */
export async function holesOf(path: string, file: Deno.FsFile): Promise<Holes | undefined> {
  const symbols = await libc();
  const fd = symbols && (await openBeside(symbols, path, file, O_RDONLY));
  if (symbols === undefined || fd === undefined) return undefined;
  const next = (what: 'data' | 'hole', offset: number): number | undefined => {
    const at = Number(symbols.lseek(fd, BigInt(offset), what === 'data' ? SEEK_DATA : SEEK_HOLE));
    if (at >= 0) return at;
    const error = new Deno.UnsafePointerView(symbols.__errno_location()!).getInt32();
    return error === ENXIO ? undefined : NaN;
  };
  const close = (): void => void symbols.close(fd);
  const nextData = nextDataBy(next);
  if (nextData) return { nextData, close };
  close();
  return undefined;
}
