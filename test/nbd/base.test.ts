/** Bases by NBD, from real servers: nbdkit, qemu-nbd, and our own. */
import { createHash } from 'node:crypto';
import { mkdtemp, open, readFile, rm, truncate } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createDisk, openDisk, openNbd } from '../../hosts/node/index.ts';
import { millrace } from '../cli/program.ts';
import { DENO, denoArgs, ROOT } from '../deno/program.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { run } from '../support/run.ts';
import { makeCertificates } from './certificates.ts';
import type { Server } from './other-servers.ts';
import { logged, startNbdkit, startQemuNbd } from './other-servers.ts';
import { client, MIB, withScene } from './scene.ts';

const SIZE = 12 * MIB + 1024;

let folder: string;
let content: Buffer;
let image: string;
let servers: Server[];

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'millrace-nbd-base-'));
  image = join(folder, 'base.raw');
  content = await writeBase(image);
  servers = [];
});

afterEach(async () => {
  for (const server of servers) await server.kill();
  await rm(folder, { recursive: true });
});

/** Data, a hole of 8 MiB, data and an odd end. */
async function writeBase(path: string): Promise<Buffer> {
  const bytes = Buffer.alloc(SIZE);
  for (let at = 0; at < SIZE; at++)
    if (at < 2 * MIB || at >= 10 * MIB) bytes[at] = 1 + ((at * 31 + (at >> 9)) % 251);
  const file = await open(path, 'w');
  await file.truncate(SIZE);
  await file.write(bytes, 0, 2 * MIB, 0);
  await file.write(bytes, 10 * MIB, SIZE - 10 * MIB, 10 * MIB);
  await file.close();
  return bytes;
}

async function nbdkit(...args: string[]): Promise<Server> {
  const server = await startNbdkit(folder, args, `nbdkit-${servers.length}.sock`);
  servers.push(server);
  return server;
}

async function qemuNbd(...args: string[]): Promise<Server> {
  const server = await startQemuNbd(folder, args, `qemu-${servers.length}.sock`);
  servers.push(server);
  return server;
}

/** All of an export, in reads of all sizes and alignments, many at once. */
async function readAll(uri: string, options = {}): Promise<Buffer> {
  const source = await openNbd(uri, options);
  try {
    const bytes = Buffer.alloc(source.size);
    const reads: Promise<void>[] = [];
    for (let at = 0, length = 1; at < bytes.length; at += length, length = (length * 7) % 900_001)
      reads.push(
        source.read(at, bytes.subarray(at, at + length), { background: reads.length % 3 === 0 }),
      );
    await Promise.all(reads);
    return bytes;
  } finally {
    await source.close();
  }
}

describeWithPeer(['nbdkit'], 'a base from nbdkit', () => {
  it('is read with structured and with simple replies', async () => {
    for (const args of [[], ['--no-sr'], ['--mask-handshake=1']]) {
      const { uri } = await nbdkit(...args, 'file', image);
      expect((await readAll(uri)).equals(content)).toBe(true);
    }
    const old = await nbdkit('--mask-handshake=0', 'file', image);
    await expect(readAll(old.uri)).rejects.toThrow(/speaks an old form of NBD only/);
    const oldest = await nbdkit('--oldstyle', 'file', image);
    await expect(readAll(oldest.uri)).rejects.toThrow(/speaks an old form of NBD only/);
  });

  it('is asked for whole blocks, and no more than it takes', async () => {
    const sizes = (minimum: string, preferred: string, maximum: string): string[] => [
      `blocksize-minimum=${minimum}`,
      `blocksize-preferred=${preferred}`,
      `blocksize-maximum=${maximum}`,
    ];
    const log = join(folder, 'log');
    const filters = ['--filter=log', '--filter=blocksize-policy'];
    await truncate(image, 12 * MIB);
    const { uri } = await nbdkit(
      ...filters,
      'file',
      image,
      `logfile=${log}`,
      'blocksize-error-policy=error',
      ...sizes('4096', '32k', '96k'),
    );
    expect((await readAll(uri)).equals(content.subarray(0, 12 * MIB))).toBe(true);
    const reads = await logged(log, 'Read');
    expect(reads.length).toBeGreaterThan(100);
    for (const { offset, count } of reads) {
      expect([offset % 32768, count % 32768]).toEqual([0, 0]);
      expect(count).toBeLessThanOrEqual(98304);
    }
  });

  it('is streamed without its holes, by several connections', async () => {
    const log = join(folder, 'log');
    const { uri } = await nbdkit('--filter=log', 'file', image, `logfile=${log}`);
    const overlay = join(folder, 'vm.qcow2');
    const disk = await createDisk({ overlay, base: uri, baseFormat: 'raw' });
    expect(await disk.stream()).toMatchObject({ status: 0, remaining: 0 });
    expect(Buffer.compare(await disk.read(0, SIZE), content)).toBe(0);
    await disk.close();
    const reads = await logged(log, 'Read');
    for (const { offset, count } of reads)
      expect(offset + count <= 2 * MIB || offset >= 10 * MIB).toBe(true);
    expect((await logged(log, 'Connect')).length).toBeGreaterThan(1);
    // What one connection is for, where a server does not let it share.
    const alone = join(folder, 'alone.log');
    const second = await nbdkit(
      '--filter=log',
      '--filter=multi-conn',
      'file',
      image,
      `logfile=${alone}`,
      'multi-conn-mode=disable',
    );
    expect((await readAll(second.uri)).equals(content)).toBe(true);
    expect(await logged(alone, 'Connect')).toHaveLength(1);
  });

  it('is asked again when it fails now and then, and fails by name when it always does', async () => {
    const some = await nbdkit('--filter=error', 'file', image, 'error-pread-rate=20%');
    expect((await readAll(some.uri)).equals(content)).toBe(true);
    const always = await nbdkit('--filter=error', 'file', image, 'error-pread-rate=100%');
    await expect(readAll(always.uri, { retries: 1 })).rejects.toMatchObject({
      code: 'EIO',
      message: expect.stringMatching(
        /cannot read bytes \d+-\d+( after 2 attempts)?: the server failed to read$/,
      ),
    });
    const denied = await nbdkit(
      '--filter=error',
      'file',
      image,
      'error-pread-rate=100%',
      'error-pread=EPERM',
    );
    await expect(readAll(denied.uri)).rejects.toMatchObject({ code: 'EACCES' });
  });

  it('is gone on with when it was killed and started again, unless it is another one', async () => {
    const first = await startNbdkit(folder, ['--filter=delay', 'file', image, 'rdelay=30ms']);
    servers.push(first);
    const source = await openNbd(first.uri);
    const bytes = Buffer.alloc(SIZE);
    const reading = Promise.all(
      Array.from({ length: 12 }, (_, i) =>
        source.read(i * MIB, bytes.subarray(i * MIB, ++i * MIB)),
      ),
    );
    await first.kill();
    servers.push(await startNbdkit(folder, ['file', image]));
    await reading;
    expect(bytes.subarray(0, 12 * MIB).equals(content.subarray(0, 12 * MIB))).toBe(true);
    await servers[1].kill();
    await truncate(image, 8 * MIB);
    servers.push(await startNbdkit(folder, ['file', image]));
    await expect(source.read(0, bytes.subarray(0, 512))).rejects.toMatchObject({
      code: 'ECHANGED',
      message: expect.stringMatching(/the export had 12583936 bytes, and has 8388608 now/),
    });
    await source.close();
  });

  it('is what qemu-img reads below the same overlay', async () => {
    const { socket } = await nbdkit('file', image);
    const uri = `nbd+unix:///?socket=${socket.split('/').at(-1)}`;
    const cli = async (...args: string[]): Promise<string> => {
      const { exitCode, stdout, stderr } = await millrace(args, { cwd: folder });
      expect([exitCode, stderr]).toEqual([0, '']);
      return stdout;
    };
    // A relative socket is recorded whole.
    await cli('create', 'vm.qcow2', '--base', uri, '--base-format', 'raw');
    await cli('stream', 'vm.qcow2', '--length', '1M');
    const whole = `nbd+unix:///?socket=${socket}`;
    const told = JSON.parse(
      (await client('qemu-img', 'info', '--output=json', join(folder, 'vm.qcow2'))).stdout,
    );
    expect(told['backing-filename']).toBe(whole);
    await client('qemu-img', 'compare', join(folder, 'vm.qcow2'), image);
    expect(JSON.parse(await cli('info', '--output=json', uri))).toMatchObject({
      'virtual-size': SIZE,
      format: 'raw',
    });
    expect(await cli('map', uri)).toContain(uri);
    await cli('convert', uri, 'out.raw');
    expect((await readFile(join(folder, 'out.raw'))).equals(content)).toBe(true);
    await cli('stream', 'vm.qcow2');
    await cli('rebase', 'vm.qcow2', '--base', uri, '--base-format', 'raw');
    await client('qemu-img', 'compare', join(folder, 'vm.qcow2'), image);
    const commit = await millrace(['commit', 'vm.qcow2'], { cwd: folder });
    expect(commit).toMatchObject({
      exitCode: 1,
      stderr: expect.stringMatching(/only a local base can be written/),
    });
  });

  it('may be a qcow2 image, and be refused where it is another', async () => {
    const inner = join(folder, 'inner.qcow2');
    await client('qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2', '-c', image, inner);
    const { uri } = await nbdkit('file', inner);
    const overlay = join(folder, 'vm.qcow2');
    const disk = await createDisk({ overlay, base: uri });
    await disk.stream({ length: MIB });
    expect(Buffer.compare(await disk.read(0, SIZE), content)).toBe(0);
    await disk.close();
    await client('qemu-img', 'compare', '-f', 'qcow2', '-F', 'raw', overlay, image);
    const other = await nbdkit('memory', '1M');
    await expect(openDisk({ overlay, base: other.uri })).rejects.toMatchObject({
      code: 'ECHANGED',
    });
  });
});

describeWithPeer(['qemu-nbd', 'openssl'], 'a base from qemu-nbd', () => {
  it('is its export of that name', async () => {
    const { socket } = await qemuNbd('-r', '-f', 'raw', '-x', 'a disk', image);
    const uri = (name: string): string => `nbd+unix:///${name}?socket=${socket}`;
    // One client at a time is what it takes by default: no second connection is waited for.
    expect((await readAll(uri('a%20disk'))).equals(content)).toBe(true);
    await expect(readAll(uri('other'))).rejects.toMatchObject({
      code: 'ENOENT',
      message: expect.stringMatching(/the server has no export 'other'; it has 'a disk'$/),
    });
  });

  it('is read by TLS from whom the certificates trust', async () => {
    for (const authority of ['ours', 'other']) await makeCertificates(join(folder, authority));
    const { socket } = await qemuNbd(
      ...['-r', '-f', 'raw', '-e', '4', '--tls-creds', 'tls0', '--object'],
      `tls-creds-x509,id=tls0,endpoint=server,verify-peer=yes,dir=${join(folder, 'ours')}`,
      image,
    );
    const secure = (authority: string, more = ''): string =>
      `nbds+unix:///?socket=${socket}&tls-certificates=${join(folder, authority)}${more}`;
    expect((await readAll(secure('ours'))).equals(content)).toBe(true);
    await expect(readAll(secure('other'))).rejects.toThrow(/certificate of the server is not/);
    await expect(readAll(secure('ours', '&tls-hostname=elsewhere'))).rejects.toThrow(/elsewhere/);
    await expect(readAll(`nbd+unix:///?socket=${socket}`)).rejects.toMatchObject({
      code: 'EACCES',
      message: expect.stringMatching(/wants TLS: give the URI as nbds:/),
    });
    const plain = await qemuNbd('-r', '-f', 'raw', image);
    await expect(readAll(`nbds+unix:///?socket=${plain.socket}`)).rejects.toThrow('has no TLS');
  });
});

it('is read from our own server, with extended headers, deep chains and all', () =>
  withScene(async ({ uri, disk, base, folder: scene }) => {
    expect((await readAll(uri())).equals(base)).toBe(true);
    await disk.write(5 * MIB, new Uint8Array(1000).fill(7));
    const top = await createDisk({
      overlay: join(scene, 'top.qcow2'),
      base: uri(),
      baseFormat: 'raw',
    });
    await top.stream();
    expect((await top.read(5 * MIB, 1001)).reduce((sum, byte) => sum + byte)).toBe(7000);
    await top.close();
  }));

describe('a URI', () => {
  it('that cannot be, or asks for what is not there, is refused by name', async () => {
    const cases: [string, string, RegExp][] = [
      ['nbd:///x', 'EINVAL', /it names no host/],
      ['nbd+unix:///x', 'EINVAL', /it names no socket \(\?socket=PATH\)/],
      ['nbd://h:99999/x', 'EINVAL', /not an NBD URI/],
      ['nbd://h/%ff', 'EINVAL', /the name of its export is no UTF-8/],
      ['nbd://h/%00', 'EINVAL', /none of them 0/],
      ['nbd://h/?mode=x', 'EUNSUPPORTED', /the parameter 'mode' is not supported/],
      ['nbd://h/?tls-hostname=x', 'EUNSUPPORTED', /parameter 'tls-hostname'/],
      ['nbds://alice@h/', 'EUNSUPPORTED', /by a shared key, which is not supported/],
      ['nbds://h/?tls-type=psk', 'EUNSUPPORTED', /type 'psk' is not supported: x509/],
      ['nbds://h/?tls-verify-peer=0', 'EUNSUPPORTED', /not verified is not supported/],
      ['nbd:h:1:exportname=a', 'EUNSUPPORTED', /is no URI: write it as 'nbd:\/\/h:1\/a'/],
      ['nbd:unix:/s:exportname=a', 'EUNSUPPORTED', /write it as 'nbd\+unix:\/\/\/a\?socket=\/s'/],
      [`nbd+unix:///?socket=${join('/none', 'sock')}`, 'EIO', /connection failed .*ENOENT/],
      ['nbd://127.0.0.1:1/', 'EIO', /connection failed .*ECONNREFUSED 127\.0\.0\.1:1/],
      ['ws://user:secret@h/?token=secret#%ff', 'EINVAL', /^ws:\/\/h\/: the name of its export/],
    ];
    for (const [uri, code, message] of cases)
      await expect(openNbd(uri), uri).rejects.toMatchObject({
        code,
        message: expect.stringMatching(message),
      });
    await expect(openNbd('nbd://h/', { retries: 1, connexions: 2 } as object)).rejects.toThrow(
      "did you mean 'connections'?",
    );
    await expect(openNbd('nbd://h/', { connections: 17 })).rejects.toThrow('from 1 to 16, not 17');
  });
});

describeWithPeer(['nbdkit', 'qemu-nbd', 'openssl'], 'under Deno and Bun', () => {
  it('a base is read and streamed over TCP, Unix sockets and TLS', async () => {
    await makeCertificates(join(folder, 'tls'));
    const { uri } = await nbdkit('file', image);
    const ports = await Promise.all([
      tcp(),
      tcp('--tls=require', `--tls-certificates=${join(folder, 'tls')}`),
    ]);
    // Without the client's own: Deno has none.
    await rm(join(folder, 'tls/client-cert.pem'));
    await rm(join(folder, 'tls/client-key.pem'));
    const secure = `nbds://localhost:${ports[1]}/?tls-certificates=${join(folder, 'tls')}`;
    const uris = [uri, `nbd://127.0.0.1:${ports[0]}`, secure, `nbd://127.0.0.1:${ports[1]}/`];
    const digest = createHash('sha256').update(content).digest('hex');
    const right = { read: digest, streamed: digest, remaining: 0 };
    const program = 'test/nbd/base-program.ts';
    const permissions = ['--allow-net'];
    for (const [command, args] of [
      [DENO, denoArgs(folder, program, ...permissions)],
      [join(ROOT, 'node_modules/.bin/bun'), [program]],
    ] as const) {
      const { stdout } = await run(command, [...args, folder, ...uris], { cwd: ROOT });
      expect(JSON.parse(stdout)).toEqual([
        right,
        right,
        right,
        expect.stringMatching(/wants TLS: give the URI as nbds:/),
      ]);
    }
  });
});

/** An nbdkit at a free port, which it says at once. */
async function tcp(...args: string[]): Promise<number> {
  const { createServer } = await import('node:net');
  const port = await new Promise<number>((resolve) => {
    const probe = createServer().listen(0, '127.0.0.1', () => {
      const { port } = probe.address() as { port: number };
      probe.close(() => resolve(port));
    });
  });
  const name = `tcp-${port}.sock`;
  servers.push(await startNbdkit(folder, [...args, 'file', image], name, port));
  return port;
}
