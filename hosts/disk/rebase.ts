/**
 * rebase: gives an overlay another base, as `qemu-img rebase` does. The disk shows the same before
 * and after: where the two bases differ, the overlay takes over what the old one shows. With
 * `unsafe` only the reference changes, for a base that was moved.
 */
import type { RebaseOptions, RebaseReport } from '../api/chain.ts';
import type { Disk } from '../api/disk.ts';
import { MillraceError } from '../api/errors.ts';
import type { ImageFormat, ImageInfo } from '../api/image.ts';
import type { OpenOptions } from '../api/open.ts';
import { mustKnowOptions, REBASE_OPTIONS } from '../api/options.ts';
import type { Runtime } from '../api/runtime.ts';
import { notFollowed } from './backing.ts';
import { formatOfWord, recordedFormat } from './driver/formats.ts';
import { RAW_BASE, RAW_IMAGE } from './image-opening.ts';
import { contentsOf, openPlace } from './image-source.ts';
import { openDiskWith } from './open.ts';
import { checkedRecord } from './options.ts';
import { parseIdentity, recordedName, recordOf, textOf } from './recorded.ts';

/** Bytes that are compared at once. */
const PIECE_BYTES = 4 * 1024 * 1024;
/** Disks are whole sectors, so that they can be compared by words. */
const WORD_BYTES = 4;

/**
 * @throws MillraceError `EUNSUPPORTED` when the overlay's header has no room for the new base's
 * name, `EINVAL` when the new base is the overlay itself or stands on it; and as openDisk does.
 */
export async function rebaseWith(runtime: Runtime, options: RebaseOptions): Promise<RebaseReport> {
  mustKnowOptions('rebaseDisk', options, REBASE_OPTIONS);
  const { overlay, base, unsafe = false, followChain, forceShare, memory } = options;
  if (base !== null && typeof base !== 'string' && !(base instanceof URL))
    throw new MillraceError(
      'EINVAL',
      `cannot rebase ${overlay}: the base is a path or a URL, or null for none`,
    );
  let otherDate: string | undefined;
  const existing: OpenOptions = {
    overlay,
    base: unsafe ? null : undefined,
    followChain,
    forceShare,
    sequential: options.sequential,
    memory,
    copyOnRead: false,
  };
  const disk = await openDiskWith(runtime, existing, {
    onOtherDate: (words) => (otherDate = words),
  });
  try {
    const [{ backingFile = '', backingFormat }] = await disk.images();
    const recorded = {
      name: backingFile,
      format: formatOfWord(backingFormat ?? ''),
      identity: disk.baseRecord.identity(),
    };
    const next = base === null ? undefined : await openNext(runtime, base, options, recorded);
    let bytes = 0;
    let report: RebaseReport;
    try {
      const record = [next?.name ?? '', next?.word ?? '', next?.identity ?? ''] as const;
      disk.baseRecord.mustHaveRoom(...record);
      if (!unsafe) bytes = await takeOver(disk, next?.disk, options.onProgress);
      await disk.flush();
      await disk.baseRecord.refer(...record);
      report = { base: next?.name ?? null, baseFormat: next?.format ?? null, bytes };
      if (otherDate !== undefined) report.otherDate = otherDate;
    } finally {
      await next?.disk.close();
    }
    await disk.close();
    return report;
  } catch (error) {
    await disk.close().catch(() => {});
    throw error;
  }
}

interface Next {
  disk: Disk;
  name: string;
  format: ImageFormat;
  /** What is recorded for it. */
  word: string;
  identity: string;
}

/** The overlay itself is in use, too: that it cannot be its own base is said before that. */
async function openNext(
  runtime: Runtime,
  base: string | URL,
  options: RebaseOptions,
  recorded: { name: string; format?: ImageFormat; identity: string },
): Promise<Next> {
  try {
    return await openBase(runtime, base, options, recorded);
  } catch (error) {
    if (!(error instanceof MillraceError) || error.code !== 'EBUSY') throw error;
    const looked = await openBase(runtime, base, { ...options, forceShare: true }, recorded);
    await looked.disk.close();
    throw error;
  }
}

/**
 * With `unsafe`, the caller's word is that the base is the same one as before: it has the format
 * that was `recorded` then, whatever its first bytes look like now.
 */
async function openBase(
  runtime: Runtime,
  base: string | URL,
  options: RebaseOptions,
  recorded: { name: string; format?: ImageFormat; identity: string },
): Promise<Next> {
  const { overlay, baseFormat, followChain, forceShare, recordBase, memory, unsafe } = options;
  const opened = await openPlace(runtime, base, forceShare ? 'shared' : 'base', options);
  const name =
    checkedRecord(recordBase) ?? recordedName(runtime, opened.place, overlay) + opened.suffix;
  const source = await contentsOf(runtime, opened.source, {
    ...options,
    member: opened.member,
    recorded: parseIdentity(recorded.identity, recorded.name),
    beside: overlay,
  });
  // Only what it is has to be known of a base that is not to be read.
  const follows = !unsafe && followChain;
  const kept = unsafe && baseFormat === undefined ? recorded.format : undefined;
  const disk = await openDiskWith(runtime, {
    overlay: source,
    format: baseFormat ?? kept,
    readOnly: true,
    base: follows ? undefined : null,
    followChain,
    forceShare,
    // What is in it has been decided above.
    unpack: false,
    memory,
  }).catch((error) => {
    throw kept === undefined ? asOfBase(error) : anotherFormat(error, kept);
  });
  try {
    const images = await disk.images();
    await mustNotHold(runtime, images, overlay);
    if (!unsafe && !follows && images[0].backingFile)
      throw notFollowed(images[0].name, images[0].backingFile);
    // What is in a container may not tell its size before it has been opened.
    const sample = await opened.source.mirrors?.sample();
    const record = { ...(await recordOf(source)), sample };
    const [{ format }] = images;
    const word = recordedFormat(format, record.container);
    return { disk, name, format, word, identity: textOf(record, name) };
  } catch (error) {
    await disk.close();
    throw error;
  }
}

function anotherFormat(error: unknown, kept: ImageFormat): unknown {
  if (!(error instanceof MillraceError) || error.code !== 'ECORRUPT') return error;
  return new MillraceError(
    error.code,
    `${error.message}; the overlay records a ${kept} base: if this one has another format, give it (baseFormat, --base-format)`,
    { cause: error, offset: error.offset },
  );
}

/** What is opened as an image by itself was given as a base. */
function asOfBase(error: unknown): unknown {
  if (!(error instanceof MillraceError) || !error.message.includes(RAW_IMAGE)) return error;
  const message = error.message.replace(RAW_IMAGE, RAW_BASE);
  return new MillraceError(error.code, message, { cause: error.cause, offset: error.offset });
}

/** An overlay that is below itself shows nothing any more of what its old base held. */
async function mustNotHold(runtime: Runtime, images: ImageInfo[], overlay: string): Promise<void> {
  const realName = async (name: string): Promise<string> =>
    (await runtime.realName?.(name).catch(() => undefined)) ?? name;
  const own = await realName(overlay);
  for (const { name } of images) {
    if ((await realName(name)) === own)
      throw new MillraceError(
        'EINVAL',
        `cannot rebase ${overlay} onto ${images[0].name}: that is the overlay itself, or an image over it`,
      );
  }
}

/**
 * Writes into the overlay what its old base shows and its new one does not; gives how many bytes
 * that were.
 */
async function takeOver(
  disk: Disk,
  next: Disk | undefined,
  onProgress: RebaseOptions['onProgress'],
): Promise<number> {
  let bytes = 0;
  for await (const { offset, length, state } of disk.map(0, disk.size, { depth: 1 })) {
    if (state !== 'absent') continue;
    for (let at = offset; at < offset + length; at += PIECE_BYTES) {
      const size = Math.min(PIECE_BYTES, offset + length - at);
      const [before, after] = await Promise.all([disk.read(at, size), readPadded(next, at, size)]);
      bytes += await writeDifferences(disk, at, before, after);
      onProgress?.(at + size, disk.size);
    }
  }
  return bytes;
}

/** Behind its end, a base shows zeros. */
async function readPadded(
  disk: Disk | undefined,
  offset: number,
  length: number,
): Promise<Uint8Array> {
  const bytes = new Uint8Array(length);
  const present = Math.max(0, Math.min(length, (disk?.size ?? 0) - offset));
  if (disk && present) bytes.set(await disk.read(offset, present));
  return bytes;
}

/** Writes the clusters of `before` that differ from `after`, neighbours together. */
async function writeDifferences(
  disk: Disk,
  offset: number,
  before: Uint8Array,
  after: Uint8Array,
): Promise<number> {
  const words = [before, after].map(
    ({ buffer, byteOffset, length }) => new Uint32Array(buffer, byteOffset, length / WORD_BYTES),
  );
  let written = 0;
  let from = -1;
  for (let at = 0; at <= before.length; ) {
    const end = Math.min(
      before.length,
      (Math.floor((offset + at) / disk.clusterSize) + 1) * disk.clusterSize - offset,
    );
    const differs =
      at < before.length && !isEqual(words[0], words[1], at / WORD_BYTES, end / WORD_BYTES);
    if (differs && from < 0) from = at;
    if (!differs && from >= 0) {
      await disk.write(offset + from, before.subarray(from, at));
      written += at - from;
      from = -1;
    }
    if (at === before.length) break;
    at = end;
  }
  return written;
}

function isEqual(a: Uint32Array, b: Uint32Array, from: number, to: number): boolean {
  for (let at = from; at < to; at++) if (a[at] !== b[at]) return false;
  return true;
}
