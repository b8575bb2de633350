/** `convertDisk`, the library's call for what `millrace convert` does. */
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { ConvertOptions } from '../../hosts/node/index.ts';
import { convertDisk, createDisk, openDisk } from '../../hosts/node/index.ts';
import { makeContent } from '../fixtures/content.ts';
import { serveAndStall } from '../support/stalling-server.ts';

const MIB = 1024 * 1024;
const SIZE = 12 * MIB;

let folder: string;
const at = (name: string): string => join(folder, name);

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'millrace-convert-'));
});

afterEach(() => rmSync(folder, { recursive: true }));

/** An overlay with writes of its own over a base, and what the disk shows. */
async function makeChain(): Promise<Buffer> {
  const shown = Buffer.concat([
    makeContent('text', 1, 5 * MIB),
    Buffer.alloc(5 * MIB),
    makeContent('random', 2, 2 * MIB),
  ]);
  writeFileSync(at('base.raw'), shown);
  await using disk = await createDisk({ overlay: at('vm.qcow2'), base: at('base.raw') });
  await disk.write(MIB + 7, shown.fill(9, MIB + 7, MIB + 100_007).subarray(MIB + 7, MIB + 100_007));
  return shown;
}

async function shownBy(path: string): Promise<Buffer> {
  await using disk = await openDisk({ overlay: path, base: null });
  expect(await disk.check()).toMatchObject({ corruptions: 0, leaks: 0 });
  expect((await disk.images()).map(({ backingFile }) => backingFile)).toEqual([undefined]);
  return Buffer.from(await disk.read(0, disk.size));
}

describe('convertDisk', () => {
  it.each<Pick<ConvertOptions, 'format' | 'compress' | 'clusterSize' | 'sparseSize'>>([
    {},
    { format: 'raw', sparseSize: 0 },
    { format: 'qcow2', clusterSize: 4096 },
    { format: 'qcow2', compress: true },
  ])('copies what a chain shows, and tells how far it is: %j', async (options) => {
    const shown = await makeChain();
    const told: [number, number][] = [];
    const report = await convertDisk({
      source: pathToFileURL(at('vm.qcow2')),
      target: at('copy'),
      onProgress: (...numbers) => told.push(numbers),
      ...options,
    });
    expect(report).toEqual({ size: SIZE });
    const copy = options.format === 'qcow2' ? await shownBy(at('copy')) : readFileSync(at('copy'));
    expect(copy.equals(shown)).toBe(true);
    expect(told[0]).toEqual([0, SIZE]);
    expect(told.length).toBeGreaterThan(1);
    expect(told.at(-1)).toEqual([SIZE, SIZE]);
    expect(told).toEqual(told.toSorted(([one], [other]) => one - other));
  });

  it('gives a copy up at once by its signal, and leaves nothing', async () => {
    const content = makeContent('random', 3, SIZE);
    for (const options of [{}, { format: 'qcow2' }, { format: 'qcow2', compress: true }] as const) {
      const server = await serveAndStall(content, 4);
      const abort = new AbortController();
      const copying = convertDisk({
        source: server.url,
        target: at('copy'),
        signal: abort.signal,
        ...options,
      });
      await server.asked;
      abort.abort('enough');
      await expect(copying, JSON.stringify(options)).rejects.toMatchObject({
        code: 'ABORTED',
        message: `stopped: ${at('copy')} was not finished and is removed`,
        cause: 'enough',
      });
      expect(readdirSync(folder)).toEqual([]);
      server.stop();
    }
    const aborted = { signal: AbortSignal.abort() };
    await expect(
      convertDisk({ source: at('none'), target: at('copy'), ...aborted }),
    ).rejects.toMatchObject({ code: 'ABORTED', message: 'stopped: nothing was written' });
  });

  it('writes over what is there only where it is told to', async () => {
    const shown = await makeChain();
    const [source, target] = [at('vm.qcow2'), at('there.raw')];
    writeFileSync(target, Buffer.alloc(SIZE + MIB, 7));
    await expect(convertDisk({ source, target })).rejects.toMatchObject({ code: 'EEXIST' });
    await convertDisk({ source, target, existing: true });
    const written = readFileSync(target);
    expect(written.subarray(0, SIZE).equals(shown)).toBe(true);
    expect(written.subarray(SIZE).equals(Buffer.alloc(MIB, 7))).toBe(true);
    await expect(
      convertDisk({ source, target: at('base.raw'), existing: true }),
    ).rejects.toMatchObject({ code: 'EINVAL' });
  });

  it.each<[object, string, RegExp]>([
    [{ compres: true }, 'EINVAL', /^convertDisk has no option 'compres': did you mean 'compress'/],
    [{ compress: true }, 'EINVAL', /only a qcow2 copy is/],
    [{ clusterSize: 4096 }, 'EINVAL', /a raw image has no clusters/],
    [{ format: 'vmdk' }, 'EUNSUPPORTED', /a copy as vmdk: it is raw or qcow2/],
    [{ sparseSize: 100 }, 'EINVAL', /multiple of 512/],
    [{ source: { size: 1 } }, 'EINVAL', /the source of a copy is a path or a URL/],
    [{ target: undefined }, 'EINVAL', /a copy is made at a path/],
    [{ sourceFormat: 'vmd' }, 'EUNSUPPORTED', /the format 'vmd' is not supported/],
  ])('refuses %j', async (wrong, code, message) => {
    await makeChain();
    const options = { source: at('vm.qcow2'), target: at('copy'), ...wrong };
    await expect(convertDisk(options)).rejects.toMatchObject({
      code,
      message: expect.stringMatching(message),
    });
    expect(existsSync(at('copy'))).toBe(false);
  });
});
