/** What a runtime brings for local files, and its errors in our words. */
import type { BlockSource } from '../api/block.ts';
import { MillraceError } from '../api/errors.ts';
import type { FileKind, SystemWords } from './errors.ts';
import { placeOf, systemError } from './errors.ts';
import type { Paths } from './location.ts';
import type { Lock } from './lock.ts';
import type { Access, Guarded } from './qemu-locks.ts';

/** In these, stat(2) counts what a file takes, whatever the file system's own blocks are. */
export const STAT_BLOCK_BYTES = 512;

/** What stat(2) tells, as far as it is used. */
export interface FileStat {
  kind: FileKind;
  /** Bytes; of a block device nothing that counts. */
  size: number;
  /** When it was last written, in milliseconds since 1970; undefined where that cannot be told. */
  modified?: number;
  /** Bytes that it takes; undefined where that cannot be told. */
  allocated?: number;
}

/**
 * An open file, as its runtime has it. Operations return what they give, or a promise of it, and
 * throw the runtime's own errors.
 */
export interface OpenFile {
  /** How it likes to be read as a base. */
  readonly preferred?: { chunk: number; depth: number };
  /** Bytes that were read: none only at the file's end. */
  read(offset: number, into: Uint8Array, signal?: AbortSignal): number | Promise<number>;
  /** Bytes that were written. */
  write(offset: number, from: Uint8Array): number | Promise<number>;
  truncate(size: number): void | Promise<void>;
  /** As fdatasync(2): with what is needed to read the data back, a changed size included. */
  flush(): Promise<void>;
  stat(): FileStat;
  /** Bytes of a block device. */
  deviceSize(): Promise<number>;
  /** Where a file with holes has data; undefined where nothing can tell. */
  holes(): Promise<BlockSource['nextData']>;
  /**
   * Keeps other programs from writing it until it is closed, or the guard released.
   * @throws MillraceError `EBUSY` naming who does.
   */
  guard(access: Access): Promise<Guarded>;
  close(): void | Promise<void>;
}

/** What a runtime brings. Operations throw its own errors, which `wordsOf` tells of. */
export interface FileHost {
  paths: Pick<Paths, 'basename' | 'dirname' | 'isAbsolute' | 'join'>;
  /** `make`: to read and write, a file that must not be there yet. */
  open(path: string, mode: 'read' | 'write' | 'make'): Promise<OpenFile>;
  /** Follows symbolic links. */
  stat(path: string): Promise<FileStat>;
  /** Whether the name is taken, be it by a symbolic link that leads nowhere. */
  isTaken(path: string): Promise<boolean>;
  /** What a symbolic link says; undefined for what is none, or not there. */
  readLink(path: string): Promise<string | undefined>;
  realPath(path: string): Promise<string>;
  /** Gives a file a second name, which must not be taken. */
  link(path: string, name: string): Promise<void>;
  rename(path: string, to: string): Promise<void>;
  /** Nothing happens where there is no such file. */
  remove(path: string): Promise<void>;
  /** Returns when the names in a folder survive a power cut, as far as the system has a way. */
  syncFolder(path: string): Promise<void>;
  /** Whether this process may look at other files of the file's folder. */
  mayLookBeside(path: string): boolean;
  readText(path: string): Promise<string>;
  writeText(path: string, text: string): Promise<void>;
  /** Locks the image at a path without symbolic links. */
  lock(path: string): Lock;
  wordsOf(error: unknown): SystemWords;
}

/** An error of a runtime's in our words; `action` completes "cannot …", `offset` is in bytes. */
export type FileError = (
  action: string,
  path: string,
  cause: unknown,
  offset?: number,
) => MillraceError;

export function fileErrorsOf(wordsOf: FileHost['wordsOf']): FileError {
  return (action, path, cause, offset) =>
    cause instanceof MillraceError
      ? cause
      : systemError(action, placeOf(path, offset), { ...wordsOf(cause), offset });
}
