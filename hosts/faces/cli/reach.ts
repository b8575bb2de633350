/**
 * How a command gets at bases on servers: what to send to them, where a base is that its overlay
 * records elsewhere, or without its query; and a word to the user while a server brings nothing.
 */
import type { Command } from 'commander';
import { MillraceError } from '../../api/errors.ts';
import type { Runtime } from '../../api/runtime.ts';
import type { HttpOptions } from '../../bases/http/http.ts';
import { isNbdUri } from '../../bases/nbd/uri.ts';
import { cachingBases } from '../../disk/base-cache.ts';
import { describeImageWith } from '../../disk/open.ts';
import { isHttpUrl } from '../../files/location.ts';
import type { LookAt } from './from.ts';
import { baseAt } from './from.ts';
import { listed, size } from './options.ts';
import type { Platform } from './platform.ts';
import { tell } from './platform.ts';
import { readToken } from './token.ts';

/** As the options of the commands are named. */
interface ReachOptions {
  base?: string | false;
  from?: string | string[];
  header?: string[];
  tokenFile?: string;
  baseTokenFile?: string;
  forceShare?: boolean;
  cache?: string;
  cacheSize?: number;
  unpack?: boolean;
  sequential?: boolean;
  profile?: string[];
  order?: string;
}

/** It says in its own file where the base of each disk is. */
const OWN_FROM: readonly string[] = ['serve'];
/** Its `--token-file` is of the server that it is itself. */
const SERVER = 'serve';
/** They open no image. */
const WITHOUT_BASES: readonly string[] = ['abort', 'resume', 'completion', 'show', 'merge'];

/** A server whose image is only looked at to learn what it records. */
const LOOK_MS_MAX = 3000;

/** They read bases for long, or again and again. */
const CACHING: readonly string[] = ['create', 'serve', 'stream'];
/** It reads the first bytes only. */
const LOOKING: readonly string[] = ['info'];
/** They look at images that others may have open. */
const READING: readonly string[] = [
  'info',
  'map',
  'check',
  'convert',
  'compare',
  'measure',
  'snapshot',
];

/** Adds the options that every command has which opens an image. */
export function declareReach(command: Command): void {
  const name = command.name();
  if (WITHOUT_BASES.includes(name)) return;
  if (!OWN_FROM.includes(name))
    command.option(
      '--from <url|path>',
      name === 'create'
        ? 'where the backing file of the base is now, if not where the base records it'
        : 'where the base is now, if not where the overlay records it',
    );
  command.option(
    '-U, --force-share',
    READING.includes(name)
      ? 'do not warn of another program that has an image open for writing'
      : 'take bases that another program has open for writing, too',
  );
  if (CACHING.includes(name))
    command
      .option(
        '--cache <dir>',
        'a folder that keeps what is fetched of bases on servers, for the next disk over them',
        cacheDirectory,
      )
      .option(
        '--cache-size <size>',
        'how much it may take; what was used longest ago goes first (default: 20G)',
        size,
      );
  command.option('--no-unpack', 'take a compressed file or an archive as it is, not what is in it');
  command.option(
    '--sequential',
    'take also what a server without byte ranges sends: reads wait until all before them has come',
  );
  command.option(
    '--header <line>',
    "a header for the base's server, as 'Name: value'; several by as many options",
    listed,
  );
  command.option(
    name === SERVER ? '--base-token-file <path>' : '--token-file <path>',
    "a token for the base's server (Authorization: Bearer …), in a file",
  );
}

/**
 * The runtime for one command. Headers go to the servers of the URLs that the command line names;
 * if it names none, to that of the first one that an image names: an image must not choose to whom
 * a token is sent.
 */
export async function reachingRuntime(platform: Platform, command: Command): Promise<Runtime> {
  if (WITHOUT_BASES.includes(command.name())) return platform.runtime;
  const options: ReachOptions = command.opts();
  const guarded = tellingOfWriters(platform, {
    forceShare: options.forceShare === true,
    isReading: READING.includes(command.name()),
  });
  const local = unpackingAs(platform, guarded, options, LOOKING.includes(command.name()));
  const isOwn = OWN_FROM.includes(command.name());
  // Before they are cleared below: these are the values themselves.
  const { from, base, header = [], cache, cacheSize, sequential, profile, order } = options;
  const tokenOption = command.name() === SERVER ? 'baseTokenFile' : 'tokenFile';
  const tokenFile = options[tokenOption];
  const headers = headersOf(header);
  if (tokenFile !== undefined)
    headers.Authorization = `Bearer ${await readToken(platform, tokenFile)}`;
  const places = [base || '', from ?? [], profile ?? [], order ?? ''].flat();
  const named = [...command.args, ...places].map(withoutDevice);
  const origins = new Set(
    named.filter((place) => isHttpUrl(place) && URL.canParse(place)).map(originOf),
  );
  if (cache === undefined && cacheSize !== undefined)
    throw new MillraceError('EINVAL', '--cache-size is of a folder that --cache names');
  const onTrouble = (message: string): void => void tell(platform, message);
  const headersTo = (place: string): Record<string, string> =>
    origins.has(originOf(place)) ? headers : {};
  const runtime: Runtime = {
    ...local,
    async openSource(location, as) {
      const place = String(location);
      if (isNbdUri(place)) return platform.openNbd(place, { onTrouble });
      if (!isHttpUrl(place) || !URL.canParse(place)) return local.openSource(location, as);
      if (origins.size === 0) origins.add(originOf(place));
      const http: HttpOptions = {
        headers: headersTo(place),
        ...(cache !== undefined && as !== undefined ? { lookFirst: true } : {}),
        onTrouble,
        sequential,
      };
      return platform.openHttp(place, http);
    },
  };
  // The command hands its other options on: these are done with.
  const done = ['header', tokenOption, 'forceShare', 'cache', 'cacheSize', 'unpack', 'sequential'];
  for (const name of [...done, ...(isOwn ? [] : ['from'])])
    if (Object.hasOwn(options, name)) command.setOptionValue(name, undefined);
  const cached =
    cache === undefined
      ? runtime
      : cachingBases(
          runtime,
          platform.cacheFolder,
          { directory: cache, size: cacheSize },
          onTrouble,
        );
  return typeof from !== 'string' || isOwn
    ? cached
    : baseAt(cached, from, {
        given: base || undefined,
        isKind: command.name() === 'commit',
        isBelowGiven: command.name() === 'create',
        lookAt: lookingWith(platform, headersTo),
      });
}

/**
 * Tells what images record as their bases. A server is not waited for: it may be gone, and that is
 * why the base is elsewhere.
 */
export function lookingWith(
  { runtime, openHttp }: Platform,
  headersTo: (place: string) => Record<string, string> = () => ({}),
): LookAt {
  return async (place) => {
    if (isNbdUri(place)) return undefined;
    const image = isHttpUrl(place)
      ? await openHttp(place, { headers: headersTo(place), retries: 0, timeout: LOOK_MS_MAX })
      : place;
    const { backingFile } = (await describeImageWith(runtime, image)).image;
    return backingFile === undefined ? undefined : runtime.resolve(backingFile, place);
  };
}

/**
 * Unpacks as the command line has it, and says of what comes in order only, before anything waits
 * for it.
 */
function unpackingAs(
  platform: Platform,
  runtime: Runtime,
  { unpack, sequential }: ReachOptions,
  isLook: boolean,
): Runtime {
  if (runtime.unpack === undefined) return runtime;
  return {
    ...runtime,
    async unpack(source, how) {
      const asIs = how.asIs || unpack === false;
      const contents = await runtime.unpack!(source, { ...how, sequential, asIs });
      if (isLook || contents.container?.access !== 'sequential') return contents;
      const { formats } = contents.container;
      await tell(
        platform,
        `${contents.name ?? 'the base'} can only be read from its start to its end (${formats.join(', ') || 'no byte ranges'}): reads wait until all before them has come, and each time it is opened that begins anew`,
      );
      return contents;
    },
  };
}

/**
 * Says once of each image that is only looked at that another program has it open for writing, or
 * that this could not be told of one that is written here. A base that another program writes is
 * taken with `forceShare`, and with a word by commands that only read.
 */
function tellingOfWriters(
  platform: Platform,
  { forceShare, isReading }: { forceShare: boolean; isReading: boolean },
): Runtime {
  const { runtime } = platform;
  const told = new Set<string>();
  const once = async (about: string, message: string): Promise<void> => {
    if (told.has(about)) return;
    told.add(about);
    await tell(platform, message);
  };
  const look = async (location: string): Promise<void> => {
    const writer = forceShare ? undefined : runtime.writerOf?.(location);
    if (writer !== undefined)
      await once(
        location,
        `'${location}' is open for writing by ${writer}: what is read of it may be of no one moment (-U leaves this warning out)`,
      );
  };
  return {
    ...runtime,
    async openOverlay(location, mode) {
      if (mode.readOnly) await look(location);
      const file = await runtime
        .openOverlay(location, mode)
        .catch(mode.readOnly ? meaningUrl(location) : asItIs);
      if (!mode.readOnly && !mode.create && file.guard === 'blind')
        await once(
          '',
          'the locks of other programs cannot be seen here: make sure that none has the image open',
        );
      if (!mode.readOnly && !mode.create && file.guard === 'looked')
        await once(
          '',
          `QEMU is not told that the image is being written: do not open it there meanwhile (${platform.lockAdvice})`,
        );
      return file;
    },
    async openSource(location, as) {
      if (as === undefined) await look(String(location));
      const use = as === 'base' && forceShare ? 'shared' : as;
      try {
        return await runtime.openSource(location, use).catch(meaningUrl(location));
      } catch (error) {
        if (!isReading || use !== 'base' || (error as MillraceError).code !== 'EBUSY') throw error;
        await once(
          String(location),
          `what is read of a base may be of no one moment (-U leaves this warning out): ${(error as MillraceError).message}`,
        );
        return runtime.openSource(location, 'shared');
      }
    },
  };
}

/** @throws MillraceError `EINVAL` for what is a mode of caching, as `--cache` was before. */
function cacheDirectory(text: string): string {
  if (text !== 'unsafe' && text !== 'writeback') return text;
  throw new MillraceError(
    'EINVAL',
    `--cache names a folder for bases: the mode '${text}' is given by -t, or the folder as ./${text}`,
  );
}

/** What is not there as a file, and looks like a URL without its scheme. */
const HOST_AND_PATH = /^(localhost|([a-z0-9-]+\.)+[a-z]{2,}|\d{1,3}(\.\d{1,3}){3})(:\d+)?\/./i;

/** Handles an error of opening a place. */
function meaningUrl(location: string | URL): (error: unknown) => never {
  return (error) => {
    const place = String(location);
    if (!(error instanceof MillraceError) || error.code !== 'ENOENT' || !HOST_AND_PATH.test(place))
      throw error;
    const message = `${error.message}; did you mean https://${place}?`;
    throw new MillraceError(error.code, message, { cause: error });
  };
}

function asItIs(error: unknown): never {
  throw error;
}

function originOf(href: string): string {
  return new URL(href).origin;
}

function withoutDevice(text: string): string {
  return text.replace(/^[a-z][a-z0-9_-]{0,31}=(?=https?:)/, '');
}

/**
 * @throws MillraceError `EINVAL` for what is no header; its value, which may be a secret, is not
 * repeated.
 */
function headersOf(lines: readonly string[]): Record<string, string> {
  const headers: Record<string, string> = {};
  for (const line of lines) {
    const [, name, value] = /^([!#$%&'*+.^_`|~0-9a-z-]+):[ \t]*([\x20-\x7e]*)$/i.exec(line) ?? [];
    if (name === undefined)
      throw new MillraceError('EINVAL', "--header is a line of the form 'Name: value', in ASCII");
    headers[name] = value.trim();
  }
  return headers;
}
