/**
 * The ETag of a served disk, from one opening to the next: it follows what the guest sees, not how
 * much of it the overlay holds.
 */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { appendFile, copyFile, mkdtemp, readdir, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { Disk, OpenOptions } from '../../hosts/node/index.ts';
import {
  commitDisk,
  createDisk,
  createHandler,
  openDisk,
  rebaseDisk,
} from '../../hosts/node/index.ts';
import { millrace, startMillrace } from '../cli/program.ts';
import { DENO, denoArgs } from '../deno/program.ts';
import { makeContent } from '../fixtures/content.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { qemuIo } from '../support/qemu.ts';

const MIB = 1024 * 1024;
const SIZE = 3 * MIB;

let folder: string;
const at = (name: string): string => join(folder, name);

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'millrace-etag-'));
  await writeFile(at('base.raw'), makeContent('random', 3, SIZE));
  await (await createDisk({ overlay: at('vm.qcow2'), base: at('base.raw') })).close();
});

afterEach(() => rm(folder, { recursive: true }));

const request = new Request('http://127.0.0.1/disks/vda/data', {
  method: 'HEAD',
  headers: { Authorization: 'Bearer sesame' },
});

async function etagOf(disk: Disk): Promise<string> {
  const response = await createHandler({ disks: { vda: disk }, token: 'sesame' })(request);
  expect(response.status).toBe(200);
  return response.headers.get('ETag')!;
}

/** The ETag of the disk when it has been opened, and what `use` has done to it. */
async function opened(
  use: (disk: Disk) => Promise<unknown> = async () => {},
  options: Partial<OpenOptions> = {},
): Promise<{ before: string; after: string }> {
  const disk = await openDisk({ overlay: at('vm.qcow2'), ...options });
  try {
    const before = await etagOf(disk);
    await use(disk);
    return { before, after: await etagOf(disk) };
  } finally {
    await disk.close();
  }
}

describe('the ETag of a disk', () => {
  it('stays when it is populated, by whomever, and when its base is not needed any more', async () => {
    const { before, after } = await opened((disk) => disk.read(0, MIB));
    expect(after).toBe(before);
    expect((await opened(undefined, { readOnly: true })).before).toBe(before);
    // By an opening in which nobody asks for it.
    const disk = await openDisk({ overlay: at('vm.qcow2') });
    await disk.stream({ offset: MIB, length: MIB });
    await disk.close();
    const streamed = await opened((disk) => disk.stream());
    expect(streamed).toEqual({ before, after: before });
    await rm(at('base.raw'));
    expect((await opened()).before).toBe(before);
    expect((await opened(undefined, { readOnly: true })).before).toBe(before);
  });

  it.each<[string, (disk: Disk) => Promise<unknown>]>([
    ['a write', (disk) => disk.write(0, Uint8Array.of(1))],
    ['writing zeroes', (disk) => disk.writeZeroes(0, 65536)],
    ['a discard', (disk) => disk.discard(0, 65536)],
    ['a resize', (disk) => disk.resize(SIZE + 512)],
  ])('changes by %s, and is the same when it is opened again', async (_, change) => {
    const { before, after } = await opened(async (disk) => {
      await disk.read(0, MIB);
      await change(disk);
    });
    expect(after).not.toBe(before);
    expect((await opened()).before).toBe(after);
    expect((await opened(change)).after).not.toBe(after);
  });

  it('changes by a write of one who never asks for it', async () => {
    const { before } = await opened();
    const disk = await openDisk({ overlay: at('vm.qcow2') });
    await disk.write(0, Uint8Array.of(1));
    await disk.close();
    const { before: later } = await opened();
    expect(later).not.toBe(before);
    expect((await opened()).before).toBe(later);
  });

  it('changes with the base, and with another one', async () => {
    const { before } = await opened((disk) => disk.read(0, MIB));
    await copyFile(at('base.raw'), at('other.raw'));
    await rebaseDisk({ overlay: at('vm.qcow2'), base: at('other.raw'), unsafe: true });
    const { before: rebased } = await opened();
    expect(rebased).not.toBe(before);
    await utimes(at('other.raw'), 1, 1);
    await rebaseDisk({ overlay: at('vm.qcow2'), base: at('other.raw'), unsafe: true });
    expect([before, rebased]).not.toContain((await opened()).before);
  });

  it('changes by a commit into the disk', async () => {
    const { before } = await opened();
    const top = await createDisk({
      overlay: at('top.qcow2'),
      base: at('vm.qcow2'),
      followChain: true,
    });
    await top.write(0, Uint8Array.of(1));
    await top.close();
    await commitDisk({ overlay: at('top.qcow2'), followChain: true });
    expect((await opened()).before).not.toBe(before);
  });

  it('is a new one where what is kept cannot be read', async () => {
    const { before } = await opened((disk) => disk.read(0, MIB));
    await appendFile(at('vm.qcow2.millrace-kept'), '{');
    const { before: later } = await opened();
    expect(later).not.toBe(before);
    expect((await opened()).before).toBe(later);
  });

  it('leaves nothing beside an overlay that nobody has asked for it', async () => {
    const disk = await openDisk({ overlay: at('vm.qcow2') });
    await disk.stream();
    await disk.close();
    expect((await readdir(folder)).sort()).toEqual(['base.raw', 'vm.qcow2']);
  });
});

/** What a server that is started anew tells of the disk, after it has been read. */
async function servedBy(start: () => Promise<{ url: string; stop: () => Promise<void> }>) {
  const { url, stop } = await start();
  const response = await fetch(`${url}/data`);
  await response.arrayBuffer();
  await stop();
  return response.headers.get('ETag');
}

async function byNode(port = '0'): Promise<{ url: string; stop: () => Promise<void> }> {
  const server = startMillrace(['serve', 'vm.qcow2', '--listen', port, '--json'], { cwd: folder });
  await server.until('stdout', /\n/);
  const { vda } = JSON.parse(server.output.stdout) as { vda: string };
  return {
    url: vda,
    async stop() {
      server.child.kill('SIGTERM');
      expect(await server.ended).toMatchObject({ exitCode: 143 });
    },
  };
}

async function byDeno(): Promise<{ url: string; stop: () => Promise<void> }> {
  const program = denoArgs(folder, 'hosts/deno/main.ts', '--allow-net=127.0.0.1');
  const server = spawn(DENO, [...program, 'serve', 'vm.qcow2', '--listen', '0', '--json'], {
    cwd: folder,
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = once(server, 'close');
  const { vda } = JSON.parse(String(await once(server.stdout, 'data'))) as { vda: string };
  return {
    url: vda,
    async stop() {
      server.kill('SIGTERM');
      expect(await ended).toEqual([143, null]);
    },
  };
}

describeWithPeer(['qemu-io'], 'the ETag of a disk that millrace serve serves', () => {
  it('is the same under Node and Deno, until QEMU writes to the overlay', async () => {
    const first = await servedBy(byNode);
    expect(await servedBy(byNode)).toBe(first);
    expect(await servedBy(byDeno)).toBe(first);
    expect(await millrace(['stream', 'vm.qcow2'], { cwd: folder })).toMatchObject({ exitCode: 0 });
    expect(await servedBy(byDeno)).toBe(first);
    expect(await servedBy(byNode)).toBe(first);
    await qemuIo(at('vm.qcow2'), ['write -P 1 0 64k']);
    const written = await servedBy(byNode);
    expect(written).not.toBe(first);
    expect(await servedBy(byDeno)).toBe(written);
  }, 60_000);

  it('lets an overlay that was made over it go on after the server has started anew', async () => {
    const first = await byNode();
    const made = await createDisk({ overlay: at('over.qcow2'), base: `${first.url}/data` });
    await made.read(0, 4096);
    await made.close();
    await first.stop();
    const second = await byNode(new URL(first.url).port);
    const again = await openDisk({ overlay: at('over.qcow2') });
    await again.stream();
    await again.close();
    await second.stop();
  }, 60_000);
});
