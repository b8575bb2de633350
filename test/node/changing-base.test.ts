/** A local base that another program writes while an overlay stands on it. */
import { mkdtempSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { createDisk } from '../../hosts/node/index.ts';

const BYTES = 8 * 1024 * 1024;
let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'millrace-changing-'));
});
afterEach(() => rmSync(folder, { recursive: true }));

it('is ECHANGED for reads and for the stream, which keeps the reference to it', async () => {
  const [overlay, base] = [join(folder, 'overlay.qcow2'), join(folder, 'base.raw')];
  writeFileSync(base, new Uint8Array(BYTES).fill(1));
  const disk = await createDisk({ overlay, base });
  expect(await disk.read(0, 1)).toEqual(new Uint8Array([1]));
  const { mtime } = statSync(base);
  writeFileSync(base, new Uint8Array(BYTES).fill(2));
  utimesSync(base, mtime, new Date(mtime.getTime() + 1000));
  await expect(disk.read(BYTES / 2, 1)).rejects.toMatchObject({
    code: 'ECHANGED',
    message: `'${base}' has changed since it was opened: another program has written to it`,
  });
  await expect(disk.stream()).rejects.toMatchObject({ code: 'ECHANGED' });
  expect(await disk.images()).toHaveLength(2);
  // What had been taken over before is there.
  expect(await disk.read(0, 1)).toEqual(new Uint8Array([1]));
  await disk.close();
});
