/** Objects of an R2 bucket as bases: they are read by ranges. */
import type { BlockSource } from '../api/block.ts';
import { MillraceError } from '../api/errors.ts';
import { bytesOf, patiently } from './bucket-retries.ts';
import type { Bucket } from './platform.ts';

const PART_BYTES = 1024 * 1024;
/** As many connections as an edge has, less one for the guest. */
const PREFERRED = { chunk: PART_BYTES, depth: 5 } as const;

/**
 * Opens an object as a base. Its ETag is its identity, and every read is held to it.
 * @throws MillraceError `ENOENT`, `EIO`; reads also `ECHANGED`.
 */
export async function openBucketSource(bucket: Bucket, key: string): Promise<BlockSource> {
  const object = await patiently(`open 'r2:${key}'`, () => bucket.head(key));
  if (object === null)
    throw new MillraceError(
      'ENOENT',
      `cannot open 'r2:${key}': there is no such object in the bucket`,
    );
  const { size, etag } = object;
  return {
    size,
    name: `r2:${key}`,
    identity: `etag "${etag}"`,
    preferred: PREFERRED,
    beside: (ending) => openBucketSource(bucket, `${key}${ending}`),
    async read(offset, into, hint) {
      hint?.signal?.throwIfAborted();
      if (into.length === 0) return;
      const what = `read ${into.length} bytes at ${offset} of 'r2:${key}'`;
      const bytes = await patiently(
        what,
        () =>
          bytesOf(
            bucket.get(key, {
              range: { offset, length: into.length },
              onlyIf: { etagMatches: etag },
            }),
          ),
        hint?.signal,
      );
      if (bytes === null)
        throw new MillraceError(
          'ECHANGED',
          `cannot ${what}: the object is not the one that was opened`,
        );
      if (bytes.length !== into.length)
        throw new MillraceError('EIO', `cannot ${what}: ${bytes.length} bytes came`);
      into.set(bytes);
    },
    close() {},
  };
}

/**
 * The key that a relative path leads to from an object. As it stands: a key may hold what a URL
 * would encode or cut off.
 */
export function keyBeside(key: string, path: string): string {
  const parts = path.startsWith('/') ? [] : key.split('/').slice(0, -1);
  for (const part of path.split('/')) {
    if (part === '..') parts.pop();
    else if (part !== '.' && part !== '') parts.push(part);
  }
  return parts.join('/');
}
