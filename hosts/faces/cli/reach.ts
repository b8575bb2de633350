/**
 * How a command gets at bases on servers: what to send to them, where a base is that its overlay
 * records elsewhere, or without its query; and a word to the user while a server brings nothing.
 */
import type { Command } from 'commander';
import { MillraceError } from '../../api/errors.ts';
import type { Runtime } from '../../api/runtime.ts';
import { isNbdUri } from '../../bases/nbd/uri.ts';
import { cachingBases } from '../../disk/base-cache.ts';
import { describeImageWith } from '../../disk/open.ts';
import { isHttpUrl } from '../../files/location.ts';
import type { BaseHeaders, HeadersTo } from './base-headers.ts';
import { baseHeaders } from './base-headers.ts';
import type { LookAt } from './from.ts';
import { baseAt } from './from.ts';
import type { Platform } from './platform.ts';
import { tell } from './platform.ts';
import type { ReachOptions } from './reach-options.ts';
import { OWN_FROM, READING, SERVER, WITHOUT_BASES } from './reach-options.ts';
import { tellingOfWriters } from './writers.ts';

/** A server whose image is only looked at to learn what it records. */
const LOOK_MS_MAX = 3000;

/** It reads the first bytes only. */
const LOOKING: readonly string[] = ['info'];
/** The runtime for one command, which reaches bases as its options say. */
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
  const { from, base, header = [], cache, cacheSize, profile, order } = options;
  const tokenOption = command.name() === SERVER ? 'baseTokenFile' : 'tokenFile';
  const places = [command.args, base || '', from ?? [], profile ?? [], order ?? ''].flat();
  const headers = await baseHeaders(platform, { places, header, tokenFile: options[tokenOption] });
  if (cache === undefined && cacheSize !== undefined)
    throw new MillraceError('EINVAL', '--cache-size is of a folder that --cache names');
  const onTrouble = (message: string): void => void tell(platform, message);
  const remote = reachingServers(platform, local, { ...options, headers, onTrouble });
  // The command hands its other options on: these are done with.
  const done = ['header', tokenOption, 'forceShare', 'cache', 'cacheSize', 'unpack', 'sequential'];
  for (const name of [...done, ...(isOwn ? [] : ['from'])])
    if (Object.hasOwn(options, name)) command.setOptionValue(name, undefined);
  const folder = { directory: cache!, size: cacheSize };
  const cached =
    cache === undefined ? remote : cachingBases(remote, platform.cacheFolder, folder, onTrouble);
  return typeof from !== 'string' || isOwn
    ? cached
    : baseAt(cached, from, {
        given: base || undefined,
        isKind: command.name() === 'commit',
        isBelowGiven: command.name() === 'create',
        lookAt: lookingWith(platform, headers.headersTo),
      });
}

/** Opens what is on servers by the platform's own ways, with what is to be sent there. */
function reachingServers(
  platform: Platform,
  local: Runtime,
  how: ReachOptions & { headers: BaseHeaders; onTrouble: (message: string) => void },
): Runtime {
  const { headers, onTrouble, cache, sequential } = how;
  return {
    ...local,
    async openSource(location, as) {
      const place = String(location);
      if (isNbdUri(place)) return platform.openNbd(place, { onTrouble });
      if (!isHttpUrl(place) || !URL.canParse(place)) return local.openSource(location, as);
      headers.opened(place);
      return platform.openHttp(place, {
        headers: headers.headersTo(place),
        ...(cache !== undefined && as !== undefined ? { lookFirst: true } : {}),
        onTrouble,
        sequential,
      });
    },
  };
}

/**
 * Tells what images record as their bases. A server is not waited for: it may be gone, and that is
 * why the base is elsewhere.
 */
export function lookingWith(
  { runtime, openHttp }: Platform,
  headersTo: HeadersTo = () => ({}),
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
