/** What an image file is, and what its metadata tells. */
import type { ContainerInfo } from './block.ts';
import type { Compression } from './codec.ts';

/**
 * Formats that an image can have, by QEMU's names (`vpc` is VHD). An overlay is qcow2; the others
 * can be bases, and be looked at and converted.
 */
export type ImageFormat = 'raw' | 'qcow2' | 'vmdk' | 'vpc' | 'vhdx' | 'vdi' | 'qed' | 'parallels';

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
  compressionType?: Compression;
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

/**
 * Which internal snapshot is meant: one of that id, else the first of that name; or by both, or one
 * of the two alone.
 */
export type SnapshotChoice = string | { id?: string; name?: string };

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

/** An internal snapshot of a qcow2 image. What it holds can be copied (convertDisk). */
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
