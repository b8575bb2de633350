/**
 * A worker's way to open things: overlays by name in the browser's storage, bases by http: or
 * https: URL, by NBD over a WebSocket, or by the name of a disk.
 */

import type { BlockFile, BlockSource } from '../api/block.ts';
import type { Codec } from '../api/codec.ts';
import { MillraceError } from '../api/errors.ts';
import type { CacheMode } from '../api/open.ts';
import type { OverlayMode, Runtime, SourceUse, UnpackOptions } from '../api/runtime.ts';
import { openBlob } from '../bases/blob.ts';
import { portableDecompressors } from '../bases/containers/portable.ts';
import type { UnpackTools } from '../bases/containers/unpack.ts';
import { ROOM_DEFAULT, unpackWith } from '../bases/containers/unpack.ts';
import type { HttpSource, HttpStats } from '../bases/http/http.ts';
import { redactUrl } from '../bases/http/http.ts';
import type { NbdSource } from '../bases/nbd/nbd.ts';
import { openNbdWith } from '../bases/nbd/nbd.ts';
import { isNbdUri } from '../bases/nbd/uri.ts';
import { connectByWebSocket } from '../bases/nbd/websocket.ts';
import { codecOf, portableDecoders } from '../disk/codecs/codecs.ts';
import { BatchedFile } from './batch.ts';
import { keepWith, keptWith, removeBeside } from './beside.ts';
import { compileEngine } from './engine.ts';
import { openHttp } from './http.ts';
import type { DiskLock, Holder } from './lock.ts';
import { lockDisk } from './lock.ts';
import { MemoryFile } from './memory.ts';
import { diskFile, disksFolder } from './opfs.ts';
import type { OpfsFile } from './opfs-file.ts';
import { openDiskFile, openScratch } from './opfs-file.ts';
import { explainNoRoom } from './quota.ts';
import type { SentEngine } from './start.ts';

/**
 * Requests in flight, one of them kept for the guest. Each answer takes its way through several
 * processes of the browser: the fewer and larger they are, the quicker Chromium streams, and two
 * lanes still fill 200 Mbit/s over 100 ms.
 */
const HTTP_DEPTH = 3;
const SCHEME = /^([a-z][a-z0-9+.-]+):/i;

const UNPACK_TOOLS: UnpackTools = {
  decompressors: portableDecompressors,
  scratch: async () => (await openScratch()) ?? new MemoryFile('what has passed'),
  room: ROOM_DEFAULT,
};

export class BrowserRuntime implements Runtime {
  readonly codec: Codec = codecOf(portableDecoders);
  /** The overlay that was opened for writing, when it is in the browser's storage. */
  overlay: BatchedFile | undefined;
  /** False once an overlay had to be kept in memory. */
  persistent = true;
  /** Identity of the source that was opened first: the nearest base. */
  identity: string | undefined;
  /** Bytes that the running job still has to store: told when there is no room. */
  missing: () => number = () => 0;
  readonly #holder: Holder;
  readonly #wait: boolean;
  /** The overlay, and the disks below it: none of them can be the other as well. */
  #overlayName: string | undefined;
  readonly #baseNames = new Set<string>();
  #sources = 0;
  readonly #remote: (HttpSource | NbdSource)[] = [];

  readonly #engine: SentEngine;

  /** `holder` is what others are told who find a disk in use; `wait` is to wait for others. */
  constructor(engine: SentEngine, holder: Holder, wait: boolean) {
    this.#engine = engine;
    this.#holder = holder;
    this.#wait = wait;
  }

  engine(): Promise<WebAssembly.Module> {
    return compileEngine(this.#engine);
  }

  async openOverlay(
    name: string,
    { readOnly = false, create = false, cache = 'writeback' }: OverlayMode,
  ): Promise<BlockFile> {
    if (create && !(await disksFolder())) {
      this.persistent = false;
      return new MemoryFile(name);
    }
    if (this.#baseNames.has(name)) throw itsOwnBase(name);
    this.#overlayName = name;
    const lock = await this.#lock(name, readOnly ? 'shared' : 'exclusive');
    try {
      if (readOnly) return readOnlyFile(withLock(openBlob(await diskFile(name), name), lock));
      const kept = create ? undefined : await keptWith(name);
      const file = await openDiskFile(name, { create, cache });
      // Of a disk of that name which is no more; one that is there is refused before.
      if (create) await removeBeside(name);
      const batched = new BatchedFile(file, (error) => explainNoRoom(error, this.missing()));
      this.overlay = batched;
      return writableFile(batched, file, { cache, lock, kept });
    } catch (error) {
      await lock.release();
      throw error;
    }
  }

  async openSource(
    location: string | URL,
    _?: SourceUse,
    how: { sequential?: boolean } = {},
  ): Promise<BlockSource> {
    const source = await this.#openSource(String(location), how);
    if (this.#sources++ === 0) this.identity = source.identity;
    return source;
  }

  /** What has gone over the network for the bases so far. */
  traffic(): HttpStats {
    const sum: HttpStats = { requests: 0, bytes: 0, retries: 0 };
    for (const { stats } of this.#remote) {
      sum.requests += stats.requests;
      sum.bytes += stats.bytes;
      sum.retries += stats.retries;
    }
    return sum;
  }

  async #openHttp(url: string, how: { sequential?: boolean }): Promise<HttpSource> {
    const source = await openHttp(url, { ...how, depth: HTTP_DEPTH });
    this.#remote.push(source);
    return source;
  }

  async #openNbd(uri: string): Promise<NbdSource> {
    const source = await openNbdWith(connectByWebSocket, uri);
    this.#remote.push(source);
    return source;
  }

  async #openSource(location: string, how: { sequential?: boolean }): Promise<BlockSource> {
    const scheme = SCHEME.exec(location)?.[1].toLowerCase();
    if (scheme === 'http' || scheme === 'https') return this.#openHttp(location, how);
    if (isNbdUri(location)) return this.#openNbd(location);
    if (scheme !== undefined)
      throw new MillraceError(
        'EUNSUPPORTED',
        `'${redactUrl(location)}': the scheme '${scheme}:' is not supported; a base is an http: or https: URL, a WebSocket's that carries NBD (ws:, wss:), a File, or the name of a disk`,
      );
    if (location === this.#overlayName) throw itsOwnBase(location);
    this.#baseNames.add(location);
    const lock = await this.#lock(location, 'shared');
    try {
      return withLock(openBlob(await diskFile(location), location), lock);
    } catch (cause) {
      await lock.release();
      if ((cause as MillraceError).code !== 'ENOENT') throw cause;
      throw new MillraceError(
        'ENOENT',
        `the base '${location}' is neither a URL nor a disk in this browser: if it was a file, give that again as the base`,
        { cause, reason: 'base-needed' },
      );
    }
  }

  unpack(source: BlockSource, options: UnpackOptions): Promise<BlockSource> {
    return unpackWith(UNPACK_TOOLS, source, options);
  }

  resolve(name: string, from: string): string {
    return !SCHEME.test(name) && SCHEME.test(from) ? new URL(name, from).href : name;
  }

  record(base: string): string {
    return base;
  }

  #lock(name: string, mode: 'exclusive' | 'shared'): Promise<DiskLock> {
    // Without a secure context there are neither locks nor storage to lock.
    if (!navigator.locks) return Promise.resolve({ release: async () => {} });
    return lockDisk(name, { mode, wait: this.#wait, holder: this.#holder });
  }
}

/** Its lock would be waited for until this disk gives it back. */
function itsOwnBase(name: string): MillraceError {
  return new MillraceError(
    'EINVAL',
    `disk '${name}' cannot be its own base: if its base was a file or disk of the same name, give that as the base`,
    { reason: 'base-needed' },
  );
}

/** The lock goes when the file is closed. */
function withLock(source: BlockSource, lock: DiskLock): BlockSource {
  return {
    ...source,
    async close() {
      await source.close();
      await lock.release();
    },
  };
}

function writableFile(
  file: BatchedFile,
  stored: OpfsFile,
  { cache, lock, kept }: { cache: CacheMode; lock: DiskLock; kept: string | undefined },
): BlockFile {
  // With the date that the file has at its end: before, every write changes it.
  let keeping = '';
  return {
    kept,
    async keep(text) {
      keeping = text;
      if (text === '') await keepWith(file.name, '');
    },
    get name() {
      return file.name;
    },
    get size() {
      return file.size;
    },
    // The worker waits for it.
    flushIsDear: cache === 'writeback',
    read: (offset, into) => file.read(offset, into),
    write: (offset, from) => file.write(offset, from),
    flush: () => file.flush(),
    truncate: (size) => file.truncate(size),
    publish: () => file.unchanged(() => stored.publish()),
    async close() {
      try {
        file.close();
        await stored.removeUnlessPublished();
        if (keeping !== '') await keepWith(file.name, keeping).catch(() => {});
      } finally {
        await lock.release();
      }
    },
  };
}

/** A source where an overlay is wanted. */
function readOnlyFile(source: BlockSource): BlockFile {
  const refuse = (): never => {
    throw new MillraceError('EROFS', `disk '${source.name}' was opened read-only`);
  };
  return { ...source, write: refuse, flush: () => {}, truncate: refuse };
}
