/**
 * What tells of an overlay in a bucket: its manifest, and the keys of its objects. An overlay is
 * there when its manifest is, and the manifest says who writes to it.
 */
import { MillraceError } from '../api/errors.ts';
import { patiently } from './bucket-retries.ts';
import type { Bucket, BucketBody } from './platform.ts';

/** Bytes of an object, but for the manifest. */
export const PART_BYTES: number = 1024 * 1024;
/** As many keys as a bucket deletes at once. */
const DELETED_MAX = 1000;

export interface Manifest {
  size: number;
  /** Who writes to it: another one at each opening. */
  writer: string;
  /** It is still being made, or was when its maker ended. */
  isNew?: true;
  /** A text that stands by it. */
  kept?: string;
}

export function manifestKey(place: string): string {
  return `${place}/manifest`;
}

export function partKey(place: string, number: number): string {
  return `${place}/${String(number).padStart(8, '0')}`;
}

export async function manifestOf(
  bucket: Bucket,
  name: string,
): Promise<(Manifest & { etag: string }) | undefined> {
  const found = await patiently(`open 'r2:${name}'`, async () => {
    const object = (await bucket.get(manifestKey(name))) as BucketBody | null;
    return (
      object && { text: new TextDecoder().decode(await object.arrayBuffer()), etag: object.etag }
    );
  });
  if (!found) return undefined;
  try {
    return { ...(JSON.parse(found.text) as Manifest), etag: found.etag };
  } catch (cause) {
    throw new MillraceError('ECORRUPT', `cannot open 'r2:${name}': its manifest cannot be read`, {
      cause,
    });
  }
}

/** Removes an overlay and all of its parts; the manifest last, which tells how many there are. */
export async function removeBucketFile(bucket: Bucket, name: string): Promise<void> {
  const size = (await manifestOf(bucket, name))?.size ?? 0;
  const keys = [
    ...Array.from({ length: Math.ceil(size / PART_BYTES) }, (_, number) => partKey(name, number)),
    manifestKey(name),
  ];
  for (let at = 0; at < keys.length; at += DELETED_MAX) {
    await patiently(`remove 'r2:${name}'`, () => bucket.delete(keys.slice(at, at + DELETED_MAX)));
  }
}
