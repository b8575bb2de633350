/**
 * One hostile container: a compressed file or archive that Debian's tools made, damaged by seed,
 * and then read as a base is. What comes of it are the right bytes or an error by name, in bounded
 * memory and work.
 */
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { BlockFile, BlockSource, Flow } from '../../hosts/api/block.ts';
import { MillraceError } from '../../hosts/api/errors.ts';
import { crc32 } from '../../hosts/bases/containers/crc32.ts';
import { portableDecompressors } from '../../hosts/bases/containers/portable.ts';
import { unpackWith } from '../../hosts/bases/containers/unpack.ts';
import type { Container } from '../fixtures/container-names.ts';
import { CONTAINERS } from '../fixtures/container-names.ts';
import { pack } from '../fixtures/containers.ts';
import { makeContent, Random } from '../fixtures/content.ts';
import { MemoryFile } from '../support/memory-file.ts';

const SIZE = 700 * 1024;
/** Small, so that claims of more are soon too large. */
const ROOM = { block: 1024 * 1024, all: 4 * 1024 * 1024 };
/** What one case may ask for at once: what claims more must be refused. */
const READ_BYTES_MAX = 4 * 1024 * 1024;
/** All reads of one case, by the size of the container. */
const WORK_FACTOR_MAX = 400;
const KEPT_BYTES_MAX = 64 * 1024 * 1024;
/** Raw data of no check sum: whatever stands there is the disk. */
const UNCHECKED: readonly Container[] = ['stored.zip', 'tar', 'sparse.tar', 'gnu.tar'];
/** From either end, where headers, indexes and footers are. */
const EDGE_BYTES = 700;
const MUTATIONS_MAX = 4;
const INTERESTING = [0, 1, 0x7f, 0x80, 0xff];

export interface ContainerFixtures {
  content: Uint8Array;
  packed: Map<Container, Uint8Array>;
}

export interface ContainerResult {
  container: Container;
  mutations: string[];
  /** All of it was read, and the check sums agreed. */
  isWhole: boolean;
  /** The code that the damage was told by. */
  code?: string;
  error?: Error;
}

/** Makes one of each. Needs the peers that `CONTAINER_PEERS` names. */
export async function makeContainerFixtures(): Promise<ContainerFixtures> {
  const folder = await mkdtemp(join(tmpdir(), 'millrace-fuzz-'));
  try {
    const content = new Uint8Array(SIZE);
    content.set(makeContent('text', 1, 300 * 1024));
    content.set(makeContent('random', 2, 100 * 1024), 400 * 1024);
    const path = join(folder, 'disk.raw');
    await writeFile(path, content);
    const packed = new Map<Container, Uint8Array>();
    for (const container of CONTAINERS)
      packed.set(container, new Uint8Array(await readFile(await pack(path, container))));
    return { content, packed };
  } finally {
    await rm(folder, { recursive: true });
  }
}

/** Runs the case of a seed. */
export async function runContainerCase(
  { content, packed }: ContainerFixtures,
  seed: number,
): Promise<ContainerResult> {
  // Neighbouring seeds begin alike.
  const random = new Random(Math.imul(seed, 0x9e3779b1));
  const container = pick(random, CONTAINERS);
  const damage = new Damage(packed.get(container)!.slice(), container, random);
  const bytes = damage.done();
  const result: ContainerResult = { container, mutations: damage.told, isWhole: false };
  const source = new Counted(bytes, random.between(1, 4) === 1);
  const kept: Kept[] = [];
  try {
    const opened = await unpackWith(toolsOf(kept), source, { sequential: true });
    try {
      await use(opened, { content, container, random, source, result });
    } finally {
      await opened.close();
    }
  } catch (error) {
    const code = error instanceof MillraceError ? error.code : undefined;
    if (code === undefined || /\n/.test((error as Error).message)) result.error = error as Error;
    else result.code = code;
  }
  result.error ??= source.complaint ?? kept.find((file) => file.complaint)?.complaint;
  if (!source.isClosed) result.error ??= new Error('its source was left open');
  return result;
}

/** A whole number less than `end`. */
function below(random: Random, end: number): number {
  return random.between(0, end - 1);
}

function pick<T>(random: Random, list: readonly T[]): T {
  return list[below(random, list.length)];
}

interface Use {
  content: Uint8Array;
  container: Container;
  random: Random;
  source: Counted;
  result: ContainerResult;
}

/** Some reads anywhere, then all of it, then what the check sums say. */
async function use(opened: BlockSource, how: Use): Promise<void> {
  const { content, container, random, source, result } = how;
  // Another kind of file, or none: its bytes are no longer those of the disk.
  const isSame = opened.container?.formats.join() === formatsOf(container);
  const size = Math.min(opened.size, 2 * SIZE);
  const isChecked = isSame && !UNCHECKED.includes(container);
  const isRandom = opened.container?.access === 'random' && isChecked;
  for (let reads = below(random, 4); reads > 0 && size > 0; reads--) {
    const at = below(random, size);
    const into = new Uint8Array(Math.min(below(random, 8192) + 1, size - at));
    await opened.read(at, into);
    if (isRandom) mustBe(content, at, into);
  }
  await opened.measure?.();
  const all = new Uint8Array(Math.min(opened.size, 2 * SIZE));
  await opened.read(0, all);
  await opened.verify?.();
  source.mustBeBounded();
  result.isWhole = true;
  if (!isChecked) return;
  if (opened.size !== content.length)
    throw new Error(`it shows ${opened.size} bytes, and has ${content.length}`);
  mustBe(content, 0, all);
}

function mustBe(content: Uint8Array, at: number, found: Uint8Array): void {
  const expected = content.subarray(at, at + found.length);
  if (Buffer.compare(found.subarray(0, expected.length), expected) !== 0)
    throw new Error(`wrong bytes were read at ${at}`);
}

function formatsOf(container: Container): string {
  const names: Record<string, string> = { zst: 'zstd', gz: 'gzip', bz2: 'bzip2' };
  const parts = container.split('.').filter((part) => !/^(one|seek|stored|sparse|gnu)$/.test(part));
  return parts
    .map((part) => names[part] ?? part)
    .reverse()
    .join();
}

function toolsOf(kept: Kept[]): Parameters<typeof unpackWith>[0] {
  return {
    decompressors: portableDecompressors,
    room: ROOM,
    scratch: async () => {
      const file = new Kept('kept');
      kept.push(file);
      return file;
    },
  };
}

/** What has passed. */
class Kept extends MemoryFile implements BlockFile {
  complaint: Error | undefined;

  override write(offset: number, from: Uint8Array): void {
    if (offset + from.length <= KEPT_BYTES_MAX) return super.write(offset, from);
    this.complaint ??= new Error(`${offset + from.length} bytes were kept of it`);
    throw this.complaint;
  }
}

/** The container, with what is read of it counted. */
class Counted implements BlockSource {
  readonly size: number;
  readonly name = 'hostile';
  readonly inOrder?: (flow: Flow) => AsyncIterable<Uint8Array>;
  complaint: Error | undefined;
  isClosed = false;
  #bytes = 0;
  readonly #file: Uint8Array;

  constructor(bytes: Uint8Array, isOrdered: boolean) {
    this.#file = bytes;
    this.size = isOrdered ? Number.MAX_SAFE_INTEGER : bytes.length;
    if (isOrdered)
      this.inOrder = async function* () {
        for (let at = 0; at < bytes.length; at += 16 * 1024) yield bytes.slice(at, at + 16 * 1024);
      };
  }

  read(offset: number, into: Uint8Array): void {
    this.#bytes += into.length;
    if (into.length > READ_BYTES_MAX)
      this.complaint ??= new Error(`${into.length} bytes were asked for at once`);
    if (offset < 0 || offset + into.length > this.#file.length)
      this.complaint ??= new Error(`read of ${into.length} bytes at ${offset}, outside of it`);
    into.set(this.#file.subarray(offset, offset + into.length));
  }

  mustBeBounded(): void {
    if (this.#bytes > WORK_FACTOR_MAX * (this.#file.length + READ_BYTES_MAX))
      throw new Error(`${this.#bytes} bytes were read of ${this.#file.length}`);
  }

  close(): void {
    this.isClosed = true;
  }
}

/** Damages a container: some places at random, more where its headers are, some made to agree. */
class Damage {
  readonly told: string[] = [];
  #bytes: Uint8Array;
  readonly #container: Container;
  readonly #random: Random;

  constructor(bytes: Uint8Array, container: Container, random: Random) {
    this.#bytes = bytes;
    this.#container = container;
    this.#random = random;
  }

  done(): Uint8Array {
    for (let left = 1 + below(this.#random, MUTATIONS_MAX); left > 0; left--) this.#one();
    // A check sum that agrees lets a lie come farther.
    if (this.#random.between(0, 1) === 1) this.#agree();
    return this.#bytes;
  }

  #one(): void {
    const random = this.#random;
    const at = this.#place();
    switch (below(random, 8)) {
      case 0:
        return this.#cut(at);
      case 1:
        return this.#tell('16 bytes more', () =>
          this.#splice(at, 0, makeContent('random', random.next(), 16)),
        );
      case 2:
        return this.#tell(`bytes from ${at} left out`, () =>
          this.#splice(at, 1 + below(random, 64), new Uint8Array(0)),
        );
      case 3: {
        const from = this.#place();
        const piece = this.#bytes.slice(from, from + 1 + below(random, 512));
        return this.#tell(`${piece.length} bytes of ${from} at ${at}`, () =>
          this.#bytes.set(piece.subarray(0, this.#bytes.length - at), at),
        );
      }
      case 4:
      case 5:
        return this.#tell(`bit at ${at}`, () => {
          this.#bytes[at] ^= 1 << below(random, 8);
        });
      default: {
        const value = pick(random, INTERESTING);
        const count = pick(random, [1, 1, 2, 4, 8]);
        return this.#tell(`${count} bytes at ${at} = ${value}`, () =>
          this.#bytes.fill(value, at, at + count),
        );
      }
    }
  }

  #place(): number {
    const { length } = this.#bytes;
    const edge = Math.min(EDGE_BYTES, length);
    const where = below(this.#random, 3);
    if (where === 0) return below(this.#random, edge);
    if (where === 1) return length - edge + below(this.#random, edge);
    return below(this.#random, length);
  }

  #cut(at: number): void {
    this.#tell(`cut at ${at}`, () => {
      this.#bytes = this.#bytes.slice(0, Math.max(1, at));
    });
  }

  #splice(at: number, count: number, more: Uint8Array): void {
    const rest = [this.#bytes.subarray(0, at), more, this.#bytes.subarray(at + count)];
    this.#bytes = new Uint8Array(Buffer.concat(rest));
  }

  #tell(what: string, work: () => void): void {
    this.told.push(`${this.#container}: ${what}`);
    work();
  }

  #agree(): void {
    if (this.#container === 'xz' || this.#container === 'one.xz') this.#agreeXz();
    if (/^(sparse\.|gnu\.)?tar$/.test(this.#container)) this.#agreeTar();
  }

  #agreeXz(): void {
    const bytes = Buffer.from(this.#bytes.buffer, 0, this.#bytes.length);
    if (bytes.length < 32) return;
    const indexBytes = (bytes.readUInt32LE(bytes.length - 8) + 1) * 4;
    const indexAt = bytes.length - 12 - indexBytes;
    if (indexAt < 12) return;
    bytes.writeUInt32LE(crc32(bytes.subarray(indexAt, -16)), bytes.length - 16);
    bytes.writeUInt32LE(crc32(bytes.subarray(-8, -2)), bytes.length - 12);
    this.told.push('xz: the check sums of its index and footer agree');
  }

  #agreeTar(): void {
    for (let at = 0; at + 512 <= Math.min(this.#bytes.length, 4096); at += 512) {
      const header = this.#bytes.subarray(at, at + 512);
      if (new TextDecoder().decode(header.subarray(257, 262)) !== 'ustar') continue;
      header.fill(0x20, 148, 156);
      const sum = header.reduce((total, byte) => total + byte, 0);
      const text = `${sum.toString(8).padStart(6, '0')}\0 `;
      header.set(new TextEncoder().encode(text), 148);
    }
    this.told.push('tar: the check sums of its headers agree');
  }
}
