/**
 * Proxies, by the variables of the environment that curl heeds: in Node, Deno and Bun, for http:
 * and https:.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, readFile, rm } from 'node:fs/promises';
import type { IncomingMessage } from 'node:http';
import { createServer, request as httpRequest } from 'node:http';
import { createServer as createSecureServer } from 'node:https';
import type { AddressInfo } from 'node:net';
import { connect, createServer as createTcpServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { proxyFor } from '../../hosts/bases/http/proxy.ts';
import { peerPath } from '../support/peer.ts';
import { run } from '../support/run.ts';
import { pattern, serveObject } from './object-server.ts';

const ROOT = fileURLToPath(new URL('../..', import.meta.url));
const CHILD = fileURLToPath(new URL('node-fetch-child.ts', import.meta.url));
const DENO_CHILD = fileURLToPath(new URL('deno-fetch-child.ts', import.meta.url));
const CHILD_MS_MAX = 60_000;
const object = pattern(700_000);
const SUM = `${object.reduce((total, byte) => total + byte, 0)}`;
const USER = `Basic ${Buffer.from('user:p@ss').toString('base64')}`;

describe('which proxy', () => {
  const through = (url: string, variables: Record<string, string>): string | undefined =>
    proxyFor(url, (name) => variables[name])?.name;
  const proxy = 'http://proxy:3128';

  test.each<[string, Record<string, string>, string | undefined]>([
    ['http://host/', { http_proxy: proxy }, proxy],
    ['http://host/', { HTTP_PROXY: proxy }, proxy],
    ['http://host/', { http_proxy: 'http://small', HTTP_PROXY: proxy }, 'http://small'],
    ['http://host/', { https_proxy: proxy }, undefined],
    ['https://host/', { https_proxy: proxy }, proxy],
    ['https://host/', { HTTPS_PROXY: proxy }, proxy],
    ['https://host/', { http_proxy: proxy }, undefined],
    ['https://host/', { ALL_PROXY: proxy }, proxy],
    ['https://host/', { all_proxy: 'http://all', https_proxy: proxy }, proxy],
    ['http://host/', { http_proxy: '' }, undefined],
    ['http://host/', { http_proxy: '', HTTP_PROXY: proxy }, proxy],
    ['https://host/', { https_proxy: '', HTTPS_PROXY: proxy }, proxy],
    ['http://host/', { http_proxy: '', all_proxy: '', ALL_PROXY: proxy }, proxy],
    ['http://host/', { http_proxy: proxy, no_proxy: '', NO_PROXY: 'host' }, undefined],
    ['http://host/', { http_proxy: proxy, no_proxy: 'other', NO_PROXY: 'host' }, proxy],
    ['http://host/', { http_proxy: 'proxy:3128' }, proxy],
    ['http://host/', { http_proxy: 'http://user:secret@proxy:3128/' }, proxy],
  ])('%s with %j', (url, variables, expected) => {
    expect(through(url, variables)).toBe(expected);
  });

  test.each<[string, string, boolean]>([
    ['http://host/', '*', true],
    ['http://host/', 'host', true],
    ['http://HOST./', 'Host', true],
    ['http://a.host/', 'host', true],
    ['http://a.host/', '.host', true],
    ['http://ahost/', 'host', false],
    ['http://host/', 'a, b host', true],
    ['http://host/', 'other', false],
    // None of these is what it seems to be: curl knows neither ports nor stars there.
    ['http://host:81/', 'host:81', false],
    ['http://a.host/', '*.host', false],
    ['http://host/', 'a,*', false],
    ['http://host/', ' * ', false],
    ['http://a.host/', '..host', false],
    ['http://10.1.2.3/', '10.1.2.3:80', false],
    ['http://[fd00::1]:80/', '[fd00::1]', false],
    ['http://a.host/', 'host.', true],
    ['http://host/', 'a\thost', true],
    ['http://10.1.2.3/', '10.1.2.3', true],
    ['http://10.1.2.3/', '10.0.0.0/8', true],
    ['http://10.1.2.3/', '10.1.2.3/33', false],
    ['http://10.1.2.3/', '10.1.2.3/0', true],
    ['http://11.1.2.3/', '10.0.0.0/0', false],
    ['http://11.1.2.3/', '10.0.0.0/8', false],
    ['http://10.1.2.3/', '2.3', false],
    ['http://[fd00::1]/', 'fd00::/8', true],
    ['http://[fd00::1]/', 'fd00::1', true],
    ['http://[fe00::1]/', 'fd00::/8', false],
  ])('%s with no_proxy %j: %s', (url, list, exempt) => {
    for (const name of ['no_proxy', 'NO_PROXY'])
      expect(through(url, { http_proxy: proxy, [name]: list })).toBe(exempt ? undefined : proxy);
  });

  test.each([
    ['socks5://user:secret@proxy', 'EUNSUPPORTED', /^the proxy socks5:\/\/proxy.* socks5:/],
    ['http://user:secret@a b', 'EINVAL', /^the proxy http:\/\/a b is not a URL/],
  ])('%s is refused', (http_proxy, code, message) => {
    expect(() => through('http://host/', { http_proxy })).toThrow(
      expect.objectContaining({ code, message: expect.stringMatching(message) }),
    );
  });
});

/**
 * A proxy that knows one name, `images.test`, for which it asks the servers of this test; and what
 * it was asked.
 */
async function startProxy(plain: number, secure: number) {
  const asked: string[] = [];
  const seen = ({ method, url, headers }: IncomingMessage): boolean => {
    asked.push(`${method} ${url} ${headers['proxy-authorization'] ?? '-'}`);
    return headers['proxy-authorization'] === USER;
  };
  const server = createServer((request, response) => {
    if (!seen(request)) return response.writeHead(407, { 'Content-Length': 0 }).end();
    const { 'proxy-authorization': _, ...headers } = request.headers;
    const { pathname } = new URL(request.url!);
    const onward = httpRequest({ host: '127.0.0.1', port: plain, path: pathname, headers });
    onward.on('response', (answer) => {
      response.writeHead(answer.statusCode!, answer.headers);
      answer.pipe(response);
    });
    onward.end();
  });
  server.on('connect', (request: IncomingMessage, socket) => {
    socket.on('error', () => socket.destroy());
    if (!seen(request)) return socket.end('HTTP/1.1 407 Proxy Authentication Required\r\n\r\n');
    if (request.url !== 'localhost:443' && request.url !== `localhost:${secure}`)
      return socket.end('HTTP/1.1 502 Bad Gateway\r\n\r\n');
    const onward = connect(secure, '127.0.0.1', () => {
      socket.write('HTTP/1.1 200 OK\r\n\r\n');
      onward.pipe(socket).pipe(onward);
    });
    onward.on('error', () => socket.destroy());
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  return { asked, host: `127.0.0.1:${port}`, server };
}

describe('through a proxy', () => {
  let folder: string;
  let cert: string;
  let plain: Awaited<ReturnType<typeof serveObject>>;
  let secure: ReturnType<typeof createSecureServer>;
  let proxy: Awaited<ReturnType<typeof startProxy>>;
  let secureUrl: string;

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'millrace-proxy-'));
    const key = join(folder, 'key.pem');
    cert = join(folder, 'cert.pem');
    const kind = '-x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2'.split(' ');
    const authority = ['-addext', 'basicConstraints=critical,CA:FALSE'];
    const names = ['-subj', '/CN=localhost', '-addext', 'subjectAltName=DNS:localhost'];
    await run(peerPath('openssl'), [
      'req',
      ...kind,
      ...names,
      ...authority,
      '-keyout',
      key,
      '-out',
      cert,
    ]);
    plain = await serveObject(object);
    secure = createSecureServer(
      { key: await readFile(key), cert: await readFile(cert) },
      (request, response) => {
        const [, first, last] = /bytes=(\d+)-(\d+)/
          .exec(request.headers.range ?? 'bytes=0-0')!
          .map(Number);
        const end = Math.min(last + 1, object.length);
        response
          .writeHead(206, { 'Content-Range': `bytes ${first}-${end - 1}/${object.length}` })
          .end(object.subarray(first, end));
      },
    );
    secure.listen(0, '127.0.0.1');
    await once(secure, 'listening');
    const { port } = secure.address() as AddressInfo;
    secureUrl = `https://localhost:${port}/disk.img`;
    proxy = await startProxy(Number(new URL(plain.url).port), port);
  });

  afterAll(async () => {
    for (const server of [secure, proxy.server]) {
      server.closeAllConnections();
      server.close();
    }
    await plain.stop();
    await rm(folder, { recursive: true });
  });

  const bin = (name: string): string => join(ROOT, 'node_modules/.bin', name);
  const runtimes: [string, string, string[]][] = [
    ['Node', process.execPath, ['--import', 'tsx', CHILD]],
    ['Deno', bin('deno'), ['run', '--no-prompt', '--allow-net', '--allow-env', DENO_CHILD]],
    ['Bun', bin('bun'), [CHILD]],
  ];

  /** What a child in that runtime prints, a line for each URL. */
  async function read(
    [, program, args]: [string, string, string[]],
    urls: string[],
    variables: Record<string, string>,
  ): Promise<string[]> {
    const clean = Object.entries(process.env).filter(([name]) => !/_proxy$/i.test(name));
    const env = { ...Object.fromEntries(clean), DENO_NO_UPDATE_CHECK: '1', ...variables };
    const child = spawn(program, [...args, ...urls], { cwd: ROOT, env, timeout: CHILD_MS_MAX });
    let text = '';
    for (const stream of [child.stdout, child.stderr])
      stream.setEncoding('utf8').on('data', (said) => (text += said));
    await once(child, 'close');
    return text.trim().split('\n');
  }

  describe.each(runtimes)('%s', (...runtime) => {
    const trust = (): Record<string, string> => ({ NODE_EXTRA_CA_CERTS: cert, DENO_CERT: cert });
    const authority = 'user:p%40ss@';

    test.each([
      ['small letters', (name: string) => name],
      ['capitals', (name: string) => name.toUpperCase()],
    ])('reads over http: and https:, variables in %s', async (_, spelt) => {
      proxy.asked.length = 0;
      const at = `http://${authority}${proxy.host}`;
      const variables = { [spelt('http_proxy')]: at, [spelt('https_proxy')]: at, ...trust() };
      const said = await read(runtime, ['http://images.test/disk.img', secureUrl], variables);
      expect(said).toEqual([SUM, SUM]);
      expect(proxy.asked).toContain(`GET http://images.test/disk.img ${USER}`);
      expect(proxy.asked).toContain(`CONNECT ${new URL(secureUrl).host} ${USER}`);
    });

    test('by the rules of curl, where those of the runtime are others', async () => {
      proxy.asked.length = 0;
      const at = `http://${authority}${proxy.host}`;
      const variables = {
        http_proxy: '',
        HTTP_PROXY: at,
        https_proxy: '',
        HTTPS_PROXY: at,
        ...trust(),
      };
      const urls = ['http://images.test/disk.img', secureUrl];
      const port = new URL(secureUrl).port;
      const [name, program, args] = runtime;
      const permitted: typeof runtime =
        name === 'Deno' ? [name, program, ['run', '--allow-sys=ca', ...args.slice(1)]] : runtime;
      for (const no_proxy of ['', `*.test,localhost:${port}`, 'other,*'])
        expect(await read(permitted, urls, { ...variables, no_proxy })).toEqual([SUM, SUM]);
      expect(proxy.asked).toContain(`GET http://images.test/disk.img ${USER}`);
      proxy.asked.length = 0;
      const past = { ...variables, no_proxy: 'other 127.0.0.1 localhost.' };
      expect(await read(permitted, [plain.url, secureUrl], past)).toEqual([SUM, SUM]);
      expect(proxy.asked).toEqual([]);
    });

    test('goes past it where no_proxy says so', async () => {
      proxy.asked.length = 0;
      const at = `http://${authority}${proxy.host}`;
      for (const name of ['no_proxy', 'NO_PROXY']) {
        const variables = {
          http_proxy: at,
          https_proxy: at,
          [name]: '127.0.0.1,localhost',
          ...trust(),
        };
        expect(await read(runtime, [plain.url, secureUrl], variables)).toEqual([SUM, SUM]);
      }
      expect(proxy.asked).toEqual([]);
    });

    test('a certificate that is not trusted: the message names the variable for others', async () => {
      const [said] = await read(runtime, [secureUrl], {});
      const variable = runtime[0] === 'Deno' ? 'DENO_CERT' : 'NODE_EXTRA_CA_CERTS';
      expect(said).toMatch(/^EIO .*the certificate of the server is not trusted/);
      expect(said).toContain(variable);
    });

    test('http: to a server of https: is told so, and what is no HTTP', async () => {
      const other = createTcpServer((socket) => {
        socket.on('error', () => {});
        socket.write('NBDMAGICIHAVEOPT\0\x03');
      });
      other.listen(0, '127.0.0.1');
      await once(other, 'listening');
      const { port } = other.address() as AddressInfo;
      const urls = [secureUrl.replace('https:', 'http:'), `http://127.0.0.1:${port}/`];
      for (const variables of [{}, trust()]) {
        const [tls, alien] = await read(runtime, urls, variables);
        expect(tls).toMatch(/^EIO .*the server speaks TLS there: give the URL as https:/);
        expect(alien).toMatch(/^EIO .*what answers there does not speak HTTP/);
      }
      other.close();
    });

    test('names it, without its password, where it does not answer or lets nobody in', async () => {
      const variables = { http_proxy: 'http://user:secret@127.0.0.1:1', ...trust() };
      const [dead] = await read(runtime, ['http://images.test/disk.img'], variables);
      expect(dead).toMatch(/^EIO .*by way of the proxy http:\/\/127\.0\.0\.1:1\b/);
      expect(dead).not.toContain('secret');
      const at = `http://user:secret@${proxy.host}`;
      const refused = await read(runtime, ['http://images.test/disk.img', secureUrl], {
        http_proxy: at,
        https_proxy: at,
        ...trust(),
      });
      for (const line of refused) {
        expect(line).toContain(`the proxy http://${proxy.host}`);
        expect(line).not.toContain('secret');
      }
      expect(refused[0]).toMatch(/^EACCES .*407/);
    });
  });

  test('Deno reads through it without the permission to see the environment', async () => {
    const at = `http://user:p%40ss@${proxy.host}`;
    const bare = ['run', '--no-prompt', '--allow-net', DENO_CHILD];
    const said = await read(['Deno', bin('deno'), bare], ['http://images.test/disk.img'], {
      http_proxy: at,
    });
    expect(said).toEqual([SUM]);
  });
});
