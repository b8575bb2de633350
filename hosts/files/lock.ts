/**
 * The lock that keeps two programs from writing one image at a time, as a protocol over a few file
 * operations that each runtime brings. It only ever removes the records of holders that are
 * certainly gone; whoever cannot be judged keeps the lock.
 *
 * A lock is a folder beside the image, `disk.qcow2.lock/`, with one file in it: the record of who
 * holds it, under a name that was never used before. It is prepared under another name and put in
 * place by renaming, which fails while the place is taken by a folder that is not empty, so a
 * record is never seen half written there, and of many takers one wins. A record left by a crash is
 * removed by its name: two takers that remove it at the same time cannot hit the record of a third.
 * (With a plain file, the second of two takers would remove the lock that the first has just made.)
 */
import { MillraceError } from '../api/errors.ts';

/** A record: who holds a lock. Kept as JSON, so that people and other programs can read it. */
export interface LockHolder {
  /** Process id. */
  pid: number;
  /**
   * When the process started, in the kernel's own count: the same pid with another start is another
   * process.
   */
  started?: string;
  /**
   * The thread of the process, with its own start, where it is not the main one: it may end before
   * the process does.
   */
  thread?: { id: number; started?: string };
  /**
   * The boot of the machine that the process belongs to: after a restart of the machine, it is
   * gone.
   */
  boot?: string;
  /** The pid namespace: a pid says nothing in another container. */
  namespace?: string;
  /** Name of the machine. */
  host: string;
  /** Name of the program, without its arguments (which may hold credentials). */
  program: string;
  /** When the lock was taken: ISO 8601. */
  since: string;
  /**
   * The holder keeps its record locked by flock(2) as long as it lives: for runtimes that may not
   * look at other processes.
   */
  flock?: boolean;
}

/**
 * What a runtime brings. All of it is synchronous, so that a lock can be given back while the
 * process exits. File operations throw errors whose `code` is the name of the errno.
 */
export interface LockHost {
  /** The record of this process. */
  self(): LockHolder;
  /**
   * Whether the holder, whose record is the file `path`, still runs; `unknown` where this process
   * cannot tell.
   */
  stateOf(holder: LockHolder, path: string): 'alive' | 'gone' | 'unknown';
  makeFolder(path: string): void;
  /** Names, not paths. */
  list(folder: string): string[];
  writeFile(path: string, text: string): void;
  readFile(path: string): string;
  /** Puts a folder in the place of no folder or an empty one. */
  renameFolder(from: string, to: string): void;
  removeFile(path: string): void;
  /** Fails when the folder is not empty. */
  removeFolder(path: string): void;
}

export interface Lock {
  /**
   * Gives the lock back; a second call does nothing. Never throws: what cannot be removed is taken
   * over by the next holder.
   */
  release(): void;
}

/**
 * Each round but the last lost its place to a taker who has released it since: more than a few mean
 * that something else is wrong.
 */
const ROUNDS_MAX = 100;
/** What renaming onto a lock in use fails with; EPERM is Windows' way to say it. */
const TAKEN: ReadonlySet<string | undefined> = new Set(['ENOTEMPTY', 'EEXIST', 'EPERM']);

/**
 * Takes the lock of the image at `image`, a path without symbolic links in it (another hard link to
 * the same file is not noticed).
 * @throws MillraceError `EBUSY` that names the holder, be it this process; the host's own errors
 *   where the lock cannot be made.
 */
export function takeLock(image: string, host: LockHost): Lock {
  const place = `${image}.lock`;
  const self = host.self();
  const token = `${self.pid}-${crypto.randomUUID()}`;
  const staging = `${place}.${token}`;
  try {
    for (let round = 1; !isTaken(place, staging, token, self, host); round++) {
      const record = removeGone(place, host);
      if (record !== undefined) throw busy(image, place, record, self, host);
      if (round === ROUNDS_MAX)
        throw new MillraceError('EBUSY', `cannot lock '${image}': '${place}' cannot be replaced`);
    }
  } catch (error) {
    quietly(() => host.removeFile(`${staging}/${token}`));
    quietly(() => host.removeFolder(staging));
    throw error;
  }
  quietly(() => sweepStaging(place, host));
  return {
    release() {
      quietly(() => host.removeFile(`${place}/${token}`));
      quietly(() => host.removeFolder(place));
    },
  };
}

/**
 * Prepares the record, if need be, and tries to put it in place. Another taker may have swept it
 * away before it was whole: then an empty folder came to the place, and it is not taken.
 */
function isTaken(
  place: string,
  staging: string,
  token: string,
  self: LockHolder,
  host: LockHost,
): boolean {
  unless('EEXIST', () => host.makeFolder(staging));
  unlessMissing(() =>
    unless('EEXIST', () => host.writeFile(`${staging}/${token}`, `${JSON.stringify(self)}\n`)),
  );
  return (
    unlessMissing(() => putInPlace(staging, place, host)) === true &&
    unlessMissing(() => host.list(place))?.includes(token) === true
  );
}

function putInPlace(staging: string, place: string, host: LockHost): boolean {
  try {
    host.renameFolder(staging, place);
    return true;
  } catch (error) {
    if (TAKEN.has(codeOf(error))) return false;
    if (codeOf(error) !== 'ENOTDIR') throw error;
    const message = `cannot lock: '${place}' is a file of another program; remove it if nothing uses it`;
    throw new MillraceError('EBUSY', message, { cause: error });
  }
}

/** Removes the records of holders that are gone; gives a record that is not, if there is one. */
function removeGone(folder: string, host: LockHost): LockRecord | undefined {
  for (const record of records(folder, host)) {
    const { path, holder } = record;
    if (holder === 'unreadable' || (holder !== 'empty' && host.stateOf(holder, path) !== 'gone'))
      return record;
    removeRecord(path, folder, host);
  }
  return undefined;
}

/** What follows the lock's own name in that of a folder where a record is prepared. */
const STAGED = /^\d+-[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

/**
 * Removes what takers left that were killed before they had put their lock in place. A record that
 * is still in the making looks the same as one that never got whole: its taker makes it again.
 */
function sweepStaging(place: string, host: LockHost): void {
  const at = Math.max(place.lastIndexOf('/'), place.lastIndexOf('\\')) + 1;
  const [parent, prefix] = [place.slice(0, at), `${place.slice(at)}.`];
  for (const name of host.list(parent)) {
    if (!name.startsWith(prefix) || !STAGED.test(name.slice(prefix.length))) continue;
    for (const { path, holder } of records(parent + name, host)) {
      if (
        holder === 'empty' ||
        (typeof holder === 'object' && host.stateOf(holder, path) === 'gone')
      )
        unlessMissing(() => host.removeFile(path));
    }
    // One that holds a record stays.
    quietly(() => host.removeFolder(parent + name));
  }
}

function removeRecord(path: string, folder: string, host: LockHost): void {
  unlessMissing(() => host.removeFile(path));
  // Another taker may have renamed its own onto the empty one by now; where that cannot be done
  // (Windows), the empty one has to go.
  quietly(() => host.removeFolder(folder));
}

interface LockRecord {
  path: string;
  holder: LockHolder | 'empty' | 'unreadable';
}

/** What a lock's folder holds at this moment: one record or none, but for what is not ours. */
function records(folder: string, host: LockHost): LockRecord[] {
  const names = unlessMissing(() => host.list(folder)) ?? [];
  return names.flatMap((name) => {
    const path = `${folder}/${name}`;
    const text = unlessMissing(() => host.readFile(path));
    return text === undefined ? [] : [{ path, holder: parse(text) }];
  });
}

/**
 * A record is complete when it appears; one without content has lost it in a power cut, and its
 * holder with it.
 */
function parse(text: string): LockHolder | 'empty' | 'unreadable' {
  if (/^[\0\s]*$/.test(text)) return 'empty';
  try {
    const holder = JSON.parse(text) as LockHolder;
    const texts = [holder.host, holder.program, holder.since];
    return Number.isSafeInteger(holder.pid) && texts.every((text) => typeof text === 'string')
      ? holder
      : 'unreadable';
  } catch {
    return 'unreadable';
  }
}

function busy(
  image: string,
  place: string,
  { path, holder }: LockRecord,
  self: LockHolder,
  host: LockHost,
): MillraceError {
  const remove = `if that program is gone, remove '${place}'`;
  if (typeof holder === 'string')
    return new MillraceError('EBUSY', `'${image}' is locked by an unknown program; ${remove}`);
  const isAlive = host.stateOf(holder, path) === 'alive';
  if (isAlive && holder.pid === self.pid) {
    return new MillraceError(
      'EBUSY',
      `'${image}' is open for writing in this process already, since ${holder.since}`,
    );
  }
  const who =
    `${holder.program} (pid ${holder.pid} on ${holder.host}, since ${holder.since})`.replace(
      /\p{Cc}/gu,
      '?',
    );
  const advice = isAlive ? 'end it there, or open the image read-only' : remove;
  return new MillraceError('EBUSY', `'${image}' is open for writing by ${who}; ${advice}`);
}

function codeOf(error: unknown): string | undefined {
  return (error as { code?: string }).code;
}

function unlessMissing<T>(operation: () => T): T | undefined {
  return unless('ENOENT', operation);
}

function unless<T>(code: string, operation: () => T): T | undefined {
  try {
    return operation();
  } catch (error) {
    if (codeOf(error) === code) return undefined;
    throw error;
  }
}

function quietly(operation: () => void): void {
  try {
    operation();
  } catch {
    // Left for the next taker, by design.
  }
}
