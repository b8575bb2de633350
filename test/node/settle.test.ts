/**
 * A disk that is settled: its overlay's file is as a closed one's while the disk goes on, so that
 * the file can be copied.
 */
import { copyFile, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from 'vitest';
import type { EngineDisk } from '../../hosts/disk/disk.ts';
import { createDisk } from '../../hosts/node/index.ts';
import { makeContent } from '../fixtures/content.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { check, compare, info } from '../support/qemu.ts';

const MIB = 1024 * 1024;

let folder: string;
const path = (name: string): string => join(folder, name);

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'millrace-settle-'));
});

afterEach(() => rm(folder, { recursive: true }));

/** The file as it is now, by qemu-img: its exit code, and whether it is marked as in use. */
async function copyAndCheck(copy: string): Promise<{ exitCode: number; dirty: boolean }> {
  await copyFile(path('overlay.qcow2'), path(copy));
  return {
    exitCode: (await check(path(copy))).exitCode,
    dirty: (await info(path(copy)))['dirty-flag'],
  };
}

describeWithPeer(['qemu-img'], 'a settled disk', () => {
  it('has a sound and clean file in the middle of a job, and goes on to a sound end', async () => {
    const base = makeContent('random', 5, 16 * MIB);
    await writeFile(path('base.raw'), base);
    const disk = (await createDisk({
      overlay: path('overlay.qcow2'),
      base: path('base.raw'),
      baseFormat: 'raw',
    })) as EngineDisk;
    await disk.write(MIB, new Uint8Array(4096).fill(1));
    await disk.stream({ nonblock: true, speed: 4 * MIB });
    await disk.discard(2 * MIB, 65536);
    await disk.settle();
    // With copies of the job allowed to go on at once, the file may be marked again by now; a host
    // holds its writes back.
    await disk.pause();
    await disk.settle();
    expect(await copyAndCheck('first.qcow2')).toEqual({ exitCode: 0, dirty: false });
    await disk.write(9 * MIB, new Uint8Array(512).fill(2));
    await disk.flush();
    expect((await copyAndCheck('second.qcow2')).dirty).toBe(true);
    await disk.resume();
    await disk.setSpeed(0);
    await new Promise((resolve) => disk.addEventListener('completed', resolve));
    await disk.close();
    expect(await copyAndCheck('third.qcow2')).toEqual({ exitCode: 0, dirty: false });
    base.fill(1, MIB, MIB + 4096);
    base.fill(0, 2 * MIB, 2 * MIB + 65536);
    base.fill(2, 9 * MIB, 9 * MIB + 512);
    await writeFile(path('base.raw'), base);
    expect(await compare(path('third.qcow2'), path('base.raw'), { formatB: 'raw' })).toMatchObject({
      identical: true,
    });
  });
});
