/**
 * What an overlay records of its base so that another one is noticed, where that is longer than a
 * header takes.
 */
import { expect, it } from 'vitest';
import { commitWith } from '../../hosts/disk/commit.ts';
import { rebaseWith } from '../../hosts/disk/rebase.ts';
import { MemoryRuntime } from '../support/memory-runtime.ts';

const MIB = 1 << 20;
const LONG = 'x'.repeat(300);
/** With the size before it, this fills what a header takes. */
const FULL = `etag "${'x'.repeat(256 - JSON.stringify({ size: MIB, identity: 'etag ""' }).length - 2)}"`;

function addBase(runtime: MemoryRuntime, name: string, identity: string, size = MIB): void {
  Object.assign(runtime.add(name, new Uint8Array(size).fill(5)), { identity });
}

async function isOpened(runtime: MemoryRuntime): Promise<void> {
  await (await runtime.open({ overlay: 'o' })).close();
}

it.each([
  ['the same ETag', `etag "${LONG}"`, `etag "${LONG}"`, true],
  ['another of the same length', `etag "${LONG}"`, `etag "y${LONG.slice(1)}"`, false],
  ['a short one after a long one', `etag "${LONG}"`, 'etag "v2"', false],
  ['a long one after a short one', 'etag "v1"', `etag "${LONG}"`, false],
  ['another kind of identity', `etag "${LONG}"`, 'modified Tue, 03 Mar 2026 10:00:00 GMT', true],
  [
    'the same words of the caller, of few letters and many bytes',
    'é'.repeat(150),
    'é'.repeat(150),
    true,
  ],
  ['other words of the caller', 'é'.repeat(150), 'è'.repeat(150), false],
  ['the longest ETag that is recorded as it is', FULL, FULL, true],
  ['another than that', FULL, FULL.replace('x', 'y'), false],
])('%s', async (_, before, after, isTaken) => {
  const runtime = new MemoryRuntime();
  addBase(runtime, 'b', before);
  await (await runtime.create({ overlay: 'o', base: 'b' })).close();
  addBase(runtime, 'b', after);
  if (isTaken) await isOpened(runtime);
  else
    await expect(isOpened(runtime)).rejects.toMatchObject({
      code: 'ECHANGED',
      message: expect.stringMatching(/it was .*, and is /),
    });
  addBase(runtime, 'b', after, 2 * MIB);
  await expect(isOpened(runtime)).rejects.toMatchObject({
    code: 'ECHANGED',
    message: expect.stringContaining(`it had ${MIB} bytes`),
  });
});

it('is recorded as it is where it fits, as it was before', async () => {
  const runtime = new MemoryRuntime();
  addBase(runtime, 'b', FULL);
  await (await runtime.create({ overlay: 'o', base: 'b' })).close();
  expect(
    Buffer.from(runtime.file('o').bytes).includes(JSON.stringify({ size: MIB, identity: FULL })),
  ).toBe(true);
});

it('is recorded by a rebase, a commit and a job that ends above a deeper base too', async () => {
  const runtime = new MemoryRuntime();
  const isNoticed = async (base: string): Promise<void> => {
    await isOpened(runtime);
    Object.assign(runtime.file(base), { identity: `etag "z${LONG}"` });
    await expect(isOpened(runtime)).rejects.toMatchObject({ code: 'ECHANGED' });
    Object.assign(runtime.file(base), { identity: `etag "${base}${LONG}"` });
  };
  for (const name of ['a', 'b']) addBase(runtime, name, `etag "${name}${LONG}"`);
  await (await runtime.create({ overlay: 'o', base: 'a' })).close();
  await rebaseWith(runtime, { overlay: 'o', base: 'b' });
  await isNoticed('b');
  await commitWith(runtime, { overlay: 'o' });
  await isNoticed('b');
  runtime.files.delete('o');
  await (await runtime.create({ overlay: 'm', base: 'b' })).close();
  Object.assign(runtime.file('m'), { identity: `etag "m${LONG}"` });
  const disk = await runtime.create({ overlay: 'o', base: 'm', followChain: true });
  await disk.stream({ base: 'b' });
  await disk.close();
  await isNoticed('b');
});
