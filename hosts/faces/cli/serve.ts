/**
 * `millrace serve`: disks over HTTP by the shared handler, until the user stops it; and `millrace abort`, which ends a job of a disk
 * that is served. Without a token, only this machine is listened to, and only requests that name it.
 */
import type { Disk, ImageFormat, StreamInfo } from '../../api/disk.ts';
import { MillraceError } from '../../api/errors.ts';
import { redactUrl } from '../../bases/http/address.ts';
import { identityOf, notingBases } from '../../bases/identities.ts';
import { openDiskWith } from '../../disk/open.ts';
import { createHandler } from '../http/handler.ts';
import type { Platform } from './platform.ts';
import { EXIT_INTERRUPTED, EXIT_OK, tell } from './platform.ts';
import { formatExactly } from './sizes.ts';

export interface ServeOptions {
  listen: string;
  tokenFile?: string;
  origin?: string[];
  readOnly?: boolean;
  baseFormat?: ImageFormat;
  followChain?: boolean;
  json?: boolean;
}

/** A token is one line; a file larger than this is another one. */
const TOKEN_BYTES_MAX = 4096;
const LOOPBACK = /^(localhost|127(\.\d{1,3}){3}|\[::1\]|::1)$/i;

/** Serves images as vda, vdb, … or under the names given by `NAME=IMAGE`. */
export async function serve(
  platform: Platform,
  images: readonly string[],
  options: ServeOptions,
): Promise<number> {
  const { hostname, port } = addressOf(options.listen);
  const token =
    options.tokenFile === undefined ? undefined : await readToken(platform, options.tokenFile);
  if (token === undefined && !LOOPBACK.test(hostname)) {
    throw new MillraceError(
      'EACCES',
      `cannot listen at ${hostname} without a token: others than this machine reach it (--token-file)`,
    );
  }
  const disks = new Map<string, Disk>();
  const identities = new Map<string, string>();
  try {
    for (const [device, image] of named(images)) {
      const bases: string[] = [];
      const { readOnly, followChain, baseFormat } = options;
      disks.set(
        device,
        await openDiskWith(
          notingBases(platform.runtime, (identity) => bases.push(identity)),
          { overlay: image, readOnly, followChain, baseFormat },
        ),
      );
      identities.set(device, JSON.stringify([await identityOfFile(platform, image), ...bases]));
    }
    const handler = createHandler({
      disks: (device) => disks.get(device),
      token,
      authorize: token === undefined ? namesThisMachine : undefined,
      origins: options.origin,
      identity: (device) => identities.get(device),
    });
    const listening = await platform.serve(handler, { hostname, port });
    const stopped = interrupted(platform);
    await tellWhere(platform, [...disks.keys()], listening.url, options.json ?? false);
    await stopped;
    await listening.close();
    return EXIT_OK;
  } finally {
    await closeAll([...disks.values()]);
  }
}

/** All of them, also when one fails. */
async function closeAll(disks: readonly Disk[]): Promise<void> {
  const closed = await Promise.allSettled(disks.map((disk) => disk.close()));
  for (const result of closed) if (result.status === 'rejected') throw result.reason;
}

/** Resolves when the user stops the server; asked again, the program does not wait for its disks to be closed. */
function interrupted(platform: Platform): Promise<void> {
  let asked = false;
  return new Promise((resolve) => {
    platform.onInterrupt(() => {
      if (asked) platform.exit(EXIT_INTERRUPTED);
      asked = true;
      resolve();
    });
  });
}

/** Ends the job of a served disk, given as `http://HOST:PORT/disks/DEVICE`. */
export async function abort(
  platform: Platform,
  location: string,
  options: { tokenFile?: string; json?: boolean },
): Promise<number> {
  const url = urlOf(location);
  const headers = new Headers();
  if (options.tokenFile !== undefined)
    headers.set('Authorization', `Bearer ${await readToken(platform, options.tokenFile)}`);
  const response = await fetch(`${url.href.replace(/\/$/, '')}/abort`, {
    method: 'POST',
    headers,
  }).catch((cause) => {
    throw new MillraceError('EIO', `cannot reach ${url.href}: see that millrace serve runs there`, {
      cause,
    });
  });
  const told = (await response.json().catch(() => undefined)) as
    | (StreamInfo & { code?: MillraceError['code']; message?: string })
    | undefined;
  if (!response.ok)
    throw new MillraceError(
      told?.code ?? 'EIO',
      `${url.href}: ${told?.message ?? `it answered ${response.status}`}`,
    );
  if (told === undefined) throw new MillraceError('EIO', `${url.href} is not served by millrace`);
  await platform.stdout.write(
    options.json
      ? `${JSON.stringify(told)}\n`
      : `${url.href}: aborted, ${formatExactly(told.remaining)} left\n`,
  );
  return EXIT_OK;
}

function urlOf(location: string): URL {
  const url = URL.canParse(location) ? new URL(location) : undefined;
  // Nothing else in it would be sent.
  const isBare = url?.href === `${url?.origin}${url?.pathname}`;
  if (url && isBare && /^https?:$/.test(url.protocol) && /^\/disks\/[^/]+\/?$/.test(url.pathname))
    return url;
  throw new MillraceError(
    'EINVAL',
    `'${redactUrl(location)}' is not the URL of a served disk: http://HOST:PORT/disks/DEVICE, as millrace serve tells it`,
  );
}

/** A page on the web can make a name of its own lead to this machine: such a request still has that name. */
function namesThisMachine(request: Request): boolean {
  return LOOPBACK.test(new URL(request.url).hostname);
}

function addressOf(listen: string): { hostname: string; port: number } {
  const [, hostname, digits] = /^(?:(.+):)?(\d{1,5})$/.exec(listen) ?? [];
  const port = Number(digits);
  if (digits === undefined || port > 65535)
    throw new MillraceError(
      'EINVAL',
      `'${listen}' is not an address to listen at: PORT or ADDRESS:PORT`,
    );
  return { hostname: (hostname ?? '127.0.0.1').replace(/^\[(.*)\]$/, '$1'), port };
}

function named(images: readonly string[]): [device: string, image: string][] {
  const pairs = images.map((text, index): [string, string] => {
    const [, device, image] = /^([a-z][a-z0-9_-]{0,31})=(.+)$/.exec(text) ?? [];
    return device === undefined
      ? [`vd${String.fromCharCode('a'.charCodeAt(0) + index)}`, text]
      : [device, image];
  });
  const twice = pairs.find(
    ([device], index) => pairs.findIndex(([other]) => other === device) < index,
  );
  if (twice) throw new MillraceError('EEXIST', `there are two disks '${twice[0]}'`);
  if (pairs.length > 26)
    throw new MillraceError(
      'EINVAL',
      `${pairs.length} disks are too many for one server: 26 at most`,
    );
  return pairs;
}

/** What the file is now: one that is served again, unchanged, keeps its ETag. One that reads or a job have populated since gets another. */
async function identityOfFile(platform: Platform, image: string): Promise<string> {
  const source = await platform.runtime.openSource(image);
  await source.close();
  return identityOf(source);
}

async function readToken(platform: Platform, path: string): Promise<string> {
  const source = await platform.runtime.openSource(path);
  try {
    if (source.size > TOKEN_BYTES_MAX)
      throw new MillraceError(
        'EINVAL',
        `'${path}' has ${source.size} bytes: a token is one line of at most ${TOKEN_BYTES_MAX}`,
      );
    const bytes = new Uint8Array(source.size);
    await source.read(0, bytes);
    const token = new TextDecoder().decode(bytes).trim();
    // What a header can carry as it is.
    if (!/^[\x21-\x7e]+$/.test(token))
      throw new MillraceError(
        'EINVAL',
        `'${path}' does not hold a token: one line of ASCII characters without spaces`,
      );
    return token;
  } finally {
    await source.close();
  }
}

async function tellWhere(
  platform: Platform,
  devices: readonly string[],
  origin: string,
  json: boolean,
): Promise<void> {
  const urls = Object.fromEntries(
    devices.map((device) => [device, `${origin}/disks/${encodeURIComponent(device)}`]),
  );
  if (json) return void (await platform.stdout.write(`${JSON.stringify(urls)}\n`));
  for (const [device, url] of Object.entries(urls))
    await platform.stdout.write(`${device}: ${url}\n`);
  await tell(platform, 'serving until it is stopped (Ctrl-C)');
}
