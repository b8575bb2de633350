/**
 * What stands beside a disk's file and goes with it: the text that is kept with it (see `keep` in
 * hosts/api/block.ts), and the state of its machine. Neither may outlive what it was made for: the
 * text counts as long as the file is as it was when it was closed, by its length and its date.
 */
import { MillraceError } from '../api/errors.ts';
import { disksFolder, fileNameOf } from './opfs.ts';
import { fileError } from './opfs-errors.ts';

const KEPT = '.kept';
const STATE = '.state';
/** Of a state that is being written. */
const PART = '.part';
/** Lengths of what stands before a state: more than a content's name takes. */
const HEAD_BYTES_MAX = 64 * 1024;

/** As it stands in its file, in JSON. */
interface Kept {
  text: string;
  /** Of the disk's file: bytes, and milliseconds since 1970. */
  size: number;
  modified: number;
}

/** The text that was kept with a disk, if its file is still as it was then. */
export async function keptWith(name: string): Promise<string | undefined> {
  const file = await fileBeside(name, KEPT);
  const disk = await fileBeside(name, '');
  if (!file || !disk) return undefined;
  try {
    const { text, size, modified } = JSON.parse(await file.text()) as Kept;
    return size === disk.size && modified === disk.lastModified ? text : undefined;
  } catch {
    // A page that was left halfway, or somebody else.
    return undefined;
  }
}

/** Keeps a text with a disk that has just been closed; an empty one is taken away. */
export async function keepWith(name: string, text: string): Promise<void> {
  if (text === '') return remove(name, KEPT);
  const disk = await fileBeside(name, '');
  if (!disk) return;
  const kept: Kept = { text, size: disk.size, modified: disk.lastModified };
  await write(name, KEPT, new Blob([JSON.stringify(kept)]));
}

/**
 * Puts a machine's state beside its disk, for the content that `content` names. One that was there
 * goes; of a page that is left halfway nothing is left.
 * @throws MillraceError `ENOSPC`, `EIO`
 */
export async function writeState(name: string, content: string, state: Blob): Promise<void> {
  const head = new TextEncoder().encode(content);
  const length = new Uint8Array(new Uint32Array([head.length]).buffer);
  try {
    await remove(name, STATE);
    await write(name, STATE, new Blob([length, head, state]));
  } catch (error) {
    throw fileError(error, 'keep the state of the machine of', name);
  }
}

/**
 * The state beside a disk; undefined where there is none.
 * @throws MillraceError `ECHANGED` for one of another content.
 */
export async function readState(name: string, content: string): Promise<Blob | undefined> {
  const file = await fileBeside(name, STATE);
  if (!file) return undefined;
  const [length] = new Uint32Array(await file.slice(0, 4).arrayBuffer());
  const end = 4 + Math.min(length, HEAD_BYTES_MAX);
  if ((await file.slice(4, end).text()) === content) return file.slice(end);
  throw new MillraceError(
    'ECHANGED',
    `the state of the machine beside disk '${name}' was saved when the disk held something else: a machine that went on from it would destroy the file systems on the disk; start it from the disk instead`,
    { reason: 'state-outdated' },
  );
}

/** What is known of a state without opening its disk: bytes, and milliseconds since 1970. */
export async function describeState(
  name: string,
): Promise<{ size: number; saved: number } | undefined> {
  const file = await fileBeside(name, STATE);
  return file && { size: file.size, saved: file.lastModified };
}

export function removeState(name: string): Promise<void> {
  return remove(name, STATE);
}

/** Of a disk that is deleted, or that was deleted by somebody who knows only disks. */
export async function removeBeside(name: string): Promise<void> {
  await Promise.all([KEPT, STATE, STATE + PART].map((ending) => remove(name, ending)));
}

/** The disk has another name now. */
export async function moveBeside(name: string, to: string): Promise<void> {
  await removeBeside(to);
  const folder = await disksFolder();
  for (const ending of [KEPT, STATE]) {
    const handle = await folder?.getFileHandle(fileNameOf(name) + ending).catch(() => undefined);
    await (handle as { move?(name: string): Promise<void> } | undefined)?.move?.(
      fileNameOf(to) + ending,
    );
  }
}

async function fileBeside(name: string, ending: string): Promise<File | undefined> {
  try {
    const handle = await (await disksFolder())?.getFileHandle(fileNameOf(name) + ending);
    return await handle?.getFile();
  } catch {
    return undefined;
  }
}

/** At once: what stands there is whole. */
async function write(name: string, ending: string, content: Blob): Promise<void> {
  const folder = await disksFolder();
  if (!folder) return;
  const file = fileNameOf(name) + ending;
  const handle = await folder.getFileHandle(file + PART, { create: true });
  try {
    await content.stream().pipeTo(await handle.createWritable());
    await (handle as unknown as { move(name: string): Promise<void> }).move(file);
  } catch (error) {
    await folder.removeEntry(file + PART).catch(() => {});
    throw error;
  }
}

async function remove(name: string, ending: string): Promise<void> {
  const folder = await disksFolder();
  await folder?.removeEntry(fileNameOf(name) + ending).catch(() => {});
}
