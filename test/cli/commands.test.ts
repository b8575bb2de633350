/** Each command and its options, as a user runs them. */
import { existsSync } from 'node:fs';
import {
  copyFile,
  mkdir,
  open,
  readFile,
  rename,
  rm,
  stat,
  truncate,
  utimes,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { describe, expect, it } from 'vitest';
import { MillraceError } from '../../hosts/api/errors.ts';
import type { Runtime } from '../../hosts/api/runtime.ts';
import { runCommandLine } from '../../hosts/faces/cli/program.ts';
import { nodeRuntime } from '../../hosts/node/runtime.ts';
import { serveFile } from '../demo/file-server.ts';
import { makeContent } from '../fixtures/content.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { check, compare, createImage, info, qemuIo } from '../support/qemu.ts';
import { millrace, platformOver, withFolder } from './program.ts';

const MIB = 1024 * 1024;
const BASE_BYTES = 4 * MIB;

/** A raw base: data, then zeros, then data. */
async function makeBase(folder: string): Promise<void> {
  const bytes = new Uint8Array(BASE_BYTES);
  bytes.set(makeContent('text', 1, MIB), 0);
  bytes.set(makeContent('random', 2, MIB), 3 * MIB);
  await writeFile(join(folder, 'base.raw'), bytes);
}

describe('the program', () => {
  it('tells an error as JSON to whoever asks for that', async () => {
    const runtime: Runtime = {
      ...nodeRuntime,
      openSource: () => {
        throw new MillraceError('EUNSUPPORTED', 'it sends no ranges', { reason: 'no-ranges' });
      },
    };
    const { platform, written } = platformOver(runtime);
    expect(await runCommandLine(platform, ['map', '--json', 'base.raw'])).toBe(1);
    expect(written.stderr.split('\n')).toHaveLength(2);
    expect(JSON.parse(written.stderr)).toMatchObject({
      code: 'EUNSUPPORTED',
      reason: 'no-ranges',
      message: expect.stringContaining('it sends no ranges'),
    });
  });

  it(
    'tells its version, and its help with an example for each command',
    () =>
      withFolder(async (cwd) => {
        expect(await millrace(['--version'], { cwd })).toMatchObject({
          exitCode: 0,
          stdout: expect.stringMatching(/^\d+\.\d+\.\d+\n$/),
        });
        for (const command of [
          'create',
          'stream',
          'info',
          'map',
          'check',
          'convert',
          'commit',
          'rebase',
          'serve',
          'abort',
          'resume',
          'completion',
        ]) {
          const { exitCode, stdout } = await millrace([command, '-h'], { cwd });
          expect(exitCode).toBe(0);
          expect(stdout).toMatch(
            new RegExp(`Usage: millrace ${command} .*Example:\\n  millrace ${command} `, 's'),
          );
        }
      }),
    60_000,
  );

  it(
    'refuses a wrong command line on one line',
    () =>
      withFolder(async (cwd) => {
        const wrong: [args: string[], message: RegExp][] = [
          [['bogus'], /unknown command 'bogus'/],
          [['stream'], /missing required argument/],
          [['stream', 'a', 'b'], /too many arguments/],
          [['stream', 'a', '--spede', '1'], /unknown option '--spede' \(Did you mean --speed\?\)/],
          [['stream', 'a', '--speed', 'fast'], /'fast' is invalid.*K, M, G, T/],
          [['stream', 'a', '--offset', '-1'], /'-1' is invalid/],
          [
            ['stream', 'a', '--on-error', 'cry'],
            /Allowed choices are report, stop, ignore, enospc/,
          ],
          [
            ['stream', 'a', '-t', 'none'],
            /'none' is invalid. Allowed choices are writeback, unsafe/,
          ],
          [['create', 'a', '--size', '9000T'], /'9000T' is invalid.*less than 8192T/],
          [['create', 'a', '--refcount-bits', 'x'], /'x' is invalid/],
          [['create', 'a'], /needs a size/],
          [
            ['create', 'a', '--size', '1G', '--cluster-size', '3000'],
            /cluster size of 3000: it is a power of two/,
          ],
          [['create', 'a', '--size', '1G', '--refcount-bits', '3'], /refcount width of 3/],
          [
            ['create', 'a', '--size', '1G', '--cluster-size', '4K', '--extended-l2'],
            /clusters of 16 KiB or more/,
          ],
          [['convert', 'a', 'b', '-O', 'vmdk'], /Allowed choices are raw, qcow2/],
          [
            ['convert', 'a', 'b', '-O', 'raw', '--cluster-size', '4K'],
            /a raw image has no clusters/,
          ],
        ];
        for (const [args, message] of wrong) {
          const { exitCode, stdout, stderr } = await millrace(args, { cwd });
          expect({ args, exitCode, stdout }).toEqual({ args, exitCode: 1, stdout: '' });
          expect(stderr).toMatch(/^millrace: [^\n]+\n$/);
          expect(stderr).toMatch(message);
        }
        expect(existsSync(join(cwd, 'a'))).toBe(false);
      }),
    60_000,
  );
});

describeWithPeer(['qemu-img', 'qemu-io'], 'the commands', () => {
  it(
    'create makes the overlay that its options ask for',
    () =>
      withFolder(async (cwd) => {
        await makeBase(cwd);
        const args = [
          'create',
          'o.qcow2',
          '--base',
          'base.raw',
          '--base-format',
          'raw',
          '--size',
          '1.0001G',
          '--cluster-size',
          '32K',
          '--refcount-bits',
          '64',
          '--extended-l2',
          '--record-base',
          './elsewhere.raw',
          '--json',
        ];
        const { exitCode, stdout } = await millrace(args, { cwd });
        expect(exitCode).toBe(0);
        const size = Math.ceil((1.0001 * 1024 ** 3) / 512) * 512;
        expect(JSON.parse(stdout)).toEqual({
          filename: 'o.qcow2',
          'virtual-size': size,
          'cluster-size': 32768,
          'backing-filename': './elsewhere.raw',
          'backing-filename-format': 'raw',
        });
        expect(await info(join(cwd, 'o.qcow2'))).toMatchObject({
          'virtual-size': size,
          'cluster-size': 32768,
          'backing-filename': './elsewhere.raw',
          'format-specific': { data: { 'refcount-bits': 64, 'extended-l2': true } },
        });
        expect(await millrace(['create', 'empty.qcow2', '--size', '1G'], { cwd })).toMatchObject({
          exitCode: 0,
          stderr: '',
        });
        expect(await millrace(['create', 'o.qcow2', '--base', 'base.raw'], { cwd })).toMatchObject({
          exitCode: 1,
          stderr: expect.stringContaining('EEXIST'),
        });
      }),
    60_000,
  );

  it(
    'stream populates a range, then the rest, and leaves an image that stands alone',
    () =>
      withFolder(async (cwd) => {
        await makeBase(cwd);
        await millrace(['create', 'o.qcow2', '--base', 'base.raw'], { cwd });
        const part = await millrace(
          ['stream', 'o.qcow2', '--offset', '1M', '--length', '64K', '--json'],
          { cwd },
        );
        expect(JSON.parse(part.stdout)).toMatchObject({
          status: 0,
          remaining: 0,
          offset: MIB,
          length: 65536,
        });
        expect(
          JSON.parse((await millrace(['info', 'o.qcow2', '--json'], { cwd })).stdout),
        ).toMatchObject({ remaining: BASE_BYTES - 65536 });
        expect((await millrace(['info', 'o.qcow2'], { cwd })).stdout).toContain(
          `still in the backing file: 3.94 MiB (${BASE_BYTES - 65536} bytes)\n`,
        );

        const end = await millrace(['stream', 'o.qcow2', '--offset', '3968K', '--json'], { cwd });
        expect(JSON.parse(end.stdout)).toMatchObject({
          status: 0,
          offset: 3968 * 1024,
          length: 131072,
        });
        expect(
          await millrace(['stream', 'o.qcow2', '--offset', '1M', '--length', '64K'], { cwd }),
        ).toMatchObject({ stdout: 'o.qcow2: 64 KiB complete, nothing was missing\n' });

        const rest = await millrace(['stream', 'o.qcow2'], { cwd });
        expect(rest).toMatchObject({
          exitCode: 0,
          stderr: '',
          stdout: expect.stringMatching(/^o\.qcow2: 4 MiB complete, 3\.81 MiB of it in .*\/s\)\n$/),
        });
        expect((await info(join(cwd, 'o.qcow2')))['backing-filename']).toBeUndefined();
        expect(
          await compare(join(cwd, 'o.qcow2'), join(cwd, 'base.raw'), { formatB: 'raw' }),
        ).toMatchObject({ identical: true });
        expect((await check(join(cwd, 'o.qcow2'))).exitCode).toBe(0);
        expect((await millrace(['stream', 'o.qcow2'], { cwd })).stdout).toBe(
          'o.qcow2: 4 MiB complete, nothing was missing\n',
        );
      }),
    60_000,
  );

  it(
    'create, stream and rebase know a base with a colon in its name from a URL, as qemu-img does',
    () =>
      withFolder(async (cwd) => {
        await makeBase(cwd);
        await mkdir(join(cwd, 'sub'));
        for (const name of ['debian:12.raw', '12:debian.raw']) {
          await copyFile(join(cwd, 'base.raw'), join(cwd, name));
          expect(
            await millrace(['create', 'ours.qcow2', '--base', `./${name}`], { cwd }),
          ).toMatchObject({ exitCode: 0, stderr: '' });
          expect(
            await millrace(['create', 'sub/ours.qcow2', '--base', `./${name}`], { cwd }),
          ).toMatchObject({ exitCode: 0, stderr: '' });
          await createImage(join(cwd, 'theirs.qcow2'), { base: `./${name}`, baseFormat: 'raw' });
          await createImage(join(cwd, 'sub/theirs.qcow2'), {
            base: `../${name}`,
            baseFormat: 'raw',
          });
          for (const overlay of [
            'ours.qcow2',
            'sub/ours.qcow2',
            'theirs.qcow2',
            'sub/theirs.qcow2',
          ]) {
            const recorded = `${overlay.startsWith('sub/') ? '../' : './'}${name}`;
            expect(await info(join(cwd, overlay))).toMatchObject({ 'backing-filename': recorded });
            expect(
              await millrace(['rebase', overlay, '--base', `./${name}`], { cwd }),
            ).toMatchObject({ exitCode: 0, stderr: '' });
            expect(await info(join(cwd, overlay))).toMatchObject({ 'backing-filename': recorded });
            expect(await millrace(['stream', overlay, '--length', '1M'], { cwd })).toMatchObject({
              exitCode: 0,
              stderr: '',
            });
            expect(
              await compare(join(cwd, overlay), join(cwd, 'base.raw'), { formatB: 'raw' }),
            ).toMatchObject({ identical: true });
            await rm(join(cwd, overlay));
          }
        }
      }),
    60_000,
  );

  it(
    'stream keeps the base, allocates in full, and takes the base from another place',
    () =>
      withFolder(async (cwd) => {
        await makeBase(cwd);
        await millrace(['create', 'o.qcow2', '--base', 'base.raw', '--record-base', 'gone.raw'], {
          cwd,
        });
        expect(await millrace(['stream', 'o.qcow2'], { cwd })).toMatchObject({
          exitCode: 1,
          stderr: expect.stringMatching(/gone\.raw.*no such file/),
        });
        const { exitCode, stderr } = await millrace(
          ['stream', 'o.qcow2', '--from', 'base.raw', '--keep-base', '--allocate', 'full'],
          { cwd },
        );
        expect({ exitCode, stderr }).toEqual({ exitCode: 0, stderr: '' });
        expect((await info(join(cwd, 'o.qcow2')))['backing-filename']).toBe('gone.raw');
        await rename(join(cwd, 'base.raw'), join(cwd, 'gone.raw'));
        expect((await check(join(cwd, 'o.qcow2'))).report?.['allocated-clusters']).toBe(
          BASE_BYTES / 65536,
        );
      }),
    60_000,
  );

  it(
    'stream and convert leave it to the page cache if asked to',
    () =>
      withFolder(async (cwd) => {
        await makeBase(cwd);
        await millrace(['create', 'o.qcow2', '--base', 'base.raw'], { cwd });
        expect(await millrace(['stream', 'o.qcow2', '-t', 'unsafe'], { cwd })).toMatchObject({
          exitCode: 0,
          stderr: '',
        });
        expect(
          await millrace(['convert', 'o.qcow2', 'flat.qcow2', '-O', 'qcow2', '-t', 'unsafe'], {
            cwd,
          }),
        ).toMatchObject({ exitCode: 0, stderr: '' });
        expect(
          await millrace(['convert', 'o.qcow2', 'flat.raw', '-O', 'raw', '-t', 'unsafe'], {
            cwd,
          }),
        ).toMatchObject({ exitCode: 0, stderr: '' });
        for (const [name, format] of [
          ['o.qcow2', 'qcow2'],
          ['flat.qcow2', 'qcow2'],
          ['flat.raw', 'raw'],
        ] as const) {
          expect(
            await compare(join(cwd, name), join(cwd, 'base.raw'), {
              formatA: format,
              formatB: 'raw',
            }),
          ).toMatchObject({ identical: true });
          if (format === 'qcow2') expect((await check(join(cwd, name))).exitCode).toBe(0);
        }
      }),
    60_000,
  );

  it(
    'stream goes down to an image of the chain, which is followed only if asked for',
    () =>
      withFolder(async (cwd) => {
        await makeBase(cwd);
        await createImage(join(cwd, 'middle.qcow2'), { base: 'base.raw', baseFormat: 'raw' });
        await qemuIo(join(cwd, 'middle.qcow2'), ['write -P 7 1M 128K']);
        const refused = await millrace(['create', 'o.qcow2', '--base', 'middle.qcow2'], { cwd });
        expect(refused).toMatchObject({
          exitCode: 1,
          stderr: expect.stringContaining('--follow-chain'),
        });
        expect(existsSync(join(cwd, 'o.qcow2'))).toBe(false);
        expect(
          await millrace(['create', 'o.qcow2', '--base', 'middle.qcow2', '--follow-chain'], {
            cwd,
          }),
        ).toMatchObject({ exitCode: 0 });
        expect(await millrace(['map', 'o.qcow2'], { cwd })).toMatchObject({
          exitCode: 1,
          stderr: expect.stringContaining('--follow-chain'),
        });
        expect(
          await millrace(['stream', 'o.qcow2', '--follow-chain', '--base', 'nowhere.raw'], { cwd }),
        ).toMatchObject({ exitCode: 1 });
        const down = ['stream', 'o.qcow2', '--follow-chain', '--base', 'base.raw'];
        expect(await millrace(down, { cwd })).toMatchObject({
          exitCode: 0,
          stderr: '',
          stdout: expect.stringMatching(/^o\.qcow2: 4 MiB complete, 128 KiB of it in /),
        });
        expect((await millrace(down, { cwd })).stdout).toBe(
          'o.qcow2: 4 MiB complete, nothing was missing\n',
        );
        await millrace(['create', 'kept.qcow2', '--base', 'middle.qcow2', '--follow-chain'], {
          cwd,
        });
        const keeping = [
          'stream',
          'kept.qcow2',
          '--follow-chain',
          '--base',
          'base.raw',
          '--keep-base',
        ];
        expect((await millrace(keeping, { cwd })).stdout).toContain(', 128 KiB of it in ');
        expect((await millrace(keeping, { cwd })).stdout).toBe(
          'kept.qcow2: 4 MiB complete, nothing was missing\n',
        );
        expect((await info(join(cwd, 'o.qcow2')))['backing-filename']).toBe('base.raw');
        expect(await compare(join(cwd, 'o.qcow2'), join(cwd, 'middle.qcow2'))).toMatchObject({
          identical: true,
        });
        expect((await check(join(cwd, 'o.qcow2'))).report?.['allocated-clusters']).toBe(2);
      }),
    60_000,
  );

  it(
    'convert copies what the disk shows, in either format, and never over a file',
    () =>
      withFolder(async (cwd) => {
        await makeBase(cwd);
        await millrace(['create', 'o.qcow2', '--base', 'base.raw', '--size', '6M'], { cwd });
        await qemuIo(join(cwd, 'o.qcow2'), ['write -P 9 5M 1000', 'write -z 0 64K']);
        const before = await readFile(join(cwd, 'o.qcow2'));
        expect(await millrace(['convert', 'o.qcow2', 'flat.raw'], { cwd })).toMatchObject({
          exitCode: 0,
          stderr: '',
        });
        const told = await millrace(['convert', 'o.qcow2', 'told.raw', '-p'], { cwd });
        expect(told).toMatchObject({
          exitCode: 0,
          stderr: expect.stringMatching(/^( {4}\(\d+\.00\/100%\)\r)+ {4}\(100\.00\/100%\)\n$/),
        });
        const [first, second] = await Promise.all(
          ['told.raw', 'flat.raw'].map((name) => readFile(join(cwd, name))),
        );
        expect(first.equals(second)).toBe(true);
        expect(
          await millrace(
            ['convert', 'o.qcow2', 'flat.qcow2', '-O', 'qcow2', '--cluster-size', '4K', '--json'],
            {
              cwd,
            },
          ),
        ).toMatchObject({ exitCode: 0, stderr: '' });
        for (const [name, format] of [
          ['flat.raw', 'raw'],
          ['flat.qcow2', 'qcow2'],
        ] as const) {
          expect(
            await compare(join(cwd, name), join(cwd, 'o.qcow2'), {
              formatA: format,
              formatB: 'qcow2',
            }),
          ).toMatchObject({ identical: true });
        }
        const raw = await stat(join(cwd, 'flat.raw'));
        expect({ size: raw.size, sparse: raw.blocks * 512 < 3 * MIB }).toEqual({
          size: 6 * MIB,
          sparse: true,
        });
        const flat = await info(join(cwd, 'flat.qcow2'));
        expect(flat).toMatchObject({ 'cluster-size': 4096, 'virtual-size': 6 * MIB });
        expect(flat['backing-filename']).toBeUndefined();
        expect((await check(join(cwd, 'flat.qcow2'))).exitCode).toBe(0);

        for (const target of ['flat.raw', 'flat.qcow2', 'o.qcow2', 'base.raw']) {
          for (const format of ['raw', 'qcow2']) {
            const { exitCode, stderr } = await millrace(
              ['convert', 'o.qcow2', target, '-O', format],
              { cwd },
            );
            expect({ target, exitCode, stderr }).toEqual({
              target,
              exitCode: 1,
              stderr: expect.stringContaining('already exists'),
            });
          }
        }
        expect(before.equals(await readFile(join(cwd, 'o.qcow2')))).toBe(true);
      }),
    60_000,
  );

  it(
    'works over HTTP: a base is created over, streamed, looked at and converted by its URL',
    () =>
      withFolder(async (cwd) => {
        await makeBase(cwd);
        await millrace(['convert', 'base.raw', 'base.qcow2', '-O', 'qcow2'], { cwd });
        const server = await serveFile(join(cwd, 'base.qcow2'));
        const url = `http://127.0.0.1:${server.port}/base.qcow2`;
        try {
          const looked = JSON.parse(
            (await millrace(['info', url, '--json'], { cwd })).stdout,
          ) as Record<string, unknown>;
          expect(looked).toMatchObject({
            filename: url,
            format: 'qcow2',
            'virtual-size': BASE_BYTES,
          });
          expect(looked).not.toHaveProperty('actual-size');
          expect((await millrace(['map', url], { cwd })).stdout).toContain(url);
          expect(await millrace(['convert', url, 'copy.raw', '-O', 'raw'], { cwd })).toMatchObject({
            exitCode: 0,
            stderr: '',
          });
          expect(
            (await readFile(join(cwd, 'copy.raw'))).equals(await readFile(join(cwd, 'base.raw'))),
          ).toBe(true);
          await millrace(['create', 'o.qcow2', '--base', url], { cwd });
          expect((await info(join(cwd, 'o.qcow2')))['backing-filename']).toBe(url);
          expect(await millrace(['stream', 'o.qcow2'], { cwd })).toMatchObject({
            exitCode: 0,
            stderr: '',
          });
        } finally {
          await server.stop();
        }
        expect(
          await compare(join(cwd, 'o.qcow2'), join(cwd, 'base.raw'), { formatB: 'raw' }),
        ).toMatchObject({ identical: true });
      }),
    60_000,
  );

  it(
    'records no credentials of a URL, says so, and prints none',
    () =>
      withFolder(async (cwd) => {
        await makeBase(cwd);
        const server = await serveFile(join(cwd, 'base.raw'));
        const place = `127.0.0.1:${server.port}/base.raw`;
        const url = `http://anna:geheim@${place}?signature=s3cret`;
        try {
          const made = await millrace(['create', 'o.qcow2', '--base', url], { cwd });
          expect(made).toMatchObject({
            exitCode: 0,
            stderr: expect.stringMatching(
              /^millrace: the user, password or query .* is not recorded[^\n]*\n$/,
            ),
          });
          const kept = await millrace(
            ['create', 'kept.qcow2', '--base', url, '--record-base', url],
            { cwd },
          );
          expect(kept).toMatchObject({ exitCode: 0, stderr: '' });
          const plain = await millrace(['create', 'plain.qcow2', '--base', `http://${place}`], {
            cwd,
          });
          expect(plain.stderr).toBe('');
          const streamed = await millrace(['stream', 'o.qcow2', '--from', url, '--keep-base'], {
            cwd,
          });
          expect(streamed).toMatchObject({ exitCode: 0, stderr: '' });
          const overlay = await readFile(join(cwd, 'o.qcow2'), 'latin1');
          for (const secret of ['anna', 'geheim', 's3cret']) {
            expect(overlay.slice(0, 65536)).not.toContain(secret);
            expect(made.stdout + made.stderr + streamed.stdout).not.toContain(secret);
          }
          expect((await info(join(cwd, 'kept.qcow2')))['backing-filename']).toBe(url);
        } finally {
          await server.stop();
        }
        const failed = await millrace(
          ['create', 'x.qcow2', '--base', `ftp://anna:geheim@${place}`],
          { cwd },
        );
        expect(failed.exitCode).toBe(1);
        expect(failed.stderr).not.toContain('geheim');
      }),
    60_000,
  );

  it(
    'takes file: URLs for paths',
    () =>
      withFolder(async (cwd) => {
        await makeBase(cwd);
        await mkdir(join(cwd, 'a folder'));
        const url = pathToFileURL(join(cwd, 'a folder/o.qcow2')).href;
        expect(await millrace(['create', url, '--base', 'base.raw'], { cwd })).toMatchObject({
          exitCode: 0,
          stderr: '',
        });
        expect((await info(join(cwd, 'a folder/o.qcow2')))['backing-filename']).toBe('../base.raw');
        for (const command of ['info', 'map', 'check', 'stream'])
          expect(await millrace([command, url], { cwd })).toMatchObject({
            exitCode: 0,
            stderr: '',
          });
        const raw = pathToFileURL(join(cwd, 'base.raw')).href;
        for (const command of ['info', 'map'])
          expect(await millrace([command, raw], { cwd })).toMatchObject({
            exitCode: 0,
            stderr: '',
          });
        expect(
          await compare(join(cwd, 'a folder/o.qcow2'), join(cwd, 'base.raw'), { formatB: 'raw' }),
        ).toMatchObject({ identical: true });
      }),
    60_000,
  );

  it(
    'records no base by an empty name, by which there would be none',
    () =>
      withFolder(async (cwd) => {
        await makeBase(cwd);
        const refused = {
          exitCode: 1,
          stdout: '',
          stderr: 'millrace: a base cannot be recorded by an empty name\n',
        };
        expect(
          await millrace(['create', 'o.qcow2', '--base', 'base.raw', '--record-base', ''], { cwd }),
        ).toEqual(refused);
        expect(existsSync(join(cwd, 'o.qcow2'))).toBe(false);
        await millrace(['create', 'o.qcow2', '--base', 'base.raw'], { cwd });
        expect(
          await millrace(['rebase', 'o.qcow2', '-u', '--base', 'base.raw', '--record-base', ''], {
            cwd,
          }),
        ).toEqual(refused);
        expect((await info(join(cwd, 'o.qcow2')))['backing-filename']).toBe('base.raw');
      }),
    60_000,
  );

  it(
    'hands no control characters of an image to the terminal',
    () =>
      withFolder(async (cwd) => {
        await makeBase(cwd);
        const evil = '\x1b]0;owned\x07\x9b31m.raw';
        await millrace(['create', 'o.qcow2', '--base', 'base.raw', '--record-base', evil], { cwd });
        expect((await millrace(['info', 'o.qcow2'], { cwd })).stdout).toContain(
          'backing file: ?]0;owned??31m.raw\n',
        );
        expect((await millrace(['stream', 'o.qcow2'], { cwd })).stderr).toMatch(
          /^millrace: [^\p{Cc}]*\n$/u,
        );
        await rename(join(cwd, 'base.raw'), join(cwd, evil));
        expect((await millrace(['map', 'o.qcow2'], { cwd })).stdout).toMatch(
          / \?]0;owned\?\?31m\.raw\n/,
        );
      }),
    60_000,
  );

  it('convert and check refuse what has been written meanwhile', () =>
    withFolder(async (cwd) => {
      const path = join(cwd, 'o.qcow2');
      await millrace(['create', 'o.qcow2', '--size', '4M'], { cwd });
      let opened = 0;
      const written: Runtime = {
        ...nodeRuntime,
        async openOverlay(location, mode) {
          const file = await nodeRuntime.openOverlay(location, mode);
          if (location === path) await utimes(path, ++opened, opened);
          return file;
        },
      };
      for (const args of [
        ['check', path],
        ['convert', path, join(cwd, 'copy'), '-O', 'raw'],
        ['convert', path, join(cwd, 'copy'), '-O', 'qcow2'],
      ]) {
        const { platform, written: told } = platformOver(written);
        expect({ args, exitCode: await runCommandLine(platform, args) }).toEqual({
          args,
          exitCode: 1,
        });
        expect(told.stderr).toMatch(/o\.qcow2 was written by another program while it was read/);
        expect(existsSync(join(cwd, 'copy'))).toBe(false);
      }
      expect(opened).toBe(3);
    }));

  describe('of an image that grows between its opening and the reading of its tables', () => {
    /** Opens it as it was when its file still ended before its tables, `often` times. */
    async function growing(
      cwd: string,
      often: number,
    ): Promise<
      (...args: string[]) => Promise<{ exitCode: number; stderr: string; stdout: string }>
    > {
      const path = join(cwd, 'o.qcow2');
      await makeBase(cwd);
      await millrace(['create', 'o.qcow2', '--base', 'base.raw'], { cwd });
      await millrace(['stream', 'o.qcow2', '--length', '1M'], { cwd });
      const whole = await readFile(path);
      let opened = 0;
      const runtime: Runtime = {
        ...nodeRuntime,
        async openOverlay(location, mode) {
          if (opened++ >= often) return nodeRuntime.openOverlay(location, mode);
          await truncate(path, 4 * 65536);
          const file = await nodeRuntime.openOverlay(location, mode);
          await writeFile(path, whole);
          await utimes(path, opened, opened);
          return file;
        },
      };
      return async (command) => {
        const { platform, written } = platformOver(runtime);
        return { exitCode: await runCommandLine(platform, [command, path]), ...written };
      };
    }

    it('info looks again', () =>
      withFolder(async (cwd) => {
        const run = await growing(cwd, 3);
        expect(await run('info')).toMatchObject({ exitCode: 0, stderr: '' });
      }));

    it('info gives up when it grows at every look, and says what is wrong', () =>
      withFolder(async (cwd) => {
        const run = await growing(cwd, Infinity);
        expect(await run('info')).toMatchObject({ exitCode: 1, stdout: '' });
        expect((await run('info')).stderr).toMatch(
          /^millrace: [^\n]*o\.qcow2 was written by another program while it was read[^\n]*\n$/,
        );
      }));

    it('map does not call it corrupt', () =>
      withFolder(async (cwd) => {
        const run = await growing(cwd, 1);
        expect((await run('map')).stderr).toMatch(
          /^millrace: [^\n]*o\.qcow2 was written by another program while it was read[^\n]*\n$/,
        );
      }));
  });

  it(
    'info and check need no base',
    () =>
      withFolder(async (cwd) => {
        await makeBase(cwd);
        await millrace(
          [
            'create',
            'o.qcow2',
            '--base',
            'base.raw',
            '--record-base',
            'http://127.0.0.1:9/gone.raw',
          ],
          { cwd },
        );
        expect(
          JSON.parse((await millrace(['info', 'o.qcow2', '--json'], { cwd })).stdout),
        ).toMatchObject({
          'backing-filename': 'http://127.0.0.1:9/gone.raw',
          remaining: BASE_BYTES,
        });
        expect(await millrace(['check', 'o.qcow2'], { cwd })).toMatchObject({
          exitCode: 0,
          stderr: '',
          stdout: expect.stringContaining('No errors were found'),
        });
        expect(await millrace(['check', 'base.raw'], { cwd })).toMatchObject({
          exitCode: 63,
          stdout: '',
          stderr: expect.stringContaining('raw'),
        });
      }),
    60_000,
  );

  it(
    'check tells leaks from corruption by its exit code, and repairs them',
    () =>
      withFolder(async (cwd) => {
        await makeBase(cwd);
        const path = join(cwd, 'o.qcow2');
        const l2 = 4 * 65536;
        const damage = async (entry: bigint): Promise<void> => {
          await createImage(path, { base: 'base.raw', baseFormat: 'raw' });
          await qemuIo(path, ['write -P 1 0 64K', 'write -P 2 1M 64K']);
          const file = await open(path, 'r+');
          const bytes = Buffer.alloc(8);
          bytes.writeBigUInt64BE(entry);
          await file.write(bytes, 0, 8, l2);
          await file.close();
        };
        // The first cluster is forgotten: a leak.
        await damage(0n);
        expect(await millrace(['check', 'o.qcow2'], { cwd })).toMatchObject({
          exitCode: 3,
          stdout: expect.stringContaining('Found: 1 leaked cluster.'),
        });
        expect(await millrace(['check', 'o.qcow2', '--repair', 'leaks'], { cwd })).toMatchObject({
          exitCode: 0,
          stdout: expect.stringContaining('Repaired: 1 leaked cluster.'),
        });
        expect((await check(path)).exitCode).toBe(0);
        // It lies where the file has nothing yet: its refcount is too low.
        await damage((1n << 63n) | BigInt(7 * 65536));
        await truncate(path, 8 * 65536);
        const found = await check(path);
        expect(found.exitCode).toBe(2);
        const { exitCode, stdout } = await millrace(['check', 'o.qcow2', '--json'], { cwd });
        expect({ exitCode, report: JSON.parse(stdout) }).toEqual({
          exitCode: 2,
          report: { ...found.report, filename: 'o.qcow2' },
        });
        expect(await millrace(['check', 'o.qcow2', '--repair', 'all'], { cwd })).toMatchObject({
          exitCode: 0,
        });
        expect((await check(path)).exitCode).toBe(0);
      }),
    60_000,
  );
});
