/** QEMU's locks of an open image under Node: see hosts/files/qemu-locks.ts. */
import { existsSync, readdirSync, readFileSync, realpathSync, statSync } from 'node:fs';
import type { Access, FileId, Guarded, ProcFiles } from '../files/qemu-locks.ts';
import { guardImage, writerOf } from '../files/qemu-locks.ts';
import { libc } from './libc.ts';

const proc: ProcFiles = {
  readText: (path) => readFileSync(path, 'utf8'),
  list: (folder) => readdirSync(folder),
};

/**
 * Keeps other programs from writing the image that is open as `fd`. @throws MillraceError `EBUSY`
 * naming who does.
 */
export async function guardOpenImage(
  path: string,
  fd: number,
  file: FileId,
  access: Access,
): Promise<Guarded> {
  const functions = process.platform === 'linux' ? await libc() : undefined;
  const fcntl =
    functions && ((command: number, flock: Uint8Array) => functions.fcntl(fd, command, flock));
  return guardImage(path, file, access, proc, fcntl);
}

/**
 * Who writes the file at a path by QEMU's locks; our own writers are told apart by their lock
 * folder.
 */
export function writerAt(path: string): string | undefined {
  try {
    if (existsSync(`${realpathSync.native(path)}.lock`)) return undefined;
    return writerOf(statSync(path, { bigint: true }), proc);
  } catch {
    return undefined;
  }
}
