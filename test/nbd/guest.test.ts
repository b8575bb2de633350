/**
 * The whole of it: a machine boots from a disk whose base is far away, while the disk streams; the
 * server is killed and started again; the machine is handed over to the file; and nothing is lost.
 */
import { once } from 'node:events';
import { mkdir, open, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import type { Started } from '../cli/program.ts';
import { startMillrace, withFolder } from '../cli/program.ts';
import type { Guest } from '../guest/guest.ts';
import { guestPeers, makeGuest } from '../guest/guest.ts';
import { BOOT_MS_MAX, QemuMachine } from '../guest/qemu-machine.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { startNginx } from '../support/nginx.ts';
import { peerPath } from '../support/peer.ts';
import { check, info } from '../support/qemu.ts';
import { run } from '../support/run.ts';
import { startSlowLinkProcess } from '../support/slow-link.ts';

/** The stream takes seven seconds at the least. */
const KILL_MS = 3000;
const TEST_MS_MAX = 400_000;

/** What the guest's boot and the test write, as diff(1) tells it. */
const WRITTEN =
  /^Only in end: (first|second|third)$|[/ ](etc\/mtab|var\/log|run|tmp|dev|root\/\.bash_history)\b/;

/** The script that the documentation shows. */
async function handOverScript(): Promise<string> {
  const page = await readFile(new URL('../../hosts/faces/nbd/README.md', import.meta.url), 'utf8');
  return /```python\n(.*?)```/s.exec(page)![1];
}

/** What lies in front of the file system, and every file that the guest did not write itself. */
async function mustEqualBase(folder: string, guest: Guest): Promise<void> {
  const start = async (path: string): Promise<Buffer> => {
    const file = await open(path);
    const { buffer } = await file.read(Buffer.alloc(guest.fileSystemOffset), 0, undefined, 0);
    return file.close().then(() => buffer);
  };
  const image = join(folder, 'out.raw');
  expect((await start(image)).equals(await start(guest.path))).toBe(true);
  for (const [name, path] of [
    ['base', guest.path],
    ['end', image],
  ]) {
    await mkdir(join(folder, name));
    const disk = `${path}?offset=${guest.fileSystemOffset}`;
    await run(peerPath('debugfs'), ['-R', `rdump / ${join(folder, name)}`, disk]);
  }
  const { stdout } = await run('diff', ['-rq', '--no-dereference', 'base', 'end'], {
    cwd: folder,
    exitCodes: [0, 1],
  });
  const differs = stdout.trim().split('\n');
  expect(differs.filter((line) => !WRITTEN.test(line))).toEqual([]);
  expect(differs.filter((line) => /^Only in end: (first|second|third)$/.test(line))).toHaveLength(
    3,
  );
}

describeWithPeer(
  [...guestPeers, 'qemu-system-x86_64', 'nginx', 'nbdsh', 'qemu-img', 'debugfs'],
  'a machine on a disk that streams',
  () => {
    it(
      'boots, survives the server’s end, and moves to the file',
      () =>
        withFolder(async (folder) => {
          const guest = await makeGuest();
          const nginx = await startNginx({ root: guest.dir });
          const link = await startSlowLinkProcess({
            target: { host: '127.0.0.1', port: nginx.port },
            roundTripMs: 50,
            bitsPerSecond: 200e6,
          });
          const image = join(folder, 'vm.qcow2');
          const base = link.url(`/${guest.file}`);
          const args = ['serve', '--nbd', 'unix:sock', '--create', '--base', base];
          const start = (): Started =>
            startMillrace([...args, '--stream', 'vda=vm.qcow2'], { cwd: folder });
          let server = start();
          await server.until('stderr', /serving until/);
          const machine = new QemuMachine(folder, 'sock');
          try {
            // In mid-stream, while the machine boots: it waits, and sees no error.
            await new Promise((resolve) => setTimeout(resolve, KILL_MS));
            server.child.kill('SIGKILL');
            await server.ended;
            expect((await info(image))['backing-filename']).toBe(base);
            server = start();
            await machine.until(guest.prompt, BOOT_MS_MAX);
            expect(await machine.type('echo kept-over-the-kill > /first; sync')).toContain(
              'DONE 0',
            );

            server.child.kill('SIGKILL');
            await server.ended;
            server = start();
            expect(await machine.type('cat /first; echo second > /second; sync')).toMatch(
              /kept-over-the-kill\s[\s\S]*DONE 0/,
            );
            await server.until('stderr', /all is streamed/);

            await writeFile(join(folder, 'hand-over.py'), await handOverScript());
            const where = ['qmp.sock', 'vda', image, String(server.child.pid)];
            await run(peerPath('nbdsh'), ['hand-over.py', ...where], { cwd: folder });
            expect((await server.ended).exitCode).toBe(143);
            expect(
              await machine.type('echo third > /third; sync; dmesg | grep -c "I/O error"'),
            ).toMatch(/\n0\s/);
            // The guest has no ACPI to power off by: its restart is QEMU's end.
            await machine.type('mount -o remount,ro /');
            machine.child.stdin!.write('echo b > /proc/sysrq-trigger\n');
            await once(machine.child, 'exit');

            expect((await check(image)).exitCode).toBe(0);
            await run('qemu-img', ['convert', '-O', 'raw', image, 'out.raw'], { cwd: folder });
            await mustEqualBase(folder, guest);
            const disk = `${join(folder, 'out.raw')}?offset=${guest.fileSystemOffset}`;
            for (const [name, text] of [
              ['/first', 'kept-over-the-kill'],
              ['/second', 'second'],
              ['/third', 'third'],
            ]) {
              const { stdout } = await run(peerPath('debugfs'), ['-R', `cat ${name}`, disk]);
              expect(stdout.trim()).toBe(text);
            }
          } finally {
            machine.child.kill('SIGKILL');
            server.child.kill('SIGKILL');
            await link.stop();
            await nginx.stop();
          }
        }),
      TEST_MS_MAX,
    );
  },
);
