/**
 * Where a local file has holes: Deno cannot tell, lseek(2) can, and is called where this process may do all (-A: it takes FFI, and a look
 * into /proc), on Linux. Elsewhere holes are read as the zeros they show.
 */
import type { BlockSource } from '../api/block.ts';
import { nextDataBy } from '../files/next-data.ts';

const SYMBOLS = {
  open: { parameters: ['buffer', 'i32'], result: 'i32' },
  lseek: { parameters: ['i32', 'i64', 'i32'], result: 'i64' },
  close: { parameters: ['i32'], result: 'i32' },
  __errno_location: { parameters: [], result: 'pointer' },
} as const;
/** Of Linux. */
const O_RDONLY_CLOEXEC = 0o2000000;
const SEEK_DATA = 3;
const SEEK_HOLE = 4;
const ENXIO = 6;

export interface Holes {
  nextData: BlockSource['nextData'];
  /** From then on `nextData` must not be called. */
  close(): void;
}

let libc: Deno.DynamicLibrary<typeof SYMBOLS> | undefined;

/** What tells of the holes in a file that is open, for its BlockSource; undefined where nothing can. */
export async function holesOf(path: string, file: Deno.FsFile): Promise<Holes | undefined> {
  if (
    Deno.build.os !== 'linux' ||
    (await Deno.permissions.query({ name: 'ffi' })).state !== 'granted'
  )
    return undefined;
  try {
    const { symbols } = (libc ??= Deno.dlopen('libc.so.6', SYMBOLS));
    const fd = symbols.open(new TextEncoder().encode(`${path}\0`), O_RDONLY_CLOEXEC);
    if (fd < 0) return undefined;
    const close = (): void => void symbols.close(fd);
    const next = (what: 'data' | 'hole', offset: number): number | undefined => {
      const at = Number(symbols.lseek(fd, BigInt(offset), what === 'data' ? SEEK_DATA : SEEK_HOLE));
      if (at >= 0) return at;
      return new Deno.UnsafePointerView(symbols.__errno_location()!).getInt32() === ENXIO
        ? undefined
        : NaN;
    };
    const nextData = (await isSame(`/proc/self/fd/${fd}`, file)) ? nextDataBy(next) : undefined;
    if (nextData) return { nextData, close };
    close();
  } catch {
    // No library of this name, or a permission is missing.
  }
  return undefined;
}

/** Another file may have come to the path of the one that was opened. */
async function isSame(path: string, file: Deno.FsFile): Promise<boolean> {
  const [one, other] = [await Deno.stat(path), await file.stat()];
  return one.ino !== null && one.ino === other.ino && one.dev === other.dev;
}
