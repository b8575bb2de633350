/**
 * Names of images: what a base is recorded by, so that QEMU finds it as well, and which names are
 * refused.
 */
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { commitDisk, createDisk, openDisk, openFile, rebaseDisk } from '../../hosts/node/index.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { compare, info } from '../support/qemu.ts';
import { run } from '../support/run.ts';

const BYTES = 1024 * 1024;
let folder: string;
let overlay: string;

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'millrace-locations-'));
  overlay = join(folder, 'overlay.qcow2');
});

afterEach(() => rmSync(folder, { recursive: true }));

describeWithPeer(['qemu-img'], 'a base that was given as a file: URL', () => {
  it.each([
    'a b',
    '100%',
    '%20',
    'ha#sh',
    'qu?ery',
    'ünï☃',
    "quo'te",
    'back\\slash',
    'co:lon',
    'new\nline',
  ])('is found by QEMU and by us: %j', async (name) => {
    mkdirSync(join(folder, name));
    const base = join(folder, name, `${name}.raw`);
    writeFileSync(base, new Uint8Array(BYTES).fill(7));
    const url = pathToFileURL(base);
    await (await createDisk({ overlay, base: url, baseFormat: 'raw' })).close();
    const isFound = async (): Promise<void> => {
      expect((await info(overlay))['backing-filename']).toBe(base);
      expect(await compare(overlay, base, { formatB: 'raw' })).toMatchObject({ identical: true });
      const disk = await openDisk({ overlay });
      expect(await disk.read(BYTES - 1, 1)).toEqual(new Uint8Array([7]));
      await disk.close();
    };
    await isFound();
    await rebaseDisk({ overlay, base: null });
    await rebaseDisk({ overlay, base: url.href, baseFormat: 'raw' });
    await isFound();
  });
});

it('a file: URL that leads to no file here is refused', async () => {
  for (const url of ['file://elsewhere/base.raw', 'file:///a%2Fb', 'file:///100%']) {
    const refused = {
      code: 'EINVAL',
      message: expect.stringContaining(`'${url}' leads to no file here: `),
    };
    await expect(createDisk({ overlay, base: url })).rejects.toMatchObject(refused);
    await expect(createDisk({ overlay: url, size: BYTES })).rejects.toMatchObject(refused);
    await expect(openDisk({ overlay: url })).rejects.toMatchObject(refused);
  }
  expect(readdirSync(folder)).toEqual([]);
});

it('a folder that is not there is told as that, not as a lock that cannot be made', async () => {
  const path = join(folder, 'missing/overlay.qcow2');
  const message = `cannot create '${path}' in '${folder}/missing': no such file or directory (ENOENT)`;
  await expect(createDisk({ overlay: path, size: BYTES })).rejects.toMatchObject({
    code: 'ENOENT',
    message,
  });
});

describeWithPeer(['qemu-img'], 'a reference behind a symbolic link', () => {
  const fill = (path: string, byte: number): void =>
    writeFileSync(path, new Uint8Array(BYTES).fill(byte));
  const firstByte = async (path: string, readOnly = true): Promise<number> => {
    const disk = await openDisk({ overlay: path, readOnly, followChain: true });
    try {
      return (await disk.read(0, 1))[0];
    } finally {
      await disk.close();
    }
  };

  it('is followed from the folder the image is really in, and commit writes there', async () => {
    mkdirSync(join(folder, 'pool/sub'), { recursive: true });
    symlinkSync('pool/sub', join(folder, 'cur'));
    fill(join(folder, 'pool/base.raw'), 0xaa);
    fill(join(folder, 'base.raw'), 0xbb);
    const image = join(folder, 'pool/sub/vm.qcow2');
    await (
      await createDisk({
        overlay: image,
        base: join(folder, 'pool/base.raw'),
        recordBase: '../base.raw',
      })
    ).close();
    expect(await firstByte(join(folder, 'cur/vm.qcow2'))).toBe(0xaa);
    const disk = await openDisk({ overlay: image });
    await disk.write(0, new Uint8Array(65536).fill(0xcc));
    await disk.close();
    const chain = await info(join(folder, 'cur/vm.qcow2'));
    const { base } = await commitDisk({ overlay: join(folder, 'cur/vm.qcow2') });
    expect(realpathSync.native(base)).toBe(realpathSync.native(chain['full-backing-filename']!));
    expect(readFileSync(join(folder, 'base.raw'))[0]).toBe(0xbb);
    expect(readFileSync(join(folder, 'pool/base.raw'))[0]).toBe(0xcc);
  });

  it.each([
    ['a folder of the overlay', 'vms/a.qcow2', 'images/b.raw'],
    ['a folder of the base', 'a.qcow2', 'vms/../b.raw'],
    ['both', 'vms/a.qcow2', 'vms/b.raw'],
  ])('is recorded so that QEMU finds the same file: %s', async (_, overlay, base) => {
    for (const name of ['store/vms', 'images']) mkdirSync(join(folder, name), { recursive: true });
    symlinkSync('store/vms', join(folder, 'vms'));
    const here = process.cwd();
    process.chdir(folder);
    try {
      // Where the letters of the path lead stands another file.
      fill('b.raw', 0xbb);
      fill(`${realpathSync.native(base.slice(0, base.lastIndexOf('/')))}/b.raw`, 0xaa);
      await (await createDisk({ overlay, base, baseFormat: 'raw' })).close();
      for (const path of [overlay, realpathSync.native(overlay)]) {
        expect(await firstByte(path)).toBe(0xaa);
        expect(await compare(path, base, { formatB: 'raw' })).toMatchObject({ identical: true });
      }
      await rebaseDisk({ overlay, base: null });
      await rebaseDisk({ overlay, base, baseFormat: 'raw' });
      expect(await compare(realpathSync.native(overlay), base, { formatB: 'raw' })).toMatchObject({
        identical: true,
      });
    } finally {
      process.chdir(here);
    }
  });

  it('is followed where the path to the overlay itself has .. behind a link', async () => {
    mkdirSync(join(folder, 'pool/sub'), { recursive: true });
    symlinkSync('pool/sub', join(folder, 'cur'));
    fill(join(folder, 'pool/base.raw'), 0xaa);
    fill(join(folder, 'base.raw'), 0xbb);
    // Of the same date, so that only the place tells them apart.
    for (const path of ['pool/base.raw', 'base.raw']) utimesSync(join(folder, path), 1e9, 1e9);
    // Not by join, which would take the .. away.
    const overlay = `${folder}/cur/../vm.qcow2`;
    const base = `${folder}/pool/base.raw`;
    await (await createDisk({ overlay, base, recordBase: 'base.raw' })).close();
    expect(await compare(overlay, base, { formatB: 'raw' })).toMatchObject({ identical: true });
    expect(await firstByte(overlay)).toBe(0xaa);
    const disk = await openDisk({ overlay });
    await disk.write(0, new Uint8Array(65536).fill(0xcc));
    await disk.close();
    await commitDisk({ overlay });
    expect(readFileSync(base)[0]).toBe(0xcc);
    expect(readFileSync(join(folder, 'base.raw'))[0]).toBe(0xbb);
    await rebaseDisk({ overlay, base: `${folder}/cur/../base.raw`, baseFormat: 'raw' });
    expect(await compare(overlay, base, { formatB: 'raw' })).toMatchObject({ identical: true });
  });

  it('leads nowhere behind a folder that is not there, as for QEMU', async () => {
    writeFileSync(join(folder, 'base.raw'), new Uint8Array(BYTES).fill(7));
    const name = 'nothere/../base.raw';
    const made = ['create', '-q', '-u', '-f', 'qcow2', '-F', 'raw', '-b', name];
    await run('qemu-img', [...made, overlay, String(BYTES)]);
    const chain = await run('qemu-img', ['info', '--backing-chain', overlay], { exitCodes: [1] });
    expect(chain.stderr).toContain('No such file or directory');
    await expect(openDisk({ overlay })).rejects.toMatchObject({ code: 'ENOENT' });
    await expect(commitDisk({ overlay })).rejects.toMatchObject({ code: 'ENOENT' });
    mkdirSync(join(folder, 'nothere'));
    await (await openDisk({ overlay })).close();
  });

  it('of an image that is a symbolic link itself is relative to the link, as QEMU has it', async () => {
    mkdirSync(join(folder, 'deep'));
    fill(join(folder, 'deep/base.raw'), 0xaa);
    fill(join(folder, 'base.raw'), 0xbb);
    const image = join(folder, 'deep/vm.qcow2');
    await (
      await createDisk({
        overlay: image,
        base: join(folder, 'deep/base.raw'),
        recordBase: 'base.raw',
      })
    ).close();
    symlinkSync('deep/vm.qcow2', join(folder, 'link.qcow2'));
    const flat = join(folder, 'flat.raw');
    await run('qemu-img', ['convert', '-O', 'raw', join(folder, 'link.qcow2'), flat]);
    const seen = readFileSync(flat)[0];
    // As a copy that keeps times: the record does not tell the two apart.
    for (const path of ['deep/base.raw', 'base.raw']) utimesSync(join(folder, path), 1e9, 1e9);
    await rebaseDisk({
      overlay: image,
      base: join(folder, 'deep/base.raw'),
      unsafe: true,
      recordBase: 'base.raw',
    });
    expect(await firstByte(join(folder, 'link.qcow2'))).toBe(seen);
  });

  it('an image is made where symbolic links lead that lead nowhere yet, as qemu-img makes it', async () => {
    mkdirSync(join(folder, 'far/pool/sub'), { recursive: true });
    symlinkSync('far/pool/sub', join(folder, 'cur'));
    fill(join(folder, 'base.raw'), 0xaa);
    symlinkSync('cur/../made', join(folder, 'first'));
    const made = join(folder, 'far/pool/made');
    for (const [name, link] of [
      ['link.qcow2', 'first.qcow2'],
      ['absolute.qcow2', join(folder, 'first.qcow2')],
    ]) {
      symlinkSync(link, join(folder, name));
      rmSync(join(folder, 'first.qcow2'), { force: true });
      rmSync(`${made}.qcow2`, { force: true });
      symlinkSync('cur/../made.qcow2', join(folder, 'first.qcow2'));
      const place = join(folder, name);
      await run('qemu-img', ['create', '-q', '-f', 'qcow2', place, '1M']);
      expect(existsSync(`${made}.qcow2`)).toBe(true);
      rmSync(`${made}.qcow2`);
      await (await createDisk({ overlay: place, base: join(folder, 'base.raw') })).close();
      expect(existsSync(`${made}.qcow2`)).toBe(true);
      expect(readlinkSync(place)).toBe(link);
      expect(await firstByte(place)).toBe(0xaa);
      await expect(
        createDisk({ overlay: place, base: join(folder, 'base.raw') }),
      ).rejects.toMatchObject({ code: 'EEXIST' });
    }
    await (await openFile(join(folder, 'first'), { create: true })).close();
    expect(existsSync(made)).toBe(true);
    symlinkSync('round', join(folder, 'round'));
    await expect(createDisk({ overlay: join(folder, 'round'), size: 65536 })).rejects.toMatchObject(
      { message: expect.stringMatching(/too many symbolic links.*ELOOP/) },
    );
  });
});
