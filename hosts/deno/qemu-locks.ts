/** QEMU's locks of an open image under Deno: see hosts/files/qemu-locks.ts. */
import type { Guard, ProcFiles } from '../files/qemu-locks.ts';
import { guardImage, writerOf } from '../files/qemu-locks.ts';
import { libc, O_RDWR, openBeside } from './libc.ts';

const proc: ProcFiles = {
  readText: (path) => Deno.readTextFileSync(path),
  list: (folder) => [...Deno.readDirSync(folder)].map(({ name }) => name),
};

/** A guarded image. */
export interface Guarded {
  guard: Guard;
  /** Gives the locks back. */
  release(): void;
}

/** Keeps other programs from writing the image that is open. @throws MillraceError `EBUSY` naming who does. */
export async function guardOpenImage(path: string, file: Deno.FsFile): Promise<Guarded> {
  const { dev, ino } = await file.stat();
  const symbols = await libc();
  const fd = symbols && (await openBeside(symbols, path, file, O_RDWR));
  const release = (): void => {
    if (fd !== undefined) symbols!.close(fd);
  };
  try {
    const fcntl =
      fd === undefined
        ? undefined
        : (command: number, flock: Uint8Array): number =>
            symbols!.fcntl(fd, command, flock as Uint8Array<ArrayBuffer>);
    return { guard: guardImage(path, { dev, ino: ino ?? 0 }, proc, fcntl), release };
  } catch (error) {
    release();
    throw error;
  }
}

/** Who writes the file at a path by QEMU's locks; our own writers are told apart by their lock folder. */
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
