/** The calls that open disks, as a runtime with local files has them. */
import type { CommitOptions, CommitReport, RebaseOptions, RebaseReport } from './chain.ts';
import type { CheckOptions, CheckReport } from './check.ts';
import type { ConvertOptions, ConvertReport } from './convert.ts';
import type { Disk } from './disk.ts';
import type { BaseCacheOptions, CreateOptions, OpenOptions } from './open.ts';
import type { EngineModule } from './runtime.ts';

export type { EngineModule };

/** For programs that are bundled without the files of this package. */
export interface WithEngine {
  /** The engine, `millrace/engine.wasm`, compiled; default the package's own. */
  wasm?: EngineModule;
}

/** The calls of a runtime that has local files. */
export interface Library {
  /** Makes a new overlay over a base, or an empty disk of a given size, and opens it. */
  createDisk(options: CreateOptions & WithEngine): Promise<Disk>;
  /** Opens an overlay; its base is the recorded one unless another is given. */
  openDisk(options: OpenOptions & WithEngine): Promise<Disk>;
  /**
   * Checks an image by itself, without its base, and repairs it if asked to; undefined for a raw
   * image, which has nothing to check.
   */
  checkDisk(options: CheckOptions & WithEngine): Promise<CheckReport | undefined>;
  /** Writes what an overlay holds down into a local base of its chain, and empties the overlay. */
  commitDisk(options: CommitOptions & WithEngine): Promise<CommitReport>;
  /** Gives an overlay another base; the disk shows the same as before. */
  rebaseDisk(options: RebaseOptions & WithEngine): Promise<RebaseReport>;
  /** Copies all that a disk shows, its base included, into a file that stands alone. */
  convertDisk(options: ConvertOptions & WithEngine): Promise<ConvertReport>;
}

/** What disks over bases on servers may have besides. */
export interface WithBaseCache {
  /** A folder in which what is fetched of a base is kept for the next disk over it. */
  baseCache?: BaseCacheOptions;
}

/** The calls, where what is fetched of bases can be kept. */
export interface CachingLibrary extends Library {
  /** Makes a new overlay over a base, or an empty disk of a given size, and opens it. */
  createDisk(options: CreateOptions & WithBaseCache & WithEngine): Promise<Disk>;
  /** Opens an overlay; its base is the recorded one unless another is given. */
  openDisk(options: OpenOptions & WithBaseCache & WithEngine): Promise<Disk>;
}
