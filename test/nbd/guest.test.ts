/**
 * The whole of it: a machine boots from a disk whose base is far away, while the disk streams; the
 * server is killed and started again; the machine is handed over to the file; and nothing is lost.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, open, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import type { Started } from '../cli/program.ts';
import { startMillrace, withFolder } from '../cli/program.ts';
import type { Guest } from '../guest/guest.ts';
import { guestPeers, makeGuest } from '../guest/guest.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { startNginx } from '../support/nginx.ts';
import { peerPath } from '../support/peer.ts';
import { check, info } from '../support/qemu.ts';
import { run } from '../support/run.ts';
import { startSlowLinkProcess } from '../support/slow-link.ts';

/** Software emulation on a busy machine; alone, the prompt is there after some 15 seconds. */
const BOOT_MS_MAX = 150_000;
/** The stream takes seven seconds at the least. */
const KILL_MS = 3000;
const TEST_MS_MAX = 400_000;

/** What the guest's boot and the test write, as diff(1) tells it. */
const WRITTEN =
  /^Only in end: (first|second|third)$|[/ ](etc\/mtab|var\/log|run|tmp|dev|root\/\.bash_history)\b/;

/** A machine in QEMU, by its serial console. */
class QemuMachine {
  readonly child: ReturnType<typeof spawn>;
  #console = '';
  #read = 0;

  constructor(folder: string, socket: string) {
    const nbd = `driver=nbd,node-name=vda-nbd,server.type=unix,server.path=${socket},export=vda`;
    this.child = spawn(
      peerPath('qemu-system-x86_64'),
      [
        ...['-m', '256', '-net', 'none', '-display', 'none', '-serial', 'stdio', '-no-reboot'],
        ...['-qmp', 'unix:qmp.sock,server=on,wait=off'],
        ...['-blockdev', `${nbd},reconnect-delay=120`],
        ...['-blockdev', 'driver=raw,node-name=vda,file=vda-nbd'],
        ...['-device', 'ide-hd,drive=vda'],
      ],
      { cwd: folder, stdio: ['pipe', 'pipe', 'inherit'] },
    );
    this.child.stdout!.setEncoding('latin1').on('data', (text) => {
      this.#console += text;
    });
  }

  /** Waits for what has not been read yet to match. */
  async until(pattern: RegExp, msMax: number): Promise<string> {
    const end = Date.now() + msMax;
    for (;;) {
      const text = this.#console.slice(this.#read);
      const match = pattern.exec(text);
      if (match) {
        this.#read += match.index + match[0].length;
        return text.slice(0, match.index + match[0].length);
      }
      if (Date.now() > end || this.child.exitCode !== null)
        throw new Error(`the machine did not say ${pattern}: …${this.#console.slice(-2000)}`);
      await new Promise((resolve) => setTimeout(resolve, 50));
    }
  }

  async type(line: string): Promise<string> {
    this.child.stdin!.write(`${line}; echo D''ONE $?\n`);
    return this.until(/DONE \d+/, BOOT_MS_MAX);
  }
}

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
            expect((await server.ended).exitCode).toBe(0);
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
