/**
 * What the images below a served disk are: an overlay may know them by name only, and the disk's
 * ETag must not outlive them.
 */
import type { BlockSource } from '../api/block.ts';
import type { Runtime } from '../api/runtime.ts';

/** Opens as the runtime does, and hands on what each base is. */
export function notingBases(runtime: Runtime, note: (identity: string) => void): Runtime {
  return {
    ...runtime,
    async openSource(location, as, how) {
      const source = await runtime.openSource(location, as, how);
      note(identityOf(source));
      return source;
    },
  };
}

/** Of one that cannot be told from others, nothing is known: another one each time. */
export function identityOf(source: BlockSource): string {
  return source.identity ?? crypto.randomUUID();
}
