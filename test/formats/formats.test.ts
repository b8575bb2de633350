/**
 * Images of other programs' formats as bases, against QEMU: what qemu-img makes of one disk in each
 * format, whole, in extents, and after qemu-io has written to it.
 */
import { appendFile, copyFile, mkdtemp, open, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Extent, ImageFormat } from '../../hosts/node/index.ts';
import { createDisk, openDisk } from '../../hosts/node/index.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { compare, convertImage, map, qemuImg, qemuIo } from '../support/qemu.ts';

const MIB = 1 << 20;
/** Ends within a block of every format. */
const SIZE = 37 * MIB + 5 * 512;

interface Made {
  name: string;
  format: ImageFormat;
  with?: Record<string, string | number>;
  /** qemu-img writes none of it in place. */
  readOnly?: boolean;
  /** Of a file that the first bytes do not tell. */
  unprobed?: boolean;
}

const IMAGES: Made[] = [
  { name: 'sparse.vmdk', format: 'vmdk', with: { subformat: 'monolithicSparse' } },
  { name: 'zeroed.vmdk', format: 'vmdk', with: { zeroed_grain: 'on' } },
  { name: 'stream.vmdk', format: 'vmdk', with: { subformat: 'streamOptimized' }, readOnly: true },
  { name: 'dynamic.vhd', format: 'vpc', with: { force_size: 'on' } },
  { name: 'geometry.vhd', format: 'vpc' },
  {
    name: 'fixed.vhd',
    format: 'vpc',
    with: { subformat: 'fixed', force_size: 'on' },
    unprobed: true,
  },
  { name: 'dynamic.vhdx', format: 'vhdx', with: { block_size: MIB } },
  { name: 'large-blocks.vhdx', format: 'vhdx' },
  { name: 'fixed.vhdx', format: 'vhdx', with: { subformat: 'fixed' } },
  { name: 'dynamic.vdi', format: 'vdi' },
  { name: 'static.vdi', format: 'vdi', with: { static: 'on' } },
  { name: 'a.qed', format: 'qed' },
  { name: 'small-tables.qed', format: 'qed', with: { cluster_size: 8192, table_size: 2 } },
  { name: 'a.hdd', format: 'parallels' },
  { name: 'small-blocks.hdd', format: 'parallels', with: { cluster_size: 65536 } },
];

let folder: string;
const path = (name: string): string => join(folder, name);

/** Data that deflates and data that does not, holes, and a piece at the end. */
async function writeSource(): Promise<void> {
  const file = await open(path('source.raw'), 'w');
  const noise = crypto.getRandomValues(new Uint8Array(65536));
  await file.truncate(SIZE);
  await file.write(noise, 0, noise.length, 0);
  await file.write(new Uint8Array(3 * MIB).fill(5), 0, 3 * MIB, 2 * MIB + 512);
  for (let at = 9 * MIB; at < 13 * MIB; at += noise.length)
    await file.write(noise, 0, noise.length, at);
  await file.write(noise, 0, 4096, 30 * MIB - 2048);
  await file.write(noise, 0, 512, SIZE - 512);
  await file.close();
}

async function extents(of: AsyncIterable<Extent>): Promise<Extent[]> {
  const list: Extent[] = [];
  for await (const extent of of) list.push(extent);
  return list;
}

/** Streams a new overlay over `base`, and compares that with QEMU's reading of the base. */
async function streamed(base: string, { name, format, unprobed }: Made): Promise<void> {
  const overlay = path(`${name}.qcow2`);
  const disk = await createDisk({ overlay, base, baseFormat: unprobed ? format : undefined });
  try {
    // A guest's reads come before the job.
    const at = 9 * MIB - 700;
    const raw = await readFile(path('source.raw'));
    expect(Buffer.compare(await disk.read(at, 2000), raw.subarray(at, at + 2000))).toBe(0);
    await disk.stream();
  } finally {
    await disk.close();
  }
  expect(await compare(base, overlay, { formatA: format })).toMatchObject({ identical: true });
  await rm(overlay);
}

describeWithPeer(['qemu-img', 'qemu-io'], 'a base that qemu-img made', () => {
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'millrace-formats-'));
    await writeSource();
    for (const { name, format, with: options } of IMAGES)
      await convertImage(path('source.raw'), path(name), {
        from: 'raw',
        to: format,
        with: options,
      });
  });

  afterAll(() => rm(folder, { recursive: true, force: true }));

  it.each(IMAGES)('$name is streamed', async (made) => {
    await streamed(path(made.name), made);
  });

  it.each(IMAGES.filter(({ readOnly }) => !readOnly))(
    '$name is streamed after it was written to',
    async (made) => {
      const written = path(`written-${made.name}`);
      await copyFile(path(made.name), written);
      await qemuIo(
        written,
        ['write -P 1 1M 70k', 'write -P 2 20M 5M', 'write -z 2M 1M', 'write -P 3 36M 3k'],
        { format: made.format },
      );
      await streamed(written, made);
    },
  );

  // Of VHDX, QEMU tells one extent of data; in VDI's blocks, it looks for holes of the file.
  const told = IMAGES.filter(({ name, format }) => format !== 'vhdx' && name !== 'static.vdi');
  it.each(told)('$name has the extents that qemu-img tells', async ({ name, format, unprobed }) => {
    const disk = await openDisk({
      overlay: path(name),
      format: unprobed ? format : undefined,
      readOnly: true,
    });
    try {
      const told = (await map(path(name), { format })).map(({ start, length, zero }) => ({
        offset: start,
        length,
        data: !zero,
      }));
      const ours = (await extents(disk.map())).map(({ offset, length, state }) => ({
        offset,
        length,
        data: state === 'data' || state === 'compressed',
      }));
      expect(merged(ours)).toEqual(merged(told));
    } finally {
      await disk.close();
    }
  });

  it.each(IMAGES)('$name that has changed is noticed', async (made) => {
    const [base, overlay] = [path(`changing-${made.name}`), path('changing.qcow2')];
    await copyFile(path(made.name), base);
    const baseFormat = made.unprobed ? made.format : undefined;
    await (await createDisk({ overlay, base, baseFormat })).close();
    await (await openDisk({ overlay })).close();
    await appendFile(base, new Uint8Array(512));
    await expect(openDisk({ overlay })).rejects.toMatchObject({ code: 'ECHANGED' });
    await rm(overlay);
    await rm(base);
  });

  it('a disk that is only looked at is read as a whole, whatever the size of its blocks', async () => {
    const raw = await readFile(path('source.raw'));
    for (const name of ['large-blocks.vhdx', 'dynamic.vdi', 'a.hdd', 'stream.vmdk']) {
      const disk = await openDisk({ overlay: path(name), readOnly: true });
      try {
        expect(Buffer.compare(await disk.read(0, 20 * MIB), raw.subarray(0, 20 * MIB))).toBe(0);
      } finally {
        await disk.close();
      }
    }
  });

  it.each(['vmdk', 'vpc', 'vhdx', 'vdi', 'qed', 'parallels'] as const)(
    '2 TiB of %s, sparse',
    async (format) => {
      const base = path(`large.${format}`);
      const size = format === 'vpc' ? 2040 * 2 ** 30 : 2 * 2 ** 40 - 512;
      await qemuImg(['create', '-q', '-f', format, ...force(format), base, String(size)]);
      const last = 2039 * 2 ** 30 - 4096;
      await qemuIo(base, ['write -P 9 1T 4k', `write -P 8 ${last} 4k`], { format });
      const disk = await createDisk({ overlay: path('large.qcow2'), base });
      try {
        expect(disk.size).toBe(size);
        expect(await disk.read(2 ** 40, 4096)).toEqual(new Uint8Array(4096).fill(9));
        expect(await disk.read(last, 4096)).toEqual(new Uint8Array(4096).fill(8));
        expect(await disk.read(last - 512, 512)).toEqual(new Uint8Array(512));
        expect(await disk.read(size - 512, 512)).toEqual(new Uint8Array(512));
      } finally {
        await disk.close();
        await rm(path('large.qcow2'));
        await rm(base);
      }
    },
  );
});

const force = (format: string): string[] => (format === 'vpc' ? ['-o', 'force_size=on'] : []);

interface Piece {
  offset: number;
  length: number;
  data: boolean;
}

function merged(pieces: Piece[]): Piece[] {
  const list: Piece[] = [];
  for (const piece of pieces) {
    const last = list.at(-1);
    if (last?.data === piece.data) last.length += piece.length;
    else list.push({ ...piece });
  }
  return list;
}
