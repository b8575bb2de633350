/**
 * The locks by which QEMU keeps programs from writing one image at a time (its `block/file-posix.c`): byte locks of open file
 * descriptions, F_OFD_SETLK of fcntl(2). A byte from 100 on says what its holder does with the image, one from 200 on what it allows
 * nobody else to do. All of them are shared locks: a program takes its own, then asks whether another holds what forbids them.
 *
 * Where the system call cannot be had, /proc/locks tells who holds what; our own writing cannot be told to QEMU then.
 */
import { MillraceError } from '../api/errors.ts';

const DOES_FIRST = 100;
const FORBIDS_FIRST = 200;
/** Permissions, as QEMU numbers them. */
const CONSISTENT_READ = 0;
const WRITE = 1;
const RESIZE = 3;
/** What a writer of an image does, and what it allows nobody else. */
const WRITER_DOES = [CONSISTENT_READ, WRITE, RESIZE] as const;
const WRITER_FORBIDS = [WRITE, RESIZE] as const;

/** fcntl(2) of Linux. */
export const F_OFD_GETLK = 36;
export const F_OFD_SETLK = 37;
const F_RDLCK = 0;
const F_WRLCK = 1;
const F_UNLCK = 2;
/** `struct flock` of 64-bit Linux: type, whence, start, length, pid. */
const FLOCK_BYTES = 32;
const AT_START = 8;
const AT_LENGTH = 16;

/** Processes, and open files of each, that are looked through for the holder of a lock; it is only a name for a message. */
const PROCESSES_MAX = 4096;
const DESCRIPTORS_MAX = 1024;

/** What a runtime brings; each throws where it cannot. */
export interface ProcFiles {
  readText(path: string): string;
  /** Names, not paths. */
  list(folder: string): string[];
}

/** A file, as stat(2) tells it. */
export interface FileId {
  dev: bigint | number;
  ino: bigint | number;
}

/** fcntl(2) on the open file: 0, or -1. */
export type Fcntl = (command: number, flock: Uint8Array) => number;

/** How other writers are kept out: by locks of our own, by a look for theirs, or not at all. */
export type Guard = 'locked' | 'looked' | 'blind';

/**
 * Keeps other programs from writing the image that is open, until it is closed; without `fcntl` only looks for those who do.
 * @throws MillraceError `EBUSY` naming who has it open for writing.
 */
export function guardImage(
  name: string,
  file: FileId,
  proc: ProcFiles,
  fcntl: Fcntl | undefined,
): Guard {
  if (fcntl !== undefined && takeLocks(fcntl)) {
    if (isForbidden(fcntl)) throw busy(name, holderOf(file, proc));
    return 'locked';
  }
  const writes = isWritten(file, proc);
  if (writes) throw busy(name, holderOf(file, proc));
  return writes === undefined ? 'blind' : 'looked';
}

/** Who has the file open for writing by these locks, in words; undefined if nobody has, or if that cannot be told. */
export function writerOf(file: FileId, proc: ProcFiles): string | undefined {
  return isWritten(file, proc) ? (holderOf(file, proc) ?? 'another program') : undefined;
}

function busy(name: string, holder: string | undefined): MillraceError {
  return new MillraceError(
    'EBUSY',
    `'${name}' is open for writing by ${holder ?? 'another program'} (its locks are QEMU's): end it there, or open the image read-only`,
  );
}

/** False where the file system has no such locks. */
function takeLocks(fcntl: Fcntl): boolean {
  const bytes = [
    ...WRITER_DOES.map((permission) => DOES_FIRST + permission),
    ...WRITER_FORBIDS.map((permission) => FORBIDS_FIRST + permission),
  ];
  return bytes.every((byte) => fcntl(F_OFD_SETLK, flockOf(F_RDLCK, byte)) === 0);
}

/** Whether another holds what forbids a writer, or does what a writer forbids. */
function isForbidden(fcntl: Fcntl): boolean {
  return (
    WRITER_DOES.some((permission) => isHeld(fcntl, FORBIDS_FIRST + permission)) ||
    WRITER_FORBIDS.some((permission) => isHeld(fcntl, DOES_FIRST + permission))
  );
}

/** An exclusive lock could not be had: another description holds the byte. Our own locks do not count. */
function isHeld(fcntl: Fcntl, byte: number): boolean {
  const flock = flockOf(F_WRLCK, byte);
  return (
    fcntl(F_OFD_GETLK, flock) === 0 && new DataView(flock.buffer).getInt16(0, true) !== F_UNLCK
  );
}

function flockOf(type: number, byte: number): Uint8Array<ArrayBuffer> {
  const flock = new Uint8Array(FLOCK_BYTES);
  const view = new DataView(flock.buffer);
  view.setInt16(0, type, true);
  view.setBigInt64(AT_START, BigInt(byte), true);
  view.setBigInt64(AT_LENGTH, 1n, true);
  return flock;
}

/** By /proc/locks; undefined where that cannot be read. */
function isWritten(file: FileId, proc: ProcFiles): boolean | undefined {
  let text: string;
  try {
    text = proc.readText('/proc/locks');
  } catch {
    return undefined;
  }
  const bytes = [DOES_FIRST + WRITE, FORBIDS_FIRST + WRITE, FORBIDS_FIRST + RESIZE];
  return text.split('\n').some((line) => bytes.some((byte) => holds(line, file, byte)));
}

/** A line as in `1: OFDLCK  ADVISORY  READ -1 08:01:1234 100 101`: device in hexadecimal, inode, first and last byte. */
function holds(line: string, file: FileId, byte: number): boolean {
  const match = / ([0-9a-f]+):([0-9a-f]+):(\d+) (\d+) (\d+|EOF)\s*$/.exec(line);
  if (!match || !/\b(OFDLCK|POSIX)\b/.test(line)) return false;
  const [, major, minor, inode, first, last] = match;
  if (BigInt(inode) !== BigInt(file.ino)) return false;
  // Of file systems without a device, stat(2) may tell another one.
  const isSame = Number.parseInt(major, 16) === 0 || isDevice(file.dev, major, minor);
  return isSame && Number(first) <= byte && (last === 'EOF' || byte <= Number(last));
}

function isDevice(dev: bigint | number, major: string, minor: string): boolean {
  const number = BigInt(dev);
  // As gnu_dev_major(3) and gnu_dev_minor(3) take a device number apart.
  const ours = [
    ((number >> 8n) & 0xfffn) | ((number >> 32n) & 0xfffff000n),
    (number & 0xffn) | ((number >> 12n) & 0xffffff00n),
  ];
  return ours[0] === BigInt(`0x${major}`) && ours[1] === BigInt(`0x${minor}`);
}

/** The process with a descriptor that holds a writer's lock of the file, as /proc/PID/fdinfo tells those that may be seen. */
function holderOf(file: FileId, proc: ProcFiles): string | undefined {
  const pids = orNone(() => proc.list('/proc')).filter((name) => /^\d+$/.test(name));
  const self = orNone(() => [proc.readText('/proc/self/stat').split(' ')[0]])[0];
  for (const pid of pids.slice(0, PROCESSES_MAX)) {
    if (pid === self) continue;
    for (const fd of orNone(() => proc.list(`/proc/${pid}/fdinfo`)).slice(0, DESCRIPTORS_MAX)) {
      const [info = ''] = orNone(() => [proc.readText(`/proc/${pid}/fdinfo/${fd}`)]);
      if (!info.split('\n').some((line) => holds(line, file, FORBIDS_FIRST + WRITE))) continue;
      const [program = 'a program'] = orNone(() => [proc.readText(`/proc/${pid}/comm`).trim()]);
      return `${program.replace(/\p{Cc}/gu, '?')} (pid ${pid})`;
    }
  }
  return undefined;
}

function orNone(read: () => string[]): string[] {
  try {
    return read();
  } catch {
    return [];
  }
}
