/** Node's way to open things: files by path, bases also by http: and https: URL. */
import { readFile, rm } from 'node:fs/promises';
import { dirname, isAbsolute, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { BlockSource } from '../block.ts';
import { MillraceError } from '../errors.ts';
import { openHttp, redactUrl } from '../http.ts';
import type { Runtime } from '../runtime.ts';
import { nodeCodec } from './codecs.ts';
import { openFile, openFileSource } from './file.ts';

/** A URL has a scheme of two letters or more; one letter is a drive. */
const SCHEME = /^([a-z][a-z0-9+.-]+):/i;

let engine: Promise<WebAssembly.Module> | undefined;

export const nodeRuntime: Runtime = {
  engine: () => (engine ??= readFile(new URL('../engine.wasm', import.meta.url)).then((bytes) => WebAssembly.compile(bytes))),
  codec: nodeCodec,
  openOverlay: (path, { readOnly, create }) => openFile(pathOf(path), { readOnly, create, exclusive: create }),
  openSource,
  resolve: (name, from) => (SCHEME.test(name) || isAbsolute(name) ? name : isUrl(from) ? new URL(name, from).href : join(dirname(from), name)),
  record: (base, overlay) => (SCHEME.test(base) || isAbsolute(base) ? base : relative(resolve(dirname(overlay)), resolve(base))),
  remove: (path) => rm(path, { force: true }),
};

async function openSource(location: string | URL): Promise<BlockSource> {
  const text = String(location);
  if (isUrl(text)) return openHttp(location);
  return openFileSource(pathOf(text));
}

function isUrl(text: string): boolean {
  return /^https?:/i.test(text);
}

/** A path as it is, or of a file: URL (which QEMU also writes without slashes). */
function pathOf(text: string): string {
  const scheme = SCHEME.exec(text)?.[1].toLowerCase();
  if (scheme === undefined) return text;
  if (scheme !== 'file') throw new MillraceError('EUNSUPPORTED', `'${redactUrl(text)}': the scheme '${scheme}:' is not supported; a base is a path or an http: or https: URL`);
  return text.startsWith('file://') ? fileURLToPath(text) : text.slice('file:'.length);
}
