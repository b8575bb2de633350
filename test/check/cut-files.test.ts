/**
 * Files that end within their last cluster: what QEMU reads of them, we read, locally and as a base
 * on a server; and no image is called sound that cannot be read.
 */
import { copyFile, mkdtemp, readFile, rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { checkDisk, createDisk, openDisk } from '../../hosts/node/index.ts';
import { serveFile } from '../demo/file-server.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { convertImage, createImage, qemuIo } from '../support/qemu.ts';

const MIB = 1024 * 1024;
const CLUSTER = 65536;
/** Bytes that are missing of the last cluster. */
const CUTS = [1, 512, 40_000, CLUSTER - 1];
const WRITES = ['write -P 5 0 256k'];
const OFFSET = 0x00ff_ffff_ffff_fe00n;
const COPIED = 1n << 63n;

/** Moves a table, which the entry at `entryAt` leads to, to the end of the file. */
function withTableLast(image: Buffer, entryAt: number): Buffer {
  const entry = image.readBigUInt64BE(entryAt);
  const table = Number(entry & OFFSET);
  const end = Math.ceil(image.length / CLUSTER) * CLUSTER;
  const moved = Buffer.concat([
    image,
    Buffer.alloc(end - image.length),
    image.subarray(table, table + CLUSTER),
  ]);
  moved.writeBigUInt64BE(BigInt(end) | (entry & COPIED), entryAt);
  const block = Number(moved.readBigUInt64BE(Number(moved.readBigUInt64BE(48))));
  moved.writeUInt16BE(1, block + 2 * (end / CLUSTER));
  moved.writeUInt16BE(0, block + 2 * (table / CLUSTER));
  return moved;
}

async function readAll(path: string): Promise<Uint8Array> {
  const disk = await openDisk({ overlay: path, readOnly: true });
  return disk.read(0, disk.size).finally(() => disk.close());
}

async function readOverHttp(path: string, folder: string): Promise<Uint8Array> {
  const server = await serveFile(path);
  const overlay = join(folder, 'overlay.qcow2');
  const disk = await createDisk({ overlay, base: `http://127.0.0.1:${server.port}/base` });
  try {
    await disk.stream();
    return await disk.read(0, disk.size);
  } finally {
    await disk.close();
    await server.stop();
    await rm(overlay);
  }
}

describeWithPeer(['qemu-img', 'qemu-io'], 'a file that ends within its last cluster', () => {
  let folder: string;
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'millrace-cut-'));
    const make = async (name: string, options: Record<string, string>): Promise<void> => {
      await createImage(join(folder, name), { size: MIB, with: options });
      await qemuIo(join(folder, name), WRITES);
    };
    await make('data', {});
    await make('extended', { extended_l2: 'on' });
    await make('version2', { compat: '0.10' });
    await convertImage(join(folder, 'data'), join(folder, 'compressed'), { compress: true });
    const data = await readFile(join(folder, 'data'));
    const l1 = Number(data.readBigUInt64BE(40));
    await writeFile(join(folder, 'l2-table'), withTableLast(data, l1));
  });
  afterAll(() => rm(folder, { recursive: true }));

  for (const name of ['data', 'extended', 'version2', 'l2-table', 'compressed'])
    it(`whose last part is ${name}`, async () => {
      const [whole, cut, theirs] = [name, `${name}.cut`, `${name}.raw`].map((file) =>
        join(folder, file),
      );
      for (const missing of CUTS) {
        await copyFile(whole, cut);
        await truncate(cut, (await stat(whole)).size - missing);
        const isRead = await convertImage(cut, theirs, { from: 'qcow2', to: 'raw' }).then(
          () => true,
          () => false,
        );
        const report = await checkDisk({ overlay: cut });
        if (!isRead) {
          await expect(readAll(cut), `${missing}`).rejects.toMatchObject({ code: 'ECORRUPT' });
          expect(report!.corruptions, `${missing}`).toBeGreaterThan(0);
          continue;
        }
        const content = await readFile(theirs);
        expect(content.equals(await readAll(cut)), `${missing}`).toBe(true);
        expect(content.equals(await readOverHttp(cut, folder)), `${missing}`).toBe(true);
      }
    });

  it('a raw base of any length', async () => {
    for (const length of [1, 511, 513, CLUSTER + 1]) {
      const path = join(folder, 'odd.raw');
      await writeFile(path, Buffer.alloc(length, 7));
      const shown = Buffer.alloc(Math.ceil(length / 512) * 512);
      shown.fill(7, 0, length);
      expect(shown.equals(await readOverHttp(path, folder)), `${length}`).toBe(true);
    }
  });
});
