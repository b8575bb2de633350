/**
 * What Millrace uses of an edge platform, in the shapes that Cloudflare gives them: its own types
 * come with the platform's package.
 */

/** The part of a Durable Object's storage that is used (backed by SQLite). */
export interface ObjectStorage {
  /** The object's SQLite database. */
  readonly sql: {
    exec(
      query: string,
      ...values: (string | number | ArrayBuffer | null)[]
    ): { toArray(): Record<string, unknown>[] };
  };
  /** Resolves when everything written before is safe. */
  sync(): Promise<void>;
  /** Runs writes that take effect together or not at all. */
  transactionSync<T>(writes: () => T): T;
  /** Milliseconds since 1970. */
  setAlarm(time: number): Promise<void>;
}

/** The part of an R2 bucket that is used. */
export interface Bucket {
  /** What is known of an object, or null. */
  head(key: string): Promise<BucketObject | null>;
  /** An object, or a range of it. */
  get(
    key: string,
    options?: { range?: { offset: number; length: number }; onlyIf?: { etagMatches: string } },
  ): Promise<BucketObject | BucketBody | null>;
  /** Stores an object. */
  put(
    key: string,
    value: Uint8Array | string,
    options?: { onlyIf?: { etagMatches: string } | { etagDoesNotMatch: string } },
  ): Promise<BucketObject | null>;
  /** Removes objects. */
  delete(keys: string | string[]): Promise<void>;
}

/** What a bucket knows of an object. */
export interface BucketObject {
  /** Bytes. */
  readonly size: number;
  /** Without quotes. */
  readonly etag: string;
}

/** An object with its bytes. */
export interface BucketBody extends BucketObject {
  /** The bytes that were asked for. */
  arrayBuffer(): Promise<ArrayBuffer>;
}
