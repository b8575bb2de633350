/**
 * Disks that are far larger than what is in them: the first byte of a base of a terabyte comes
 * after a few requests, and one of 16 is streamed whole in little time, memory and space.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { text } from 'node:stream/consumers';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { createDisk, openDisk, openHttp } from '../../hosts/node/index.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import type { NginxServer } from '../support/nginx.ts';
import { startNginx } from '../support/nginx.ts';
import { compare, createImage, qemuIo } from '../support/qemu.ts';
import { bundle } from './bundle.ts';
import { expectSound } from './model.ts';
import type { StreamerOrder } from './streamer.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const TIB = 1024 ** 4;

describeWithPeer(['qemu-img', 'qemu-io', 'nginx'], 'large disks', () => {
  let dir: string;
  let nginx: NginxServer;
  beforeAll(async () => {
    dir = await mkdtemp(join(tmpdir(), 'millrace-scale-'));
    nginx = await startNginx({ root: dir });
  });
  afterAll(async () => {
    await nginx?.stop();
    await rm(dir, { recursive: true });
  });

  /**
   * A qcow2 of `size` bytes with a MiB of data at each of `pieces` places, spread over all of it.
   */
  async function spread(name: string, size: number, pieces: number): Promise<string> {
    const path = join(dir, name);
    await createImage(path, { size });
    const commands = Array.from(
      { length: pieces },
      (_, index) =>
        `write -q -P ${index + 1} ${Math.floor(((size - MIB) / (pieces - 1) / MIB) * index) * MIB} 1M`,
    );
    await qemuIo(path, commands);
    return path;
  }

  it('reads the first byte of a terabyte after at most four requests of 512 KiB together', async () => {
    await spread('terabyte.qcow2', TIB, 9);
    const url = `${nginx.url}/terabyte.qcow2`;
    const overlay = join(dir, 'first-byte.qcow2');
    await (await createDisk({ overlay, base: url })).close();
    for (const offset of [0, Math.floor(((TIB - MIB) / 8 / MIB) * 4) * MIB + 4096, TIB - MIB]) {
      const base = await openHttp(url);
      const disk = await openDisk({ overlay, base, copyOnRead: false });
      const [byte] = await disk.read(offset, 1);
      const { requests, bytes } = base.stats;
      expect(byte).toBeGreaterThan(0);
      expect(requests).toBeLessThanOrEqual(4);
      expect(bytes).toBeLessThanOrEqual(512 * KIB);
      await disk.close();
      // As with copy-on-read, which also keeps what it has read.
      const keptBase = await openHttp(url);
      const keeping = await openDisk({ overlay, base: keptBase });
      await keeping.read(offset, 1);
      expect(keptBase.stats.requests).toBeLessThanOrEqual(4);
      expect(keptBase.stats.bytes).toBeLessThanOrEqual(512 * KIB);
      await keeping.close();
    }
    await expectSound(overlay);
  });

  it('streams a sparse disk of 16 TiB whole, in 160 MiB of memory, into a small overlay', async () => {
    const base = await spread('sparse.qcow2', 16 * TIB, 40);
    const url = `${nginx.url}/sparse.qcow2`;
    const overlay = join(dir, 'sparse-overlay.qcow2');
    await (await createDisk({ overlay, base: url })).close();
    const order: StreamerOrder = { overlay, base: url, speed: 0 };
    const child = spawn(
      process.execPath,
      [await bundle('streamer.ts', dir), JSON.stringify(order)],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    );
    const [said, [code]] = await Promise.all([text(child.stdout), once(child, 'close')]);
    expect(code).toBe(0);
    expect(Number(/^peak (\d+)$/m.exec(said)?.[1])).toBeLessThanOrEqual(160 * MIB);
    await expectSound(overlay);
    // 40 MiB of data, an L2 table for each, and the L1 table.
    expect((await stat(overlay)).size).toBeLessThan(52 * MIB);
    expect(await compare(overlay, base, { formatA: 'qcow2', formatB: 'qcow2' })).toMatchObject({
      identical: true,
    });
  });
});
