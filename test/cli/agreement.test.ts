/** `info`, `map` and `check` agree field for field with qemu-img, on every kind of image. */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { MadeImage } from '../fixtures/images.ts';
import { baseKind, baseKinds, overlayKinds } from '../fixtures/images.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import type { QemuExtent } from '../support/qemu.ts';
import { check, createImage, map, qemuImg } from '../support/qemu.ts';
import { run } from '../support/run.ts';
import { millraceHere } from './program.ts';

/**
 * The base under each kind of overlay: of another cluster size, and with data, zeros and nothing.
 */
const BASE_OF_OVERLAYS = 'qcow2-v3-4k';

describeWithPeer(['qemu-img', 'qemu-io'], 'agreement with qemu-img', () => {
  let folder: string;
  let base: MadeImage;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'millrace-agreement-'));
    base = await baseKind(BASE_OF_OVERLAYS).make(folder);
  });
  afterAll(() => rm(folder, { recursive: true, force: true }));

  for (const kind of baseKinds) {
    it(`base ${kind.name}`, async () => agrees((await kind.make(folder)).path));
  }
  for (const kind of overlayKinds) {
    it(`overlay ${kind.name}`, async () => {
      const { path } = await kind.make(folder, {
        location: base.path,
        format: base.format,
        virtualSize: base.virtualSize,
      });
      await agrees(path);
    });
  }
  it('persistent bitmaps', async () => {
    const path = join(folder, 'bitmaps.qcow2');
    await createImage(path, { size: 1024 * 1024 });
    await qemuImg(['bitmap', '--add', path, 'kept up']);
    await qemuImg(['bitmap', '--add', '--disable', '-g', '512', path, 'at rest']);
    await agrees(path);
    const { stdout } = await millraceHere('info', path);
    expect(stdout).toContain(
      (await qemuImg(['info', path])).split('Format specific information:')[1].trimEnd(),
    );
  });

  it('encrypted images and those with a data file of their own, which are described only', async () => {
    const secret = ['--object', 'secret,id=key,data=word'];
    const encrypted = ['encrypt.key-secret=key', 'encrypt.iter-time=10'];
    const kinds: Record<string, string[]> = {
      luks: [...secret, '-o', ['encrypt.format=luks', ...encrypted].join()],
      essiv: [
        ...secret,
        '-o',
        [
          'encrypt.format=luks,encrypt.cipher-alg=serpent-128,encrypt.cipher-mode=cbc',
          'encrypt.ivgen-alg=essiv,encrypt.ivgen-hash-alg=sha256,encrypt.hash-alg=sha1',
          ...encrypted,
        ].join(),
      ],
      aes: [...secret, '-o', 'encrypt.format=aes,encrypt.key-secret=key'],
      'aes of version 2': [
        ...secret,
        '-o',
        'compat=0.10,encrypt.format=aes,encrypt.key-secret=key',
      ],
      'data file': ['-o', `data_file=${join(folder, 'data.raw')}`],
      'raw data file': ['-o', `data_file=${join(folder, 'raw.raw')},data_file_raw=on`],
    };
    for (const [name, options] of Object.entries(kinds)) {
      const path = join(folder, `${name}.qcow2`);
      await createPatiently(['-q', '-f', 'qcow2', ...options, path, '1M']);
      const { stdout, exitCode } = await millraceHere('info', '--json', path);
      expect(exitCode, name).toBe(0);
      const { remaining, ...told } = JSON.parse(stdout) as Record<string, unknown>;
      expect(told, name).toEqual(await qemuInfoOf(path));
      expect(remaining, name).toBe(name.includes('data') ? undefined : 0);
      expect((await millraceHere('info', path)).stdout, name).toBe(await qemuImg(['info', path]));
      const refused = await millraceHere('map', path);
      expect(refused.stderr, name).toMatch(/(encrypted images|external data file) .*not supported/);
    }
  });

  it('unknown features by the names that the image has for them, wherever it is refused', async () => {
    const path = join(folder, 'features.qcow2');
    await createImage(path, { size: 1024 * 1024 });
    const over = join(folder, 'over-features.qcow2');
    await createImage(over, { base: path, baseFormat: 'qcow2' });
    const image = await readFile(path);
    // The last entry of QEMU's table gets another meaning.
    const at = image.indexOf('lazy refcounts') - 2;
    image[at] = 0;
    image[at + 1] = 40;
    image.write('chess by mail\0', at + 2);
    image.writeBigUInt64BE((1n << 40n) | (1n << 63n), 72);
    await writeFile(path, image);
    for (const args of [
      ['info', path],
      ['map', path],
      ['check', path],
      ['check', '-r', 'all', path],
      ['map', over],
      ['stream', over],
      ['convert', path, join(folder, 'none.raw')],
    ])
      expect((await millraceHere(...args)).stderr, args.join(' ')).toMatch(
        /features that are not supported.*: 'chess by mail', bit 63/,
      );
    expect((await run('qemu-img', ['info', path], { exitCodes: [1] })).stderr).toContain(
      'chess by mail',
    );
  });

  it('disk of no bytes', async () => {
    const [raw, qcow2, over] = ['empty.raw', 'empty.qcow2', 'over-empty.qcow2'].map((name) =>
      join(folder, name),
    );
    await writeFile(raw, '');
    await createImage(qcow2, { size: 0 });
    await createImage(over, { base: raw, baseFormat: 'raw' });
    for (const path of [raw, qcow2, over]) expect(await mapOf(path)).toEqual(await map(path));
  });
});

/** qemu-img times how it derives a key, and gives up where the machine is too busy for that. */
async function createPatiently(args: readonly string[]): Promise<void> {
  for (let tries = 1; ; tries++) {
    const { exitCode, stderr } = await run('qemu-img', ['create', ...args], { exitCodes: [0, 1] });
    if (exitCode === 0) return;
    if (tries === 10 || !stderr.includes('Unable to get accurate CPU usage'))
      throw new Error(stderr);
  }
}

async function agrees(path: string): Promise<void> {
  expect(await infoOf(path)).toEqual(await qemuInfoOf(path));
  expect(await mapOf(path)).toEqual(await map(path));
  expect(await humanMap(path)).toBe(await qemuHumanMap(path));
  await checkAgrees(path);
}

async function checkAgrees(path: string): Promise<void> {
  const { exitCode, stdout } = await millraceHere('check', '--json', path);
  const theirs = await check(path, { format: path.endsWith('.raw') ? 'raw' : 'qcow2' });
  expect(exitCode).toBe(theirs.exitCode);
  expect(stdout === '' ? undefined : JSON.parse(stdout)).toEqual(theirs.report);
}

async function infoOf(path: string): Promise<unknown> {
  const { stdout, stderr } = await millraceHere('info', '--output=json', path);
  const { remaining, ...info } = JSON.parse(stdout || stderr) as Record<string, unknown>;
  expect(remaining).toBeTypeOf('number');
  return info;
}

async function qemuInfoOf(path: string): Promise<unknown> {
  return JSON.parse(await qemuImg(['info', '--output=json', path]));
}

async function mapOf(path: string): Promise<QemuExtent[]> {
  const { stdout } = await millraceHere('map', '--json', '--follow-chain', path);
  return (JSON.parse(stdout) as QemuExtent[]).map(({ compressed, ...row }) => {
    // It is data without a place to QEMU 7.2, which does not name it.
    if (compressed) expect(row).toMatchObject({ data: true, zero: false, present: true });
    return row;
  });
}

/**
 * qemu-img has no table for images with compressed clusters, nor has it a row for holes: these are
 * compared as JSON alone.
 */
async function humanMap(path: string): Promise<string | undefined> {
  if (!(await hasTable(path))) return undefined;
  return (await millraceHere('map', '--follow-chain', path)).stdout;
}

async function qemuHumanMap(path: string): Promise<string | undefined> {
  return (await hasTable(path)) ? qemuImg(['map', path]) : undefined;
}

async function hasTable(path: string): Promise<boolean> {
  return (await map(path)).every(
    ({ data, zero, offset }) => !data || (!zero && offset !== undefined),
  );
}
