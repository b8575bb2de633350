/** What `commit` and `rebase` of a chain take and tell. */
import type { ImageFormat } from './image.ts';

/** What is to be written into which image of the chain. */
export interface CommitOptions {
  /** A path or name. */
  overlay: string;
  /**
   * The image to write into, by any path of it or its depth; default 1, the overlay's own base.
   * With a deeper one, all images above it are committed.
   */
  base?: string | number;
  /**
   * Leave the overlay's data where it is; default where `base` is given. Otherwise it is emptied,
   * when its own base was written.
   */
  keep?: boolean;
  /**
   * Follow the backing references of the base itself, and open the other files of an image that
   * lies in several; default false.
   */
  followChain?: boolean;
  /** Bytes of WebAssembly memory for each of the two disks. */
  memory?: number;
  /** Told now and then how many bytes of the disk are done, of how many. */
  onProgress?: (done: number, total: number) => void;
}

/** What a commit did. */
export interface CommitReport {
  /** The image that was written. */
  base: string;
  /** Bytes of the disk that were written, zeros included. */
  bytes: number;
  /** Whether the overlay was emptied. */
  emptied: boolean;
}

/** Which base an overlay is to have. */
export interface RebaseOptions {
  /** A path or name. */
  overlay: string;
  /** A path or URL; null for none: the overlay then stands alone. */
  base: string | URL | null;
  /**
   * Default told by the base's first bytes; with `unsafe`, what the overlay records, if it does.
   */
  baseFormat?: ImageFormat;
  /**
   * Change only the reference. The old base need not be there; that the new one holds the same is
   * the caller's word.
   */
  unsafe?: boolean;
  /** Follow the backing references of the bases themselves; default false. */
  followChain?: boolean;
  /** Take local bases that another program (QEMU) has open for writing, too. */
  forceShare?: boolean;
  /** What is recorded as the base; default where it was given, as in createDisk. */
  recordBase?: string;
  /**
   * False: a base that is a compressed file or an archive is taken as it is. Default: what is in it
   * is the base, where no overlay records it otherwise; `…#NAME` names a file of an archive.
   */
  unpack?: boolean;
  /**
   * Take also a base of a server without byte ranges, which comes from its start to its end only:
   * what lies ahead is waited for, and the next opening begins anew.
   */
  sequential?: boolean;
  /** Bytes of WebAssembly memory for each of the two disks. */
  memory?: number;
  /** Told now and then how many bytes of the disk are done, of how many. */
  onProgress?: (done: number, total: number) => void;
}

/** What a rebase did. */
export interface RebaseReport {
  /** What is recorded as the base; null for none. */
  base: string | null;
  /** What is recorded as its format; null for no base. */
  baseFormat: ImageFormat | null;
  /** Bytes that the overlay took over from its old base. */
  bytes: number;
  /**
   * The old base had another date than was recorded, and the same size: which, in words. It was
   * taken for the one that the overlay was made on.
   */
  otherDate?: string;
}
