/**
 * Images of other programs' formats that are damaged, made to do harm, or need what is not there:
 * refused by name, or read within their file; never a hang, and never what another byte says.
 */
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import type { Foreign, ForeignImages } from '../fuzz/format-case.ts';
import { makeForeignImages, readForeign, runFormatCase } from '../fuzz/format-case.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { MemoryRuntime } from '../support/memory-runtime.ts';
import { qemuImg } from '../support/qemu.ts';

/** Damaged copies; `npm run fuzz -- --formats` makes more. */
const DAMAGED = 280;
const SEED = 7;

let images: ForeignImages;
let child: Buffer;
let folder: string;

/** A copy of an image, changed. */
function changed(format: Foreign, change: (bytes: Buffer) => void): Buffer {
  const copy = Buffer.from(images.get(format)!);
  change(copy);
  return copy;
}

const refused = (code: string, message: RegExp): object => ({
  code,
  message: expect.stringMatching(message),
});

/** VHD's own, of a footer or header at `at`. */
function sumVhd(bytes: Buffer, at: number, length: number, checksumAt: number): void {
  bytes.writeUInt32BE(0, at + checksumAt);
  const sum = bytes.subarray(at, at + length).reduce((total, byte) => total + byte, 0);
  bytes.writeUInt32BE(~sum >>> 0, at + checksumAt);
}

/** CRC-32C, as VHDX has it at 4 of each header. */
function sumVhdx(bytes: Buffer, at: number, length: number): void {
  bytes.writeUInt32LE(0, at + 4);
  let crc = 0xffffffff;
  for (const byte of bytes.subarray(at, at + length)) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit++) crc = (crc >>> 1) ^ (crc & 1 ? 0x82f63b78 : 0);
  }
  bytes.writeUInt32LE(~crc >>> 0, at + 4);
}

describeWithPeer(['qemu-img', 'qemu-io'], 'a hostile image', () => {
  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'millrace-hostile-'));
    const path = (name: string): string => join(folder, name);
    images = await makeForeignImages(folder);
    await qemuImg(['create', '-q', '-f', 'vmdk', '-b', path('vmdk'), '-F', 'vmdk', path('child')]);
    child = await readFile(path('child'));
  });

  afterAll(() => rm(folder, { recursive: true, force: true }));

  it('that holds only the changes to another is refused by name', async () => {
    const message = /changes to another image/;
    const vdi = changed('vdi', (bytes) => bytes.fill(1, 0x1a8, 0x1b8));
    const qed = changed('qed', (bytes) => bytes.writeUInt8(1, 16));
    const vpc = changed('vpc', (bytes) => {
      bytes.writeUInt32BE(4, 60);
      sumVhd(bytes, 0, 512, 64);
    });
    for (const bytes of [child, vdi, qed, vpc])
      await expect(readForeign(bytes)).rejects.toMatchObject(refused('EUNSUPPORTED', message));
  });

  it('that is of a version, or needs a feature, that is not known is refused by name', async () => {
    const vdi = changed('vdi', (bytes) => bytes.writeUInt32LE(0x20000, 0x44));
    const qed = changed('qed', (bytes) => bytes.writeUInt8(8, 16));
    const vmdk = changed('vmdk', (bytes) => bytes.writeUInt32LE(9, 4));
    const parallels = changed('parallels', (bytes) => bytes.writeUInt32LE(3, 16));
    for (const bytes of [vdi, qed, vmdk, parallels])
      await expect(readForeign(bytes)).rejects.toMatchObject(
        refused('EUNSUPPORTED', /not supported/),
      );
  });

  it('whose log has to be replayed is refused by name, with what helps', async () => {
    const vhdx = changed('vhdx', (bytes) => {
      for (const at of [0x10000, 0x20000]) {
        bytes.fill(5, at + 48, at + 64);
        sumVhdx(bytes, at, 4096);
      }
    });
    await expect(readForeign(vhdx)).rejects.toMatchObject(
      refused('EUNSUPPORTED', /log has to be replayed.*qemu-img check -r all/),
    );
  });

  it('whose headers have a wrong checksum is refused; one sound copy of them is enough', async () => {
    const message = refused('ECORRUPT', /checksum/);
    await expect(
      readForeign(changed('vpc', (bytes) => bytes.writeUInt8(1, 200))),
    ).rejects.toMatchObject(message);
    const header = changed('vpc', (bytes) => bytes.writeUInt8(1, 512 + 900));
    await expect(readForeign(header)).rejects.toMatchObject(message);
    const both = changed('vhdx', (bytes) => {
      for (const at of [0x10000, 0x20000]) bytes.writeUInt8(1, at + 2000);
    });
    await expect(readForeign(both)).rejects.toMatchObject(message);
    const sound = Buffer.from(await readForeign(images.get('vhdx')!));
    for (const at of [0x10000, 0x20000, 0x30000, 0x40000])
      expect(
        sound.compare(
          await readForeign(changed('vhdx', (bytes) => bytes.writeUInt8(1, at + 3000))),
        ),
      ).toBe(0);
  });

  it('whose table points outside the file is refused where that is read', async () => {
    const table = images.get('vdi')!.readUInt32LE(0x154);
    const vdi = changed('vdi', (bytes) => bytes.writeUInt32LE(0xfffffff0, table + 4));
    const runtime = new MemoryRuntime();
    runtime.add('base', vdi);
    const disk = await runtime.create({ overlay: 'overlay', base: 'base' });
    expect(await disk.read(0, 512)).toEqual(new Uint8Array(512).fill(7));
    await expect(disk.read(1 << 20, 512)).rejects.toMatchObject(
      refused('ECORRUPT', /table of blocks points outside/),
    );
    await disk.close();
  });

  it('that was damaged anywhere is read or refused by name', async () => {
    let read = 0;
    for (let seed = SEED; seed < SEED + DAMAGED; seed++) {
      const { error, isWhole, format, mutations } = await runFormatCase(images, seed);
      expect(error, `seed ${seed}, ${format}: ${mutations.join(', ')}`).toBeUndefined();
      if (isWhole) read++;
    }
    // Most damage is in bytes that nothing looks at.
    expect(read).toBeGreaterThan(DAMAGED / 4);
    expect(read).toBeLessThan(DAMAGED);
  });
});
