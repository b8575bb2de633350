/**
 * A guest and its operator: requests of every kind at any moment and place, several at once, and
 * jobs that are started, paused, throttled and aborted. Every answer is held against the truth.
 */
import { deflateRawSync } from 'node:zlib';
import {
  ABORTED,
  EINVAL,
  EIO,
  ENOSPC,
  KIND_CHECK,
  KIND_DISCARD,
  KIND_FLUSH,
  KIND_MAP,
  KIND_PACK,
  KIND_POPULATE,
  KIND_READ,
  KIND_REMAINING,
  KIND_RESIZE,
  KIND_STREAM,
  KIND_WRITE,
  KIND_ZERO,
  OK,
  PACK_LENGTH_BYTES,
  WRITE_ZEROES,
} from '../../engine/protocol.ts';
import type { Random } from '../fixtures/content.ts';
import type { SimulatedDisk } from './disk.ts';
import { poolBytes } from './images.ts';
import type { Answer, Machine } from './machine.ts';
import { must } from './machine.ts';
import type { Weights } from './plan.ts';
import type { Truth } from './truth.ts';

/** Requests that the engine takes at once. */
const REQUESTS_MAX = 64;
const STATUS = { completed: 0, active: 1, failed: 2 } as const;
const EXTENT_BYTES = 32;
const MAP_BYTES = 65536;
const CHECK_BYTES = 64;
/** How long the operator leaves a job that has paused itself. */
const RESUME_AFTER_MS = 50;
/** How often a guest looks that waits for answers. */
const LOOK_MS = 20;

interface JobRun {
  whole: boolean;
  limited: boolean;
  keepBase: boolean;
  aborted: boolean;
  remaining: number;
}

export class Guest {
  asked = 0;
  answered = 0;
  readonly requests: number;
  readonly #disk: SimulatedDisk;
  readonly #random: Random;
  readonly #machine: Machine;
  #inFlight = 0;
  #changes = 0;
  #job: JobRun | undefined;
  #resizing = false;
  #calm = false;
  #scheduled = false;
  /** The engine had no room for the last request. */
  #refused = false;

  constructor(disk: SimulatedDisk, requests: number) {
    this.#disk = disk;
    this.#random = disk.random;
    this.#machine = disk.machine;
    this.requests = requests;
  }

  /** All that it wanted to ask has been asked and answered. */
  get finished(): boolean {
    return this.asked >= this.requests && this.idle;
  }

  get idle(): boolean {
    return this.#inFlight === 0 && this.#job === undefined;
  }

  begin(): void {
    this.#soon();
  }

  /** Asks nothing more, and lets a job run freely. */
  calm(): void {
    this.#calm = true;
    if (!this.#job) return;
    if (this.#random.next() & 1) this.#abort();
    this.#machine.exports.streamNext(0, 0);
    this.#machine.exports.setSpeed(0);
    this.#machine.exports.resume();
    this.#machine.wake();
  }

  get #truth(): Truth {
    return this.#disk.truth;
  }

  #soon(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    const think = (this.#random.next() / 2 ** 32) * this.#disk.plan.think;
    // Who can ask nothing now only looks how things stand, now and then.
    const blocked =
      this.asked >= this.requests ||
      this.#inFlight >= this.#disk.plan.depth ||
      this.#resizing ||
      this.#refused;
    this.#disk.after(blocked ? Math.max(think, LOOK_MS) : think, this.#random.next(), () => {
      this.#scheduled = false;
      if (this.#machine.stopped) return;
      if (!this.#calm) this.#act();
      if (!this.#calm && (this.asked < this.requests || this.#job)) this.#soon();
    });
  }

  #act(): void {
    this.#lookAfterJob();
    if (this.asked >= this.requests || this.#inFlight >= this.#disk.plan.depth || this.#resizing)
      return;
    if (this.#truth.size === 0) return void this.asked++;
    if (this.#disk.plan.profile && this.#random.between(0, 3) === 0) return this.fetchAhead();
    this[this.#choose()]();
  }

  #choose(): keyof Weights {
    const entries = Object.entries(this.#disk.plan.weights) as [keyof Weights, number][];
    let left = this.#random.between(
      1,
      entries.reduce((sum, [, weight]) => sum + weight, 0),
    );
    for (const [kind, weight] of entries) {
      left -= weight;
      if (left <= 0) return kind;
    }
    return 'read';
  }

  /** Starts a request, and calls `check` with its answer unless it failed of an injected error. */
  #ask(
    kind: number,
    offset: number,
    length: number,
    argument: number,
    options: { data?: Uint8Array; into?: Uint8Array },
    ended: (answer: Answer) => void,
  ): boolean {
    const started = this.#machine.request(kind, offset, length, argument, {
      ...options,
      done: (answer) => {
        this.#inFlight--;
        this.answered++;
        if (this.#inFlight === this.#disk.plan.depth - 1) this.#soon();
        // Behind the end of a disk that has become smaller since, nothing is promised.
        if (kind !== KIND_RESIZE && offset + length > this.#truth.size) return;
        this.#expectReason(kind, answer);
        ended(answer);
      },
    });
    this.#refused = !started;
    if (!started) return false;
    if (kind !== KIND_FLUSH) this.#disk.mayMap(offset, length);
    this.#inFlight++;
    this.asked++;
    this.#disk.counts.requests++;
    return true;
  }

  #expectReason(kind: number, { code, reason, image }: Answer): void {
    if (code === OK) return;
    const injected =
      this.#machine.injected > 0 && (code === EIO || code === ENOSPC || code === ABORTED);
    must(
      injected,
      `a request of kind ${kind} succeeds or fails of a fault (code ${code}, reason ${reason}, image ${image})`,
    );
  }

  #range(longest: number = this.#disk.plan.longest): [offset: number, length: number] {
    const { alignment, hotspots } = this.#disk.plan;
    const size = this.#truth.size;
    const most = Math.min(longest, this.#machine.exports.requestBytesMax(), size);
    const step = Math.min(alignment, size);
    let offset = this.#random.between(0, size - 1);
    if (hotspots)
      offset = Math.min(
        size - 1,
        Math.floor((size * (offset % hotspots)) / hotspots) +
          this.#random.between(0, 3 * this.#machine.exports.clusterSize()),
      );
    offset -= offset % step;
    const length = Math.min(size - offset, Math.max(step, this.#random.between(1, most)));
    return [offset, Math.min(most, length - (length % step) || length)];
  }

  read(): void {
    const [offset, length] = this.#range();
    const into = new Uint8Array(length);
    const begun = this.#truth.mark();
    this.#ask(KIND_READ, offset, length, 0, { into }, ({ code }) => {
      if (code === OK) this.#truth.check(into, offset, begun);
    });
  }

  /** As a replay does: nothing is given, and what is out of place is refused. */
  fetchAhead(): void {
    const [offset, length] = this.#told();
    const size = this.#truth.size;
    const most = this.#machine.exports.requestBytesMax();
    if (length > 0 && length <= most && offset + length <= size)
      return void this.#ask(KIND_POPULATE, offset, length, 0, {}, ({ code, value }) => {
        const cluster = this.#machine.exports.clusterSize();
        must(code !== OK || value <= length + 2 * cluster, 'no more is fetched ahead than is told');
      });
    this.#inFlight++;
    this.asked++;
    const started = this.#machine.request(KIND_POPULATE, offset, length, 0, {
      done: ({ code }) => {
        this.#inFlight--;
        this.answered++;
        must(code === EINVAL, `a range that cannot be is refused (code ${code})`);
      },
    });
    if (started) return;
    this.#inFlight--;
    this.asked--;
    this.#refused = true;
  }

  /** A range as the profile of this disk tells it. */
  #told(): [offset: number, length: number] {
    const random = this.#random;
    const { profile } = this.#disk.plan;
    if (profile === 'right') return this.#range();
    const size = this.#truth.size;
    if (profile === 'wrong') {
      const offset = random.between(0, size - 1);
      const most = Math.min(size - offset, this.#machine.exports.requestBytesMax());
      return [offset, random.between(1, most)];
    }
    const sizes = [0, 1, size - 1, size, size + 1, 2 ** 40, 2 ** 52, random.between(0, size)];
    return [sizes[random.between(0, 7)], sizes[random.between(0, 7)]];
  }

  /** Tells the job of some ranges more, and perhaps that there are no others. */
  #tellOrder(): void {
    const { exports } = this.#machine;
    for (let i = this.#random.between(0, 80); i > 0; i--) {
      const [offset, length] = this.#told();
      if (length > 0 && !exports.streamNext(offset, length)) break;
    }
    if (this.#random.between(0, 3) === 0 || this.#calm) exports.streamNext(0, 0);
  }

  write(): void {
    if (this.#disk.plan.packs && this.#random.between(0, 2) === 0) return this.#pack();
    const [offset, length] = this.#range();
    if (this.#random.between(0, 9) === 0)
      return this.#change(KIND_WRITE, offset, length, WRITE_ZEROES);
    let data: Uint8Array = poolBytes(this.#random, length);
    if (this.#random.between(0, 3) === 0) {
      data = data.slice();
      const from = this.#random.between(0, length);
      data.fill(0, from, this.#random.between(from, length));
    }
    this.#change(KIND_WRITE, offset, length, 0, data);
  }

  /** Writes whole clusters that have been compressed; some between them stay as they are. */
  #pack(): void {
    const cluster = this.#machine.exports.clusterSize();
    const [from, to] = this.#clusters();
    const most = this.#machine.exports.requestBytesMax();
    const length = Math.min(to - from, most - (most % cluster));
    const data = poolBytes(this.#random, length).slice();
    const streams: Uint8Array[] = [];
    for (let at = 0; at < length; at += cluster) {
      const whole = Buffer.alloc(cluster);
      data.fill(0, at + this.#random.between(0, cluster >> 1), at + cluster);
      whole.set(data.subarray(at, at + cluster));
      const stream = deflateRawSync(whole);
      if (stream.length >= cluster) break;
      streams.push(stream);
    }
    if (streams.length === 0) return this.read();
    const lengths = Buffer.alloc(streams.length * PACK_LENGTH_BYTES);
    for (const [i, { byteLength }] of streams.entries())
      lengths.writeUInt32LE(byteLength, i * PACK_LENGTH_BYTES);
    const sent = Buffer.concat([lengths, ...streams]);
    const bytes = Math.min(length, streams.length * cluster);
    this.#change(KIND_PACK, from, bytes, sent.length, data.subarray(0, bytes), sent);
  }

  zero(): void {
    const [from, to] = this.#clusters();
    if (from >= to) return this.read();
    if (this.#version === 2)
      return this.#change(
        KIND_WRITE,
        from,
        Math.min(to - from, this.#machine.exports.requestBytesMax()),
        WRITE_ZEROES,
      );
    this.#change(KIND_ZERO, from, to - from, 0);
  }

  discard(): void {
    const [from, to] = this.#clusters();
    if (from >= to) return this.read();
    if (this.#version === 2) {
      this.#disk.mayFree(from, to - from);
      return void this.#ask(KIND_DISCARD, from, to - from, 0, {}, () => {});
    }
    this.#change(KIND_DISCARD, from, to - from, 0);
  }

  get #version(): number {
    return this.#disk.plan.overlay.version;
  }

  /** Whole clusters, sometimes many; the last may be the disk's. */
  #clusters(): [from: number, to: number] {
    const cluster = this.#machine.exports.clusterSize();
    const size = this.#truth.size;
    const from = Math.floor(this.#range()[0] / cluster) * cluster;
    const count =
      this.#random.between(0, 9) === 0 ? this.#random.between(1, 4000) : this.#random.between(1, 8);
    return [from, Math.min(from + count * cluster, size)];
  }

  /** `sent`: what the engine takes, where that is not the data. */
  #change(
    kind: number,
    offset: number,
    length: number,
    argument: number,
    data?: Uint8Array,
    sent: Uint8Array | undefined = data,
  ): void {
    const holder: { change?: ReturnType<Truth['change']> } = {};
    const started = this.#ask(kind, offset, length, argument, { data: sent }, ({ code }) => {
      this.#changes--;
      this.#truth.ended(holder.change!, code !== OK);
    });
    if (!started) return;
    this.#changes++;
    this.#disk.mayFree(offset, length);
    holder.change = this.#truth.change(offset, length, data);
  }

  flush(): void {
    const begun = this.#truth.mark();
    this.#ask(KIND_FLUSH, 0, 0, 0, {}, ({ code, flushesFailed }) => {
      if (code !== OK) return;
      must(flushesFailed === 0, 'no flush succeeds after one has failed');
      this.#truth.flushed(begun);
      if (this.#changes === 0) this.#truth.settle();
    });
  }

  /**
   * Grows or shrinks the disk; nothing else is asked meanwhile, no job runs, and what is under way
   * changes nothing.
   */
  resize(): void {
    // Where the engine takes no more requests, one that resizes would be refused, perhaps halfway.
    if (this.#job || this.#changes || this.#inFlight >= REQUESTS_MAX) return this.read();
    const old = this.#truth.size;
    const grows = this.#random.between(0, 2) > 0;
    const size = grows
      ? old + this.#random.between(1, 4000) * 512
      : this.#random.between(1, old / 512) * 512;
    this.#resizing = true;
    if (size >= old) return this.#resizeTo(size);
    const cluster = this.#machine.exports.clusterSize();
    const whole = Math.min(old, Math.ceil(size / cluster) * cluster);
    // As hosts do it: what goes is zeroed first, so that it is gone when the disk grows again.
    const steps: [number, number, number][] = [];
    if (whole > size) steps.push([KIND_WRITE, size, whole - size]);
    if (whole < old && this.#version === 3) steps.push([KIND_ZERO, whole, old - whole]);
    const most = this.#machine.exports.requestBytesMax();
    if (this.#version === 2)
      for (let at = whole; at < old; at += most)
        steps.push([KIND_WRITE, at, Math.min(most, old - at)]);
    this.#shrink(steps, size);
  }

  #shrink(steps: [number, number, number][], size: number): void {
    const next = steps.shift();
    if (next === undefined) return this.#resizeTo(size);
    const [kind, offset, length] = next;
    const change = this.#truth.change(offset, length);
    this.#disk.mayFree(offset, length);
    this.#ask(kind, offset, length, kind === KIND_WRITE ? WRITE_ZEROES : 0, {}, ({ code }) => {
      this.#truth.ended(change, code !== OK);
      if (code === OK) this.#shrink(steps, size);
      else this.#resizing = false;
    });
  }

  #resizeTo(size: number): void {
    const old = this.#truth.size;
    this.#disk.sizes.push(old, size);
    // What a crash left behind the end of a disk that had become smaller.
    if (size > old) this.#disk.mayFree(old, size - old);
    this.#ask(KIND_RESIZE, 0, size, 0, {}, ({ code }) => {
      this.#resizing = false;
      const now = this.#machine.report(this.#machine.exports.image(0))[1];
      must(
        now === size || (code !== OK && now === old),
        `the disk has the size that was asked for, not ${now}`,
      );
      if (now !== old) this.#truth.resized(now);
    });
  }

  /** Counts what remains, maps, or checks. */
  look(): void {
    if (this.#random.between(0, 9) === 0) return this.#check();
    const [offset, length] = this.#range(this.#truth.size);
    if (this.#random.next() & 1) {
      this.#ask(KIND_REMAINING, offset, length, 0, {}, ({ code, value }) =>
        must(code !== OK || value <= length, 'no more remains than there is'),
      );
      return;
    }
    const into = new Uint8Array(MAP_BYTES);
    this.#ask(KIND_MAP, offset, length, 0, { into }, ({ code, value }) => {
      if (code === OK) expectExtents(into, offset, value);
    });
  }

  /** The engine's own check, in the midst of all the rest. */
  #check(): void {
    const into = new Uint8Array(CHECK_BYTES);
    this.#ask(KIND_CHECK, 0, 0, 0, { into }, ({ code }) => {
      const [corruptions, leaks] = new Float64Array(into.buffer);
      must(
        code !== OK || (corruptions === 0 && leaks <= this.#disk.leaksKept),
        `a check finds nothing wrong, not ${corruptions} corruptions and ${leaks} leaks`,
      );
    });
  }

  job(): void {
    if (this.#job || this.#resizing) return this.read();
    const random = this.#random;
    const { exports } = this.#machine;
    let depth = 0;
    while (exports.imageAtDepth(depth + 1) >= 0) depth++;
    const [offset, length] = random.between(0, 2) === 0 ? this.#range(this.#truth.size) : [0, 0];
    const speed = random.between(0, 3) === 0 ? random.between(1000, 5_000_000) : 0;
    const keepBase = random.between(0, 3) === 0;
    const bottom = depth > 1 && random.between(0, 1) ? random.between(1, depth) : 0;
    if (bottom) this.#machine.setBacking(...this.#disk.nameAt(exports.imageAtDepth(bottom)));
    const full = random.between(0, 5) === 0;
    const keeps = !full && random.between(0, 1) === 0;
    const refused = exports.stream(
      offset,
      length,
      speed,
      random.between(0, 3),
      keepBase,
      full,
      bottom,
      keeps,
      this.#disk.plan.profile !== undefined,
    );
    must(refused === 0, `a job can be started (${refused})`);
    const whole = (offset === 0 && length === 0) || length === this.#truth.size;
    const run: JobRun = {
      whole,
      limited: bottom > 0,
      keepBase,
      aborted: false,
      remaining: Infinity,
    };
    if (!this.#ask(KIND_STREAM, 0, 0, 0, {}, ({ code }) => this.#jobEnded(run, code))) {
      // No room for the request now: the job that was made is done away with by the next.
      return;
    }
    this.#job = run;
    if (this.#disk.plan.profile) this.#tellOrder();
    if (whole) this.#disk.mayMap(0, this.#truth.size);
    else this.#disk.mayMap(offset, length);
    this.#disk.counts.jobs++;
    this.#soon();
  }

  #jobEnded(run: JobRun, code: number): void {
    this.#job = undefined;
    must(code === OK, 'the request of a job ends well however the job ended');
    const [status, , aborted, error, , image, , , , from, to, remaining] = this.#machine.report(
      this.#machine.exports.info(),
    );
    must(status !== STATUS.active, 'a job that has ended is active no more');
    must((aborted !== 0) === run.aborted, 'a job is aborted when it was asked to be');
    if (status === STATUS.completed)
      must(
        error === 0 && (remaining === 0 || run.limited),
        `nothing remains of a completed job, not ${remaining}`,
      );
    else must(error !== 0 || run.aborted, 'a job fails of something');
    if (error) must(this.#machine.injected > 0, `a job fails of a fault only (code ${error})`);
    if (
      status === STATUS.completed &&
      run.whole &&
      !run.keepBase &&
      !run.limited &&
      !run.aborted &&
      !error
    ) {
      must(
        this.#machine.exports.imageAtDepth(1) < 0,
        'a base is let go when nothing of it is needed',
      );
    }
    // What the overlay's own tables do not tell cannot be counted.
    const untold = error !== 0 && image === 0 && this.#disk.plan.faults.readFails > 0;
    if (!run.limited && !untold && this.#changes === 0 && this.#inFlight === 0 && !this.#calm)
      this.#compareRemaining(from, to, remaining);
  }

  /** What the job says remains is what the overlay says, if nobody changes it meanwhile. */
  #compareRemaining(from: number, to: number, remaining: number): void {
    const asked = this.asked;
    this.#ask(KIND_REMAINING, from, to - from, 0, {}, ({ code, value }) => {
      const undisturbed = this.asked === asked + 1 && code === OK && this.#job === undefined;
      if (undisturbed && !this.#disk.plan.readAhead)
        must(value === remaining, `as much remains as the job says: ${remaining}, not ${value}`);
    });
  }

  /** The operator's part. */
  #lookAfterJob(): void {
    if (!this.#job) return;
    const { exports } = this.#machine;
    const [, paused, , , , , , , , , , remaining] = this.#machine.report(exports.info());
    must(
      remaining <= this.#job.remaining || this.#job.limited,
      'what remains of a job never grows while it runs',
    );
    this.#job.remaining = remaining;
    if (this.#disk.plan.profile) this.#tellOrder();
    const act = this.#random.between(0, 19);
    if (act === 0) exports.pause();
    else if (act === 1)
      exports.setSpeed(this.#random.between(0, 1) ? 0 : this.#random.between(10_000, 10_000_000));
    else if (act === 2 && this.#random.between(0, 3) === 0) this.#abort();
    else if (paused) {
      const machine = this.#machine;
      this.#disk.after(RESUME_AFTER_MS, 0, () => {
        if (machine.stopped) return;
        machine.exports.resume();
        machine.wake();
      });
    }
    // On a full disk a job that pauses would be resumed for ever.
    if (this.asked >= this.requests && this.#machine.faults.space < Infinity) this.#abort();
    if (this.asked >= this.requests && exports.setSpeed(0)) {
      exports.streamNext(0, 0);
      this.#machine.wake();
    }
    this.#machine.wake();
  }

  #abort(): void {
    if (!this.#job || !this.#machine.exports.abort()) return;
    this.#job.aborted = true;
    this.#machine.cancelBackground();
  }
}

/** The extents of a map follow one another without gaps, and reach as far as it says. */
function expectExtents(block: Uint8Array, offset: number, end: number): void {
  const view = new DataView(block.buffer);
  let at = offset;
  for (let i = 0; at < end; i += EXTENT_BYTES) {
    must(Number(view.getBigUint64(i, true)) === at, 'the extents of a map follow one another');
    at += Number(view.getBigUint64(i + 8, true));
  }
  must(at === end, 'the extents of a map end where it says');
}
