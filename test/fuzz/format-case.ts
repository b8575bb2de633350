/**
 * One hostile image of another program's format: what `qemu-img` made, damaged by seed, and then
 * read as a base is. What comes of it are bytes or an error by name, never a trap.
 */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { MillraceError } from '../../hosts/api/errors.ts';
import type { ImageFormat } from '../../hosts/api/image.ts';
import { Random } from '../fixtures/content.ts';
import { MemoryRuntime } from '../support/memory-runtime.ts';
import { qemuImg, qemuIo } from '../support/qemu.ts';

export const FORMATS = ['vmdk', 'vpc', 'vhdx', 'vdi', 'qed', 'parallels'] as const;
/** `stream` is a VMDK that is stream-optimized. */
export type Foreign = (typeof FORMATS)[number] | 'stream';
export type ForeignImages = Map<Foreign, Buffer>;

export const FOREIGN_BYTES: number = 4 << 20;
const CODES = ['ECORRUPT', 'EUNSUPPORTED', 'EINVAL'];
const MUTATIONS_MAX = 3;
/** Most of what is told stands at the start. */
const START_BYTES = 1024;
const INTERESTING = [0, 255, 128];

export interface FormatResult {
  format: Foreign;
  mutations: string[];
  /** All of the disk was read. */
  isWhole: boolean;
  /** The code that the damage was told by. */
  code?: string;
  error?: Error;
}

/** Makes one of each in a folder, which needs `qemu-img` and `qemu-io`. */
export async function makeForeignImages(folder: string): Promise<ForeignImages> {
  const images: ForeignImages = new Map();
  const path = (name: string): string => join(folder, name);
  for (const format of FORMATS) {
    const options = format === 'vpc' ? ['-o', 'force_size=on'] : [];
    await qemuImg(['create', '-q', '-f', format, ...options, path(format), String(FOREIGN_BYTES)]);
    await qemuIo(path(format), ['write -P 7 0 1M', 'write -P 9 3M 64k'], { format });
    images.set(format, await readFile(path(format)));
  }
  const stream = ['-o', 'subformat=streamOptimized', path('vmdk'), path('stream')];
  await qemuImg(['convert', '-f', 'vmdk', '-O', 'vmdk', ...stream]);
  images.set('stream', await readFile(path('stream')));
  return images;
}

/** The same, kept in memory only. */
export async function foreignImages(): Promise<ForeignImages> {
  const folder = await mkdtemp(join(tmpdir(), 'millrace-fuzz-'));
  try {
    return await makeForeignImages(folder);
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** Opens it as a base and reads all that its disk shows. */
export async function readForeign(
  bytes: Uint8Array,
  baseFormat?: ImageFormat,
): Promise<Uint8Array> {
  const runtime = new MemoryRuntime();
  runtime.add('base', bytes);
  const disk = await runtime.create({ overlay: 'overlay', base: 'base', baseFormat });
  try {
    return await disk.read(0, Math.min(disk.size, FOREIGN_BYTES));
  } finally {
    await disk.close();
  }
}

/** Runs the case of a seed. */
export async function runFormatCase(images: ForeignImages, seed: number): Promise<FormatResult> {
  // Neighbouring seeds begin alike.
  const random = new Random(Math.imul(seed, 0x9e3779b1));
  const formats = [...images.keys()];
  const format = formats[random.between(0, formats.length - 1)];
  const result: FormatResult = { format, mutations: [], isWhole: false };
  const bytes = damaged(images.get(format)!, random, result.mutations);
  try {
    await readForeign(bytes, format === 'stream' ? 'vmdk' : format);
    result.isWhole = true;
  } catch (error) {
    const code = error instanceof MillraceError ? error.code : '';
    if (CODES.includes(code)) result.code = code;
    else result.error = error as Error;
  }
  return result;
}

function damaged(sound: Buffer, random: Random, told: string[]): Uint8Array {
  const bytes = Buffer.from(sound);
  for (let left = random.between(1, MUTATIONS_MAX); left > 0; left--) {
    const isAtStart = random.between(0, 1) === 1;
    const at = random.between(0, (isAtStart ? START_BYTES : bytes.length) - 1);
    const value = INTERESTING[random.between(0, INTERESTING.length)] ?? random.between(0, 255);
    bytes.writeUInt8(value, at);
    told.push(`byte at ${at} = ${value}`);
  }
  if (random.between(0, 3) > 0) return bytes;
  const length = random.between(0, bytes.length - 1);
  told.push(`cut at ${length}`);
  return bytes.subarray(0, length);
}
