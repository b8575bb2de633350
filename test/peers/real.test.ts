/**
 * A real base, a Debian root file system in each of its forms, from a real server: streamed over
 * HTTP it shows what QEMU reads from it, and the wire carries its bytes once.
 */
import { mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { createDisk, openDisk } from '../../hosts/node/index.ts';
import type { RealBase } from '../fixtures/real-base.ts';
import { makeRealBase, realBasePeers } from '../fixtures/real-base.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import type { NginxServer } from '../support/nginx.ts';
import { startNginx } from '../support/nginx.ts';
import { compare, info } from '../support/qemu.ts';
import { expectSound } from './model.ts';

const MIB = 1 << 20;
/** A base's bytes may come so often: gaps between neighbours and metadata are fetched along. */
const WIRE_SHARE_MAX = 1.03;
/**
 * Requests beside one a MiB of the disk, which is what a copy takes: the first page and the tables
 * of each image.
 */
const REQUESTS_BESIDE_MAX = 12;
const CASE_MS_MAX = 240_000;

describeWithPeer([...realBasePeers, 'nginx'], 'a real base over HTTP', () => {
  let base: RealBase;
  let dir: string;
  let nginx: NginxServer;

  beforeAll(async () => {
    base = await makeRealBase();
    dir = await mkdtemp(join(tmpdir(), 'millrace-real-'));
    nginx = await startNginx({ root: base.dir });
  }, 300_000);
  afterAll(async () => {
    await nginx?.stop();
    if (dir !== undefined) await rm(dir, { recursive: true });
  });

  it.each(['raw', 'zlib', 'zstd', 'chain'] as const)(
    'streams the %s form whole',
    async (form) => {
      const { path, format, virtualSize, chain } = base[form];
      const url = `${nginx.url}/${basename(path)}`;
      const overlay = join(dir, `${form}.qcow2`);
      await (
        await createDisk({ overlay, base: url, baseFormat: format, followChain: true })
      ).close();
      await expectSound(overlay);
      const before = (await nginx.log()).length;
      const disk = await openDisk({ overlay, followChain: true });
      expect(disk.size).toBe(virtualSize);
      const [done, bootSector] = await Promise.all([disk.stream(), disk.read(0, 4096)]);
      expect(bootSector).toHaveLength(4096);
      expect(done).toMatchObject({ status: 0, remaining: 0 });
      await disk.close();
      await expectSound(overlay);
      expect((await info(overlay))['backing-filename']).toBeUndefined();
      expect(await compare(overlay, path, { formatA: 'qcow2', formatB: format })).toMatchObject({
        identical: true,
      });
      await rm(overlay);
      const requests = (await nginx.log()).slice(before);
      expect(requests.map(({ status }) => status).filter((status) => status !== 206)).toEqual([]);
      const files = await Promise.all([path, ...(chain ?? [])].map((file) => stat(file)));
      const allocated = files.reduce(
        (sum, file) => sum + Math.min(file.blocks * 512, file.size),
        0,
      );
      expect(requests.reduce((sum, { bytes }) => sum + bytes, 0)).toBeLessThanOrEqual(
        (form === 'raw' ? virtualSize : allocated) * WIRE_SHARE_MAX,
      );
      expect(requests.length).toBeLessThanOrEqual(virtualSize / MIB + REQUESTS_BESIDE_MAX);
    },
    CASE_MS_MAX,
  );
});
