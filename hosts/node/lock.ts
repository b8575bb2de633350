/**
 * Locks of images under Node: the shared protocol over node:fs, with /proc to tell a process that
 * ended from one that only has the same pid. Held locks are given back when the process exits; one
 * that was killed leaves its lock to the next taker.
 */
import {
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  renameSync,
  rmdirSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { hostname } from 'node:os';
import { basename } from 'node:path';
import type { Lock, LockHolder, LockHost } from '../files/lock.ts';
import { takeLock } from '../files/lock.ts';

/**
 * Fields of /proc/PID/stat after the command's name in parentheses (proc(5)): `state` is the third
 * field, `flags` the 9th, `starttime` the 22nd.
 */
const STAT_STATE = 0;
const STAT_FLAGS = 6;
const STAT_STARTED = 19;
/** Among the flags: it is on its way out, and runs nothing of ours any more. */
const PF_EXITING = 4;

const held: Set<Lock> = new Set();

/**
 * Locks the image at `path`, which has no symbolic links in it, for writing.
 * @throws MillraceError `EBUSY` that names the holder; errors of node:fs where the lock cannot be
 *   made.
 */
export function lockImage(path: string): Lock {
  const taken = takeLock(path, nodeLockHost);
  const lock: Lock = {
    release() {
      if (held.delete(lock)) taken.release();
      if (held.size === 0) process.removeListener('exit', releaseAll);
    },
  };
  if (held.size === 0) process.once('exit', releaseAll);
  held.add(lock);
  return lock;
}

function releaseAll(): void {
  for (const lock of held) lock.release();
}

/** What the protocol needs, by node:fs and /proc. */
export const nodeLockHost: LockHost = {
  self: () => ({
    pid: process.pid,
    started: startOf(statOf(process.pid)),
    thread: ownThread(),
    boot: ifThere(() => readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()),
    namespace: ifThere(() => readlinkSync('/proc/self/ns/pid')),
    host: hostname(),
    program: basename(process.argv[1] ?? process.execPath),
    since: new Date().toISOString(),
  }),
  stateOf(holder) {
    const self = nodeLockHost.self();
    if (holder.host !== self.host) return 'unknown';
    if (holder.boot !== self.boot)
      return holder.boot === undefined || self.boot === undefined ? 'unknown' : 'gone';
    if (holder.namespace !== self.namespace) return 'unknown';
    return isRunning(holder) ? 'alive' : 'gone';
  },
  makeFolder: (path) => mkdirSync(path),
  list: (folder) => readdirSync(folder),
  // `wx` never follows or replaces what somebody else has put there.
  writeFile: (path, text) => writeFileSync(path, text, { flag: 'wx' }),
  readFile: (path) => readFileSync(path, 'utf8'),
  renameFolder: (from, to) => renameSync(from, to),
  removeFile: (path) => unlinkSync(path),
  removeFolder: (path) => rmdirSync(path),
};

function isRunning({ pid, started, thread }: LockHolder): boolean {
  try {
    process.kill(pid, 0);
  } catch (error) {
    // EPERM: it runs under another user.
    if ((error as NodeJS.ErrnoException).code === 'ESRCH') return false;
  }
  const stat = statOf(pid);
  // Not to be seen (other systems than Linux, /proc mounted with hidepid): the signal's word
  // stands.
  if (stat === undefined) return true;
  // A zombie has ended; only its parent has not asked for its exit code yet.
  if (stat[STAT_STATE] === 'Z' || stat[STAT_STATE] === 'X') return false;
  if (started !== undefined && startOf(stat) !== started) return false;
  // From without, the end of a thread looks the same as that of its process, of which other threads
  // may still write what this one began.
  return thread === undefined || pid !== process.pid || isThreadRunning(thread);
}

/**
 * A worker that was terminated has given nothing back; Node has waited for what it had in flight.
 */
function isThreadRunning({ id, started }: NonNullable<LockHolder['thread']>): boolean {
  const stat = statOf(process.pid, id);
  return (
    stat !== undefined && (Number(stat[STAT_FLAGS]) & PF_EXITING) === 0 && startOf(stat) === started
  );
}

function ownThread(): LockHolder['thread'] {
  const id = ifThere(() => Number(basename(readlinkSync('/proc/thread-self'))));
  return id === undefined || id === process.pid
    ? undefined
    : { id, started: startOf(statOf(process.pid, id)) };
}

function startOf(stat: string[] | undefined): string | undefined {
  return stat?.[STAT_STARTED];
}

function statOf(pid: number, thread: number = pid): string[] | undefined {
  // The command's name may itself hold spaces and parentheses.
  return ifThere(() =>
    readFileSync(`/proc/${pid}/task/${thread}/stat`, 'utf8')
      .replace(/^.*\) /s, '')
      .split(' '),
  );
}

function ifThere<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}
