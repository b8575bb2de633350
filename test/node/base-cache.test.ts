/** The cache of bases: a second disk over a base fetches nothing of it. */
import { createHash } from 'node:crypto';
import { existsSync } from 'node:fs';
import { mkdtemp, open, readdir, rm, stat, utimes, writeFile } from 'node:fs/promises';
import type { Server } from 'node:http';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { gzipSync } from 'node:zlib';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { createDisk, openDisk } from '../../hosts/node/index.ts';
import { millrace, startMillrace } from '../cli/program.ts';
import { DENO, denoArgs } from '../deno/program.ts';
import { makeContent } from '../fixtures/content.ts';
import { run } from '../support/run.ts';

const MIB = 1024 * 1024;
const SIZE = 5 * MIB + 700;

let folder: string;
let cache: string;
let server: Server;
let url: string;
let content: Uint8Array;
let etag: string;
let hasHead: boolean;
let modified: Date | undefined;
/** What the server has sent, by its own count. */
let sent: { requests: number; bytes: number };

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'millrace-base-cache-'));
  cache = join(folder, 'cache', 'bases');
  content = makeContent('random', 1, SIZE);
  etag = '"one"';
  hasHead = true;
  modified = undefined;
  sent = { requests: 0, bytes: 0 };
  server = createServer((request, response) => {
    sent.requests++;
    if (etag !== '') response.setHeader('ETag', etag);
    if (modified) response.setHeader('Last-Modified', modified.toUTCString());
    response.setHeader('Accept-Ranges', 'bytes');
    if (request.method === 'HEAD') {
      if (!hasHead) response.statusCode = 405;
      else response.setHeader('Content-Length', content.length);
      return void response.end();
    }
    const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '')!;
    const bytes = content.subarray(Number(first), Number(last) + 1);
    sent.bytes += bytes.length;
    const range = `bytes ${first}-${Number(first) + bytes.length - 1}/${content.length}`;
    response.writeHead(206, { 'Content-Range': range, 'Content-Length': bytes.length });
    response.end(bytes);
  }).listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/base.raw`;
});

afterEach(async () => {
  server.closeAllConnections();
  server.close();
  await rm(folder, { recursive: true });
});

const overlay = (name: string): string => join(folder, `${name}.qcow2`);

async function streamed(name: string, directory = cache, size?: number): Promise<void> {
  const disk = await createDisk({
    overlay: overlay(name),
    base: url,
    baseFormat: 'raw',
    baseCache: { directory, size },
  });
  await disk.stream();
  expect(Buffer.compare(await disk.read(0, SIZE), content)).toBe(0);
  await disk.close();
}

const imagesIn = (directory = cache): Promise<string[]> =>
  readdir(directory).then((names) => names.filter((name) => name.endsWith('.qcow2')));

it('a second disk fetches nothing, in this process, in another, and under Deno', async () => {
  await streamed('a');
  expect(sent.bytes).toBeLessThan(1.1 * SIZE);
  sent.bytes = 0;
  await streamed('b');
  expect(sent.bytes).toBe(0);
  const args = ['--cache', cache];
  const create = ['create', 'c.qcow2', '--base', url, '--base-format', 'raw'];
  expect(await millrace([...create, ...args], { cwd: folder })).toMatchObject({
    exitCode: 0,
    stderr: '',
  });
  expect(await millrace(['stream', 'c.qcow2', ...args], { cwd: folder })).toMatchObject({
    exitCode: 0,
    stderr: '',
  });
  const under = denoArgs(folder, 'hosts/deno/main.ts', '--allow-net=127.0.0.1');
  const deno = (...more: string[]) =>
    run(DENO, [...under, ...more, ...args], { cwd: folder, env: { NO_COLOR: '1' } });
  await deno('create', 'd.qcow2', '--base', url, '--base-format', 'raw');
  await deno('stream', 'd.qcow2');
  expect(sent.bytes).toBe(0);
  for (const name of ['c', 'd']) {
    const disk = await openDisk({ overlay: overlay(name) });
    expect(digest(await disk.read(0, SIZE))).toBe(digest(content));
    await disk.close();
  }
});

it('its image reads no further ahead than the disk above it', async () => {
  content = makeContent('random', 1, 32 * MIB);
  const fetched: number[] = [];
  for (const baseCache of [undefined, { directory: cache }]) {
    sent.bytes = 0;
    const path = overlay(baseCache ? 'cached' : 'not');
    const disk = await createDisk({ overlay: path, base: url, baseFormat: 'raw', baseCache });
    for (let at = 0; at < 2 * MIB; at += 64 * 1024) await disk.read(at, 64 * 1024);
    for (const at of [20, 12, 29]) await disk.read(at * MIB, 4096);
    for (let before = -1; before < sent.bytes; await delay(200)) before = sent.bytes;
    await disk.close();
    fetched.push(sent.bytes);
  }
  expect(fetched[1]).toBeLessThanOrEqual(fetched[0]);
});

it('what is fetched ahead is kept too: the next disk with that profile fetches nothing', async () => {
  const recording = await createDisk({
    overlay: overlay('recorded'),
    base: url,
    baseFormat: 'raw',
    record: true,
  });
  await recording.read(SIZE / 2, 4096);
  const { data: profile } = await recording.profile();
  await recording.close();
  const replayed = async (name: string): Promise<void> => {
    const disk = await createDisk({
      overlay: overlay(name),
      base: url,
      baseFormat: 'raw',
      baseCache: { directory: cache },
      profile,
    });
    expect(await disk.replay()).toMatchObject({ outcome: 'done' });
    expect(
      Buffer.compare(await disk.read(SIZE / 2, 4096), content.subarray(SIZE / 2, SIZE / 2 + 4096)),
    ).toBe(0);
    await disk.close();
  };
  sent.bytes = 0;
  await replayed('first');
  expect(sent.bytes).toBeGreaterThan(0);
  sent.bytes = 0;
  await replayed('second');
  expect(sent.bytes).toBe(0);
});

it('a container is kept as it is, and unpacked above its image', async () => {
  const inside = content;
  content = gzipSync(inside);
  for (const name of ['a', 'b']) {
    sent.bytes = 0;
    const disk = await createDisk({
      overlay: overlay(name),
      base: url,
      baseCache: { directory: cache },
    });
    await disk.stream();
    expect(Buffer.compare(await disk.read(0, SIZE), inside)).toBe(0);
    await disk.close();
  }
  expect(sent.bytes).toBe(0);
});

it('disks at once share what is fetched, also where one has it in part', async () => {
  const open = (name: string) =>
    createDisk({
      overlay: overlay(name),
      base: url,
      baseFormat: 'raw',
      baseCache: { directory: cache },
    });
  const disks = await Promise.all(['a', 'b', 'c'].map(open));
  await disks[0].read(MIB, 100_000);
  await Promise.all(disks.map((disk) => disk.stream()));
  for (const disk of disks) {
    expect(Buffer.compare(await disk.read(0, SIZE), content)).toBe(0);
    await disk.close();
  }
  expect(sent.bytes).toBeLessThan(1.3 * SIZE);
  expect(await imagesIn()).toHaveLength(1);
});

it('a base that was new when it was fetched is the same when it has got older', async () => {
  modified = new Date();
  await streamed('a');
  sent.bytes = 0;
  const later = new Date(Date.now() + 600_000).toUTCString();
  server.prependListener('request', (_, response) => response.setHeader('Date', later));
  await streamed('b');
  expect(sent.bytes).toBe(0);
  expect(await imagesIn()).toHaveLength(1);
});

it('a base that has changed is another one', async () => {
  await streamed('a');
  content = makeContent('random', 2, SIZE);
  etag = '"two"';
  sent.bytes = 0;
  await streamed('b');
  expect(sent.bytes).toBeGreaterThanOrEqual(SIZE);
  expect(await imagesIn()).toHaveLength(2);
  await rm(overlay('a'));
  const disk = await createDisk({ overlay: overlay('a'), base: url, baseFormat: 'raw' });
  await disk.close();
  etag = '"three"';
  await expect(
    openDisk({ overlay: overlay('a'), baseCache: { directory: cache } }),
  ).rejects.toMatchObject({ code: 'ECHANGED' });
});

it('what was used longest ago makes room, and what is in use stays', async () => {
  const old = { directory: cache, size: 12 * MIB };
  for (const [index, name] of ['a', 'b'].entries()) {
    etag = `"${name}"`;
    await streamed(name, cache, old.size);
    const images = await imagesIn();
    expect(images).toHaveLength(index + 1);
  }
  const [first] = await imagesIn();
  await utimes(join(cache, first), new Date(1000), new Date(1000));
  etag = '"c"';
  await streamed('c', cache, old.size);
  etag = '"d"';
  await streamed('d', cache, old.size);
  expect(existsSync(join(cache, first))).toBe(false);
  // One that is larger than the cache goes when it is not in use any more; the disk is none the
  // worse.
  const small = join(folder, 'small');
  content = makeContent('random', 3, SIZE);
  etag = '"e"';
  await streamed('e', small, MIB);
  expect(await imagesIn(small)).toHaveLength(0);
});

it('is left to who has it: another program reads from the server', async () => {
  await streamed('a');
  sent.bytes = 0;
  const create = ['create', 'vm.qcow2', '--base', url, '--base-format', 'raw'];
  await millrace(create, { cwd: folder });
  const serving = startMillrace(
    ['serve', '--listen', '127.0.0.1:0', '--cache', cache, 'vm.qcow2'],
    { cwd: folder },
  );
  await serving.until('stdout', /http:/);
  const other = await millrace(
    ['create', 'x.qcow2', '--base', url, '--base-format', 'raw', '--cache', cache],
    { cwd: folder },
  );
  expect(other).toMatchObject({
    exitCode: 0,
    stderr: expect.stringMatching(/is not kept in .*: another program has its image open/),
  });
  // As a power cut leaves it.
  serving.child.kill('SIGKILL');
  await serving.ended;
  sent.bytes = 0;
  await streamed('b');
  expect(sent.bytes).toBe(0);
});

it('an image that was spoiled is made anew, and a full or missing folder hurts nobody', async () => {
  await streamed('a');
  const [name] = await imagesIn();
  const file = await open(join(cache, name), 'r+');
  await file.write(Buffer.alloc(200, 0xee), 0, 200, 0);
  await file.close();
  await streamed('b');
  expect((await stat(join(cache, name))).size).toBeGreaterThan(SIZE);
  await writeFile(join(folder, 'file'), '');
  await expect(streamed('c', join(folder, 'file'))).rejects.toMatchObject({ code: 'EEXIST' });
});

it('a server without HEAD, or that identifies nothing, is read as before', async () => {
  hasHead = false;
  await streamed('a');
  sent.bytes = 0;
  await streamed('b');
  // The first answer tells what the base is.
  expect(sent.bytes).toBe(320 * 1024);
  etag = '';
  await streamed('c');
  expect(await imagesIn()).toHaveLength(1);
  const args = ['create', 'd.qcow2', '--base', url, '--base-format', 'raw', '--cache', cache];
  expect((await millrace(args, { cwd: folder })).stderr).toMatch(
    /base\.raw is not kept in .*: nothing tells whether it has changed/,
  );
});

it('files of this machine are not kept, a base or what stands beside an overlay', async () => {
  await writeFile(join(folder, 'local.raw'), content);
  for (const command of [
    ['create', 'l.qcow2', '--base', 'local.raw', '--base-format', 'raw', '--cache', cache],
    ['stream', 'l.qcow2', '--cache', cache],
  ])
    expect(await millrace(command, { cwd: folder })).toMatchObject({ exitCode: 0, stderr: '' });
  expect(existsSync(cache)).toBe(false);
});

it('what a server sends in one pass only is not kept, and is said to be', async () => {
  const whole = makeContent('random', 2, 17 * MIB);
  server.removeAllListeners('request').on('request', (_, response) => {
    response.writeHead(200, { ETag: etag, 'Content-Length': whole.length }).end(whole);
  });
  const how = ['--sequential', '--cache', cache];
  for (const command of [
    ['create', 'p.qcow2', '--base', url, '--base-format', 'raw', ...how],
    ['stream', 'p.qcow2', ...how],
  ]) {
    const { exitCode, stderr } = await millrace(command, { cwd: folder });
    expect([exitCode, stderr]).toEqual([0, expect.stringMatching(/not kept.*start to end only/)]);
  }
  expect(existsSync(cache)).toBe(false);
  const disk = await openDisk({ overlay: overlay('p'), base: null, readOnly: true });
  expect(Buffer.compare(await disk.read(0, whole.length), whole)).toBe(0);
  await disk.close();
});

it('its options are checked', async () => {
  const wrong = (baseCache: object) =>
    createDisk({ overlay: overlay('x'), base: url, baseCache: baseCache as { directory: string } });
  await expect(wrong({})).rejects.toThrow('needs a directory');
  await expect(wrong({ directory: cache, size: 1 })).rejects.toThrow('1 MiB or more');
  await expect(wrong({ directory: cache, sise: 1 })).rejects.toThrow("did you mean 'size'?");
  const said = async (...args: string[]): Promise<string> =>
    (await millrace(['create', 'x.qcow2', '--base', url, ...args], { cwd: folder })).stderr;
  expect(await said('--cache', 'unsafe')).toMatch(/the mode 'unsafe' is given by -t/);
  expect(await said('--cache-size', '1G')).toMatch(/of a folder that --cache names/);
});

function digest(bytes: Uint8Array): string {
  return createHash('sha256').update(bytes).digest('hex');
}
