/** What a check that takes a while tells of how far it is. */
import { expect, it } from 'vitest';
import type { Runtime } from '../../hosts/api/runtime.ts';
import { checkDiskWith } from '../../hosts/disk/open.ts';
import { runCommandLine } from '../../hosts/faces/cli/program.ts';
import { platformOver } from '../cli/program.ts';
import { MemoryRuntime } from '../support/memory-runtime.ts';

const GIB = 1024 ** 3;
const SIZE = 48 * GIB;
/** So much of the disk has its entries in one L2 table. */
const TABLE_BYTES = GIB / 2;
/** A read of a table takes so long. */
const READ_MS = 150;

async function slowImage(): Promise<MemoryRuntime> {
  const runtime = new MemoryRuntime();
  const disk = await runtime.create({ overlay: 'image', size: SIZE });
  for (let at = 0; at < SIZE; at += TABLE_BYTES) await disk.write(at, new Uint8Array(512).fill(1));
  await disk.close();
  runtime.plan = async (_, perform) => {
    await perform();
    runtime.clock.advance(READ_MS);
  };
  return runtime;
}

/** Its methods as an object's own: the command line copies a runtime. */
function plain(runtime: MemoryRuntime): Runtime {
  return {
    clock: runtime.clock,
    codec: runtime.codec,
    engine: () => runtime.engine(),
    openOverlay: (name, mode) => runtime.openOverlay(name, mode),
    openSource: (location) => runtime.openSource(location),
    resolve: (name) => runtime.resolve(name),
    record: (base) => runtime.record(base),
  };
}

async function told(data: boolean): Promise<number[]> {
  const runtime = await slowImage();
  const parts: number[] = [];
  await checkDiskWith(runtime, {
    overlay: 'image',
    data,
    onProgress(done, total) {
      expect(total).toBe(SIZE);
      parts.push(done);
    },
  });
  return parts;
}

it.each([false, true])('goes on from the start to the end of the disk (data: %s)', async (data) => {
  const parts = await told(data);
  expect(new Set(parts).size).toBeGreaterThan(SIZE / TABLE_BYTES / 4);
  expect(parts).toEqual(parts.toSorted((one, other) => one - other));
  expect(parts[0]).toBeLessThan(SIZE / 4);
  expect(parts.at(-1)).toBeGreaterThan(SIZE * 0.9);
  expect(parts.at(-1)).toBeLessThanOrEqual(SIZE);
});

it('is shown on a terminal as a bar, which is gone at the end; elsewhere not at all', async () => {
  for (const isTTY of [true, false]) {
    const { platform, written } = platformOver(plain(await slowImage()));
    Object.assign(platform.stderr, { isTTY, columns: 80 });
    const exitCode = await runCommandLine(platform, ['check', 'image']);
    expect({ exitCode, ...written }).toMatchObject({ exitCode: 0 });
    expect(written.stdout).toMatch(/^No errors were found on the image\.\n96\/786432 = /);
    if (isTTY) expect(written.stderr).toMatch(/\[#*-+\] +\d+% {2}[^%]* of 48 GiB/);
    else expect(written.stderr).toBe('');
  }
});
