/**
 * A disk as a `random-access-storage` (3.x), which hypercore and its kin take.
 *
 * ```ts
 * import RandomAccessStorage from 'random-access-storage';
 * const storage = asRandomAccessStorage(RandomAccessStorage, disk);
 * storage.read(0, 512, (error, bytes) => {});
 * ```
 *
 * The disk has its size: a read or write past its end fails, `truncate` clears what lies behind and
 * moves no end. Closing the storage flushes the disk, which stays its owner's to close.
 */
import type { Disk } from '../../api/disk.ts';
import { bufferOf } from './buffer.ts';

/** As much of a request as is used. */
export interface StorageRequest {
  /** Bytes. */
  offset: number;
  /** Bytes; `Infinity` for all that follows. */
  size: number;
  /** What is written. */
  data: Uint8Array | null;
  /** Ends the request. */
  callback(error: Error | null, result?: unknown): void;
}

/** What such a storage does at a request. */
export type StorageOperation = (request: StorageRequest) => void;

/** The class that `random-access-storage` exports. */
export type RandomAccessStorageClass<Storage> = new (operations: {
  read: StorageOperation;
  write: StorageOperation;
  del: StorageOperation;
  stat: StorageOperation;
  close: StorageOperation;
}) => Storage;

/** The storage that reads and writes the disk. */
export function asRandomAccessStorage<Storage>(
  storage: RandomAccessStorageClass<Storage>,
  disk: Disk,
): Storage {
  return new storage({
    read: by(async ({ offset, size }) => bufferOf(await disk.read(offset, size))),
    write: by(({ offset, data }) => disk.write(offset, new Uint8Array(data!))),
    del: by(({ offset, size }) => {
      const length = Math.min(size, disk.size - offset);
      return length > 0 ? disk.writeZeroes(offset, length) : Promise.resolve();
    }),
    stat: by(async () => ({ size: disk.size })),
    close: by(() => disk.flush()),
  });
}

function by(act: (request: StorageRequest) => Promise<unknown>): StorageOperation {
  return (request) => {
    act(request).then(
      (result) => request.callback(null, result),
      (error: Error) => request.callback(error),
    );
  };
}
