/**
 * VMDKs whose data is in several files, as bases, against QEMU: what qemu-img makes of each kind,
 * and what hostile texts lead to, or rather do not.
 */
import { copyFile, mkdir, mkdtemp, open, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { createDisk, MillraceError, openDisk } from '../../hosts/node/index.ts';
import { millraceHere } from '../cli/program.ts';
import { Random } from '../fixtures/content.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { MemoryRuntime } from '../support/memory-runtime.ts';
import type { NginxServer } from '../support/nginx.ts';
import { startNginx } from '../support/nginx.ts';
import { compare, convertImage, map, qemuImg, qemuIo } from '../support/qemu.ts';
import { run } from '../support/run.ts';

const MIB = 1 << 20;
const GIB = 1 << 30;
/** Three files of 2 GiB at most, the last of which ends within a block. */
const SIZE = 4 * GIB + 5 * 512;
const KINDS = ['twoGbMaxExtentSparse', 'twoGbMaxExtentFlat', 'monolithicFlat'] as const;
const SPACED = 'a disk#1.vmdk';

let folder: string;
const path = (...names: string[]): string => join(folder, ...names);
const made = (kind: string): string => path(kind, SPACED);

async function writeSource(): Promise<void> {
  const file = await open(path('source.raw'), 'w');
  const noise = crypto.getRandomValues(new Uint8Array(65536));
  await file.truncate(SIZE);
  for (const at of [0, 9 * MIB + 512, 2 * GIB - 32768, 3 * GIB, 4 * GIB - 1024])
    await file.write(noise, 0, Math.min(noise.length, SIZE - at), at);
  await file.close();
}

describeWithPeer(['qemu-img', 'qemu-io'], 'a VMDK in several files', () => {
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'millrace-several-'));
    await writeSource();
    for (const kind of KINDS) {
      await mkdir(path(kind));
      const how = { from: 'raw', to: 'vmdk', with: { subformat: kind } } as const;
      await convertImage(path('source.raw'), made(kind), how);
    }
  });

  afterAll(() => rm(folder, { recursive: true, force: true }));

  it.each(KINDS)('%s is followed only when that is asked for', async (kind) => {
    const overlay = path('refused.qcow2');
    await expect(createDisk({ overlay, base: made(kind) })).rejects.toMatchObject({
      code: 'EUNSUPPORTED',
      message: expect.stringMatching(/its data in other files \('a disk#1-.*--follow-chain/),
    });
    const disk = await createDisk({ overlay, base: made(kind), followChain: true });
    expect(disk.size).toBe(SIZE);
    await disk.close();
    await expect(openDisk({ overlay })).rejects.toMatchObject({ code: 'EUNSUPPORTED' });
    await rm(overlay);
  });

  it.each(KINDS)('%s is streamed, after it was written to as well', async (kind) => {
    for (const commands of [[], ['write -P 1 1M 70k', `write -P 2 ${2 * GIB - MIB} 2M`]]) {
      if (commands.length > 0) await qemuIo(made(kind), commands, { format: 'vmdk' });
      const overlay = path(`${kind}.qcow2`);
      const disk = await createDisk({ overlay, base: made(kind), followChain: true });
      await disk.stream();
      await disk.close();
      const same = await compare(made(kind), overlay, { formatA: 'vmdk' });
      expect(same).toMatchObject({ identical: true });
      await rm(overlay);
    }
  });

  it.each(KINDS)('%s is mapped and told as qemu-img does it', async (kind) => {
    const ours = await millraceHere('map', '--follow-chain', made(kind));
    const { stdout } = await run('qemu-img', ['map', made(kind)]);
    expect(ours.stdout).toBe(stdout);
    const json = await millraceHere('map', '--follow-chain', '--output=json', made(kind));
    const rows = JSON.parse(json.stdout) as { start: number; length: number; zero: boolean }[];
    const told = await map(made(kind), { format: 'vmdk' });
    expect(rows.map(({ start, length, zero }) => ({ start, length, zero }))).toEqual(
      told.map(({ start, length, zero }) => ({ start, length, zero })),
    );
    const info = await millraceHere('info', '--follow-chain', '--json', made(kind));
    const theirs = JSON.parse(await qemuImg(['info', '--output=json', made(kind)]));
    expect(JSON.parse(info.stdout)).toMatchObject({
      format: 'vmdk',
      'virtual-size': theirs['virtual-size'],
      'actual-size': theirs['actual-size'],
    });
  });

  it('is noticed when one of its files has changed', async () => {
    const overlay = path('changing.qcow2');
    await mkdir(path('changing'));
    const base = path('changing', 'a.vmdk');
    const small = path('small.raw');
    await qemuImg(['create', '-q', '-f', 'raw', small, '1M']);
    await convertImage(small, base, {
      from: 'raw',
      to: 'vmdk',
      with: { subformat: 'monolithicFlat' },
    });
    await (await createDisk({ overlay, base, followChain: true })).close();
    await (await openDisk({ overlay, followChain: true })).close();
    const flat = path('changing', 'a-flat.vmdk');
    await copyFile(small, flat);
    await expect(openDisk({ overlay, followChain: true })).rejects.toMatchObject({
      code: 'ECHANGED',
      message: expect.stringMatching(/one of the files with its data has changed.*rebase -u/),
    });
    await writeFile(flat, new Uint8Array(MIB - 512));
    await expect(openDisk({ overlay, followChain: true })).rejects.toMatchObject({
      code: 'ECORRUPT',
      message: expect.stringMatching(/'a-flat.vmdk' has 1048064 bytes, and should have 1048576/),
    });
    await rm(flat);
    await expect(openDisk({ overlay, followChain: true })).rejects.toMatchObject({
      code: 'ENOENT',
    });
  });
});

describeWithPeer(['qemu-img', 'nginx'], 'a VMDK in several files on a server', () => {
  let server: NginxServer;

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'millrace-several-'));
    await writeSource();
    await mkdir(path('images'));
    const how = { from: 'raw', to: 'vmdk', with: { subformat: KINDS[0] } } as const;
    await convertImage(path('source.raw'), path('images', SPACED), how);
    server = await startNginx({ root: folder });
  });

  afterAll(async () => {
    await server.stop();
    await rm(folder, { recursive: true, force: true });
  });

  it('is followed within its folder there', async () => {
    const base = `${server.url}/images/${encodeURIComponent(SPACED)}`;
    const overlay = path('vm.qcow2');
    await expect(createDisk({ overlay, base })).rejects.toMatchObject({ code: 'EUNSUPPORTED' });
    const disk = await createDisk({ overlay, base, followChain: true });
    const source = await open(path('source.raw'));
    const expected = Buffer.alloc(8192);
    await source.read(expected, 0, 8192, 2 * GIB - 4096);
    await source.close();
    expect(expected.compare(await disk.read(2 * GIB - 4096, 8192))).toBe(0);
    await disk.stream();
    await disk.close();
    expect(await compare(path('source.raw'), overlay)).toMatchObject({ identical: true });
    const told = await millraceHere('info', '--follow-chain', '--json', base);
    expect(JSON.parse(told.stdout)).toMatchObject({ 'virtual-size': SIZE, format: 'vmdk' });
  });
});

const HEAD = '# Disk DescriptorFile\nversion=1\nparentCID=ffffffff\ncreateType="monolithicFlat"\n';

/** Opens a text as a base, beside files of 1 MiB (`flat`) and of one sector (`short`). */
async function opened(
  lines: string,
  files: Record<string, Uint8Array> = {},
  head = HEAD,
): Promise<Uint8Array> {
  const runtime = new (class extends MemoryRuntime {
    override resolve(name: string): string {
      return name.replace(/^\.\//, '');
    }
  })();
  runtime.add('base', new TextEncoder().encode(`${head}${lines}`));
  runtime.add('flat', new Uint8Array(MIB).fill(7));
  runtime.add('short', new Uint8Array(512).fill(9));
  for (const [name, bytes] of Object.entries(files)) runtime.add(name, bytes);
  const disk = await runtime.create({ overlay: 'overlay', base: 'base', followChain: true });
  try {
    return await disk.read(0, disk.size);
  } finally {
    await disk.close();
  }
}

it('reads extents one behind the other, zeros among them, from where each begins', async () => {
  const disk = await opened(
    'RW 1 FLAT "short" 0\nRW 2 ZERO\nRDONLY 2 VMFS "flat"\nRW 1 FLAT "other" 1\n',
    { other: new Uint8Array([...new Uint8Array(512), ...new Uint8Array(512).fill(3)]) },
  );
  const bytes = [9, 0, 0, 7, 7, 3];
  expect(disk.length).toBe(bytes.length * 512);
  expect(disk.every((byte, at) => byte === bytes[Math.floor(at / 512)])).toBe(true);
});

it.each([
  ['ends of lines of Windows', HEAD.replaceAll('\n', '\r\n')],
  ['empty lines before it', `\n \n\r\n${HEAD}`],
  ['comments before it', `# made by hand\n#\r\n${HEAD}`],
  ['only a version, as QEMU takes it', HEAD.replace(/^.*\n/, '')],
  ['a byte order mark', `\ufeff${HEAD}`],
  ['its first line in small letters', HEAD.toLowerCase().replace('parentcid', 'parentCID')],
  ['comments and a version', HEAD.replace(/^.*\n/, '# a disk\n \n')],
])('takes a text with %s', async (_, head) => {
  const disk = await opened('RW 1 FLAT "short" 0\n', {}, head);
  expect(disk.every((byte) => byte === 9) && disk.length).toBe(512);
});

const HOSTILE: [string, string, string, RegExp][] = [
  ['no extents', '', 'ECORRUPT', /names no files/],
  ['another folder', 'RW 1 FLAT "../flat" 0', 'EUNSUPPORTED', /not a file of its own folder/],
  ['a path', 'RW 1 FLAT "/etc/passwd" 0', 'EUNSUPPORTED', /not a file of its own folder/],
  ['a path of Windows', 'RW 1 FLAT "C:\\disk" 0', 'EUNSUPPORTED', /not a file of its own folder/],
  ['the folder above', 'RW 1 FLAT ".." 0', 'EUNSUPPORTED', /not a file of its own folder/],
  ['no name', 'RW 1 FLAT "" 0', 'ECORRUPT', /without a file/],
  ['no name at all', 'RW 1 FLAT', 'ECORRUPT', /without a file/],
  ['one file twice', 'RW 1 FLAT "flat" 0\nRW 1 FLAT "flat" 1', 'ECORRUPT', /'flat' twice/],
  ['a file that is missing', 'RW 1 FLAT "gone" 0', 'ENOENT', /gone/],
  ['a file that is too short', 'RW 2 FLAT "short" 0', 'ECORRUPT', /has 512 bytes/],
  ['a place behind its end', 'RW 1 FLAT "short" 1', 'ECORRUPT', /has 512 bytes/],
  ['an extent of nothing', 'RW 0 FLAT "flat" 0', 'ECORRUPT', /cannot be/],
  ['a number that is too large', 'RW 9999999999999999 FLAT "flat" 0', 'ECORRUPT', /cannot be/],
  ['a negative number', 'RW -1 FLAT "flat" 0', 'ECORRUPT', /cannot be/],
  [
    'a sum that is too large',
    'RW 17592186044415 ZERO\nRW 17592186044415 ZERO',
    'ECORRUPT',
    /2\^53/,
  ],
  ['a part that may not be read', 'NOACCESS 1 ZERO', 'EUNSUPPORTED', /NOACCESS/],
  ['a device', 'RW 1 VMFSRDM "disk"', 'EUNSUPPORTED', /type VMFSRDM/],
  ['sparse data of ESX', 'RW 1 VMFSSPARSE "disk"', 'EUNSUPPORTED', /type VMFSSPARSE/],
  ['a child', 'parentCID=12345678\nRW 1 FLAT "flat" 0', 'EUNSUPPORTED', /child disk/],
  ['raw data called sparse', 'RW 1 SPARSE "short"', 'ECORRUPT', /not one of this format/],
  ['itself as a part', 'RW 1 SPARSE "base"', 'EUNSUPPORTED', /were not given/],
  ['too many files', 'RW 1 ZERO\n'.repeat(257), 'EUNSUPPORTED', /257 files; more than 256/],
  ['a text that is too long', `#${'x'.repeat(70_000)}`, 'EUNSUPPORTED', /longer than 64 KiB/],
  ['another encoding', 'encoding="no-such"\nRW 1 FLAT "é" 0', 'EUNSUPPORTED', /encoding/],
];

it.each(HOSTILE)('refuses a text with %s', async (_, lines, code, message) => {
  await expect(opened(lines).then(() => undefined)).rejects.toMatchObject({
    code,
    message: expect.stringMatching(message),
  });
});

it('opens a damaged text, or tells in one line what is wrong', async () => {
  const random = new Random(17);
  let refused = 0;
  for (let count = 0; count < 300; count++) {
    const lines = 'RW 1 FLAT "short" 0\nRW 2 ZERO\nRW 2 FLAT "flat" 1\n'.split('');
    for (let changes = random.between(1, 4); changes > 0; changes--) {
      const at = random.between(0, lines.length - 1);
      lines.splice(at, random.between(0, 2), String.fromCharCode(random.between(0, 255)));
    }
    const error = await opened(lines.join('')).then(
      () => undefined,
      (failure) => failure,
    );
    if (error === undefined) continue;
    refused++;
    expect(error, lines.join('')).toBeInstanceOf(MillraceError);
    expect(error.message).not.toMatch(/\n/);
  }
  expect(refused).toBeGreaterThan(50);
});

describeWithPeer(['qemu-img'], 'a sparse part', () => {
  it('that has another size than the text says, or deflated grains, is refused', async () => {
    const place = await mkdtemp(join(tmpdir(), 'millrace-parts-'));
    const part = join(place, 'part');
    await qemuImg(['create', '-q', '-f', 'vmdk', part, '1M']);
    const sparse = await readFile(part);
    const stream = join(place, 'stream');
    await qemuImg([
      'convert',
      '-f',
      'vmdk',
      '-O',
      'vmdk',
      '-o',
      'subformat=streamOptimized',
      part,
      stream,
    ]);
    const files = { sparse, stream: await readFile(stream) };
    await rm(place, { recursive: true });
    expect((await opened('RW 2048 SPARSE "sparse"', files)).length).toBe(MIB);
    await expect(opened('RW 2047 SPARSE "sparse"', files)).rejects.toMatchObject({
      code: 'ECORRUPT',
    });
    await expect(opened('RW 2048 SPARSE "stream"', files)).rejects.toMatchObject({
      code: 'EUNSUPPORTED',
    });
  });
});
