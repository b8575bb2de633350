/**
 * The images that the benchmarks read, made once and kept in the fixtures folder: the same bytes on
 * every machine, but for the real binaries, which are what Debian's packages hold that day.
 */
import { createCipheriv } from 'node:crypto';
import { existsSync } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import { mkdir, open, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { ova, pack } from '../fixtures/containers.ts';
import { makeContent, Random } from '../fixtures/content.ts';
import { fixturesFolder } from '../fixtures/made-by-script.ts';
import { makeRealBase } from '../fixtures/real-base.ts';
import { RepeatedXz } from '../fixtures/repeated-xz.ts';
import { convertImage } from '../support/qemu.ts';
import { run } from '../support/run.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const GIB = 1024 * MIB;

/** Part of every file's name: to be raised when what is made here changes. */
const VERSION = 1;

const LOCAL_BYTES = 2 * GIB;
const LINK_BYTES = 256 * MIB;
const BINARIES_BYTES = 512 * MIB;
/** The unit that file systems allocate in. */
const BLOCK_BYTES = 4 * KIB;
const PIECE_BYTES = 1 * MIB;
const LARGE_PIECE_BYTES = 64 * MIB;

/**
 * A raw base of 2 GiB, 56% of it data that does not compress, in runs and holes as a file system in
 * use has them; holes take no space.
 */
export function localRaw(): Promise<string> {
  return made('local.raw', async (path) => {
    await writeRuns(path, LOCAL_BYTES, fileSystemRuns(LOCAL_BYTES));
  });
}

/** A raw base of 256 MiB, all of it data that does not compress: what goes over a slow link. */
export function linkRaw(): Promise<string> {
  return made('link.raw', (path) =>
    writeRuns(path, LINK_BYTES, [{ offset: 0, length: LINK_BYTES }]),
  );
}

/**
 * 512 MiB of real programs, libraries and their data: the allocated blocks of the real base, side
 * by side.
 */
export function binariesRaw(): Promise<string> {
  return made('binaries.raw', async (path) =>
    packBlocks((await makeRealBase()).raw.path, path, BINARIES_BYTES),
  );
}

/** `binariesRaw` as a compressed qcow2, as cloud images are. */
export function binariesCompressed(compression: 'zlib' | 'zstd'): Promise<string> {
  return made(`binaries-${compression}.qcow2`, async (path) => {
    await convertImage(await binariesRaw(), path, {
      from: 'raw',
      compress: true,
      with: { compression_type: compression },
    });
  });
}

/** How `binariesRaw` is published; each of them is made with the field's own tool. */
export const PACKINGS = ['raw.xz', 'raw.gz', 'raw.zst', 'raw.zip', 'raw.tar', 'ova'] as const;
export type Packing = (typeof PACKINGS)[number];

/** `binariesRaw` in a container; that of xz has blocks of 1 MiB. */
export function binariesPacked(packing: Packing): Promise<string> {
  return made(`binaries.${packing}`, async (path) => {
    const raw = await binariesRaw();
    const shell = (command: string): Promise<unknown> => run('sh', ['-ec', command, raw, path]);
    if (packing === 'raw.xz') await shell('xz -0 -T0 --block-size=1MiB -c "$0" > "$1"');
    if (packing === 'raw.gz') await shell('gzip -1 -c "$0" > "$1"');
    if (packing === 'raw.zst') await shell('zstd -q -1 -c "$0" > "$1"');
    if (packing === 'raw.zip') await shell('zip -q -1 -j "$1.zip" "$0"; mv "$1.zip" "$1"');
    if (packing === 'raw.tar') await shell('tar -cf "$1" -C "$(dirname "$0")" "$(basename "$0")"');
    if (packing === 'ova') await ova(await binariesAs('vmdk', 'streamOptimized'), path);
  });
}

/** Blocks of 1 MiB in `large.raw.xz`: 4 GiB. */
const LARGE_BLOCKS = 4096;

/** A disk of 4 GiB, in blocks of 1 MiB, which are all the same. */
export function largeXz(): Promise<string> {
  return made('large.raw.xz', async (path) => {
    const block = `${path}.block`;
    await writeFile(block, makeContent('text', 1, MIB));
    const packed = await readFile(await pack(block, 'one.xz'));
    await Promise.all([block, `${block}.one.xz`].map((name) => rm(name)));
    const object = new RepeatedXz(packed, LARGE_BLOCKS);
    await withNewFile(path, async (file) => {
      for (let at = 0; at < object.size; at += LARGE_PIECE_BYTES)
        await file.write(object.bytes(at, Math.min(object.size, at + LARGE_PIECE_BYTES)));
    });
  });
}

/** `binariesRaw` in another program's format. */
export function binariesAs(
  format: 'vmdk' | 'vpc' | 'vhdx' | 'vdi' | 'qed',
  subformat?: string,
): Promise<string> {
  return made(`binaries${subformat ? `-${subformat}` : ''}.${format}`, async (path) => {
    await convertImage(await binariesRaw(), path, {
      from: 'raw',
      to: format,
      with: subformat === undefined ? undefined : { subformat },
    });
  });
}

/**
 * The path of a file of this name, which `make` makes when it is not there. It appears when it is
 * complete.
 */
async function made(name: string, make: (path: string) => Promise<void>): Promise<string> {
  const path = join(fixturesFolder(), `bench-${VERSION}-${name}`);
  if (existsSync(path)) return path;
  await mkdir(fixturesFolder(), { recursive: true });
  const making = `${path}.${process.pid}`;
  await make(making);
  await rename(making, path);
  return path;
}

interface Run {
  offset: number;
  length: number;
}

const DATA_RUN_BLOCKS_MAX = (16 * MIB) / BLOCK_BYTES;
const HOLE_BLOCKS_MAX = (12 * MIB) / BLOCK_BYTES;
/** It happens to give 56% of data in `LOCAL_BYTES`. */
const RUNS_SEED = 2;

/**
 * Runs of data of one block and more, the short ones as frequent as the long ones (by magnitude),
 * and holes alike but shorter.
 */
function* fileSystemRuns(size: number): Iterable<Run> {
  const random = new Random(RUNS_SEED);
  const anyLength = (blocksMax: number): number =>
    Math.round(blocksMax ** (random.between(0, 1e6) / 1e6)) * BLOCK_BYTES;
  for (let offset = 0; offset < size; ) {
    const length = Math.min(anyLength(DATA_RUN_BLOCKS_MAX), size - offset);
    yield { offset, length };
    offset += length + anyLength(HOLE_BLOCKS_MAX);
  }
}

/**
 * Writes a sparse file with the key stream of AES in counter mode in its runs: repeatable,
 * incompressible, and quick to make.
 */
async function writeRuns(path: string, size: number, runs: Iterable<Run>): Promise<void> {
  const stream = createCipheriv('aes-128-ctr', Buffer.alloc(16, 'millrace'), Buffer.alloc(16));
  const zeros = Buffer.alloc(PIECE_BYTES);
  await withNewFile(path, async (file) => {
    await file.truncate(size);
    for (const { offset, length } of runs) {
      for (let done = 0; done < length; done += PIECE_BYTES) {
        await file.write(
          stream.update(zeros.subarray(0, length - done)),
          0,
          undefined,
          offset + done,
        );
      }
    }
  });
}

/**
 * Copies the blocks that are not all zeros, one after another, until the target has `size` bytes.
 */
async function packBlocks(source: string, target: string, size: number): Promise<void> {
  const zeros = Buffer.alloc(BLOCK_BYTES);
  const piece = Buffer.alloc(PIECE_BYTES);
  const from = await open(source);
  try {
    await withNewFile(target, async (file) => {
      let packed = 0;
      for (let at = 0; packed < size; at += PIECE_BYTES) {
        const { bytesRead } = await from.read(piece, 0, PIECE_BYTES, at);
        if (bytesRead === 0) throw new Error(`${source} has less than ${size} bytes of data`);
        const blocks: Buffer[] = [];
        for (let block = 0; block < bytesRead; block += BLOCK_BYTES) {
          const bytes = piece.subarray(block, block + BLOCK_BYTES);
          if (!bytes.equals(zeros)) blocks.push(bytes);
        }
        const data = Buffer.concat(blocks).subarray(0, size - packed);
        await file.write(data, 0, data.length, packed);
        packed += data.length;
      }
    });
  } finally {
    await from.close();
  }
}

async function withNewFile(
  path: string,
  write: (file: FileHandle) => Promise<void>,
): Promise<void> {
  const file = await open(path, 'w');
  try {
    await write(file);
  } finally {
    await file.close();
  }
}
