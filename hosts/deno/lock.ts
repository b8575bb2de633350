/**
 * Locks of images under Deno, by the protocol that Node follows too. Whether another process lives
 * cannot be asked without permission for everything, so a holder keeps its record locked by
 * flock(2): the kernel frees it however the process ends. Node does not judge such records and
 * leaves them alone, as Deno does with Node's.
 */

import type { Lock, LockHolder, LockHost } from '../files/lock.ts';
import { takeLock } from '../files/lock.ts';

/** On Windows such a lock keeps others from reading the record as well. */
const HAS_FLOCK = Deno.build.os !== 'windows';
/** Said where this process may not ask for the machine's name (`--allow-sys=hostname`). */
const UNKNOWN_HOST = 'a machine whose name is not known';

/** The records that this process holds, by their names. */
const records: Map<string, Deno.FsFile> = new Map();
const held: Set<Lock> = new Set();

/**
 * Locks the image at `path`, which has no symbolic links in it, for writing.
 * @throws MillraceError `EBUSY` that names the holder; errors of Deno where the lock cannot be
 *   made.
 */
export function lockImage(path: string): Lock {
  const taken = takeLock(path, denoLockHost);
  const lock: Lock = {
    release() {
      if (held.delete(lock)) taken.release();
      if (held.size === 0) globalThis.removeEventListener('unload', releaseAll);
    },
  };
  if (held.size === 0) globalThis.addEventListener('unload', releaseAll);
  held.add(lock);
  return lock;
}

function releaseAll(): void {
  for (const lock of held) lock.release();
}

/** What the protocol needs, by Deno's own file functions. */
export const denoLockHost: LockHost = {
  self: (): LockHolder => ({
    pid: Deno.pid,
    host: hostname(),
    program: programName(),
    since: new Date().toISOString(),
    flock: HAS_FLOCK || undefined,
  }),
  stateOf: (holder, path) => (holder.flock && HAS_FLOCK ? probe(path) : 'unknown'),
  makeFolder: (path) => Deno.mkdirSync(path),
  list: (folder) => [...Deno.readDirSync(folder)].map(({ name }) => name),
  writeFile(path, text) {
    const file = Deno.openSync(path, { write: true, createNew: true });
    // Another taker has removed one of that name before it was whole.
    records.get(nameOf(path))?.close();
    records.set(nameOf(path), file);
    if (HAS_FLOCK) file.lockSync(true);
    file.writeSync(new TextEncoder().encode(text));
  },
  readFile: (path) => Deno.readTextFileSync(path),
  renameFolder: (from, to) => Deno.renameSync(from, to),
  removeFile(path) {
    try {
      Deno.removeSync(path);
    } finally {
      records.get(nameOf(path))?.close();
      records.delete(nameOf(path));
    }
  },
  removeFolder: (path) => Deno.removeSync(path),
};

/** A record's name is never used twice, and stays when its folder is renamed. */
function nameOf(path: string): string {
  return path.slice(path.lastIndexOf('/') + 1);
}

/** A shared lock, so that two who probe at once do not take each other for the holder. */
function probe(path: string): 'alive' | 'gone' | 'unknown' {
  let file: Deno.FsFile;
  try {
    file = Deno.openSync(path, { read: true });
  } catch {
    return 'unknown';
  }
  const free = file.tryLockSync(false);
  file.close();
  return free ? 'gone' : 'alive';
}

function hostname(): string {
  const { state } = Deno.permissions.querySync({ name: 'sys', kind: 'hostname' });
  return state === 'granted' ? Deno.hostname() : UNKNOWN_HOST;
}

function programName(): string {
  // A worker has none.
  const main = Deno.mainModule as string | undefined;
  return main?.slice(main.lastIndexOf('/') + 1) || 'deno';
}
