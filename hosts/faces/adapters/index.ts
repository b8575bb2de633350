/**
 * Disks as what other libraries take. None of these libraries comes along: each adapter is given
 * the class that it makes one of.
 *
 * ```ts
 * import { asFile, asRandomAccessDisk, asRandomAccessStorage } from 'millrace/adapters';
 * ```
 */
export { asFile, type FileLike } from './file.ts';
export {
  asRandomAccessDisk,
  type RandomAccessDiskClass,
  type RandomAccessDiskOptions,
} from './random-access-disk.ts';
export {
  asRandomAccessStorage,
  type RandomAccessStorageClass,
  type StorageOperation,
  type StorageRequest,
} from './random-access-storage.ts';
