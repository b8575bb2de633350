/**
 * Every codec against what qemu-img compresses, what it compresses itself, and against streams that
 * are damaged, cut off, too long or too short.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { deflateRawSync, inflateRawSync } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { Codec, Compression } from '../../hosts/api/codec.ts';
import { codecOf, portableDecoders } from '../../hosts/disk/codecs/codecs.ts';
import { inlineCodec, wasmZstdPath } from '../../hosts/node/inline-codec.ts';
import { ThreadedCodec } from '../../hosts/threads/codec.ts';
import { Threads } from '../../hosts/threads/threads.ts';
import { makeContent, Random } from '../fixtures/content.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { convertImage } from '../support/qemu.ts';
import { readCompressed } from './clusters.ts';

const METHODS: readonly Compression[] = ['zlib', 'zstd'];
const KIB = 1024;

const threads = new Threads(2, wasmZstdPath);
const pool = new ThreadedCodec(threads, inlineCodec());
afterAll(() => threads.close());

const CODECS: readonly [string, Codec][] = [
  ['the portable decoders', codecOf(portableDecoders)],
  ['the calling thread', inlineCodec()],
  ['a pool of threads', pool],
];

let folder: string;
beforeAll(() => void (folder = mkdtempSync(join(tmpdir(), 'millrace-codecs-'))));
afterAll(() => rmSync(folder, { recursive: true }));

/** What compresses well, badly and not at all, in pieces of several lengths. */
function mixedContent(length: number): Uint8Array {
  const content = new Uint8Array(length);
  for (let at = 0, seed = 1; at < length; seed++) {
    const piece = Math.min(1_000 * seed, length - at);
    if (seed % 4 !== 0)
      content.set(makeContent(seed % 4 === 1 ? 'text' : 'random', seed, piece), at);
    at += piece;
  }
  return content;
}

function zstd(content: Uint8Array, ...options: string[]): Uint8Array {
  return execFileSync('zstd', ['-q', '-c', ...options], { input: content, maxBuffer: 2 ** 28 });
}

/** A stream of the method, as a plain encoder of it makes one. */
function compress(method: Compression, content: Uint8Array): Uint8Array {
  return method === 'zlib'
    ? deflateRawSync(content)
    : zstd(content, `--stream-size=${content.length}`);
}

async function inflated(
  codec: Codec,
  method: Compression,
  from: Uint8Array,
  size: number,
): Promise<Uint8Array> {
  const into = new Uint8Array(size);
  await codec.inflate(method, from, into);
  return into;
}

/** Its message, when it is refused as corrupt. */
async function refusal(
  codec: Codec,
  method: Compression,
  from: Uint8Array,
  size: number,
): Promise<string> {
  try {
    await inflated(codec, method, from, size);
  } catch (error) {
    expect(error).toMatchObject({
      code: 'ECORRUPT',
      message: expect.stringContaining(`compressed data (${method}) does not inflate: `),
    });
    return (error as Error).message;
  }
  throw new Error('it was taken');
}

function concat(...parts: Uint8Array[]): Uint8Array {
  return Buffer.concat(parts);
}

describeWithPeer(['qemu-img'], 'images of qemu-img', () => {
  describe.each(METHODS)('compressed with %s', (method) => {
    it.each([512, 4 * KIB, 64 * KIB, 2048 * KIB])(
      'in clusters of %i bytes give their content',
      async (clusterSize) => {
        const content = mixedContent(clusterSize < 4 * KIB ? 300 * KIB : 12_000 * KIB);
        const raw = join(folder, 'content.raw');
        const image = join(folder, `${method}-${clusterSize}.qcow2`);
        writeFileSync(raw, content);
        await convertImage(raw, image, {
          from: 'raw',
          compress: true,
          with: { cluster_size: clusterSize, compression_type: method },
        });
        const { clusters, ...found } = readCompressed(image);
        expect(found.clusterSize).toBe(clusterSize);
        expect(clusters.length).toBeGreaterThan(3);
        const padded = new Uint8Array(Math.ceil(content.length / clusterSize) * clusterSize);
        padded.set(content);
        for (const [name, codec] of CODECS) {
          const decoded = await Promise.all(
            clusters.map(({ from }) => inflated(codec, method, from, clusterSize)),
          );
          for (const [i, { offset }] of clusters.entries()) {
            const expected = padded.subarray(offset, offset + clusterSize);
            expect(Buffer.compare(decoded[i], expected), `${name}, cluster at ${offset}`).toBe(0);
          }
        }
      },
    );
  });
});

describeWithPeer(['zstd'], 'a stream', () => {
  describe.each(CODECS)('decoded by %s', (_, codec) => {
    const content = makeContent('text', 7, 64 * KIB);

    describe.each(METHODS)('of %s', (method) => {
      it('may be followed by anything', async () => {
        const stream = compress(method, content);
        for (const behind of [
          new Uint8Array(0),
          new Uint8Array(511),
          makeContent('random', 1, 3_000),
          stream,
        ]) {
          expect(
            Buffer.compare(
              await inflated(codec, method, concat(stream, behind), content.length),
              content,
            ),
          ).toBe(0);
        }
      });

      it('is read from and written to views within a memory, and nothing beside them', async () => {
        const memory = new Uint8Array(new WebAssembly.Memory({ initial: 4 }).buffer).fill(0xee);
        const stream = compress(method, content);
        memory.set(stream, 100_000);
        await codec.inflate(
          method,
          memory.subarray(100_000, 100_000 + stream.length),
          memory.subarray(77, 77 + content.length),
        );
        expect(Buffer.compare(memory.subarray(77, 77 + content.length), content)).toBe(0);
        expect(memory.subarray(0, 77).every((byte) => byte === 0xee)).toBe(true);
        expect(memory.subarray(77 + content.length, 100_000).every((byte) => byte === 0xee)).toBe(
          true,
        );
      });

      it('that is cut off is refused, wherever', async () => {
        const stream = compress(method, content);
        const cuts = [
          0,
          1,
          2,
          3,
          5,
          10,
          100,
          stream.length >> 1,
          stream.length - 5,
          stream.length - 1,
        ];
        for (const cut of cuts) await refusal(codec, method, stream.slice(0, cut), content.length);
      });

      it('that gives a byte too many or too few is refused', async () => {
        for (const size of [2, 512, 64 * KIB]) {
          const exact = compress(method, content.subarray(0, size));
          expect(
            Buffer.compare(await inflated(codec, method, exact, size), content.subarray(0, size)),
          ).toBe(0);
          for (const wrong of [size - 1, size + 1]) await refusal(codec, method, exact, wrong);
        }
        await refusal(codec, method, compress(method, new Uint8Array(0)), 512);
      });

      it('that is a bomb is refused', async () => {
        const bomb = compress(method, new Uint8Array(64 * KIB * KIB));
        expect(bomb.length).toBeLessThan(128 * KIB);
        expect(await refusal(codec, method, bomb, 64 * KIB)).toMatch(/65536/);
      });

      it('with damage is refused or gives a whole cluster, and nothing else', async () => {
        const random = new Random(11);
        const stream = compress(method, content);
        let refused = 0;
        for (let i = 0; i < 200; i++) {
          const damaged = stream.slice();
          for (let hits = random.between(1, 4); hits > 0; hits--) {
            damaged[random.between(0, damaged.length - 1)] ^= 1 << random.between(0, 7);
          }
          await inflated(codec, method, damaged, content.length).catch((error) => {
            expect(error).toMatchObject({ code: 'ECORRUPT' });
            refused++;
          });
        }
        expect(refused).toBeGreaterThan(50);
        for (let i = 0; i < 100; i++)
          await refusal(codec, method, makeContent('random', i, 4_000), content.length);
      });
    });

    it('of zstd may be several frames, with or without their sizes and checksums', async () => {
      const [a, b] = [content.subarray(0, 10_000), content.subarray(10_000)];
      const withSizes = concat(compress('zstd', a), compress('zstd', b), new Uint8Array(100));
      const withoutSizes = concat(zstd(a, '--no-check'), zstd(b, '--check'), new Uint8Array(100));
      for (const stream of [withSizes, withoutSizes, zstd(content)]) {
        expect(Buffer.compare(await inflated(codec, 'zstd', stream, content.length), content)).toBe(
          0,
        );
      }
      await refusal(codec, 'zstd', concat(zstd(a), zstd(content)), content.length);
      await refusal(codec, 'zstd', zstd(a), content.length);
      await refusal(codec, 'zstd', zstd(new Uint8Array(64 * KIB * KIB)), content.length);
    });

    it('of zstd with a wrong checksum is refused', async () => {
      const stream = Uint8Array.from(zstd(content, '--check', `--stream-size=${content.length}`));
      stream[stream.length - 1] ^= 1;
      await refusal(codec, 'zstd', stream, content.length);
    });
  });
});

describe.each(CODECS.slice(1))('%s', (_, codec) => {
  it.each(METHODS)('compresses (%s) what gets smaller by it, and that alone', async (method) => {
    for (const size of [512, 4 * KIB, 64 * KIB, 2048 * KIB]) {
      const contents = Array.from({ length: Math.ceil((4096 * KIB) / size / 8) }, (_, i) =>
        makeContent(i % 3 ? 'text' : 'random', i + 1, size),
      );
      const streams = await Promise.all(contents.map((content) => codec.deflate!(method, content)));
      for (const [i, stream] of streams.entries()) {
        expect(stream === undefined, `${size}: ${i}`).toBe(i % 3 === 0);
        if (stream === undefined) continue;
        expect(stream.length).toBeLessThan(size);
        const plain =
          method === 'zlib'
            ? inflateRawSync(stream, { windowBits: 12 })
            : await inflated(CODECS[0][1], method, stream, size);
        expect(Buffer.compare(plain, contents[i]), `${size}: ${i}`).toBe(0);
      }
    }
  });
});

describe('a runtime that has no decoder', () => {
  it('says so each time it is asked', async () => {
    const codec = codecOf({
      ...portableDecoders,
      zstd: () => Promise.reject(new Error('no WebAssembly here')),
    });
    for (let i = 0; i < 2; i++) {
      await expect(inflated(codec, 'zstd', new Uint8Array(10), 10)).rejects.toMatchObject({
        code: 'EUNSUPPORTED',
        message: expect.stringContaining('no WebAssembly here'),
      });
    }
  });
});
