/**
 * One differential run: from a seed, a guest, a job, bad weather in the storage and reopenings, in
 * an order that only the seed decides, held against the model at every read and at the end; the
 * image that is left is held against qemu-img.
 */
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Disk } from '../../hosts/api/disk.ts';
import { MillraceError } from '../../hosts/api/errors.ts';
import type { StreamInfo, StreamOptions } from '../../hosts/api/job.ts';
import { JobStatus } from '../../hosts/api/job.ts';
import { Random } from '../fixtures/content.ts';
import type { Held, Operation } from '../support/faulty.ts';
import { Holding } from '../support/faulty.ts';
import { MemoryRuntime } from '../support/memory-runtime.ts';
import { check, compare } from '../support/qemu.ts';
import { turn } from '../support/virtual-clock.ts';
import type { Chain, Shape } from './images.ts';
import { makeChain, shapes } from './images.ts';
import { Model, SECTOR } from './model.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
/** Requests of the guest in flight at most; the engine takes 64. */
const FLIGHTS_MAX = 80;
/** Rounds without an answer after which a disk counts as hung. */
const IDLE_ROUNDS_MAX = 2000;
/** What every injected error says, and what the disk says of itself after a flush has failed. */
const EXPECTED_FAILURES = /injected|a flush failed earlier|aborted|has been closed/;

export interface RunResult {
  seed: number;
  shape: string;
  steps: number;
  requests: number;
  jobs: number;
  reopenings: number;
  crashes: number;
  injected: number;
}

/** Runs a seed. @throws with what went wrong, and how to replay it. */
export async function runSeed(
  seed: number,
  steps: number,
  log?: (line: string) => void,
): Promise<RunResult> {
  const run = new Run(seed, log);
  try {
    await run.prepare();
    for (let step = 0; step < steps; step++) await run.step(step);
    await run.finish();
    return { ...run.result, steps };
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    throw new Error(
      `seed ${seed} (${run.result.shape}): ${message}; replay: npm run differential -- --seed ${seed} --steps ${steps} --log`,
      { cause: error },
    );
  }
}

/** A job as the run knows it. */
interface Job {
  options: StreamOptions;
  blocking: boolean;
  aborter: AbortController;
  finals: number;
  remaining: number;
  done: boolean;
}

class Run {
  readonly result: RunResult;
  readonly #log: (line: string) => void;
  readonly #random: Random;
  readonly #shape: Shape;
  readonly #flights = new Set<string>();
  #runtime = new MemoryRuntime();
  #holding = new Holding();
  #chain!: Chain;
  #model!: Model;
  #disk!: Disk;
  #job: Job | undefined;
  #number = 0;
  /** Chance, in a thousand, that an operation fails. */
  #badWeather = 0;
  /** Chance, in a thousand, that an operation is done at once. */
  #prompt: number;
  #resizing = false;
  /** Sizes that the disk may turn out to have after a crash in the middle of a resize. */
  #sizes = new Set<number>();
  #failure: Error | undefined;
  #latest = '';

  constructor(seed: number, log: (line: string) => void = () => {}) {
    this.#log = log;
    this.#random = new Random(seed);
    this.#shape = shapes[seed % shapes.length];
    this.#prompt = this.#one(4) ? 1000 : this.#between(0, 800);
    this.result = {
      seed,
      shape: this.#shape.name,
      steps: 0,
      requests: 0,
      jobs: 0,
      reopenings: 0,
      crashes: 0,
      injected: 0,
    };
  }

  async prepare(): Promise<void> {
    // Reading and compiling it takes longer, on a busy machine, than a disk may be without anything
    // to do.
    await this.#runtime.engine();
    if (this.#one(2)) this.#runtime.remote = { chunk: 64 * KIB, depth: 8 };
    this.#chain = await makeChain(this.#runtime, this.#shape, this.#random);
    this.#model = new Model(this.#chain.content);
    await this.#open();
  }

  async step(step: number): Promise<void> {
    this.#act(this.#between(0, 999));
    await turn();
    if (this.#failure) throw this.#failure;
    if (this.#job && step % 4 === 0) this.#look(this.#job, await this.#disk.info());
    if (this.#one(400)) await (this.#one(2) ? this.#reopen() : this.#crash());
  }

  /** Ends everything well, and holds what is left against the model and qemu-img. */
  async finish(): Promise<void> {
    this.#badWeather = 0;
    await this.#quiesce();
    await this.#reopen();
    await this.#readAll();
    const whole = this.#one(2);
    if (whole) await this.#driven(this.#disk.stream());
    await this.#driven(this.#disk.close());
    if (this.#failure) throw this.#failure;
    await this.#judge(whole);
  }

  #act(dice: number): void {
    if (dice < 330) this.#request();
    else if (dice < 900) this.#progress();
    else if (dice < 950) this.#control();
    else if (dice < 990) this.#runtime.clock.advance(this.#between(1, 300));
    else if (dice < 995) this.#badWeather = this.#one(2) ? 0 : this.#between(1, 60);
    else this.#prompt = this.#between(0, 1000);
  }

  /** Lets some of what is held go, in any order. */
  #progress(): void {
    for (let count = this.#between(1, 12); count > 0 && this.#holding.held.length; count--) {
      const held = this.#holding.held[this.#between(0, this.#holding.held.length - 1)];
      void this.#settle(held);
    }
  }

  #settle(held: Held): Promise<void> {
    const error = this.#injectedError(held.operation.kind);
    if (!error) return held.release();
    this.#log(
      `  ${held.operation.kind} ${held.operation.file} ${held.operation.offset}+${held.operation.length} fails: ${error.code}`,
    );
    return held.fail(
      error,
      held.operation.kind === 'write' && this.#one(2) ? this.#cut(held.operation) : undefined,
    );
  }

  /** How many bytes of a write happen: storage writes sectors whole or not at all. */
  #cut({ offset, length }: Operation): number {
    const sectors = Math.floor((offset + length) / SECTOR) - Math.floor(offset / SECTOR);
    return Math.min(
      length,
      Math.max(0, (Math.floor(offset / SECTOR) + this.#between(0, sectors)) * SECTOR - offset),
    );
  }

  #injectedError(kind: string): MillraceError | undefined {
    if (this.#between(0, 999) >= this.#badWeather || (kind === 'flush' && !this.#one(20)))
      return undefined;
    this.result.injected++;
    const full = (kind === 'write' || kind === 'truncate') && this.#one(2);
    return new MillraceError(full ? 'ENOSPC' : 'EIO', `injected into a ${kind}`);
  }

  #request(): void {
    if (this.#flights.size >= FLIGHTS_MAX) return;
    const dice = this.#between(0, 99);
    const [offset, length] = this.#range();
    if (dice < 40) this.#read(offset, length);
    else if (dice < 75) this.#write(offset, length);
    else if (dice < 83)
      this.#change('zeroes', offset, length, () => this.#disk.writeZeroes(offset, length));
    else if (dice < 91) this.#discard(offset, length);
    else if (dice < 97) this.#flush();
    else this.#resize();
  }

  /** Small, middling or large; now and then along cluster boundaries, or near another request. */
  #range(): [number, number] {
    const size = this.#model.size;
    const cluster = this.#shape.cluster;
    const kind = this.#between(0, 9);
    const hot = this.#one(3) ? Math.floor(size / 3) : 0;
    let offset = hot ? hot + this.#between(0, 128 * KIB) : this.#between(0, size - 1);
    let length =
      kind < 6
        ? this.#between(1, 4 * KIB)
        : kind < 9
          ? this.#between(1, 80 * KIB)
          : this.#between(1, 600 * KIB);
    if (this.#one(3)) {
      offset -= offset % cluster;
      length = Math.ceil(length / cluster) * cluster;
    } else if (this.#one(2)) {
      offset -= offset % SECTOR;
    }
    offset = Math.min(offset, size - 1);
    return [offset, this.#one(20) ? size - offset : Math.min(length, size - offset)];
  }

  #read(offset: number, length: number): void {
    const reading = this.#model.read(offset, length);
    this.#track(
      `read ${offset}+${length}`,
      this.#disk.read(offset, length),
      (bytes) => this.#model.found(reading, bytes),
      () => this.#model.found(reading),
    );
  }

  #write(offset: number, length: number): void {
    const data = new Uint8Array(length);
    // A number a request, in every word: what shows tells where it came from.
    new Uint32Array(data.buffer, 0, length >> 2).fill(0x01000000 + ++this.#number);
    if (this.#one(8)) data.fill(0, 0, length >> 1);
    this.#change('write', offset, length, () => this.#disk.write(offset, data), data);
  }

  #discard(offset: number, length: number): void {
    // Which cluster is the disk's last, and whole though it is cut, depends on which of the two
    // comes first.
    if (this.#resizing) return;
    const cluster = this.#disk.clusterSize;
    const from = Math.ceil(offset / cluster) * cluster;
    const end = offset + length;
    const to = end === this.#disk.size ? end : Math.floor(end / cluster) * cluster;
    const changes = from < to && !this.#shape.name.startsWith('v2');
    if (changes) this.#change('discard', from, to - from, () => this.#disk.discard(offset, length));
    else
      this.#track(
        `discard ${offset}+${length}`,
        this.#disk.discard(offset, length),
        () => {},
        () => {},
      );
  }

  #change(
    name: string,
    offset: number,
    length: number,
    start: () => Promise<void>,
    data?: Uint8Array,
  ): void {
    if (this.#model.isBusy(offset, length)) return;
    const change = this.#model.change(offset, length, data);
    this.#track(
      `${name} ${offset}+${length}`,
      start(),
      () => this.#model.ended(change, false),
      () => this.#model.ended(change, true),
    );
  }

  #flush(): void {
    const begun = this.#model.flushing();
    this.#track(
      'flush',
      this.#disk.flush(),
      () => this.#model.flushed(begun),
      () => {},
    );
  }

  #resize(): void {
    if (this.#resizing) return;
    const old = this.#model.size;
    const shrinks = this.#one(3) && !this.#job && old > 2 * MIB;
    const size = Math.max(
      SECTOR,
      old + (shrinks ? -this.#between(1, old / SECTOR / 4) : this.#between(1, 1000)) * SECTOR,
    );
    if (size > this.#shape.size * 2 || (shrinks && !this.#model.isQuiet(size, old - size))) return;
    // Nothing is asked for in the part that goes until it has gone.
    const cut = shrinks ? this.#model.change(size, old - size) : undefined;
    if (shrinks) this.#model.size = size;
    this.#resizing = true;
    this.#sizes.add(size);
    const ended = (failed: boolean): void => {
      this.#resizing = false;
      this.#model.size = old;
      if (cut) this.#model.ended(cut, failed);
      if (!failed) this.#sizes.clear();
      if (this.#disk.size !== old) this.#model.resized(this.#disk.size);
      if (!failed && this.#disk.size !== size)
        throw new Error(`resized to ${size}, the disk has ${this.#disk.size} bytes`);
    };
    this.#sizes.add(old);
    this.#track(
      `resize ${old} -> ${size}`,
      this.#disk.resize(size, { shrink: shrinks }),
      () => ended(false),
      () => ended(true),
    );
  }

  #control(): void {
    const job = this.#job;
    const dice = this.#between(0, 99);
    if (!job) this.#stream();
    else if (dice < 25) this.#quietly('pause', this.#disk.pause());
    else if (dice < 65) this.#quietly('resume', this.#disk.resume());
    else if (dice < 80)
      this.#quietly(
        'set speed',
        this.#disk.setSpeed(this.#one(2) ? 0 : this.#between(1, 20 * MIB)),
      );
    else if (dice < 85) this.#end(job);
  }

  #end(job: Job): void {
    this.#log('abort');
    if (job.blocking) job.aborter.abort();
    else
      this.#track(
        'abort',
        this.#disk.abort(),
        () => {
          if (!job.done) throw new Error('abort came back, and the job goes on');
        },
        (error) => {
          if (error.code !== 'ENOENT') throw error;
        },
      );
  }

  #stream(): void {
    // A disk that is about to shrink waits for no job.
    if (this.#resizing) return;
    const whole = this.#one(2);
    const [offset, length] = whole ? [0, 0] : this.#range();
    const aborter = new AbortController();
    const blocking = this.#one(3);
    const options: StreamOptions = {
      offset,
      length,
      nonblock: !blocking,
      signal: aborter.signal,
      speed: this.#one(3) ? this.#between(1, 20 * MIB) : 0,
      onError: (['report', 'stop', 'ignore', 'enospc'] as const)[this.#between(0, 3)],
      keepBase: this.#one(4),
      allocate: this.#one(6) ? 'full' : 'sparse',
      base:
        this.#one(3) && this.#chain.depth > 2 ? this.#between(1, this.#chain.depth - 1) : undefined,
    };
    const job: Job = { options, blocking, aborter, finals: 0, remaining: Infinity, done: false };
    this.#job = job;
    this.result.jobs++;
    const disk = this.#disk;
    const final = ({ type, detail }: CustomEvent<StreamInfo>): void => {
      job.finals++;
      job.done = true;
      disk.removeEventListener('completed', final);
      disk.removeEventListener('failed', final);
      this.#log(`job ${type} ${JSON.stringify(detail)}`);
      if (this.#job === job) this.#job = undefined;
      void disk.images().then(
        (images) => {
          this.#chain.depth = images.length;
        },
        () => {},
      );
      this.#endedAs(job, disk, detail);
    };
    disk.addEventListener('completed', final);
    disk.addEventListener('failed', final);
    this.#track(
      `stream ${JSON.stringify({ ...options, signal: undefined })}`,
      disk.stream(options),
      () => {},
      () => {},
    );
  }

  #endedAs(job: Job, disk: Disk, info: StreamInfo): void {
    if (info.status === JobStatus.ACTIVE) this.#fails('a job has ended and is still active');
    if (
      info.status === JobStatus.FAILED &&
      info.reason !== 'aborted' &&
      !EXPECTED_FAILURES.test(info.error?.message ?? '')
    ) {
      this.#fails(`a job failed: ${JSON.stringify(info)}`);
    }
    if (info.status === JobStatus.COMPLETED && info.remaining)
      this.#fails(`a job is complete and ${info.remaining} bytes remain`);
    // What the job tells at its end is what the disk tells, but for what guests have brought in
    // since.
    const { offset, length } = info;
    if (
      job.options.base !== undefined ||
      this.#failure ||
      disk !== this.#disk ||
      offset + length > disk.size
    )
      return;
    const alone = [...this.#flights].every((flight) => /stream|abort|flush/.test(flight));
    const key = this.#track(
      'remaining',
      disk.remaining(offset, length),
      (remaining) => {
        if (remaining > info.remaining)
          throw new Error(
            `a job ended with ${info.remaining} bytes remaining, and the disk lacks ${remaining}`,
          );
        const quiet = alone && this.#latest === key;
        if (quiet && remaining !== info.remaining)
          throw new Error(
            `a job ended with ${info.remaining} bytes remaining, and the disk lacks only ${remaining}`,
          );
      },
      () => {},
    );
  }

  #look(job: Job, info: StreamInfo): void {
    if (job.done || info.status !== JobStatus.ACTIVE) return;
    if (info.remaining > job.remaining)
      throw new Error(`remaining went up, from ${job.remaining} to ${info.remaining}`);
    job.remaining = info.remaining;
  }

  #quietly(name: string, promise: Promise<unknown>): void {
    this.#log(name);
    promise.catch((error: MillraceError) => {
      if (error.code !== 'ENOENT') this.#fails(`${name}: ${error.message}`);
    });
  }

  /** Follows a request to its end. */
  #track<T>(
    name: string,
    promise: Promise<T>,
    done: (value: T) => void,
    failed: (error: MillraceError) => void,
  ): string {
    const key = `${++this.#number} ${name}`;
    this.#latest = key;
    this.#log(key);
    this.result.requests++;
    this.#flights.add(key);
    const run = (body: () => void): void => {
      this.#flights.delete(key);
      try {
        body();
      } catch (error) {
        this.#fails(`${name}: ${(error as Error).message}`);
      }
    };
    promise.then(
      (value) =>
        run(() => {
          this.#log(`  ${key}: done`);
          done(value);
        }),
      (error: MillraceError) =>
        run(() => {
          this.#log(`  ${key}: ${error.message}`);
          failed(error);
          if (!EXPECTED_FAILURES.test(error.message) && error.code !== 'ENOENT') throw error;
        }),
    );
    return key;
  }

  #fails(message: string): void {
    this.#log(`FAILS: ${message}`);
    this.#failure ??= new Error(message);
  }

  async #open(): Promise<void> {
    this.#holding = new Holding();
    const holding = this.#holding;
    const opened = this.#runtime;
    opened.plan = (operation, perform) => {
      if (holding !== this.#holding) return new Promise(() => {});
      if (this.#between(0, 999) >= this.#prompt) return holding.plan(operation, perform);
      const error = this.#injectedError(operation.kind);
      if (error) throw error;
      return perform();
    };
    const weather = this.#badWeather;
    this.#badWeather = 0;
    this.#disk = await this.#driven(
      opened.open({
        overlay: this.#chain.overlay,
        followChain: true,
        copyOnRead: !this.#one(8),
        memory: this.#one(3) && this.#shape.cluster < MIB ? 8 * MIB : undefined,
      }),
    );
    this.#badWeather = weather;
  }

  /** Waits for something while letting everything else go on. */
  async #driven<T>(promise: Promise<T>): Promise<T> {
    let settled = false;
    promise.then(
      () => {
        settled = true;
      },
      () => {
        settled = true;
      },
    );
    for (let idle = 0; !settled; ) {
      await turn();
      if (this.#failure) throw this.#failure;
      if (settled) break;
      idle = this.#drive() ? 0 : idle + 1;
      if (idle > IDLE_ROUNDS_MAX) throw new Error(`hung, with ${[...this.#flights].join('; ')}`);
    }
    return promise;
  }

  /** True if anything could be done. */
  #drive(): boolean {
    if (this.#holding.held.length) {
      this.#progress();
      return true;
    }
    const { next } = this.#runtime.clock;
    if (next === undefined) return false;
    this.#runtime.clock.advance(Math.max(0, next - this.#runtime.clock.now()));
    return true;
  }

  /** Lets all requests end; a job is helped along, or ended. */
  async #quiesce(): Promise<void> {
    for (let idle = 0; this.#flights.size || this.#job; ) {
      await turn();
      if (this.#failure) throw this.#failure;
      if (this.#job && (await this.#disk.info()).paused)
        this.#quietly('resume', this.#disk.resume());
      if (this.#job?.options.speed) {
        this.#job.options.speed = 0;
        this.#quietly('set speed', this.#disk.setSpeed(0));
      }
      idle = this.#drive() ? 0 : idle + 1;
      if (idle > IDLE_ROUNDS_MAX)
        throw new Error(
          `hung, with ${[...this.#flights].join('; ')}${this.#job ? `; job ${JSON.stringify(await this.#disk.info())}` : ''}`,
        );
    }
  }

  async #reopen(): Promise<void> {
    this.#log('reopen');
    this.result.reopenings++;
    if (this.#one(2)) await this.#quiesce();
    const begun = this.#model.flushing();
    const closed = await this.#driven(
      this.#disk.close().then(
        () => true,
        () => false,
      ),
    );
    // What was on its way as the disk closed has ended one way or the other.
    for (let round = 0; round < 10; round++) await turn();
    if (this.#failure) throw this.#failure;
    if (this.#flights.size) throw new Error(`closed, with ${[...this.#flights].join('; ')}`);
    if (closed) this.#model.flushed(begun);
    // A resize that the close overtook may have happened or not.
    await this.#restart(!closed || this.#sizes.size > 0);
  }

  /** Drops the disk as it is: of what is held, some may still happen. */
  async #crash(): Promise<void> {
    this.#log('crash');
    this.result.crashes++;
    const { held } = this.#holding;
    this.#holding = new Holding();
    for (const entry of [...held])
      if (entry.operation.kind === 'write' && this.#one(2)) await entry.release();
    this.#flights.clear();
    await this.#restart(true);
  }

  async #restart(crashed: boolean): Promise<void> {
    this.#job = undefined;
    this.#resizing = false;
    const { remote, files } = this.#runtime;
    this.#runtime = new MemoryRuntime();
    this.#runtime.remote = remote;
    for (const [name, file] of files) this.#runtime.files.set(name, file);
    await this.#open();
    this.#chain.depth = (await this.#disk.images()).length;
    if (crashed) await this.#recover();
    else if (this.#disk.size !== this.#model.size)
      throw new Error(`reopened, the disk has ${this.#disk.size} bytes, not ${this.#model.size}`);
  }

  async #recover(): Promise<void> {
    if (this.#disk.size !== this.#model.size && !this.#sizes.has(this.#disk.size))
      throw new Error(
        `after a crash, the disk has ${this.#disk.size} bytes, not ${this.#model.size}`,
      );
    const weather = this.#badWeather;
    this.#badWeather = 0;
    const found = await this.#driven(this.#disk.read(0, this.#disk.size));
    this.#model.recover(found);
    this.#sizes.clear();
    this.#badWeather = weather;
  }

  async #readAll(): Promise<void> {
    const reading = this.#model.read(0, this.#model.size);
    this.#model.found(reading, await this.#driven(this.#disk.read(0, this.#model.size)));
  }

  async #judge(whole: boolean): Promise<void> {
    const dir = await mkdtemp(join(tmpdir(), 'millrace-differential-'));
    try {
      for (const [name, file] of this.#runtime.files) await writeFile(join(dir, name), file.bytes);
      const overlay = join(dir, this.#chain.overlay);
      const model = join(dir, 'model');
      await writeFile(model, this.#model.content());
      const { exitCode, messages } = await check(overlay);
      if (exitCode !== 0) throw new Error(`qemu-img check: ${exitCode}: ${messages}`);
      // A disk that was streamed whole stands alone.
      if (whole)
        for (const name of this.#runtime.files.keys())
          if (name !== this.#chain.overlay) await rm(join(dir, name));
      const { identical, message } = await compare(overlay, model, {
        formatA: 'qcow2',
        formatB: 'raw',
      });
      if (!identical) throw new Error(`qemu-img compare: ${message}`);
    } finally {
      await rm(dir, { recursive: true });
    }
  }

  #between(low: number, high: number): number {
    return this.#random.between(low, Math.floor(high));
  }

  /** True once in `count` times. */
  #one(count: number): boolean {
    return this.#random.between(1, count) === 1;
  }
}
