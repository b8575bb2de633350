/**
 * What Deno does not have of the system's C library, where this process may do all (-A: it takes
 * FFI, and a look into /proc), on Linux. Deno tells no file descriptor of what it has opened: these
 * are files that are opened here beside it.
 */

const SYMBOLS = {
  open: { parameters: ['buffer', 'i32'], result: 'i32' },
  lseek: { parameters: ['i32', 'i64', 'i32'], result: 'i64' },
  fcntl: { parameters: ['i32', 'i32', 'buffer'], result: 'i32' },
  close: { parameters: ['i32'], result: 'i32' },
  __errno_location: { parameters: [], result: 'pointer' },
} as const;
const O_CLOEXEC = 0o2000000;
export const O_RDONLY = 0;
export const O_RDWR = 2;

export type Symbols = Deno.DynamicLibrary<typeof SYMBOLS>['symbols'];

let library: Deno.DynamicLibrary<typeof SYMBOLS> | undefined;

/** The functions; undefined where they cannot be called. */
export async function libc(): Promise<Symbols | undefined> {
  if (Deno.build.os !== 'linux') return undefined;
  if ((await Deno.permissions.query({ name: 'ffi' })).state !== 'granted') return undefined;
  try {
    return (library ??= Deno.dlopen('libc.so.6', SYMBOLS)).symbols;
  } catch {
    // No library of this name.
    return undefined;
  }
}

/**
 * A descriptor of the file that is open, which has to be closed; undefined where another file has
 * come to its path since.
 */
export async function openBeside(
  symbols: Symbols,
  path: string,
  file: Deno.FsFile,
  mode: number,
): Promise<number | undefined> {
  const fd = symbols.open(new TextEncoder().encode(`${path}\0`), mode | O_CLOEXEC);
  if (fd < 0) return undefined;
  try {
    const [one, other] = [await Deno.stat(`/proc/self/fd/${fd}`), await file.stat()];
    if (one.ino !== null && one.ino === other.ino && one.dev === other.dev) return fd;
  } catch {
    // A permission is missing.
  }
  symbols.close(fd);
  return undefined;
}
