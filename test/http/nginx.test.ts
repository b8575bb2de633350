/**
 * A base on a real server: what is asked, what arrives, and what happens when the file or its
 * access changes.
 */
import { appendFile, mkdir, mkdtemp, rename, rm, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { FIRST_PAGE_BYTES } from '../../hosts/bases/http/http.ts';
import { REQUEST_BYTES_MAX } from '../../hosts/bases/neighbours.ts';
import type { NginxServer } from '../support/nginx.ts';
import { startNginx } from '../support/nginx.ts';
import { pattern } from './object-server.ts';
import { eachTransport } from './transports.ts';

const MIB = 1024 * 1024;
const object = pattern(24 * MIB + 777);
let root: string;
let nginx: NginxServer;

beforeAll(async () => {
  root = await mkdtemp(join(tmpdir(), 'millrace-http-'));
  await writeFile(join(root, 'disk.img'), object);
  await writeFile(join(root, 'empty.img'), '');
  await writeFile(join(root, 'tiny.img'), object.subarray(0, 100));
  await writeFile(join(root, 'passwords'), 'us:er:{PLAIN}p@ss\nuser:{PLAIN}p@ss/wörd\n');
  await mkdir(join(root, 'private'));
  await writeFile(join(root, 'private/disk.img'), object);
  const extra = `
    location /private/ { auth_basic "test"; auth_basic_user_file ${root}/passwords; }
    location /forbidden/ { deny all; }
    location /whole/ { alias ${root}/; max_ranges 0; }
    location /moved/ { rewrite ^/moved/(.*)$ /$1 redirect; }
    location /round/ { return 302 /round/; }
    location /gone/ { return 410; }
  `;
  nginx = await startNginx({ root, extra });
});

afterAll(async () => {
  await nginx.stop();
  await rm(root, { recursive: true });
});

/** The requests that a test caused: the log's growth. */
async function logged<T>(
  act: () => Promise<T>,
): Promise<{ result: T; log: Awaited<ReturnType<NginxServer['log']>> }> {
  const before = (await nginx.log()).length;
  const result = await act();
  return { result, log: (await nginx.log()).slice(before) };
}

eachTransport((openHttp) => {
  describe('open', () => {
    test('learns size and identity from one request, whose bytes serve the first page', async () => {
      const { log } = await logged(async () => {
        const source = await openHttp(`${nginx.url}/disk.img`);
        expect(source.size).toBe(object.length);
        expect(source.identity).toMatch(/^etag "[0-9a-f]+-[0-9a-f]+"$/);
        expect(source.name).toBe(`${nginx.url}/disk.img`);
        const page = new Uint8Array(FIRST_PAGE_BYTES);
        await source.read(0, page);
        const sector = new Uint8Array(512);
        await source.read(1024, sector);
        expect(page).toEqual(object.subarray(0, FIRST_PAGE_BYTES));
        expect(sector).toEqual(object.subarray(1024, 1536));
        expect(source.stats).toEqual({ requests: 1, bytes: FIRST_PAGE_BYTES, retries: 0 });
        await source.close();
      });
      expect(log).toHaveLength(1);
      expect(log[0]).toMatchObject({
        method: 'GET',
        status: 206,
        range: `bytes=0-${FIRST_PAGE_BYTES - 1}`,
        bytes: FIRST_PAGE_BYTES,
      });
    });

    test('takes an empty object and one smaller than a page', async () => {
      const empty = await openHttp(`${nginx.url}/empty.img`);
      expect(empty.size).toBe(0);
      expect(empty.identity).toMatch(/^etag /);
      await empty.read(0, new Uint8Array(0));
      const tiny = await openHttp(`${nginx.url}/tiny.img`);
      expect(tiny.size).toBe(100);
      const into = new Uint8Array(100);
      await tiny.read(0, into);
      expect(into).toEqual(object.subarray(0, 100));
      expect(tiny.stats.requests).toBe(1);
    });

    test.each([
      [
        '/missing.img',
        'ENOENT',
        new RegExp(`missing\\.img, bytes 0-${FIRST_PAGE_BYTES - 1}: the server answered 404`),
      ],
      ['/gone/disk.img', 'ENOENT', /410/],
      ['/forbidden/disk.img', 'EACCES', /403/],
      ['/private/disk.img', 'EACCES', /401/],
      ['/whole/disk.img', 'EUNSUPPORTED', /the server ignores Range/],
      ['/round/', 'EIO', /redirects of this URL have no end/],
    ])('%s is refused with %s', async (path, code, message) => {
      await expect(openHttp(nginx.url + path)).rejects.toMatchObject({
        code,
        message: expect.stringMatching(message),
      });
    });

    test('follows a redirect', async () => {
      const source = await openHttp(`${nginx.url}/moved/disk.img`);
      const into = new Uint8Array(5000);
      await source.read(1_000_001, into);
      expect(into).toEqual(object.subarray(1_000_001, 1_005_001));
    });

    test('sends the credentials of the URL and never shows them', async () => {
      const host = nginx.url.replace('http://', '');
      const source = await openHttp(
        `http://user:p%40ss%2Fw%C3%B6rd@${host}/private/disk.img?signature=abc#part`,
      );
      expect(source.name).toBe(`${nginx.url}/private/disk.img?…`);
      const into = new Uint8Array(100);
      await source.read(3 * MIB, into);
      expect(into).toEqual(object.subarray(3 * MIB, 3 * MIB + 100));
      const wrong = await openHttp(
        `http://user:secret@${host}/private/disk.img?signature=abc`,
      ).catch((error) => error);
      expect(wrong.code).toBe('EACCES');
      expect(wrong.message).not.toMatch(/secret|abc/);
    });
  });

  describe('read', () => {
    test('returns the bytes of every place, over connections that are kept', async () => {
      const { log } = await logged(async () => {
        const source = await openHttp(`${nginx.url}/disk.img`, { depth: 2 });
        const copy = new Uint8Array(object.length);
        const chunk = 300_007;
        const reads: Promise<void>[] = [];
        for (let at = 0; at < copy.length; at += chunk) {
          reads.push(source.read(at, copy.subarray(at, at + chunk)));
        }
        await Promise.all(reads);
        expect(Buffer.compare(copy, object)).toBe(0);
        expect(source.stats.bytes).toBe(object.length);
        await source.close();
      });
      // Two a lane: Node's fetch opens another one when a request comes in the moment in which the
      // last one's is not free yet.
      expect(new Set(log.map((line) => line.connection)).size).toBeLessThanOrEqual(4);
      expect(Math.max(...log.map((line) => line.bytes))).toBeLessThanOrEqual(REQUEST_BYTES_MAX);
      expect(log.length).toBeLessThanOrEqual(25);
    });

    test('copies in order, twenty reads ahead, with at most a request a MiB', async () => {
      const source = await openHttp(`${nginx.url}/disk.img`);
      const copy = new Uint8Array(object.length);
      // Runs of compressed clusters: of any size, and a few hundred bytes into the next one.
      const runs: [number, number][] = [];
      for (let at = 0, n = 1; at < copy.length; n++) {
        const end = Math.min(at + 300_000 + ((n * 7_919_919) % 600_000), copy.length);
        runs.push([at, Math.min(end + (n % 512), copy.length)]);
        at = end;
      }
      const worker = async (): Promise<void> => {
        for (let run = runs.shift(); run !== undefined; run = runs.shift()) {
          await source.read(run[0], copy.subarray(...run), { background: true });
        }
      };
      await Promise.all(Array.from({ length: 20 }, worker));
      expect(Buffer.compare(copy, object)).toBe(0);
      expect(source.stats.requests).toBeLessThanOrEqual(1 + object.length / MIB);
      expect(source.stats.bytes).toBeLessThanOrEqual(object.length * 1.03);
    });

    test('a read outside the object is an error and causes no request', async () => {
      const source = await openHttp(`${nginx.url}/disk.img`);
      for (const [offset, length] of [
        [object.length, 1],
        [object.length - 1, 2],
        [-1, 1],
        [0.5, 1],
        [2 ** 53, 1],
      ]) {
        await expect(source.read(offset, new Uint8Array(length))).rejects.toMatchObject({
          code: 'EINVAL',
        });
      }
      await source.read(object.length, new Uint8Array(0));
      expect(source.stats.requests).toBe(1);
    });
  });

  describe('a file that changes under us', () => {
    const reading = async (change: (path: string) => Promise<void>): Promise<unknown> => {
      const path = join(root, 'changing.img');
      await writeFile(path, object);
      await utimes(path, 1_700_000_000, 1_700_000_000);
      const source = await openHttp(`${nginx.url}/changing.img`);
      const into = new Uint8Array(MIB);
      await source.read(MIB, into);
      await change(path);
      return source.read(4 * MIB, into).catch((error) => error);
    };

    test('replaced by another of the same size: ECHANGED', async () => {
      const error = await reading(async (path) => {
        await writeFile(`${path}.new`, object.toReversed());
        await rename(`${path}.new`, path);
      });
      expect(error).toMatchObject({
        code: 'ECHANGED',
        offset: 4 * MIB,
        message: expect.stringMatching(/changing\.img.*ETag/),
      });
    });

    test('grown: ECHANGED', async () => {
      expect(await reading((path) => appendFile(path, 'more'))).toMatchObject({ code: 'ECHANGED' });
    });

    test('emptied: ECHANGED', async () => {
      expect(await reading((path) => writeFile(path, ''))).toMatchObject({ code: 'ECHANGED' });
    });

    test('removed: ENOENT', async () => {
      expect(await reading((path) => rm(path))).toMatchObject({ code: 'ENOENT' });
    });
  });
});
