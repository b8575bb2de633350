/**
 * What becomes of a broken assertion: the engine is used no more, and the error names the place.
 */
import { readFile } from 'node:fs/promises';
import { expect, it } from 'vitest';
import { systemClock } from '../../hosts/api/clock.ts';
import { Engine } from '../../hosts/disk/driver/engine.ts';
import { MemoryRuntime } from '../support/memory-runtime.ts';

/** No request is of this kind. */
const NO_KIND = 99;
const MEMORY_BYTES = 16 << 20;

it('names the file and line of an assertion that broke, and refuses all that follows', async () => {
  const runtime = new MemoryRuntime();
  const engine = new Engine(await runtime.engine(), MEMORY_BYTES, runtime.codec, systemClock);
  const error = await engine.request(NO_KIND).catch((error: Error) => error);
  expect(error).toMatchObject({ code: 'EIO' });
  const [, file, line] = /\((engine\/[\w/]+\.ts), line (\d+), column \d+\)/.exec(String(error))!;
  const source = await readFile(new URL(`../../${file}`, import.meta.url), 'utf8');
  expect(source.split('\n')[Number(line) - 1]).toContain('assert(kind');
  await expect(engine.request(NO_KIND)).rejects.toBe(error);
});
