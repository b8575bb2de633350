/**
 * The locks by which QEMU keeps programs from writing one image at a time (its
 * `block/file-posix.c`): byte locks of open file descriptions, F_OFD_SETLK of fcntl(2). A byte from
 * 100 on says what its holder does with the image, one from 200 on what it allows nobody else to
 * do. All of them are shared locks: a program takes its own, then asks whether another holds what
 * forbids them.
 *
 * Where the system call cannot be had, /proc/locks tells who holds what; our own writing cannot be
 * told to QEMU then.
 */
import { MillraceError } from '../api/errors.ts';

const DOES_FIRST = 100;
const FORBIDS_FIRST = 200;
/** Permissions, as QEMU numbers them. */
const CONSISTENT_READ = 0;
const WRITE = 1;
const RESIZE = 3;

/** How an image is opened: to be written, or as a base, which must not change meanwhile. */
export type Access = 'write' | 'base';

/** What one who opens an image does, and what it allows nobody else. */
const CLAIMS: Readonly<Record<Access, { does: readonly number[]; forbids: readonly number[] }>> = {
  write: { does: [CONSISTENT_READ, WRITE, RESIZE], forbids: [WRITE, RESIZE] },
  base: { does: [CONSISTENT_READ], forbids: [WRITE, RESIZE] },
};
/** Held by those who write. */
const WRITERS_BYTES: readonly number[] = [WRITE, RESIZE].map((what) => DOES_FIRST + what);

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

/**
 * Processes, and open files of each, that are looked through for the holder of a lock; it is only a
 * name for a message.
 */
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

/** A guarded image. */
export interface Guarded {
  guard: Guard;
  /** Gives the locks back. */
  release(): void;
}

/**
 * Keeps other programs from writing the image that is open, until it is closed or released; without
 * `fcntl` only looks for those who do. @throws MillraceError `EBUSY` naming who has it open.
 */
export function guardImage(
  name: string,
  file: FileId,
  access: Access,
  proc: ProcFiles,
  fcntl: Fcntl | undefined,
): Guarded {
  const locks = fcntl !== undefined && takeLocks(fcntl, access) ? fcntl : undefined;
  const isHeld = locks
    ? (byte: number): boolean => isHeldByOther(locks, byte)
    : lookedUp(file, proc);
  const [held] = contrary(access).filter((byte) => isHeld?.(byte));
  if (held !== undefined) throw busy(name, access, held, holderOf(file, proc, held));
  return {
    guard: locks ? 'locked' : isHeld ? 'looked' : 'blind',
    release: () => void (locks && setLocks(locks, access, F_UNLCK)),
  };
}

/**
 * Who has the file open for writing by these locks, in words; undefined if nobody has, or if that
 * cannot be told.
 */
export function writerOf(file: FileId, proc: ProcFiles): string | undefined {
  const isHeld = lookedUp(file, proc);
  const byte = WRITERS_BYTES.find((byte) => isHeld?.(byte));
  return byte === undefined ? undefined : (holderOf(file, proc, byte) ?? 'another program');
}

/** `held` is the byte whose holder does what is forbidden here, or forbids what is done here. */
function busy(
  name: string,
  access: Access,
  held: number,
  holder: string = 'another program',
): MillraceError {
  const advice = access === 'base' ? 'take it as it is (forceShare, -U)' : 'open it read-only';
  const what =
    held < FORBIDS_FIRST
      ? `is open for writing by ${holder}`
      : `is in use by ${holder}, which lets nobody ${access === 'base' ? 'read' : 'write'} it meanwhile`;
  return new MillraceError(
    'EBUSY',
    `'${name}' ${what} (its locks are QEMU's): end it there, or ${advice}`,
  );
}

/** Bytes that nobody else may hold, those who write first. */
function contrary(access: Access): number[] {
  const { does, forbids } = CLAIMS[access];
  return [
    ...forbids.map((permission) => DOES_FIRST + permission),
    ...does.map((permission) => FORBIDS_FIRST + permission),
  ];
}

/** False where the file system has no such locks. */
function takeLocks(fcntl: Fcntl, access: Access): boolean {
  return setLocks(fcntl, access, F_RDLCK);
}

function setLocks(fcntl: Fcntl, access: Access, type: number): boolean {
  const { does, forbids } = CLAIMS[access];
  const bytes = [
    ...does.map((permission) => DOES_FIRST + permission),
    ...forbids.map((permission) => FORBIDS_FIRST + permission),
  ];
  return bytes.every((byte) => fcntl(F_OFD_SETLK, flockOf(type, byte)) === 0);
}

/**
 * An exclusive lock could not be had: another description holds the byte. Our own locks do not
 * count.
 */
function isHeldByOther(fcntl: Fcntl, byte: number): boolean {
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

/** Whether a byte of the file is locked, by /proc/locks; undefined where that cannot be read. */
function lookedUp(file: FileId, proc: ProcFiles): ((byte: number) => boolean) | undefined {
  let lines: string[];
  try {
    lines = proc.readText('/proc/locks').split('\n');
  } catch {
    return undefined;
  }
  return (byte) => lines.some((line) => holds(line, file, byte));
}

/**
 * A line as in `1: OFDLCK  ADVISORY  READ -1 08:01:1234 100 101`: device in hexadecimal, inode,
 * first and last byte.
 */
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

/**
 * The process with a descriptor that holds a lock of the file, as /proc/PID/fdinfo tells those that
 * may be seen.
 */
function holderOf(file: FileId, proc: ProcFiles, byte: number): string | undefined {
  const pids = orNone(() => proc.list('/proc')).filter((name) => /^\d+$/.test(name));
  const self = orNone(() => [proc.readText('/proc/self/stat').split(' ')[0]])[0];
  // What holds it here is a last resort: this program has just taken locks of its own.
  for (const pid of pids.filter((pid) => pid !== self).slice(0, PROCESSES_MAX)) {
    if (!isHolder(pid, file, proc, byte)) continue;
    const [program = 'a program'] = orNone(() => [proc.readText(`/proc/${pid}/comm`).trim()]);
    return `${program.replace(/\p{Cc}/gu, '?')} (pid ${pid})`;
  }
  return self !== undefined && isHolder(self, file, proc, byte) ? 'this program' : undefined;
}

function isHolder(pid: string, file: FileId, proc: ProcFiles, byte: number): boolean {
  const descriptors = orNone(() => proc.list(`/proc/${pid}/fdinfo`)).slice(0, DESCRIPTORS_MAX);
  return descriptors.some((fd) => {
    const [info = ''] = orNone(() => [proc.readText(`/proc/${pid}/fdinfo/${fd}`)]);
    return info.split('\n').some((line) => holds(line, file, byte));
  });
}

function orNone(read: () => string[]): string[] {
  try {
    return read();
  } catch {
    return [];
  }
}
