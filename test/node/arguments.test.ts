/** Values that the types forbid, which callers without types pass all the same. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import type { BlockFile, BlockSource } from '../../hosts/api/block.ts';
import { MillraceError } from '../../hosts/api/errors.ts';
import type { ImageFormat } from '../../hosts/api/image.ts';
import type { OnError } from '../../hosts/api/job.ts';
import { openHttp } from '../../hosts/bases/http/http.ts';
import { commitWith } from '../../hosts/disk/commit.ts';
import { checkDiskWith } from '../../hosts/disk/open.ts';
import { rebaseWith } from '../../hosts/disk/rebase.ts';
import { createHandler } from '../../hosts/faces/http/handler.ts';
import { NbdServer, serveNbd } from '../../hosts/faces/nbd/server.ts';
import { openFile } from '../../hosts/node/file.ts';
import { listenNbd } from '../../hosts/node/nbd.ts';
import { Bench, diskOver, MIB } from '../job/bench.ts';
import { MemoryFile } from '../support/memory-file.ts';

/** What every object has, and no option is. */
const INHERITED = 'toString';
const BACKING_FORMAT = 0xe2792aca;

async function newBench(): Promise<Bench> {
  const bench = new Bench();
  bench.addBase(MIB);
  await (await bench.create()).close();
  return bench;
}

it('formats and policies are those that there are', async () => {
  const { runtime } = await newBench();
  for (const format of [INHERITED, 'qcow'] as string[] as ImageFormat[]) {
    const refused = {
      code: 'EUNSUPPORTED',
      message: expect.stringMatching(
        `^the format '${format}' is not supported: must be raw, qcow2, `,
      ),
    };
    await expect(runtime.open({ overlay: 'overlay.qcow2', format })).rejects.toMatchObject(refused);
    await expect(
      runtime.open({ overlay: 'overlay.qcow2', baseFormat: format }),
    ).rejects.toMatchObject(refused);
    await expect(
      runtime.create({ overlay: 'new.qcow2', base: 'base.raw', baseFormat: format }),
    ).rejects.toMatchObject(refused);
  }
  const disk = await runtime.open({ overlay: 'overlay.qcow2' });
  await expect(disk.stream({ onError: INHERITED as OnError })).rejects.toMatchObject({
    code: 'EINVAL',
    message: expect.stringMatching(/onError is/),
  });
  for (const base of [0, -1, NaN, 1.5, 2 ** 32 + 1, 'other.raw']) {
    await expect(disk.stream({ base }), String(base)).rejects.toMatchObject({
      code: 'EINVAL',
      message: expect.stringContaining(`down to '${base}'`),
    });
  }
  await disk.close();
});

it('a backing format in the header is one that there is', async () => {
  const { runtime } = await newBench();
  const bytes = runtime.file('overlay.qcow2').bytes;
  const view = new DataView(bytes.buffer, bytes.byteOffset);
  let at = view.getUint32(100);
  while (view.getUint32(at) !== BACKING_FORMAT) at += 8 + Math.ceil(view.getUint32(at + 4) / 8) * 8;
  view.setUint32(at + 4, INHERITED.length);
  bytes.set(new TextEncoder().encode(INHERITED), at + 8);
  runtime.add('overlay.qcow2', bytes);
  await expect(runtime.open({ overlay: 'overlay.qcow2' })).rejects.toMatchObject({
    code: 'EUNSUPPORTED',
    message: expect.stringMatching(/'toString'/),
  });
});

it('a repair is one that there is', async () => {
  const { runtime } = await newBench();
  const disk = await runtime.open({ overlay: 'overlay.qcow2' });
  for (const repair of [INHERITED, 'everything'] as string[] as 'all'[]) {
    await expect(disk.check({ repair })).rejects.toMatchObject({ code: 'EINVAL' });
    await expect(
      checkDiskWith(runtime, { overlay: 'overlay.qcow2', repair }),
    ).rejects.toMatchObject({ code: 'EINVAL' });
  }
  await disk.close();
});

it('data is a Uint8Array, as which a Buffer counts', async () => {
  const { runtime } = await newBench();
  const disk = await runtime.open({ overlay: 'overlay.qcow2' });
  for (const data of [
    new Uint16Array(512),
    new ArrayBuffer(512),
    'text',
    [1, 2, 3],
    undefined,
    null,
  ]) {
    await expect(disk.write(0, data as unknown as Uint8Array)).rejects.toMatchObject({
      code: 'EINVAL',
      message: 'cannot write: data is a Uint8Array',
    });
  }
  await disk.write(0, Buffer.from('text'));
  expect(Buffer.from(await disk.read(0, 4)).toString()).toBe('text');
  await disk.close();
});

it('an overlay is a path or a file, and a base may be a URL', async () => {
  const { runtime } = await newBench();
  const message = expect.stringMatching(/^the (overlay|base) is a path /);
  for (const wrong of [
    undefined,
    null,
    7,
    {},
    new URL('file:///overlay.qcow2'),
    Buffer.alloc(512),
  ] as unknown[] as string[]) {
    await expect(runtime.open({ overlay: wrong })).rejects.toMatchObject({
      code: 'EINVAL',
      message,
    });
    await expect(runtime.create({ overlay: wrong, size: MIB })).rejects.toMatchObject({
      code: 'EINVAL',
      message,
    });
    await expect(checkDiskWith(runtime, { overlay: wrong })).rejects.toMatchObject({
      code: 'EINVAL',
      message,
    });
    if (wrong === undefined || wrong === null || (wrong as unknown) instanceof URL) continue;
    await expect(runtime.open({ overlay: 'overlay.qcow2', base: wrong })).rejects.toMatchObject({
      code: 'EINVAL',
      message,
    });
    await expect(runtime.create({ overlay: 'new.qcow2', base: wrong })).rejects.toMatchObject({
      code: 'EINVAL',
      message,
    });
  }
});

it('a depth and a speed are numbers that the engine can take, however large', async () => {
  const { runtime } = await newBench();
  const disk = await runtime.open({ overlay: 'overlay.qcow2' });
  const depths = async (depth: number): Promise<number[]> => {
    const found = [];
    for await (const extent of disk.map(0, disk.size, { depth })) found.push(extent.depth);
    return found;
  };
  for (const depth of [-1, NaN, 0.5, Infinity])
    await expect(depths(depth)).rejects.toMatchObject({ code: 'EINVAL' });
  expect(await depths(2 ** 32)).toEqual(await depths(0));
  expect(await depths(Number.MAX_SAFE_INTEGER)).toEqual(await depths(0));
  await disk.stream({ nonblock: true, speed: 1e300 });
  expect(await disk.info()).toMatchObject({ status: 1, speed: Number.MAX_SAFE_INTEGER });
  await disk.setSpeed(1e300);
  await disk.abort();
  await disk.close();
});

it('the image to commit into and the new base of a rebase are ones that there are', async () => {
  const { runtime } = await newBench();
  for (const base of [0, 0.5, 1.5, 2, -1, NaN, 'other.raw']) {
    await expect(commitWith(runtime, { overlay: 'overlay.qcow2', base })).rejects.toMatchObject({
      code: 'EINVAL',
      message: expect.stringContaining(`into '${base}'`),
    });
  }
  for (const base of [undefined, 7, {}, new MemoryFile('own')] as unknown[] as string[]) {
    await expect(rebaseWith(runtime, { overlay: 'overlay.qcow2', base })).rejects.toMatchObject({
      code: 'EINVAL',
      message: expect.stringMatching(/the base is a path or a URL/),
    });
  }
});

it('a read of more than there can be memory for is refused', async () => {
  const { runtime } = await newBench();
  const disk = await runtime.create({ overlay: 'large.qcow2', size: 2 ** 44 });
  await expect(disk.read(0, 2 ** 44)).rejects.toMatchObject({
    code: 'EINVAL',
    message: expect.stringMatching(/read them in pieces/),
  });
  await disk.close();
});

/** A base of ones, but for what the caller does otherwise. */
function baseOf(other: Record<string, unknown>): BlockSource {
  return {
    size: MIB,
    name: 'own',
    read: (_: number, into: Uint8Array) => void into.fill(1),
    close() {},
    ...other,
  } as BlockSource;
}

function overlayOf(other: Record<string, unknown>): BlockFile {
  return Object.assign(new MemoryFile('own'), other);
}

it("a file of the caller's own has all that a file has", async () => {
  const { runtime } = await newBench();
  const without = [
    { size: undefined },
    { size: -1 },
    { size: 0.5 },
    { size: 2 ** 53 },
    { size: 512n },
    { close: undefined },
  ];
  for (const lack of without) {
    await expect(
      runtime.create({ overlay: 'new.qcow2', base: baseOf(lack) }),
    ).rejects.toMatchObject({
      code: 'EINVAL',
      message: expect.stringMatching(/^the base is .* size \(bytes\), read and close$/),
    });
    await expect(runtime.open({ overlay: baseOf(lack), readOnly: true })).rejects.toMatchObject({
      code: 'EINVAL',
      message: expect.stringMatching(/^the overlay is .* size \(bytes\), read and close/),
    });
  }
  for (const lack of [
    { flush: undefined },
    { truncate: undefined },
    { close: undefined },
    { write: 7 },
  ]) {
    await expect(runtime.create({ overlay: overlayOf(lack), size: MIB })).rejects.toMatchObject({
      code: 'EINVAL',
      message: expect.stringMatching(/write, flush and truncate/),
    });
  }
  expect(runtime.files.has('new.qcow2')).toBe(false);
});

it("a file of the caller's own that fails without a reason has failed", async () => {
  const { runtime } = await newBench();
  for (const reason of [undefined, null, 0, '', 'a reason']) {
    for (const fail of [
      () => Promise.reject(reason),
      () => {
        throw reason;
      },
    ]) {
      const overlay = `${String(reason)}-${fail}.qcow2`;
      let failing = false;
      const base = baseOf({
        read: (_: number, into: Uint8Array) => (failing ? fail() : void into.fill(1)),
      });
      const disk = await runtime.create({ overlay, base });
      failing = true;
      await expect(disk.read(0, 4)).rejects.toMatchObject({ code: 'EIO' });
      await expect(disk.stream()).rejects.toMatchObject({ code: 'EIO' });
      expect(await disk.remaining()).toBe(MIB);
      failing = false;
      expect(await disk.read(0, 4)).toEqual(new Uint8Array([1, 1, 1, 1]));
      await disk.close();
      for (const call of ['write', 'flush'] as const) {
        const file = overlayOf({});
        const disk = await runtime.create({ overlay: file, size: MIB });
        Object.assign(file, { [call]: fail });
        await expect(
          disk.write(0, new Uint8Array(512)).then(() => disk.flush()),
        ).rejects.toMatchObject({ code: 'EIO' });
        await disk.close().catch(() => {});
      }
    }
  }
});

it("a file of the caller's own may return what it has at hand, or promises that are not ours", async () => {
  const { runtime } = await newBench();
  const fill = (into: Uint8Array): Uint8Array => into.fill(1);
  const ways = {
    bytes: fill,
    nothing: (into: Uint8Array) => (fill(into), null),
    // biome-ignore lint/suspicious/noThenProperty: a file of the caller's own may answer with one
    thenable: (into: Uint8Array) => ({ then: (done: () => void) => (fill(into), done()) }),
  };
  for (const [way, answer] of Object.entries(ways)) {
    const disk = await runtime.create({
      overlay: `${way}.qcow2`,
      base: baseOf({ read: (_: number, into: Uint8Array) => answer(into) }),
    });
    expect(await disk.read(MIB - 4, 4), way).toEqual(new Uint8Array([1, 1, 1, 1]));
    await disk.stream();
    await disk.close();
  }
});

it('options that do not exist are refused, with what was probably meant', async () => {
  const { runtime } = await newBench();
  const refused = (message: RegExp) => ({
    code: 'EINVAL',
    message: expect.stringMatching(message),
  });
  const wrong = (options: object): never => options as never;
  const overlay = 'overlay.qcow2';
  await expect(
    runtime.create(wrong({ overlay: 'new.qcow2', bas: 'base.raw', size: MIB })),
  ).rejects.toMatchObject(refused(/^createDisk has no option 'bas': did you mean 'base'\?$/));
  expect(runtime.files.has('new.qcow2')).toBe(false);
  await expect(runtime.open(wrong({ overlay, readonly: true }))).rejects.toMatchObject(
    refused(/^openDisk has no option 'readonly': did you mean 'readOnly'\?$/),
  );
  await expect(checkDiskWith(runtime, wrong({ overlay, fix: 'all' }))).rejects.toMatchObject(
    refused(/^checkDisk has no option 'fix': it has overlay, format, repair/),
  );
  await expect(commitWith(runtime, wrong({ overlay, keeep: true }))).rejects.toMatchObject(
    refused(/^commitDisk has no option 'keeep': did you mean 'keep'\?$/),
  );
  await expect(
    rebaseWith(runtime, wrong({ overlay, base: null, unsave: 1 })),
  ).rejects.toMatchObject(refused(/^rebaseDisk has no option 'unsave': did you mean 'unsafe'\?$/));
  for (const options of [undefined, null, 'overlay.qcow2']) {
    await expect(runtime.open(options as never)).rejects.toMatchObject(
      refused(/^openDisk takes an object of options$/),
    );
  }
  const disk = await runtime.open({ overlay });
  await expect(disk.stream(wrong({ onerror: 'stop' }))).rejects.toMatchObject(
    refused(/^stream has no option 'onerror': did you mean 'onError'\?$/),
  );
  await expect(disk.resize(MIB / 2, wrong({ shrnk: true }))).rejects.toMatchObject(
    refused(/did you mean 'shrink'/),
  );
  await expect(disk.check(wrong({ [INHERITED]: 'all' }))).rejects.toMatchObject(refused(/^check/));
  // A getter of a class, or a default, would be lost where options are copied.
  class Options {
    readonly compressed = undefined;
    describe(): string {
      return 'a method';
    }
    get onError(): string {
      return 'stop';
    }
  }
  const inherited = refused(/^stream takes .* of the object itself: 'onError' is inherited$/);
  await expect(disk.stream(wrong(new Options()))).rejects.toMatchObject(inherited);
  await expect(disk.stream(wrong(Object.create({ onError: 'stop' })))).rejects.toMatchObject(
    inherited,
  );
  await expect(disk.stream(wrong(Object.create({ onEror: 'stop' })))).rejects.toMatchObject(
    refused(/no option 'onEror': did you mean 'onError'/),
  );
  // As it is with a variable that was misspelt, too.
  await expect(disk.stream(wrong({ onerror: undefined }))).rejects.toMatchObject(
    refused(/no option 'onerror': did you mean 'onError'/),
  );
  // What is undefined is left out, as wrappers have it that hand on what they were given.
  expect(await disk.stream(wrong({ another: undefined }))).toMatchObject({ remaining: 0 });
  await disk.close();
  await expect(openHttp('http://127.0.0.1:9/', wrong({ retrys: 0 }))).rejects.toMatchObject(
    refused(/^openHttp has no option 'retrys': did you mean 'retries'\?$/),
  );
  expect(() => createHandler(wrong({ disks: {}, tokn: 'a' }))).toThrow(
    "createHandler has no option 'tokn': did you mean 'token'?",
  );
  const folder = await mkdtemp(join(tmpdir(), 'millrace-options-'));
  const path = join(folder, 'new.qcow2');
  await expect(openFile(path, wrong({ creat: true }))).rejects.toMatchObject(
    refused(/^openFile has no option 'creat': did you mean 'create'\?$/),
  );
  await rm(folder, { recursive: true });
  expect(() => new NbdServer({}, wrong({ readonly: true }))).toThrow(
    "NbdServer has no option 'readonly': did you mean 'readOnly'?",
  );
  const connection = { readable: new ReadableStream(), writable: new WritableStream() };
  expect(() => serveNbd({}, connection, wrong({ ioTimout: 1 }))).toThrow(
    "NbdServer has no option 'ioTimout': did you mean 'ioTimeout'?",
  );
  const server = new NbdServer({});
  const address = { path: join(tmpdir(), 'never.sock') };
  await expect(listenNbd(server, address, wrong({ tsl: {} }))).rejects.toMatchObject(
    refused(/^listenNbd has no option 'tsl': it has tls$/),
  );
  await expect(
    listenNbd(server, address, wrong({ tls: { cert: 'a', key: 'b', caa: 'c' } })),
  ).rejects.toMatchObject(refused(/^tls of listenNbd has no option 'caa': did you mean 'ca'\?$/));
});

function circular(): Error {
  const error = new Error('round and round');
  error.cause = error;
  return error;
}

it('a failure with a code that is known counts as that code', async () => {
  const quota = new DOMException('no room', 'QuotaExceededError');
  const failures: [unknown, string][] = [
    [Object.assign(new Error('write: no space'), { code: 'ENOSPC' }), 'ENOSPC'],
    [Object.assign(new Error('quota'), { code: 'EDQUOT' }), 'ENOSPC'],
    [quota, 'ENOSPC'],
    [{ code: 'EACCES' }, 'EACCES'],
    [Object.assign(new Error('refused'), { code: 'EPERM' }), 'EACCES'],
    [Object.assign(new Error('odd'), { code: 'ENOTHING' }), 'EIO'],
    // Only the disk itself can know these.
    [Object.assign(new Error('lie'), { code: 'ABORTED' }), 'EIO'],
    [new Error('plain'), 'EIO'],
    [new Error('put failed', { cause: { code: 'ENOSPC' } }), 'ENOSPC'],
    [new Error('put failed', { cause: new Error('why', { cause: quota }) }), 'ENOSPC'],
    [new Error('put failed', { cause: new MillraceError('EACCES', 'a mode') }), 'EACCES'],
    [Object.assign(new Error('wrapped', { cause: quota }), { code: 'EROFS' }), 'EROFS'],
    [new Error('put failed', { cause: new MillraceError('ABORTED', 'ended') }), 'EIO'],
    [circular(), 'EIO'],
  ];
  for (const [thrown, code] of failures) {
    const { bench, disk } = await diskOver(MIB);
    bench.fails = ({ kind, file }) =>
      kind === 'write' && file === 'overlay.qcow2' ? (thrown as Error) : undefined;
    const error = await disk.stream().catch((error) => error);
    expect(error, String(thrown)).toMatchObject({ code });
    if (thrown instanceof Error) expect(error.message).toContain(thrown.message);
    bench.fails = () => undefined;
    await disk.close().catch(() => {});
  }
});

it('a flush that fails is told with its code, whenever it is told', async () => {
  for (const code of ['ENOSPC', 'EACCES', 'EIO']) {
    const bench = new Bench();
    bench.addBase(MIB);
    bench.fails = ({ kind }) =>
      kind === 'flush' ? Object.assign(new Error(`no flush: ${code}`), { code }) : undefined;
    const told = { code, message: expect.stringContaining(`no flush: ${code}`) };
    await expect(bench.create()).rejects.toMatchObject(told);
    bench.fails = () => undefined;
    const disk = await bench.create();
    bench.fails = ({ kind }) =>
      kind === 'flush' ? Object.assign(new Error(`no flush: ${code}`), { code }) : undefined;
    await disk.write(0, new Uint8Array(512));
    await expect(disk.flush()).rejects.toMatchObject(told);
    await expect(disk.flush()).rejects.toMatchObject(told);
    await expect(disk.close()).rejects.toMatchObject(told);
  }
});

it("onError: 'enospc' pauses when a file of the caller's own is full", async () => {
  const { bench, disk } = await diskOver(MIB);
  bench.fails = ({ kind, file }) =>
    kind === 'write' && file === 'overlay.qcow2'
      ? new DOMException('no room', 'QuotaExceededError')
      : undefined;
  await disk.stream({ onError: 'enospc', nonblock: true });
  await bench.settle();
  expect(await disk.info()).toMatchObject({ status: 1, paused: true, error: { code: 'ENOSPC' } });
  bench.fails = () => undefined;
  await disk.resume();
  await bench.settle();
  expect(await disk.info()).toMatchObject({ status: 0, remaining: 0 });
  await disk.close();
});
