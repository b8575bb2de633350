/**
 * Disks over the same base share one source of it: one set of connections, one look at what it is.
 */
import type { BlockSource } from '../api/block.ts';
import type { Runtime } from '../api/runtime.ts';

/** A source with those who have it open. */
interface Shared {
  opening: Promise<BlockSource>;
  users: number;
}

/**
 * Opens as the runtime does, but each base only once, by its location as it was given; the last one
 * who closes it closes it.
 */
export function sharingBases(runtime: Runtime): Runtime {
  const shared = new Map<string, Shared>();
  return {
    ...runtime,
    async openSource(location, as, how) {
      if (as !== 'base') return runtime.openSource(location, as, how);
      const key = String(location);
      const entry = shared.get(key) ?? { opening: runtime.openSource(location, as, how), users: 0 };
      shared.set(key, entry);
      entry.users++;
      const leave = async (): Promise<boolean> => {
        if (--entry.users > 0) return false;
        if (shared.get(key) === entry) shared.delete(key);
        return true;
      };
      const source = await entry.opening.catch(async (error) => {
        await leave();
        throw error;
      });
      return seatAt(source, async () => {
        if (await leave()) await source.close();
      });
    },
  };
}

/** The same source, with a `close` of its own that counts once. */
function seatAt(source: BlockSource, leave: () => Promise<void>): BlockSource {
  let left: Promise<void> | undefined;
  return {
    size: source.size,
    name: source.name,
    preferred: source.preferred,
    identity: source.identity,
    mirrors: source.mirrors,
    inOrder: source.inOrder,
    read: (offset, into, hint) => source.read(offset, into, hint),
    beside: source.beside && ((ending) => source.beside!(ending)),
    nextData: source.nextData && ((offset) => source.nextData!(offset)),
    close: () => (left ??= leave()),
  };
}
