/** What of `random-access-storage`, which has no types, the tests use. */
declare module 'random-access-storage' {
  type Done<T = void> = (error: Error | null, result?: T) => void;
  export default class RandomAccessStorage {
    constructor(operations: object);
    read(offset: number, size: number, done: Done<Buffer>): void;
    write(offset: number, data: Uint8Array, done: Done): void;
    del(offset: number, size: number, done: Done): void;
    truncate(offset: number, done: Done): void;
    stat<T = { size: number }>(done: Done<T>): void;
    close(done: Done): void;
  }
}
