/**
 * What a disk under test has to show, kept as a raw file that QEMU made from the chain and that
 * every guest write is repeated on: the truth that reads are held against, here and by `qemu-img
 * compare`.
 */

import type { FileHandle } from 'node:fs/promises';
import { open } from 'node:fs/promises';
import { expect } from 'vitest';
import type { Disk } from '../../hosts/node/index.ts';
import type { Random } from '../fixtures/content.ts';
import { makeContent } from '../fixtures/content.ts';
import { check, compare, convertImage, qemuIo } from '../support/qemu.ts';

/** The longest read or write of a random guest. */
const GUEST_BYTES_MAX = 300_000;
/** The piece in which zeros are written to the model. */
const ZEROS = new Uint8Array(1 << 20);

export class Model {
  readonly path: string;
  readonly size: number;
  readonly #file: FileHandle;

  /**
   * Has QEMU flatten what the image at `source` shows, with all that is beneath it, into the new
   * raw file `path`.
   */
  static async of(source: string, path: string): Promise<Model> {
    await convertImage(source, path, { from: 'qcow2', to: 'raw' });
    const file = await open(path, 'r+');
    return new Model(path, file, (await file.stat()).size);
  }

  private constructor(path: string, file: FileHandle, size: number) {
    this.path = path;
    this.size = size;
    this.#file = file;
  }

  /** Bytes past the end read as zeros. */
  async read(offset: number, length: number): Promise<Uint8Array> {
    const bytes = new Uint8Array(length);
    await this.#file.read(bytes, 0, length, offset);
    return bytes;
  }

  async write(offset: number, data: Uint8Array): Promise<void> {
    await this.#file.write(data, 0, data.length, offset);
  }

  async writeZeroes(offset: number, length: number): Promise<void> {
    for (let at = offset; at < offset + length; at += ZEROS.length) {
      await this.write(at, ZEROS.subarray(0, Math.min(ZEROS.length, offset + length - at)));
    }
  }

  /** Makes it longer, with zeros. */
  async grow(size: number): Promise<Model> {
    await this.#file.truncate(size);
    return new Model(this.path, this.#file, size);
  }

  close(): Promise<void> {
    return this.#file.close();
  }
}

/** A range of the disk, of at least one byte, aligned to nothing. */
export function randomRange(
  random: Random,
  size: number,
  most: number = GUEST_BYTES_MAX,
): [offset: number, length: number] {
  const offset = random.between(0, size - 1);
  return [offset, random.between(1, Math.min(most, size - offset))];
}

/** Reads `count` random ranges, several at once, and holds each against the model. */
export async function expectReads(
  disk: Disk,
  model: Model,
  random: Random,
  count: number,
): Promise<void> {
  const ranges = Array.from({ length: count }, () => randomRange(random, disk.size));
  await Promise.all(
    ranges.map(async ([offset, length]) => {
      const [found, wanted] = [await disk.read(offset, length), await model.read(offset, length)];
      if (Buffer.compare(found, wanted) === 0) return;
      const at = found.findIndex((byte, index) => byte !== wanted[index]);
      expect.fail(
        `read ${length} at ${offset}: byte ${offset + at} is ${found[at]}, not ${wanted[at]}`,
      );
    }),
  );
}

/**
 * What a guest does: writes, zeroes and discards over borders of every kind, repeated on the model.
 */
export async function guestWrites(
  disk: Disk,
  model: Model,
  random: Random,
  count: number,
): Promise<void> {
  for (let i = 0; i < count; i++) {
    const [offset, length] = randomRange(random, disk.size);
    const data = makeContent(i % 2 ? 'text' : 'random', random.next(), length);
    await disk.write(offset, data);
    await model.write(offset, data);
  }
  const [zeroFrom, zeroLength] = randomRange(random, disk.size, 4 * disk.clusterSize + 1000);
  await disk.writeZeroes(zeroFrom, zeroLength);
  await model.writeZeroes(zeroFrom, zeroLength);
  await discards(disk, model, random);
}

/**
 * Discards a range: its whole clusters read as zeros then, but for version 2, where nothing need
 * happen.
 */
async function discards(disk: Disk, model: Model, random: Random): Promise<void> {
  const [offset, length] = randomRange(random, disk.size, 4 * disk.clusterSize + 1000);
  await disk.discard(offset, length);
  const from = Math.ceil(offset / disk.clusterSize) * disk.clusterSize;
  const end = offset + length;
  const to = end === disk.size ? end : Math.floor(end / disk.clusterSize) * disk.clusterSize;
  if (from < to && (await disk.images())[0].version === 3) await model.writeZeroes(from, to - from);
}

/** Has qemu-io write to the closed overlay, and repeats it on the model. */
export async function qemuWrites(overlay: string, model: Model, random: Random): Promise<void> {
  const commands: string[] = [];
  for (let pattern = 1; pattern <= 3; pattern++) {
    const [offset, length] = randomRange(random, model.size);
    commands.push(`write -P ${pattern} ${offset} ${length}`);
    await model.write(offset, new Uint8Array(length).fill(pattern));
  }
  const [zeroFrom, zeroLength] = randomRange(random, model.size);
  commands.push(`write -z ${zeroFrom} ${zeroLength}`);
  await model.writeZeroes(zeroFrom, zeroLength);
  await qemuIo(overlay, commands);
}

/** `qemu-img check` finds neither errors nor leaks. */
export async function expectSound(path: string): Promise<void> {
  const { exitCode, messages } = await check(path);
  expect(exitCode, `qemu-img check ${path}: ${messages}`).toBe(0);
}

/**
 * `qemu-img compare` finds that the overlay (with what it still refers to) shows what the model
 * has.
 */
export async function expectShows(overlay: string, model: Model): Promise<void> {
  const { identical, message } = await compare(overlay, model.path, {
    formatA: 'qcow2',
    formatB: 'raw',
  });
  expect(identical, message).toBe(true);
}
