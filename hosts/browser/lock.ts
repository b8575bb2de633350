/**
 * Keeps two tabs from writing one disk, by Web Locks: the browser itself gives a lock back when the
 * page or worker that holds it ends, however it ends. Who holds a disk is told by a second lock,
 * whose name says it, so that it can never be out of date.
 */
import { MillraceError } from '../api/errors.ts';

export interface DiskLock {
  /** Gives it back; resolves when the browser has noticed. */
  release(): Promise<void>;
}

/** Who wants a disk: the page, as the user knows it. */
export interface Holder {
  title: string;
  url: string;
}

export interface LockOptions {
  /** `shared`: for reading only, along with others who do. */
  mode: 'exclusive' | 'shared';
  /** Wait as long as it takes, rather than fail. */
  wait?: boolean;
  holder: Holder;
}

/**
 * A page that has just been reloaded or closed gives its locks back a moment later: so long every
 * taker waits.
 */
export const GRACE_MS = 1000;

/** @throws MillraceError `EBUSY`, with the page that has the disk. */
export async function lockDisk(name: string, options: LockOptions): Promise<DiskLock> {
  const signal = options.wait ? undefined : AbortSignal.timeout(GRACE_MS);
  let disk: DiskLock;
  try {
    disk = await hold(lockName(name), { mode: options.mode, signal });
  } catch (cause) {
    if ((cause as Error).name !== 'TimeoutError' && (cause as Error).name !== 'AbortError')
      throw cause;
    throw new MillraceError(
      'EBUSY',
      `disk '${name}' is open ${await holderOf(name)}; close it there, or wait for it (whenBusy: 'wait')`,
    );
  }
  const record = JSON.stringify({ ...options.holder, since: new Date().toISOString() });
  const told = await hold(`${holderPrefix(name)}${crypto.randomUUID()}/${record}`, {
    mode: 'exclusive',
  });
  return {
    async release() {
      await told.release();
      await disk.release();
    },
  };
}

/** Holds a lock of this name until it is released or its page or worker ends. */
export function hold(name: string, options: LockOptionsOfBrowser): Promise<DiskLock> {
  return new Promise((resolve, reject) => {
    let finish = (): void => {};
    const held = new Promise<void>((done) => (finish = done));
    const released = navigator.locks.request(name, options, () => {
      resolve({
        release() {
          finish();
          // After the site's data were cleared, some browsers never say that a lock is free.
          return Promise.race([
            released,
            new Promise<void>((resolve) => setTimeout(resolve, GRACE_MS)),
          ]);
        },
      });
      return held;
    });
    released.catch(reject);
  });
}

/** Runs `action` under the disk's lock, unless somebody has that: then it does nothing. */
export async function ifFree(name: string, action: () => Promise<void>): Promise<void> {
  await navigator.locks.request(lockName(name), { ifAvailable: true }, (lock) =>
    lock ? action() : undefined,
  );
}

function lockName(disk: string): string {
  return `millrace/disk/${disk}`;
}

type LockOptionsOfBrowser = { mode: 'exclusive' | 'shared'; signal?: AbortSignal };

/** In which tab a disk is open, for a message. */
async function holderOf(name: string): Promise<string> {
  const prefix = holderPrefix(name);
  const { held = [] } = await navigator.locks.query();
  const record = held.map((lock) => lock.name ?? '').find((lock) => lock.startsWith(prefix));
  if (record === undefined) return 'in another tab';
  const { title, url, since } = JSON.parse(
    record.slice(record.indexOf('/', prefix.length) + 1),
  ) as Holder & { since: string };
  return `in the tab '${title || url}' (${url}, since ${since})`;
}

/** Names may hold any character: encoded, one can never be the beginning of another. */
function holderPrefix(name: string): string {
  return `millrace/holder/${encodeURIComponent(name)}/`;
}
