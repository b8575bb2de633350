/**
 * What node:fs does not have of the system's C library: lseek(2) and fcntl(2), through koffi, an optional dependency. Undefined where
 * that is not installed, or where their arguments are other ones than here.
 */

/** Here lseek takes an offset of 32 bits, and `struct flock` is a shorter one. */
const SHORT_OFFSETS: readonly string[] = ['arm', 'ia32'];

export interface Libc {
  /** The position, or -1. It moves that of the descriptor, which nothing here goes by. */
  lseek(fd: number, offset: number, whence: number): number;
  /** With a pointer to what the command is about; 0 or more, or -1. */
  fcntl(fd: number, command: number, about: Uint8Array): number;
  errno(): number;
}

let loading: Promise<Libc | undefined> | undefined;

/** Loaded when it is first asked for. */
export function libc(): Promise<Libc | undefined> {
  return (loading ??= load());
}

async function load(): Promise<Libc | undefined> {
  if (SHORT_OFFSETS.includes(process.arch)) return undefined;
  try {
    const { default: koffi } = await import('koffi');
    const library = koffi.load(null);
    const lseek = library.func('lseek', 'int64_t', ['int', 'int64_t', 'int']);
    const fcntl = library.func('int fcntl(int fd, int command, ...)');
    return {
      lseek,
      fcntl: (fd, command, about) => fcntl(fd, command, 'void *', about),
      errno: () => koffi.errno(),
    };
  } catch {
    return undefined;
  }
}
