/**
 * `--from`: where a base is now that an image records elsewhere, or by a URL without its query. It
 * is one of the images of a chain: that whose recorded URL it is but for user, password and query,
 * and where there is none, the nearest.
 */
import { IMAGES_MAX } from '../../../engine/protocol.ts';
import type { Runtime } from '../../api/runtime.ts';
import { isHttpUrl, isRemote } from '../../files/location.ts';

/** What an image records as its base, without opening that. */
export type LookAt = (place: string) => Promise<string | undefined>;

export interface FromOptions {
  /** What the command line gives by name stays where that says. */
  given?: string;
  /** The nearest base is meant only if both are URLs, or neither is. */
  isKind?: boolean;
  /** The nearest base is the one that `given` stands on. */
  isBelowGiven?: boolean;
  /** Without it, no image is looked at to learn which base is meant. */
  lookAt?: LookAt;
}

/** Opens one base of each overlay at `from`. */
export function baseAt(
  runtime: Runtime,
  from: string,
  { given, isKind = false, isBelowGiven = false, lookAt }: FromOptions = {},
): Runtime {
  const recorded = isHttpUrl(from) && URL.canParse(from) ? bare(from) : undefined;
  const isMeant = (place: string): boolean =>
    recorded !== undefined && isHttpUrl(place) && URL.canParse(place) && bare(place) === recorded;
  /** Whether the chain below an image has the base that is meant. */
  const leadsThere = async (place: string): Promise<boolean> => {
    if (recorded === undefined || lookAt === undefined) return false;
    for (let at = place, looks = 0; looks < IMAGES_MAX; looks++) {
      // What cannot be opened where it is recorded is elsewhere.
      const below = await lookAt(at).catch(() => undefined);
      if (below === undefined) return false;
      if (isMeant(below)) return true;
      at = below;
    }
    return false;
  };
  const placeNow = async (place: string, isNearest: boolean): Promise<string> => {
    if (place === given) return place;
    if (isMeant(place)) return from;
    const isOfKind = !isKind || isRemote(place) === isRemote(from);
    return isNearest && isOfKind && !(await leadsThere(place)) ? from : place;
  };
  let isNearest = false;
  return {
    ...runtime,
    moved: { placeNow, ofNoPlace: () => (isNearest ? from : undefined) },
    openOverlay(location, mode) {
      isNearest = true;
      return runtime.openOverlay(location, mode);
    },
    async openSource(location, as, how) {
      const place = String(location);
      if (as !== 'base') {
        isNearest = true;
        return runtime.openSource(location, as, how);
      }
      const wasNearest = isNearest;
      isNearest = isBelowGiven && place === given;
      const now = await placeNow(place, wasNearest);
      return runtime.openSource(now === place ? location : now, as, how);
    },
  };
}

/** As an overlay records it. */
function bare(href: string): string {
  const { origin, pathname } = new URL(href);
  return `${origin}${pathname}`;
}
