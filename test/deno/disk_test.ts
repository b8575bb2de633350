/**
 * The Deno host in Deno's own test runner, which grants each test its permissions: `deno task
 * test`, also run by deno.test.ts.
 */
import { assert, assertEquals, assertMatch, assertRejects, assertThrows } from '@std/assert';
import { join } from '@std/path';
import type { BlockFile } from '../../hosts/deno/index.ts';
import {
  convertDisk,
  createDisk,
  createHandler,
  MillraceError,
  openDisk,
  openFile,
  openFileSource,
  openHttp,
} from '../../hosts/deno/index.ts';

const KIB = 1024;
const content = Uint8Array.from({ length: 300 * KIB }, (_, at) => (at * 31 + (at >> 8) * 7) & 255);
const folder = await Deno.realPath(await Deno.makeTempDir({ prefix: 'millrace-deno-' }));
addEventListener('unload', () => Deno.removeSync(folder, { recursive: true }));
const at = (name: string): string => join(folder, name);
await Deno.writeFile(at('base.raw'), content);

/** A base elsewhere: answers ranges of the content. */
const server = Deno.serve({ hostname: '127.0.0.1', port: 0, onListen: () => {} }, (request) => {
  const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.get('Range') ?? '') ?? [];
  const end = Math.min(Number(last) + 1, content.length);
  const headers = { ETag: '"one"', 'Content-Range': `bytes ${first}-${end - 1}/${content.length}` };
  return new Response(content.slice(Number(first), end), { status: 206, headers });
});
server.unref();
const host = `127.0.0.1:${server.addr.port}`;

/** What a disk needs, and not more. */
const ofFolder: Deno.PermissionOptionsObject = { read: [folder], write: [folder] };

/** It rejects with an error of ours. */
async function refused(code: string, message: RegExp, work: () => Promise<unknown>): Promise<void> {
  const error = await assertRejects(work);
  assert(error instanceof MillraceError, String(error));
  assertEquals(error.code, code, error.message);
  assertMatch(error.message, message);
}

Deno.test('a disk over a local base needs the permissions of their folder', {
  permissions: ofFolder,
}, async () => {
  const disk = await createDisk({ overlay: at('local.qcow2'), base: at('base.raw') });
  await disk.write(5, Uint8Array.of(1, 2, 3));
  await disk.stream();
  assertEquals([...(await disk.read(4, 5))], [content[4], 1, 2, 3, content[8]]);
  await disk.close();
});

Deno.test('a copy is made compressed, and tells how far it is', {
  permissions: ofFolder,
}, async () => {
  for (const compressionType of ['zlib', 'zstd'] as const) {
    const [source, target] = [at('base.raw'), at(`${compressionType}.qcow2`)];
    let last: number[] = [];
    const onProgress = (...told: number[]): void => void (last = told);
    const how = { format: 'qcow2', compress: true, compressionType, onProgress } as const;
    assertEquals(await convertDisk({ source, target, ...how }), { size: content.length });
    assertEquals(last, [content.length, content.length]);
    const disk = await openDisk({ overlay: target, readOnly: true });
    assertEquals(await disk.read(0, disk.size), content);
    assertEquals((await disk.map()[Symbol.asyncIterator]().next()).value.state, 'compressed');
    await disk.close();
  }
});

Deno.test('openFile refuses an option that does not exist, and makes nothing', {
  permissions: ofFolder,
}, async () => {
  const options = { creat: true } as { create?: boolean };
  await refused('EINVAL', /^openFile has no option 'creat': did you mean 'create'\?$/, () =>
    openFile(at('never.qcow2'), options),
  );
  await assertRejects(() => Deno.stat(at('never.qcow2')));
});

Deno.test('a disk over a base elsewhere needs that of its host as well', {
  permissions: { ...ofFolder, net: [host] },
}, async () => {
  const disk = await createDisk({ overlay: at('remote.qcow2'), base: `http://${host}/disk.raw` });
  assertEquals(await disk.read(1000, 100), content.slice(1000, 1100));
  await disk.close();
});

Deno.test('a permission that is missing is told by its name', {
  permissions: ofFolder,
}, async () => {
  await refused('EACCES', /--allow-net/, () =>
    createDisk({ overlay: at('no-net.qcow2'), base: `http://${host}/disk.raw` }),
  );
  await refused('EACCES', /--allow-read and --allow-write of its folder/, () =>
    createDisk({ overlay: join(folder, '..', 'elsewhere.qcow2'), size: KIB }),
  );
  assertThrows(() => Deno.statSync(at('no-net.qcow2')));
});

Deno.test('a disk that is only read needs no permission to write', {
  permissions: { read: [folder] },
}, async () => {
  const disk = await openDisk({ overlay: at('base.raw'), readOnly: true });
  assertEquals(await disk.read(70_000, 10), content.slice(70_000, 70_010));
  await disk.close();
  await refused('EACCES', /--allow-write/, () => openDisk({ overlay: at('local.qcow2') }));
});

Deno.test('bases are recorded, found and named by path, relative path and file: URL', {
  permissions: ofFolder,
}, async () => {
  await Deno.mkdir(at('a folder'));
  await Deno.copyFile(at('base.raw'), at('a folder/ünd base.raw'));
  const url = new URL(`file://${folder}/a%20folder/%C3%BCnd%20base.raw`);
  await (await createDisk({ overlay: at('a folder/by-url.qcow2'), base: url })).close();
  const disk = await openDisk({ overlay: at('a folder/by-url.qcow2') });
  assertEquals(await disk.read(9, 3), content.slice(9, 12));
  await disk.close();
  await (
    await createDisk({
      overlay: at('over.qcow2'),
      base: at('base.raw'),
      recordBase: 'a folder/../base.raw',
    })
  ).close();
  const other = await openDisk({ overlay: at('over.qcow2') });
  assertEquals(
    (await other.images()).map(({ name }) => name),
    [at('over.qcow2'), at('base.raw')],
  );
  await other.close();
});

Deno.test('a file that is open for writing is locked, until it is closed', {
  permissions: ofFolder,
}, async () => {
  const file = await openFile(at('locked'), { create: true });
  await refused('EBUSY', /open for writing in this process already/, () => openFile(at('locked')));
  await file.close();
  await (await openFile(at('locked'))).close();
  assertThrows(() => Deno.statSync(at('locked.lock')));
});

Deno.test('a file that a worker has open is locked, until the worker is terminated', async () => {
  const worker = new Worker(new URL('holder.ts', import.meta.url), { type: 'module' });
  await (await createDisk({ overlay: at('held'), size: KIB })).close();
  const held = new Promise((resolve, reject) =>
    Object.assign(worker, { onmessage: resolve, onerror: reject }),
  );
  worker.postMessage(at('held'));
  await held;
  await refused('EBUSY', /open for writing in this process already/, () => openFile(at('held')));
  worker.terminate();
  // The worker's handles are closed by its thread, in its own time.
  const taken = async (): Promise<BlockFile> =>
    openFile(at('held')).catch(() => new Promise((resolve) => setTimeout(resolve, 10)).then(taken));
  await (await taken()).close();
});

Deno.test('a disk is served by Deno.serve, and is a base for another', {
  permissions: { ...ofFolder, net: ['127.0.0.1'] },
}, async () => {
  const disk = await openDisk({ overlay: at('base.raw'), readOnly: true });
  const served = Deno.serve(
    { hostname: '127.0.0.1', port: 0, onListen: () => {} },
    createHandler({ disks: { vda: disk }, token: 'sesame' }),
  );
  const url = `http://127.0.0.1:${served.addr.port}/disks/vda/data`;
  await refused('EACCES', /401/, () => openHttp(url));
  const base = await openHttp(url, { headers: { Authorization: 'Bearer sesame' } });
  const copy = await createDisk({ overlay: at('copy.qcow2'), base });
  assertEquals(await copy.read(123_456, 1000), content.slice(123_456, 124_456));
  await copy.close();
  await served.shutdown();
  await disk.close();
});

Deno.test('files that cannot be are refused by name', { permissions: ofFolder }, async () => {
  await refused('ENOENT', /nothing/, () => openFile(at('nothing')));
  await refused('ENOENT', /nothing/, () => openFileSource(at('nothing')));
  await refused('EEXIST', /base\.raw/, () =>
    openFile(at('base.raw'), { create: true, exclusive: true }),
  );
  await refused('EINVAL', /a folder, not an image/, () => openFile(folder));
  const readOnly = await openFile(at('base.raw'), { readOnly: true });
  await refused('EROFS', /read-only/, async () => readOnly.write(0, Uint8Array.of(1)));
  await readOnly.close();
  await refused('ECLOSED', /has been closed/, async () => readOnly.read(0, new Uint8Array(1)));
});

Deno.test('a file keeps what is written, and one that another program cuts is told', {
  permissions: ofFolder,
}, async () => {
  const file = await openFile(at('written'), { create: true });
  await file.write(100_000, content);
  await file.flush();
  assertEquals(file.size, 100_000 + content.length);
  const into = new Uint8Array(content.length + 10);
  await file.read(99_990, into);
  assertEquals(into.subarray(0, 10), new Uint8Array(10));
  assertEquals(into.subarray(10), content);
  await refused('EINVAL', /it has/, async () => file.read(file.size, new Uint8Array(1)));
  await file.truncate(5000);
  assertEquals(file.size, 5000);
  await Deno.truncate(at('written'), 100);
  await refused('ECHANGED', /ends before offset/, async () => file.read(0, new Uint8Array(200)));
  await file.close();
});

Deno.test('a base that another program writes meanwhile is not read on', {
  permissions: ofFolder,
}, async () => {
  await Deno.writeFile(at('changing.raw'), new Uint8Array(2048 * KIB).fill(1));
  const disk = await createDisk({ overlay: at('over-changing.qcow2'), base: at('changing.raw') });
  assertEquals(await disk.read(0, 1), Uint8Array.of(1));
  await Deno.writeFile(at('changing.raw'), new Uint8Array(2048 * KIB).fill(2));
  await Deno.utime(at('changing.raw'), new Date(), new Date(Date.now() + 5000));
  await refused('ECHANGED', /has changed since it was opened/, () => disk.read(1024 * KIB, 1));
  await refused('ECHANGED', /has changed since it was opened/, () => disk.stream());
  await disk.close();
});

Deno.test("a flush waits for the device, but for the cache mode 'unsafe'", {
  permissions: ofFolder,
}, async () => {
  const { syncData } = Deno.FsFile.prototype;
  let flushes = 0;
  Deno.FsFile.prototype.syncData = function () {
    flushes++;
    return syncData.call(this);
  };
  try {
    for (const cache of ['unsafe', 'writeback'] as const) {
      const file = await openFile(at(cache), { create: true, cache });
      await file.write(0, content);
      await file.flush();
      await file.close();
      assertEquals(await Deno.readFile(at(cache)), content);
      assertEquals(flushes, cache === 'unsafe' ? 0 : 1);
    }
  } finally {
    Deno.FsFile.prototype.syncData = syncData;
  }
});

Deno.test('large reads of a base go side by side, and close waits for them', {
  permissions: ofFolder,
}, async () => {
  const length = 280 * KIB;
  const parts = Array.from({ length: 40 }, (_, i) => ({
    offset: i * 511,
    into: new Uint8Array(length),
  }));
  const base = await openFileSource(at('base.raw'));
  const reads = parts.map(({ offset, into }) => base.read(offset, into));
  const small = new Uint8Array(100);
  base.read(77, small);
  await base.close();
  await Promise.all(reads);
  assertEquals(small, content.subarray(77, 177));
  for (const { offset, into } of parts)
    assertEquals(into, content.subarray(offset, offset + length));
  await refused('ECLOSED', /has been closed/, async () => base.read(0, new Uint8Array(length)));
  await Deno.writeFile(at('cut.raw'), content);
  const cut = await openFileSource(at('cut.raw'));
  await Deno.truncate(at('cut.raw'), 1000);
  await refused('ECHANGED', /ends before offset 1000/, async () =>
    cut.read(0, new Uint8Array(length)),
  );
  await cut.close();
});
