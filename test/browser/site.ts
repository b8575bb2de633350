/**
 * A site on loopback for browser tests: a page built by Vite (or any folder of files), images
 * beside it under `/images/` by ranges, and a place to leave what a page made, which is how
 * overlays get out to be checked by qemu-img.
 */

import { once } from 'node:events';
import { createReadStream, createWriteStream } from 'node:fs';
import { mkdir, mkdtemp, rm, stat } from 'node:fs/promises';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { createServer } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { extname, join } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { build } from 'vite';

export interface SiteOptions {
  /** MIME type of `.wasm`; default the right one. */
  wasmType?: string;
  /** Pages are sent on to their addresses without `index.html` or `.html`. */
  cleanAddresses?: boolean;
}

export interface Site {
  /** `http://127.0.0.1:PORT` */
  readonly origin: string;
  readonly port: number;
  /** Where `/images/NAME` is read from, and `/left/NAME` is written to. */
  readonly images: string;
  readonly left: string;
  /** While it is so, images cannot be had: connections for them are cut, and new ones as well. */
  offline(yes: boolean): void;
  /** Resolves when that many requests for images have come in all. */
  asked(requests: number): Promise<void>;
  stop(): Promise<void>;
}

const TYPES: Record<string, string> = {
  '.html': 'text/html',
  '.js': 'text/javascript',
  '.css': 'text/css',
  '.svg': 'image/svg+xml',
  '.wasm': 'application/wasm',
};

/** Builds a page from its sources with Vite. The caller removes the folder. */
export async function buildPage(source: string): Promise<string> {
  const outDir = await mkdtemp(join(tmpdir(), 'millrace-page-'));
  await build({
    root: source,
    base: './',
    configFile: false,
    logLevel: 'error',
    worker: { format: 'es' },
    build: {
      outDir,
      emptyOutDir: true,
      assetsInlineLimit: 0,
      target: 'esnext',
      minify: false,
      modulePreload: { polyfill: false },
    },
  });
  return outDir;
}

/** Serves the files of `folder`. */
export async function serveSite(folder: string, options: SiteOptions = {}): Promise<Site> {
  const work = await mkdtemp(join(tmpdir(), 'millrace-site-'));
  const images = join(work, 'images');
  const left = join(work, 'left');
  await Promise.all([mkdir(images), mkdir(left)]);
  const busy = new Set<Socket>();
  const waiting = new Set<() => void>();
  let requests = 0;
  let cut = false;
  const server = createServer((request, response) => {
    handle(request, response).catch(() => response.destroy());
  });
  const handle = async (request: IncomingMessage, response: ServerResponse): Promise<void> => {
    const path = decodeURIComponent(new URL(request.url ?? '/', 'http://site').pathname);
    if (path.includes('..')) return void response.writeHead(400).end();
    if (request.method === 'PUT' && path.startsWith('/left/')) {
      await pipeline(request, createWriteStream(join(left, path.slice('/left/'.length))));
      return void response.writeHead(204).end();
    }
    // What a user does in the browser's settings, by the Clear Site Data standard.
    if (path === '/clear')
      return void response.writeHead(204, { 'Clear-Site-Data': '"storage"' }).end();
    if (options.cleanAddresses && path.endsWith('.html'))
      return void response.writeHead(308, { Location: path.replace(/(index)?\.html$/, '') }).end();
    if (!path.startsWith('/images/'))
      return sendFile(await pageOf(join(folder, path)), request, response, options);
    requests++;
    for (const look of [...waiting]) look();
    if (cut) return void response.destroy();
    busy.add(request.socket);
    response.once('close', () => busy.delete(request.socket));
    await sendFile(join(images, path.slice('/images/'.length)), request, response, options);
  };
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address() as AddressInfo;
  return {
    origin: `http://127.0.0.1:${port}`,
    port,
    images,
    left,
    offline(yes) {
      cut = yes;
      if (yes) for (const socket of busy) socket.destroy();
    },
    asked: (count) =>
      new Promise((resolve) => {
        const look = (): void => {
          if (requests < count) return;
          waiting.delete(look);
          resolve();
        };
        waiting.add(look);
        look();
      }),
    async stop() {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
      await rm(work, { recursive: true });
    },
  };
}

/** The file of a page, whose address may be its folder's or lack its ending. */
async function pageOf(path: string): Promise<string> {
  if ((await stat(path).catch(() => undefined))?.isDirectory()) return join(path, 'index.html');
  return extname(path) === '' ? `${path}.html` : path;
}

async function sendFile(
  path: string,
  request: IncomingMessage,
  response: ServerResponse,
  options: SiteOptions,
): Promise<void> {
  const file = await stat(path).catch(() => undefined);
  if (!file?.isFile()) return void response.writeHead(404).end();
  const extension = extname(path);
  const type =
    (extension === '.wasm' ? options.wasmType : undefined) ??
    TYPES[extension] ??
    'application/octet-stream';
  const headers = {
    'Content-Type': type,
    ETag: `"${file.mtimeMs}-${file.size}"`,
    'Cache-Control': 'no-store',
    'Accept-Ranges': 'bytes',
  };
  const range = /^bytes=(\d+)-(\d+)$/.exec(request.headers.range ?? '');
  if (range === null) {
    response.writeHead(200, { ...headers, 'Content-Length': file.size });
    if (request.method === 'HEAD') return void response.end();
    return pipeline(createReadStream(path), response);
  }
  const first = Number(range[1]);
  const last = Math.min(Number(range[2]), file.size - 1);
  response.writeHead(206, {
    ...headers,
    'Content-Range': `bytes ${first}-${last}/${file.size}`,
    'Content-Length': last - first + 1,
  });
  await pipeline(createReadStream(path, { start: first, end: last }), response);
}
