/**
 * `millrace serve`: disks over HTTP by the shared handler, or over NBD, until the user stops it.
 */
import type { Command } from 'commander';
import { InvalidArgumentError } from 'commander';
import { MillraceError } from '../../api/errors.ts';
import type { ImageFormat } from '../../api/image.ts';
import { closeAll } from '../../disk/close-all.ts';
import type { Ended } from './options.ts';
import { addExample, baseFormat, followChain, imageFormat, listed } from './options.ts';
import type { Platform } from './platform.ts';
import { EXIT_INTERRUPTED, EXIT_OK, tell } from './platform.ts';
import type { ServedImage } from './serve-disks.ts';
import { named, openAll, placesOf } from './serve-disks.ts';
import { privateAddress, startHttp } from './serve-http.ts';
import type { NbdServing } from './serve-nbd.ts';
import { nbdAddress, startNbd, streamBehind } from './serve-nbd.ts';
import { mustBeFree, Recording } from './serve-profiles.ts';
import { readToken } from './token.ts';

export interface ServeOptions {
  listen?: string;
  tokenFile?: string;
  origin?: string[];
  readOnly?: boolean;
  from?: string[];
  format?: ImageFormat;
  baseFormat?: ImageFormat;
  followChain?: boolean;
  json?: boolean;
  /** Where NBD is served: see nbdAddress. The disks are then opened for writing. */
  nbd?: string;
  stream?: boolean;
  keepCompressed?: boolean;
  create?: boolean;
  base?: string;
  once?: boolean;
  /** Where boot profiles are written, and which are replayed: `NAME=` may stand before each. */
  record?: string[];
  profile?: string[];
  /** Seconds. */
  recordFor?: number;
  /** Seconds. */
  ioTimeout?: number;
  tlsCert?: string;
  tlsKey?: string;
  tlsCa?: string;
}

const LISTEN_DEFAULT = '127.0.0.1:7468';
/** Timers take no longer one. */
const SECONDS_MAX = 86_400;

/** Declares `millrace serve`. */
export function declareServe(program: Command, platform: Platform, ended: Ended): void {
  const command = program
    .command('serve')
    .description(
      'Serve disks until Ctrl-C: over HTTP, their flat content by ranges, and their jobs, without a token only to this machine, with a page for people at /; or with --nbd over NBD, to hypervisors. It ends with 128 and the number of the signal that stopped it, and with 0 by itself (--once). A discard gives space back, but for overlays of version 2, which stay as they are.',
    )
    .argument('<image...>', 'images, served as vda, vdb, …, or under a name: NAME=IMAGE')
    .option(
      '--listen <address>',
      `where HTTP is served: PORT or ADDRESS:PORT; port 0 takes a free one (default: ${LISTEN_DEFAULT}; with --nbd, nowhere)`,
    )
    .option(
      '--token-file <path>',
      'the token that requests must have (Authorization: Bearer …), in a file',
    )
    .option(
      '--origin <origin>',
      'origin of web pages that may use it, as https://console.example; several by as many options',
      listed,
    )
    .option('--read-only', 'change nothing: no jobs, and what is read from a base is not kept')
    .option(
      '--from <url|path>',
      'where the base is now, if not where the overlay records it; with several disks NAME=URL, as many times as needed',
      listed,
    )
    .addOption(imageFormat())
    .addOption(baseFormat())
    .addOption(followChain())
    .option('--json', 'tell where the disks are as JSON');
  addProfiles(command);
  addNbd(command).action(async (images, options) => ended(await serve(platform, images, options)));
  addExample(
    command,
    'millrace serve vm.qcow2',
    'curl -r 0-511 http://127.0.0.1:7468/disks/vda/data',
    'curl -d \'{"nonblock":true}\' http://127.0.0.1:7468/disks/vda/stream',
    'curl http://127.0.0.1:7468/disks/vda/info',
    'xdg-open http://127.0.0.1:7468/',
    'millrace serve --nbd unix:/run/vm.sock --stream vda=vm.qcow2',
    'millrace serve --nbd unix:/run/vm.sock --record debian.qcow2.profile --record-for 60s vda=vm.qcow2',
  );
}

function addProfiles(command: Command): Command {
  return command
    .option(
      '--profile <profile>',
      'the boot profile to fetch ahead: a path, a URL, none, or auto, the one beside the base on its server as URL.profile (default: auto); with several disks NAME=FILE',
      listed,
    )
    .option(
      '--record <file>',
      'write a boot profile into a new file: what guests read of the base, in its order; with several disks NAME=FILE',
      listed,
    )
    .option(
      '--record-for <seconds>',
      'record so long from the first read on (default: until the guest has read nothing new for 30 s, or Ctrl-C)',
      seconds,
    );
}

function addNbd(command: Command): Command {
  return command
    .option('--nbd <address>', 'serve over NBD, writable: unix:PATH, PORT, HOST:PORT, or systemd')
    .option('--stream', 'stream all of the disks behind their guests')
    .option('--keep-compressed', 'with --stream: as in millrace stream')
    .option('--create', 'make an overlay that is not there yet, over --base')
    .option('--base <url|path>', 'the base of the overlays, if not where they record it')
    .option('--once', 'end when the last NBD client has gone')
    .option('--io-timeout <seconds>', 'how long a guest waits for a base in trouble', seconds, 60)
    .option('--tls-cert <path>', "NBD with TLS only: the server's certificate (PEM)")
    .option('--tls-key <path>', 'its key')
    .option('--tls-ca <path>', 'let in only clients with a certificate of this authority');
}

function seconds(text: string): number {
  const value = Number(text.replace(/s$/, ''));
  if (!/^\d{1,6}(\.\d{1,3})?s?$/.test(text) || value > SECONDS_MAX)
    throw new InvalidArgumentError(`It is a number of seconds, ${SECONDS_MAX} at most.`);
  return value;
}

/** Serves images as vda, vdb, … or under the names given by `NAME=IMAGE`. */
export async function serve(
  platform: Platform,
  images: readonly string[],
  options: ServeOptions,
): Promise<number> {
  mustGoTogether(options);
  const token =
    options.tokenFile === undefined ? undefined : await readToken(platform, options.tokenFile);
  const listen = options.listen ?? (options.nbd === undefined ? LISTEN_DEFAULT : undefined);
  const address = listen === undefined ? undefined : privateAddress(listen, token);
  // Wrong before anything is opened.
  if (options.nbd !== undefined) nbdAddress(options.nbd);
  const served = new Map<string, ServedImage>();
  const started: { close(): Promise<void> }[] = [];
  const recordings: Recording[] = [];
  try {
    const places = placesOf('record', options.record ?? [], named(images));
    await mustBeFree(platform, places.values());
    await openAll(platform, named(images), options, served);
    for (const [device, path] of places)
      recordings.push(new Recording(platform, device, served.get(device)!.disk, path));
    for (const recording of recordings) recording.begin();
    const disks = Object.fromEntries([...served].map(([device, { disk }]) => [device, disk]));
    const nbd = options.nbd === undefined ? undefined : await startNbd(platform, disks, options);
    if (nbd) started.push(nbd);
    const http = address && (await startHttp(platform, disks, address, token, options.origin));
    if (http) started.push(http);
    const stopped = interrupted(platform);
    const gone = options.once ? nbd?.server.lastGone() : undefined;
    await tellWhere(platform, [...served.keys()], { http: http?.url, nbd }, options.json ?? false);
    if (options.stream) await streamBehind(platform, served, options.keepCompressed);
    const code = await (gone === undefined ? stopped : Promise.race([stopped, gone]));
    await closeAll(started.splice(0));
    for (const recording of recordings) await recording.end();
    return code ?? EXIT_OK;
  } finally {
    await closeAll([...started, ...[...served.values()].map(({ disk }) => disk)]);
  }
}

function mustGoTogether(options: ServeOptions): void {
  const { nbd, readOnly, stream, create, base } = options;
  const needNbd = (['once', 'tlsCert', 'tlsKey', 'tlsCa'] as const).filter(
    (name) => options[name] !== undefined,
  );
  if (nbd === undefined && needNbd.length > 0)
    throw new MillraceError(
      'EINVAL',
      `--${needNbd[0].replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)} goes with --nbd only`,
    );
  if (readOnly && (stream || create))
    throw new MillraceError('EINVAL', '--read-only does not go with --stream and --create');
  if (base !== undefined && options.from !== undefined)
    throw new MillraceError('EINVAL', '--base and --from say the same: give one of them');
  if (options.keepCompressed && !stream)
    throw new MillraceError('EINVAL', '--keep-compressed goes with --stream only');
  if (options.recordFor !== undefined && options.record === undefined)
    throw new MillraceError('EINVAL', '--record-for goes with --record only');
  if (create && base === undefined)
    throw new MillraceError('EINVAL', '--create needs a base to make the overlay over: --base');
}

/**
 * Gives the exit code when the user stops the server; asked again, the program does not wait for
 * its disks to be closed.
 */
function interrupted(platform: Platform): Promise<number> {
  let asked = false;
  return new Promise((resolve) => {
    platform.onInterrupt(() => {
      if (asked) platform.exit(EXIT_INTERRUPTED);
      asked = true;
      resolve(EXIT_INTERRUPTED);
    });
  });
}

async function tellWhere(
  platform: Platform,
  devices: readonly string[],
  { http, nbd }: { http?: string; nbd?: NbdServing },
  json: boolean,
): Promise<void> {
  const urlOf = (device: string): string | undefined =>
    http && `${http}/disks/${encodeURIComponent(device)}`;
  if (json) {
    const told = devices.map((device) => [
      device,
      nbd ? { nbd: nbd.uri(device), http: urlOf(device) } : urlOf(device),
    ]);
    return void (await platform.stdout.write(`${JSON.stringify(Object.fromEntries(told))}\n`));
  }
  for (const device of devices) {
    const lines = nbd?.lines(device) ?? [];
    if (http) lines.push(`${device}: ${urlOf(device)}`);
    for (const line of lines) await platform.stdout.write(`${line}\n`);
  }
  const page = http === undefined ? '' : `; for people: ${http}/`;
  await tell(platform, `serving until it is stopped (Ctrl-C)${page}`);
}
