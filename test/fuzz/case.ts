/**
 * One case: a hostile image as overlay or as base of a real engine, through all that can be asked
 * of it. Whatever is wrong with the image, the engine answers every request, in bounded work,
 * inside its memory, and writes nothing to an overlay that it refused to open.
 */

import { inflateRawSync } from 'node:zlib';
import {
  KIND_CHECK,
  KIND_CLOSE,
  KIND_CREATE,
  KIND_DISCARD,
  KIND_FLUSH,
  KIND_MAP,
  KIND_OPEN,
  KIND_READ,
  KIND_REMAINING,
  KIND_RESIZE,
  KIND_SNAPSHOTS,
  KIND_STREAM,
  KIND_WRITE,
  KIND_ZERO,
  SNAPSHOT_AT,
  SNAPSHOT_NUMBERS,
} from '../../engine/protocol.ts';
import { Random } from '../fixtures/content.ts';
import { checkImage } from '../simulator/checker.ts';
import { Events } from '../simulator/events.ts';
import type { Answer, Faults } from '../simulator/machine.ts';
import { Machine, must, NO_FAULTS } from '../simulator/machine.ts';
import { contentOf } from '../simulator/qcow2.ts';
import { Storage } from '../simulator/storage.ts';
import { hostileImage } from './mutate.ts';

/** The largest answer on a snapshot. */
const SNAPSHOT_BYTES = SNAPSHOT_NUMBERS * 8 + 2 * 65535;
const MEMORY_BYTES = 8 << 20;
const RAW = 1;
const QCOW2 = 2;
const WRITABLE = 1;
/**
 * Operations that one request on images this small may lead to: every sector of them by itself, and
 * tables between.
 */
const OPERATIONS_MAX = 20_000;
/** Of a disk that claims to be larger, only pieces are read and streamed. */
const PIECE_BYTES = 256 << 10;
const BASE_BYTES = 96 << 10;

const FAULTS: Faults = {
  ...NO_FAULTS,
  tears: false,
  noSpace: false,
  slow: 0,
  slowBase: 0,
  immediate: 1000,
};

export interface CaseResult {
  /** It could be opened. */
  opened: boolean;
  mutations: string[];
  error?: Error;
}

/** `tell` hears of all that happens. */
export function runCase(
  module: WebAssembly.Module,
  seed: number,
  tell?: (line: string) => void,
): CaseResult {
  const { file, plan, mutations } = hostileImage(seed, { name: 'base', format: 'raw' });
  const run = new Case(module, seed, file, plan.clusterBits, tell);
  try {
    const opened = run.run();
    run.end();
    return { opened, mutations };
  } catch (cause) {
    return { opened: true, mutations, error: cause as Error };
  }
}

class Case {
  readonly #seed: number;
  readonly #random: Random;
  readonly #events = new Events();
  readonly #module: WebAssembly.Module;
  readonly #file: Uint8Array;
  readonly #clusterBits: number;
  readonly #base: Uint8Array;
  readonly #tell: ((line: string) => void) | undefined;
  #machine!: Machine;
  #size = 0;

  constructor(
    module: WebAssembly.Module,
    seed: number,
    file: Uint8Array,
    clusterBits: number,
    tell?: (line: string) => void,
  ) {
    this.#module = module;
    this.#seed = seed;
    this.#random = new Random(seed ^ 0x5bd1e995);
    this.#file = file;
    this.#clusterBits = clusterBits;
    this.#tell = tell;
    this.#base = new Uint8Array(BASE_BYTES).fill(0x42, 0, BASE_BYTES / 2);
  }

  /** Gives its memory to the next case. */
  end(): void {
    this.#machine.stop();
  }

  run(): boolean {
    const role = this.#random.between(0, 2);
    return role === 0 ? this.#asBase() : this.#asOverlay(role === 1);
  }

  #asOverlay(writable: boolean): boolean {
    const storage = new Storage(writable || this.#seed & 1 ? this.#file : this.#withSnapshot());
    const bases = this.#random.next() & 1 ? [{ bytes: this.#base }] : [];
    this.#machine = this.#newMachine(storage, bases);
    const { code } = this.#call(KIND_OPEN, 0, this.#pick(0, QCOW2), writable ? WRITABLE : 0);
    if (code !== 0) {
      must(storage.mark() === 0, 'nothing is written to an overlay that cannot be opened');
      return false;
    }
    if (bases.length) this.#call(KIND_OPEN, 1, RAW, 0);
    this.#size = this.#machine.report(this.#machine.exports.image(0))[1];
    // A host that forgets to check before it writes must harm nothing but the image.
    if (writable && this.#random.between(0, 1))
      this.#call(KIND_CHECK, 0, 0, this.#pick(1, 3), new Uint8Array(64));
    this.#machine.exports.setUse(
      writable && bases.length > 0,
      false,
      writable,
      this.#random.between(0, 1) > 0,
    );
    this.#call(
      KIND_SNAPSHOTS,
      this.#pick(0, 8, 65536, 1 << 30),
      0,
      0,
      new Uint8Array(SNAPSHOT_BYTES),
    );
    this.#readAll(storage.mark() === 0 ? (bases[0]?.bytes ?? new Uint8Array(0)) : undefined);
    for (let i = 0; i < 6; i++) this.#act(writable);
    if (!writable) this.#showSnapshot();
    this.#call(KIND_CLOSE, 0, 0, writable ? 0 : 1);
    if (!writable) must(storage.mark() === 0, 'nothing is written to an overlay that is only read');
    return true;
  }

  /** The image with a snapshot behind its end, whose numbers are near those of its own disk. */
  #withSnapshot(): Uint8Array {
    const random = new Random(this.#seed ^ 0x2545f491);
    const pick = (...choices: number[]): number => choices[random.between(0, choices.length - 1)];
    const at = Math.ceil(this.#file.length / 65536) * 65536;
    const file = new Uint8Array(at + 512);
    file.set(this.#file);
    const view = new DataView(file.buffer);
    const put = (place: number, value: number): void =>
      view.setBigUint64(place, BigInt.asUintN(64, BigInt(value)));
    const own = (place: number): number => Number(view.getBigUint64(place));
    view.setUint32(60, 1);
    put(64, at);
    put(at, pick(own(40), own(40), own(40), 512, at, 2 ** 40, own(40) + 8));
    view.setUint32(at + 8, view.getUint32(36) + pick(0, 0, 0, 1, -1, 2 ** 20));
    view.setUint32(at + 36, pick(0, 16, 24, 24, 24, 2 ** 31));
    put(at + 48, own(24) + pick(0, 0, 512, 65536, -512, 2 ** 53));
    return file;
  }

  /** What the first snapshot's entry leads to, or one that would stand somewhere else. */
  #showSnapshot(): void {
    const told = new Uint8Array(SNAPSHOT_BYTES);
    this.#call(KIND_SNAPSHOTS, 0, 0, 0, told);
    const [first] = new Float64Array(told.buffer, SNAPSHOT_AT * 8, 1);
    const place = first || this.#random.between(1, this.#file.length >> 3) * 8;
    if (this.#call(KIND_OPEN, 0, QCOW2, place).code !== 0) return;
    this.#size = this.#machine.report(this.#machine.exports.image(0))[1];
    this.#readAll(undefined);
    for (let i = 0; i < 3; i++) this.#act(false);
  }

  #asBase(): boolean {
    this.#machine = this.#newMachine(new Storage(), [{ bytes: this.#file }]);
    const opened = this.#call(KIND_OPEN, 1, this.#pick(0, QCOW2), 0).code === 0;
    if (!opened) return false;
    this.#size =
      Math.ceil(
        Math.min(this.#machine.report(this.#machine.exports.image(1))[1], 4 * PIECE_BYTES) / 512,
      ) * 512;
    if (this.#call(KIND_CREATE, 0, this.#size, this.#pick(9, 12, 16) + 256 * 4).code !== 0)
      return true;
    this.#machine.exports.setUse(
      this.#random.between(0, 3) > 0,
      false,
      false,
      this.#random.between(0, 1) > 0,
    );
    for (let i = 0; i < 5; i++) this.#act(true);
    this.#stream();
    this.#call(KIND_CLOSE, 0, 0, 0);
    return true;
  }

  #newMachine(overlay: Storage, bases: { bytes: Uint8Array }[]): Machine {
    return new Machine(this.#module, {
      memory: MEMORY_BYTES,
      overlay,
      bases,
      tellsHoles: false,
      clock: this.#events,
      random: this.#random,
      faults: { ...FAULTS },
      tell: this.#tell,
      inflate,
    });
  }

  /** What is read of an image in which nothing is wrong is what another reader sees. */
  #readAll(below: Uint8Array | undefined): void {
    const expected =
      below && this.#size <= 4 * PIECE_BYTES ? soundContent(this.#file, below) : undefined;
    const most = Math.min(this.#machine.exports.requestBytesMax(), PIECE_BYTES);
    for (let at = 0, pieces = 0; at < this.#size && pieces < 4; at += most, pieces++) {
      const into = new Uint8Array(Math.min(most, this.#size - at));
      const { code, reason } = this.#call(KIND_READ, at, into.length, 0, into);
      if (!expected) continue;
      must(code === 0, `a sound image can be read (code ${code}, reason ${reason})`);
      must(
        Buffer.compare(into, expected.subarray(at, at + into.length)) === 0,
        'a sound image is read rightly',
      );
    }
  }

  #act(writable: boolean): void {
    const size = this.#size;
    if (size === 0) return;
    const cluster = this.#machine.exports.clusterSize() || 2 ** this.#clusterBits;
    const offset = Math.min(
      size - 1,
      this.#pick(0, Math.floor((this.#random.next() / 2 ** 32) * size), size - 1),
    );
    const length = Math.min(
      size - offset,
      this.#random.between(1, Math.min(65536, this.#machine.exports.requestBytesMax())),
    );
    const first = offset - (offset % cluster);
    const whole = Math.min(size - first, cluster * this.#random.between(1, 4));
    const reads = [
      () => this.#call(KIND_READ, offset, length, 0, new Uint8Array(length)),
      () =>
        this.#call(
          KIND_MAP,
          offset,
          Math.min(size - offset, PIECE_BYTES),
          0,
          new Uint8Array(65536),
        ),
      () => this.#call(KIND_REMAINING, offset, Math.min(size - offset, PIECE_BYTES), 0),
      () =>
        this.#call(KIND_CHECK, 0, 0, writable ? this.#random.between(0, 3) : 0, new Uint8Array(64)),
    ];
    const writes = [
      () => this.#call(KIND_WRITE, offset, length, this.#random.next() & 1),
      () => this.#call(KIND_ZERO, first, whole, 0),
      () => this.#call(KIND_DISCARD, first, whole, 0),
      () => this.#call(KIND_FLUSH, 0, 0, 0),
      () => this.#stream(),
      () =>
        void (
          this.#call(
            KIND_RESIZE,
            0,
            Math.ceil(size / 512) * 512 + this.#pick(512, 65536, 1 << 20),
            0,
          ).code === 0 && (this.#size = this.#machine.report(this.#machine.exports.image(0))[1])
        ),
    ];
    this.#pick(...reads, ...(writable ? writes : []))();
  }

  #stream(): void {
    const offset = Math.floor((this.#random.next() / 2 ** 32) * this.#size);
    const length = Math.min(this.#size - offset, PIECE_BYTES);
    const small = this.#size <= 4 * PIECE_BYTES;
    // Errors are reported, or ignored: a job that pauses would wait for its operator.
    const refused = this.#machine.exports.stream(
      small ? 0 : offset,
      small ? 0 : length,
      0,
      this.#pick(0, 2),
      false,
      false,
      0,
      this.#pick(false, true),
      false,
    );
    if (refused === 0) this.#call(KIND_STREAM, 0, 0, 0);
  }

  /** Runs a request to its end. */
  #call(kind: number, offset: number, length: number, argument: number, into?: Uint8Array): Answer {
    let answer: Answer | undefined;
    const before = this.#machine.operations;
    const data = kind === KIND_WRITE ? new Uint8Array(length).fill(0x77) : undefined;
    must(
      this.#machine.request(kind, offset, length, argument, {
        into,
        data,
        done: (a) => void (answer = a),
      }),
      'there is room for a request',
    );
    while (answer === undefined) {
      if (!this.#events.next())
        throw new Error(`a request is never answered (${this.#machine.describe()})`);
      must(
        this.#machine.operations - before < OPERATIONS_MAX,
        `a request of kind ${kind} takes a bounded number of operations`,
      );
    }
    while (this.#events.next())
      must(
        this.#machine.operations - before < OPERATIONS_MAX,
        'what goes on after a request comes to an end',
      );
    return answer;
  }

  #pick<T>(...choices: T[]): T {
    return choices[this.#random.between(0, choices.length - 1)];
  }
}

/** What an image shows if nothing is wrong with it. */
function soundContent(file: Uint8Array, below: Uint8Array): Uint8Array | undefined {
  try {
    const { corruptions } = checkImage(file);
    return corruptions.length ? undefined : contentOf(file, below);
  } catch {
    return undefined;
  }
}

function inflate(method: number, from: Uint8Array, into: Uint8Array): boolean {
  if (method !== 0) return false;
  try {
    const bytes = inflateRawSync(from, { maxOutputLength: into.length });
    into.set(bytes);
    return bytes.length === into.length;
  } catch {
    return false;
  }
}
