/// <reference lib="esnext.disposable" preserve="true" />
/**
 * The public types: what `createDisk`, `openDisk` and a `Disk` take and give on every runtime.
 * Offsets and lengths are bytes, logical positions in the disk unless said otherwise.
 */
import type { BlockFile, BlockSource, ContainerInfo } from './block.ts';
import type { JobTarget } from './disk-events.ts';
import type { ErrorCode, ErrorReason } from './errors.ts';

/**
 * Formats that an image can have, by QEMU's names (`vpc` is VHD). An overlay is qcow2; the others
 * can be bases, and be looked at and converted.
 */
export type ImageFormat = 'raw' | 'qcow2' | 'vmdk' | 'vpc' | 'vhdx' | 'vdi' | 'qed' | 'parallels';

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

/** A boot profile: a path or URL, or the bytes of its file. */
export type ProfileFile = string | URL | Uint8Array;

/**
 * Which boot profile is fetched ahead. `auto`: the one that stands beside a base on a server, as
 * `URL.profile`, if there is one; it is asked for once, in the background. `none`: no profile.
 */
export type ProfileChoice = 'auto' | 'none' | ProfileFile;

/** How long a boot is recorded. */
export interface RecordOptions {
  /** From the first read on; default without a limit. */
  seconds?: number;
  /**
   * Ends when the guest has read nothing for the first time for so many seconds; default 30, and no
   * such end where `seconds` are given.
   */
  quiet?: number;
}

/** A boot that was recorded. */
export interface RecordedProfile {
  /** The file of its profile. */
  data: Uint8Array;
  /** Places that were read, as the file tells them, and their bytes. */
  ranges: number;
  /** Bytes. */
  bytes: number;
  /** From the first read to the last. */
  seconds: number;
  /** Reads of the guest, and those of them that had to wait for the base. */
  reads: number;
  /** See `reads`. */
  waits: number;
  /** What ended it: `profile` itself, the time, a quiet guest, or a limit of what is recorded. */
  ended: 'told' | 'time' | 'quiet' | 'full';
  /**
   * What the guest would wait for its disk in all over a usual line, by what was recorded: without
   * the profile, and with it.
   */
  estimate: {
    /** Of the line. */
    roundTripMs: number;
    /** Of the line. */
    bitsPerSecond: number;
    /** Seconds. */
    without: number;
    /** Seconds. */
    with: number;
  };
}

/** What became of a boot profile. */
export interface ReplayInfo {
  /**
   * `done`: all of it was asked for; `yielded`: the guest read something else; `stopped`: the disk
   * was closed before; `failed`: the base or the overlay did; `none`: there is no profile;
   * `unusable`: there is one, and it is not taken.
   */
  outcome: 'done' | 'yielded' | 'stopped' | 'failed' | 'none' | 'unusable';
  /** Where the profile came from. */
  source?: string;
  /** Why it was not taken, or failed. */
  message?: string;
  /** Bytes that were asked for, and those of them that the overlay did not have. */
  asked: number;
  /** See `asked`. */
  fetched: number;
  /** Requests of the disk that fetched something. */
  requests: number;
}

/** How a job takes an I/O error: after libvirt's and QEMU's `on-error` policies. */
export type OnError = 'report' | 'stop' | 'ignore' | 'enospc';

/** What a stream job is asked for. All is optional: without options, the whole disk. */
export interface StreamOptions {
  /** Start of the range; default 0. */
  offset?: number;
  /** Length of the range; default to the end of the disk. 0 with offset 0 means the whole disk. */
  length?: number;
  /** Resolve as soon as the job has started; `info` then tells how it stands. */
  nonblock?: boolean;
  /** Bytes a second; 0 (the default) is unlimited. */
  speed?: number;
  /**
   * What an I/O error does: end the job (`report`, the default), pause it (`stop`), go on
   * (`ignore`), or pause on a full disk and end on others (`enospc`).
   */
  onError?: OnError;
  /**
   * Stream only down to this image of the chain, by any path or URL of it or its depth (1 is the
   * overlay's own base); it becomes the new base.
   */
  base?: string | number;
  /** Leave the overlay's reference to its base when everything is populated. */
  keepBase?: boolean;
  /** `full`: zeros take real space in the overlay too. Default `sparse`. */
  allocate?: 'sparse' | 'full';
  /**
   * `keep`: a compressed cluster of a qcow2 base whose size and method are the overlay's goes into
   * it as it is, packed as `qemu-img convert -c` packs; a guest's write makes it an ordinary one.
   * Nothing is inflated, so that damage in a stream is not found (`check` with `data` does that).
   * What does not suit is inflated as ever. An overlay without compressed clusters is given its
   * base's method, zstd too, which QEMU knows since version 5.1. Default `inflate`.
   */
  compressed?: 'inflate' | 'keep';
  /**
   * What is copied first: nothing in particular (`sequential`, the default: from start to end), or
   * what a boot profile tells, in its order; `profile` is the one that the disk itself replays.
   */
  order?: 'sequential' | 'profile' | ProfileFile;
  /** Cancels the job, blocking or not: it ends as aborted. */
  signal?: AbortSignal;
  /** Called as the events `progress` come, and when the job has completed; it must not throw. */
  onProgress?: (info: StreamInfo) => void;
}

/** `status` of a job, numbered as in libvirt's API. */
export const JobStatus = { COMPLETED: 0, ACTIVE: 1, FAILED: 2 } as const;
/** A `status`, as a type. */
export type JobStatus = (typeof JobStatus)[keyof typeof JobStatus];

/** How a job stands, or how the last one ended. */
export interface StreamInfo {
  /** 0 completed, 1 active, 2 failed. */
  status: JobStatus;
  /** Bytes of the range that are not populated; exact when the job has ended, however it ended. */
  remaining: number;
  /** Start of the range. */
  offset: number;
  /** Length of the range. */
  length: number;
  /** Bytes a second, 0 = unlimited. */
  speed: number;
  /** By `pause`, or by an error under `onError`. */
  paused: boolean;
  /** With `compressed: 'keep'`: bytes of the disk that this job has kept compressed. */
  kept?: number;
  /** Why a FAILED job failed. */
  reason?: 'aborted' | 'error';
  /**
   * The first error of the job, or where errors pause it the last; `offset` is the disk position it
   * happened at.
   */
  error?: { code: ErrorCode; reason?: ErrorReason; message: string; offset?: number };
}

/** A run of the disk in one state. */
export interface Extent {
  /** Start of the run. */
  offset: number;
  /** Length of the run. */
  length: number;
  /** `absent`: no image of the chain has it, so it reads as zeros. */
  state: 'data' | 'zero' | 'compressed' | 'absent';
  /** The image of the chain that decides it: 0 is the overlay. */
  depth: number;
  /**
   * Position in that image's file: of data, and of zero or absent parts whose cluster has a place
   * kept for them.
   */
  hostOffset?: number;
  /** That file, where the image lies in several. */
  hostFile?: string;
}

/** What a check found, and what it mended. */
export interface CheckReport {
  /** Entries or refcounts that are wrong in a way that can lose or mix data. */
  corruptions: number;
  /** Clusters that take space and are used by nothing. */
  leaks: number;
  /** How many of them were mended. */
  corruptionsFixed: number;
  /** How many of them were given back. */
  leaksFixed: number;
  /** Clusters of the disk in use, of the disk in all. */
  allocatedClusters: number;
  /** Clusters of the disk in all. */
  totalClusters: number;
  /** Clusters that are kept compressed. */
  compressedClusters: number;
  /** Clusters that do not follow the one before them in the file; compressed ones all count. */
  fragmentedClusters: number;
  /** Bytes: where the last cluster in use ends. */
  imageEndOffset: number;
  /**
   * With `data`, unless the metadata is corrupt: bytes of the disk that the image holds and does not
   * give, because a compressed stream does not inflate or the file cannot be read.
   */
  damagedBytes?: number;
  /** Where the first of them are, and what is wrong there. */
  damages?: { offset: number; message: string }[];
}

/** An image of an open disk's chain. */
export interface ImageInfo {
  /** A path, or a URL without credentials. */
  name: string;
  /** As probed, or as given. */
  format: ImageFormat;
  /** Bytes the guest would see. */
  virtualSize: number;
  /** Bytes of the file. */
  fileSize: number;
  /** What the file was unpacked from. */
  container?: ContainerInfo;
  /** The other files with its data, where it lies in several. */
  files?: string[];
  /**
   * Bytes of a cluster, or of what other formats call a block or grain; missing where there are
   * none.
   */
  clusterSize?: number;
  /** The rest only for qcow2. */
  version?: number;
  /** How compressed clusters are compressed. */
  compressionType?: 'zlib' | 'zstd';
  /** Bits a refcount entry takes. */
  refcountBits?: number;
  /** Refcounts may be behind after a crash. */
  lazyRefcounts?: boolean;
  /** Entries of the L2 tables tell 32 subclusters. */
  extendedL2?: boolean;
  /** Marked as corrupt: it is not opened for writing. */
  corrupt?: boolean;
  /** Not closed properly; refcounts may be behind. */
  dirty?: boolean;
  /** How the guest's data is encrypted; such an image is only described (`millrace info`). */
  encryption?: AesInfo | LuksInfo;
  /** The guest's data is in a file of its own; such an image is only described. */
  dataFile?: DataFileInfo;
  /** The backing file, as recorded. */
  backingFile?: string;
  /**
   * Its format, as recorded: of a raw disk in a container that of the container, as in `xz`, which
   * QEMU refuses.
   */
  backingFormat?: string;
  /** Internal snapshots, if there are any; told of the first image of the chain only. */
  snapshots?: SnapshotInfo[];
  /**
   * Persistent bitmaps that still hold, if there are any; told of the first image of the chain
   * only.
   */
  bitmaps?: BitmapInfo[];
}

/** The encryption that QEMU has given up. */
export interface AesInfo {
  /** By one password for all. */
  format: 'aes';
}

/** What the header of LUKS tells of an encrypted image. */
export interface LuksInfo {
  /** Version 1. */
  format: 'luks';
  /** With the bits of a key, as in `aes-256`. */
  cipher: string;
  /** How blocks are chained. */
  mode: string;
  /** How the initial vectors are made. */
  ivgen: string;
  /** By what hash, where one is needed for that. */
  ivgenHash?: string;
  /** Of keys. */
  hash: string;
  /** Of this container. */
  uuid: string;
  /** Bytes from the header on to the data. */
  payloadOffset: number;
  /** Rounds of the hash for the master key's digest. */
  masterKeyIterations: number;
  /** Places of keys, from the header on in bytes; those in use have iterations and stripes. */
  slots: { keyOffset: number; iterations?: number; stripes?: number }[];
}

/** An external data file. */
export interface DataFileInfo {
  /** As recorded. */
  name?: string;
  /** It can be read as a raw image by itself. */
  raw: boolean;
}

/** A persistent bitmap of a qcow2 image: what of the disk has changed, for backups. */
export interface BitmapInfo {
  /** As the user gave it. */
  name: string;
  /** Bytes of the disk that a bit stands for. */
  granularity: number;
  /**
   * `in-use`: it was not stored to its end, and does not hold; `auto`: it is to be kept up from the
   * start.
   */
  flags: ('in-use' | 'auto')[];
}

/** An internal snapshot of a qcow2 image. What it holds cannot be shown. */
export interface SnapshotInfo {
  /** As the header has it. */
  id: string;
  /** As the user gave it. */
  name: string;
  /** When it was made, since 1970. */
  dateSeconds: number;
  /** The part of a second. */
  dateNanoseconds: number;
  /** The guest's clock then. */
  clockSeconds: number;
  /** The part of a second. */
  clockNanoseconds: number;
  /** Bytes of the machine's state that is kept with it. */
  stateSize: number;
  /** Instructions that the guest had run, where that was counted. */
  icount?: number;
}

/** What a new overlay is to be. */
export interface CreateOptions {
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
  /**
   * Follow the backing references of the base itself, and open the other files of an image that lies
   * in several; default false.
   */
  followChain?: boolean;
  /**
   * What the overlay records as its base; default where the base was given: a path (relative to the
   * overlay, if it was given as a relative one), or a URL without user, password and query, which
   * may hold credentials.
   */
  recordBase?: string;
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

/** What is to be checked, and whether it is mended. */
export interface CheckOptions {
  /** A path or name; or an opened file, of which a source is enough where nothing is repaired. */
  overlay: string | BlockFile | BlockSource;
  /** Its format; default told by its first bytes. */
  format?: ImageFormat;
  /**
   * `leaks` gives back space that nothing uses; `all` also mends what is wrong, as far as that can
   * be done. Nothing is changed (`ECORRUPT`) while part of the metadata cannot be followed; beside
   * unknown header extensions leaks stay.
   */
  repair?: 'leaks' | 'all';
  /**
   * Also read all data that the image holds, and inflate what is compressed: damage that the
   * metadata does not show is found, but as far as streams have no check sum of their own only by
   * their not giving a whole cluster.
   */
  data?: boolean;
  /** Bytes of WebAssembly memory, 8 MiB to 1 GiB; default 32 MiB. */
  memory?: number;
}

/** What is to be opened, and how. */
export interface OpenOptions {
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
   * Follow the backing references of the base itself, and open the other files of an image that lies
   * in several; default false: an image from elsewhere must not make us open what its author chose.
   */
  followChain?: boolean;
  /** Makes the overlay, as `createDisk` does, where it is not there yet. */
  create?: Omit<CreateOptions, 'overlay' | 'copyOnRead' | 'forceShare' | 'cache' | 'memory'>;
  /**
   * Changes nothing. Only browsers keep writers out meanwhile: elsewhere, what is read while
   * another program writes may be wrong.
   */
  readOnly?: boolean;
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
   * Follow the backing references of the base itself, and open the other files of an image that lies
   * in several; default false.
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
}

/** What `read` may be asked for besides. */
export interface ReadOptions {
  /** Gives up the waiting: the read rejects with `ABORTED`. What was fetched stays in the overlay. */
  signal?: AbortSignal;
  /**
   * An array of the caller's that is filled, of `length` bytes; it is not to be used before the
   * read has ended.
   */
  into?: Uint8Array;
}

/** A range of a disk, to its end where there is no `length`. */
export interface RangeOptions {
  /** Start of the range; default 0. */
  offset?: number;
  /** Length of the range. */
  length?: number;
  /** Ends what was begun, with `ABORTED`. */
  signal?: AbortSignal;
}

/** A run of the disk's bytes that is not only zeros. */
export interface Block {
  /** Start of the run. */
  offset: number;
  /** Its bytes. */
  data: Uint8Array;
}

export type { DiskEvent, JobTarget, Listener, ListenerOptions } from './disk-events.ts';

/** A disk: the same calls on every runtime. In a browser it stands for one in a worker. */
export interface Disk extends JobTarget<StreamInfo> {
  /** Bytes the guest sees. */
  readonly size: number;
  /** Of the overlay, in bytes; 65536 for an image of another format than qcow2. */
  readonly clusterSize: number;
  /**
   * At any byte. A large read is made of pieces: each sees all or nothing of a write, the whole may
   * not.
   */
  read(offset: number, length: number, options?: ReadOptions): Promise<Uint8Array>;
  /**
   * At any byte; `data` must not change until it resolves. It is there for every read that begins
   * afterwards, and safe after a `flush`.
   */
  write(offset: number, data: Uint8Array): Promise<void>;
  /** As a write of zeros, at any byte; whole clusters take no space. */
  writeZeroes(offset: number, length: number): Promise<void>;
  /**
   * Whole clusters of the range read as zeros afterwards, and their space is given back; parts of
   * clusters stay as they are. An overlay of version 2 cannot tell that: it stays as it is.
   */
  discard(offset: number, length: number): Promise<void>;
  /** Returns when everything written before survives a power cut. */
  flush(): Promise<void>;
  /**
   * Bytes, a multiple of 512. Growing works while a job runs; shrinking loses data, must be asked
   * for by `shrink`, and is `EBUSY` while a job runs.
   */
  resize(size: number, options?: { shrink?: boolean }): Promise<void>;
  /**
   * Populates a range of the overlay from its base. Resolves when the job has completed, or with
   * `nonblock` when it has started; rejects when it fails, or is aborted (`ABORTED`). One job a
   * disk at a time (`EBUSY`).
   */
  stream(options?: StreamOptions): Promise<StreamInfo>;
  /**
   * Ends a job that was started with `nonblock`, and waits for that; what was copied stays.
   * `ENOENT` when there is none, or none any more.
   */
  abort(): Promise<void>;
  /** How the job stands, or how the last one ended; `ENOENT` before the first. */
  info(): Promise<StreamInfo>;
  /**
   * Resolves when nothing of the job is in flight any more. As `resume` and `setSpeed`, `ENOENT`
   * when no job is active.
   */
  pause(): Promise<void>;
  /** Goes on with a paused job. */
  resume(): Promise<void>;
  /** Bytes a second from now on, 0 for unlimited. */
  setSpeed(bytesPerSecond: number): Promise<void>;
  /** Bytes of the range that are not populated, told by the overlay alone. */
  remaining(offset?: number, length?: number): Promise<number>;
  /**
   * The extents of a range, through the whole chain; with `depth` 1 only what the overlay itself
   * says, without asking the base.
   */
  map(offset?: number, length?: number, options?: { depth?: number }): AsyncIterable<Extent>;
  /** Looks for errors in the overlay's tables, and mends them if asked to: see CheckOptions. */
  check(options?: Pick<CheckOptions, 'repair' | 'data'>): Promise<CheckReport>;
  /** The images of the chain, the overlay first. */
  images(): Promise<ImageInfo[]>;
  /**
   * Ends the recording that the disk was opened with, and gives the boot profile; with `wait`, only
   * when it has ended by itself. Asked again, it gives the same.
   * @throws MillraceError `ENOENT` where nothing is recorded, or nothing was read.
   */
  profile(options?: { wait?: boolean }): Promise<RecordedProfile>;
  /**
   * Fetches what a boot profile tells into the overlay, in its order: behind the guest's reads, and
   * before a job. Resolves when that has ended. A disk has one replay: asked again with `auto` or
   * nothing, it tells of that.
   * @throws MillraceError `EBUSY` for another profile beside it; for one that was given, what
   *   opening it throws, `EINVAL`, `ECORRUPT` and `EUNSUPPORTED`.
   */
  replay(profile?: ProfileChoice): Promise<ReplayInfo>;
  /**
   * Ends a job, waits for the requests under way (for those that need a base, two seconds at most:
   * they fail with `ECLOSED` then), and brings all that was written to the storage.
   */
  close(): Promise<void>;
  /** As `close`, at the end of an `await using`. */
  [Symbol.asyncDispose](): Promise<void>;
  /** The disk's bytes from start to end, read as they are pulled, a MiB at a time. */
  readable(options?: RangeOptions): ReadableStream<Uint8Array>;
  /**
   * Writes what it is given from `offset` on, and flushes when it is closed. More than the range
   * has is `EINVAL`.
   */
  writable(options?: RangeOptions): WritableStream<Uint8Array>;
  /** A copy of the range as a Blob, in memory or where the browser keeps its blobs. */
  blob(options?: RangeOptions): Promise<Blob>;
  /** What is not only zeros, in order, in blocks of up to a MiB that begin at whole clusters. */
  blocks(options?: RangeOptions): AsyncIterable<Block>;
}
