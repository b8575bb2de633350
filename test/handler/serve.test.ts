/** `millrace serve` and `millrace abort` as programs. */
import { existsSync } from 'node:fs';
import { readdir, utimes, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { BlockFile } from '../../hosts/api/block.ts';
import { MillraceError } from '../../hosts/api/errors.ts';
import type { OverlayMode } from '../../hosts/api/runtime.ts';
import type { Platform } from '../../hosts/faces/cli/platform.ts';
import { SIGNALS } from '../../hosts/faces/cli/platform.ts';
import { serve } from '../../hosts/faces/cli/serve.ts';
import { nodeRuntime } from '../../hosts/node/runtime.ts';
import { millrace, platformOver, startMillrace, withFolder } from '../cli/program.ts';
import { makeContent } from '../fixtures/content.ts';
import { describeWithPeer } from '../support/describe-with-peer.ts';
import { qemuImg } from '../support/qemu.ts';
import { serveAndStall } from '../support/stalling-server.ts';

const CONTENT = makeContent('random', 3, 300_000);

describe('millrace serve', () => {
  it('serves on loopback, for this machine by its own names only, until it is stopped', () =>
    withFolder(async (cwd) => {
      await writeFile(join(cwd, 'base.raw'), CONTENT);
      await millrace(['create', 'vm.qcow2', '--base', 'base.raw'], { cwd });
      const server = startMillrace(
        ['serve', 'vm.qcow2', 'root=base.raw', '--read-only', '--listen', '0', '--json'],
        { cwd },
      );
      const urls = JSON.parse((await server.until('stdout', /\n/), server.output.stdout)) as Record<
        string,
        string
      >;
      expect(Object.keys(urls)).toEqual(['vda', 'root']);
      for (const url of Object.values(urls)) {
        const data = await fetch(`${url}/data`, { headers: { Range: 'bytes=1000-1999' } });
        expect([
          data.status,
          Buffer.from(await data.arrayBuffer()).equals(CONTENT.subarray(1000, 2000)),
        ]).toEqual([206, true]);
      }
      expect((await fetch(`${urls.vda}/stream`, { method: 'POST' })).status).toBe(403);
      server.child.kill('SIGTERM');
      expect(await server.ended).toMatchObject({ exitCode: 143 });
    }));

  it.each([
    ['SIGHUP', 129],
    ['SIGINT', 130],
    ['SIGTERM', 143],
  ] as const)('is ended by %s with %i, and leaves a sound image alone', (signal, code) =>
    withFolder(async (cwd) => {
      await millrace(['create', 'vm.qcow2', '--size', '1M'], { cwd });
      const server = startMillrace(['serve', 'vm.qcow2', '--listen', '0'], { cwd });
      await server.until('stdout', /\n/);
      server.child.kill(signal);
      expect(await server.ended).toMatchObject({ exitCode: code });
      expect(await readdir(cwd)).toEqual(['vm.qcow2']);
      expect((await millrace(['check', 'vm.qcow2'], { cwd })).exitCode).toBe(0);
    }),
  );

  it('gives nothing of a base that is written while it is served', () =>
    withFolder(async (cwd) => {
      await writeFile(join(cwd, 'base.raw'), CONTENT);
      await millrace(['create', 'vm.qcow2', '--base', 'base.raw'], { cwd });
      const server = startMillrace(['serve', 'vm.qcow2', '--listen', '0', '--json'], { cwd });
      const { vda } = JSON.parse((await server.until('stdout', /\n/), server.output.stdout)) as {
        vda: string;
      };
      await writeFile(join(cwd, 'base.raw'), makeContent('random', 4, CONTENT.length));
      // Whatever the clock says.
      await utimes(join(cwd, 'base.raw'), 1, 1);
      const data = await fetch(`${vda}/data`);
      expect([data.status, await data.json()]).toEqual([
        409,
        expect.objectContaining({ code: 'ECHANGED' }),
      ]);
      server.child.kill('SIGTERM');
      await server.ended;
    }));

  it('lets pages of an origin use it that it is told of, and no others', () =>
    withFolder(async (cwd) => {
      await writeFile(join(cwd, 'base.raw'), CONTENT);
      const origins = ['https://one.example', 'https://two.example'];
      const server = startMillrace(
        [
          'serve',
          '--read-only',
          '--listen',
          '0',
          '--json',
          ...origins.flatMap((origin) => ['--origin', origin]),
          'base.raw',
        ],
        { cwd },
      );
      const { vda } = JSON.parse((await server.until('stdout', /\n/), server.output.stdout)) as {
        vda: string;
      };
      for (const Origin of [...origins, 'https://three.example']) {
        const data = await fetch(`${vda}/data`, { headers: { Origin, Range: 'bytes=0-9' } });
        const listed = origins.includes(Origin);
        expect([data.status, data.headers.get('Access-Control-Allow-Origin')]).toEqual(
          listed ? [206, Origin] : [403, null],
        );
        await data.body?.cancel();
      }
      server.child.kill('SIGTERM');
      expect(await server.ended).toMatchObject({ exitCode: 143 });
    }));

  it(
    'ends at once when it is stopped twice, and while it opens a disk',
    () =>
      withFolder(async (cwd) => {
        const content = makeContent('random', 4, 16 * 1024 * 1024);
        await writeFile(join(cwd, 'base.raw'), content);
        for (const answers of [0, 4]) {
          const base = await serveAndStall(content, answers);
          await millrace(
            ['create', `${answers}.qcow2`, '--base', 'base.raw', '--record-base', base.url],
            { cwd },
          );
          const server = startMillrace(['serve', `${answers}.qcow2`, '--listen', '0', '--json'], {
            cwd,
          });
          if (answers > 0) {
            await server.until('stdout', /\n/);
            const { vda } = JSON.parse(server.output.stdout) as { vda: string };
            fetch(`${vda}/data`)
              .then((response) => response.arrayBuffer())
              .catch(() => {});
          }
          await base.asked;
          server.child.kill('SIGINT');
          // The disk waits for what is being read. Again and again, as two signals that come
          // together are one.
          const again = setInterval(() => server.child.kill('SIGINT'), 100);
          expect(await server.ended).toMatchObject({
            exitCode: 130,
            stderr: answers > 0 ? expect.any(String) : '',
          });
          clearInterval(again);
          expect(existsSync(join(cwd, `${answers}.qcow2.lock`))).toBe(false);
          base.stop();
        }
      }),
    20_000,
  );

  it('closes all disks, also when one cannot be', () =>
    withFolder(async (cwd) => {
      const images = ['one.qcow2', 'two.qcow2'].map((name) => join(cwd, name));
      for (const image of images) await millrace(['create', image, '--size', '1M'], { cwd });
      const broken = async (location: string, mode: OverlayMode): Promise<BlockFile> => {
        const file = await nodeRuntime.openOverlay(location, mode);
        const close = file.close.bind(file);
        if (location === images[0])
          file.close = async () => {
            await close();
            throw new MillraceError('EIO', 'the storage is gone');
          };
        return file;
      };
      const { platform } = platformOver({ ...nodeRuntime, openOverlay: broken });
      const stopped: Platform = {
        ...platform,
        onInterrupt: (handler) => (handler(SIGNALS.SIGTERM), () => {}),
      };
      await expect(serve(stopped, images, { listen: '0' })).rejects.toMatchObject({
        message: 'the storage is gone',
      });
      for (const image of images) expect(existsSync(`${image}.lock`)).toBe(false);
    }));

  it('has its jobs ended by millrace abort, with the token', () =>
    withFolder(async (cwd) => {
      await writeFile(join(cwd, 'base.raw'), CONTENT);
      await writeFile(join(cwd, 'token'), 'sesame\n');
      await millrace(['create', 'vm.qcow2', '--base', 'base.raw'], { cwd });
      const server = startMillrace(
        ['serve', 'vm.qcow2', '--listen', '0', '--token-file', 'token', '--json'],
        { cwd },
      );
      const { vda } = JSON.parse((await server.until('stdout', /\n/), server.output.stdout)) as {
        vda: string;
      };
      const tokens = ['--token-file', 'token'];
      expect(await millrace(['abort', vda], { cwd })).toMatchObject({
        exitCode: 1,
        stderr: expect.stringMatching(/token is needed/),
      });
      expect(await millrace(['abort', vda, ...tokens], { cwd })).toMatchObject({
        exitCode: 1,
        stderr: expect.stringMatching(/no job/),
      });
      const headers = { Authorization: 'Bearer sesame' };
      await fetch(`${vda}/stream`, {
        method: 'POST',
        headers,
        body: '{"nonblock":true,"speed":1}',
      });
      expect(await millrace(['abort', vda, ...tokens, '--json'], { cwd })).toMatchObject({
        exitCode: 0,
        stdout: expect.stringMatching(/"reason":"aborted"/),
      });
      server.child.kill('SIGTERM');
      expect(await server.ended).toMatchObject({ exitCode: 143 });
    }));

  it('refuses what would be open to others, and what it does not understand', () =>
    withFolder(async (cwd) => {
      await writeFile(join(cwd, 'base.raw'), CONTENT);
      await writeFile(join(cwd, 'empty'), '\n');
      const refused = async (args: string[], message: RegExp): Promise<void> => {
        expect(await millrace(args, { cwd })).toMatchObject({
          exitCode: 1,
          stderr: expect.stringMatching(message),
        });
      };
      await refused(
        ['serve', 'base.raw', '--read-only', '--listen', '0.0.0.0:0'],
        /without a token/,
      );
      await refused(['serve', 'base.raw', '--read-only', '--listen', 'here'], /'here'/);
      await refused(['serve', 'a=base.raw', 'a=base.raw', '--read-only'], /two disks 'a'/);
      await refused(['serve', 'base.raw', '--read-only', '--token-file', 'empty'], /token/);
      await refused(
        ['serve', 'base.raw', '--read-only', '--origin', 'one.example'],
        /'one\.example' is not an origin/,
      );
      await writeFile(join(cwd, 'umlaut'), 'gehörtmir\n');
      await refused(
        ['serve', 'base.raw', '--read-only', '--token-file', 'umlaut'],
        /'umlaut' does not hold a token/,
      );
      await refused(
        ['abort', 'http://127.0.0.1:1/disks/vda', '--token-file', 'umlaut'],
        /'umlaut' does not hold a token/,
      );
      await refused(['serve', 'missing.qcow2'], /missing\.qcow2/);
      await refused(['abort', 'vm.qcow2'], /not the URL of a served disk/);
      await refused(['abort', 'http://127.0.0.1:1/disks/vda'], /cannot reach/);
      await refused(
        ['abort', 'http://user:secret@127.0.0.1:1/disks/vda?x'],
        /'http:\/\/127\.0\.0\.1:1\/disks\/vda\?…' is not the URL of a served disk/,
      );
    }));
});

describeWithPeer(
  ['qemu-img'],
  'millrace serve, of an overlay that knows its base by name only',
  () => {
    it('gives it the ETag that it had, and another one when its base has changed', () =>
      withFolder(async (cwd) => {
        const etagOf = async (content: Uint8Array): Promise<string | null> => {
          const server = startMillrace(
            ['serve', 'vm.qcow2', '--read-only', '--listen', '0', '--json'],
            { cwd },
          );
          const { vda } = JSON.parse(
            (await server.until('stdout', /\n/), server.output.stdout),
          ) as { vda: string };
          const data = await fetch(`${vda}/data`);
          expect(
            Buffer.from(await data.arrayBuffer())
              .subarray(0, content.length)
              .equals(content),
          ).toBe(true);
          server.child.kill('SIGTERM');
          await server.ended;
          return data.headers.get('ETag');
        };
        await writeFile(join(cwd, 'base.raw'), CONTENT);
        await qemuImg([
          'create',
          '-q',
          '-f',
          'qcow2',
          '-b',
          'base.raw',
          '-F',
          'raw',
          join(cwd, 'vm.qcow2'),
        ]);
        const etag = await etagOf(CONTENT);
        expect(await etagOf(CONTENT)).toBe(etag);
        const changed = makeContent('random', 5, CONTENT.length);
        await writeFile(join(cwd, 'base.raw'), changed);
        // Whatever the clock says.
        await utimes(join(cwd, 'base.raw'), 1, 1);
        expect(await etagOf(changed)).not.toBe(etag);
      }));
  },
);
