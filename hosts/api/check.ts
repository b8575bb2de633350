/** Checks of an image, and their repairs. */
import type { BlockFile, BlockSource } from './block.ts';
import type { ImageFormat } from './image.ts';

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
   * With `data`, unless the metadata is corrupt: bytes of the disk that the image holds and does
   * not give, because a compressed stream does not inflate or the file cannot be read.
   */
  damagedBytes?: number;
  /** Where the first of them are, and what is wrong there. */
  damages?: { offset: number; message: string }[];
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
  /**
   * Told now and then, of a check that takes a while, how many bytes of the disk have been looked
   * at, of how many; with `data`, how many have been read. A repair begins anew.
   */
  onProgress?: (done: number, total: number) => void;
}
