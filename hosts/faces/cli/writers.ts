/** What the user is told of other programs that have an image open for writing. */
import type { BlockFile } from '../../api/block.ts';
import { MillraceError } from '../../api/errors.ts';
import type { Runtime } from '../../api/runtime.ts';
import type { Platform } from './platform.ts';
import { tell } from './platform.ts';

/** Tells the user what has not been said about this before. */
type TellOnce = (about: string, message: string) => Promise<void>;

/**
 * Says once of each image that is only looked at that another program has it open for writing, or
 * that this could not be told of one that is written here. A base that another program writes is
 * taken with `forceShare`, and with a word by commands that only read.
 */
export function tellingOfWriters(
  platform: Platform,
  { forceShare, isReading }: { forceShare: boolean; isReading: boolean },
): Runtime {
  const { runtime } = platform;
  const once = tellingOnce(platform);
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
      if (!mode.readOnly && !mode.create) await tellOfGuard(file, once, platform.lockAdvice);
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

function tellingOnce(platform: Platform): TellOnce {
  const told = new Set<string>();
  return async (about, message) => {
    if (told.has(about)) return;
    told.add(about);
    await tell(platform, message);
  };
}

/** What other programs do not see of a file that is written here, or we of them. */
async function tellOfGuard(
  { guard }: BlockFile,
  once: TellOnce,
  lockAdvice: string,
): Promise<void> {
  if (guard === 'blind')
    await once(
      '',
      'the locks of other programs cannot be seen here: make sure that none has the image open',
    );
  if (guard === 'looked')
    await once(
      '',
      `QEMU is not told that the image is being written: do not open it there meanwhile (${lockAdvice})`,
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
