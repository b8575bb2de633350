/**
 * How commands get at bases on servers: --from, --header, --token-file; what they say of a server
 * that does not answer, or not us.
 */
import { readFile, rename, writeFile } from 'node:fs/promises';
import type { AddressInfo } from 'node:net';
import { createServer } from 'node:net';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import type { Ask, ObjectServer } from '../http/object-server.ts';
import { pattern, serveObject } from '../http/object-server.ts';
import { millraceHere, startMillrace, withFolder } from './program.ts';

const MIB = 1024 * 1024;
const object = pattern(MIB);
const SIGNATURE = '?signature=abc';

/** Answers what `allows`, and everybody else by 403. */
async function withGuarded(
  allows: (ask: Ask) => boolean,
  use: (server: ObjectServer, folder: string) => Promise<void>,
): Promise<void> {
  const server = await serveObject(object, (ask) => (allows(ask) ? ask.answer() : ask.refuse(403)));
  try {
    await withFolder((folder) => use(server, folder));
  } finally {
    await server.stop();
  }
}

const isSigned = ({ request }: Ask): boolean => request.url!.endsWith(SIGNATURE);

describe('a base whose URL needs a query', () => {
  test.each<[string, (overlay: string, folder: string) => string[]]>([
    ['map', (overlay) => ['map', overlay]],
    ['check', (overlay) => ['check', overlay]],
    ['info', (overlay) => ['info', overlay]],
    ['convert', (overlay, folder) => ['convert', overlay, join(folder, 'flat.raw'), '-O', 'raw']],
    ['rebase', (overlay) => ['rebase', overlay, '--no-base']],
    ['stream', (overlay) => ['stream', overlay]],
  ])('%s takes it by --from', (name, line) =>
    withGuarded(isSigned, async (server, folder) => {
      const overlay = join(folder, 'vm.qcow2');
      const url = server.url + SIGNATURE;
      expect(await millraceHere('create', overlay, '--base', url)).toMatchObject({ exitCode: 0 });
      const bare = await millraceHere(...line(overlay, folder));
      if (name === 'info' || name === 'check') expect(bare.exitCode).toBe(0);
      else {
        expect(bare.exitCode).toBe(1);
        expect(bare.stderr).toMatch(
          /answered 403 .*records its base's URL without user, password and query: .*--from/,
        );
        const wrong = await millraceHere(...line(overlay, folder), '--from', `${url}x`);
        expect(wrong.stderr).toMatch(/answered 403/);
        expect(wrong.stderr).not.toContain('records');
      }
      const { exitCode, stdout, stderr } = await millraceHere(
        ...line(overlay, folder),
        '--from',
        url,
      );
      expect(stderr).toBe('');
      expect(exitCode).toBe(0);
      expect(stdout).not.toContain('abc');
      if (name === 'convert') {
        const flat = await readFile(join(folder, 'flat.raw'));
        expect(Buffer.compare(flat, object)).toBe(0);
      }
    }),
  );

  test('serve takes one for each disk', () =>
    withGuarded(isSigned, async (server, folder) => {
      const url = server.url + SIGNATURE;
      for (const name of ['a', 'b'])
        await millraceHere('create', join(folder, `${name}.qcow2`), '--base', url);
      const images = ['serve', 'a.qcow2', 'b.qcow2', '--listen', '0', '--read-only'];
      const here = images.map((text) => text.replace(/^(?=.\.qcow2$)/, `${folder}/`));
      expect((await millraceHere(...here, '--from', url)).stderr).toMatch(/NAME=URL/);
      expect((await millraceHere(...here, '--from', `vdc=${url}`)).stderr).toMatch(/no disk 'vdc'/);
      const from = ['--from', `vda=${url}`, '--from', `vdb=${url}`];
      const started = startMillrace([...images, ...from], { cwd: folder });
      await started.until('stdout', /vdb: \S+\n/);
      const [, disk] = /vdb: (\S+)\n/.exec(started.output.stdout)!;
      const answer = await fetch(`${disk}/data`, { headers: { Range: 'bytes=700000-700099' } });
      const bytes = new Uint8Array(await answer.arrayBuffer());
      expect(Buffer.compare(bytes, object.subarray(700_000, 700_100))).toBe(0);
      started.child.kill('SIGTERM');
      await started.ended;
    }));

  test('commit finds it below the image that it writes into', () =>
    withGuarded(isSigned, async (server, folder) => {
      const [mid, top] = [join(folder, 'mid.qcow2'), join(folder, 'top.qcow2')];
      const from = ['--follow-chain', '--from', server.url + SIGNATURE];
      await millraceHere('create', mid, '--size', '1M');
      await millraceHere('create', top, '--base', mid);
      const rebased = ['rebase', mid, '-u', '--base', server.url + SIGNATURE];
      expect(await millraceHere(...rebased)).toMatchObject({ exitCode: 0 });
      expect(await millraceHere('rebase', top, '-u', '--base', mid)).toMatchObject({ exitCode: 0 });
      const bare = await millraceHere('commit', top, '--follow-chain');
      expect(bare.stderr).toMatch(/403/);
      expect(await millraceHere('commit', top, ...from)).toMatchObject({ exitCode: 0 });
    }));

  test.each<[string, (top: string, folder: string) => string[]]>([
    ['map', (top) => ['map', top]],
    ['info', (top) => ['info', top, '--backing-chain']],
    ['convert', (top, folder) => ['convert', top, join(folder, 'flat.raw')]],
    ['stream', (top) => ['stream', top, '-q']],
    ['rebase', (top) => ['rebase', top, '--no-base']],
  ])('%s finds it at the end of a chain', (name, line) =>
    withGuarded(isSigned, async (server, folder) => {
      const [low, mid, top] = ['low', 'mid', 'top'].map((image) => join(folder, `${image}.qcow2`));
      const follow = name === 'info' ? [] : ['--follow-chain'];
      const from = [...follow, '--from', server.url + SIGNATURE];
      await millraceHere('create', low, '--base', server.url + SIGNATURE);
      for (const [image, base] of [
        [mid, low],
        [top, mid],
      ]) {
        const made = await millraceHere('create', image, '--base', base, '--follow-chain', ...from);
        expect(made).toMatchObject({ exitCode: 0 });
      }
      const bare = await millraceHere(...line(top, folder), ...follow);
      expect(bare.stderr).toMatch(/answered 403 .*give the URL whole \(base, --from\)/);
      const { exitCode, stdout } = await millraceHere(...line(top, folder), ...from);
      expect(exitCode).toBe(0);
      if (name === 'info') expect(stdout.match(/^image: /gm)).toHaveLength(4);
      if (name !== 'convert') return;
      expect(Buffer.compare(await readFile(join(folder, 'flat.raw')), object)).toBe(0);
    }),
  );

  test('of a chain whose nearest base is gone, --from is that base', () =>
    withGuarded(isSigned, async (server, folder) => {
      const [mid, top] = [join(folder, 'mid.qcow2'), join(folder, 'top.qcow2')];
      await writeFile(join(folder, 'base.raw'), object);
      await millraceHere('create', mid, '--base', join(folder, 'base.raw'));
      await millraceHere('create', top, '--base', mid, '--follow-chain');
      await rename(mid, join(folder, 'moved.qcow2'));
      expect((await millraceHere('map', top, '--follow-chain')).exitCode).toBe(1);
      const moved = ['--from', join(folder, 'moved.qcow2')];
      expect((await millraceHere('map', top, '--follow-chain', ...moved)).exitCode).toBe(0);
      const chain = await millraceHere('info', top, '--backing-chain', ...moved);
      expect(chain.stdout.match(/^image: /gm)).toHaveLength(3);
      expect(server.ranges).toEqual([]);
    }));

  test('rebase reads the old base there, and the new one where it says', () =>
    withGuarded(isSigned, async (server, folder) => {
      const overlay = join(folder, 'vm.qcow2');
      const url = server.url + SIGNATURE;
      await writeFile(join(folder, 'new.raw'), object);
      await millraceHere('create', overlay, '--base', url);
      const said = await millraceHere(
        'rebase',
        overlay,
        '--base',
        join(folder, 'new.raw'),
        '--from',
        url,
      );
      expect(said).toMatchObject({
        exitCode: 0,
        stdout: expect.stringMatching(/new\.raw \(raw\) now; 0 B taken/),
      });
    }));
});

describe('headers and tokens', () => {
  const hasToken = ({ request }: Ask): boolean =>
    request.headers.authorization === 'Bearer t0ken' || request.headers['x-key'] === 'a: b';

  test('go to the base', () =>
    withGuarded(hasToken, async (server, folder) => {
      const [overlay, token] = [join(folder, 'vm.qcow2'), join(folder, 'token')];
      await writeFile(token, 't0ken\n');
      const how = ['--token-file', token];
      expect(await millraceHere('create', overlay, '--base', server.url, ...how)).toMatchObject({
        exitCode: 0,
      });
      expect((await millraceHere('map', overlay)).exitCode).toBe(1);
      for (const given of [how, ['--header', 'X-Key: a: b']])
        expect(await millraceHere('map', overlay, ...given)).toMatchObject({ exitCode: 0 });
      const bad = await millraceHere('map', overlay, '--header', 'secret');
      expect(bad.stderr).toMatch(/'Name: value'/);
      expect(bad.stderr).not.toContain('secret');
    }));

  test('do not go to a server that only an image names', () =>
    withGuarded(hasToken, async (other, folder) => {
      const seen: unknown[] = [];
      const inner = join(folder, 'inner.qcow2');
      await millraceHere('create', inner, '--base', other.url, '--header', 'X-Key: a: b');
      const image = await serveObject(await readFile(inner), (ask) => {
        seen.push(ask.request.headers['x-key']);
        ask.answer();
      });
      const line = ['map', image.url, '--follow-chain', '--header', 'X-Key: a: b'];
      expect((await millraceHere(...line)).stderr).toContain(`${other.url}, bytes`);
      expect(seen).toContain('a: b');
      await image.stop();
    }));
});

describe('a server that does not answer', () => {
  test.each([
    ['a refused port', async () => 'http://127.0.0.1:1/disk.img', /ECONNREFUSED/],
    [
      'an unknown host',
      async () => 'http://nobody.invalid/disk.img',
      /no host of this name|EAI_AGAIN/,
    ],
  ])('%s ends within two seconds', (_, url, message) =>
    withFolder(async (folder) => {
      const before = performance.now();
      const said = await millraceHere('create', join(folder, 'vm.qcow2'), '--base', await url());
      expect(performance.now() - before).toBeLessThan(2000);
      expect(said).toMatchObject({ exitCode: 1, stderr: expect.stringMatching(message) });
    }),
  );

  test('what hangs up on everybody, as a TLS port does on http:, ends within two seconds', () =>
    withFolder(async (folder) => {
      const server = createServer((socket) => {
        socket.on('error', () => {});
        socket.once('data', () => socket.end(Buffer.from('15030100020246', 'hex')));
      }).listen(0, '127.0.0.1');
      await new Promise((resolve) => server.once('listening', resolve));
      const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/disk.img`;
      const before = performance.now();
      const said = await millraceHere('create', join(folder, 'vm.qcow2'), '--base', url);
      expect(performance.now() - before).toBeLessThan(2000);
      expect(said.exitCode).toBe(1);
      server.close();
    }));

  test('is told of once, after two seconds, while it is asked again', () =>
    withFolder(async (folder) => {
      let isAway = false;
      const since = performance.now();
      const server = await serveObject(object, (ask) => {
        if (isAway && performance.now() - since < 4000) ask.refuse(503);
        else ask.answer();
      });
      const overlay = join(folder, 'vm.qcow2');
      await millraceHere('create', overlay, '--base', server.url);
      isAway = true;
      const said = await millraceHere('stream', overlay);
      expect(said.exitCode).toBe(0);
      expect(said.stderr.match(/millrace: /g)).toHaveLength(1);
      expect(said.stderr).toMatch(/disk\.img: the server answered 503 .*; asking again\n$/);
      await server.stop();
    }));
});
