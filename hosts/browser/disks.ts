/**
 * The disks in this browser, by name, while they are closed: list, check, rename, delete, and the
 * ways in and out as files.
 */
import { proxy, transfer } from 'comlink';
import type { CheckOptions, CheckReport } from '../api/check.ts';
import { MillraceError } from '../api/errors.ts';
import type { ImageFormat } from '../api/image.ts';
import { CHECK_OPTIONS, mustKnowOptions } from '../api/options.ts';
import type { CopyOptions, ProgramOptions } from './api.ts';
import { describeState, moveBeside, removeBeside } from './beside.ts';
import type { DiskRecord } from './catalog.ts';
import { forgetDisk, recallDisk, rememberDisk } from './catalog.ts';
import type { Service } from './link.ts';
import { thisPage, WorkerLink } from './link.ts';
import type { DiskLock } from './lock.ts';
import { ifFree, lockDisk } from './lock.ts';
import {
  diskExists,
  diskFile,
  diskNames,
  disksFolder,
  fileNameOf,
  moveDisk,
  partNames,
  removeDisk,
  removePart,
} from './opfs.ts';
import { PROGRAM_OPTIONS, programOf } from './program-options.ts';
import { reportTo, sendSource } from './wire.ts';

/** All disks of this site, in order of their names, with what is remembered of each. */
export async function listDisks(): Promise<DiskRecord[]> {
  await removeParts().catch(() => {});
  const names = await diskNames();
  return Promise.all(
    names.map(async (name) => {
      const [record, state] = await Promise.all([recallDisk(name), describeState(name)]);
      return { ...record, name, ...(state && { state }) };
    }),
  );
}

/** Of imports whose page was left halfway: nothing else would ever give their room back. */
async function removeParts(): Promise<void> {
  for (const name of await partNames()) await ifFree(name, () => removePart(name));
}

/**
 * Gives a disk another name. Overlays that are based on it by its old name do not follow.
 * @throws MillraceError `EBUSY` while it is open, `ENOENT`, `EEXIST` when the new name is taken,
 *   `EINVAL`.
 */
export async function renameDisk(name: string, to: string): Promise<void> {
  fileNameOf(to);
  // Its lock would be waited for twice.
  if (to === name)
    throw new MillraceError('EINVAL', `cannot rename disk '${name}': it has that name`);
  await whileLocked(name, () =>
    whileLocked(to, async () => {
      if (await diskExists(to))
        throw new MillraceError(
          'EEXIST',
          `cannot rename disk '${name}': there is a disk '${to}' already`,
        );
      await moveDisk(name, to);
      await moveBeside(name, to);
      const record = await recallDisk(name);
      // Of a disk of that name whose file is gone, something may still be remembered.
      await forgetDisk(to);
      if (record) await rememberDisk(to, record);
      await forgetDisk(name);
    }),
  );
}

/** Deletes a disk for good. @throws MillraceError `EBUSY` while it is open, `ENOENT`. */
export async function deleteDisk(name: string): Promise<void> {
  await whileLocked(name, async () => {
    await removeDisk(name);
    await removeBeside(name);
    await forgetDisk(name);
  });
}

/**
 * The file of a disk that is not open, as `NAME.qcow2`, without copying it: it can be read until
 * the disk is opened for writing again. After that Chromium fails to read it, and Firefox reads old
 * and new bytes. For a disk that is open, see `BrowserDisk.exportQcow2`.
 * @throws MillraceError `EBUSY` while it is open, `ENOENT`.
 */
export async function exportDisk(name: string): Promise<File> {
  return whileLocked(name, async () => {
    const file = await diskFile(name);
    return new File([file], `${name}.qcow2`, {
      type: 'application/x-qemu-disk',
      lastModified: file.lastModified,
    });
  });
}

/**
 * Takes a user's file in as a new disk: a qcow2 image as it is, with the base it refers to, if any,
 * to be named when it is opened; raw data copied into an overlay that stands alone. The format is
 * told by the file's contents unless it is given.
 * @throws MillraceError `EEXIST`, `EBUSY`, `ENOSPC`, `ECORRUPT`, `EUNSUPPORTED`, `ABORTED`; nothing
 *   is left of the disk then.
 */
export async function importDisk(
  name: string,
  file: Blob,
  options: { format?: ImageFormat } & CopyOptions & ProgramOptions = {},
): Promise<void> {
  mustKnowOptions('importDisk', options, {
    format: true,
    onProgress: true,
    signal: true,
    ...PROGRAM_OPTIONS,
  });
  if (!(await disksFolder()))
    throw new MillraceError(
      'EUNSUPPORTED',
      `cannot import disk '${name}': the browser gives this page no storage`,
    );
  if (await diskExists(name))
    throw new MillraceError('EEXIST', `there is a disk '${name}' already`);
  await inWorker(name, options, (service) =>
    service.importFile(name, file, options.format, thisPage(), reportTo(options)),
  );
}

/**
 * Checks an image by itself, without its base, and repairs it if asked to; undefined for a raw
 * image, which has nothing to check. `overlay` is the name of a disk that is not open.
 * @throws MillraceError `EBUSY` while it is open, `ENOENT`; where the header cannot be read, or
 *   (`ECORRUPT`) a repair could lose data.
 */
export async function checkDisk(
  checked: CheckOptions & ProgramOptions,
): Promise<CheckReport | undefined> {
  mustKnowOptions('checkDisk', checked, { ...CHECK_OPTIONS, ...PROGRAM_OPTIONS });
  const { program, rest } = programOf(checked);
  const { overlay, onProgress, ...options } = rest;
  const report = onProgress && proxy(onProgress);
  if (typeof overlay === 'string')
    return inWorker(overlay, program, (service) =>
      service.checkImage(overlay, options, thisPage(), report),
    );
  const sent = sendSource(overlay);
  return inWorker(overlay.name ?? 'image', program, (service) =>
    service.checkImage(transfer(sent, [sent.port]), options, thisPage(), report),
  );
}

/** Runs one call in a worker of its own. */
async function inWorker<T>(
  name: string,
  program: ProgramOptions,
  call: (service: Service) => Promise<T>,
): Promise<T> {
  const link = await WorkerLink.start(name, () => {}, program);
  try {
    return await link.call(call);
  } finally {
    link.end(new MillraceError('ECLOSED', `the worker of disk '${name}' has done its work`));
  }
}

async function whileLocked<T>(name: string, action: () => Promise<T>): Promise<T> {
  const lock: DiskLock | undefined =
    navigator.locks && (await lockDisk(name, { mode: 'exclusive', holder: thisPage() }));
  try {
    return await action();
  } finally {
    await lock?.release();
  }
}
