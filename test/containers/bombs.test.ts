/**
 * Containers that are small and hold, or claim, much: what they really hold is read in bounded
 * memory, and a claim that is not true is an error before it costs anything.
 */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { constants, deflateRawSync, gzipSync } from 'node:zlib';
import { beforeAll, expect, it } from 'vitest';
import type { BlockSource } from '../../hosts/api/block.ts';
import { crc32 } from '../../hosts/bases/containers/crc32.ts';
import { portableDecompressors } from '../../hosts/bases/containers/portable.ts';
import { unpackWith } from '../../hosts/bases/containers/unpack.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { MemoryFile } from '../support/memory-file.ts';
import { peerPath } from '../support/peer.ts';
import { run } from '../support/run.ts';

const MIB = 1024 * 1024;
const GIB = 1024 * MIB;
const PART = 16 * MIB;
const PARTS = 640;
const WHOLE = PART * PARTS;
/** Of what is read to answer a read near the start. */
const READ_BYTES_MAX = 2 * MIB;
/** What was in memory before it became too much. */
const KEPT_BYTES_MAX = 4 * MIB;
const ROOM = { block: 32 * MIB, all: 96 * MIB };

/** A source in memory that counts, and what was kept of what has passed. */
async function opened(bytes: Uint8Array, size?: number) {
  const counts = { read: 0 };
  const kept: MemoryFile[] = [];
  const source: BlockSource = {
    size: bytes.length,
    name: 'bomb',
    read(offset, into) {
      counts.read += into.length;
      into.set(bytes.subarray(offset, offset + into.length));
    },
    close() {},
  };
  const tools = {
    decompressors: portableDecompressors,
    room: ROOM,
    async scratch() {
      kept.push(new MemoryFile('kept'));
      return kept[kept.length - 1];
    },
  };
  const disk = await unpackWith(tools, source, { sizeMax: size });
  return { disk, counts, kept };
}

/** Reads some zeros, without reading or keeping more than they are worth. */
async function mustBeCheap(bytes: Uint8Array, at: number, size?: number): Promise<void> {
  const { disk, counts, kept } = await opened(bytes, size);
  const into = new Uint8Array(64 * 1024).fill(1);
  await disk.read(at, into);
  expect(into.every((byte) => byte === 0)).toBe(true);
  expect(disk.size).toBe(WHOLE);
  expect(counts.read).toBeLessThanOrEqual(READ_BYTES_MAX);
  for (const file of kept) expect(file.size).toBeLessThanOrEqual(KEPT_BYTES_MAX);
  await disk.close();
}

/** Reads all of it, which fails. */
async function mustBeRefused(
  bytes: Uint8Array,
  code: string,
  message: RegExp,
  size?: number,
): Promise<void> {
  const reading = (async () => {
    const { disk } = await opened(bytes, size);
    try {
      for (let at = 0; at < Math.min(disk.size, 4 * MIB); at += MIB)
        await disk.read(at, new Uint8Array(Math.min(MIB, disk.size - at)));
      await disk.verify?.();
    } finally {
      await disk.close();
    }
  })();
  await expect(reading).rejects.toMatchObject({ code, message: expect.stringMatching(message) });
}

function repeated(part: Uint8Array): Buffer {
  return Buffer.concat(Array.from({ length: PARTS }, () => part));
}

/** A member of zip by itself. */
function zip(data: Uint8Array, { size = WHOLE, twice = false } = {}): Buffer {
  const name = Buffer.from('disk.raw');
  const local = Buffer.alloc(30);
  local.writeUInt32LE(0x04034b50, 0);
  local.writeUInt16LE(8, 8);
  local.writeUInt16LE(name.length, 26);
  // The field of zip64: unpacked and packed bytes.
  const extra = Buffer.alloc(20);
  extra.writeUInt16LE(1, 0);
  extra.writeUInt16LE(16, 2);
  extra.writeBigUInt64LE(BigInt(size), 4);
  extra.writeBigUInt64LE(BigInt(data.length), 12);
  const entry = Buffer.alloc(46);
  entry.writeUInt32LE(0x02014b50, 0);
  entry.writeUInt16LE(8, 10);
  entry.writeUInt32LE(0xffffffff, 20);
  entry.writeUInt32LE(0xffffffff, 24);
  entry.writeUInt16LE(name.length, 28);
  entry.writeUInt16LE(extra.length, 30);
  const files = Buffer.concat([local, name, data]);
  const one = Buffer.concat([entry, name, extra]);
  const other = Buffer.from(one);
  other.write('notes.md', 46);
  const directory = twice ? Buffer.concat([one, other]) : one;
  const end = Buffer.alloc(22);
  end.writeUInt32LE(0x06054b50, 0);
  end.writeUInt16LE(twice ? 2 : 1, 8);
  end.writeUInt16LE(twice ? 2 : 1, 10);
  end.writeUInt32LE(directory.length, 12);
  end.writeUInt32LE(files.length, 16);
  return Buffer.concat([files, directory, end]);
}

/** Zeros in one frame, whose header may claim another size. */
function zstd(blocks: number, claimed: number, isSingleSegment = false): Buffer {
  const head = Buffer.alloc(isSingleSegment ? 13 : 14);
  head.writeUInt32LE(0xfd2fb528, 0);
  head[4] = 0xc0 | (isSingleSegment ? 0x20 : 0);
  // A window of 1 MiB.
  if (!isSingleSegment) head[5] = 10 << 3;
  head.writeBigUInt64LE(BigInt(claimed), head.length - 8);
  const body = Buffer.alloc(4 * blocks);
  const block = (128 * 1024) << 3;
  for (let at = 0; at < blocks; at++)
    body.writeUInt32LE((block | 2 | (at === blocks - 1 ? 1 : 0)) >>> 0, 4 * at);
  return Buffer.concat([head, body]);
}

/** With its index's own check sums. */
function lyingIndex(xz: Buffer, change: (index: Buffer) => void): Buffer {
  const bytes = Buffer.from(xz);
  const indexAt = bytes.length - 12 - (bytes.readUInt32LE(bytes.length - 8) + 1) * 4;
  change(bytes.subarray(indexAt, -16));
  bytes.writeUInt32LE(crc32(bytes.subarray(indexAt, -16)), bytes.length - 16);
  return bytes;
}

function varint(value: number): number[] {
  return value < 128 ? [value] : [(value % 128) | 128, ...varint(Math.floor(value / 128))];
}

/** One block of PART zeros, again and again, as one file. */
function manyBlocks(xz: Buffer): Buffer {
  const indexAt = xz.length - 12 - (xz.readUInt32LE(xz.length - 8) + 1) * 4;
  const block = xz.subarray(12, indexAt);
  const size = varint(PART);
  const unpaddedEnd = xz.indexOf(Buffer.from(size), indexAt + 2);
  const record = [...xz.subarray(indexAt + 2, unpaddedEnd), ...size];
  const numbers = [0, ...varint(PARTS), ...Array.from({ length: PARTS }, () => record).flat()];
  const index = Buffer.alloc(Math.ceil(numbers.length / 4) * 4 + 4);
  index.set(numbers);
  index.writeUInt32LE(crc32(index.subarray(0, -4)), index.length - 4);
  const footer = Buffer.from(xz.subarray(-12));
  footer.writeUInt32LE(index.length / 4 - 1, 4);
  footer.writeUInt32LE(crc32(footer.subarray(4, 10)), 0);
  return Buffer.concat([xz.subarray(0, 12), repeated(block), index, footer]);
}

const ZEROS = new Uint8Array(PART);
/** A run of deflate blocks that ends at a byte, and does not look back. */
const deflatedPart = deflateRawSync(ZEROS, { finishFlush: constants.Z_FULL_FLUSH });
const deflated = Buffer.concat([repeated(deflatedPart), Buffer.from([3, 0])]);

it('10 GiB of zeros in gzip cost what is read of them', async () => {
  await mustBeCheap(repeated(gzipSync(ZEROS)), 40 * MIB, WHOLE);
});

it('10 GiB of zeros in zip cost what is read of them', async () => {
  await mustBeCheap(zip(deflated), 40 * MIB);
});

it('10 GiB of zeros in zstd cost what is read of them', async () => {
  await mustBeCheap(zstd(WHOLE / (128 * 1024), WHOLE), 40 * MIB);
});

it('what holds more than it claims is refused there', async () => {
  await mustBeRefused(zip(deflated, { size: MIB }), 'ECORRUPT', /another number of bytes/);
  await mustBeRefused(zstd(1024, MIB), 'ECORRUPT', /another number of bytes|damaged/);
});

it('what holds less than it claims is refused at its end', async () => {
  await mustBeRefused(zstd(8, 2 * MIB), 'ECORRUPT', /another number of bytes|damaged/);
  const one = Buffer.concat([deflateRawSync(new Uint8Array(MIB))]);
  await mustBeRefused(zip(one, { size: 2 * MIB }), 'ECORRUPT', /zip/);
});

it('a window that no memory has is refused by name', async () => {
  await mustBeRefused(zstd(8, 10 * GIB, true), 'EUNSUPPORTED', /window of \d+ bytes.*128 MiB/);
});

it('members of a zip that are one another are refused', async () => {
  await mustBeRefused(zip(deflatedPart, { twice: true }), 'ECORRUPT', /overlaps/);
});

it('sizes that cannot be are refused in tar', async () => {
  const header = (size: Buffer): Buffer => {
    const bytes = Buffer.alloc(2048);
    bytes.write('disk.raw');
    size.copy(bytes, 124);
    bytes.write('0', 156);
    bytes.write('ustar\x0000', 257, 'latin1');
    bytes.fill(0x20, 148, 156);
    const sum = bytes.subarray(0, 512).reduce((total, byte) => total + byte, 0);
    bytes.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148);
    return bytes;
  };
  const negative = Buffer.alloc(12, 0xff);
  await mustBeRefused(header(negative), 'ECORRUPT', /invalid size/);
  await mustBeRefused(header(Buffer.from('-0000000001\0')), 'ECORRUPT', /invalid size/);
  await mustBeRefused(header(Buffer.from('77777777777\0')), 'ECORRUPT', /cut off/);
});

describeWithPeer(['xz'], 'a bomb of xz', () => {
  let xz: Buffer;
  beforeAll(async () => {
    const folder = await mkdtemp(join(tmpdir(), 'millrace-bombs-'));
    await writeFile(join(folder, 'zeros'), ZEROS);
    await run(peerPath('xz'), ['-0', '-T1', join(folder, 'zeros')]);
    xz = await readFile(join(folder, 'zeros.xz'));
    await rm(folder, { recursive: true });
  });

  it('of 10 GiB costs the blocks that are read', async () => {
    await mustBeCheap(manyBlocks(xz), 9 * GIB + 12345);
  });

  it('whose index says less, more, or another place is refused', async () => {
    const size = Buffer.from(varint(PART));
    const less = lyingIndex(xz, (index) => {
      Buffer.from([0x80, 0x80, 0xc0, 0]).copy(index, index.indexOf(size));
    });
    await mustBeRefused(less, 'ECORRUPT', /more than the 1048576 bytes it claims|xz/);
    const more = lyingIndex(xz, (index) => {
      Buffer.from(varint(PART + MIB)).copy(index, index.indexOf(size));
    });
    await mustBeRefused(more, 'ECORRUPT', /xz/);
    const elsewhere = lyingIndex(xz, (index) => {
      index[2] ^= 4;
    });
    await mustBeRefused(elsewhere, 'ECORRUPT', /not where its index says|would begin before/);
  });
});
