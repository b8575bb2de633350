/**
 * Other overlays that stand on an image which a command has written: they take it for another base
 * now. Only those in its folder can be known of.
 */
import { rebaseCommand } from '../../disk/recorded.ts';
import { isRemote } from '../../files/location.ts';
import type { Platform } from './platform.ts';
import { tell } from './platform.ts';

/** Files that are looked at in a folder. */
const FILES_MAX = 1000;
/**
 * Where the name of a backing file stands in a qcow2 header: its place, and its length after it.
 */
const NAME_AT = 8;
const NAME_BYTES_MAX = 1023;
const QCOW2_MAGIC = 0x514649fb;
const HEADER_BYTES = 512;

/**
 * Warns of each overlay beside the image that stands on it, but for `but`. What the image shows is
 * the same as before, or has changed (`isOther`).
 */
export async function warnOfOverlays(
  platform: Platform,
  image: string,
  { but, isOther = false }: { but?: string; isOther?: boolean } = {},
): Promise<void> {
  for (const overlay of await overlaysOver(platform, image, but))
    await tell(
      platform,
      isOther
        ? `'${overlay}' is made over ${image}, which shows something else now: what it has from there has changed, too; it takes it up by '${rebaseCommand(overlay, image)}'`
        : `'${overlay}' is made over ${image}, which has been written: it takes it up again by '${rebaseCommand(overlay, image)}'`,
    );
}

async function overlaysOver(
  platform: Platform,
  image: string,
  but: string | undefined,
): Promise<string[]> {
  const { runtime, listFolder } = platform;
  if (isRemote(image) || listFolder === undefined || runtime.realName === undefined) return [];
  const own = await runtime.realName(image);
  const except = but === undefined ? undefined : await runtime.realName(but);
  const folder = own.slice(0, own.lastIndexOf('/') + 1);
  const names = await listFolder(folder).catch(() => []);
  const found: string[] = [];
  // A symbolic link is another name of a file that is looked at, too.
  const seen = new Set([own, except]);
  for (const name of names.slice(0, FILES_MAX)) {
    const path = await runtime.realName(`${folder}${name}`).catch(() => undefined);
    if (path === undefined || seen.has(path)) continue;
    seen.add(path);
    // What is no image, is not ours to read, or stands on nothing that is there, is passed over.
    const base = await backingFile(platform, path).catch(() => undefined);
    if (base !== undefined && (await runtime.realName(base).catch(() => '')) === own)
      found.push(path);
  }
  return found;
}

/** Where the backing file of an image is that its header names. */
async function backingFile({ runtime }: Platform, path: string): Promise<string | undefined> {
  const source = await runtime.openSource(path, 'shared');
  try {
    if (source.size < HEADER_BYTES) return undefined;
    const header = new Uint8Array(HEADER_BYTES);
    await source.read(0, header);
    const view = new DataView(header.buffer);
    const bytes = view.getUint32(NAME_AT + 8);
    const at = Number(view.getBigUint64(NAME_AT));
    if (view.getUint32(0) !== QCOW2_MAGIC || at === 0 || bytes > NAME_BYTES_MAX) return undefined;
    if (at + bytes > source.size) return undefined;
    const name = new Uint8Array(bytes);
    await source.read(at, name);
    return runtime.resolve(new TextDecoder().decode(name), path);
  } finally {
    await source.close();
  }
}
