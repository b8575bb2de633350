/** Values that the types forbid, which callers without types pass all the same. */
import { expect, it } from 'vitest';
import type { ImageFormat, OnError } from '../../hosts/api.ts';
import { checkDiskWith } from '../../hosts/open.ts';
import { Bench, MIB } from '../job/bench.ts';

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
  for (const format of [INHERITED, 'vmdk'] as string[] as ImageFormat[]) {
    const refused = { code: 'EUNSUPPORTED', message: `the format '${format}' is not supported: raw or qcow2` };
    await expect(runtime.open({ overlay: 'overlay.qcow2', format })).rejects.toMatchObject(refused);
    await expect(runtime.open({ overlay: 'overlay.qcow2', baseFormat: format })).rejects.toMatchObject(refused);
    await expect(runtime.create({ overlay: 'new.qcow2', base: 'base.raw', baseFormat: format })).rejects.toMatchObject(refused);
  }
  const disk = await runtime.open({ overlay: 'overlay.qcow2' });
  await expect(disk.stream({ onError: INHERITED as OnError })).rejects.toMatchObject({ code: 'EINVAL', message: expect.stringMatching(/onError is/) });
  for (const base of [0, -1, NaN, 1.5, 2 ** 32 + 1, 'other.raw']) {
    await expect(disk.stream({ base }), String(base)).rejects.toMatchObject({ code: 'EINVAL', message: expect.stringContaining(`down to '${base}'`) });
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
  await expect(runtime.open({ overlay: 'overlay.qcow2' })).rejects.toMatchObject({ code: 'EUNSUPPORTED', message: expect.stringMatching(/'toString'/) });
});

it('a repair is one that there is', async () => {
  const { runtime } = await newBench();
  const disk = await runtime.open({ overlay: 'overlay.qcow2' });
  for (const repair of [INHERITED, 'everything'] as string[] as 'all'[]) {
    await expect(disk.check({ repair })).rejects.toMatchObject({ code: 'EINVAL' });
    await expect(checkDiskWith(runtime, { overlay: 'overlay.qcow2', repair })).rejects.toMatchObject({ code: 'EINVAL' });
  }
  await disk.close();
});

it('data is a Uint8Array, as which a Buffer counts', async () => {
  const { runtime } = await newBench();
  const disk = await runtime.open({ overlay: 'overlay.qcow2' });
  for (const data of [new Uint16Array(512), new ArrayBuffer(512), 'text', [1, 2, 3], undefined, null]) {
    await expect(disk.write(0, data as unknown as Uint8Array)).rejects.toMatchObject({ code: 'EINVAL', message: 'cannot write: data is a Uint8Array' });
  }
  await disk.write(0, Buffer.from('text'));
  expect(Buffer.from(await disk.read(0, 4)).toString()).toBe('text');
  await disk.close();
});

it('an overlay is a path or a file, and a base may be a URL', async () => {
  const { runtime } = await newBench();
  const message = expect.stringMatching(/^the (overlay|base) is a path /);
  for (const wrong of [undefined, null, 7, {}, new URL('file:///overlay.qcow2'), Buffer.alloc(512)] as unknown[] as string[]) {
    await expect(runtime.open({ overlay: wrong })).rejects.toMatchObject({ code: 'EINVAL', message });
    await expect(runtime.create({ overlay: wrong, size: MIB })).rejects.toMatchObject({ code: 'EINVAL', message });
    await expect(checkDiskWith(runtime, { overlay: wrong })).rejects.toMatchObject({ code: 'EINVAL', message });
    if (wrong === undefined || wrong === null || (wrong as unknown) instanceof URL) continue;
    await expect(runtime.open({ overlay: 'overlay.qcow2', base: wrong })).rejects.toMatchObject({ code: 'EINVAL', message });
    await expect(runtime.create({ overlay: 'new.qcow2', base: wrong })).rejects.toMatchObject({ code: 'EINVAL', message });
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
  for (const depth of [-1, NaN, 0.5, Infinity]) await expect(depths(depth)).rejects.toMatchObject({ code: 'EINVAL' });
  expect(await depths(2 ** 32)).toEqual(await depths(0));
  expect(await depths(Number.MAX_SAFE_INTEGER)).toEqual(await depths(0));
  await disk.stream({ nonblock: true, speed: 1e300 });
  expect(await disk.info()).toMatchObject({ status: 1, speed: Number.MAX_SAFE_INTEGER });
  await disk.setSpeed(1e300);
  await disk.abort();
  await disk.close();
});
