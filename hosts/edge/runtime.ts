/**
 * An edge's way to open things: overlays by name in a Durable Object or, as `r2:NAME`, in a bucket;
 * bases by URL or, as `r2:KEY`, in the bucket.
 */
import type { BlockFile, BlockSource } from '../api/block.ts';
import { MillraceError } from '../api/errors.ts';
import type { Runtime } from '../api/runtime.ts';
import { bunzip2 } from '../bases/containers/bzip2.ts';
import { portableGzip } from '../bases/containers/gzip.ts';
import type {
  Decompress,
  Decompressors,
  NodeZlib,
  UnpackTools,
} from '../bases/containers/unpack.ts';
import { nodeDecompressors, unpackWith } from '../bases/containers/unpack.ts';
import type { XzExports } from '../bases/containers/xz-decoder.ts';
import { xzDecompressor } from '../bases/containers/xz-decoder.ts';
import { redactUrl } from '../bases/http/address.ts';
import { openHttp } from '../bases/http/http.ts';
import { openNbdWith } from '../bases/nbd/nbd.ts';
import { isNbdUri } from '../bases/nbd/uri.ts';
import { connectByWebSocket } from '../bases/nbd/websocket.ts';
import type { Decoder } from '../disk/codecs/codecs.ts';
import { codecOf, portableDecoders } from '../disk/codecs/codecs.ts';
import type { ZlibFunction } from '../disk/codecs/node-zlib.ts';
import { zlibDecoder } from '../disk/codecs/node-zlib.ts';
import { openBucketFile } from './bucket.ts';
import { keyBeside, openBucketSource } from './bucket-source.ts';
import { openDurable, openScratch } from './durable.ts';
import engine, { xz } from './engine.js';
import type { Bucket, ObjectStorage } from './platform.ts';

/** Where disks can be: what the platform has given to this worker. */
export interface EdgePlaces {
  /** A Durable Object's storage (backed by SQLite), for overlays: `ctx.storage`. */
  storage?: ObjectStorage;
  /** An R2 bucket, for bases and overlays named `r2:…`. */
  bucket?: Bucket;
}

const BUCKET_NAME = /^r2:/;
/**
 * Default for a disk here: an edge has 128 MiB for everything, and an object may have several
 * disks.
 */
const MEMORY_BYTES = 16 * 1024 * 1024;

/** A disk's options with this host's own default of memory. */
export function inLittleMemory<T extends { memory?: number }>(options: T): T {
  return { ...options, memory: options.memory ?? MEMORY_BYTES };
}

export function edgeRuntime({ storage, bucket }: EdgePlaces): Runtime {
  const inBucket = (): Bucket => bucket ?? missing('bucket', 'r2: names need an R2 bucket');
  const inStorage = (): ObjectStorage =>
    storage ?? missing('storage', "overlays need a Durable Object's storage");
  return {
    engine: () => Promise.resolve(engine),
    codec,
    openOverlay: async (name, mode): Promise<BlockFile> => {
      // An object may end at any moment, and with it what a bucket's overlay has in memory until it
      // is flushed.
      if (mode.cache === 'unsafe')
        throw new MillraceError(
          'EUNSUPPORTED',
          `'${name}': the cache mode 'unsafe' is not for edges, where a flush is all that keeps a disk`,
        );
      return BUCKET_NAME.test(name)
        ? openBucketFile(inBucket(), name.slice('r2:'.length), mode)
        : openDurable(inStorage(), name, mode);
    },
    openSource: async (location, _, how): Promise<BlockSource> => {
      const text = String(location);
      if (BUCKET_NAME.test(text)) return openBucketSource(inBucket(), text.slice('r2:'.length));
      if (/^https?:/i.test(text)) return openHttp(location, how);
      if (isNbdUri(text)) return openNbdWith(connectByWebSocket, text);
      throw new MillraceError(
        'EUNSUPPORTED',
        `'${redactUrl(text)}': a base is an http: or https: URL, a WebSocket's that carries NBD (ws:, wss:), or r2:KEY in the bucket`,
      );
    },
    unpack: (source, options) => unpackWith(unpackToolsOf(storage), source, options),
    resolve,
    record: (base) => base,
  };
}

/** An edge has little memory: large blocks come in order. */
const ROOM = { block: 4 * 1024 * 1024, all: 16 * 1024 * 1024 };

/**
 * What has passed is kept in the object's storage: it goes with the disk, or when the next one is
 * opened after the object has ended.
 */
function unpackToolsOf(storage: ObjectStorage | undefined): UnpackTools {
  return {
    decompressors: {
      ...ALONE,
      gzipMember: async () => (await platformDecompressors()).gzipMember(),
      zstd: async () => (await platformDecompressors()).zstd(),
    },
    scratch: async () =>
      openScratch(
        storage ?? missing('storage', "what has passed is kept in a Durable Object's storage"),
      ),
    room: ROOM,
  };
}

let decoder: XzExports | undefined;

/** Not from its package, which would compile it now. */
async function loadXz(): Promise<Decompress> {
  decoder ??= new WebAssembly.Instance(xz).exports as unknown as XzExports;
  return xzDecompressor(decoder);
}

async function platformDecompressors(): Promise<Decompressors> {
  const zlib = await import('node:zlib').catch(() => undefined);
  return zlib === undefined ? ALONE : nodeDecompressors(zlib as unknown as NodeZlib, ALONE);
}

/** Without node:zlib, as for clusters: the decoder of zstd would have to be compiled now. */
const ALONE: Decompressors = {
  gzip: portableGzip,
  gzipMember: portableGzip,
  xz: loadXz,
  bzip2: async () => bunzip2,
  zstd() {
    throw new MillraceError(
      'EUNSUPPORTED',
      'zstd cannot be read here: node:zlib is needed (compatibility flag nodejs_compat)',
    );
  },
};

/** Relative names are relative to the image that records them, in the bucket as on a server. */
function resolve(name: string, from: string): string {
  if (/^[a-z][a-z0-9+.-]+:/i.test(name)) return name;
  if (/^https?:/i.test(from)) return new URL(name, from).href;
  return BUCKET_NAME.test(from) ? `r2:${keyBeside(from.slice('r2:'.length), name)}` : name;
}

function missing(option: string, what: string): never {
  throw new MillraceError('EINVAL', `${what}: give it as '${option}'`);
}

/**
 * node:zlib where the platform has it (in workerd by `nodejs_compat`). Without it, zstd cannot be
 * had: its decoder is wasm that would have to be compiled now.
 */
const codec = codecOf({
  zlib: () => platformDecoder('inflateRawSync', portableDecoders.zlib),
  zstd: () =>
    platformDecoder('zstdDecompressSync', () => {
      throw new MillraceError(
        'EUNSUPPORTED',
        'node:zlib is needed here (compatibility flag nodejs_compat)',
      );
    }),
});

async function platformDecoder(
  name: 'inflateRawSync' | 'zstdDecompressSync',
  otherwise: () => Decoder | Promise<Decoder>,
): Promise<Decoder> {
  const zlib = (await import('node:zlib').catch(() => undefined)) as
    | Partial<Record<typeof name, ZlibFunction>>
    | undefined;
  const decompress = zlib?.[name];
  if (!decompress) return otherwise();
  // workerd takes output that just fits for more than fits.
  return zlibDecoder((from, { chunkSize }) =>
    decompress(from, { chunkSize, maxOutputLength: 2 * chunkSize }),
  );
}
