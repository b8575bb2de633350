/** What a disk tells of its images' headers, when their pages have left the engine's cache. */
import { expect, it } from 'vitest';
import { systemClock } from '../../hosts/api/clock.ts';
import { MemoryRuntime } from '../support/memory-runtime.ts';

const MIB = 1 << 20;
const GIB = 1 << 30;
/** Tables of the base, each in a page of its own: more than go into the least memory. */
const TABLES = 64;

it('a base tells its own base however many of its tables have been read, and the overlay tells its new one', async () => {
  const runtime = Object.assign(new MemoryRuntime(), { clock: systemClock });
  runtime.add('lowest', new Uint8Array(MIB).fill(5));
  const middle = await runtime.create({ overlay: 'middle', base: 'lowest', size: TABLES * GIB });
  for (let i = 0; i < TABLES; i++) await middle.write(i * GIB, new Uint8Array(4096).fill(i + 1));
  await middle.close();
  const disk = await runtime.create({
    overlay: 'o',
    base: 'middle',
    followChain: true,
    memory: 8 * MIB,
  });
  const recorded = async () =>
    (await disk.images()).map(({ backingFile, backingFormat }) => [backingFile, backingFormat]);
  const readAll = async (): Promise<void> => {
    for (let i = 0; i < TABLES; i++) await disk.read(i * GIB, 4096);
  };
  await readAll();
  expect(await recorded()).toEqual([
    ['middle', 'qcow2'],
    ['lowest', 'raw'],
    [undefined, undefined],
  ]);
  await disk.stream({ base: 'lowest' });
  await readAll();
  expect((await recorded()).map(([name]) => name)).toEqual(['lowest', undefined]);
  await disk.close();
}, 20_000);
