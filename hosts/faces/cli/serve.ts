/**
 * `millrace serve`: disks over HTTP by the shared handler, until the user stops it. Without a token, only this machine is
 * listened to, and only requests that name it.
 */
import type { Command } from 'commander';
import type { Disk, ImageFormat } from '../../api/disk.ts';
import { MillraceError } from '../../api/errors.ts';
import { identityOf, notingBases } from '../../bases/identities.ts';
import { openDiskWith } from '../../disk/open.ts';
import { createHandler } from '../http/handler.ts';
import type { Ended } from './options.ts';
import { addExample, baseFormat, listed } from './options.ts';
import type { Platform } from './platform.ts';
import { EXIT_INTERRUPTED, EXIT_OK, tell } from './platform.ts';
import { readToken } from './token.ts';

export interface ServeOptions {
  listen: string;
  tokenFile?: string;
  origin?: string[];
  readOnly?: boolean;
  baseFormat?: ImageFormat;
  followChain?: boolean;
  json?: boolean;
}

const LOOPBACK = /^(localhost|127(\.\d{1,3}){3}|\[::1\]|::1)$/i;

/** Declares `millrace serve`. */
export function declareServe(program: Command, platform: Platform, ended: Ended): void {
  const command = program
    .command('serve')
    .description(
      'Serve disks over HTTP, until Ctrl-C: their flat content by ranges, and their jobs. Without a token, only to this machine.',
    )
    .argument('<image...>', 'images, served as vda, vdb, …, or under a name: NAME=IMAGE')
    .option('--listen <address>', 'PORT or ADDRESS:PORT; port 0 takes a free one', '127.0.0.1:7468')
    .option(
      '--token-file <path>',
      'the token that requests must have (Authorization: Bearer …), in a file',
    )
    .option(
      '--origin <origin>',
      'origin of web pages that may use it, as https://console.example; several by as many options',
      listed,
    )
    .option(
      '--read-only',
      'change nothing: no jobs, and what is read from a base is not kept. For what others have as a base: a disk that was populated meanwhile is another one to them when it is served again',
    )
    .addOption(baseFormat())
    .option('--follow-chain', 'follow the backing files that the base records')
    .option('--json', 'tell where the disks are as JSON')
    .action(async (images, options) => ended(await serve(platform, images, options)));
  addExample(
    command,
    'millrace serve vm.qcow2',
    'curl -r 0-511 http://127.0.0.1:7468/disks/vda/data',
    'curl -d \'{"nonblock":true}\' http://127.0.0.1:7468/disks/vda/stream',
    'curl http://127.0.0.1:7468/disks/vda/info',
  );
}

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
