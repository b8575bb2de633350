/** What is killed while it makes an image leaves none, or a whole one, and is in nobody's way. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, expect, it } from 'vitest';
import { createDisk, openDisk } from '../../hosts/node/index.ts';
import { nodeRuntime } from '../../hosts/node/runtime.ts';
import { makeContent } from '../fixtures/content.ts';
import { bundle } from '../peers/bundle.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { check, compare, info } from '../support/qemu.ts';

const CONTENT = makeContent('random', 3, 640 * 1024);

let program: string;
let programs: string;
let folder: string;
const at = (name: string): string => join(folder, name);

beforeAll(async () => {
  programs = mkdtempSync(join(tmpdir(), 'millrace-maker-'));
  program = await bundle('../node/killed-maker.ts', programs);
});

afterAll(() => rmSync(programs, { recursive: true }));

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'millrace-half-made-'));
  writeFileSync(at('base.raw'), CONTENT);
});

afterEach(() => rmSync(folder, { recursive: true }));

/** Whether the maker came to its end before it was to kill itself. */
async function make(what: 'create' | 'copy', number: number): Promise<boolean> {
  const child = spawn(process.execPath, [program, what, String(number), folder], {
    stdio: ['ignore', 'ignore', 'inherit'],
  });
  const [exitCode, signal] = (await once(child, 'exit')) as [number | null, string | null];
  expect([0, 'SIGKILL']).toContain(exitCode ?? signal);
  return exitCode === 0;
}

async function isWhole(what: 'create' | 'copy'): Promise<void> {
  expect((await check(at('made'))).exitCode).toBe(0);
  expect(await compare(at('made'), at('base.raw'), { formatB: 'raw' })).toMatchObject({
    identical: true,
  });
  const { 'backing-filename': base } = await info(at('made'));
  expect(base).toBe(what === 'create' ? at('base.raw') : undefined);
}

describeWithPeer(['qemu-img'], 'an image whose making is killed', () => {
  // A copy is made of more operations, most of them alike.
  it.each([
    ['create', 1],
    ['copy', 3],
  ] as const)('by %s, at whatever operation, is not there or whole', async (what, step) => {
    let [killed, whole] = [0, 0];
    for (let number = 1; !(await make(what, number)); number += step) {
      killed++;
      if (existsSync(at('made'))) {
        whole++;
        await isWhole(what);
        rmSync(at('made'));
        continue;
      }
      // Whoever makes it next is not kept from it by what is left.
      if (number % 4 > 0) continue;
      await (await createDisk({ overlay: at('made'), size: 512 })).close();
      expect(readdirSync(folder).sort()).toEqual(['base.raw', 'made']);
      rmSync(at('made'));
    }
    expect(killed).toBeGreaterThan(8);
    expect(whole).toBeGreaterThan(0);
    expect(killed - whole).toBeGreaterThan(4);
    await isWhole(what);
    expect(readdirSync(folder).sort()).toEqual(['base.raw', 'made']);
  });
});

it('an image does not take the place of what has come to be there while it was made', async () => {
  const file = await nodeRuntime.openOverlay(at('made'), { create: true });
  await file.write(0, new Uint8Array(512));
  writeFileSync(at('made'), 'of another program');
  await expect(file.publish!()).rejects.toMatchObject({
    code: 'EEXIST',
    message: `cannot create '${at('made')}': file already exists (EEXIST)`,
  });
  await file.close();
  expect(readFileSync(at('made'), 'utf8')).toBe('of another program');
  expect(readdirSync(folder).sort()).toEqual(['base.raw', 'made']);
  await expect(createDisk({ overlay: at('made'), size: 512 })).rejects.toMatchObject({
    code: 'EEXIST',
  });
  await expect(openDisk({ overlay: at('missing') })).rejects.toMatchObject({ code: 'ENOENT' });
  expect(readFileSync(at('made'), 'utf8')).toBe('of another program');
});
