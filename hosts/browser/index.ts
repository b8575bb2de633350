/**
 * Millrace for browsers: disks in the browser's own storage, over bases by HTTP, files, blobs and
 * buffers. Each open disk has a worker of its own, so that the page stays quick.
 *
 * ```ts
 * import { createDisk, openDisk, listDisks } from 'millrace/browser';
 * const disk = await createDisk({ overlay: 'vm', base: 'https://images.example/debian.qcow2' });
 * await disk.read(0, 512);                  // fetched now, kept in the overlay
 * await disk.stream({ nonblock: true });    // the whole base
 * // after a reload:
 * const again = await openDisk({ overlay: 'vm', resumeJob: true });
 * ```
 *
 * The server of a base on another origin must allow this page by CORS:
 * `Access-Control-Allow-Origin`, `Access-Control-Allow-Headers: Range`, and
 * `Access-Control-Expose-Headers: Content-Range, ETag`. A missing one is named in the error.
 */

import { transfer } from 'comlink';
import { MillraceError } from '../api/errors.ts';
import type { OptionNames } from '../api/options.ts';
import { CREATE_OPTIONS, mustKnowOptions, OPEN_OPTIONS } from '../api/options.ts';
import { openBuffer } from '../bases/blob.ts';
import { jobWithin } from '../disk/job/range.ts';
import type {
  BrowserBase,
  BrowserCreateOptions,
  BrowserDisk,
  BrowserOpenOptions,
  ProgramOptions,
} from './api.ts';
import { recallDisk } from './catalog.ts';
import { thisPage, WorkerLink } from './link.ts';
import { PROGRAM_OPTIONS, programOf } from './program-options.ts';
import { RemoteDisk } from './remote-disk.ts';
import type { Order, SentBase, SentEvent, SentSource } from './wire.ts';
import { sendProfile, sendSource } from './wire.ts';

export { openBlob, openBuffer } from '../bases/blob.ts';
export * from '../faces/library.ts';
export type {
  BrowserBase,
  BrowserCreateOptions,
  BrowserDisk,
  BrowserOpenOptions,
  CopyOptions,
  ProgramOptions,
} from './api.ts';
export type { DiskRecord, RememberedJob } from './catalog.ts';
export { checkDisk, deleteDisk, exportDisk, importDisk, listDisks, renameDisk } from './disks.ts';
export { openHttp } from './http.ts';
export { persistDisks, storageRoom } from './quota.ts';

const BROWSER_OPEN_OPTIONS: OptionNames<BrowserOpenOptions> = {
  ...OPEN_OPTIONS,
  whenBusy: true,
  signal: true,
  resumeJob: true,
  ...PROGRAM_OPTIONS,
};

const BROWSER_CREATE_OPTIONS: OptionNames<BrowserCreateOptions> = {
  ...CREATE_OPTIONS,
  ...PROGRAM_OPTIONS,
};

/** Makes a new overlay over a base, or an empty disk of a given size, and opens it. */
export async function createDisk(options: BrowserCreateOptions): Promise<BrowserDisk> {
  mustKnowOptions('createDisk', options, BROWSER_CREATE_OPTIONS);
  const { program, rest: own } = programOf(options);
  const { overlay, base, ...rest } = own;
  return open({
    create: true,
    options: rest,
    overlay,
    bases: base === undefined ? [] : [base],
    wait: false,
    program,
  });
}

/** Opens an overlay; its base is the recorded one unless another is given. */
export async function openDisk(options: BrowserOpenOptions): Promise<BrowserDisk> {
  mustKnowOptions('openDisk', options, BROWSER_OPEN_OPTIONS);
  const { program, rest: own } = programOf(options);
  const { overlay, base, create, whenBusy = 'fail', signal, resumeJob = false, ...rest } = own;
  if (whenBusy !== 'fail' && whenBusy !== 'wait')
    throw new MillraceError('EINVAL', `whenBusy is fail or wait, not '${String(whenBusy)}'`);
  const bases = base === undefined ? [] : base === null || Array.isArray(base) ? base : [base];
  const disk = await open({
    create: false,
    options: rest,
    overlay,
    bases,
    wait: whenBusy === 'wait',
    signal,
    program,
    make: create,
  });
  const remembered =
    resumeJob && typeof overlay === 'string' ? (await recallDisk(overlay))?.job : undefined;
  const job = remembered && jobWithin(remembered, disk.size);
  try {
    if (job) await disk.stream({ ...job, nonblock: true });
    return disk;
  } catch (error) {
    await disk.close().catch(() => {});
    throw error;
  }
}

interface Wanted extends Omit<Order, 'overlay' | 'bases' | 'make' | 'holder'> {
  make?: BrowserOpenOptions['create'];
  overlay: BrowserOpenOptions['overlay'];
  bases: BrowserBase[] | null;
  signal?: AbortSignal;
  program: ProgramOptions;
}

async function open({
  overlay,
  bases,
  make,
  signal,
  program,
  ...wanted
}: Wanted): Promise<BrowserDisk> {
  const name = typeof overlay === 'string' ? overlay : (overlay.name ?? 'overlay');
  const early: SentEvent[] = [];
  let hear = (event: SentEvent): void => void early.push(event);
  const aborted = (): MillraceError =>
    new MillraceError('ABORTED', `disk '${name}' was not opened: aborted`, {
      cause: signal?.reason,
    });
  if (signal?.aborted) throw aborted();
  const link = await WorkerLink.start(name, (event) => hear(event), program);
  const cancel = (): void => link.end(aborted());
  if (signal?.aborted) cancel();
  signal?.addEventListener('abort', cancel);
  try {
    const order: Order = {
      ...wanted,
      options: { ...wanted.options, profile: sendProfile(wanted.options.profile) },
      overlay: typeof overlay === 'string' ? overlay : sendSource(overlay),
      bases: bases?.map(sendBase) ?? null,
      make: make && sendMake(make),
      holder: thisPage(),
    };
    const ports = [order.overlay, ...(order.bases ?? []), order.make?.base]
      .filter((sent): sent is SentSource => typeof sent === 'object' && 'port' in sent)
      .map(({ port }) => port);
    const shape = await link.call((service) => service.open(transfer(order, ports)));
    const disk = new RemoteDisk(link, shape);
    hear = (event) => disk.heard(event);
    for (const event of early) hear(event);
    if (!shape.persistent)
      console.warn(
        `millrace: the browser gives this page no storage, so disk '${name}' is in memory and goes with the page`,
      );
    return disk;
  } catch (error) {
    link.end(new MillraceError('ECLOSED', `disk '${name}' was not opened`));
    throw error;
  } finally {
    signal?.removeEventListener('abort', cancel);
  }
}

function sendMake({ base, ...options }: NonNullable<BrowserOpenOptions['create']>): Order['make'] {
  return { options, base: base === undefined ? undefined : sendBase(base) };
}

function sendBase(base: BrowserBase): SentBase {
  if (base instanceof URL) return base.href;
  if (base instanceof Blob) return base;
  if (base instanceof ArrayBuffer || base instanceof Uint8Array)
    return sendSource(openBuffer(base));
  if (typeof base !== 'string') return sendSource(base);
  return /^\.{0,2}\//.test(base)
    ? new URL(base, globalThis.document?.baseURI ?? location.href).href
    : base;
}
