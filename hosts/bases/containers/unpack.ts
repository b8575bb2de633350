/**
 * What a source holds that is a compressed file, an archive, or one in the other. What can be read
 * anywhere stays so (tar, stored members of zip, xz and zstd of several blocks); all else comes in
 * order, and is kept when it has passed (pass.ts).
 */
import type { BlockFile, BlockSource, ContainerInfo } from '../../api/block.ts';
import { MillraceError } from '../../api/errors.ts';
import type { UnpackOptions } from '../../api/runtime.ts';
import { bytesAt, hasAt } from './bytes.ts';
import type { Decompress, Decompressors } from './decompress.ts';
import { decompressed } from './decompress.ts';
import { Pass, PassFlow } from './pass.ts';
import { SharedPasses } from './shared-passes.ts';
import { ByteStream, inOrder } from './stream.ts';
import { openTar, streamTar } from './tar.ts';
import { startsTar } from './tar-header.ts';
import type { BlockRoom } from './xz.ts';
import { openXz } from './xz.ts';
import { XZ_MAGIC } from './xz-index.ts';
import { openZip } from './zip.ts';
import { contentSizeOf, decodeZstd, openZstd, startsZstd } from './zstd.ts';

export type { Decompress, Decompressors, NodeZlib } from './decompress.ts';
export { nodeDecompressors } from './decompress.ts';

/** What a runtime brings. */
export interface UnpackTools {
  readonly decompressors: Decompressors;
  /**
   * A new file that nobody else sees, for what has passed; it is gone when it is closed. `beside`:
   * an overlay, where there is room.
   */
  scratch(beside: string | undefined): Promise<BlockFile>;
  readonly room: BlockRoom;
}

/** On hosts with some memory to spare. */
export const ROOM_DEFAULT: BlockRoom = { block: 32 * 1024 * 1024, all: 96 * 1024 * 1024 };

type Format = 'xz' | 'gzip' | 'zstd' | 'bzip2' | 'zip' | 'tar';
/** What is in hand: a source that can be read anywhere, or what comes in order. */
type Layer = BlockSource | ByteStream;

/** Enough to tell a container by. */
const PROBE_BYTES = 512;
/** A tar.gz in a zip is three. */
const LAYERS_MAX = 4;
const SIGNATURE_AT = 510;
/** Of the first block, and of the end, which alone makes an empty file. */
const BZIP2_BLOCKS = ['1AY&SY', '\x17rE8P\x90'];

/** As `Runtime.unpack` has it. */
export async function unpackWith(
  tools: UnpackTools,
  source: BlockSource,
  options: UnpackOptions,
): Promise<BlockSource> {
  let passes = passesOf.get(tools);
  if (passes === undefined) passesOf.set(tools, (passes = new SharedPasses()));
  return passes.open(source, options, async () => {
    const unpacking = new Unpacking(tools, source, options);
    try {
      return await unpacking.run();
    } catch (error) {
      await unpacking.giveUp(error);
      throw error;
    }
  });
}

/** What has passed is where the tools of a runtime keep it. */
const passesOf = new WeakMap<UnpackTools, SharedPasses>();

class Unpacking {
  readonly #tools: UnpackTools;
  readonly #source: BlockSource;
  readonly #options: UnpackOptions;
  #flow = new PassFlow();
  readonly #formats: Format[] = [];
  #layer: Layer;
  #member: string | undefined;

  constructor(tools: UnpackTools, source: BlockSource, options: UnpackOptions) {
    this.#tools = tools;
    this.#source = source;
    this.#options = options;
    this.#layer =
      source.inOrder === undefined
        ? source
        : new ByteStream(source, knownSize(source), source.inOrder(this.#flow));
  }

  async run(): Promise<BlockSource> {
    this.#mustBeWanted();
    while (!this.#options.asIs) {
      const start = await this.#peek();
      const format = formatOf(start);
      if (format === undefined) break;
      if (this.#formats.length === LAYERS_MAX)
        throw new MillraceError(
          'EUNSUPPORTED',
          `${this.#source.name}: more than ${LAYERS_MAX} containers, one in the other`,
        );
      this.#formats.push(format);
      this.#layer = await this.#open(format, start);
    }
    this.#mustHaveMember();
    if (this.#layer === this.#source) return this.#source;
    return this.#layer instanceof ByteStream ? this.#pass(this.#layer) : this.#random(this.#layer);
  }

  /** A read may have to wait for gigabytes to come by: whoever opens it is to know. */
  #mustBeWanted(): void {
    if (this.#source.inOrder === undefined || this.#options.sequential) return;
    throw new MillraceError(
      'EUNSUPPORTED',
      `${this.#source.name}: the server ignores Range and sends the object from start to end only: a read would wait until all before it has come; take it so (sequential, --sequential), or download it and give its path`,
    );
  }

  /** Closes the source too. */
  async giveUp(reason: unknown): Promise<void> {
    this.#flow.end(reason);
    const layer = this.#layer;
    await Promise.resolve(layer.close()).catch(() => {});
    // A stream leaves open what it comes from.
    if (layer instanceof ByteStream) await Promise.resolve(layer.source.close()).catch(() => {});
  }

  #peek(): Promise<Uint8Array> {
    return this.#layer instanceof ByteStream
      ? this.#layer.peek(PROBE_BYTES)
      : bytesAt(this.#layer, 0, PROBE_BYTES);
  }

  async #open(format: Format, start: Uint8Array): Promise<Layer> {
    switch (format) {
      case 'xz':
        return this.#xz();
      case 'zstd':
        return this.#zstd(start);
      case 'gzip':
        return this.#inOrder(await this.#tools.decompressors.gzip(), 'gzip');
      case 'bzip2':
        return this.#inOrder(await this.#tools.decompressors.bzip2(), 'bzip2');
      case 'tar':
        return this.#tar();
      case 'zip':
        return this.#zip();
    }
  }

  async #xz(): Promise<Layer> {
    const { name } = this.#source;
    const decompress = await this.#tools.decompressors.xz();
    const file =
      this.#layer instanceof ByteStream
        ? undefined
        : await openXz(this.#layer, this.#tools.room, decompress);
    if (file?.source !== undefined) return file.source;
    return this.#stream(decompressed(decompress, this.#ordered(), 'xz', name), file?.size);
  }

  async #zstd(start: Uint8Array): Promise<Layer> {
    const { name } = this.#source;
    const decompress = await this.#tools.decompressors.zstd();
    const isOrdered = this.#layer instanceof ByteStream;
    const source = isOrdered
      ? undefined
      : await openZstd(this.#layer as BlockSource, decompress, this.#tools.room);
    if (source !== undefined) return source;
    const frames: Decompress = (input) => decodeZstd(decompress, input, name);
    // What the first frame says is the whole, unless there are more: then the disk's size has to be
    // told.
    const size = this.#options.sizeMax === undefined ? contentSizeOf(start, name) : undefined;
    return this.#stream(decompressed(frames, this.#ordered(), 'zstd', name), size);
  }

  #inOrder(decompress: Decompress, format: Format): ByteStream {
    return this.#stream(
      decompressed(decompress, this.#ordered(), format, this.#source.name),
      undefined,
    );
  }

  #stream(pieces: AsyncIterable<Uint8Array>, size: number | undefined): ByteStream {
    return new ByteStream(this.#source, size, pieces);
  }

  #ordered(): AsyncIterable<Uint8Array> {
    return this.#layer instanceof ByteStream ? this.#layer : inOrder(this.#layer, this.#flow);
  }

  async #tar(): Promise<Layer> {
    const wanted = this.#wanted();
    const { name, source } =
      this.#layer instanceof ByteStream
        ? await streamTar(this.#layer, wanted)
        : await openTar(this.#layer, wanted);
    this.#member = name;
    return source;
  }

  /** The directory is at the end: of what comes in order, all has to come before. */
  async #zip(): Promise<Layer> {
    let archive = this.#layer;
    if (archive instanceof ByteStream) {
      archive = this.#pass(archive);
      this.#layer = archive;
      this.#flow = new PassFlow();
      await archive.measure?.();
    }
    const gunzip = () => this.#tools.decompressors.gzipMember();
    const { name, source } = await openZip(archive, this.#wanted(), gunzip, this.#flow);
    this.#member = name;
    return source;
  }

  /** A name is of the outermost archive; what that holds is told by itself. */
  #wanted(): string | undefined {
    return this.#member === undefined ? this.#options.member : undefined;
  }

  #mustHaveMember(): void {
    const { member } = this.#options;
    if (member === undefined || this.#member !== undefined) return;
    const what =
      this.#formats.length === 0 ? 'no archive' : `no archive, but ${this.#formats.join(', ')}`;
    throw new MillraceError(
      'ENOENT',
      `${this.#source.name}: there is no '${member}' in it: it is ${what}`,
    );
  }

  #info(access: ContainerInfo['access']): ContainerInfo {
    return {
      formats: [...this.#formats],
      member: this.#member,
      packedSize: knownSize(this.#source),
      access,
    };
  }

  #pass(stream: ByteStream): BlockSource {
    const { sizeMax, unmeasured, beside } = this.#options;
    const makeFile = () => this.#tools.scratch(beside);
    return new Pass(stream, this.#flow, makeFile, {
      sizeMax,
      unmeasured,
      info: this.#info('sequential'),
    });
  }

  #random(layer: BlockSource): BlockSource {
    const { size, name, identity, preferred, nextData } = layer;
    // A member of an archive that came in order first is not had at once.
    const info = this.#info('random');
    return {
      size,
      name,
      identity,
      preferred,
      container: info,
      read: (offset, into, hint) => layer.read(offset, into, hint),
      nextData: nextData && ((offset) => layer.nextData!(offset)),
      close: () => layer.close(),
    };
  }
}

function knownSize({ size }: BlockSource): number | undefined {
  return size < Number.MAX_SAFE_INTEGER ? size : undefined;
}

/** Told by the first bytes. */
function formatOf(start: Uint8Array): Format | undefined {
  if (hasAt(start, 0, XZ_MAGIC)) return 'xz';
  if (hasAt(start, 0, '\x1f\x8b\x08')) return 'gzip';
  if (startsZstd(start)) return 'zstd';
  if (hasAt(start, 0, 'BZh') && BZIP2_BLOCKS.some((block) => hasAt(start, 4, block)))
    return 'bzip2';
  if (hasAt(start, 0, 'PK\x03\x04')) return 'zip';
  // A disk with a boot sector may hold anything before its end.
  if (!hasAt(start, SIGNATURE_AT, '\x55\xaa') && startsTar(start)) return 'tar';
  return undefined;
}
