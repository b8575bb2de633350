/** Names of images: what a base is recorded by, so that QEMU finds it as well, and which names are refused. */
import { mkdirSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { createDisk, openDisk, rebaseDisk } from '../../hosts/node/index.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { compare, info } from '../support/qemu.ts';

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
