/** Which image of a chain a caller means: by its depth, or by any spelling of where it is. */
import type { ImageInfo } from '../api/image.ts';
import type { Runtime } from '../api/runtime.ts';

/** Of an image, what it may be called by. */
export type Named = Pick<ImageInfo, 'name' | 'backingFile'>;

const DEPTH = /^\d{1,9}$/;
const HTTP = /^https?:/i;

/**
 * The depth of `wanted` among the images of a chain, the overlay first; undefined if it is none of
 * those below the overlay. A text is the name that the chain has for the image, or a path from
 * where the process stands, or the name that the image above it records, or a path from the folder
 * of an image; tried in this order, and for each from the nearest image down. A number that is none
 * of these is a depth.
 */
export async function findImage(
  runtime: Runtime,
  images: readonly Named[],
  wanted: string | number,
): Promise<number | undefined> {
  if (typeof wanted === 'number') return isBelow(images, wanted) ? wanted : undefined;
  const found =
    byName(images, ({ name }) => name === wanted) ??
    (HTTP.test(wanted) ? byBareUrl(images, wanted) : await byPlace(runtime, images, wanted)) ??
    byName(images, (_, above) => above.backingFile === wanted) ??
    (await besideAnother(runtime, images, wanted));
  if (found !== undefined || !DEPTH.test(wanted)) return found;
  return isBelow(images, Number(wanted)) ? Number(wanted) : undefined;
}

/** The images that could have been meant, as a message lists them. */
export function listed(images: readonly Named[]): string {
  return (
    images
      .slice(1)
      .map(({ name }) => `'${name}'`)
      .join(', ') || 'none'
  );
}

function isBelow(images: readonly Named[], depth: number): boolean {
  return depth > 0 && depth in images;
}

function byName(
  images: readonly Named[],
  isMeant: (image: Named, above: Named) => boolean,
): number | undefined {
  const depth = images.findIndex((image, at) => at > 0 && isMeant(image, images[at - 1]));
  return depth < 0 ? undefined : depth;
}

/**
 * A chain names URLs without user, password and query; what only those tell apart has to be named
 * by its depth.
 */
function byBareUrl(images: readonly Named[], wanted: string): number | undefined {
  if (!URL.canParse(wanted)) return undefined;
  const { origin, pathname } = new URL(wanted);
  const bare = (name: string): boolean => name === `${origin}${pathname}`;
  return images.slice(1).filter(({ name }) => bare(name)).length === 1
    ? byName(images, ({ name }) => bare(name))
    : undefined;
}

/** The same file by another path. */
async function byPlace(
  runtime: Runtime,
  images: readonly Named[],
  path: string | undefined,
): Promise<number | undefined> {
  const place = await realName(runtime, path);
  if (place === undefined) return undefined;
  for (let depth = 1; depth < images.length; depth++)
    if ((await realName(runtime, images[depth].name)) === place) return depth;
  return undefined;
}

/** The path as another image of the chain would record it. */
async function besideAnother(
  runtime: Runtime,
  images: readonly Named[],
  wanted: string,
): Promise<number | undefined> {
  for (const { name } of images) {
    const depth = await byPlace(runtime, images, resolved(runtime, wanted, name));
    if (depth !== undefined) return depth;
  }
  return undefined;
}

function resolved(runtime: Runtime, name: string, from: string): string | undefined {
  try {
    return runtime.resolve(name, from);
  } catch {
    return undefined;
  }
}

/** Undefined where nothing is there. */
async function realName(runtime: Runtime, name: string | undefined): Promise<string | undefined> {
  if (name === undefined || HTTP.test(name)) return name;
  return runtime.realName === undefined ? name : runtime.realName(name).catch(() => undefined);
}
