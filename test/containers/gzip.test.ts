/**
 * Both readers of gzip, that of node:zlib and the one that runs everywhere: what gzip takes they
 * take, in pieces of any size, and what is wrong they tell.
 */
import * as zlib from 'node:zlib';
import { describe, expect, it } from 'vitest';
import type { Decompress } from '../../hosts/bases/containers/decompress.ts';
import { nodeDecompressors } from '../../hosts/bases/containers/decompress.ts';
import { portableDecompressors } from '../../hosts/bases/containers/portable.ts';
import type { NodeZlib } from '../../hosts/bases/containers/unpack.ts';
import { makeContent } from '../fixtures/content.ts';

const content = Buffer.from(makeContent('text', 1, 300_000));
const packed = zlib.gzipSync(content);
const HEADER_BYTES = 10;

const native = nodeDecompressors(zlib as unknown as NodeZlib, portableDecompressors);
const READERS = { 'node:zlib': native.gzip, pako: portableDecompressors.gzip };

async function* inPieces(bytes: Uint8Array, size: number): AsyncGenerator<Uint8Array> {
  for (let at = 0; at < bytes.length; at += size) yield bytes.subarray(at, at + size);
}

async function gathered(
  decompress: Decompress,
  bytes: Uint8Array,
  size = 64 * 1024,
): Promise<Buffer> {
  const all: Uint8Array[] = [];
  for await (const piece of decompress(inPieces(bytes, size))) all.push(piece);
  return Buffer.concat(all);
}

it('is read by node:zlib where that has what it takes', () => {
  expect(native.gzip).not.toBe(portableDecompressors.gzip);
  const old = { ...zlib, crc32: undefined } as unknown as NodeZlib;
  expect(nodeDecompressors(old, portableDecompressors).gzip).toBe(portableDecompressors.gzip);
});

/** A member whose header has all that there may be; its check sum may be wrong by some bits. */
function withFields(wrong = 0): Buffer {
  const head = Buffer.from([0x1f, 0x8b, 8, 2 | 4 | 8 | 16, 0, 0, 0, 0, 0, 255, 3, 0, 1, 2, 3]);
  const header = Buffer.concat([head, Buffer.from('disk.raw\0a comment\0', 'latin1')]);
  const sum = Buffer.alloc(2);
  sum.writeUInt16LE((zlib.crc32(header) & 0xffff) ^ wrong);
  return Buffer.concat([header, sum, packed.subarray(HEADER_BYTES)]);
}

describe.each(Object.entries(READERS))('gzip by %s', (_, load) => {
  it('is read in pieces of any size', async () => {
    const small = zlib.gzipSync(content.subarray(0, 5000));
    for (const size of [1, 7, 1000])
      expect(await gathered(await load(), small, size)).toEqual(content.subarray(0, 5000));
    for (const size of [1000, 65_536, 10_000_000])
      expect((await gathered(await load(), packed, size)).equals(content)).toBe(true);
  });

  it('may be several members, empty ones among them, with any header', async () => {
    const empty = zlib.gzipSync('');
    const all = Buffer.concat([empty, packed, withFields(), empty, packed, empty]);
    for (const size of [100, 65_536, 10_000_000])
      expect(
        (await gathered(await load(), all, size)).equals(
          Buffer.concat([content, content, content]),
        ),
      ).toBe(true);
  });

  it('leaves out what follows it and is none', async () => {
    for (const rest of [
      Buffer.alloc(4096),
      Buffer.from('signature'),
      Buffer.from([0x1f]),
      Buffer.from([0]),
    ])
      for (const size of [packed.length, packed.length + 1, 65_536, 10_000_000])
        expect(
          (await gathered(await load(), Buffer.concat([packed, rest]), size)).equals(content),
        ).toBe(true);
  });

  it('that is cut off is refused, wherever that is', async () => {
    const small = zlib.gzipSync(content.subarray(0, 100));
    for (let length = 0; length < small.length; length++)
      await expect(
        gathered(await load(), small.subarray(0, length)),
        `${length}`,
      ).rejects.toThrow();
    // Two bytes tell that another member begins.
    for (const length of [2, 9, 11, packed.length - 1])
      await expect(
        gathered(await load(), Buffer.concat([packed, packed.subarray(0, length)])),
      ).rejects.toThrow();
  });

  it('that is damaged is refused', async () => {
    const places = [
      0,
      1,
      2,
      3,
      HEADER_BYTES,
      packed.length >> 1,
      packed.length - 8,
      packed.length - 1,
    ];
    for (const at of places) {
      const bytes = Buffer.from(packed);
      bytes[at] ^= 0xe4;
      await expect(gathered(await load(), bytes), `${at}`).rejects.toThrow();
    }
    await expect(gathered(await load(), withFields(1))).rejects.toThrow();
  });

  it('is given up in its midst', async () => {
    for await (const piece of (await load())(inPieces(packed, 1000))) {
      expect(content.subarray(0, piece.length).equals(piece)).toBe(true);
      break;
    }
  });

  it('passes on what is wrong with its input', async () => {
    const wrong = new Error('the line is cut');
    const input = (async function* () {
      yield packed.subarray(0, 2000);
      throw wrong;
    })();
    const reading = (async () => {
      for await (const _ of (await load())(input));
    })();
    await expect(reading).rejects.toBe(wrong);
  });
});
