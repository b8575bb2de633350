/** A local base that another program writes while an overlay stands on it. */
import { mkdtempSync, readFileSync, rmSync, statSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { commitDisk, createDisk, openDisk, rebaseDisk } from '../../hosts/node/index.ts';

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

/** `top` over `middle` over `lower`, which is another one since. */
async function changedBelow(): Promise<{ lower: string; middle: string; top: string }> {
  const [lower, middle, top] = ['lower.raw', 'middle.qcow2', 'top.qcow2'].map((name) =>
    join(folder, name),
  );
  writeFileSync(lower, new Uint8Array(BYTES).fill(1));
  await (await createDisk({ overlay: middle, base: lower })).close();
  const disk = await createDisk({ overlay: top, base: middle, followChain: true });
  await disk.write(4096, new Uint8Array(4096).fill(3));
  await disk.close();
  const { mtime } = statSync(lower);
  writeFileSync(lower, new Uint8Array(BYTES).fill(2));
  utimesSync(lower, mtime, new Date(mtime.getTime() + 1000));
  return { lower, middle, top };
}

it('is refused further down a chain, too, by the name of the image that records it', async () => {
  const { lower, middle, top } = await changedBelow();
  for (const chain of [{ followChain: true }, { base: [middle, lower] }])
    await expect(openDisk({ overlay: top, ...chain })).rejects.toMatchObject({
      code: 'ECHANGED',
      message: expect.stringContaining(`${lower} is not the base that ${middle} was made on`),
    });
  await rebaseDisk({ overlay: middle, base: lower, unsafe: true });
  await rebaseDisk({ overlay: top, base: middle, unsafe: true, followChain: true });
  const disk = await openDisk({ overlay: top, followChain: true });
  expect(await disk.read(BYTES / 2, 1)).toEqual(new Uint8Array([2]));
  await disk.close();
});

it('does not keep a commit from being run again that has written into it', async () => {
  const { lower, top } = await changedBelow();
  expect(await commitDisk({ overlay: top, base: lower, followChain: true })).toMatchObject({
    base: lower,
  });
  expect([...readFileSync(lower).subarray(4095, 8193)].filter((byte) => byte === 3)).toHaveLength(
    4096,
  );
});
