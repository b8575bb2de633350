/** A machine boots, over a slow link, from published images: compressed, packed, foreign. */
import { copyFile, mkdtemp, rename, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { startMillrace, withFolder } from '../cli/program.ts';
import { ova } from '../fixtures/containers.ts';
import type { Guest } from '../guest/guest.ts';
import { guestPeers, makeGuest } from '../guest/guest.ts';
import { BOOT_MS_MAX, QemuMachine } from '../guest/qemu-machine.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import type { NginxServer } from '../support/nginx.ts';
import { startNginx } from '../support/nginx.ts';
import { peerPath } from '../support/peer.ts';
import { convertImage } from '../support/qemu.ts';
import { run } from '../support/run.ts';
import type { SlowLinkProcess } from '../support/slow-link.ts';
import { startSlowLinkProcess } from '../support/slow-link.ts';

const IMAGES = ['guest.raw.xz', 'machine.ova', 'guest.vhdx', 'guest.raw.gz'];

describeWithPeer(
  [...guestPeers, 'qemu-system-x86_64', 'nginx', 'qemu-img', 'xz', 'gzip', 'tar'],
  'a machine on a published image',
  () => {
    let folder: string;
    let guest: Guest;
    let server: NginxServer;
    let link: SlowLinkProcess;

    beforeAll(async () => {
      guest = await makeGuest();
      folder = await mkdtemp(join(tmpdir(), 'millrace-published-'));
      const raw = join(folder, 'guest.raw');
      await copyFile(guest.path, raw);
      await run(peerPath('xz'), ['-k', '-0', '-T2', '--block-size=1MiB', raw]);
      await run(peerPath('gzip'), ['-k', '-1', raw]);
      await convertImage(raw, join(folder, 'guest.vhdx'), { from: 'raw', to: 'vhdx' });
      const vmdk = join(folder, 'guest.vmdk');
      await convertImage(raw, vmdk, {
        from: 'raw',
        to: 'vmdk',
        with: { subformat: 'streamOptimized' },
      });
      await ova(vmdk, join(folder, 'machine.ova'));
      await Promise.all([rm(vmdk), rename(raw, join(folder, 'kept'))]);
      server = await startNginx({ root: folder });
      link = await startSlowLinkProcess({
        target: { host: '127.0.0.1', port: server.port },
        roundTripMs: 50,
        bitsPerSecond: 200e6,
      });
    }, 2 * BOOT_MS_MAX);

    afterAll(async () => {
      await link.stop();
      await server.stop();
      await rm(folder, { recursive: true });
    });

    it.each(IMAGES)(
      'boots from %s to its prompt, and has its files',
      (image) =>
        withFolder(async (place) => {
          const args = ['serve', '--nbd', 'unix:sock', '--create', '--base', link.url(`/${image}`)];
          const served = startMillrace([...args, 'vda=vm.qcow2'], { cwd: place });
          await served.until('stderr', /serving until/);
          const machine = new QemuMachine(place, 'sock');
          try {
            await machine.until(guest.prompt, BOOT_MS_MAX);
            const said = await machine.type(
              'sha256sum /bin/bash | cut -c1-8; dmesg | grep -c "I/O error"',
            );
            expect(said).toMatch(/[0-9a-f]{8}\s+0\s/);
          } finally {
            machine.child.kill('SIGKILL');
            served.child.kill('SIGKILL');
            await served.ended;
          }
        }),
      2 * BOOT_MS_MAX,
    );
  },
);
