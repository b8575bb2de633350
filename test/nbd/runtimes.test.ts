/** `millrace serve --nbd` under the other runtimes that have sockets: Bun and Deno. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { withFolder } from '../cli/program.ts';
import { DENO, denoArgs, millraceUnderDeno, ROOT } from '../deno/program.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { check } from '../support/qemu.ts';
import { makeCertificates } from './certificates.ts';
import { contentOf, MIB, nbdsh } from './scene.ts';

const RUNTIMES: [string, (folder: string) => string[]][] = [
  ['Bun', () => [join(ROOT, 'node_modules/.bin/bun'), join(ROOT, 'hosts/node/main.ts')]],
  ['Deno', (folder) => [DENO, ...denoArgs(folder, 'hosts/deno/main.ts', ...permissions(folder))]],
];
function permissions(folder: string): string[] {
  return [`--allow-net=127.0.0.1,unix:${join(folder, 'sock')}`, '--allow-sys=umask'];
}
const USE = `
h.set_uri_allow_local_file(True)
h.connect_uri(uri)
data = bytes(range(256)) * 5000
h.pwrite(data, 12345)
h.flush()
print(h.pread(len(data), 12345) == data, len(h.pread(4 << 20, 2 << 20)))
h.shutdown()
`;
const ANSWER = `True ${4 * MIB}`;

describeWithPeer(['nbdsh', 'qemu-img', 'openssl'], 'millrace serve --nbd', () => {
  it.each(RUNTIMES)('under %s: a Unix socket of its own, and the port with TLS', (_, command) =>
    withFolder(async (folder) => {
      await writeFile(join(folder, 'base.raw'), contentOf(8 * MIB));
      await makeCertificates(folder);
      const disk = ['--create', '--base', 'base.raw', '--once', '--json', '--stream'];
      const tls = ['--tls-cert', 'server-cert.pem', '--tls-key', 'server-key.pem'];
      const socket = await serving(folder, command, ['--nbd', 'unix:sock', ...disk, 'vm.qcow2']);
      expect((await stat(join(folder, 'sock'))).mode & 0o777).toBe(0o600);
      expect(await nbdsh(`nbd+unix:///vda?socket=${folder}/sock`, USE)).toBe(ANSWER);
      expect(await socket.ended).toBe(0);

      const args = ['--nbd', '127.0.0.1:0', ...tls, '--tls-ca', 'ca-cert.pem', ...disk];
      const secure = await serving(folder, command, [...args, 'vm.qcow2']);
      const port = /:(\d+)\//.exec(secure.where.vda.nbd)![1];
      const uri = `nbds://localhost:${port}/vda?tls-certificates=${folder}`;
      expect(await nbdsh(uri, USE)).toBe(ANSWER);
      expect(await secure.ended).toBe(0);
      expect((await check(join(folder, 'vm.qcow2'))).exitCode).toBe(0);
    }),
  );

  it('under Deno names the permission that is missing', () =>
    withFolder(async (folder) => {
      await writeFile(join(folder, 'base.raw'), contentOf(MIB));
      const args = ['serve', '--nbd', 'unix:sock', '--create', '--base', 'base.raw', 'vm.qcow2'];
      const { exitCode, stderr } = await millraceUnderDeno(folder, args);
      expect([exitCode, stderr.trim().split('\n').length]).toEqual([1, 1]);
      expect(stderr).toContain('--allow-sys');
      const systemd = await millraceUnderDeno(folder, ['serve', '--nbd', 'systemd', 'vm.qcow2']);
      expect(systemd.stderr).toContain("systemd's socket cannot be had under Deno");
    }));
});

/** Starts it; resolves when it has told where the disks are. */
async function serving(
  folder: string,
  command: (folder: string) => string[],
  args: string[],
): Promise<{ where: { vda: { nbd: string } }; ended: Promise<number | null> }> {
  const [program, ...rest] = command(folder);
  const child = spawn(program, [...rest, 'serve', ...args], {
    cwd: folder,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = once(child, 'exit').then(([code]) => code as number | null);
  const [told] = await once(child.stdout!.setEncoding('utf8'), 'data');
  return { where: JSON.parse(told), ended };
}
