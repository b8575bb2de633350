/** Images for tests of damage: a few kinds, made once, and spoiled copies of them. */
import { copyFile, mkdtemp, rm, truncate } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Random } from '../fixtures/content.ts';
import { baseKind } from '../fixtures/images.ts';
import { createImage, qemuIo } from '../support/qemu.ts';
import { damages, spoil } from './damage.ts';

/**
 * Small tables and large, narrow refcounts and wide, compressed clusters, subclusters, snapshots.
 */
const KINDS = [
  'qcow2-v3-64k',
  'qcow2-v2-4k',
  'qcow2-v3-512',
  'qcow2-refcount-1',
  'qcow2-refcount-2',
  'qcow2-refcount-64',
  'qcow2-snapshot',
  'zlib-mixed',
  'zstd-4k',
  'extended-l2-zlib-mixed',
  'extended-l2-two-tables',
];
const GIB = 1024 ** 3;
const LARGE_BYTES = 8 * GIB;
/**
 * Where the large image's entry leads: more clusters from the start than a check with little memory
 * counts at once.
 */
const FAR_BYTES = 5 * GIB;

/**
 * Makes an image of more clusters than a check with little memory counts at once, most of them
 * holes: its first MiB is 0x41, and one cluster behind that has its place far back in the file,
 * where there are no refcounts.
 */
export async function makeLarge(path: string): Promise<void> {
  await createImage(path, { size: 16 * 1024 * 1024, with: { cluster_size: 4096 } });
  await qemuIo(path, ['write -q -P 0x41 0 1M', 'write -q -P 0x42 1M 4k']);
  await truncate(path, LARGE_BYTES);
  await spoil(
    path,
    (patient) => patient.put64(patient.dataEntries.at(-1)!.at, BigInt(FAR_BYTES) | (1n << 63n)),
    new Random(1),
  );
}

export interface Spoiled {
  /** The sound image that this is a copy of. */
  sound: string;
  path: string;
  label: string;
}

export class SpoiledImages {
  readonly dir: string;
  readonly #sound: { kind: string; path: string }[] = [];

  static async make(): Promise<SpoiledImages> {
    const images = new SpoiledImages(await mkdtemp(join(tmpdir(), 'millrace-check-')));
    for (const kind of KINDS)
      images.#sound.push({ kind, path: (await baseKind(kind).make(images.dir)).path });
    return images;
  }

  private constructor(dir: string) {
    this.dir = dir;
  }

  /**
   * Copies of `count` images that can be damaged in this way, one at a time: other ones for each
   * damage, so that each image suffers many of them.
   */
  async *spoiledBy(name: string, count: number): AsyncGenerator<Spoiled> {
    const index = Object.keys(damages).indexOf(name);
    const path = join(this.dir, `spoiled-${index}.qcow2`);
    const first = index % this.#sound.length;
    let given = 0;
    for (const { kind, path: sound } of [
      ...this.#sound.slice(first),
      ...this.#sound.slice(0, first),
    ]) {
      if (given === count) break;
      await copyFile(sound, path);
      if (!(await spoil(path, damages[name], new Random(index * 13 + 5)))) continue;
      given++;
      yield { sound, path, label: `${name} in ${kind}` };
    }
    if (given === 0) throw new Error(`no image has ${name}`);
    await rm(path, { force: true });
  }

  remove(): Promise<void> {
    return rm(this.dir, { recursive: true });
  }
}
