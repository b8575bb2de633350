/** What a copy of an image takes and tells. */
import type { ImageFormat, SnapshotChoice } from './image.ts';
import type { CreateOptions } from './open.ts';

/** What is to be copied, and as what. */
export interface ConvertOptions
  extends Pick<
    CreateOptions,
    | 'baseFormat'
    | 'cache'
    | 'clusterSize'
    | 'compressionType'
    | 'extendedL2'
    | 'forceShare'
    | 'lazyRefcounts'
    | 'memory'
    | 'recordBase'
    | 'refcountBits'
    | 'sequential'
    | 'unpack'
  > {
  /** A path or URL. */
  source: string | URL;
  /** Default told by the source's first bytes. */
  sourceFormat?: ImageFormat;
  /**
   * An internal snapshot of a qcow2 source, in place of its disk as it is now: by id or name. It is
   * of the size that the disk had then.
   */
  snapshot?: SnapshotChoice;
  /**
   * Follow the backing references of the base itself, and open the other files of an image that
   * lies in several; of an image on a server, also its own. Default false.
   */
  followChain?: boolean;
  /** The file to make: a path where nothing is yet; or a block device, which is written over. */
  target: string;
  /** Default `raw`. */
  format?: 'raw' | 'qcow2';
  /**
   * Make a qcow2 copy an overlay over this base: a path or URL. What the source's own first image
   * does not hold is left to it; so it has to show the same as the source's own base. Whoever gives
   * another one makes another disk.
   */
  base?: string | URL;
  /** Write over an image that is there, which keeps its size and its backing file. */
  existing?: boolean;
  /** Compress the clusters of a qcow2 copy, where that makes them smaller. */
  compress?: boolean;
  /**
   * Zeros of so many bytes, a multiple of 512, take no space in a raw copy: default 64 KiB. In a
   * qcow2 copy it is whole clusters of them. 0: zeros take space, too.
   */
  sparseSize?: number;
  /** Told now and then how many bytes of the disk are done, of how many. */
  onProgress?: (done: number, total: number) => void;
  /** Gives the copy up: it fails with `ABORTED`, and leaves nothing of a file that it made. */
  signal?: AbortSignal;
}

/** What a copy is. */
export interface ConvertReport {
  /** Bytes of the disk. */
  size: number;
}
