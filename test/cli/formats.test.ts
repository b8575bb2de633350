/**
 * Images of formats that are not supported: each command refuses them, and names its own option.
 */

import { existsSync } from 'node:fs';
import { readFile, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { millraceHere, withFolder } from './program.ts';

const BYTES = 4096;

function file(start: string, end = ''): Buffer {
  const bytes = Buffer.alloc(BYTES, 7);
  bytes.write(start, 'latin1');
  bytes.write(end, BYTES - 512, 'latin1');
  return bytes;
}

const KINDS: Record<string, Buffer> = {
  'page.html': Buffer.from('<!DOCTYPE html><html>Sign in</html>'.padEnd(BYTES)),
  'error.json': Buffer.from('{"error": "not found"}'.padEnd(BYTES)),
  'a.7z': file('7z\xbc\xaf\x27\x1c'),
  'a.bochs': file('Bochs Virtual HD Image\0'),
  'a.cloop': file('#!/bin/sh\n#V2.0 Format\nmodprobe cloop'),
  'a.dmg': file('', 'koly'),
};

/** What a command is given to read an image as it is, and how it ends then. */
const COMMANDS: [
  args: (image: string, ...option: string[]) => string[],
  option: RegExp,
  ends: number,
][] = [
  [(image, ...option) => ['info', image, ...option], /-f raw/, 0],
  [(image, ...option) => ['map', image, ...option], /-f raw/, 0],
  [(image, ...option) => ['convert', image, 'copy', ...option], /-f raw/, 0],
  [(image, ...option) => ['check', image, ...option], /-f raw/, 63],
  [
    (image, ...option) => ['create', 'new.qcow2', '--base', image, ...option],
    /--base-format raw/,
    0,
  ],
  [(image, ...option) => ['rebase', 'o.qcow2', '--base', image, ...option], /--base-format raw/, 0],
];

/** Runs each command with each image, which `place` leads to, in the current folder. */
async function tryAll(place: (name: string) => string, isUrl: boolean): Promise<void> {
  for (const [name, bytes] of Object.entries(KINDS))
    for (const [args, option, ends] of COMMANDS) {
      const [command] = args('');
      if (isUrl && command === 'check') continue;
      const refused = await millraceHere(...args(place(name)));
      expect({ name, command, ...refused }).toMatchObject({ exitCode: 1, stdout: '' });
      expect(refused.stderr).toMatch(/^millrace: cannot open [^\n]*: it is [^\n]*\n$/);
      expect(refused.stderr).toMatch(option);
      expect(existsSync('copy') || existsSync('new.qcow2')).toBe(false);
      const given = /base/.test(String(option)) ? '-F' : '-f';
      const taken = await millraceHere(...args(place(name), given, 'raw'));
      expect({ name, command, exitCode: taken.exitCode }).toEqual({
        name,
        command,
        exitCode: ends,
      });
      if (command === 'convert') expect((await readFile('copy')).equals(bytes)).toBe(true);
      await Promise.all(['copy', 'new.qcow2'].map((made) => rm(made, { force: true })));
    }
}

/** The commands take paths as they are given, so that the process stands in the folder. */
async function inFolder(use: (folder: string) => Promise<void>): Promise<void> {
  const before = process.cwd();
  await withFolder(async (folder) => {
    process.chdir(folder);
    await millraceHere('create', 'o.qcow2', '--size', '1M');
    await use(folder).finally(() => process.chdir(before));
  });
}

it(
  'local images',
  () =>
    inFolder(async (folder) => {
      for (const [name, bytes] of Object.entries(KINDS)) await writeFile(join(folder, name), bytes);
      await tryAll((name) => name, false);
    }),
  60_000,
);

it(
  'images on a server',
  () =>
    inFolder(async () => {
      const server = createServer((request, response) => {
        const bytes = KINDS[request.url!.slice(1)];
        const [, first, last] = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '')!;
        const end = Math.min(Number(last) + 1, bytes.length);
        response
          .writeHead(206, {
            ETag: '"1"',
            'Content-Range': `bytes ${first}-${end - 1}/${bytes.length}`,
          })
          .end(bytes.subarray(Number(first), end));
      });
      await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
      const { port } = server.address() as AddressInfo;
      await tryAll((name) => `http://127.0.0.1:${port}/${name}`, true);
      server.closeAllConnections();
      server.close();
    }),
  60_000,
);

it('an overlay that is written is qcow2, and is offered nothing else', () =>
  inFolder(async (folder) => {
    await writeFile(join(folder, 'page.html'), KINDS['page.html']);
    for (const args of [
      ['stream'],
      ['commit'],
      ['rebase', '--no-base'],
      ['serve', '--listen', '0'],
    ]) {
      const { exitCode, stderr } = await millraceHere(...args, 'page.html');
      expect({ args, exitCode }).toEqual({ args, exitCode: 1 });
      expect(stderr).toMatch(/^millrace: cannot open page\.html: it is a page[^\n]*again\n$/);
    }
    const served = await millraceHere('serve', '--listen', '0', '-f', 'raw', 'page.html');
    expect(served.stderr).toMatch(/an overlay is a qcow2 image, and this is raw data/);
  }));

it('a base that is recorded without its format: the command that records it helps', () =>
  inFolder(async (folder) => {
    await writeFile(join(folder, 'page.html'), KINDS['page.html']);
    await millraceHere('rebase', '-u', 'o.qcow2', '--base', 'page.html', '-F', 'raw');
    const overlay = await readFile(join(folder, 'o.qcow2'));
    // The header extension of the format becomes one that is passed over.
    overlay.writeUInt32BE(0x12345678, overlay.indexOf(Buffer.from([0xe2, 0x79, 0x2a, 0xca])));
    await writeFile(join(folder, 'o.qcow2'), overlay);
    for (const command of ['map', 'stream', 'commit']) {
      const { exitCode, stderr } = await millraceHere(command, 'o.qcow2');
      expect({ command, exitCode }).toEqual({ command, exitCode: 1 });
      expect(stderr).toContain('millrace rebase -u o.qcow2 --base page.html --base-format raw');
    }
    const helped = await millraceHere(
      ...'rebase -u o.qcow2 --base page.html --base-format raw'.split(' '),
    );
    expect(helped).toMatchObject({ exitCode: 0, stderr: '' });
    expect(await millraceHere('map', 'o.qcow2')).toMatchObject({ exitCode: 0, stderr: '' });
  }));
