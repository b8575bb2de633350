/**
 * One simulated disk: its storage, its chain, what a guest may see of it, and its life: opened,
 * worked on under faults, cut off or closed, checked, and opened again. A life is a generator: it
 * yields wherever something has to happen before it can go on, so that several disks live under one
 * clock.
 */

import { inflateRawSync } from 'node:zlib';
import {
  KIND_CHECK,
  KIND_CLOSE,
  KIND_CREATE,
  KIND_FLUSH,
  KIND_OPEN,
  KIND_READ,
} from '../../engine/protocol.ts';
import { Random } from '../fixtures/content.ts';
import { checkImage } from './checker.ts';
import type { Events } from './events.ts';
import { Guest } from './guest.ts';
import { makeImage } from './images.ts';
import type { Answer, Faults } from './machine.ts';
import { Machine, must, NO_FAULTS } from './machine.ts';
import type { Plan } from './plan.ts';
import { contentOf, identityOf, readHeader, unknownOf } from './qcow2.ts';
import type { Cut } from './storage.ts';
import { CUTS, Storage } from './storage.ts';
import { Truth } from './truth.ts';

const FORMAT = { raw: 1, qcow2: 2 } as const;
const WRITABLE = 1;
/** What hosts repair before they write to an overlay that was not closed. */
const REPAIR_CRASH = 3;
/** Events in which everything has to settle once the faults have stopped. */
const EVENTS_MAX = 400_000;
/** Where operations may never end, so many without an answer show that one did not. */
const DROPPED_EVENTS_MAX = 3000;
/** Virtual hours in which it has to. */
const SETTLING_MS_MAX = 24 * 3600 * 1000;
/** Of the overlay's epochs, so many of a hundred end by a cut. */
const CUT_PER_CENT = 60;
/**
 * Half of the cuts come after so many writes to the overlay's file at most: in the midst of a
 * write-back, more often than not.
 */
const WRITES_BEFORE_CUT_MAX = 200;

/** An image below the overlay. */
interface Base {
  name: string;
  bytes: Uint8Array;
  format: 'raw' | 'qcow2';
  /** What it shows, with all that is below it. */
  shown: Uint8Array;
}

/**
 * Given back to a disk that waited: whether something has happened meanwhile, of this disk or
 * another.
 */
export type Life = Generator<void, void, boolean>;
type Step<T> = Generator<void, T, boolean>;

/** Thrown into a life: the power has gone, in the midst of whatever it does. */
export class PowerCut extends Error {}

/** What a run looks at from outside. */
export interface Hooks {
  /** Hears of all that happens. */
  tell?: (line: string) => void;
  /** Called when the power of this disk goes: others may hang on the same. */
  onCut(): void;
  /**
   * Called with the overlay's file at every cut and every close, once its refcounts are right;
   * those that were closed have no leaks.
   */
  onImage(file: Uint8Array, closed: boolean): void;
  /** Called with the memory of each engine when it works no more. */
  onMemory(memory: Uint8Array): void;
}

export interface Counts {
  requests: number;
  operations: number;
  cuts: number;
  opens: number;
  jobs: number;
  faults: number;
}

export class SimulatedDisk {
  readonly plan: Plan;
  readonly events: Events;
  readonly random: Random;
  readonly counts: Counts = { requests: 0, operations: 0, cuts: 0, opens: 0, jobs: 0, faults: 0 };
  readonly storage: Storage;
  truth: Truth;
  /** The images below, from the nearest down, and those that the overlay still refers to. */
  readonly #chain: Base[] = [];
  #bases: Base[] = [];
  readonly #module: WebAssembly.Module;
  readonly #hooks: Hooks;
  /** Sizes that the disk may have after a cut. */
  sizes: number[] = [];
  #machine: Machine | undefined;
  /**
   * Clusters of the overlay's file that have been written since it was opened, and how many may
   * have been given back since.
   */
  #written = new Set<number>();
  #freed = 0;
  /**
   * Clusters that were leaked when it was opened: that they are given back may reach the disk as
   * late as when it is closed.
   */
  #leaked = 0;
  /**
   * L2 tables of what has been asked for since: one that is new is counted on disk before it is
   * written.
   */
  #tables = new Set<number>();
  /** Events of this disk. */
  #happened = 0;
  /** What its header has that is not known, as it came from elsewhere. */
  readonly #unknown: Uint8Array | undefined;
  /**
   * It is as it came from elsewhere: the first opening that succeeds sets right what may be wrong
   * in it.
   */
  #foreign: boolean;
  /** The overlay is being made: before that has ended it promises nothing. */
  #making = false;

  constructor(module: WebAssembly.Module, plan: Plan, seed: number, events: Events, hooks: Hooks) {
    this.#module = module;
    this.plan = plan;
    this.events = events;
    this.#hooks = hooks;
    this.random = new Random(seed);
    this.#foreign = !plan.created;
    let below: Uint8Array = new Uint8Array(0);
    for (let i = plan.chain.length - 1; i >= 0; i--) {
      const backing =
        i + 1 < plan.chain.length
          ? { name: `base-${i + 2}`, format: plan.chain[i + 1].format }
          : undefined;
      const bytes = makeImage(plan.chain[i], this.random, backing);
      below = plan.chain[i].format === 'raw' ? bytes : contentOf(bytes, below);
      this.#chain.unshift({
        name: `base-${i + 1}`,
        bytes,
        format: plan.chain[i].format,
        shown: below,
      });
    }
    const backing = plan.chain.length
      ? { name: 'base-1', format: plan.chain[0].format }
      : undefined;
    this.storage = new Storage(
      plan.created ? undefined : makeImage(plan.overlay, this.random, backing),
    );
    if (!plan.created) this.#unknown = unknownOf(this.storage.bytes);
    const shown = new Uint8Array(plan.overlay.size);
    shown.set(below.subarray(0, shown.length));
    this.truth = new Truth(plan.created ? shown : contentOf(this.storage.bytes, below));
  }

  /** Its refcounts may be wrong still. */
  get #lazy(): boolean {
    return this.#foreign && this.plan.overlay.odd.includes('dirty');
  }

  /**
   * Leaks that it may keep: what nothing refers to may be in use by what is not known of its
   * header.
   */
  get leaksKept(): number {
    const { created, overlay } = this.plan;
    const unknown = overlay.odd.some((kind) => kind.startsWith('unknown '));
    return !created && unknown ? this.#leaked : 0;
  }

  get machine(): Machine {
    return this.#machine!;
  }

  /** Name and format of an image, by its number in the engine. */
  nameAt(image: number): [name: string, format: string] {
    const { name, format } = this.#bases[image - 1];
    return [name, format];
  }

  /** Whether the power may go now. */
  get canLosePower(): boolean {
    return !this.#making && this.#machine !== undefined && !this.#machine.stopped;
  }

  get now(): number {
    return this.events.now;
  }

  /**
   * Has something happen to this disk in a while; `order` decides between events of the same time.
   */
  after(delay: number, order: number, run: () => void): void {
    this.events.after(delay, order, () => {
      this.#happened++;
      run();
    });
  }

  *live(): Life {
    if (this.plan.created) yield* this.#create();
    for (let epoch = 1; epoch <= this.plan.epochs; epoch++) {
      const last = epoch === this.plan.epochs;
      try {
        yield* this.#epoch(last);
      } catch (error) {
        if (!(error instanceof PowerCut)) throw error;
        this.#cut();
        if (last) epoch--;
      }
      this.#count();
    }
    this.#verifyClosed();
  }

  *#epoch(last: boolean): Step<void> {
    if (!(yield* this.#open(last))) return;
    const cuts = !last && this.random.between(1, 100) <= CUT_PER_CENT;
    const guest = new Guest(
      this,
      cuts ? this.random.between(1, this.plan.requests) : this.plan.requests,
    );
    yield* this.#work(guest, cuts);
    if (!cuts) return yield* this.#close(guest);
    this.#cut();
    this.#hooks.onCut();
  }

  /** A request may give back the clusters of this range, with their table. */
  mayFree(offset: number, length: number): void {
    this.#freed += this.#clusterOf(offset + length - 1) - this.#clusterOf(offset) + 2;
  }

  /** A request may make the L2 tables of this range. */
  mayMap(offset: number, length: number): void {
    const { clusterBits, extendedL2 } = this.plan.overlay;
    const span = 2 ** (2 * clusterBits - (extendedL2 ? 4 : 3));
    for (let table = Math.floor(offset / span); table * span < offset + length; table++)
      this.#tables.add(table);
  }

  #clusterOf(offset: number): number {
    return Math.floor(offset / 2 ** this.plan.overlay.clusterBits);
  }

  /** Runs one request to its end, whatever else happens meanwhile. */
  *#call(
    kind: number,
    offset: number,
    length: number,
    argument: number,
    into?: Uint8Array,
  ): Step<Answer> {
    const holder = this.#ask(kind, offset, length, argument, into);
    yield* this.#until(() => holder.answer !== undefined, 'a single request ends');
    return holder.answer!;
  }

  #ask(
    kind: number,
    offset: number,
    length: number,
    argument: number,
    into?: Uint8Array,
  ): { answer?: Answer } {
    const holder: { answer?: Answer } = {};
    const done = (answer: Answer): void => void (holder.answer = answer);
    this.mayMap(offset, length);
    must(
      this.machine.request(kind, offset, length, argument, { into, done }),
      'a request is taken when few are in flight',
    );
    return holder;
  }

  *#create(): Step<void> {
    this.#making = true;
    this.#machine = this.#newMachine({ ...this.plan.faults, ...NO_FAULTS });
    const { clusterBits, refcountOrder, extendedL2, size } = this.plan.overlay;
    for (let i = 1; i <= this.#chain.length; i++)
      yield* this.#call(KIND_OPEN, i, FORMAT[this.#chain[i - 1].format], 0);
    if (this.#chain.length) this.machine.setBacking('base-1', this.#chain[0].format);
    const answer = yield* this.#call(
      KIND_CREATE,
      0,
      size,
      clusterBits + refcountOrder * 256 + (extendedL2 ? 65536 : 0),
    );
    must(
      answer.code === 0,
      `an overlay can be created (code ${answer.code}, reason ${answer.reason})`,
    );
    this.machine.stop();
    const before = this.storage.bytes.slice(0, this.storage.size);
    this.storage.cut('nothing kept', [], this.random);
    must(
      Buffer.compare(before, this.storage.bytes.subarray(0, this.storage.size)) === 0,
      'a new overlay has been flushed',
    );
    this.#expectSound();
    this.#making = false;
  }

  #newMachine(faults: Faults): Machine {
    this.#bases = this.#chain;
    this.#freed = 0;
    this.#leaked = 0;
    if (this.storage.size) {
      const { backing, leaks } = this.#check();
      this.#leaked = leaks;
      const first = this.#chain.findIndex(({ name }) => name === backing);
      must(backing === '' || first >= 0, `the header names a base that there is, not '${backing}'`);
      this.#bases = backing === '' ? [] : this.#chain.slice(first);
    }
    this.counts.opens++;
    const { memory, tellsHoles } = this.plan;
    const machine = new Machine(this.#module, {
      memory,
      overlay: this.storage,
      bases: this.#bases,
      tellsHoles,
      clock: this,
      random: this.random,
      faults,
      tell: this.#hooks.tell,
      inflate,
    });
    this.#written = new Set();
    this.#tables = new Set();
    machine.onStop = this.#hooks.onMemory;
    machine.onWrite = (offset, length) => {
      for (
        let cluster = this.#clusterOf(offset);
        cluster <= this.#clusterOf(offset + length - 1);
        cluster++
      )
        this.#written.add(cluster);
    };
    return machine;
  }

  /** False if it could not be opened because of a fault. */
  *#open(last: boolean): Step<boolean> {
    const faults =
      !last && this.random.between(0, 3) === 0
        ? this.plan.faults
        : { ...this.plan.faults, ...NO_FAULTS };
    this.#machine = this.#newMachine(faults);
    const good = yield* this.#openAll();
    const { copyOnRead, readAhead, trims, flushesDear } = this.plan;
    this.machine.exports.setUse(
      copyOnRead && this.#bases.length > 0,
      readAhead && copyOnRead,
      trims,
      flushesDear,
    );
    this.machine.faults = this.plan.faults;
    if (!good) this.#cut();
    return good;
  }

  *#openAll(): Step<boolean> {
    if (!(yield* this.#opens(KIND_OPEN, 0, FORMAT.qcow2, WRITABLE))) return false;
    for (let i = 1; i <= this.#bases.length; i++)
      if (!(yield* this.#opens(KIND_OPEN, i, FORMAT[this.#bases[i - 1].format], 0))) return false;
    if (!(yield* this.#opens(KIND_CHECK, 0, 0, REPAIR_CRASH, new Uint8Array(64)))) return false;
    this.#foreign = false;
    return true;
  }

  /** One of the requests that open the disk: it may fail of a fault, or never end. */
  *#opens(
    kind: number,
    offset: number,
    length: number,
    argument: number,
    into?: Uint8Array,
  ): Step<boolean> {
    const holder = this.#ask(kind, offset, length, argument, into);
    yield* this.#until(
      () => holder.answer !== undefined || (this.machine.dropped > 0 && this.machine.due === 0),
      'a disk is opened',
    );
    const { answer } = holder;
    if (answer?.code === 0) return true;
    must(
      this.machine.injected + this.machine.dropped > 0,
      `an image can be opened (code ${answer?.code}, reason ${answer?.reason}, image ${answer?.image})`,
    );
    return false;
  }

  *#work(guest: Guest, cuts: boolean): Step<void> {
    guest.begin();
    const written =
      this.storage.mark() +
      (this.random.next() & 1 ? Infinity : this.random.between(1, WRITES_BEFORE_CUT_MAX));
    const done = (): boolean =>
      cuts ? guest.asked >= guest.requests || this.storage.mark() >= written : guest.finished;
    for (let since = this.#happened, answered = 0; !done(); ) {
      if (guest.answered !== answered) since = this.#happened;
      answered = guest.answered;
      const happens = this.#happened - since < EVENTS_MAX && (yield);
      // Operations that never end: only a cut helps.
      if (this.plan.faults.drops && (!happens || this.#happened - since > DROPPED_EVENTS_MAX))
        return;
      if (!happens) throw new Error(`a guest does not get on (${this.machine.describe()})`);
    }
  }

  /** The faults stop; everything must settle, the disk be closed, and its file be sound. */
  *#close(guest: Guest): Step<void> {
    const dropped = this.plan.faults.drops > 0;
    this.machine.faults = { ...this.plan.faults, ...NO_FAULTS };
    guest.calm();
    if (dropped) return this.#cut();
    yield* this.#until(() => guest.idle, 'everything settles once the faults have stopped');
    if (this.machine.flushesFailed === 0) {
      const begun = this.truth.mark();
      must(
        (yield* this.#call(KIND_FLUSH, 0, 0, 0)).code === 0,
        'a flush succeeds once the faults have stopped',
      );
      this.truth.flushed(begun);
    }
    yield* this.#expectContent();
    const { code } = yield* this.#call(KIND_CLOSE, 0, 0, 0);
    if (this.machine.flushesFailed) {
      must(code !== 0, 'nothing is said to be safe after a flush has failed');
      return this.#cut();
    }
    must(code === 0, `a disk can be closed (${code})`);
    must(this.machine.waiting === 0, 'nothing waits when the disk is closed');
    this.machine.stop();
    this.storage.cut('nothing kept', [], this.random);
    this.#hooks.onImage(this.storage.bytes.subarray(0, this.storage.size), true);
    this.#expectSound();
    this.#verify();
  }

  #cut(): void {
    const cut: Cut = CUTS[this.random.between(0, CUTS.length - 1)];
    this.counts.cuts++;
    this.machine.cut(cut);
    const { dirty, leaks } = this.#check();
    must(
      leaks <= this.#leaked || dirty || this.plan.overlay.version === 2,
      `an image with ${leaks} leaks says that it was not closed`,
    );
    const most = this.#written.size + this.#freed + this.#leaked + this.#tables.size;
    must(
      leaks <= most,
      `a cut leaks no more than was under way: at most ${most} clusters, not ${leaks}`,
    );
    if (!this.#lazy) this.#hooks.onImage(this.storage.bytes.subarray(0, this.storage.size), false);
    this.#verify();
  }

  #count(): void {
    this.counts.operations += this.machine.operations;
    this.counts.faults += this.machine.injected;
  }

  /** After a cut or a close: what is there is something that may be there. */
  #verify(): void {
    const found = this.#content();
    must(
      found.length === this.truth.size || this.sizes.includes(found.length),
      `the disk has a size that it may have, not ${found.length}`,
    );
    this.sizes = [];
    this.truth.recovered(found);
  }

  #content(): Uint8Array {
    const { backing } = this.#check();
    const base = this.#chain.find(({ name }) => name === backing);
    return contentOf(
      this.storage.bytes.subarray(0, this.storage.size),
      base?.shown ?? new Uint8Array(0),
    );
  }

  /** Reads the whole disk through the engine. */
  *#expectContent(): Step<void> {
    const most = this.machine.exports.requestBytesMax();
    for (let at = 0; at < this.truth.size; at += most) {
      const into = new Uint8Array(Math.min(most, this.truth.size - at));
      const begun = this.truth.mark();
      const { code, reason } = yield* this.#call(KIND_READ, at, into.length, 0, into);
      must(
        code === 0,
        `a read succeeds once the faults have stopped (code ${code}, reason ${reason})`,
      );
      this.truth.check(into, at, begun);
    }
  }

  #verifyClosed(): void {
    if (readHeader(this.storage.bytes).version === 3)
      must(
        !this.#check().dirty || this.machine.flushesFailed > 0 || this.plan.faults.drops > 0,
        'a closed overlay is clean',
      );
  }

  #check(): ReturnType<typeof checkImage> {
    const { bytes } = this.storage;
    must(
      !this.#unknown || Buffer.compare(unknownOf(bytes), this.#unknown) === 0,
      'what is not known of a header stays as it is',
    );
    const finding = checkImage(this.storage.bytes.subarray(0, this.storage.size), {
      lazy: this.#lazy,
    });
    must(
      this.#foreign || finding.autoclear === 0n,
      'features that nothing here looks after are not said to be looked after',
    );
    must(finding.corruptions.length === 0, `the image is valid: ${finding.corruptions.join('; ')}`);
    const { backing, identity = identityOf(backing) } = finding;
    must(
      backing === '' || identity === identityOf(backing),
      `the identity in the header is that of ${backing}, not '${identity}'`,
    );
    return finding;
  }

  #expectSound(): void {
    const { leaks } = this.#check();
    must(leaks <= this.leaksKept, `a closed image has no leaks, not ${leaks}`);
  }

  *#until(reached: () => boolean, what: string): Step<void> {
    const [start, happened] = [this.events.now, this.#happened];
    while (!reached()) {
      const inTime =
        this.#happened - happened < EVENTS_MAX && this.events.now - start < SETTLING_MS_MAX;
      if (!inTime || !(yield))
        throw new Error(`it must be that ${what} (${this.machine.describe()})`);
    }
  }
}

function inflate(method: number, from: Uint8Array, into: Uint8Array): boolean {
  must(method === 0, 'only deflate is used here');
  try {
    const bytes = inflateRawSync(from, { maxOutputLength: into.length });
    into.set(bytes);
    return bytes.length === into.length;
  } catch {
    return false;
  }
}
