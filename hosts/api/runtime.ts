/**
 * What a runtime (Node, Deno, a browser, an edge) brings so that disks can be opened there. One
 * object of this kind stands in each runtime's folder; the shared part of the hosts knows no other
 * way to touch the world.
 */

import type { BlockFile, BlockSource } from './block.ts';
import type { Clock } from './clock.ts';
import type { Codec } from './codec.ts';
import type { CacheMode } from './open.ts';

/** How the file of an overlay is to be opened. */
export interface OverlayMode {
  readOnly?: boolean;
  /** It must not be there yet, and is there only once its `publish` has been called. */
  create?: boolean;
  /** It is written over as it is, and keeps its size: a block device will do. */
  fixed?: boolean;
  /** Default `writeback`. */
  cache?: CacheMode;
}

/** What an image is read for; undefined for a look at it. */
export type SourceUse = 'base' | 'shared';

/** How a container is to be unpacked. */
export interface UnpackOptions {
  /** Take the bytes as they are, and only see to it that they can be read anywhere. */
  asIs?: boolean;
  /** The file of an archive that is wanted; default the one that is a disk. */
  member?: string;
  /** Bytes in which a source ends at the latest that does not tell its size. */
  sizeMax?: number;
  /** What does not tell its size is not gone through to learn it: it is `SIZE_UNMEASURED`. */
  unmeasured?: boolean;
  /** Take also what a server sends from start to end only, whatever its size. */
  sequential?: boolean;
  /** The overlay that is being opened, beside which there is room for what has passed. */
  beside?: string;
}

/** A `WebAssembly.Module`, where the types of the runtime know it. */
export type EngineModule = typeof globalThis extends {
  WebAssembly: { Module: { prototype: infer Module } };
}
  ? Module
  : object;

export interface Runtime {
  /** The compiled engine; the same module serves all disks. */
  engine(): Promise<EngineModule>;
  /** Inflates compressed clusters. */
  codec: Codec;
  /** Default the system's. */
  clock?: Clock;
  /**
   * Opens an overlay by its path or name. A writable one is locked against every other opener until
   * it is closed.
   * @throws MillraceError `EBUSY` naming who has it, `EEXIST` with `create` when it is there
   *   already, `ENOENT`, `EROFS`, `EACCES`.
   */
  openOverlay(location: string, mode: OverlayMode): Promise<BlockFile>;
  /**
   * Opens an image that is only read by its path or URL. A base must not change meanwhile
   * (`ECHANGED`), and unless it is `shared`, no other program may write it (`EBUSY`, naming who has
   * it); one that is only looked at may be in use. With `sequential` it may be one that comes in
   * order only.
   * @throws MillraceError `EUNSUPPORTED` for a URL of a scheme that is not known.
   */
  openSource(
    location: string | URL,
    as?: SourceUse,
    how?: { sequential?: boolean },
  ): Promise<BlockSource>;
  /**
   * What a source holds, where it is a compressed file or an archive; the source itself where it is
   * neither. It is closed by what is returned, and where that fails. Default: every source is taken
   * as it is.
   * @throws MillraceError `ECORRUPT`, `EUNSUPPORTED`, `ENOENT` for a member that is not there, and
   *   what reading the source throws.
   */
  unpack?(source: BlockSource, options: UnpackOptions): Promise<BlockSource>;
  /**
   * Where a backing file's name leads that was recorded in the image `from`: relative paths are
   * relative to that image.
   */
  resolve(name: string, from: string): string;
  /**
   * How a base at a path given by the user is recorded in the overlay: relative paths are relative
   * to that overlay.
   */
  record(base: string, overlay: string): string;
  /** Where a base is now, by the caller's word, that an image records elsewhere. */
  readonly moved?: {
    /** Of one that is recorded at `place`: the nearest one of a chain, or one further down. */
    placeNow(place: string, isNearest: boolean): Promise<string>;
    /** Of one that is recorded by no place, as the object of a program; undefined: not told. */
    ofNoPlace(): string | undefined;
  };
  /** The one name of a file that several paths may lead to; default its path. */
  realName?(location: string): Promise<string>;
  /**
   * Who has a local image open for writing, as far as the system tells (QEMU's locks); undefined
   * for nobody.
   */
  writerOf?(location: string): string | undefined;
  /** Whether a location is on a server; default false. */
  isRemote?(location: string): boolean;
  /** Whether a path leads to a block device. */
  isBlockDevice?(location: string): Promise<boolean>;
}
