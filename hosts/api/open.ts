/** What a disk is made and opened with. */
import type { BlockFile, BlockSource } from './block.ts';
import type { Compression } from './codec.ts';
import type { ImageFormat } from './image.ts';
import type { ProfileChoice, RecordOptions } from './profile.ts';

/** Where what is fetched of bases on servers is kept for the next disk over them. */
export interface BaseCacheOptions {
  /** A folder for nothing else; it is made if it is missing. */
  directory: string;
  /**
   * Bytes that its images may take together; default 20 GiB. Those used longest ago go first, and
   * none that is in use: where these take all, no more is kept.
   */
  size?: number;
}

/** Where a base comes from: a path or URL, or an opened source. */
export type BaseLocation = string | URL | BlockSource;

/**
 * What a flush does to an overlay's file, after QEMU's cache modes of these names. `writeback`: it
 * returns when the storage has everything. `unsafe`: it leaves that to the system's page cache, and
 * only orders writes. Then a killed process still loses nothing that was flushed, and its image is
 * still valid; but a power cut or a crash of the system can leave an image that is corrupt.
 */
export type CacheMode = 'writeback' | 'unsafe';

/** How an overlay is used once it is open. */
export interface UseOptions {
  /** Store what reads fetch from the base; default true. */
  copyOnRead?: boolean;
  /**
   * Take local bases that another program (QEMU) has open for writing, too: what is read from one
   * that is then written fails (`ECHANGED`).
   */
  forceShare?: boolean;
  /**
   * For an overlay given by path or name; default `writeback`. `unsafe` is quicker, for disks that
   * can be made anew; not on edges.
   */
  cache?: CacheMode;
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
  /**
   * A boot profile to fetch ahead as soon as the disk is open; default none. One that is given must
   * be there; that of another base is left alone: see `Disk.replay`.
   */
  profile?: ProfileChoice;
  /** Record which ranges of the base are read first, and in which order: see `Disk.profile`. */
  record?: boolean | RecordOptions;
  /** Bytes of WebAssembly memory for this disk, 8 MiB to 1 GiB; default 32 MiB. */
  memory?: number;
}

/** What a new overlay is to be. */
export interface CreateOptions extends UseOptions {
  /** A path or name; or an opened, empty file. */
  overlay: string | BlockFile;
  /** What is read where the overlay has nothing; without one, zeros. */
  base?: BaseLocation;
  /** Default told by the base's first bytes. */
  baseFormat?: ImageFormat;
  /** Bytes, a multiple of 512; default the base's size. */
  size?: number;
  /** Bytes, a power of two from 512 to 2 MiB; default 65536. */
  clusterSize?: number;
  /** Bits a refcount entry takes, a power of two from 1 to 64; default 16. */
  refcountBits?: number;
  /** 32 subclusters a cluster; clusters of 16 KiB or more. */
  extendedL2?: boolean;
  /** How its compressed clusters are compressed, if it comes to have some; default zlib. */
  compressionType?: Compression;
  /**
   * Let other programs (QEMU) write refcounts late while they use it: after a crash they look
   * through it first, as is done here anyway. Default false.
   */
  lazyRefcounts?: boolean;
  /**
   * Follow the backing references of the base itself, and open the other files of an image that
   * lies in several; default false.
   */
  followChain?: boolean;
  /**
   * What the overlay records as its base; default where the base was given: a path (relative to the
   * overlay, if it was given as a relative one), or a URL without user, password and query, which
   * may hold credentials.
   */
  recordBase?: string;
}

/** What is to be opened, and how. */
export interface OpenOptions extends UseOptions {
  /** A path or name; or an opened file, of which a source is enough to read. */
  overlay: string | BlockFile | BlockSource;
  /** The overlay's own format; default told by its first bytes. One that is written is qcow2. */
  format?: ImageFormat;
  /**
   * The base, or the images below the overlay from the nearest down; default what the overlay
   * records. `null` leaves the base unopened, so that an overlay can be looked at and checked while
   * its base is out of reach: what is absent can then not be read (`ENOENT`), and `map` and
   * `images` tell of the overlay alone.
   */
  base?: BaseLocation | BaseLocation[] | null;
  /** Default what is recorded, or told by a base's first bytes. */
  baseFormat?: ImageFormat | ImageFormat[];
  /**
   * Follow the backing references of the base itself, and open the other files of an image that
   * lies in several; default false: an image from elsewhere must not make us open what its author
   * chose.
   */
  followChain?: boolean;
  /** Makes the overlay, as `createDisk` does, where it is not there yet. */
  create?: Omit<CreateOptions, 'overlay' | 'copyOnRead' | 'forceShare' | 'cache' | 'memory'>;
  /**
   * Changes nothing. Only browsers keep writers out meanwhile: elsewhere, what is read while
   * another program writes may be wrong.
   */
  readOnly?: boolean;
}
