/** An overlay in a bucket where two writes meet: a bucket in memory, whose answers take as many turns as each case says. */
import { expect, it } from 'vitest';
import { openBucketFile } from '../../hosts/edge/bucket.ts';
import type { Bucket } from '../../hosts/edge/platform.ts';

const MIB = 1 << 20;
/** As many parts as the file keeps in memory. */
const PARTS = 16;
const TURNS_MAX = 200;

/** What bucket.ts uses of R2. */
class MemoryBucket {
  readonly #objects = new Map<string, { bytes: Uint8Array; etag: string }>();
  #writes = 0;

  async get(key: string): Promise<unknown> {
    const object = this.#objects.get(key);
    return object ? { size: object.bytes.length, etag: object.etag, arrayBuffer: async () => object.bytes.slice().buffer } : null;
  }

  async put(key: string, value: string | Uint8Array, options?: { onlyIf?: { etagMatches?: string } }): Promise<unknown> {
    const expected = options?.onlyIf?.etagMatches;
    if (expected !== undefined && this.#objects.get(key)?.etag !== expected) return null;
    const bytes = typeof value === 'string' ? new TextEncoder().encode(value) : value.slice();
    const etag = String(++this.#writes);
    this.#objects.set(key, { bytes, etag });
    return { size: bytes.length, etag };
  }
}

it('a write to a part that is being given up for its room is not lost', async () => {
  for (let turns = 0; turns < TURNS_MAX; turns++) {
    const bucket = new MemoryBucket() as unknown as Bucket;
    const file = await openBucketFile(bucket, 'o', { create: true });
    const sector = (value: number): Uint8Array => new Uint8Array(512).fill(value);
    for (let part = 0; part < PARTS; part++) await file.write(part * MIB, sector(1));
    await file.flush();
    const makesRoom = file.write(PARTS * MIB, sector(2));
    for (let turn = 0; turn < turns; turn++) await undefined;
    await Promise.all([makesRoom, file.write(5 * MIB, sector(9))]);
    await file.flush();
    await file.close();
    const again = await openBucketFile(bucket, 'o', { readOnly: true });
    const found = new Uint8Array(1);
    await again.read(5 * MIB, found);
    expect(found[0], `after ${turns} turns`).toBe(9);
  }
});
