/**
 * What node:fs does not have of the system's C library: lseek(2), fcntl(2) and preadv2(2), through
 * koffi, which users add (a peer dependency). Undefined where that is not installed, or where their
 * arguments are other ones than here.
 */

/** Here lseek takes an offset of 32 bits, and `struct flock` is a shorter one. */
const SHORT_OFFSETS: readonly string[] = ['arm', 'ia32'];

export interface Libc {
  /** The position, or -1. It moves that of the descriptor, which nothing here goes by. */
  lseek(fd: number, offset: number, whence: number): number;
  /** With a pointer to what the command is about; 0 or more, or -1. */
  fcntl(fd: number, command: number, about: Uint8Array): number;
  /** With one buffer, by its address and length; bytes read, or -1. Not every system has it. */
  preadv2?(fd: number, vector: Uint8Array, count: 1, offset: number, flags: number): number;
  /** Where an array's bytes are. They must be its buffer's own, not the JavaScript heap's. */
  addressOf(bytes: Uint8Array): bigint;
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
    const functionOf = (name: string, parameters: string[]): Libc['preadv2'] => {
      try {
        return library.func(name, 'int64_t', parameters);
      } catch {
        return undefined;
      }
    };
    return {
      lseek,
      fcntl: (fd, command, about) => fcntl(fd, command, 'void *', about),
      preadv2: functionOf('preadv2', ['int', 'void *', 'int', 'int64_t', 'int']),
      addressOf: (bytes) => koffi.address(bytes),
      errno: () => koffi.errno(),
    };
  } catch {
    return undefined;
  }
}
