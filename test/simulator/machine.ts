/**
 * One engine under a virtual clock: the real WebAssembly, driven by its ring (engine/README.md).
 * Every operation ends when, and how, the faults of the seed want it to. What the engine must never
 * do (read outside the memory, answer twice, hang) is noticed here.
 */

import * as protocol from '../../engine/protocol.ts';
import {
  ABORTED,
  ECORRUPT,
  EIO,
  ENOSPC,
  FLAG_JOBS,
  HOLE_BLOCK_BITS,
  KIND_READ,
  OK,
  OP_DECOMPRESS,
  OP_DISCARD,
  OP_DONE,
  OP_FLUSH,
  OP_GIVE,
  OP_HOLES,
  OP_READ,
  OP_TAKE,
  OP_TRUNCATE,
  OP_WRITE,
  REPORT_NUMBERS,
} from '../../engine/protocol.ts';
import type { Exports } from '../../hosts/disk/driver/instance.ts';
import type { Random } from '../fixtures/content.ts';
import { identityOf } from './qcow2.ts';
import type { Cut, Storage } from './storage.ts';

/** The names of numbers of the protocol that begin alike. */
function namesOf(prefix: string): Record<number, string> {
  return Object.fromEntries(
    Object.entries(protocol)
      .filter(([name]) => name.startsWith(prefix))
      .map(([name, number]) => [number, name.slice(prefix.length)]),
  );
}

const KIND_NAMES = namesOf('KIND_');
const OP_NAMES = namesOf('OP_');

const PAGE_BYTES = 65536;
/** Maps of holes are read once, and so fail more often than what is read often. */
const HOLES_FAIL_TIMES = 10;
/** What one bit of a map of holes stands for. */
const HOLE_BLOCK_BYTES = 2 ** HOLE_BLOCK_BITS;
/**
 * Steps that may follow one another without anything new from outside: storage that does all at
 * once reads a long chain's tables in them.
 */
const STEPS_MAX = 100_000;

/** How often (of a thousand) and how an operation goes wrong, and how long it takes. */
export interface Faults {
  readFails: number;
  writeFails: number;
  flushFails: number;
  /** Writes that fail have written some of their sectors. */
  tears: boolean;
  /** Failures of writes say that the disk is full. */
  noSpace: boolean;
  /** The storage is full when the file has grown by so many bytes since it was opened. */
  space: number;
  /** Operations that never end: only a cut helps. */
  drops: number;
  /** Longest time of an operation of the overlay, and of a base: ms. */
  slow: number;
  slowBase: number;
  /** Operations (of a thousand) that take a hundred times as long. */
  stalls: number;
  /**
   * Part of the operations (of a thousand) that are done at once, as synchronous hosts do them all.
   */
  immediate: number;
}

export const NO_FAULTS: Pick<
  Faults,
  'readFails' | 'writeFails' | 'flushFails' | 'space' | 'drops' | 'stalls'
> = {
  readFails: 0,
  writeFails: 0,
  flushFails: 0,
  space: Infinity,
  drops: 0,
  stalls: 0,
};

/** How a request ended. */
export interface Answer {
  code: number;
  reason: number;
  image: number;
  value: number;
  /** Flushes that had failed by then. */
  flushesFailed: number;
}

interface Pending {
  kind: number;
  text: string;
  data?: Uint8Array;
  into?: Uint8Array;
  given: boolean;
  done(answer: Answer): void;
}

interface InFlight {
  op: number;
  file: number;
  offset: number;
  data: Uint8Array;
  isJobs: boolean;
}

/** Where a machine's events go. */
export interface Clock {
  readonly now: number;
  after(delay: number, order: number, run: () => void): void;
}

/** A base: bytes that are only read. */
export interface Source {
  bytes: Uint8Array;
}

export class Machine {
  readonly exports: Exports;
  faults: Faults;
  /** Errors that operations were ended with so far. */
  injected = 0;
  flushesFailed = 0;
  /** Operations that will never end. */
  dropped = 0;
  /** Events to come. */
  due = 0;
  operations = 0;
  /** Called with each range of the overlay's file that is about to be written. */
  onWrite: (offset: number, length: number) => void = () => {};
  /** Called with the memory when nothing of this engine happens any more. */
  onStop: (memory: Uint8Array) => void = () => {};
  readonly #memory: WebAssembly.Memory;
  readonly #buffer: ArrayBuffer;
  readonly #words: Uint32Array;
  readonly #overlay: Storage;
  readonly #sizeAtStart: number;
  readonly #bases: Source[];
  readonly #clock: Clock;
  readonly #random: Random;
  readonly #inflate: (method: number, from: Uint8Array, into: Uint8Array) => boolean;
  readonly #pending = new Map<number, Pending>();
  readonly #inFlight = new Map<number, InFlight>();
  #completed: [tag: number, result: number][] = [];
  #nextTag = 1;
  #alarm = 0;
  #stopped = false;
  #stepping = false;
  readonly #tell: ((line: string) => void) | undefined;

  /** `bases[i]` is image i + 1. */
  constructor(
    module: WebAssembly.Module,
    options: {
      memory: number;
      overlay: Storage;
      bases: Source[];
      tellsHoles: boolean;
      clock: Clock;
      random: Random;
      faults: Faults;
      /** Hears of all that happens. */
      tell?: (line: string) => void;
      inflate(method: number, from: Uint8Array, into: Uint8Array): boolean;
    },
  ) {
    this.#memory = takeMemory(options.memory);
    const trap = (file: number, bytes: number, line: number, column: number): never => {
      const name = new TextDecoder('utf-16le').decode(
        new Uint8Array(this.#memory.buffer, file, bytes),
      );
      throw new Error(
        `an assertion of the engine failed (${name}, line ${line}, column ${column})`,
      );
    };
    this.exports = new WebAssembly.Instance(module, {
      env: { memory: this.#memory },
      host: { trap },
    }).exports as unknown as Exports;
    this.#buffer = this.#memory.buffer;
    this.#words = new Uint32Array(this.#buffer);
    this.#overlay = options.overlay;
    this.#sizeAtStart = options.overlay.size;
    this.#bases = options.bases;
    this.#clock = options.clock;
    this.#random = options.random;
    this.faults = options.faults;
    this.#tell = options.tell;
    this.#inflate = options.inflate;
    must(this.exports.init(options.memory) !== 0, 'the engine takes its memory');
    this.exports.setFile(0, options.overlay.size, false);
    for (const [index, base] of options.bases.entries())
      this.exports.setFile(index + 1, base.bytes.length, options.tellsHoles);
  }

  /** Requests that have not ended. */
  get waiting(): number {
    return this.#pending.size;
  }

  get stopped(): boolean {
    return this.#stopped;
  }

  /** Starts a request; false when the engine has no room for it now. */
  request(
    kind: number,
    offset: number,
    length: number,
    argument: number,
    options: { data?: Uint8Array; into?: Uint8Array; done(answer: Answer): void },
  ): boolean {
    const tag = this.#nextTag;
    if (!this.exports.request(kind, tag, offset, length, argument)) return false;
    this.#nextTag++;
    const text = `${KIND_NAMES[kind]} ${length} at ${offset}${argument ? ` (${argument})` : ''} #${tag}`;
    this.#note(() => `> ${text}`);
    this.#pending.set(tag, { kind, text, given: false, ...options });
    this.wake();
    return true;
  }

  /** Has the engine go on soon, as when something was asked of it from outside. */
  wake(): void {
    this.#later(0, () => this.pump());
  }

  /** Lets the engine go on as far as it can. */
  pump(): void {
    if (this.#stopped || this.#stepping) return;
    this.#stepping = true;
    let steps = 0;
    for (let more = true; more; ) {
      must(++steps <= STEPS_MAX, `the engine comes to rest within ${STEPS_MAX} steps`);
      more = this.#step();
    }
    this.#stepping = false;
    must(this.#memory.buffer === this.#buffer, 'the memory never grows');
    const at = this.exports.wakeAt();
    if (at && at !== this.#alarm) this.#later(Math.max(0, at - this.#clock.now), () => this.pump());
    this.#alarm = at;
  }

  /** The numbers of a report. */
  report(address: number): Float64Array {
    return new Float64Array(this.#buffer, address, REPORT_NUMBERS).slice();
  }

  /** Puts the texts of a base where the engine looks for them. */
  setBacking(name: string, format: string): void {
    const identity = identityOf(name);
    const bytes = new TextEncoder().encode(name + format + identity);
    new Uint8Array(this.#buffer, this.exports.text(), bytes.length).set(bytes);
    must(
      this.exports.setBacking(name.length, format.length, identity.length) !== 0,
      'the name of a base is taken',
    );
  }

  /**
   * The job's reads in flight are cancelled, as a host does when its job is aborted: some end at
   * once.
   */
  cancelBackground(): void {
    for (const [tag, io] of this.#inFlight) {
      if (!io.isJobs || io.op !== OP_READ || io.file === 0 || this.#random.next() % 4 === 0)
        continue;
      this.#inFlight.delete(tag);
      this.injected++;
      io.data.fill(0xcc);
      this.#complete(tag, -ABORTED);
    }
    this.wake();
  }

  /** The power goes, or the process is killed: nothing ends any more. */
  cut(cut: Cut): void {
    this.stop();
    const writes = [...this.#inFlight.values()].filter(({ op }) => op === OP_WRITE);
    this.#note(() => `= cut: ${cut}, ${writes.length} writes in flight`);
    this.#overlay.cut(cut, writes, this.#random);
  }

  /** Nothing of this engine happens any more. */
  stop(): void {
    must(!this.#stopped, 'an engine is stopped once');
    this.#stopped = true;
    this.onStop(new Uint8Array(this.#buffer));
    giveMemory(this.#memory);
  }

  /** What keeps the engine from going on, for the message of a failure. */
  describe(): string {
    const requests = [...this.#pending.values()].map(({ text }) => text).join(', ');
    const operations = [...this.#inFlight.values()]
      .map(({ op, file, offset }) => `${OP_NAMES[op]} ${file}@${offset}`)
      .join(', ');
    return `requests: ${requests || 'none'}; operations: ${operations || 'none'}; job: ${[...this.report(this.exports.info()).slice(0, 13)].join(' ')}`;
  }

  #later(delay: number, run: () => void): void {
    this.due++;
    this.#clock.after(delay, this.#random.next(), () => {
      this.due--;
      if (!this.#stopped) run();
    });
  }

  #step(): boolean {
    const at = this.exports.completions() >> 2;
    const count = Math.min(this.#completed.length, 256);
    for (let i = 0; i < count; i++) {
      const [tag, result] = this.#completed[i];
      this.#words[at + i * 4] = tag;
      this.#words[at + i * 4 + 1] = result;
      this.#words[at + i * 4 + 2] = 0;
    }
    this.#completed.splice(0, count);
    const more = this.exports.step(count, this.#clock.now + 1) !== 0;
    const submitted = this.exports.submitted();
    const first = this.exports.submissions() >> 2;
    const answers: (() => void)[] = [];
    for (let i = 0; i < submitted; i++) this.#perform(first + i * 12, answers);
    for (const answer of answers) answer();
    return more || this.#completed.length > 0;
  }

  #perform(entry: number, answers: (() => void)[]): void {
    const w = this.#words;
    const [tag, op, file, flags] = [w[entry], w[entry + 1], w[entry + 2], w[entry + 3]];
    const offset = w[entry + 4] + w[entry + 5] * 2 ** 32;
    const [length, address, request] = [w[entry + 6], w[entry + 7], w[entry + 10]];
    this.operations++;
    this.#note(
      () =>
        `  ${OP_NAMES[op]} ${op === OP_DONE ? `${request}: ${tag} ${flags} (image ${file}, ${offset})` : `${file}@${offset}+${length}${request ? ` #${request}` : ''}`}`,
    );
    if (op === OP_DONE)
      return void answers.push(
        this.#ended(request, {
          code: tag,
          reason: flags,
          image: file,
          value: offset,
          flushesFailed: this.flushesFailed,
        }),
      );
    const carries = op !== OP_FLUSH && op !== OP_TRUNCATE && op !== OP_DISCARD;
    must(
      !carries || address + length <= this.#buffer.byteLength,
      'an operation stays inside the memory',
    );
    const data = new Uint8Array(this.#buffer, carries ? address : 0, carries ? length : 0);
    if (op === OP_GIVE) return this.#give(request, offset, data);
    must(!this.#inFlight.has(tag), 'a tag is used once at a time');
    must(
      op === OP_READ || op === OP_DECOMPRESS || op === OP_TAKE || op === OP_HOLES || file === 0,
      'only the overlay is changed',
    );
    this.#inFlight.set(tag, { op, file, offset, data, isJobs: (flags & FLAG_JOBS) !== 0 });
    if (op === OP_WRITE) this.onWrite(offset, length);
    const mark = this.#overlay.mark();
    if (op === OP_TAKE) return this.#ends(tag, 0, () => this.#take(request, offset, data));
    if (op === OP_DECOMPRESS) {
      const into = new Uint8Array(this.#buffer, w[entry + 8], w[entry + 9]);
      return this.#ends(tag, this.#delay(0), () =>
        this.#inflate(file, data, into) ? OK : ECORRUPT,
      );
    }
    const name = OP_NAMES[op];
    if (this.#happens(this.faults.drops)) {
      this.dropped++;
      return this.#note(() => `    the ${name} will never end`);
    }
    this.#ends(tag, this.#delay(file), () => this.#io(op, file, offset, length, data, mark));
  }

  #io(
    op: number,
    file: number,
    offset: number,
    length: number,
    data: Uint8Array,
    mark: number,
  ): number {
    if (this.#happens(this.#failing(op))) return this.#fail(op, offset, data);
    const grows = op === OP_WRITE || op === OP_TRUNCATE ? offset + data.length : 0;
    if (grows > this.#sizeAtStart + this.faults.space) {
      this.injected++;
      return ENOSPC;
    }
    if (op === OP_READ && file > 0) {
      const base = this.#bases[file - 1];
      must(base !== undefined, 'a base is read that is open');
      must(
        offset + data.length <= base.bytes.length,
        `a read stays inside its base (${offset} + ${data.length})`,
      );
      data.set(base.bytes.subarray(offset, offset + data.length));
    } else if (op === OP_READ) this.#overlay.read(offset, data);
    else if (op === OP_HOLES) this.#mapHoles(this.#bases[file - 1], offset, data);
    else if (op === OP_WRITE) this.#overlay.write(offset, data);
    else if (op === OP_TRUNCATE) this.#overlay.truncate(offset);
    else if (op === OP_FLUSH) this.#overlay.flushed(mark);
    else if (offset + length <= this.#overlay.size)
      this.#overlay.write(offset, this.#discarded(length));
    return OK;
  }

  /** How many of a thousand operations of this kind fail. */
  #failing(op: number): number {
    const { readFails, writeFails, flushFails } = this.faults;
    if (op === OP_HOLES) return HOLES_FAIL_TIMES * readFails;
    if (op === OP_READ) return readFails;
    return op === OP_FLUSH ? flushFails : writeFails;
  }

  /**
   * Blocks of zeros are holes, but not all of them need be; behind the end of the file anything may
   * be told.
   */
  #mapHoles({ bytes }: Source, offset: number, map: Uint8Array): void {
    map.fill(this.#random.next());
    const coarse = this.#happens(200);
    for (
      let bit = 0, at = offset;
      at < bytes.length && bit < map.length * 8;
      bit++, at += HOLE_BLOCK_BYTES
    ) {
      const isData = coarse || bytes.subarray(at, at + HOLE_BLOCK_BYTES).some((byte) => byte !== 0);
      map[bit >> 3] = (map[bit >> 3] & ~(1 << (bit & 7))) | (isData ? 1 << (bit & 7) : 0);
    }
  }

  #fail(op: number, offset: number, data: Uint8Array): number {
    this.injected++;
    if (op === OP_READ) data.fill(0xcc);
    // The worst that can be left there: no data.
    if (op === OP_HOLES) data.fill(0);
    if (op === OP_FLUSH) this.flushesFailed++;
    if (op === OP_WRITE && this.faults.tears) this.#overlay.writeSome(offset, data, this.#random);
    return this.faults.noSpace && (op === OP_WRITE || op === OP_TRUNCATE) ? ENOSPC : EIO;
  }

  /** What was given back may read as anything: nobody may look at it. */
  #discarded(length: number): Uint8Array {
    return new Uint8Array(length).fill(this.#random.next() & 1 ? 0 : 0xdd);
  }

  #take(request: number, offset: number, into: Uint8Array): number {
    const pending = this.#pending.get(request);
    must(pending?.data !== undefined, 'data is taken of a request that is under way');
    into.set(pending!.data!.subarray(offset, offset + into.length));
    return OK;
  }

  #give(request: number, offset: number, data: Uint8Array): void {
    const pending = this.#pending.get(request);
    must(pending?.into !== undefined, 'data is given to a request that is under way');
    pending!.into!.set(data, offset);
    pending!.given = true;
  }

  #ended(request: number, answer: Answer): () => void {
    const pending = this.#pending.get(request);
    must(pending !== undefined, 'a request ends once');
    this.#pending.delete(request);
    must(
      !(pending!.kind === KIND_READ && answer.code === 0) || pending!.given,
      'a read that ends well has given its data',
    );
    return () => pending!.done(answer);
  }

  #ends(tag: number, delay: number, run: () => number): void {
    const operation = this.#inFlight.get(tag);
    const end = (): void => {
      // It may have been cancelled, and its tag be another's now.
      if (this.#inFlight.get(tag) !== operation) return;
      this.#inFlight.delete(tag);
      this.#complete(tag, -run());
    };
    if (delay === 0) end();
    else
      this.#later(delay, () => {
        end();
        this.pump();
      });
  }

  #complete(tag: number, result: number): void {
    if (result) this.#note(() => `    ${tag} fails: ${-result}`);
    this.#completed.push([tag, result]);
  }

  #delay(file: number): number {
    if (this.#happens(this.faults.immediate)) return 0;
    const most = file === 0 ? this.faults.slow : this.faults.slowBase;
    const delay = 0.001 + (this.#random.next() / 2 ** 32) * most;
    return this.#happens(this.faults.stalls) ? delay * 100 : delay;
  }

  #happens(perThousand: number): boolean {
    return perThousand > 0 && this.#random.next() % 1000 < perThousand;
  }

  #note(line: () => string): void {
    this.#tell?.(`${this.#clock.now.toFixed(3).padStart(12)} ${line()}`);
  }
}

/** Memories of machines that work no more. New ones cost more than most runs. */
const unused: WebAssembly.Memory[] = [];
const UNUSED_MAX = 8;

/** A memory of zeros. */
function takeMemory(bytes: number): WebAssembly.Memory {
  const pages = bytes / PAGE_BYTES;
  const at = unused.findIndex(({ buffer }) => buffer.byteLength === bytes);
  if (at < 0) return new WebAssembly.Memory({ initial: pages, maximum: pages });
  const [memory] = unused.splice(at, 1);
  new Uint8Array(memory.buffer).fill(0);
  return memory;
}

function giveMemory(memory: WebAssembly.Memory): void {
  if (unused.length === UNUSED_MAX) unused.shift();
  unused.push(memory);
}

/** @throws when what must hold does not. */
export function must(holds: boolean, what: string): void {
  if (!holds) throw new Error(`it must be that ${what}`);
}
