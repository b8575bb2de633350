/**
 * Images in a bucket that is slow, busy or failing: a bucket in memory, which answers when and how
 * each case says.
 */
import { afterEach, expect, it, vi } from 'vitest';
import { openBucketFile } from '../../hosts/edge/bucket.ts';
import { keyBeside, openBucketSource } from '../../hosts/edge/bucket-source.ts';
import type { Bucket } from '../../hosts/edge/platform.ts';

const MIB = 1 << 20;
/** As many parts as the file keeps in memory. */
const PARTS = 16;
/** And as many as it may fetch at once. */
const LOADS = 4;
const TURNS_MAX = 200;

/** What bucket.ts uses of R2. */
class MemoryBucket {
  readonly #objects = new Map<string, { bytes: Uint8Array; etag: string }>();
  #writes = 0;
  /** What was asked: `get KEY`, `put KEY`. */
  readonly asked: string[] = [];
  /** Runs before an object is read, and before one is written and after it. */
  hooks: {
    get?(key: string): unknown;
    put?(key: string): unknown;
    wasPut?(key: string): unknown;
    delete?(keys: string[]): void;
  } = {};

  async head(key: string): Promise<unknown> {
    const object = this.#objects.get(key);
    return object ? { size: object.bytes.length, etag: object.etag } : null;
  }

  async get(
    key: string,
    options?: { range?: { offset: number; length: number } },
  ): Promise<unknown> {
    this.asked.push(`get ${key}`);
    await this.hooks.get?.(key);
    const object = this.#objects.get(key);
    const { offset, length } = options?.range ?? { offset: 0, length: object?.bytes.length ?? 0 };
    return object
      ? {
          size: object.bytes.length,
          etag: object.etag,
          arrayBuffer: async () => object.bytes.slice(offset, offset + length).buffer,
        }
      : null;
  }

  /** No more at once than R2 deletes. */
  async delete(keys: string[]): Promise<void> {
    this.asked.push(`delete ${keys.length}`);
    if (keys.length > 1000) throw new Error('delete: too many keys');
    this.hooks.delete?.(keys);
    for (const key of keys) this.#objects.delete(key);
  }

  get keys(): string[] {
    return [...this.#objects.keys()];
  }

  async put(
    key: string,
    value: string | Uint8Array,
    options?: { onlyIf?: { etagMatches?: string } },
  ): Promise<unknown> {
    this.asked.push(`put ${key}`);
    await this.hooks.put?.(key);
    const expected = options?.onlyIf?.etagMatches;
    if (expected !== undefined && this.#objects.get(key)?.etag !== expected) return null;
    const bytes = typeof value === 'string' ? new TextEncoder().encode(value) : value.slice();
    const etag = String(++this.#writes);
    this.#objects.set(key, { bytes, etag });
    await this.hooks.wasPut?.(key);
    return { size: bytes.length, etag };
  }
}

const given = (bucket: MemoryBucket): Bucket => bucket as unknown as Bucket;
const sector = (value: number): Uint8Array => new Uint8Array(512).fill(value);
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** An overlay with one sector in each of so many parts. */
async function overlayOf(bucket: MemoryBucket, parts: number) {
  const file = await openBucketFile(given(bucket), 'o', { create: true });
  for (let part = 0; part < parts; part++) await file.write(part * MIB, sector(part));
  await file.publish!();
  return file;
}

/** Operations that fail for the first time, each. */
function failingOnce(
  operations: readonly string[],
  failed = new Set<string>(),
): (operation: string) => void {
  return (operation) => {
    if (!operations.includes(operation) || failed.has(operation)) return;
    failed.add(operation);
    throw new Error('Reduce your concurrent request rate for the same object. (10058)');
  };
}

afterEach(() => {
  vi.useRealTimers();
});

it('a write to a part that is being given up for its room is not lost', async () => {
  for (let turns = 0; turns < TURNS_MAX; turns++) {
    const bucket = new MemoryBucket();
    const file = await overlayOf(bucket, PARTS);
    const makesRoom = file.write(PARTS * MIB, sector(2));
    for (let turn = 0; turn < turns; turn++) await undefined;
    await Promise.all([makesRoom, file.write(5 * MIB, sector(9))]);
    await file.flush();
    await file.close();
    const again = await openBucketFile(given(bucket), 'o', { readOnly: true });
    const found = new Uint8Array(1);
    await again.read(5 * MIB, found);
    expect(found[0], `after ${turns} turns`).toBe(9);
  }
});

it('keeps a few parts in memory, however much of it is read, and however much at once', async () => {
  const bucket = new MemoryBucket();
  await (await overlayOf(bucket, 4 * PARTS)).close();
  const file = await openBucketFile(given(bucket), 'o', { readOnly: true });
  let [now, most] = [0, 0];
  bucket.hooks.get = async () => {
    most = Math.max(most, ++now);
    await turn();
    now--;
  };
  const readAll = async (): Promise<void> => {
    const found = Array.from({ length: 4 * PARTS }, () => new Uint8Array(1));
    await Promise.all(found.map((into, part) => file.read(part * MIB, into)));
    expect(found.map(([value]) => value)).toEqual(found.map((_, part) => part));
  };
  await readAll();
  expect(most).toBeLessThanOrEqual(LOADS);
  bucket.asked.length = 0;
  await readAll();
  expect(bucket.asked.length).toBeGreaterThanOrEqual(3 * PARTS);
});

it('is flushed while a read waits for the bucket', async () => {
  const bucket = new MemoryBucket();
  const file = await overlayOf(bucket, 2);
  let answer!: () => void;
  bucket.hooks.get = () => new Promise<void>((resolve) => (answer = resolve));
  const reading = file.read(7 * MIB, new Uint8Array(1));
  await file.write(MIB, sector(9));
  await file.flush();
  answer();
  await reading;
  await file.close();
});

it('asks for nothing when there is nothing to flush', async () => {
  const bucket = new MemoryBucket();
  const file = await overlayOf(bucket, 2);
  bucket.asked.length = 0;
  await file.flush();
  expect(bucket.asked).toEqual([]);
  await file.close();
});

it('does again what the bucket refuses for once, or says to have failed though it was done', async () => {
  const bucket = new MemoryBucket();
  const before = failingOnce([
    'get o/manifest',
    'get o/00000001',
    'put o/00000000',
    'get base',
    'put o/manifest',
  ]);
  const after = failingOnce(['put o/manifest', 'put o/00000001']);
  await bucket.put('base', sector(3));
  bucket.hooks = {
    get: (key) => before(`get ${key}`),
    put: (key) => before(`put ${key}`),
    wasPut: (key) => after(`put ${key}`),
  };
  const file = await overlayOf(bucket, 2);
  await file.close();
  const again = await openBucketFile(given(bucket), 'o', { readOnly: true });
  const found = new Uint8Array(1);
  await again.read(MIB, found);
  await (await openBucketSource(given(bucket), 'base')).read(0, found);
  expect(found[0]).toBe(3);
});

it("is another writer's when that has written the manifest", async () => {
  const bucket = new MemoryBucket();
  const file = await overlayOf(bucket, 1);
  await bucket.put('o/manifest', JSON.stringify({ size: MIB, writer: 'another' }));
  await file.write(0, sector(7));
  await expect(file.flush()).rejects.toMatchObject({ code: 'EBUSY' });
  await file.close();
});

it('has no write under way any more when a flush has failed: done late, it would undo that of the next one', async () => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
  const bucket = new MemoryBucket();
  const file = await overlayOf(bucket, 2);
  for (const part of [0, 1]) await file.write(part * MIB, sector(9));
  let store!: () => void;
  let refusals = 0;
  bucket.hooks.put = (key) => {
    if (key === 'o/00000000') return new Promise<void>((resolve) => (store = resolve));
    if (key === 'o/manifest') return undefined;
    refusals++;
    throw new Error('We encountered an internal error. (10001)');
  };
  let failed: unknown;
  const flushing = Promise.resolve(file.flush()).catch((error: unknown) => (failed = error));
  while (refusals < 7) {
    await turn();
    await vi.advanceTimersToNextTimerAsync();
  }
  for (let turns = 0; turns < TURNS_MAX; turns++) await turn();
  expect(failed).toBeUndefined();
  store();
  await flushing;
  expect(failed).toMatchObject({
    code: 'EIO',
    message: expect.stringMatching(/cannot write 'r2:o': .*\(10001\) \(7 attempts\)/),
  });
  await file.close();
});

it('that nobody finished is removed with all of its parts, however many, the manifest last', async () => {
  const bucket = new MemoryBucket();
  await (await overlayOf(bucket, 3)).close();
  const unfinished = { size: 2500 * MIB, writer: 'gone', isNew: true };
  await bucket.put('o/manifest', JSON.stringify(unfinished));
  await bucket.put('o/00002499', sector(1));
  const once = failingOnce(['delete']);
  const left: boolean[] = [];
  bucket.hooks.delete = () => {
    left.push(bucket.keys.includes('o/manifest'));
    once('delete');
  };
  await expect(openBucketFile(given(bucket), 'o')).rejects.toMatchObject({ code: 'ENOENT' });
  const file = await openBucketFile(given(bucket), 'o', { create: true });
  expect([bucket.keys, left]).toEqual([['o/manifest'], [true, true, true, true]]);
  await file.close();
  expect(bucket.keys).toEqual([]);
});

it('has bases beside it under keys as they are recorded', () => {
  for (const [from, path, key] of [
    ['images/a.qcow2', 'debian 12 #1?.qcow2', 'images/debian 12 #1?.qcow2'],
    ['images/x/a', '../100%.raw', 'images/100%.raw'],
    ['a', './größe.raw', 'größe.raw'],
    ['images/a', '/b', 'b'],
    ['a', '../../b', 'b'],
  ])
    expect(keyBeside(from, path)).toBe(key);
});
