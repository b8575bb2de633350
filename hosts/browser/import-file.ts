/** A user's file taken in as a disk: a qcow2 image as it is, raw data copied into an overlay. */

import { MillraceError } from '../api/errors.ts';
import type { ImageFormat, ImageInfo } from '../api/image.ts';
import { openBlob } from '../bases/blob.ts';
import { copyWith } from '../disk/copy.ts';
import { openDiskWith } from '../disk/open.ts';
import { removeBeside } from './beside.ts';
import { forgetDisk, rememberDisk } from './catalog.ts';
import type { Holder } from './lock.ts';
import { lockDisk } from './lock.ts';
import { diskExists, writeDisk } from './opfs.ts';
import type { BrowserRuntime } from './runtime.ts';
import type { Report } from './wire.ts';

/** Takes a file in under a name that no disk has. @throws MillraceError as `importDisk`. */
export async function importFile(
  runtime: BrowserRuntime,
  {
    name,
    file,
    format,
    holder,
  }: { name: string; file: Blob; format: ImageFormat | undefined; holder: Holder },
  report: Report,
): Promise<void> {
  await report(0);
  const image = format === 'raw' ? undefined : await probe(runtime, file);
  if (image?.format === 'qcow2') return importImage(name, file, image, holder, report);
  if (format === 'qcow2')
    throw new MillraceError(
      'EUNSUPPORTED',
      `cannot import disk '${name}': the file is not a qcow2 image`,
    );
  await importRaw(name, file, runtime, report);
}

/** What format an image has, and what it says of itself; nothing it refers to is opened. */
async function probe(runtime: BrowserRuntime, file: Blob): Promise<ImageInfo> {
  const disk = await openDiskWith(runtime, { overlay: openBlob(file), base: null, readOnly: true });
  const [image] = await disk.images();
  await disk.close();
  return image;
}

async function importImage(
  name: string,
  file: Blob,
  image: ImageInfo,
  holder: Holder,
  report: Report,
): Promise<void> {
  const lock = await lockDisk(name, { mode: 'exclusive', holder });
  try {
    if (await diskExists(name))
      throw new MillraceError('EEXIST', `there is a disk '${name}' already`);
    await removeBeside(name);
    await writeDisk(name, file, (bytes) => report(bytes / file.size));
  } finally {
    await lock.release();
  }
  const base = image.backingFile === undefined ? undefined : { name: image.backingFile };
  await forgetDisk(name);
  await rememberDisk(name, { size: image.virtualSize, base, lastUsed: Date.now() });
}

async function importRaw(
  name: string,
  file: Blob,
  runtime: BrowserRuntime,
  report: Report,
): Promise<void> {
  const givenUp = new AbortController();
  const size = await copyWith(
    runtime,
    { overlay: name, base: openBlob(file), baseFormat: 'raw' },
    {
      signal: givenUp.signal,
      begin: (size) => (info) =>
        void report(1 - info.remaining / size).catch((reason) => givenUp.abort(reason)),
    },
  );
  await forgetDisk(name);
  await rememberDisk(name, { size, remaining: 0, lastUsed: Date.now() });
}
