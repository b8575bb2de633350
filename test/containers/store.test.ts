/** What has passed is kept as it was, whether it is in memory or in its file. */
import { expect, it } from 'vitest';
import { Store } from '../../hosts/bases/containers/store.ts';
import { Random } from '../fixtures/content.ts';
import { MemoryFile } from '../support/memory-file.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const SIZE = 40 * MIB + 12_345;

/** Data with zeros of all lengths in it. */
function makeBytes(random: Random): Uint8Array {
  const bytes = new Uint8Array(SIZE);
  for (let at = 0; at < SIZE; ) {
    const end = Math.min(SIZE, at + random.between(1, 600 * KIB));
    if (random.between(0, 9) < 6) for (let i = at; i < end; i++) bytes[i] = 1 + ((i * 31) % 255);
    at = end;
  }
  return bytes;
}

it('keeps what is appended in pieces of any size, and gives it while more comes', async () => {
  const random = new Random(4);
  const bytes = makeBytes(random);
  const file = new MemoryFile('scratch');
  const write = file.write.bind(file);
  // Not at once, as a disk writes.
  const late = async (offset: number, from: Uint8Array): Promise<void> => {
    await new Promise((resolve) => setTimeout(resolve, random.between(0, 2)));
    write(offset, from);
  };
  Object.assign(file, { write: late });
  const store = new Store(async () => file);
  const isKept = async (): Promise<boolean> => {
    const offset = random.between(0, store.length - 1);
    const into = new Uint8Array(random.between(1, Math.min(3 * MIB, store.length - offset)));
    await store.read(offset, into);
    return Buffer.compare(into, bytes.subarray(offset, offset + into.length)) === 0;
  };
  for (let at = 0; at < SIZE; ) {
    const piece = bytes.subarray(
      at,
      at + random.between(1, random.between(0, 9) === 0 ? 3 * MIB : 90_000),
    );
    const appended = store.append(piece);
    if (at > 0) expect(await isKept()).toBe(true);
    await appended;
    at += piece.length;
    expect(store.length).toBe(at);
  }
  for (let count = 0; count < 200; count++) expect(await isKept()).toBe(true);
  expect(file.size).toBeGreaterThan(SIZE - 13 * MIB);
  await store.close();
});

it('needs no file for a little, and tells that one cannot be written', async () => {
  const none = new Store(() => Promise.reject(new Error('no room')));
  await none.append(new Uint8Array(7 * MIB).fill(1));
  const into = new Uint8Array(10);
  await none.read(5 * MIB, into);
  expect(into.every((byte) => byte === 1)).toBe(true);
  await expect(none.append(new Uint8Array(20 * MIB).fill(1))).rejects.toThrow('no room');
  await none.close();
});
