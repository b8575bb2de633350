/**
 * Files, blobs and buffers as bases. A blob is read slice by slice where the browser keeps it: it
 * is never in memory as a whole, and a `File` that changes on disk after the user chose it is
 * noticed by the browser and refused.
 */
import type { BlockSource } from '../api/block.ts';
import { MillraceError } from '../api/errors.ts';

/** A slice costs the browser a message between processes: large ones, a few at once. */
const PREFERRED = { chunk: 1024 * 1024, depth: 4 } as const;

/**
 * A base over a `Blob` or `File`. `name` is what messages call it and the overlay records; a file
 * has one of its own.
 */
export function openBlob(blob: Blob, name: string = nameOf(blob)): BlockSource {
  return {
    size: blob.size,
    name,
    // As the hosts with files tell it, so that an overlay may move between them.
    identity: isFile(blob) ? `${blob.size}-${blob.lastModified}` : undefined,
    preferred: PREFERRED,
    async read(offset, into, hint) {
      hint?.signal?.throwIfAborted();
      const bytes = await sliceOf(blob, offset, into.length, name);
      hint?.signal?.throwIfAborted();
      into.set(bytes);
    },
    close() {},
  };
}

/**
 * A base over bytes in memory, which are not copied: they must stay as they are while a disk uses
 * them.
 */
export function openBuffer(buffer: ArrayBuffer | Uint8Array, name = 'buffer'): BlockSource {
  const bytes = buffer instanceof Uint8Array ? buffer : new Uint8Array(buffer);
  return {
    size: bytes.length,
    name,
    read: (offset, into) => into.set(bytes.subarray(offset, offset + into.length)),
    close() {},
  };
}

async function sliceOf(
  blob: Blob,
  offset: number,
  length: number,
  name: string,
): Promise<Uint8Array> {
  try {
    return new Uint8Array(await blob.slice(offset, offset + length).arrayBuffer());
  } catch (cause) {
    const message = `${name}: cannot read ${length} bytes at ${offset}: the file was changed, moved or removed since it was opened; choose it again`;
    throw new MillraceError('ECHANGED', message, { cause, offset });
  }
}

function nameOf(blob: Blob): string {
  return isFile(blob) ? blob.name : 'blob';
}

function isFile(blob: Blob): blob is File {
  return 'lastModified' in blob;
}
