/** QEMU's locks of an open image under Deno: see hosts/files/qemu-locks.ts. */
import type { Access, Guarded, ProcFiles } from '../files/qemu-locks.ts';
import { guardImage, writerOf } from '../files/qemu-locks.ts';
import { libc, O_RDONLY, O_RDWR, openBeside } from './libc.ts';

const proc: ProcFiles = {
  readText(path) {
    mustBeAllowed(path);
    return Deno.readTextFileSync(path);
  },
  list(folder) {
    mustBeAllowed(folder);
    return [...Deno.readDirSync(folder)].map(({ name }) => name);
  },
};

/** On a terminal, Deno would ask the user for a permission that is not needed. */
function mustBeAllowed(path: string): void {
  const { state } = Deno.permissions.querySync({ name: 'read', path });
  if (state !== 'granted') throw new Error(`no permission to read ${path}`);
}

/**
 * Keeps other programs from writing the image that is open. @throws MillraceError `EBUSY` naming
 * who does.
 */
export async function guardOpenImage(
  path: string,
  file: Deno.FsFile,
  access: Access,
): Promise<Guarded> {
  const { dev, ino } = await file.stat();
  const symbols = await libc();
  const mode = access === 'write' ? O_RDWR : O_RDONLY;
  let fd = symbols && (await openBeside(symbols, path, file, mode));
  const release = (): void => {
    if (fd !== undefined) symbols!.close(fd);
    fd = undefined;
  };
  try {
    const fcntl =
      fd === undefined
        ? undefined
        : (command: number, flock: Uint8Array): number =>
            symbols!.fcntl(fd!, command, flock as Uint8Array<ArrayBuffer>);
    return { ...guardImage(path, { dev, ino: ino ?? 0 }, access, proc, fcntl), release };
  } catch (error) {
    release();
    throw error;
  }
}

/**
 * Who writes the file at a path by QEMU's locks; our own writers are told apart by their lock
 * folder.
 */
export function writerAt(path: string): string | undefined {
  try {
    if (isThere(`${Deno.realPathSync(path)}.lock`)) return undefined;
    const { dev, ino } = Deno.statSync(path);
    return writerOf({ dev, ino: ino ?? 0 }, proc);
  } catch {
    return undefined;
  }
}

function isThere(path: string): boolean {
  try {
    Deno.statSync(path);
    return true;
  } catch {
    return false;
  }
}
