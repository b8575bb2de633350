/**
 * What a browser adds to the public types: bases that only a page has (files, blobs, buffers),
 * disks by name in the browser's own storage, and the ways in and out of it.
 */
import type { Disk } from '../api/disk.ts';
import type { BaseLocation, CreateOptions, OpenOptions } from '../api/open.ts';
import type { HttpStats } from '../bases/http/http.ts';

/**
 * A base: a URL (relative ones, which begin with `/`, `./` or `../`, are resolved against the
 * page), the name of another disk in this browser, a `File` or `Blob` (read in place, never copied
 * as a whole), the bytes themselves, or an opened source.
 */
export type BrowserBase = BaseLocation | Blob | ArrayBuffer | Uint8Array;

/**
 * Where the worker's program and the engine come from. The package brings both as text, which works
 * with every bundler and without one; a page whose policy forbids `worker-src blob:` gives the
 * address of its own copy of `millrace/browser/worker.js`.
 */
export interface ProgramOptions {
  /** The worker's script; relative ones are resolved against the page. */
  workerUrl?: string | URL;
  /** The engine, `millrace/engine.wasm`. */
  wasmUrl?: string | URL;
  /** The engine, compiled already. */
  wasm?: WebAssembly.Module;
}

/** `overlay` is the name of the disk: any text of up to about 240 bytes. */
export interface BrowserCreateOptions extends Omit<CreateOptions, 'base'>, ProgramOptions {
  /** A URL, or a File, Blob or ArrayBuffer. */
  base?: BrowserBase;
}

/**
 * `overlay` is the name of the disk. A disk made on a file, blob or buffer needs that base given
 * again.
 */
export interface BrowserOpenOptions extends Omit<OpenOptions, 'base' | 'create'>, ProgramOptions {
  /** Makes the disk, as `createDisk` does, where it is not there yet. */
  create?: Omit<OpenOptions['create'], 'base'> & Pick<BrowserCreateOptions, 'base'>;
  /** The base, or the images below the overlay from the nearest down; `null` leaves it unopened. */
  base?: BrowserBase | BrowserBase[] | null;
  /**
   * When another tab has the disk: fail with `EBUSY` (default), or wait and take over when it
   * closes.
   */
  whenBusy?: 'fail' | 'wait';
  /** Ends the waiting. */
  signal?: AbortSignal;
  /**
   * Start the job again, as if with `nonblock`, that was under way when the page was left: at the
   * speed it was last given, and paused if it had been told to pause.
   */
  resumeJob?: boolean;
}

/** For copies that take their time. */
export interface CopyOptions {
  /** Told now and then which part is done: 0 to 1. */
  onProgress?: (done: number) => void;
  /** Gives the copy up: it fails with `ABORTED`, and leaves nothing. */
  signal?: AbortSignal;
}

/** A disk whose engine runs in a worker of its own; closing it ends the worker. */
export interface BrowserDisk extends Disk {
  /**
   * False where the browser gives the page no storage (a private window, say): the overlay is in
   * memory and goes with the page.
   */
  readonly persistent: boolean;
  /** What has gone over the network for the bases since the disk was opened. */
  traffic(): Promise<HttpStats>;
  /**
   * The overlay as a file, exactly as a closed one: flushed, and sound by itself at this moment.
   * The guest's writes wait while it is copied. It refers to its base until a stream has made it
   * complete.
   */
  exportQcow2(options?: CopyOptions): Promise<Blob>;
  /**
   * Keeps the state of the machine that has this disk beside it, in place of one that was kept
   * before. It belongs to what the disk holds now: the first write takes it away. The machine
   * stands still until this resolves. A job does not harm it, and the disk's name may change.
   * @throws MillraceError `ENOSPC`; `ECHANGED` when the disk is written to meanwhile;
   *   `EUNSUPPORTED` for a disk in memory.
   */
  saveState(state: Blob): Promise<void>;
  /**
   * The state that was kept, if there is one, to be taken up before anything is written.
   * @throws MillraceError `ECHANGED` (`state-outdated`) when the disk does not hold any more what
   *   it did then, whoever has changed it, or when a page that had it open has ended without
   *   closing it.
   */
  savedState(): Promise<Blob | undefined>;
}
