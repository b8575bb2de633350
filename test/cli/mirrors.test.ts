/**
 * Overlays over a URL that leads each command to another server, or to another node of one: what
 * one command has recorded is taken by the next, as long as the bytes are the same.
 */
import { readFile } from 'node:fs/promises';
import type { OutgoingHttpHeaders } from 'node:http';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { pattern, serveObject } from '../http/object-server.ts';
import { millraceHere, withFolder } from './program.ts';

const MIB = 1024 * 1024;
const object = pattern(2 * MIB);
/** Another object of the same size: all but its first and last MiB are the same. */
const changed = object.map((byte, at) => (at < MIB / 2 ? byte : byte ^ 1));

interface Mirror {
  headers: OutgoingHttpHeaders;
  bytes?: Uint8Array;
}

/** A URL that redirects to each mirror in turn, as `next` says. */
async function withMirrors(
  mirrors: readonly Mirror[],
  use: (url: string, next: () => void) => Promise<void>,
): Promise<void> {
  const servers = await Promise.all(
    mirrors.map(({ headers, bytes = object }) =>
      serveObject(bytes, (ask) => ask.answer({ 'Last-Modified': undefined, ...headers })),
    ),
  );
  let which = 0;
  const front = createServer((_, response) => {
    response.writeHead(302, { Location: servers[which].url, Connection: 'close' }).end();
  });
  await new Promise<void>((resolve) => void front.listen(0, '127.0.0.1', resolve));
  try {
    const url = `http://127.0.0.1:${(front.address() as AddressInfo).port}/disk.img`;
    await use(url, () => void which++);
  } finally {
    front.closeAllConnections();
    await new Promise((resolve) => void front.close(resolve));
    for (const server of servers) await server.stop();
  }
}

const young = (seconds: number): string => new Date(Date.now() - seconds * 1000).toUTCString();

describe('mirrors of which each command reaches another one', () => {
  test.each<[string, OutgoingHttpHeaders, OutgoingHttpHeaders]>([
    ['ETags and no date', { ETag: '"a"' }, { ETag: '"b"' }],
    [
      'ETags and one young date',
      { ETag: '"a"', 'Last-Modified': young(9) },
      { ETag: '"b"', 'Last-Modified': young(9) },
    ],
    [
      'young dates of their own',
      { ETag: undefined, 'Last-Modified': young(9) },
      { ETag: undefined, 'Last-Modified': young(4) },
    ],
    ['weak ETags', { ETag: 'W/"a"' }, { ETag: 'W/"b"' }],
  ])('with %s: the same bytes are taken, and others refused', (_, first, second) =>
    withFolder(async (folder) => {
      const overlay = join(folder, 'vm.qcow2');
      const other = join(folder, 'other.qcow2');
      const flat = join(folder, 'flat.raw');
      await withMirrors(
        [{ headers: first }, { headers: second }, { headers: second, bytes: changed }],
        async (url, next) => {
          for (const image of [overlay, other])
            expect(await millraceHere('create', image, '--base', url)).toMatchObject({
              exitCode: 0,
            });
          next();
          expect(await millraceHere('stream', overlay, '-q')).toMatchObject({
            stderr: '',
            exitCode: 0,
          });
          next();
          const refused = await millraceHere('stream', other, '-q');
          expect(refused.stderr).toMatch(/is not the base that .* was made on/);
          expect(refused.exitCode).toBe(1);
        },
      );
      expect(await millraceHere('convert', overlay, flat)).toMatchObject({ exitCode: 0 });
      expect(Buffer.compare(await readFile(flat), object)).toBe(0);
    }),
  );

  test('one server without a date: another ETag is another base', () =>
    withFolder(async (folder) => {
      let ETag = '"a"';
      const server = await serveObject(object, (ask) =>
        ask.answer({ ETag, 'Last-Modified': undefined }),
      );
      const front = createServer((_, response) => {
        response.writeHead(302, { Location: server.url, Connection: 'close' }).end();
      });
      await new Promise<void>((resolve) => void front.listen(0, '127.0.0.1', resolve));
      const url = `http://127.0.0.1:${(front.address() as AddressInfo).port}/disk.img`;
      const overlay = join(folder, 'vm.qcow2');
      await millraceHere('create', overlay, '--base', url);
      ETag = '"b"';
      expect((await millraceHere('stream', overlay, '-q')).exitCode).toBe(1);
      front.close();
      await server.stop();
    }));
});

describe('nodes behind one name, which answer by turns', () => {
  test.each([
    ['strong', '"a"', '"b"'],
    ['weak', 'W/"a"', 'W/"b"'],
  ])('%s ETags: one command takes what another has recorded', (_, one, other) =>
    withFolder(async (folder) => {
      const overlay = join(folder, 'vm.qcow2');
      const cache = ['--cache', join(folder, 'cache')];
      let number = 0;
      const server = await serveObject(object, (ask) => {
        const ETag = number++ % 2 ? one : other;
        if (ask.request.method !== 'HEAD') return ask.answer({ ETag });
        const whole = { 'Accept-Ranges': 'bytes', 'Content-Length': object.length };
        const { 'Last-Modified': date } = ask.headers;
        ask.response.writeHead(200, { ...whole, ETag, 'Last-Modified': date }).end();
      });
      await millraceHere('create', overlay, '--base', server.url);
      number = 1;
      const cached = join(folder, 'cached.qcow2');
      await millraceHere('create', cached, '--base', server.url, ...cache);
      expect(await millraceHere('stream', cached, '-q', ...cache)).toMatchObject({
        stderr: '',
        exitCode: 0,
      });
      number = 1;
      expect(await millraceHere('stream', overlay, '-q')).toMatchObject({
        stderr: '',
        exitCode: 0,
      });
      await server.stop();
    }),
  );

  test('a change after which the old ETag is gone is refused', () =>
    withFolder(async (folder) => {
      const overlay = join(folder, 'vm.qcow2');
      let ETag = '"a"';
      const server = await serveObject(object, (ask) => ask.answer({ ETag }));
      await millraceHere('create', overlay, '--base', server.url);
      ETag = '"b"';
      const { exitCode, stderr } = await millraceHere('stream', overlay, '-q');
      expect(exitCode).toBe(1);
      expect(stderr).toMatch(/is not the base that/);
      await server.stop();
    }));
});
