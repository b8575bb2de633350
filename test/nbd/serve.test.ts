/** `millrace serve --nbd`, as users run it. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import type { BlockSource } from '../../hosts/api/block.ts';
import { sharingBases } from '../../hosts/bases/shared.ts';
import type { Started } from '../cli/program.ts';
import { millrace, startMillrace, withFolder } from '../cli/program.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { MemoryRuntime } from '../support/memory-runtime.ts';
import { peerPath } from '../support/peer.ts';
import { check, createImage } from '../support/qemu.ts';
import { run } from '../support/run.ts';
import { makeCertificates } from './certificates.ts';
import { client, contentOf, MIB, nbdsh } from './scene.ts';

const SERVING = /serving until/;

async function withServed(
  args: readonly string[],
  use: (started: Started, folder: string, uri: string) => Promise<void>,
): Promise<void> {
  await withFolder(async (folder) => {
    await writeFile(join(folder, 'base.raw'), contentOf(8 * MIB));
    const started = startMillrace(['serve', '--nbd', 'unix:sock', ...args], { cwd: folder });
    try {
      await started.until('stderr', SERVING);
      await use(started, folder, `nbd+unix:///vda?socket=${join(folder, 'sock')}`);
    } finally {
      started.child.kill('SIGKILL');
      await started.ended;
    }
  });
}

describeWithPeer(['nbdinfo', 'nbdsh', 'qemu-img'], 'millrace serve --nbd', () => {
  it('makes the overlay, streams behind the client, says when it is done, and ends with it', () =>
    withServed(
      ['--stream', '--create', '--base', 'base.raw', '--once', 'vda=vm.qcow2'],
      async (started, folder, uri) => {
        await started.until('stderr', /vda: all is streamed: vm\.qcow2 stands alone/);
        expect(started.output.stdout).toContain('nbd-client -b 512 -unix sock -N vda');
        expect(started.output.stdout).toContain("<source protocol='nbd' name='vda'>");
        await nbdsh(uri, 'h.connect_uri(uri)\nh.pwrite(b"x" * 512, 0)\nh.shutdown()');
        expect((await started.ended).exitCode).toBe(0);
        const content = contentOf(8 * MIB).fill(0x78, 0, 512);
        await run('qemu-img', ['convert', '-O', 'raw', 'vm.qcow2', 'out.raw'], { cwd: folder });
        expect((await readFile(join(folder, 'out.raw'))).equals(content)).toBe(true);
        expect((await check(join(folder, 'vm.qcow2'))).exitCode).toBe(0);
      },
    ));

  it('loses nothing that was flushed when it is killed, and goes on when it is started again', () =>
    withFolder(async (folder) => {
      await writeFile(join(folder, 'base.raw'), contentOf(8 * MIB));
      const args = ['serve', '--nbd', 'unix:sock', '--stream', '--create', '--base', 'base.raw'];
      const uri = `nbd+unix:///?socket=${join(folder, 'sock')}`;
      const first = startMillrace([...args, 'vm.qcow2'], { cwd: folder });
      await first.until('stderr', SERVING);
      const program = `
import nbd
h = nbd.NBD()
h.connect_uri(${JSON.stringify(uri)})
n = 0
while True:
    h.pwrite((n % 251).to_bytes(1, "big") * 3000, n * 5000)
    h.flush()
    print(n, flush=True)
    n += 1
`;
      const writer = spawn(peerPath('nbdsh'), ['-c', program], {
        stdio: ['ignore', 'pipe', 'ignore'],
      });
      let flushed = '';
      await new Promise<void>((resolve) =>
        writer.stdout!.on('data', (text) => {
          flushed += text;
          if (flushed.split('\n').length > 40) resolve();
        }),
      );
      first.child.kill('SIGKILL');
      await once(writer, 'close');
      const count = flushed.split('\n').length - 1;

      const second = startMillrace([...args, 'vm.qcow2'], { cwd: folder });
      await second.until('stderr', /all is streamed/);
      const told = await nbdsh(
        uri,
        `
h.connect_uri(uri)
for n in range(${count}):
    assert h.pread(3000, n * 5000) == (n % 251).to_bytes(1, "big") * 3000, n
print("there", h.get_size())
`,
      );
      expect(told).toBe(`there ${8 * MIB}`);
      second.child.kill('SIGTERM');
      expect((await second.ended).exitCode).toBe(143);
      expect((await check(join(folder, 'vm.qcow2'))).exitCode).toBe(0);
      // The socket's file has gone with it.
      await expect(stat(join(folder, 'sock'))).rejects.toThrow('ENOENT');
    }));

  it('tells where the disks are as JSON, over HTTP as well', () =>
    withFolder(async (folder) => {
      await createImage(join(folder, 'a.qcow2'), { size: MIB });
      const args = ['serve', '--json', '--nbd', '0', '--listen', '0', 'a.qcow2'];
      const started = startMillrace(args, { cwd: folder });
      await started.until('stdout', /\n/);
      const { vda } = JSON.parse(started.output.stdout);
      expect(vda.nbd).toMatch(/^nbd:\/\/127\.0\.0\.1:\d+\/vda$/);
      expect((await client('nbdinfo', '--size', vda.nbd)).stdout.trim()).toBe(String(MIB));
      expect((await fetch(`${vda.http}/data`, { method: 'HEAD' })).status).toBe(200);
      started.child.kill('SIGTERM');
      expect((await started.ended).exitCode).toBe(143);
    }));

  it('refuses what would not be safe, in one line', () =>
    withFolder(async (folder) => {
      await createImage(join(folder, 'a.qcow2'), { size: MIB });
      await writeFile(join(folder, 'file'), 'mine');
      const tries: [string[], RegExp][] = [
        [['--nbd', '0.0.0.0:0'], /cannot listen at 0\.0\.0\.0 without TLS/],
        [['--nbd', 'unix:file'], /cannot listen at file: it is there, and is no socket/],
        [['--nbd', `unix:${'x'.repeat(200)}`], /too long for a Unix socket/],
        [['--nbd', 'sock'], /'sock' is no address for NBD/],
        [['--nbd', 'systemd'], /no socket of systemd/],
        [['--once'], /--once goes with --nbd only/],
        [['--nbd', '0', '--create'], /--create needs a base/],
        [['--nbd', '0', '--tls-cert', 'file'], /TLS needs a certificate and its key/],
        [['--nbd', '0', '--tls-cert', 'file', '--tls-key', 'file'], /cannot use the certificate/],
        [['--nbd', '0', '--io-timeout', '-1'], /number of seconds/],
      ];
      for (const [args, message] of tries) {
        const { exitCode, stderr } = await millrace(['serve', ...args, 'a.qcow2'], { cwd: folder });
        expect(stderr).toMatch(message);
        expect([exitCode, stderr.trim().split('\n').length]).toEqual([1, 1]);
      }
      expect(String(await readFile(join(folder, 'file')))).toBe('mine');
    }));

  it('takes over a socket only where nobody listens', () =>
    withFolder(async (folder) => {
      await createImage(join(folder, 'a.qcow2'), { size: MIB });
      const other = createServer().listen(join(folder, 'sock'));
      await once(other, 'listening');
      const args = ['serve', '--nbd', 'unix:sock', 'a.qcow2'];
      const { stderr } = await millrace(args, { cwd: folder });
      expect(stderr).toContain('cannot listen at sock: another program does');
      other.close();
    }));

  it('serves at the socket that systemd has opened', () =>
    withFolder(async (folder) => {
      await createImage(join(folder, 'a.qcow2'), { size: MIB });
      const activate = `
import os, socket, sys
s = socket.socket(socket.AF_UNIX); s.bind("given"); s.listen(8)
os.dup2(s.fileno(), 3); os.set_inheritable(3, True)
os.environ["LISTEN_FDS"] = "1"; os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(sys.argv[1], sys.argv[1:])
`;
      const started = startMillrace(['serve', '--nbd', 'systemd', '--once', 'a.qcow2'], {
        cwd: folder,
        under: [peerPath('nbdsh'), '-c', activate],
      });
      await started.until('stderr', SERVING);
      const uri = `nbd+unix:///?socket=${join(folder, 'given')}`;
      expect((await client('nbdinfo', '--size', uri)).stdout.trim()).toBe(String(MIB));
      expect((await started.ended).exitCode).toBe(0);
    }));
});

describeWithPeer(['nbdinfo', 'systemd-socket-activate', 'qemu-img'], 'a socket of systemd', () => {
  it('is served when its first client comes, by a program that systemd starts', () =>
    withFolder(async (folder) => {
      await createImage(join(folder, 'a.qcow2'), { size: MIB });
      const started = startMillrace(['serve', '--nbd', 'systemd', '--once', 'a.qcow2'], {
        cwd: folder,
        under: [peerPath('systemd-socket-activate'), '-l', join(folder, 'given')],
      });
      await started.until('stderr', /Listening on/);
      const uri = `nbd+unix:///?socket=${join(folder, 'given')}`;
      expect((await client('nbdinfo', '--size', uri)).stdout.trim()).toBe(String(MIB));
      expect((await started.ended).exitCode).toBe(0);
    }));
});

describeWithPeer(['nbdinfo', 'nbdsh', 'openssl', 'qemu-img'], 'NBD with TLS', () => {
  it('lets in clients with a certificate of the right authority only', () =>
    withFolder(async (folder) => {
      await createImage(join(folder, 'a.qcow2'), { size: MIB });
      for (const authority of ['ours', 'other']) await makeCertificates(join(folder, authority));
      const args = ['serve', '--json', '--nbd', '0', '--tls-ca', 'ours/ca-cert.pem', 'a.qcow2'];
      const tls = ['--tls-cert', 'ours/server-cert.pem', '--tls-key', 'ours/server-key.pem'];
      const started = startMillrace([...args, ...tls], { cwd: folder });
      await started.until('stdout', /\n/);
      const uri: string = JSON.parse(started.output.stdout).vda.nbd;
      expect(uri).toMatch(/^nbds:/);
      const port = new URL(uri.replace('nbds:', 'http:')).port;
      const secure = (authority: string): string =>
        `nbds://localhost:${port}/vda?tls-certificates=${join(folder, authority)}`;
      const script =
        'h.set_uri_allow_local_file(True)\nh.connect_uri(uri)\nh.pwrite(b"t" * 512, 0)\nprint(h.pread(512, 0) == b"t" * 512, h.get_tls_negotiated(), len(h.pread(1 << 20, 0)))';
      expect(await nbdsh(secure('ours'), script)).toBe(`True True ${MIB}`);
      await expect(nbdsh(secure('other'), script)).rejects.toThrow();
      // In the clear, nothing is told.
      await expect(nbdsh(`nbd://localhost:${port}/vda`, script)).rejects.toThrow('TLS');
      expect(await nbdsh(secure('ours'), script)).toContain('True');
      started.child.kill('SIGTERM');
      expect((await started.ended).exitCode).toBe(143);
    }));
});

it('disks over the same base share one source of it', async () => {
  const runtime = new MemoryRuntime();
  runtime.add('base.raw', contentOf(8 * MIB));
  let opened = 0;
  let open = 0;
  const counting = {
    engine: () => runtime.engine(),
    codec: runtime.codec,
    clock: runtime.clock,
    resolve: (name: string) => name,
    record: (base: string) => base,
    openOverlay: (name: string, mode: object) => runtime.openOverlay(name, mode),
    async openSource(location: string | URL): Promise<BlockSource> {
      const source = await runtime.openSource(location);
      opened++;
      open++;
      return Object.assign(source, { close: () => void open-- });
    },
  };
  const shared = sharingBases(counting);
  const sources = await Promise.all([
    shared.openSource('base.raw', 'base'),
    shared.openSource('base.raw', 'base'),
  ]);
  expect([opened, open]).toEqual([1, 1]);
  await sources[0].close();
  await sources[0].close();
  expect(open).toBe(1);
  const into = new Uint8Array(16);
  await sources[1].read(0, into);
  expect(into).toEqual(contentOf(16 * 1024).slice(0, 16));
  await sources[1].close();
  expect(open).toBe(0);
  await expect(shared.openSource('none', 'base')).rejects.toThrow('no file');
  await expect(shared.openSource('none', 'base')).rejects.toThrow('no file');
});
